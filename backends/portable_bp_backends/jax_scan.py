"""JAX: a whole epoch as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.extend.core
import numpy as np

from portable_bp._cache import Recent
from portable_bp._tree import leaves, map_leaves
from portable_bp._typing import Array, HostArray, Namespace, Step, Tree
from portable_bp.backend import Backend
from portable_bp.processes import muted
from portable_bp_backends._host import native_copy
from portable_bp_backends._runs import CannotReplayError, ReplayRunner

PROGRAMS = 16
"""How many compiled steps, and how many forms of arguments of a function, are remembered."""


class _Program:
    """A step as a compiled epoch, for whatever runs it: the next fit of an equal network, too."""

    def __init__(self, backend: Backend, step: Step) -> None:
        self.traces = 0
        self.checked: set[Any] = set()

        def epoch(state: Tree, data: tuple[Any, ...], order: Any, table: tuple[Any, ...]) -> Tree:
            self.traces += 1

            def advance(state: Tree, step_inputs: tuple[Any, tuple[Any, ...]]) -> tuple[Tree, Tree]:
                index, numbers = step_inputs
                batch = data
                if index is not None:
                    # The rows are known to exist: take's default would select NaN for those beyond.
                    batch = tuple(backend.xp.take(d, index, axis=0, mode="clip") for d in data)
                return step(backend.xp, state, (*batch, numbers))

            return jax.lax.scan(advance, state, (order, table))

        # It takes the state's memory for its result.
        self.epoch = jax.jit(epoch, donate_argnums=0)


@lru_cache(maxsize=PROGRAMS)
def _program(backend: Backend, step: Step) -> _Program:
    return _Program(backend, step)


class ScanRunner(ReplayRunner):
    """Runs the steps of a call as one ``jit`` of a ``lax.scan`` that is handed the state's memory.

    The program is traced once for each combination of shapes (an epoch of ``s`` equal batches and a
    ragged last batch are two), also when another runner of the same step has met them, and a call
    returns before the device has finished. A step that JAX cannot trace runs eagerly.

    Attributes
    ----------
    traces : int
        How often the step was traced since this runner was made.
    """

    recording = "program"

    def __init__(self, backend: Backend, step: Step, state: Tree) -> None:
        super().__init__(backend, step)
        self._program = _program(backend, step)
        self._before = self._program.traces
        # The compiled program takes the state's memory for its result: it must be our own.
        with backend.scope():
            self._state = map_leaves(backend.copy, state)

    @property
    def traces(self) -> int:
        return self._program.traces - self._before

    def _copied(self) -> Tree:
        with self._backend.scope():
            return map_leaves(self._backend.copy, self._state)

    def _forget(self) -> None:
        self._program.epoch.clear_cache()

    def _replay(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        backend = self._backend
        for t in table:
            backend.dtype(t.dtype.name)  # refuses what JAX would silently narrow
        # jit moves host arrays several times faster than device_put does. They must be copies: JAX
        # may read them after this call has returned.
        rows = None if order is None else native_copy(order, backend.index_dtype)
        numbers = tuple(native_copy(t) for t in table)
        args = (self._state, data, rows, numbers)
        arrays = leaves((self._state, data, () if rows is None else rows, numbers))
        form = tuple((a.shape, str(a.dtype)) for a in arrays)
        if form not in self._program.checked:
            batch = data if rows is None else tuple(d[rows[0], ...] for d in data)
            example = self._state, (*batch, tuple(t[0] for t in numbers))
            step = partial(self._step, backend.xp)
            with muted():
                check_traceable(partial(self._program.epoch.trace, *args), step, example)
            self._program.checked.add(form)
        # The precision that scope() sets must hold while the program is traced.
        self._state, losses = self._program.epoch(*args)
        return losses


def check_traceable(
    trace: Callable[[], Any], f: Callable[..., Tree], args: tuple[Any, ...]
) -> None:
    """``trace()`` a program that calls ``f`` at ``args``, or refuse.

    JAX reads a NumPy array that a function uses when it compiles, not when the array is used: one
    that the function changes in between would count with its last values. So a function with such
    constants has to give, operation by operation, what it gives eagerly.
    """
    try:
        constants = trace().jaxpr.consts
        if not any(not isinstance(c, jax.Array) and c.ndim for c in constants):
            return
        traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(f)(*args))(*leaves(args))
    except jax.errors.JAXTypeError as error:
        raise CannotReplayError(str(error).splitlines()[0]) from error
    for a, b in zip(traced, map(np.asarray, leaves(f(*args))), strict=True):
        scale = float(np.max(np.abs(b), where=np.isfinite(b), initial=0))
        if not np.allclose(a, b, 0, 1e-5 * scale, equal_nan=True):
            raise CannotReplayError("it changes a NumPy array that it has used before")


def compile_function(xp: Namespace, f: Callable[..., Tree]) -> Callable[..., Tree]:
    """``f(xp, *trees)`` as a function of the trees: through ``jit``, or eagerly if it must be."""
    eager = partial(f, xp)
    compiled: Any = jax.jit(eager)
    traceable: Recent[bool] = Recent(PROGRAMS)

    def call(*trees: Tree) -> Tree:
        form = map_leaves(lambda a: (a.shape, str(a.dtype)), trees)
        fits = traceable.get(form)
        if fits is None:
            try:
                check_traceable(partial(compiled.trace, *trees), eager, trees)
                fits = True
            except CannotReplayError:
                fits = False
            traceable.put(form, fits)
        return compiled(*trees) if fits else eager(*trees)

    return call
