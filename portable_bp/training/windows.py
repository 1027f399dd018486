"""Rows that stay in their files: read in windows of shuffled blocks, the next one by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from portable_bp import rng
from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.training.data import Chunk
from portable_bp.training.source_blocks import BlockReader

WINDOW_BYTES = 2**26
"""About what the rows of a window take."""


class Cancelled(Exception):
    """Nobody wants the window any more."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows stand in which window, from the seed and the sizes of the blocks alone.

    The blocks are permuted by (seed, epoch), some consecutive ones are a window, and its rows are
    permuted by (seed, epoch, window). Only one number a block is ever written down.

    Attributes
    ----------
    sizes : array of shape (blocks,)
        Rows of each block.
    starts : array of shape (blocks + 1,)
        The number of the first row of each block.
    rows : int
        About how many rows a window has.
    seed : int
    shuffle : bool
        Without it rows come in their own order.
    """

    sizes: HostArray
    starts: HostArray
    rows: int
    seed: int
    shuffle: bool

    @property
    def n(self) -> int:
        """How many rows there are."""
        return int(self.starts[-1])

    @property
    def blocks_of_a_window(self) -> int:
        """How many blocks are mixed with each other."""
        return max(1, self.rows // int(self.sizes.max()))

    def epoch(self, epoch: int) -> EpochPlan:
        """The windows of the epoch that comes after ``epoch`` others."""
        blocks = len(self.sizes)
        order = (
            rng.permutation(blocks, self.seed, rng.BLOCKS, epoch)
            if self.shuffle
            else np.arange(blocks)
        )
        ends = np.cumsum(self.sizes[order])
        edges = np.arange(0, blocks, self.blocks_of_a_window)
        starts = np.concatenate([[0], ends])[edges]
        return EpochPlan(self, epoch, order, np.append(starts, self.n))


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The windows of one epoch.

    Attributes
    ----------
    blocks : array of shape (blocks,)
        Their numbers, in the order in which they are read.
    starts : array of shape (windows + 1,)
        How many rows of the epoch come before each window.
    """

    plan: Plan
    epoch: int
    blocks: HostArray
    starts: HostArray

    def window_of(self, place: int) -> int:
        """The window that holds the row at this place of the epoch."""
        return int(np.searchsorted(self.starts, place, side="right")) - 1

    def blocks_of(self, window: int) -> HostArray:
        """The blocks of a window."""
        k = self.plan.blocks_of_a_window
        return self.blocks[window * k : (window + 1) * k]

    def rows_of(self, window: int) -> HostArray:
        """The order of the rows within a window."""
        rows = int(self.starts[window + 1] - self.starts[window])
        if not self.plan.shuffle:
            return np.arange(rows)
        return rng.permutation(rows, self.plan.seed, rng.SHUFFLE, self.epoch, window)

    def numbers_of(self, window: int) -> HostArray:
        """The rows of a window by their numbers in the source, in the order of the epoch."""
        blocks = self.blocks_of(window)
        first, sizes = self.plan.starts[blocks], self.plan.sizes[blocks]
        numbers = np.concatenate([np.arange(f, f + s) for f, s in zip(first, sizes, strict=True)])
        ordered: HostArray = numbers[self.rows_of(window)]
        return ordered


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """The rows of an epoch, or a part of them, in an order that is not written down.

    Sliced and reshaped as the array that it stands for; ``np.asarray`` writes it down.

    Attributes
    ----------
    start, stop : int
        Places of the epoch.
    batch : int
        Rows of a step; 0 where the order has one axis.
    """

    epoch: EpochPlan
    start: int
    stop: int
    batch: int = 0

    def __len__(self) -> int:
        return (self.stop - self.start) // (self.batch or 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), self.batch) if self.batch else (len(self),)

    def __getitem__(self, places: slice) -> WindowOrder:
        first, last, _ = places.indices(len(self))
        unit = self.batch or 1
        return replace(self, start=self.start + first * unit, stop=self.start + last * unit)

    def reshape(self, steps: int, batch: int) -> WindowOrder:
        """The same rows in steps of ``batch``."""
        return replace(self, batch=self.stop - self.start if batch == -1 else batch)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        first, last = self.epoch.window_of(self.start), self.epoch.window_of(self.stop - 1)
        numbers = np.concatenate([self.epoch.numbers_of(w) for w in range(first, last + 1)])
        offset = self.start - int(self.epoch.starts[first])
        part = numbers[offset : offset + self.stop - self.start]
        return part.reshape(self.shape).astype(dtype or np.int64, copy=False)


class Window(NamedTuple):
    """Rows on the device, and where they stand in the epoch."""

    arrays: tuple[Array, ...]
    order: HostArray
    """The rows of ``arrays`` in the order of the epoch, from the place ``start`` on."""
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.order)


class ReadAhead:
    """The items of an iterator, of which a thread makes the next one while one is used.

    Parameters
    ----------
    items : function of an Event
        Makes the iterator; it raises :class:`Cancelled` soon after the event is set.
    """

    def __init__(self, items: Callable[[threading.Event], Iterator[Any]]) -> None:
        self._cancelled = threading.Event()
        self._items = items(self._cancelled)
        self._thread = ThreadPoolExecutor(1, "portable_bp-stream")
        self._ready: Future[Any] = self._thread.submit(next, self._items, None)

    def next(self) -> Any:
        """The next item, or None; what the thread raised is raised here."""
        item = self._ready.result()
        if item is not None:
            self._ready = self._thread.submit(next, self._items, None)
        return item

    def close(self) -> None:
        """Returns when the thread has ended."""
        self._cancelled.set()
        self._thread.shutdown(cancel_futures=True)


class WindowData:
    """Rows of a source in windows: a :class:`portable_bp.training.data.DataSource`.

    Batches go over the border of two windows: the rows that are left of one stand before those of the
    next. All windows have arrays of one shape, so that a compiler makes one program.

    Parameters
    ----------
    backend : Backend
    reader : BlockReader
    weights : array of shape (n,), optional
        Of all rows, in float64 on the host.
    plan : Plan
    batch_size : int
    watch : function of two ints, optional
        Told how many rows of the epoch have been handed out, and of how many.
    """

    def __init__(
        self,
        backend: Backend,
        reader: BlockReader,
        weights: HostArray | None,
        plan: Plan,
        batch_size: int,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        self._backend, self._reader, self._weights = backend, reader, weights
        self._plan, self._batch, self._watch = plan, batch_size, watch
        k = plan.blocks_of_a_window
        largest = np.sort(plan.sizes)[::-1][:k].sum()
        self._room = int(largest) + batch_size - 1
        self._ahead: ReadAhead | None = None
        self._window: Window | None = None
        self._next: tuple[int, int] | None = None

    @property
    def n(self) -> int:
        return self._plan.n

    @property
    def labels(self) -> bool:
        return self._reader.labels

    def order(self, epoch: int) -> WindowOrder:
        """The rows of an epoch in their order."""
        return WindowOrder(self._plan.epoch(epoch), 0, self.n)

    def chunks(self, order: WindowOrder, limit: int) -> Iterator[Chunk]:
        place, batch = order.start, order.batch
        if self._next != (order.epoch.epoch, place):
            self.close()
        while place < order.stop:
            window = self._window
            there = 0 if window is None else min(window.stop, order.stop) - place
            steps = min(there // batch, limit)
            if window is None or not steps:
                self._window = window = None  # its memory is free before the next but one is read
                self._window = self._following(order.epoch, place)
                continue
            rows = window.order[place - window.start :][: steps * batch].reshape(steps, batch)
            place += steps * batch
            self._next = (order.epoch.epoch, place)
            yield Chunk(window.arrays, rows, steps)
            if self._watch is not None:
                self._watch(place, self.n)
        if place == self.n:
            self.close()

    def _following(self, epoch: EpochPlan, place: int) -> Window:
        if self._ahead is None:
            first = epoch.window_of(place)
            self._ahead = ReadAhead(lambda cancelled: self._windows(epoch, first, place, cancelled))
        window: Window | None = self._ahead.next()
        assert window is not None, "the plan has a window for every row"
        return window

    def _windows(
        self, epoch: EpochPlan, first: int, place: int, cancelled: threading.Event
    ) -> Iterator[Window]:
        """The windows of an epoch from one on; the first batch begins at ``place``."""
        left: list[HostArray] = []
        for w in range(first, len(epoch.starts) - 1):
            start = int(epoch.starts[w])
            kept = len(left[0]) if left else 0
            host = self._reader.empty(self._room)
            for array, rows in zip(host, left, strict=False):
                array[:kept] = rows
            self._fill(host, epoch.blocks_of(w).tolist(), kept, cancelled)
            order = np.concatenate([np.arange(kept), kept + epoch.rows_of(w)])
            begin = start - kept
            if begin < place:
                order, begin = order[place - begin :], place
            rest = len(order) % self._batch
            if w < len(epoch.starts) - 2:
                left = [a[order[len(order) - rest :]] for a in host]
            yield Window(self._sent(host), order, begin)

    def _sent(self, host: tuple[HostArray, ...]) -> tuple[Array, ...]:
        backend = self._backend
        if backend.name == "numpy":
            return host  # type: ignore[return-value]
        with backend.scope():
            return tuple(backend.upload(a, a.dtype.name) for a in host)

    def blocks(self, rows: int) -> Iterator[tuple[Array, ...]]:
        for host in self.in_order():
            for start in range(0, len(host[0]), rows):
                yield self._sent(tuple(a[start : start + rows] for a in host))

    def in_order(self) -> Iterator[tuple[HostArray, ...]]:
        """All rows on the host in their own order, some blocks at a time."""
        return in_order(self._plan, self._reader.empty, self._fill)

    def _fill(
        self,
        host: tuple[HostArray, ...],
        blocks: list[int],
        at: int,
        cancelled: threading.Event,
    ) -> None:
        """Read blocks into the arrays, one under the other."""
        for block in blocks:
            if cancelled.is_set():
                raise Cancelled
            stop = at + int(self._plan.sizes[block])
            self._reader.read(block, host[0][at:stop], host[1][at:stop])
            if self._weights is not None:
                first = self._plan.starts[block]
                host[2][at:stop] = self._weights[first : first + stop - at]
            at = stop

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = self._window = self._next = None


Rows = tuple[HostArray, ...]


def in_order(
    plan: Plan,
    empty: Callable[[int], Rows],
    fill: Callable[[Rows, list[int], int, threading.Event], None],
) -> Iterator[Rows]:
    """The rows of all blocks in their own order, one window at a time, the next one by a thread.

    Parameters
    ----------
    plan : Plan
    empty : function of a number of rows
        Makes arrays for them.
    fill : function of arrays, blocks, the place of their first row, and an event
        Reads blocks; it raises :class:`Cancelled` soon after the event is set.
    """
    k, count = plan.blocks_of_a_window, len(plan.sizes)

    def windows(cancelled: threading.Event) -> Iterator[Rows]:
        for start in range(0, count, k):
            numbers = list(range(start, min(start + k, count)))
            host = empty(int(plan.sizes[start : start + k].sum()))
            fill(host, numbers, 0, cancelled)
            yield host

    ahead = ReadAhead(windows)
    try:
        while (host := ahead.next()) is not None:
            yield host
            del host
    finally:
        ahead.close()


def features_in_order(reader: BlockReader, plan: Plan) -> Iterator[HostArray]:
    """X alone, in the order of its rows, one window at a time."""

    def fill(host: Rows, blocks: list[int], at: int, cancelled: threading.Event) -> None:
        for block in blocks:
            if cancelled.is_set():
                raise Cancelled
            stop = at + int(plan.sizes[block])
            reader.read(block, host[0][at:stop], None)
            at = stop

    for (x,) in in_order(plan, lambda rows: reader.empty(rows)[:1], fill):
        yield x
