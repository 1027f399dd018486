"""The files of NumPy: ``.npy`` and ``.npz``."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from portable_bp._typing import HostArray
from portable_bp.tables.limits import CELL_BYTES, COLUMN_BYTES, refuse_growth
from portable_bp.tables.table import DataError, Table, first_line, shown, some


def read_npy(path: Path) -> Table:
    """The table in an ``.npy`` file: a matrix whose columns are called 0, 1, ...

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Table
        Its target is the last column unless another is named.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        array = _Reader(str(path), size).array(file, size, str(path))
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(
            f"{path} holds an array of shape {array.shape}; a table has the shape (rows, columns)"
        )
    columns = _numbered(str(path), size, array)
    note = f"columns are called 0 to {len(columns) - 1}"
    return Table(str(path), columns, [*columns][-1], array.dtype == np.uint8, note)


def read_npz(path: Path) -> Table:
    """The table in an ``.npz`` file: arrays X and y, or one array for each column.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Table
        Its target is y unless another is named.
    """
    arrays = _members(path)
    X, y = arrays.get("X"), arrays.get("y")
    if X is not None and X.ndim == 2 and (y is None or y.shape in ((len(X),), (len(X), 1))):
        others = sorted(arrays.keys() - {"X", "y"})
        note = f"ignored arrays: {some(others)}" if others else ""
        columns = _numbered(str(path), path.stat().st_size, X)
        if y is None:
            return Table(str(path), columns, None, X.dtype == np.uint8, note)
        target = {"y": y.reshape(-1)}
        return Table(str(path), columns | target, "y", X.dtype == np.uint8, note)
    if {array.ndim for array in arrays.values()} != {1} or len({*map(len, arrays.values())}) > 1:
        shapes = some((f"{name}: {a.shape}" for name, a in arrays.items()), 8).replace('"', "")
        raise DataError(
            f"{path} holds arrays of the shapes {shapes}; expected X (rows, columns) and y (rows,), "
            "or one array for each column, all of one length"
        )
    return Table(str(path), arrays)


def _members(path: Path) -> dict[str, HostArray]:
    """The arrays of an ``.npz`` file by their names."""
    arrays: dict[str, HostArray] = {}
    reader = _Reader(str(path), path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            refuse_growth(str(path), reader.stored, sum(member.file_size for member in members))
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise DataError(f"{path}: two arrays are called {shown(name)}; rename one")
                with archive.open(member) as stream:
                    what = f"{path}, array {shown(name)}"
                    arrays[name] = reader.array(stream, member.file_size, what)
    except DataError:
        raise
    except Exception as error:  # a damaged archive raises a dozen kinds
        raise DataError(f"{path} is not a valid .npz file: {first_line(error)}") from error
    return arrays


def _numbered(source: str, stored: int, matrix: HostArray) -> dict[str, HostArray]:
    """The columns of a matrix, called 0, 1, ..."""
    rows, columns = matrix.shape
    if not rows:
        raise DataError(f"{source} has no rows")
    refuse_growth(source, stored, columns * (COLUMN_BYTES + rows * matrix.itemsize))
    return {str(j): matrix[:, j] for j in range(columns)}


class _Reader:
    """Reads the arrays of one file, and adds up the memory that they take."""

    def __init__(self, source: str, stored: int) -> None:
        self.source, self.stored, self.decoded = source, stored, 0

    def array(self, stream: IO[bytes], size: int, what: str) -> HostArray:
        """The array in ``.npy`` form that fills ``size`` bytes, checked before memory is taken."""
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        try:
            shape, _, dtype = readers[npy.read_magic(stream)](stream)
        except Exception as error:  # whatever a header may raise when it is parsed
            raise DataError(f"{what} is not a valid .npy array") from error
        if dtype.hasobject:
            raise DataError(
                f"{what} holds Python objects, and reading them could run code; save numbers or text"
            )
        if dtype.kind not in "biufU":
            raise DataError(f"{what} holds {dtype}, neither numbers nor text")
        entries = math.prod(shape)
        promised, there = entries * dtype.itemsize, size - stream.tell()
        if min(shape, default=0) < 0 or promised != there:
            raise DataError(
                f"{what}: its header promises the shape {shape}, {promised:,} bytes, but {there:,} "
                "bytes are there; it is cut short or damaged"
            )
        # Text becomes Python objects: an entry of no bytes takes memory, too.
        self.decoded += promised + (CELL_BYTES * entries if dtype.kind == "U" else 0)
        refuse_growth(self.source, self.stored, self.decoded)
        stream.seek(0)
        array: HostArray = npy.read_array(stream, allow_pickle=False)
        return array.astype(object) if dtype.kind == "U" else array
