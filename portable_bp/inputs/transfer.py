"""Arrays from anywhere to where the equations run, and back to the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp._typing import Array
from portable_bp.backend import Backend
from portable_bp.backend.registry import owner, resolve
from portable_bp.inputs import checks


def float_name(dtype: Any) -> str:
    """``"float32"`` or ``"float64"`` from a name or a library's dtype object."""
    name = str(dtype).rpartition(".")[2].rstrip("'>")
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
    return name


def dtype_name(array: Any) -> str:
    """The name of an array's dtype, whatever library it is of: ``"float32"``.

    >>> dtype_name(np.zeros(2, ">f4"))
    'float32'
    """
    # NumPy's name of a dtype leaves out the byte order; other libraries have neither.
    return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]


def to_host(values: Any) -> Any:
    """A NumPy copy of an array of a device library; anything else as it is."""
    if owner(values) is None:
        return values
    backend = resolve(None, values)
    with backend.scope():
        return backend.to_numpy(values)


def to_backend(backend: Backend, values: Any, dtype: str, argument: str = "values") -> Array:
    """``values`` on ``backend`` in ``dtype``; as they are when they are there already.

    The result is only read: an array of the user's may come back itself. ``argument``: what errors
    call the values.
    """
    adapter = owner(values)
    if adapter is None:
        values = checks.cast(argument, np.asarray(values), dtype)
        ready = backend.name == "numpy"
    else:
        ready = adapter.spec_of(values) == backend.spec and values.dtype == backend.dtype(dtype)
        if adapter is not type(backend):
            values = to_host(values)
    array: Array = values if ready else backend.asarray(values, dtype)
    return array
