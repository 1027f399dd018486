"""Parts of a source: some of its blocks, or some rows of each; and a source in other units."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.sources.protocol import Described

FEWEST_BLOCKS = 20
"""A source of at least so many blocks is split by blocks, another one within each block."""


class View:
    """A part of a source, itself a source."""

    def __init__(self, source: Described, blocks: HostArray, sizes: HostArray) -> None:
        self._source, self._blocks = source, blocks
        self.blocks, self.n = sizes.tolist(), int(sizes.sum())
        self.row_shape, self.dtype = (source.width,), source.dtype
        self.target_shape, self.target_dtype = source.target_shape, source.target_dtype
        self.feature_names, self.classes = source.feature_names, source.classes
        self.window_rows = getattr(source.source, "window_rows", None)

    def row_of(self, block: int, row: int) -> int:
        """The row within the whole block."""
        return row

    @abstractmethod
    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block."""

    def numbers(self, block: int) -> HostArray:
        """The rows of a block by their numbers in the whole source."""
        whole = int(self._blocks[block])
        rows = [self.row_of(block, row) for row in range(self.blocks[block])]
        numbers: HostArray = np.asarray(rows, np.int64) + self._source.starts[whole]
        return numbers

    def place(self, block: int, row: int, column: int | None = None) -> str:
        """Words that say where a value is.

        Parameters
        ----------
        block, row : int
        column : int, optional

        Returns
        -------
        str
        """
        return self._source.place(int(self._blocks[block]), self.row_of(block, row), column)


class SomeBlocks(View):
    """Whole blocks of a source.

    Parameters
    ----------
    source : Described
    blocks : array of shape (k,)
        Their numbers.
    """

    def __init__(self, source: Described, blocks: HostArray) -> None:
        super().__init__(source, blocks, source.sizes[blocks])

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
        out_x, out_y : array
        """
        self._source.source.read(int(self._blocks[block]), out_x, out_y)

    def read_targets(self, block: int, out_y: HostArray) -> None:
        """Fill an array with the targets of one block.

        Parameters
        ----------
        block : int
        out_y : array
        """
        out_y[...] = self._source.read_targets(int(self._blocks[block]))

    def numbers(self, block: int) -> HostArray:
        """The rows of a block by their numbers in the whole source."""
        first = self._source.starts[self._blocks[block]]
        return np.arange(first, first + self.blocks[block])


class SomeRows(View):
    """A share of the rows of each block, or the others.

    Parameters
    ----------
    source : Described
    share : float
        ``ceil(share * rows)`` rows of each block are held out.
    seed : int
        It chooses them.
    held : bool
        Whether these are the rows that are held out.
    """

    def __init__(self, source: Described, share: float, seed: int, held: bool) -> None:
        self._seed, self._held = seed, held
        self._out = np.ceil(share * source.sizes).astype(np.int64)
        sizes = self._out if held else source.sizes - self._out
        there = np.flatnonzero(sizes)
        super().__init__(source, there, sizes[there])

    def _rows(self, whole: int) -> HostArray:
        order = rng.permutation(int(self._source.sizes[whole]), self._seed, rng.SPLIT, whole)
        out = int(self._out[whole])
        return np.sort(order[:out] if self._held else order[out:])

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
        out_x, out_y : array
        """
        whole = int(self._blocks[block])
        x, y = self._source.read(whole)
        rows = self._rows(whole)
        np.take(x, rows, axis=0, out=out_x, mode="clip")
        out_y[...] = y[rows]

    def read_targets(self, block: int, out_y: HostArray) -> None:
        """Fill an array with the targets of one block.

        Parameters
        ----------
        block : int
        out_y : array
        """
        whole = int(self._blocks[block])
        out_y[...] = self._source.read_targets(whole)[self._rows(whole)]

    def row_of(self, block: int, row: int) -> int:
        """The row within the whole block."""
        return int(self._rows(int(self._blocks[block]))[row])

    def numbers(self, block: int) -> HostArray:
        """The rows of a block by their numbers in the whole source."""
        whole = int(self._blocks[block])
        numbers: HostArray = self._rows(whole) + self._source.starts[whole]
        return numbers


def split(source: Described, share: float, seed: int, name: str) -> tuple[View, View]:
    """The rows to train on, and those that are held out.

    Of a source with at least :data:`FEWEST_BLOCKS` blocks ``ceil(share * blocks)`` blocks are held
    out, chosen by ``seed``; of one with fewer, ``ceil(share * rows)`` rows of each block.

    Parameters
    ----------
    source : Described
    share : float
        In (0, 1).
    seed : int
    name : str
        What errors call the share.

    Returns
    -------
    train, held : View
    """
    blocks = len(source.sizes)
    if blocks >= FEWEST_BLOCKS:
        count = math.ceil(share * blocks)
        if count < blocks:
            order = rng.permutation(blocks, seed, rng.SPLIT)
            train, held = np.sort(order[count:]), np.sort(order[:count])
            return SomeBlocks(source, train), SomeBlocks(source, held)
    elif (np.ceil(share * source.sizes) < source.sizes).any():
        return SomeRows(source, share, seed, False), SomeRows(source, share, seed, True)
    raise ValueError(f"{name}={share} of {source.n:,} row(s) leaves none to train on")


class Scaled(View):
    """A source in other units: ``(x - mean) / scale``, in float64.

    Parameters
    ----------
    source : Described
    mean, scale : array of shape (columns,)
    target_mean, target_scale : float, optional
        Of y; without them y stays as it is.
    """

    def __init__(
        self,
        source: Described,
        mean: HostArray,
        scale: HostArray,
        target_mean: float | None = None,
        target_scale: float = 1.0,
    ) -> None:
        super().__init__(source, np.arange(len(source.sizes)), source.sizes)
        self._mean, self._scale = mean, scale
        self._target_mean, self._target_scale = target_mean, target_scale
        self.feature_names = self.classes = (
            None  # in these units X has no columns of a file any more
        )
        self.dtype = np.dtype("float64")
        if target_mean is not None:
            self.target_dtype = np.dtype("float64")

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
        out_x, out_y : array
        """
        x, y = self._source.read(block)
        np.subtract(x, self._mean, out=out_x)
        out_x /= self._scale
        out_y[...] = self._quantities(y)

    def read_targets(self, block: int, out_y: HostArray) -> None:
        """Fill an array with the targets of one block.

        Parameters
        ----------
        block : int
        out_y : array
        """
        out_y[...] = self._quantities(self._source.read_targets(block))

    def _quantities(self, y: HostArray) -> Any:
        return y if self._target_mean is None else (y - self._target_mean) / self._target_scale


class Encoded(View):
    """A source whose targets are the numbers of classes.

    Parameters
    ----------
    source : Described
        With a label for each row.
    labels : array of shape (n_classes,)
        Sorted.
    """

    def __init__(self, source: Described, labels: HostArray) -> None:
        super().__init__(source, np.arange(len(source.sizes)), source.sizes)
        self._labels, self.target_dtype = labels, np.dtype("int64")

    def read(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Fill the arrays with the rows of one block.

        Parameters
        ----------
        block : int
        out_x, out_y : array
        """
        y = self._source.empty_targets(len(out_x))
        self._source.source.read(block, out_x, y)
        self._encode(block, y, out_y)

    def read_targets(self, block: int, out_y: HostArray) -> None:
        """Fill an array with the targets of one block.

        Parameters
        ----------
        block : int
        out_y : array
        """
        self._encode(block, self._source.read_targets(block), out_y)

    def _encode(self, block: int, y: HostArray, out: HostArray) -> None:
        codes = np.minimum(np.searchsorted(self._labels, y), len(self._labels) - 1)
        wrong = self._labels[codes] != y
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{self._source.place(block, row)}: the class {y[row]:g} is none of those learnt"
            )
        out[...] = codes
