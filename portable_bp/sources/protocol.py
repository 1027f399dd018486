"""What ``fit`` asks of rows that stay where they are: how many there are, and a block of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from portable_bp._scalars import shown
from portable_bp._typing import HostArray


@runtime_checkable
class Source(Protocol):
    """Rows that are read block by block: what :func:`portable_bp.fit` takes in place of X and y.

    Any object with these five will do. It may have more, all of it optional:

    ``target_shape`` (a tuple) and ``target_dtype`` (a str)
        The form of y: ``()``, one number a row, by default, or ``(k,)``; ``"float64"`` by default.
    ``feature_names`` (a tuple of str), ``classes`` (an array of str or bool)
        The names of the columns of X; the labels that the class numbers 0, 1, ... in y stand for.
    ``window_rows`` (an int)
        How many rows are mixed with each other; by default as many as take 64 MiB.
    ``place(block, row, column=None)``
        Words that say where a value is, for errors; row and column are counted from 0.
    ``read_targets(block, out_y)``
        y alone, where that is quicker.

    A block is read by one thread at a time, not always the same one.
    """

    @property
    def n(self) -> int:
        """How many rows there are."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row of X: ``(columns,)``."""

    @property
    def dtype(self) -> Any:
        """The dtype of X, as NumPy takes it."""

    @property
    def blocks(self) -> Sequence[int]:
        """How many rows each block has, in the order of the rows."""

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
            Its number.
        out_x : array of shape (rows of the block, ...)
            Of ``dtype``; each row of ``row_shape``.
        out_y : array of shape (rows of the block, ...)
            Of ``target_dtype``; each row of ``target_shape``.
        """


def is_source(values: Any) -> bool:
    """Whether ``values`` is read block by block, as a :class:`Source` is."""
    kind = type(values)
    return hasattr(kind, "read") and all(
        hasattr(values, name) for name in ("n", "row_shape", "dtype", "blocks")
    )


@dataclass(frozen=True)
class Described:
    """A source with all that is optional filled in, and checked.

    Attributes
    ----------
    source : Source
    sizes : array of shape (blocks,)
        Rows of each block.
    starts : array of shape (blocks + 1,)
        The number of the first row of each block, and that of all rows.
    """

    source: Source
    width: int
    dtype: np.dtype[Any]
    target_shape: tuple[int, ...]
    target_dtype: np.dtype[Any]
    feature_names: tuple[str, ...] | None
    classes: HostArray | None
    sizes: HostArray
    starts: HostArray

    @classmethod
    def of(cls, source: Source, name: str = "source") -> Described:
        """``source`` with its defaults; a TypeError or ValueError where it contradicts itself."""
        row_shape = tuple(source.row_shape)
        if len(row_shape) != 1 or row_shape[0] < 1:
            raise ValueError(
                f"{name} must have rows of the shape (columns,), got row_shape={row_shape}"
            )
        dtype, target_dtype = np.dtype(source.dtype), np.dtype(_of(source, "target_dtype", "f8"))
        for what, kind in (("dtype", dtype), ("target_dtype", target_dtype)):
            if kind.kind not in "biuf":
                raise TypeError(f"{name}.{what} must be one of numbers, got {kind}")
        sizes = np.asarray(source.blocks, np.int64)
        if sizes.ndim != 1 or not len(sizes) or sizes.min(initial=1) < 1:
            raise ValueError(
                f"{name}.blocks must hold the rows of each block, each at least 1; got "
                f"{shown(source.blocks)}"
            )
        starts = np.concatenate([[0], np.cumsum(sizes)])
        if starts[-1] != source.n:
            raise ValueError(f"{name} has n={source.n} rows, but its blocks have {starts[-1]}")
        shape = tuple(_of(source, "target_shape", ()))
        if len(shape) > 1:
            raise ValueError(f"{name}.target_shape must be () or (columns,), got {shape}")
        names, classes = _of(source, "feature_names", None), _of(source, "classes", None)
        return cls(
            source, row_shape[0], dtype, shape, target_dtype,
            None if names is None else tuple(names),
            None if classes is None else np.asarray(classes), sizes, starts,
        )  # fmt: skip

    @property
    def n(self) -> int:
        """How many rows there are."""
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """That of X, were it an array."""
        return self.n, self.width

    def empty(self, rows: int) -> tuple[HostArray, HostArray]:
        """Arrays for so many rows, as ``read`` takes them."""
        return np.empty((rows, self.width), self.dtype), self.empty_targets(rows)

    def empty_targets(self, rows: int) -> HostArray:
        """An array for the targets of so many rows."""
        return np.empty((rows, *self.target_shape), self.target_dtype)

    def read(self, block: int) -> tuple[HostArray, HostArray]:
        """One block in arrays of its own."""
        x, y = self.empty(int(self.sizes[block]))
        self.source.read(block, x, y)
        return x, y

    def read_targets(self, block: int) -> HostArray:
        """The targets of one block."""
        read_targets = getattr(self.source, "read_targets", None)
        if read_targets is None:
            return self.read(block)[1]
        y = self.empty_targets(int(self.sizes[block]))
        read_targets(block, y)
        return y

    def place(self, block: int, row: int, column: int | None = None) -> str:
        """Words that say where a value is; without a column, where one of y is."""
        place = getattr(self.source, "place", None)
        if place is not None:
            return str(place(block, row, column))
        words = f"{type(self.source).__name__}, row {int(self.starts[block]) + row}"
        return words if column is None else f"{words}, column {column}"

    @property
    def row_bytes(self) -> int:
        """What a row of X and y takes as it is read."""
        y = math.prod(self.target_shape) * self.target_dtype.itemsize
        return self.width * self.dtype.itemsize + y


def _of(source: Source, name: str, default: Any) -> Any:
    value = getattr(source, name, None)
    return default if value is None else value
