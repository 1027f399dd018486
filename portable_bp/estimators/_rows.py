"""The rows that a fit sees: dense ones stay where the equations run, sparse ones become dense batch
by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend, Runner
from portable_bp.inputs.transfer import to_backend
from portable_bp.training.blocks import BLOCK_BYTES


@dataclass(frozen=True)
class Rows:
    """Features, targets and weights of n rows.

    Attributes
    ----------
    X : (n, features) on ``backend``; or CSR on the host, then y and w are on the host too
    y : (n, k) numbers, or (n,) class labels
    w : (n,) or None
    weights : the weights once more in float64 on the host, or None
    """

    backend: Backend
    name: str
    X: Any
    y: Any
    w: Any
    weights: HostArray | None

    @classmethod
    def of(cls, backend: Backend, name: str, X: Any, y: Any, weights: HostArray | None) -> Rows:
        """Rows in the dtype ``name``; an X that is there already is used as it is, only read."""
        labels = y.ndim == 1
        y_name = backend.index_dtype if labels else name
        if hasattr(X, "tocsr"):
            host_w = None if weights is None else weights.astype(name)
            return cls(backend, name, X.astype(name, copy=False), y.astype(y_name), host_w, weights)
        with backend.scope():
            w = None if weights is None else to_backend(backend, weights, name, "sample_weight")
            # Rows one after the other, so that gathering a batch reads memory in order.
            X = np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X
            if isinstance(y, np.ndarray) and y.dtype.kind == "b":
                y = y.astype(y_name)
            return cls(
                backend, name, to_backend(backend, X, name, "X"),
                to_backend(backend, y, y_name, "y"), w, weights,
            )  # fmt: skip

    @property
    def n(self) -> int:
        """How many rows."""
        return int(self.X.shape[0])

    @property
    def sparse(self) -> bool:
        """Whether X is CSR on the host."""
        return hasattr(self.X, "tocsr")

    def take(self, index: HostArray) -> Rows:
        """The rows of that index, copied."""
        weights = None if self.weights is None else self.weights[index]
        if self.sparse:
            w = None if self.w is None else self.w[index]
            return Rows(self.backend, self.name, self.X[index], self.y[index], w, weights)
        backend = self.backend
        with backend.scope():
            there = backend.asarray(index, backend.index_dtype)
            X, y, w = (
                None if a is None else backend.xp.take(a, there, axis=0)
                for a in (self.X, self.y, self.w)
            )
        return Rows(backend, self.name, X, y, w, weights)

    def arrays(self) -> tuple[Array, ...]:
        """``(X, y)`` or ``(X, y, w)`` on the backend."""
        found = (self.X, self.y) if self.w is None else (self.X, self.y, self.w)
        return self._dense(found) if self.sparse else found

    def run(
        self, runner: Runner, order: HostArray | None, table: tuple[HostArray, ...]
    ) -> list[Array]:
        """The steps of ``table`` over the rows of ``order``: their losses, in one array or several."""
        if not self.sparse:
            return [runner.run(self.arrays(), order, table)]
        if order is None:
            order = np.broadcast_to(np.arange(self.n), (len(table[0]), self.n))
        losses = []
        for steps in self._chunks(order):
            part = order[steps]
            data = self.take(part.reshape(-1)).arrays()
            # The chunk holds its rows in the order of its batches.
            within = np.arange(part.size).reshape(part.shape) if len(part) > 1 else None
            now = tuple(t[steps] for t in table)
            losses.append(runner.run(data, within, now))
        return losses

    def blocks(self, rows: int) -> Iterator[Rows]:
        """The rows in their own order, at most ``rows`` at a time."""
        if rows >= self.n:
            yield self
            return
        for start in range(0, self.n, rows):
            yield self._slice(slice(start, start + rows))

    def _slice(self, s: slice) -> Rows:
        X, y = self.X[s, :], self.y[s, ...]
        w = None if self.w is None else self.w[s]
        return Rows(
            self.backend, self.name, X, y, w, None if self.weights is None else self.weights[s]
        )

    def _chunks(self, order: HostArray) -> Iterator[slice]:
        row_bytes = self.X.shape[1] * np.dtype(self.name).itemsize
        steps = max(1, BLOCK_BYTES // (row_bytes * order.shape[1]))
        for start in range(0, len(order), steps):
            yield slice(start, start + steps)

    def _dense(self, arrays: tuple[Any, ...]) -> tuple[Array, ...]:
        X, *rest = arrays
        backend = self.backend
        with backend.scope():
            return tuple(to_backend(backend, a, str(a.dtype)) for a in (X.toarray(), *rest))
