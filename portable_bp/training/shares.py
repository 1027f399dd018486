"""How a batch is cut into parts, and which of them this process computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.processes import Processes
from portable_bp.training.data import Order


@dataclass(frozen=True)
class Parts:
    """The parts that one process computes of each batch: a constant of its step.

    Attributes
    ----------
    first, count : int
        The number of the first of them, and how many they are.
    short : bool
        Whether a part may have fewer rows than the others: it is filled up with rows that weigh
        nothing, so that all parts of all processes have one shape.
    ordered : bool
        Whether the sum over the processes has an order.
    """

    first: int
    count: int
    short: bool
    ordered: bool


class Share(Protocol):
    """What a trainer asks of the share of its process."""

    @property
    def processes(self) -> Processes:
        """Those that train together."""

    def rows(self, order: Any) -> Any:
        """The rows of this process in these batches."""

    def columns(self, orders: Sequence[Order]) -> list[HostArray]:
        """For each step of these epochs what the step is told of the parts of this process."""


@dataclass(frozen=True)
class Shares:
    """Of each batch, the rows of this process.

    A batch of b rows is cut into parts of ceil(b / parts) rows; the last ones may be short, or empty.

    Attributes
    ----------
    processes : Processes
    n, batch_size : int
        Rows of an epoch, and of a batch, over all processes.
    parts : int
        A multiple of the number of processes.
    ordered : bool
    weights : array of shape (n,), optional
        By which the parts count; else by their rows.
    """

    processes: Processes
    n: int
    batch_size: int
    parts: int
    ordered: bool
    weights: HostArray | None

    @property
    def mine(self) -> Parts:
        """The parts of this process."""
        count = self.parts // self.processes.size
        sizes = {self.batch_size, self.n % self.batch_size or self.batch_size}
        short = any(size % self.parts for size in sizes)
        return Parts(self.processes.rank * count, count, short, self.ordered)

    @property
    def part_rows(self) -> int:
        """The most rows of a part."""
        return -(-self.batch_size // self.parts)

    def rows(self, order: HostArray) -> HostArray:
        """Those of this process, in batches of shape (steps, batch) or of one shape for all parts."""
        mine, whole = self.mine, self._filled(order)
        extent = whole.shape[1] // self.parts
        start = mine.first * extent
        return whole[:, start : start + mine.count * extent]

    def columns(self, orders: Sequence[Order]) -> list[HostArray]:
        """For each step of these epochs, part by part: the shares c_r; then the rows, where short."""
        mine = self.mine
        shares, counts = zip(*(self._epoch(order) for order in orders), strict=True)
        own = slice(mine.first, mine.first + mine.count)
        columns = [*np.concatenate(shares)[:, own].T]
        if mine.short:
            columns += [*np.concatenate(counts)[:, own].T]
        return columns

    def _epoch(self, order: Order) -> tuple[HostArray, HostArray]:
        """Shares and rows of all parts in each step of an epoch, shape (steps, parts)."""
        weights = None if self.weights is None else self.weights[np.asarray(order)]
        shares, counts = [], []
        full, rest = divmod(self.n, self.batch_size)
        for steps, size, start in ((full, self.batch_size, 0), (1, rest, self.n - rest)):
            if steps * size:
                count = self._counts(size)
                counts.append(np.broadcast_to(count, (steps, self.parts)))
                own = None
                if weights is not None:
                    own = weights[start : start + steps * size].reshape(steps, size)
                shares.append(self._shares(own, count, steps))
        return np.concatenate(shares), np.concatenate(counts)

    def _counts(self, size: int) -> HostArray:
        extent = -(-size // self.parts)
        return np.clip(size - extent * np.arange(self.parts), 0, extent)

    def _shares(self, weights: HostArray | None, counts: HostArray, steps: int) -> HostArray:
        """By rows, or by the weights of batches (steps, batch)."""
        by_rows = np.broadcast_to(counts / counts.sum(), (steps, self.parts))
        if weights is None:
            return by_rows
        missing = -weights.shape[1] % self.parts
        by_part = np.pad(weights, ((0, 0), (0, missing))).reshape(steps, self.parts, -1)
        by_part = by_part.sum(axis=2, dtype=np.float64)
        total = by_part.sum(axis=1, keepdims=True)
        # A batch without weight moves nothing but by its penalties, which count in full.
        return np.where(total > 0, by_part / np.where(total > 0, total, 1), by_rows)

    def _filled(self, order: HostArray) -> HostArray:
        """Batches whose size is a multiple of the number of parts: the first row fills them up."""
        missing = -order.shape[1] % self.parts
        if not missing:
            return order
        return np.concatenate([order, np.repeat(order[:, :1], missing, axis=1)], axis=1)
