"""Rows of ``.npy`` files, read by ``preadv``: a file that shrinks is an error, and no more."""

from __future__ import annotations

import builtins
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from portable_bp._typing import HostArray
from portable_bp.errors import DataError

BLOCK_BYTES = 2**18
"""About what a block takes: enough for a disk to read it at full speed, wherever it lies."""

OPEN_FILES = 16
"""So many files are open at a time."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Matrix:
    """Rows of one array in a file, in C order.

    Parameters
    ----------
    path : path
        The file.
    offset : int
        Where the first row begins.
    shape : tuple of int
    dtype : dtype
    """

    def __init__(
        self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype
        self.row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._file: _Descriptor | None = None
        self.check_size()

    @classmethod
    def of(cls, path: Path) -> Matrix:
        """The array of an ``.npy`` file; its header is read, nothing else."""
        try:
            with builtins.open(path, "rb") as file:
                header = _HEADERS[npy.read_magic(file)]
                shape, fortran, dtype = header(file)
                offset = file.tell()
        except OSError as error:
            raise DataError(f"{path} cannot be opened: {error.strerror or error}") from error
        except Exception as error:  # whatever a header may raise when it is parsed
            raise DataError(f"{path} is not a valid .npy file") from error
        if dtype.kind not in "biuf":
            what = "Python objects" if dtype.hasobject else str(dtype)
            raise DataError(f"{path} holds {what}; a source holds numbers")
        if fortran and len(shape) > 1:
            raise DataError(
                f"{path} is stored column by column (Fortran order), so that no row can be read by "
                "itself; store it with numpy.ascontiguousarray first"
            )
        if not shape or len(shape) > 2 or 0 in shape:
            raise DataError(
                f"{path} holds an array of shape {shape}; a source has the shape (rows, columns) or "
                "(rows,), and at least one row"
            )
        return cls(path, offset, shape, dtype)

    def check_size(self) -> None:
        """Raise unless the file has all rows that its header promises."""
        size, wanted = self.path.stat().st_size, self.offset + self.nbytes
        if size < wanted:
            raise DataError(
                f"{self.path} ends after {size:,} bytes, and its {self.shape[0]:,} rows take "
                f"{wanted:,}: the file is not complete"
            )

    @property
    def nbytes(self) -> int:
        """What all rows take."""
        return self.shape[0] * self.row_bytes

    def read(self, start: int, out: HostArray) -> None:
        """Fill ``out``, of the dtype of the file in native byte order, with rows from ``start`` on."""
        native = self.dtype.isnative
        raw = out if native and out.flags.c_contiguous else np.empty(out.shape, self.dtype)
        view = memoryview(raw.reshape(-1).view(np.uint8).data)
        position, done = self.offset + start * self.row_bytes, 0
        while done < len(view):
            count = self._fill(view[done:], position + done)
            if not count:
                raise DataError(
                    f"{self.path} ends after {position + done:,} bytes, in row "
                    f"{start + done // self.row_bytes:,} of {self.shape[0]:,}: the file was cut "
                    "short while it was read"
                )
            done += count
        if raw is not out:
            out[...] = raw

    def _fill(self, view: memoryview, position: int) -> int:
        if self._file is None:
            self._file = _opened(self.path)
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._file.fd, [view], position)
            os.lseek(self._file.fd, position, os.SEEK_SET)  # Windows
            data = os.read(self._file.fd, len(view))
            view[: len(data)] = data
            return len(data)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}


class _Descriptor:
    """An open file, closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.fd)


def _opened(path: Path) -> _Descriptor:
    try:
        return _Descriptor(path)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}") from error


class Npy:
    """Rows of ``.npy`` files: a :class:`Source`; :func:`open` makes one.

    Parameters
    ----------
    features : sequence of Matrix
        Files with the same columns, one under the other.
    targets : sequence of Matrix, optional
        A file of targets for each; without them the target is ``target``, a column of the features.
    target : int, optional
        The column of the features that is the target.
    columns : sequence of int, optional
        The columns of X; by default all but the target.
    block_rows : int, optional
        Rows of a block; by default as many as take 256 KiB.
    window_rows : int, optional
        How many rows are mixed with each other.
    learnt : bool, default True
        Whether there is a target.
    """

    feature_names: tuple[str, ...] | None = None
    classes: HostArray | None = None

    def __init__(
        self,
        features: Sequence[Matrix],
        targets: Sequence[Matrix] | None = None,
        *,
        target: int | None = None,
        columns: Sequence[int] | None = None,
        block_rows: int | None = None,
        window_rows: int | None = None,
        learnt: bool = True,
    ) -> None:
        self._x, self._y, self._target = list(features), targets and list(targets), target
        self.window_rows = window_rows
        self._open: dict[int, None] = {}
        first = self._x[0]
        stored = first.shape[1] if len(first.shape) == 2 else 1
        wanted = [c for c in range(stored) if c != target] if columns is None else list(columns)
        whole = wanted == list(range(stored))
        self._columns = None if whole else wanted
        adjacent = wanted == list(range(wanted[0], wanted[0] + len(wanted))) if wanted else False
        self._taken: Any = slice(wanted[0], wanted[0] + len(wanted)) if adjacent else wanted
        self.row_shape = (len(wanted),)
        self.dtype = first.dtype.newbyteorder("=")
        source = first if self._y is None else self._y[0]
        self.target_shape = () if self._y is None else source.shape[1:]
        if self.target_shape == (1,):
            self.target_shape = ()
        if not learnt:
            self.target_shape = (0,)
        self.target_dtype = source.dtype.newbyteorder("=")
        rows = block_rows or max(1, BLOCK_BYTES // first.row_bytes)
        self._places: list[tuple[int, int]] = []  # the file and the first row of each block
        self.blocks: list[int] = []
        for number, matrix in enumerate(self._x):
            n = matrix.shape[0]
            starts = range(0, n, rows)
            self._places += [(number, start) for start in starts]
            self.blocks += [min(rows, n - start) for start in starts]
        self.n = sum(m.shape[0] for m in self._x)

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
            Its number.
        out_x : array of shape (rows, columns)
        out_y : array of shape (rows,) or (rows, outputs)
        """
        number, start = self._places[block]
        self._keep_open(number)
        matrix = self._x[number]
        if self._columns is None:
            matrix.read(start, out_x)
        else:
            stored = np.empty((len(out_x), matrix.shape[1]), self.dtype)
            matrix.read(start, stored)
            out_x[...] = stored[:, self._taken]
            if self._target is not None:
                out_y[...] = stored[:, self._target]
        if self._y is not None:
            self._y[number].read(start, out_y)

    @property
    def read_targets(self) -> Callable[[int, HostArray], None] | None:
        """Reads y alone, where it has files of its own."""
        return None if self._y is None else self._read_targets

    def _keep_open(self, number: int) -> None:
        """Close the file that has not been read for the longest time, where many are open."""
        self._open.pop(number, None)
        self._open[number] = None
        if len(self._open) > OPEN_FILES:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._x[oldest].close()
            if self._y is not None:
                self._y[oldest].close()

    def _read_targets(self, block: int, out_y: HostArray) -> None:
        number, start = self._places[block]
        self._keep_open(number)
        assert self._y is not None
        self._y[number].read(start, out_y)

    def place(self, block: int, row: int, column: int | None = None) -> str:
        """Words that say where a value is.

        Parameters
        ----------
        block, row : int
            The block, and the row in it.
        column : int, optional
            Of X; without one the value is a target.

        Returns
        -------
        str
            ``"x.npy, row 17, column 3"``, counted from 0.
        """
        number, start = self._places[block]
        if column is None and self._y is not None:
            return f"{self._y[number].path}, row {start + row}"
        stored = self._target if column is None else column
        if column is not None and self._columns is not None:
            stored = self._columns[column]
        return f"{self._x[number].path}, row {start + row}, column {stored}"

    def __repr__(self) -> str:
        files = str(self._x[0].path) if len(self._x) == 1 else f"{len(self._x)} files"
        return f"<Npy {files}: {self.n:,} rows of {self.row_shape[0]:,} columns>"
