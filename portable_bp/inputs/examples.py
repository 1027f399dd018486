"""What users hand in, checked wherever it lives: the host's data first, then a device's by one read.

Wrong labels never cost work on a device, and a device is asked once whether everything on it is in
order. Inside a compiler arrays have no values: there only shapes and kinds are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import owner
from portable_bp.equations import losses
from portable_bp.inputs import arrays, checks, containers, labels, names
from portable_bp.inputs.spec import NetSpec
from portable_bp.inputs.transfer import dtype_name, to_backend, to_host

NAMES = ("", "validation ")
"""What stands before X, y and sample_weight in the errors of the first and the second set of rows."""

_ARGUMENTS = ("X", "y", "sample_weight")

EXACT = {"float32": 2**24, "float64": 2**53}
"""Integers up to this are exact."""

_NARROW = ("bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "float32")
"""What float32 holds exactly."""


class Rows(NamedTuple):
    """Rows to learn from or to be judged by: X, y and sample_weight.

    Checked ones hold x where it lives, and on the host y (class labels as int64, shape (n,), anything
    else as (n, k)) and w (float64, shape (n,), the largest in [1/2, 1)). What a compiler traces stays
    as it is.
    """

    x: Any
    y: Any
    w: Any = None


def learn(spec: NetSpec, X: Any, y: Any) -> NetSpec:
    """``spec`` with the labels and the names of features that stand in these rows."""
    for name, values in (("X", X), ("y", y)):
        containers.refuse_no_array(name, values)
        if not containers.is_sparse(values):  # a device library's is refused before it is placed
            containers.refuse_sparse(name, values)
    return replace(spec, classes=labels.learn(spec, y), features=names.of(X))


def check(
    spec: NetSpec,
    backend: Backend,
    dtype: str,
    *sets: Rows,
    sparse: bool = False,
    prefixes: Sequence[str] = NAMES,
) -> list[Rows]:
    """Check rows for a network that computes on ``backend`` in ``dtype``.

    Parameters
    ----------
    spec : NetSpec
    backend : Backend
    dtype : str
    *sets : Rows
        What the user calls X, y and sample_weight (or None), and perhaps the same for validation.
    sparse : bool
        Whether X may be a sparse matrix of SciPy.
    prefixes : sequence of str
        What stands before X, y and sample_weight in the errors of each set.

    Returns
    -------
    list of Rows
        The same rows, checked.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what is wrong with it and what to do.
    """
    there = [
        _all_to_host_if_foreign(backend, *r, sparse) for r in zip(sets, prefixes, strict=False)
    ]
    known = [
        _without_reading(spec, dtype, r, p, sparse) for r, p in zip(there, prefixes, strict=False)
    ]
    features = [r.x for r in known if _on_device(backend, r.x)]
    others = [a for r in known for a in (r.y, r.w) if _on_device(backend, a)]
    sound, copies = _read(backend, dtype, features, others)
    if not sound:
        for rows, prefix in zip(known, prefixes, strict=False):
            _raise_invalid(backend, dtype, rows.x, f"{prefix}X")
    copy = iter(copies)
    checked = []
    for (x, y, w), prefix in zip(known, prefixes, strict=False):
        n = x.shape[0]
        if _on_device(backend, y):
            values = next(copy)
            if not backend.xp.isdtype(y.dtype, "real floating"):
                values = values.astype(np.int64)
            y = targets(spec, values, n, dtype, f"{prefix}y")
        if _on_device(backend, w):
            w = checks.sample_weight(next(copy), n, f"{prefix}sample_weight")
        checked.append(Rows(x, y, _scaled(w) if isinstance(w, np.ndarray) else w))
    return checked


def features(spec: NetSpec, x: Any, name: str = "X", *, sparse: bool = False) -> Any:
    """Features as an array of shape (n, inputs); the values are still to be checked.

    ``sparse``: whether they may be a sparse matrix of SciPy; the values of one are checked here.
    """
    names.check(spec.features, x, name)
    if sparse and containers.is_sparse(x):
        x = arrays.sparse_rows(name, x)
    elif owner(x) is None:
        x = arrays.numbers(name, x)
    else:
        _real(x, name)
    checks.matrix(name, tuple(x.shape), spec.inputs)
    return x


def finite_features(backend: Backend, dtype: str, x: Any) -> None:
    """Check the values of features: on the host, or with one read of the device."""
    if owner(x) is None:
        checks.finite("X", x)
    elif _on_device(backend, x) and not _read(backend, dtype, [x], [])[0]:
        _raise_invalid(backend, dtype, x, "X")


def targets(spec: NetSpec, y: Any, n: int, dtype: str, name: str = "y") -> HostArray:
    """Targets on the host: class labels as int64, shape (n,), anything else as (n, k).

    ``dtype``: what the network computes in; ``name``: what errors call the targets.
    """
    y = labels.to_numbers(spec, name, y)
    k, classes = spec.outputs, spec.target == "class"
    checks.target_shape(name, y.shape, n, k, classes)
    if classes and y.ndim == 1:
        return checks.labels(name, y, k)
    columns: HostArray = y if y.ndim == 2 else y[:, None]
    checks.target_values(name, columns, spec.target, spec.loss)
    checks.fits(name, columns, dtype)
    return columns


def place_targets(spec: NetSpec, backend: Backend, y: Any, dtype: str) -> Array:
    """Checked targets on ``backend`` as (n, k): class labels become one-hot rows."""
    if spec.target == "class" and y.ndim == 1:
        labels = to_backend(backend, y, backend.index_dtype)
        row = backend.asarray(np.arange(spec.outputs), dtype=backend.index_dtype)
        return losses.one_hot(labels, row, backend.dtype(dtype), xp=backend.xp)
    t = to_backend(backend, y, dtype, "y")
    return backend.xp.expand_dims(t, axis=1) if t.ndim == 1 else t


def _all_to_host_if_foreign(backend: Backend, rows: Rows, prefix: str, sparse: bool) -> Rows:
    x, *others = (
        v if a == "X" and sparse and containers.is_sparse(v)
        else _to_host_if_foreign(backend, prefix + a, v)
        for a, v in zip(_ARGUMENTS, rows, strict=True)
    )  # fmt: skip
    return Rows(x, *others)


def _to_host_if_foreign(backend: Backend, name: str, array: Any) -> Any:
    """What lives on another device than ``backend``'s comes to the host; the rest stays."""
    containers.refuse_sparse(name, array)
    adapter = owner(array)
    if adapter is None or backend.traced(array) or adapter.spec_of(array) == backend.spec:
        return array
    return to_host(array)


def _without_reading(spec: NetSpec, dtype: str, rows: Rows, prefix: str, sparse: bool) -> Rows:
    """All checks but those of values that a device holds."""
    x, y, w = rows
    x = features(spec, x, f"{prefix}X", sparse=sparse)
    n = x.shape[0]
    if owner(y) is None:
        y = targets(spec, y, n, dtype, f"{prefix}y")
    else:
        _real(y, f"{prefix}y")
        k, classes = spec.outputs, spec.target == "class"
        checks.target_shape(f"{prefix}y", tuple(y.shape), n, k, classes)
    if w is not None and owner(w) is None:
        weights = arrays.numbers(f"{prefix}sample_weight", w)
        w = checks.sample_weight(weights, n, f"{prefix}sample_weight")
    elif w is not None:
        _real(w, f"{prefix}sample_weight")
        checks.one_each(f"{prefix}sample_weight", tuple(w.shape), n)
    if isinstance(x, np.ndarray):
        checks.finite(f"{prefix}X", x)
    return Rows(x, y, w)


def _on_device(backend: Backend, array: Any) -> bool:
    """Whether it is a device's array with values to look at."""
    return array is not None and owner(array) is not None and not backend.traced(array)


def _real(array: Array, name: str) -> None:
    containers.refuse_sparse(name, array)
    if "complex" in str(array.dtype):
        raise ValueError(f"Complex data not supported: {name} has the dtype {dtype_name(array)}")


def _read(
    backend: Backend, dtype: str, features: Sequence[Array], others: Sequence[Array]
) -> tuple[bool, list[HostArray]]:
    """Whether all features are finite and exact in ``dtype``, and host copies of ``others``.

    Everything travels in one array: one read of the device, however much there is to look at.
    """
    xp = backend.xp
    flags = [flag for x in features for flag in _flags(backend, x, dtype)]
    if not flags and not others:
        return True, []
    narrow = all(dtype_name(a) in _NARROW for a in others)
    carrier = backend.dtype("float32" if narrow else _widest(backend))
    parts = [xp.reshape(xp.astype(a, carrier), (-1,)) for a in (*flags, *others)]
    packed = backend.to_numpy(xp.concat(parts))
    cuts = np.cumsum([len(flags), *(math.prod(a.shape) for a in others)])
    copies = [
        packed[start:stop].reshape(tuple(a.shape))
        for a, (start, stop) in zip(others, pairwise(cuts), strict=True)
    ]
    return bool(packed[: len(flags)].all()), copies


def _flags(backend: Backend, x: Array, dtype: str) -> Iterator[Array]:
    """0-d arrays that are true when ``x`` is in order; false asks for a closer look."""
    xp = backend.xp
    target = backend.dtype(dtype)
    if xp.isdtype(x.dtype, "real floating"):
        # What is too large for the dtype becomes infinite.
        yield xp.all(
            xp.isfinite(x if dtype_name(x) in _NARROW else xp.astype(x, target, copy=False))
        )
    elif not xp.isdtype(x.dtype, "bool") and np.iinfo(dtype_name(x)).max > EXACT[dtype]:
        # Compared as floats: PyTorch compares no unsigned integers.
        yield xp.all(xp.abs(xp.astype(x, target)) < EXACT[dtype])


def _raise_invalid(backend: Backend, dtype: str, x: Any, argument: str) -> None:
    """Say what is wrong with features whose flags were not all true."""
    if not _on_device(backend, x):
        return
    if dtype_name(x) == "bfloat16":  # NumPy has no such type
        x = backend.xp.astype(x, backend.dtype("float32"))
    host = backend.to_numpy(x)
    checks.finite(argument, host)
    checks.cast(argument, host, dtype)


def sample_weight(values: Any, n: int) -> HostArray:
    """Weights from anywhere on the host, checked, as :func:`check` gives them."""
    numbers = arrays.numbers("sample_weight", to_host(values))
    return _scaled(checks.sample_weight(numbers, n))


def _scaled(weights: HostArray) -> HostArray:
    """The same weights with the largest in [1/2, 1): only ratios count, and no sum overflows.

    A power of two changes no digit.
    """
    scaled: HostArray = np.ldexp(weights, -np.frexp(weights.max())[1])
    return scaled


def _widest(backend: Backend) -> str:
    """What ``backend.widest_float`` says, without the array that it makes on the device."""
    try:
        backend.dtype("float64")
    except TypeError:
        return "float32"
    return "float64"
