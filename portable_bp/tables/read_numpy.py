"""The files of NumPy: ``.npy`` and ``.npz``."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from portable_bp._typing import HostArray
from portable_bp.tables.limits import refuse_growth
from portable_bp.tables.table import DataError, Table, first_line, some


def read_npy(path: Path) -> Table:
    with open(path, "rb") as file:
        array = _array(file, path.stat().st_size, str(path))
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(
            f"{path} holds an array of shape {array.shape}; a table has the shape (rows, columns)"
        )
    columns = _numbered(array)
    note = f"columns are called 0 to {len(columns) - 1}"
    return Table(str(path), columns, [*columns][-1], array.dtype == np.uint8, note)


def read_npz(path: Path) -> Table:
    arrays: dict[str, HostArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            refuse_growth(path, sum(member.file_size for member in members))
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    arrays[name] = _array(stream, member.file_size, f"{path}, array {name!r}")
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise DataError(f"{path} is no .npz file, or damaged: {first_line(error)}") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    X, y = arrays.get("X"), arrays.get("y")
    if X is not None and X.ndim == 2 and (y is None or y.shape in ((len(X),), (len(X), 1))):
        others = sorted(arrays.keys() - {"X", "y"})
        note = f"arrays that are left out: {some(others)}" if others else ""
        columns = _numbered(X)
        if y is None:
            return Table(str(path), columns, None, X.dtype == np.uint8, note)
        target = {"y": y.reshape(-1)}
        return Table(str(path), columns | target, "y", X.dtype == np.uint8, note)
    if {array.ndim for array in arrays.values()} != {1} or len(set(shapes.values())) > 1:
        raise DataError(
            f"{path} holds arrays of the shapes {shapes}; needed are X (rows, columns) and y "
            "(rows,), or one array for each column, all of one length"
        )
    return Table(str(path), arrays)


def _numbered(matrix: HostArray) -> dict[str, HostArray]:
    return {str(j): matrix[:, j] for j in range(matrix.shape[1])}


def _array(stream: IO[bytes], size: int, what: str) -> HostArray:
    """The array in ``.npy`` form that fills ``size`` bytes, checked before memory is taken."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, _, dtype = readers[npy.read_magic(stream)](stream)
    except Exception as error:  # whatever a header may raise when it is parsed
        raise DataError(f"{what} is not in the .npy format, or damaged") from error
    if dtype.hasobject:
        raise DataError(
            f"{what} holds Python objects, and reading them could run code; save numbers or text"
        )
    if dtype.kind not in "biufU":
        raise DataError(f"{what} holds {dtype}, neither numbers nor text")
    promised, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or promised != there:
        raise DataError(
            f"{what}: its header promises the shape {shape}, {promised:,} bytes, and {there:,} are "
            "there; it is cut short or damaged"
        )
    stream.seek(0)
    array: HostArray = npy.read_array(stream, allow_pickle=False)
    return array.astype(object) if dtype.kind == "U" else array
