"""What users hand in, checked wherever it lives: the host's data first, then a device's by one read.

Wrong labels never cost work on a device, and a device is asked once whether everything on it is in
order. Inside a compiler arrays have no values: there only shapes and kinds are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import owner, resolve
from portable_bp.inputs import checks

if TYPE_CHECKING:
    from portable_bp.mlp import MLP

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


def check(net: MLP, backend: Backend, name: str, *given: Rows) -> list[Rows]:
    """Check rows for a network that computes on ``backend`` in the dtype ``name``.

    Parameters
    ----------
    given : what the user calls X, y and sample_weight (or None), and perhaps the same for validation

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what is wrong with it and what to do.
    """
    there = [
        Rows(*(_near(backend, f"{p}{a}", v) for a, v in zip(_ARGUMENTS, rows, strict=True)))
        for rows, p in zip(given, NAMES, strict=False)
    ]
    known = [_without_reading(net, name, r, p) for r, p in zip(there, NAMES, strict=False)]
    features = [r.x for r in known if _on_device(backend, r.x)]
    others = [a for r in known for a in (r.y, r.w) if _on_device(backend, a)]
    sound, copies = _read(backend, name, features, others)
    if not sound:
        for rows, prefix in zip(known, NAMES, strict=False):
            _complain(backend, name, rows.x, f"{prefix}X")
    copy = iter(copies)
    checked = []
    for (x, y, w), prefix in zip(known, NAMES, strict=False):
        n = x.shape[0]
        if _on_device(backend, y):
            y = targets(net, next(copy), n, name, f"{prefix}y")
        if _on_device(backend, w):
            w = checks.sample_weight(next(copy), n, f"{prefix}sample_weight")
        checked.append(Rows(x, y, _scaled(w) if isinstance(w, np.ndarray) else w))
    return checked


def features(net: MLP, x: Any, name: str = "X") -> Any:
    """Features as an array of shape (n, inputs); the values are still to be checked."""
    if owner(x) is None:
        x = checks.host_array(name, x)
    else:
        _real(x, name)
    checks.matrix(name, tuple(x.shape), net.sizes[0])
    return x


def finite_features(backend: Backend, name: str, x: Any) -> None:
    """Check the values of features: on the host, or with one read of the device."""
    if owner(x) is None:
        checks.finite("X", x)
    elif _on_device(backend, x) and not _read(backend, name, [x], [])[0]:
        _complain(backend, name, x, "X")


def targets(net: MLP, y: HostArray, n: int, dtype: str, name: str = "y") -> HostArray:
    """Targets on the host: class labels as int64, shape (n,), anything else as (n, k).

    ``dtype``: what the network computes in; ``name``: what errors call the targets.
    """
    k, classes = net.sizes[-1], net.loss.target == "class"
    checks.target_shape(name, y.shape, n, k, classes)
    if classes and y.ndim == 1:
        return checks.labels(name, y, k)
    y = y if y.ndim == 2 else y[:, None]
    checks.target_values(name, y, net.loss.target)
    checks.fits(name, y, dtype)
    return y


def _near(backend: Backend, name: str, array: Any) -> Any:
    """What lives on another device than ``backend``'s comes to the host; the rest stays."""
    checks.dense(name, array)
    adapter = owner(array)
    if adapter is None or backend.traced(array) or adapter.of(array) == backend.spec:
        return array
    there = resolve(None, array)
    with there.scope():
        return there.to_numpy(array)


def _without_reading(net: MLP, name: str, given: Rows, prefix: str) -> Rows:
    """All checks but those of values that a device holds."""
    x, y, w = given
    x = features(net, x, f"{prefix}X")
    n = x.shape[0]
    if owner(y) is None:
        y = targets(net, checks.host_array(f"{prefix}y", y), n, name, f"{prefix}y")
    else:
        _real(y, f"{prefix}y")
        k, classes = net.sizes[-1], net.loss.target == "class"
        checks.target_shape(f"{prefix}y", tuple(y.shape), n, k, classes)
    if w is not None and owner(w) is None:
        w = checks.sample_weight(w, n, f"{prefix}sample_weight")
    elif w is not None:
        _real(w, f"{prefix}sample_weight")
        checks.one_each(f"{prefix}sample_weight", tuple(w.shape), n)
    if owner(x) is None:
        checks.finite(f"{prefix}X", x)
    return Rows(x, y, w)


def _on_device(backend: Backend, array: Any) -> bool:
    """Whether it is a device's array with values to look at."""
    return array is not None and owner(array) is not None and not backend.traced(array)


def _real(array: Array, name: str) -> None:
    checks.dense(name, array)
    if "complex" in str(array.dtype):
        raise ValueError(f"{name} is complex; only real numbers can be learnt from")


def _read(
    backend: Backend, name: str, features: Sequence[Array], others: Sequence[Array]
) -> tuple[bool, list[HostArray]]:
    """Whether all features are finite and exact in the dtype ``name``, and host copies of ``others``.

    Everything travels in one array: one read of the device, however much there is to look at.
    """
    xp = backend.xp
    flags = [flag for x in features for flag in _flags(backend, x, name)]
    if not flags and not others:
        return True, []
    narrow = all(_word(a) in _NARROW for a in others)
    dtype = backend.dtype("float32" if narrow else _widest(backend))
    parts = [xp.reshape(xp.astype(a, dtype), (-1,)) for a in (*flags, *others)]
    packed = backend.to_numpy(xp.concat(parts))
    cuts = np.cumsum([len(flags), *(math.prod(a.shape) for a in others)])
    copies = [
        packed[start:stop].reshape(tuple(a.shape))
        for a, (start, stop) in zip(others, pairwise(cuts), strict=True)
    ]
    return bool(packed[: len(flags)].all()), copies


def _flags(backend: Backend, x: Array, name: str) -> Iterator[Array]:
    """0-d arrays that are true when ``x`` is in order; false asks for a closer look."""
    xp = backend.xp
    dtype = backend.dtype(name)
    if xp.isdtype(x.dtype, "real floating"):
        # What is too large for the dtype becomes infinite.
        yield xp.all(xp.isfinite(x if _word(x) in _NARROW else xp.astype(x, dtype, copy=False)))
    elif not xp.isdtype(x.dtype, "bool") and np.iinfo(_word(x)).max > EXACT[name]:
        # Compared as floats: PyTorch compares no unsigned integers.
        yield xp.all(xp.abs(xp.astype(x, dtype)) < EXACT[name])


def _complain(backend: Backend, name: str, x: Any, argument: str) -> None:
    """Say what is wrong with features whose flags were not all true."""
    if not _on_device(backend, x):
        return
    if _word(x) == "bfloat16":  # NumPy has no such type
        x = backend.xp.astype(x, backend.dtype("float32"))
    on_host = backend.to_numpy(x)
    checks.finite(argument, on_host)
    checks.cast(argument, on_host, name)


def _scaled(weights: HostArray) -> HostArray:
    """The same weights with the largest in [1/2, 1): only ratios count, and no sum overflows.

    A power of two changes no digit.
    """
    scaled: HostArray = np.ldexp(weights, -np.frexp(weights.max())[1])
    return scaled


def _word(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]


def _widest(backend: Backend) -> str:
    try:
        backend.dtype("float64")
    except TypeError:
        return "float32"
    return "float64"
