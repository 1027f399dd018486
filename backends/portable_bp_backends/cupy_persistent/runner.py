"""Kernels of many steps on a device: compiled, proved, launched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import array_api_compat.numpy
import numpy as np

from portable_bp._cache import Recent
from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, EagerRunner, Runner, extend, leaves, map_leaves
from portable_bp_backends._graph import GraphRunner, RecordedRunner
from portable_bp_backends._runs import CannotReplayError, NotWorthItError
from portable_bp_backends.cupy_graph import CupyRecorder
from portable_bp_backends.cupy_persistent.source import NAME, Kernel, kernel
from portable_bp_backends.numpy_plan.trace import trace_step

PRODUCTS = 3 * 2**18
"""A step with more multiplications than this runs from graphs, on all multiprocessors: one of them,
at some 28 a nanosecond, would take longer than the launches in a graph. Predicted, not measured."""

STEPS = 2**14
"""At most so many steps in one launch: some tens of milliseconds, between which others get a turn."""

PROVED = 4
"""So many steps are compared with the eager ones."""

OPTIONS = ("--fmad=false",)
"""Each operation rounds as it is written, whatever else is in a kernel: the same step has the same
bits in every one, and a run that is resumed those of one that was not."""

PROGRAMS = 8
"""Combinations of shapes whose kernels are kept, the latest."""

_NATIVE = ("philox4x32", "erfc")
"""Groups of the equations that the kernel has a word for; all others are traced as they stand."""

_xp = extend(
    array_api_compat.numpy,
    lambda group: partial(group, xp=array_api_compat.numpy) if group.__name__ in _NATIVE else None,
)

Batch = tuple[HostArray, ...]


@dataclass(frozen=True)
class _Program:
    """A kernel on the device, and the array that the losses of ``n`` steps go to."""

    kernel: Kernel
    compiled: Any
    constants: Array
    losses: tuple[tuple[tuple[int, ...], Any], ...]


def suits(step: Step, state: Tree) -> bool:
    """Whether a step can be traced on the host, and one block on the current device holds its state."""
    import cupy

    arrays: list[Any] = list(leaves(state))
    one_kind = {a.dtype.name for a in arrays} in ({"float32"}, {"float64"})
    small = sum(int(a.nbytes) for a in arrays) <= _shared_bytes(cupy)
    return hasattr(step, "moved") and one_kind and small


def _shared_bytes(cupy: Any) -> int:
    runtime = cupy.cuda.runtime
    attribute = runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
    most: int = runtime.deviceGetAttribute(attribute, runtime.getDevice())
    return most


def _sizes(order: HostArray) -> HostArray:
    """How many rows each step sees; only the end of a list may lack some."""
    sizes: HostArray = np.count_nonzero(order >= 0, axis=1)
    if not sizes.all() or ((order < 0) != (np.arange(order.shape[1]) >= sizes[:, None])).any():
        raise IndexError("a row of order may lack rows at its end alone, marked by -1")
    return sizes


def by_size(order: HostArray | None) -> Iterator[tuple[slice, HostArray | None]]:
    """Which consecutive steps see equally many rows, and the lists of these.

    >>> order = np.array([[0, 1], [2, 3], [4, -1], [1, 0]])
    >>> [(now.start, now.stop, rows.tolist()) for now, rows in by_size(order)]
    [(0, 2, [[0, 1], [2, 3]]), (2, 3, [[4]]), (3, 4, [[1, 0]])]
    """
    if order is None:
        yield slice(None), None
        return
    sizes = _sizes(order)
    cuts = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    for first, last in itertools.pairwise(cuts):
        yield slice(first, last), order[first:last, : sizes[first]]


class PersistentRunner(RecordedRunner):
    """Runs many steps in one launch, see :class:`portable_bp.backend.Runner`.

    Before a kernel is used it is proved on the first steps of the run. How it changes each array of
    the state, and the losses, may differ from what the eager steps do, as Euclidean norms, by the
    cube root of the dtype's epsilon (0.5 % in float32, 6e-6 in float64) of that change, and by
    four times the distance of the eager steps themselves from the same steps in float64. Sums in
    another order stay far below it; a wrong entry or index does not.
    What cannot be written as a kernel, or differs, runs from graphs, with a warning that says why.

    Attributes
    ----------
    launches : kernels that were launched, those of proofs left out
    """

    recording = "persistent kernel"
    otherwise = "from graphs"
    ragged = True

    def __init__(self, backend: Backend, step: Step, state: Tree, recorder: CupyRecorder) -> None:
        import cupy

        super().__init__(backend, step)
        self._cupy, self._recorder, self.launches = cupy, recorder, 0
        self._programs: Recent[_Program] = Recent(PROGRAMS)
        with backend.scope(), recorder.inside():
            self._on_host: Step = vars(step)["moved"](backend.to_numpy)
            self._flat = cupy.concatenate([cupy.ravel(leaf) for leaf in leaves(state)])
            self._state = self._views(self._flat, state)

    def _views(self, memory: Any, form: Tree) -> Tree:
        """The leaves of the state, one after the other in this memory."""
        end = 0

        def view(leaf: Any) -> Any:
            nonlocal end
            end += leaf.size
            return memory[end - leaf.size : end].reshape(leaf.shape)

        return map_leaves(view, form)

    def _another(self, state: Tree) -> Runner:
        return GraphRunner(self._backend, self._step, state, self._recorder)

    def _run_otherwise(
        self,
        other: Runner,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        parts = [
            other.run(data, rows, tuple(t[now] for t in table)) for now, rows in by_size(order)
        ]
        with self._backend.scope():
            return map_leaves(lambda *losses: self._cupy.concatenate(losses), *parts)

    def _replay(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        with self._recorder.inside():
            data = tuple(map(self._cupy.ascontiguousarray, data))
            program = self._program(data, order, table)
            losses = self._run(program, self._flat, data, order, table)
            self.launches += -(-steps // STEPS)
        with self._recorder.outside():
            return map_leaves(self._backend.copy, losses)

    def _run(
        self,
        program: _Program,
        state: Any,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        """Launch all steps on a state, which changes; their losses."""
        cupy, made, steps = self._cupy, program.kernel, len(table[0])
        losses = tuple(cupy.empty((steps, *shape), dtype) for shape, dtype in program.losses)
        lists = () if order is None else (order.astype(np.int32),)
        for start in range(0, steps, STEPS):
            now = slice(start, start + STEPS)
            rows, numbers = (
                [cupy.asarray(np.ascontiguousarray(column[now])) for column in columns]
                for columns in (lists, table)
            )
            program.compiled(
                (1,), (made.threads,),
                (np.int32(min(STEPS, steps - start)), *rows, state, *(l[now] for l in losses),
                 program.constants, *data, *numbers),
                shared_mem=made.shared,
            )  # fmt: skip
        return losses[0] if losses else ()

    # --- what a program is

    def _program(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> _Program:
        """The program for these shapes."""
        sizes = np.zeros(len(table[0]), int) if order is None else _sizes(order)
        kinds = () if order is None else (order.shape[1], *np.unique(sizes)[::-1].tolist())
        forms = tuple((d.dtype.str, d.shape[1:] if order is not None else d.shape) for d in data)
        key = kinds, forms, tuple(t.dtype.str for t in table)
        program = self._programs.get(key)
        if program is None:
            if len(kinds) > 2 and (len(kinds) > 3 or kinds[0] > kinds[1]):
                raise NotWorthItError  # a kernel knows one smaller mini-batch
            # The first steps, and the first on a smaller mini-batch.
            some = np.union1d(np.arange(len(sizes))[:PROVED], [np.argmax(sizes), np.argmin(sizes)])
            order, table = None if order is None else order[some], tuple(t[some] for t in table)
            batches = self._batches(data, order, len(some))
            program = self._compiled(batches, order, table)
            self._prove(program, batches, data, order, table)
            program = self._programs.put(key, program)
        return program

    def _batches(self, data: tuple[Array, ...], order: HostArray | None, steps: int) -> list[Batch]:
        """What these steps see, on the host."""
        host = self._backend.to_numpy
        if order is None:
            return [tuple(map(host, data))] * steps
        rows = [np.asarray(row[row >= 0]) for row in order]
        taken = [
            host(self._cupy.take(d, self._cupy.asarray(np.concatenate(rows)), axis=0)) for d in data
        ]
        ends = np.cumsum([len(row) for row in rows])[:-1]
        return list(zip(*(np.split(t, ends) for t in taken), strict=True))

    def _compiled(
        self, batches: list[Batch], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> _Program:
        """The kernel for steps on mini-batches of these sizes."""
        cupy = self._cupy
        state = map_leaves(self._backend.to_numpy, self._state)
        kinds = {len(batch[0]): batch for batch in batches}
        try:
            graphs = [
                trace_step(_xp, self._on_host, state, kinds[n], tuple(t[0, ...] for t in table))
                for n in sorted(kinds, reverse=True)
            ]
            made = kernel(graphs, width=0 if order is None else order.shape[1])
        except (CannotReplayError, MemoryError):
            raise
        except Exception as error:  # where the step itself is wrong, it says so when it runs
            raise CannotReplayError(f"{type(error).__name__}: {error}") from error
        if made.shared > _shared_bytes(cupy) or made.products > PRODUCTS:
            raise NotWorthItError
        compiled = cupy.RawKernel(made.text, NAME, OPTIONS)
        try:
            compiled.max_dynamic_shared_size_bytes = made.shared
        except cupy.cuda.compiler.CompileException as error:
            raise CannotReplayError(f"it does not compile: {error}") from error
        constants = cupy.asarray(np.frombuffer(made.constants or bytes(1), np.uint8))
        losses = tuple((result.shape, result.dtype) for result in graphs[0].results)
        return _Program(made, compiled, constants, losses)

    # --- the proof

    def _prove(
        self,
        program: _Program,
        batches: list[Batch],
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> None:
        """Compare these steps with the eager ones; nothing of them stays."""
        host = self._backend.to_numpy
        flat = self._flat.copy()
        losses = self._run(program, flat, data, order, table)
        got = map(host, leaves((self._views(flat, self._state), losses)))
        runner = EagerRunner(self._backend, self._step, self._state)
        reported = self._run_otherwise(runner, data, order, table)
        want = map(host, leaves((runner.state, reported)))
        before = [*map(host, leaves(self._state)), 0.0]
        dtype = self._flat.dtype
        for arrays in zip(got, want, leaves(self._exact(batches, table)), before, strict=False):
            g, w, exact, old = (np.asarray(a, np.float64) for a in arrays)
            if not np.isfinite(w).all():
                raise NotWorthItError  # there is nothing to compare
            distance, allowed = np.linalg.norm(g - w), _allowed(w, exact, old, dtype)
            if not distance <= allowed:
                raise CannotReplayError(
                    f"its first steps differ from the eager ones by {distance:.1e}, where "
                    f"{allowed:.1e} is rounding"
                )

    def _exact(self, batches: list[Batch], table: tuple[HostArray, ...]) -> Tree:
        """State and losses of the same steps in float64, on the host."""

        def wide(a: Any) -> Any:
            return a.astype(np.float64) if a.dtype.kind == "f" else a

        state, losses = map_leaves(lambda a: wide(self._backend.to_numpy(a)), self._state), []
        with np.errstate(all="ignore"):
            for i, batch in enumerate(batches):
                numbers = tuple(wide(t[i, ...]) for t in table)
                state, loss = self._on_host(_xp, state, (*map(wide, batch), numbers))
                losses.append(loss)
        return state, () if isinstance(losses[0], tuple) else np.stack(losses)


def _allowed(want: Any, exact: Any, before: Any, dtype: Any) -> float:
    """How far an array may be from ``want``, see :class:`PersistentRunner`."""
    eps = float(np.finfo(dtype).eps)
    of_change = math.cbrt(eps) * np.linalg.norm(want - before)
    own = np.linalg.norm(want - exact)
    return float(of_change + 4 * own + 4 * eps * np.linalg.norm(want))
