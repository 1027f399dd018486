"""JAX: a whole epoch as one compiled program."""

from __future__ import annotations

from typing import Any

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, map_leaves
from portable_bp_backends._host import native_copy
from portable_bp_backends._runs import check_run


class ScanRunner:
    """Runs the steps of a call as one ``jit`` of a ``lax.scan`` that is handed the state's memory.

    The program is traced once for each combination of shapes (an epoch of ``s`` equal batches and a
    ragged last batch are two), and a call returns before the device has finished.

    Attributes
    ----------
    traces : int
        How often the step was traced so far.
    """

    def __init__(self, backend: Backend, step: Step, state: Tree) -> None:
        import jax

        self._backend = backend
        self.traces = 0
        # The compiled program takes the state's memory for its result: it must be our own.
        with backend.scope():
            self._state = map_leaves(backend.copy, state)

        def epoch(state: Tree, data: tuple[Any, ...], order: Any, table: tuple[Any, ...]) -> Tree:
            self.traces += 1

            def advance(state: Tree, now: tuple[Any, tuple[Any, ...]]) -> tuple[Tree, Tree]:
                index, numbers = now
                batch = data
                if index is not None:
                    # The rows are known to exist: take's default would select NaN for those beyond.
                    batch = tuple(backend.xp.take(d, index, axis=0, mode="clip") for d in data)
                return step(backend.xp, state, (*batch, numbers))

            return jax.lax.scan(advance, state, (order, table))

        self._epoch = jax.jit(epoch, donate_argnums=0)

    @property
    def state(self) -> Tree:
        with self._backend.scope():
            return map_leaves(self._backend.copy, self._state)

    def run(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> Tree:
        check_run(data, order, table)
        backend = self._backend
        for t in table:
            backend.dtype(t.dtype.name)  # refuses what JAX would silently narrow
        # jit moves host arrays several times faster than device_put does. They must be copies: JAX
        # may read them after this call has returned.
        rows = None if order is None else native_copy(order, backend.index_dtype)
        numbers = tuple(native_copy(t) for t in table)
        # The precision that scope() sets must hold while the program is traced.
        with backend.scope():
            self._state, losses = self._epoch(self._state, data, rows, numbers)
        return losses
