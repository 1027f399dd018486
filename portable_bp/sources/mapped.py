"""A memory map as a source: the rows are read from its file, not through the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.sources.npy import Matrix, Npy


def file_of(array: Any) -> tuple[Path, int] | None:
    """The file of a memory map and where its first row begins; None for any other array.

    Nor is it one for a map whose rows do not follow each other in the file, or whose changes do not
    reach it (mode ``"c"``).
    """
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or array.ndim != 2:
        return None
    base: Any = array
    root = None
    while isinstance(base, np.ndarray):
        root = base if isinstance(base, np.memmap) else root
        base = base.base
    if root is None or root.filename is None or root.mode == "c":
        return None
    if not Path(root.filename).exists():
        return None  # the map holds it, and nothing else does
    # A view that is a memmap too has the offset of the map it was taken of.
    whole = root
    start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return Path(root.filename), root.offset + start


class _InMemory:
    """Targets that are in memory, read as those of a file are."""

    path = "y"

    def __init__(self, y: HostArray) -> None:
        self._y, self.shape, self.dtype = y, y.shape, y.dtype

    def read(self, start: int, out: HostArray) -> None:
        out[...] = self._y[start : start + len(out)].reshape(out.shape)

    def close(self) -> None:
        return


def mapped(X: HostArray, y: HostArray) -> Npy:
    """A memory map and targets in memory as a source.

    Parameters
    ----------
    X : memory map of shape (n, columns)
        One that :func:`file_of` knows.
    y : array of shape (n,) or (n, outputs)

    Returns
    -------
    Npy
    """
    found = file_of(X)
    if found is None:
        raise DataError("X is no memory map whose rows follow each other in its file")
    path, offset = found
    targets: Any = _InMemory(y)
    return Npy([Matrix(path, offset, X.shape, X.dtype)], [targets])
