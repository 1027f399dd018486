"""Rows that the processes have dealt out beforehand: each trains on those that it was handed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portable_bp import rng
from portable_bp._typing import Array, HostArray, Params
from portable_bp.backend import Backend
from portable_bp.equations.network import Equations
from portable_bp.processes import ALONE, Processes
from portable_bp.training import blocks
from portable_bp.training.data import Chunk, DataSource, Order
from portable_bp.training.judging import Judged, ValidationSet, judgement
from portable_bp.training.options import FitOptions
from portable_bp.training.prepare import PreparedRows
from portable_bp.training.shares import Parts


@dataclass(frozen=True)
class Shards:
    """How many rows each process has, and which of its own it brings into each batch.

    Of the places ``a`` to ``b`` of an epoch of all rows, a process with ``m`` of ``n`` rows brings its
    rows ``m a / n`` to ``m b / n``, rounded down: each row once, in batches of its share.

    Attributes
    ----------
    processes : Processes
    sizes : tuple of int
        Rows of each process.
    batch_size, seed : int
    shuffle : bool
        Whether each process permutes its rows anew for each epoch.
    """

    processes: Processes
    sizes: tuple[int, ...]
    batch_size: int
    seed: int
    shuffle: bool

    @property
    def n(self) -> int:
        """Rows of all processes."""
        return sum(self.sizes)

    @property
    def mine(self) -> Parts:
        """What this process computes of each batch."""
        return Parts(self.processes.rank, 1, True, False)

    @property
    def part_rows(self) -> int:
        """The most rows that it brings into a batch."""
        return max(1, math.ceil(self.sizes[self.processes.rank] * self.batch_size / self.n))

    def order(self, epoch: int) -> ShardOrder:
        """The order of an epoch."""
        m, rank = self.sizes[self.processes.rank], self.processes.rank
        own = np.arange(m)
        if self.shuffle:
            own = rng.permutation(m, self.seed, rng.SHUFFLE, epoch, rank)
        return ShardOrder(self, own, 0, self.n)

    def edges(self, places: HostArray) -> HostArray:
        """How many rows of each process come before these places, shape (places, processes)."""
        before: HostArray = places[:, None] * np.asarray(self.sizes) // self.n
        return before

    def rows(self, order: Any) -> Any:
        """What a chunk gathers are the rows of this process already."""
        return order

    def columns(self, orders: Sequence[Order]) -> list[HostArray]:
        """For each step of these epochs: the share c_r of this process, and how many rows it brings."""
        places = np.append(np.arange(0, self.n, self.batch_size), self.n)
        counts = np.diff(self.edges(places), axis=0)
        total, own = counts.sum(axis=1), counts[:, self.processes.rank]
        share = np.where(total > 0, own / np.maximum(total, 1), 1 / len(self.sizes))
        return [np.tile(share, len(orders)), np.tile(own, len(orders))]


@dataclass(frozen=True, eq=False)
class ShardOrder:
    """The places ``start`` to ``stop`` of an epoch; see :class:`portable_bp.training.data.Order`."""

    shards: Shards
    own: HostArray
    """The rows of this process in their order."""
    start: int
    stop: int
    batch: int = 0

    def __len__(self) -> int:
        return (self.stop - self.start) // (self.batch or 1)

    def __getitem__(self, places: slice) -> ShardOrder:
        first, last, _ = places.indices(len(self))
        unit = self.batch or 1
        return replace(self, start=self.start + first * unit, stop=self.start + last * unit)

    def reshape(self, steps: int, batch: int) -> ShardOrder:
        """The same places in steps of ``batch``."""
        return replace(self, batch=self.stop - self.start if batch == -1 else batch)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        """The rows of this process in each step; the first of a step fill it up."""
        shards, batch = self.shards, self.batch
        places = np.arange(self.start, self.stop + 1, batch)
        edges = shards.edges(places)[:, shards.processes.rank]
        extent = max(1, math.ceil(len(self.own) * batch / shards.n))
        at = edges[:-1, None] + np.arange(extent)
        there = at < edges[1:, None]
        rows = self.own[np.where(there, at, 0)]
        return rows.astype(dtype or np.int64, copy=False)


@dataclass(frozen=True)
class ShardData:
    """The rows of this process, as those of an epoch of all."""

    own: DataSource
    shards: Shards

    @property
    def n(self) -> int:
        return self.shards.n

    @property
    def labels(self) -> bool:
        return self.own.labels

    def chunks(self, order: ShardOrder, limit: int) -> Iterator[Chunk]:
        rows = np.asarray(order)
        for arrays, chosen, steps in self.own.chunks(rows, limit):
            if chosen is None:  # as many as there are, but some of them fill up
                chosen = rows[:steps]
            yield Chunk(arrays, chosen, steps)

    def blocks(self, rows: int) -> Iterator[tuple[Array, ...]]:
        yield from self.own.blocks(rows)

    def close(self) -> None:
        self.own.close()


class ShardHeld:
    """Held-out rows of all processes, each of which judges its own.

    Parameters
    ----------
    own : ValidationSet
    processes : Processes
    """

    def __init__(self, own: ValidationSet, processes: Processes) -> None:
        self._own, targets, weights = (
            own,
            *zip(*processes.gather((own.y, own.weights)), strict=True),
        )
        self._y = np.concatenate(targets)
        self._weights = None if weights[0] is None else np.concatenate(weights)

    def judged(
        self,
        backend: Backend,
        equations: Equations,
        params: Params,
        epoch: int,
        processes: Processes = ALONE,
    ) -> Judged:
        """The loss and the score of these parameters after an epoch."""
        own = self._own
        found = blocks.losses_and_outputs(backend, equations, params, own.X, own.y)
        losses, outputs = zip(*processes.gather(found), strict=True)
        return judgement(
            equations,
            np.concatenate(losses),
            np.concatenate(outputs),
            self._y,
            self._weights,
            epoch,
        )


def of_all(rows: PreparedRows, processes: Processes, options: FitOptions) -> PreparedRows:
    """The rows of this process as a part of all of them.

    Parameters
    ----------
    rows : PreparedRows
        Of this process.
    processes : Processes
    options : FitOptions

    Returns
    -------
    PreparedRows
    """
    with processes.agreeing():
        for name, value in (("sample_weight", rows.weights), ("a source", rows.windows)):
            if value is not None:
                raise ValueError(
                    f"shards=True cannot go with {name}: hand all rows to all processes"
                )
    sizes = tuple(processes.gather(rows.data.n))
    batch = min(options.batch_size or sum(sizes), sum(sizes))
    shards = Shards(processes, sizes, batch, options.seed, options.shuffle)
    held = rows.held
    if isinstance(held, ValidationSet):
        held = ShardHeld(held, processes)
    digest = hashlib.sha256("".join(processes.gather(rows.digest())).encode()).hexdigest()
    return PreparedRows(ShardData(rows.data, shards), None, held, lambda: digest, shards.order)
