"""Where the rows of a step come from: the device's memory, or the host's, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend, owner
from portable_bp.inputs import checks
from portable_bp.inputs.containers import is_sparse
from portable_bp.inputs.transfer import to_backend

ONE_HOT_ENTRIES = 2**24
"""Labels of at most this many one-hot entries are expanded once, larger ones batch by batch."""

CHUNK_BYTES = 64 * 2**20
"""About how much of a data set that does not fit is sent to the device at a time."""

CAST_ENTRIES = 2**18
"""About how many entries are cast at a time: few enough to stay in the cache."""

FILL = 0.6
"""The share of the device's free memory that the data may take and stay there."""


class Chunk(NamedTuple):
    """What :meth:`portable_bp.backend.Runner.run` takes, for some consecutive steps."""

    arrays: tuple[Array, ...]
    order: HostArray | None
    steps: int


class Order(Protocol):
    """The rows of an epoch, or some of its steps: an array of their numbers, or what stands for one."""

    def __len__(self) -> int: ...
    def __getitem__(self, places: slice, /) -> Any: ...
    def reshape(self, steps: int, batch: int, /) -> Any: ...
    def __array__(self) -> HostArray: ...


class DataSource(Protocol):
    """The rows of a run; this is the one place where another kind of source plugs in."""

    @property
    def n(self) -> int:
        """How many rows there are."""

    @property
    def labels(self) -> bool:
        """Whether y holds class labels, which a step expands."""

    def chunks(self, order: Any, limit: int) -> Iterator[Chunk]:
        """The steps of ``order``, shape (steps, batch), at most ``limit`` of them at a time."""

    def blocks(self, rows: int) -> Iterator[tuple[Array, ...]]:
        """All rows on the device in their own order: at once, or about ``rows`` at a time."""

    def close(self) -> None:
        """End what reads ahead; :meth:`chunks` begins it anew."""


@dataclass(frozen=True)
class DeviceData:
    """All rows live on the device; a step gathers its own."""

    arrays: tuple[Array, ...]

    @property
    def n(self) -> int:
        return int(self.arrays[0].shape[0])

    @property
    def labels(self) -> bool:
        return bool(self.arrays[1].ndim == 1)

    def close(self) -> None:
        return

    def chunks(self, order: HostArray, limit: int) -> Iterator[Chunk]:
        # A batch of all rows is the same sum in any order: nothing to gather.
        whole = order.shape[1] == self.n
        for start in range(0, len(order), limit):
            part = order[start : start + limit]
            yield Chunk(self.arrays, None if whole else part, len(part))

    def blocks(self, rows: int) -> Iterator[tuple[Array, ...]]:
        yield self.arrays


@dataclass(frozen=True)
class DeviceRows:
    """Some rows of arrays on the device, which other runs may use as well."""

    arrays: tuple[Array, ...]
    rows: HostArray
    """Their numbers."""

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> bool:
        return bool(self.arrays[1].ndim == 1)

    def close(self) -> None:
        return

    def chunks(self, order: HostArray, limit: int) -> Iterator[Chunk]:
        for start in range(0, len(order), limit):
            part = self.rows[order[start : start + limit]]
            yield Chunk(self.arrays, part, len(part))

    def blocks(self, rows: int) -> Iterator[tuple[Array, ...]]:
        raise NotImplementedError("only runs in steps have rows of shared arrays")


def shared_rows(
    backend: Backend, sources: Sequence[DeviceData | DeviceRows]
) -> tuple[tuple[Array, ...], list[HostArray]]:
    """Arrays with the rows of all sources, and the numbers of the rows of each.

    Arrays that hold the same are there once.
    """
    distinct: list[tuple[Array, ...]] = []
    places = []
    for source in sources:
        place = next((i for i, d in enumerate(distinct) if _same(backend, d, source.arrays)), None)
        if place is None:
            place = len(distinct)
            distinct.append(source.arrays)
        places.append(place)
    starts = np.cumsum([0, *(d[0].shape[0] for d in distinct)])
    own = [s.rows if isinstance(s, DeviceRows) else np.arange(s.n) for s in sources]
    rows = [o + starts[place] for o, place in zip(own, places, strict=True)]
    if len(distinct) == 1:
        return distinct[0], rows
    return tuple(backend.xp.concat(same) for same in zip(*distinct, strict=True)), rows


def _same(backend: Backend, some: tuple[Array, ...], others: tuple[Array, ...]) -> bool:
    """Whether arrays hold the same numbers; one read of the device where they are not the same."""
    pairs = [*zip(some, others, strict=True)]
    if all(a is b for a, b in pairs):
        return True
    if any(a.shape != b.shape for a, b in pairs):
        return False
    return all(bool(backend.to_numpy(backend.xp.all(a == b))) for a, b in pairs)


@dataclass(frozen=True)
class HostStream:
    """The rows stay on the host, on disk even; a thread sends the next ones while the device works.

    An array may be anything with ``shape``, ``dtype`` and rows: a memory map, :class:`Selected`
    rows of one, or :class:`SparseRows`.
    """

    backend: Backend
    arrays: tuple[Any, ...]
    dtypes: tuple[str, ...]

    @property
    def n(self) -> int:
        return int(self.arrays[0].shape[0])

    @property
    def labels(self) -> bool:
        return bool(self.arrays[1].ndim == 1)

    def close(self) -> None:
        return

    def chunks(self, order: HostArray, limit: int) -> Iterator[Chunk]:
        widths = zip(self.arrays, self.dtypes, strict=True)
        row_bytes = sum(_width(a) * np.dtype(dtype).itemsize for a, dtype in widths)
        steps = max(1, min(limit, CHUNK_BYTES // (row_bytes * order.shape[1])))
        starts = range(0, len(order), steps)
        if len(starts) == 1:  # nothing to send beside the work
            yield self._send(order)
            return
        with ThreadPoolExecutor(1, "portable_bp-stream") as thread:
            ready: Future[Chunk] | None = None
            for start in starts:
                following = thread.submit(self._send, order[start : start + steps])
                if ready is not None:
                    yield ready.result()
                ready = following
            if ready is not None:
                yield ready.result()

    def _send(self, order: HostArray) -> Chunk:
        rows = order.reshape(-1)
        # The chunk holds its rows in the order of its batches.
        return Chunk(self._sent(rows), np.arange(len(rows)).reshape(order.shape), len(order))

    def _sent(self, rows: HostArray) -> tuple[Array, ...]:
        with self.backend.scope():
            return tuple(
                self.backend.upload(_gathered(a, rows, dtype), dtype)
                for a, dtype in zip(self.arrays, self.dtypes, strict=True)
            )

    def blocks(self, rows: int) -> Iterator[tuple[Array, ...]]:
        for start in range(0, self.n, rows):
            yield self._sent(np.arange(start, min(start + rows, self.n)))


def _width(array: Any) -> int:
    return math.prod(array.shape[1:])


def _gathered(array: Any, rows: HostArray, dtype: str) -> HostArray:
    """``array[rows]`` in ``dtype``; of the dtype they have only some rows at a time."""
    if array.dtype == np.dtype(dtype):
        gathered: HostArray = array[rows]
        return gathered
    gathered = np.empty((len(rows), *array.shape[1:]), dtype)
    step = max(1, CAST_ENTRIES // max(1, _width(array)))
    for start in range(0, len(rows), step):
        gathered[start : start + step] = array[rows[start : start + step]]
    return gathered


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
        selected: HostArray = self.base[(self.rows[rows], *rest)]
        return selected

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        return np.asarray(self.base[self.rows], dtype)


@dataclass(frozen=True)
class SparseRows:
    """A CSR matrix on the host whose rows become dense when they are asked for."""

    csr: Any

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.csr.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.csr.dtype
        return dtype

    def __getitem__(self, rows: HostArray) -> HostArray:
        dense: HostArray = self.csr[rows].toarray()
        return dense


def data_source(
    backend: Backend, dtype: str, X: Any, y: Any, weights: HostArray | None
) -> DeviceData | HostStream:
    """Checked rows on the device where they fit, else near it.

    Parameters
    ----------
    backend : Backend
    dtype : str
        Of the equations.
    X : array of shape (n, inputs)
        From anywhere; sparse, or a memory map; what is there already is used as it is, only read.
    y : array
        Numbers (n, k), or class labels (n,) that a step expands.
    weights : array of shape (n,), optional
        On the host.
    """
    kinds = (dtype, backend.index_dtype if y.ndim == 1 else dtype, dtype)
    extra = () if weights is None else (weights,)
    dtypes = kinds[: 2 + len(extra)]
    if owner(X) is None and must_stream(backend, X, dtype):
        if is_sparse(X):
            X = SparseRows(X.tocsr())
        else:
            for _, block in checks.blocks(X):
                checks.cast("X", block, dtype)  # here, not in the thread that sends it
        with backend.scope():
            on_host = y if owner(y) is None else backend.to_numpy(y)
        return HostStream(backend, (X, np.asarray(on_host), *extra), dtypes)
    if isinstance(y, np.ndarray) and y.dtype.kind == "b":
        y = y.astype(dtype)
    with backend.scope():
        named = zip((X, y, *extra), dtypes, ("X", "y", "sample_weight"), strict=False)
        return DeviceData(
            tuple(_contiguous(to_backend(backend, *arguments)) for arguments in named)
        )


def _contiguous(array: Any) -> Array:
    """Rows one after the other, so that gathering a batch reads memory in order (NumPy only)."""
    if isinstance(array, np.ndarray):
        array = np.ascontiguousarray(array)
    contiguous: Array = array
    return contiguous


def held_features(backend: Backend, dtype: str, X: Any) -> Any:
    """Features of held-out rows: on the device where they fit, else as they are."""
    if owner(X) is None and must_stream(backend, X, dtype):
        return X.tocsr() if is_sparse(X) else X
    with backend.scope():
        return to_backend(backend, X, dtype, "validation X")


def select(X: Any, rows: HostArray) -> Any:
    """``X[rows]`` where X lives; of a file's array, without reading them now."""
    adapter = owner(X)
    if adapter is not None:
        backend = get_backend(adapter.spec_of(X))
        with backend.scope():
            index = backend.asarray(rows, backend.index_dtype)
            return backend.xp.take(X, index, axis=0)
    if is_sparse(X):
        return X.tocsr()[rows]
    return Selected(X, rows) if _mapped(X) else X[rows]


def must_stream(backend: Backend, X: Any, dtype: str) -> bool:
    """Whether host features ``X`` are too large to live on the device (or in memory, once cast)."""
    if is_sparse(X):
        return True
    wanted: int = X.size * np.dtype(dtype).itemsize
    # A file's array of the dtype serves as it lies; cast, or some of its rows, it would be a copy.
    if _mapped(X) and (X.dtype != np.dtype(dtype) or isinstance(X, Selected)):
        return wanted > CHUNK_BYTES
    free = backend.free_memory()
    return free is not None and wanted > FILL * free


def _mapped(array: Any) -> bool:
    """Whether the array is a file's, read as it is touched."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None
