"""Rows that are in memory, or that a map-style data set gives one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from portable_bp._scalars import positive_int
from portable_bp._typing import HostArray
from portable_bp.errors import DataError

BLOCK_ROWS = 1024
"""Rows of a block unless the user says otherwise."""


def even_blocks(n: int, rows: int) -> list[int]:
    """The sizes of blocks of ``rows`` rows, the last one perhaps smaller.

    >>> even_blocks(10, 4)
    [4, 4, 2]
    """
    return [min(rows, n - start) for start in range(0, n, rows)]


class Arrays:
    """Two arrays as a :class:`Source`, to compare with files or to try a setting out.

    Parameters
    ----------
    X : array of shape (n, columns)
        Of numbers; anything with rows, such as an array of h5py or Zarr.
    y : array of shape (n,) or (n, outputs)
    block_rows : int, default 1024
        Rows of a block.
    window_rows : int, optional
        How many rows are mixed with each other.

    Examples
    --------
    >>> import numpy as np
    >>> source = Arrays(np.zeros((10, 3)), np.arange(10), block_rows=4)
    >>> source.n, source.row_shape, source.blocks
    (10, (3,), [4, 4, 2])
    """

    def __init__(
        self, X: Any, y: Any, block_rows: int = BLOCK_ROWS, window_rows: int | None = None
    ) -> None:
        self._x, self._y, self.n = X, y, int(X.shape[0])
        if len(X.shape) != 2:
            raise ValueError(f"X must have the shape (n, columns), got {tuple(X.shape)}")
        if int(y.shape[0]) != self.n:
            raise ValueError(f"y has {y.shape[0]} row(s), but X has {self.n}")
        self.row_shape, self.dtype = tuple(X.shape[1:]), np.dtype(X.dtype)
        self.target_shape, self.target_dtype = tuple(y.shape[1:]), np.dtype(y.dtype)
        self._rows, self.window_rows = positive_int("block_rows", block_rows), window_rows
        self.blocks = even_blocks(self.n, self._rows)

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
            Its number.
        out_x : array of shape (rows, columns)
        out_y : array of shape (rows,) or (rows, outputs)
        """
        rows = slice(block * self._rows, block * self._rows + len(out_x))
        out_x[...] = self._x[rows]
        out_y[...] = self._y[rows]

    def read_targets(self, block: int, out_y: HostArray) -> None:
        """Fill an array with the targets of one block.

        Parameters
        ----------
        block : int
            Its number.
        out_y : array of shape (rows,) or (rows, outputs)
        """
        out_y[...] = self._y[block * self._rows : block * self._rows + len(out_y)]

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
            ``"X, row 17, column 3"``, counted from 0.
        """
        row += block * self._rows
        return f"y, row {row}" if column is None else f"X, row {row}, column {column}"

    def __repr__(self) -> str:
        return f"<Arrays: {self.n:,} rows of {self.row_shape[0]:,} columns>"


class Dataset:
    """A map-style data set of PyTorch as a :class:`Source`: ``len(dataset)`` and ``dataset[i]``.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        ``dataset[i]`` is a pair of x and y, tensors or arrays or numbers; x is flattened. Where it has
        ``__getitems__`` (a list of items at once), that is used.
    block_rows : int, default 1024
        Rows of a block.
    window_rows : int, optional
        How many rows are mixed with each other.

    Notes
    -----
    The items are fetched by one thread beside the training, never by other processes. Torch itself is
    not imported.

    Examples
    --------
    >>> items = [([0.0, 1.0], 1), ([1.0, 0.0], 0), ([1.0, 1.0], 0)]
    >>> Dataset(items, block_rows=2).blocks
    [2, 1]
    """

    def __init__(
        self, dataset: Any, block_rows: int = BLOCK_ROWS, window_rows: int | None = None
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"dataset must have len() and items by number, got {type(dataset).__name__}; an "
                "iterable data set has no rows to choose from: write it to a file first"
            )
        self._dataset, self.n = dataset, len(dataset)
        if not self.n:
            raise DataError("dataset has no rows")
        x, y = self._item(0, dataset[0])
        self.row_shape, self.dtype = (x.size,), x.dtype
        self.target_shape, self.target_dtype = y.shape, y.dtype
        self._rows, self.window_rows = positive_int("block_rows", block_rows), window_rows
        self.blocks: Sequence[int] = even_blocks(self.n, self._rows)

    def _item(self, number: int, item: Any) -> tuple[HostArray, HostArray]:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"dataset[{number}] must be a pair (x, y), got {type(item).__name__}")
        x, y = (np.asarray(part) for part in item)
        return x.reshape(-1), y

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
            Its number.
        out_x : array of shape (rows, columns)
        out_y : array of shape (rows,) or (rows, outputs)
        """
        first = block * self._rows
        numbers = range(first, first + len(out_x))
        several: Callable[[list[int]], Sequence[Any]] | None
        several = getattr(self._dataset, "__getitems__", None)
        items = several(list(numbers)) if several else map(self._dataset.__getitem__, numbers)
        for row, (number, item) in enumerate(zip(numbers, items, strict=True)):
            x, y = self._item(number, item)
            if x.shape != out_x.shape[1:] or y.shape != out_y.shape[1:]:
                raise DataError(
                    f"dataset[{number}] has {x.size} numbers in x and y of the shape {y.shape}; the "
                    f"first item has {out_x.shape[1]} and {out_y.shape[1:]}"
                )
            out_x[row], out_y[row] = x, y

    def place(self, block: int, row: int, column: int | None = None) -> str:
        """Words that say where a value is.

        Parameters
        ----------
        block, row : int
            The block, and the row in it.
        column : int, optional
            Of x; without one the value is y.

        Returns
        -------
        str
            ``"dataset[17], column 3"``, counted from 0.
        """
        number = block * self._rows + row
        return f"dataset[{number}], y" if column is None else f"dataset[{number}], column {column}"

    def __repr__(self) -> str:
        return f"<Dataset: {self.n:,} rows of {self.row_shape[0]:,} columns>"
