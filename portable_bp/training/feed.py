"""Rows on their way to the device: all at once when they fit, else piece by piece beside the work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend

PIECE_BYTES = 64 * 2**20
"""About how much of a data set that does not fit is sent to the device at a time."""

CAST_ENTRIES = 2**18
"""About how many entries are cast at a time: few enough to stay in the cache."""

FILL = 0.6
"""The share of the device's free memory that the data may take and stay there."""


class Piece(NamedTuple):
    """What :meth:`portable_bp.backend.Runner.run` takes, for some consecutive steps."""

    arrays: tuple[Array, ...]
    order: HostArray | None


class Feed(Protocol):
    """Where the rows of a step come from."""

    @property
    def n(self) -> int:
        """How many rows there are."""

    @property
    def arrays(self) -> tuple[Any, ...]:
        """``(X, y)`` or ``(X, y, weights)``."""

    def pieces(self, order: HostArray, limit: int) -> Iterator[Piece]:
        """The steps of ``order``, shape (steps, batch), at most ``limit`` of them at a time."""


@dataclass(frozen=True)
class Resident:
    """All rows live on the device; a step gathers its own."""

    n: int
    arrays: tuple[Array, ...]

    def pieces(self, order: HostArray, limit: int) -> Iterator[Piece]:
        # A batch of all rows is the same sum in any order: nothing to gather.
        whole = order.shape[1] == self.n
        for start in range(0, len(order), limit):
            yield Piece(self.arrays, None if whole else order[start : start + limit])


@dataclass(frozen=True)
class Streamed:
    """The rows stay on the host, on disk even; a thread sends the next ones while the device works."""

    n: int
    backend: Backend
    arrays: tuple[HostArray | Selected, ...]
    dtypes: tuple[str, ...]

    def pieces(self, order: HostArray, limit: int) -> Iterator[Piece]:
        widths = zip(self.arrays, self.dtypes, strict=True)
        row_bytes = sum(a[:1].size * np.dtype(dtype).itemsize for a, dtype in widths)
        steps = max(1, min(limit, PIECE_BYTES // (row_bytes * order.shape[1])))
        starts = range(0, len(order), steps)
        with ThreadPoolExecutor(1, "portable_bp-feed") as thread:
            ready: Future[Piece] | None = None
            for start in starts:
                following = thread.submit(self._send, order[start : start + steps])
                if ready is not None:
                    yield ready.result()
                ready = following
            if ready is not None:
                yield ready.result()

    def _send(self, order: HostArray) -> Piece:
        rows = order.reshape(-1)
        with self.backend.scope():
            sent = tuple(
                self.backend.upload(_gathered(a, rows, dtype), dtype)
                for a, dtype in zip(self.arrays, self.dtypes, strict=True)
            )
        return Piece(sent, np.arange(len(rows)).reshape(order.shape))


def _gathered(array: HostArray | Selected, rows: HostArray, dtype: str) -> HostArray:
    """``array[rows]`` in ``dtype``; of the dtype they have only some rows at a time."""
    if array.dtype == np.dtype(dtype):
        return array[rows]
    found = np.empty((len(rows), *array.shape[1:]), dtype)
    step = max(1, CAST_ENTRIES // max(1, array[:1].size))
    for start in range(0, len(rows), step):
        found[start : start + step] = array[rows[start : start + step]]
    return found


@dataclass(frozen=True)
class Selected:
    """Some rows of a file's array, which stays on disk: they are read when they are asked for."""

    base: HostArray
    rows: HostArray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.base.shape[1:])

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> HostArray:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        found: HostArray = self.base[(self.rows[rows], *rest)]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        return np.asarray(self.base[self.rows], dtype)


def select(X: HostArray, rows: HostArray) -> HostArray | Selected:
    """``X[rows]``; of a file's array, without reading them now."""
    return Selected(X, rows) if _mapped(X) else X[rows]


def must_stream(backend: Backend, X: Any, dtype: str) -> bool:
    """Whether host features ``X`` are too large to live on the device (or in memory, once cast)."""
    wanted: int = X.size * np.dtype(dtype).itemsize
    # A file's array of the dtype serves as it lies; cast, or some of its rows, it would be a copy.
    if _mapped(X) and (X.dtype != np.dtype(dtype) or isinstance(X, Selected)):
        return wanted > PIECE_BYTES
    free = backend.free_memory()
    return free is not None and wanted > FILL * free


def _mapped(array: Any) -> bool:
    """Whether the array is a file's, read as it is touched."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None
