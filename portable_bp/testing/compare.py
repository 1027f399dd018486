"""Comparing arrays of any backend with NumPy's: library, device, dtype and shape, then numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from portable_bp._typing import HostArray, Tree
from portable_bp.backend import Backend, leaves
from portable_bp.testing.problems import on_host
from portable_bp.testing.report import Row
from portable_bp.testing.tolerances import ROUNDOFF


def kind_errors(backend: Backend, got: Tree, want: Tree, dtype: str) -> Iterator[str]:
    """What is wrong with the library, device, dtype or shape of the arrays in ``got``."""
    arrays, models = list(leaves(got)), list(leaves(want))
    if len(arrays) != len(models):
        yield f"{len(arrays)} arrays instead of {len(models)}"
        return
    for a, w in zip(arrays, models, strict=True):
        library = type(a).__module__.partition(".")[0]
        if library not in type(backend).modules:
            yield f"an array of {library} instead of {backend.name}"
        elif type(backend).spec_of(a) != backend.spec:
            yield f"on {type(backend).spec_of(a)} instead of {backend.spec}"
        elif a.dtype != backend.dtype(dtype):
            yield f"dtype {a.dtype} instead of {dtype}"
        elif tuple(a.shape) != tuple(np.shape(w)):
            yield f"shape {tuple(a.shape)} instead of {np.shape(w)}"


def norm(arrays: Sequence[HostArray]) -> float:
    """The Euclidean norm of all entries together; they are scaled first, so nothing overflows."""
    largest = max((float(np.max(np.abs(a))) for a in arrays if a.size), default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(sum(float(np.sum((a / largest) ** 2)) for a in arrays))


def compare(
    what: str,
    case: str,
    backend: Backend,
    got: Tree,
    want: Tree,
    tolerance: float,
    *,
    dtype: str,
    mode: str = "",
    scale: Tree = None,
    unit: str = "",
) -> Row:
    """A row for arrays on ``where`` against NumPy's ``want``.

    The error is ``||got - want|| / ||want||`` over all arrays together; with ``scale`` it is the
    largest ``|got - want| / scale`` of any entry.
    """
    wrong = next(kind_errors(backend, got, want, dtype), "")
    row = partial(Row, what, case, dtype, mode)
    if wrong:
        return row(math.inf, tolerance, wrong)
    arrays: list[HostArray] = list(leaves(on_host(backend, got)))  # type: ignore[arg-type]
    exact: list[HostArray] = [np.asarray(w, dtype=np.float64) for w in leaves(want)]
    u = ROUNDOFF[unit or dtype]
    if not all(np.isfinite(f).all() for f in arrays):
        return row(math.inf, tolerance, "numbers that are not finite")
    gaps = [f - e for f, e in zip(arrays, exact, strict=True)]
    if scale is None:
        size, off = norm(exact), norm(gaps)
        error = 0.0 if off == 0 else off / size / u if size else math.inf
    else:
        scales: list[Any] = list(leaves(scale))
        off = max(float(np.max(np.abs(g) / s)) for g, s in zip(gaps, scales, strict=True))
        error = off / u
    return row(error, tolerance)


def same_bits(
    what: str,
    case: str,
    got: Sequence[Any],
    want: Sequence[Any],
    *,
    dtype: str = "",
    mode: str = "",
) -> Row:
    """A row that asks for identical NumPy arrays; the error is how many entries differ."""
    differ = sum(
        int(np.sum(g != w)) if np.shape(g) == np.shape(w) else max(np.size(g), np.size(w))
        for g, w in zip(got, want, strict=True)
    )
    return Row(what, case, dtype, mode, float(differ), 0.0)
