"""Running plans: training steps over a table of numbers, and functions over their arguments."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from portable_bp._cache import Recent
from portable_bp._tree import leaves, map_leaves
from portable_bp._typing import Array, HostArray, Namespace, Step, Tree
from portable_bp.backend import Backend
from portable_bp.processes import muted
from portable_bp_backends._runs import CannotReplayError, ReplayRunner
from portable_bp_backends.numpy_plan.memory import State
from portable_bp_backends.numpy_plan.options import PlanOptions
from portable_bp_backends.numpy_plan.plan import Plan
from portable_bp_backends.numpy_plan.trace import StateError, check_pure, trace_function, trace_step

KEPT = 16
"""How many plans a runner or a function keeps, of the shapes it met last."""

IDLE = 1 << 24
"""Bytes of the memory of steps that nothing runs at present, kept for another run of them."""

LARGE = 1 << 23
"""Bytes of arguments from which on a function runs eagerly."""


class _Batches:
    """A plan for mini-batches of one size, and the buffers that they are gathered in, several ahead."""

    def __init__(self, plan: Plan, example: tuple[Any, ...], prefetch_bytes: int) -> None:
        self.plan = plan
        nbytes = max(1, sum(rows.nbytes for rows in example))
        self.count = max(1, prefetch_bytes // nbytes)
        self._buffers = [np.empty((self.count, *rows.shape), rows.dtype) for rows in example]
        self.nbytes = sum(buffer.nbytes for buffer in self._buffers)
        self.arguments = [plan.bind(batch) for batch in zip(*self._buffers, strict=True)]

    def gather(self, data: tuple[Any, ...], order: Any) -> None:
        """Fill the buffers with the rows ``order`` of all arrays.

        None is out of bounds: that was checked. ``"clip"`` spares ``take`` a buffer of its own.
        """
        for rows, buffer in zip(data, self._buffers, strict=True):
            flat = buffer.reshape(-1, *rows.shape[1:])
            rows.take(order.reshape(-1), 0, flat[: order.size], "clip")


class _Workspace:
    """What a step works with: memory for its state, and its plans and buffers by kind of mini-batch."""

    def __init__(self, state: list[Any]) -> None:
        self.memory = State(state)
        self.plans: Recent[Plan] = Recent(KEPT)
        self.batches: Recent[_Batches] = Recent(KEPT)

    def start(self, state: list[Any]) -> None:
        """Take over another state."""
        for place, leaf in zip(self.memory.arrays, state, strict=True):
            place[...] = leaf

    @property
    def nbytes(self) -> int:
        owned = (self.memory.arrays, self.plans.entries(), self.batches.entries())
        return sum(int(owner.nbytes) for part in owned for owner in part)


_idle: weakref.WeakKeyDictionary[Step, dict[Any, _Workspace]] = weakref.WeakKeyDictionary()
"""Workspaces whose runner is gone, by step and form of the state; they go with the step."""

_idle_lock = threading.RLock()  # the end of a runner may come in the middle of anything


def _keep(idle: dict[Any, _Workspace], form: Any, workspace: _Workspace) -> None:
    """Keep a workspace; all others are dropped when they have become too large together."""
    with _idle_lock:
        all_idle = list(_idle.values())
        if workspace.nbytes + sum(w.nbytes for ws in all_idle for w in list(ws.values())) > IDLE:
            for workspaces in all_idle:
                workspaces.clear()
        if workspace.nbytes <= IDLE:
            idle[form] = workspace


class PlanRunner(ReplayRunner):
    """A training step bound to its state: a :class:`portable_bp.backend.Runner`.

    Each size of mini-batch has a plan of its own; all of them work on the one state. When a
    runner is gone, they wait for the next one of the same step.
    """

    recording = "plan"

    def __init__(self, backend: Backend, step: Step, state: Tree, options: PlanOptions) -> None:
        super().__init__(backend, step)
        self._options = options
        arrays = [np.asarray(leaf) for leaf in leaves(state)]
        form = backend.xp, options, tuple((a.shape, a.dtype) for a in arrays)
        with _idle_lock:
            idle = _idle.setdefault(step, {})
            reused = idle.pop(form, None)
        workspace = reused or _Workspace(arrays)
        workspace.start(arrays)
        weakref.finalize(self, _keep, idle, form, workspace).atexit = False
        self._memory, self._plans, self._batches = (
            workspace.memory, workspace.plans, workspace.batches,
        )  # fmt: skip
        placed = iter(self._memory.arrays)
        self._state = map_leaves(lambda leaf: next(placed), state)

    def _copied(self) -> Tree:
        return map_leaves(np.copy, self._state)

    def _forget(self) -> None:
        self._plans.clear()
        self._batches.clear()

    def _replay(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        rows = tuple(map(np.ascontiguousarray, data))
        if order is None:
            plan = self.plan(rows, table)
            losses = _Losses(plan, steps)
            losses.extend(map(operator.add, [plan.bind(rows)] * steps, plan.numbers(table)))
            return losses.values
        indices = np.ascontiguousarray(order, np.intp)
        batches = self._mini_batches(rows, indices[0], table)
        losses = _Losses(batches.plan, steps)
        each = batches.plan.numbers(table)
        for start in range(0, steps, batches.count):
            chunk = slice(start, start + batches.count)
            batches.gather(rows, indices[chunk])
            losses.extend(map(operator.add, batches.arguments, each[chunk]))
        return losses.values

    _replay_in_scope = (
        _replay  # whoever trains is in the scope: it is entered once, not in each run
    )

    def plan(self, batch: tuple[Any, ...], table: tuple[Any, ...]) -> Plan:
        """The plan for a batch and a table of these shapes and dtypes."""
        key = tuple((a.shape, a.dtype) for a in batch), _columns(table)
        plan = self._plans.get(key)
        if plan is None:
            step_inputs = tuple(t[0, ...] for t in table)
            try:
                with muted():
                    graph = trace_step(
                        self._backend.xp, self._step, self._state, batch, step_inputs
                    )
                plan = Plan(graph, self._memory, self._options)
            except (CannotReplayError, StateError, MemoryError):
                raise
            except Exception as error:  # where the step itself is wrong, it says so when it runs
                raise CannotReplayError(f"{type(error).__name__}: {error}") from error
            plan = self._plans.put(key, plan)
        return plan

    def _mini_batches(self, data: tuple[Any, ...], rows: Any, table: tuple[Any, ...]) -> _Batches:
        forms = tuple((d.shape[1:], d.dtype) for d in data)
        key = rows.shape, forms, _columns(table)
        batches = self._batches.get(key)
        if batches is None:
            example = tuple(d[rows] for d in data)
            plan = self.plan(example, table)
            batches = self._batches.put(key, _Batches(plan, example, self._options.prefetch_bytes))
        return batches


def _columns(table: tuple[Any, ...]) -> Any:
    """What the numbers of one step look like."""
    return tuple((t.shape[1:], t.dtype) for t in table)


class _Losses:
    """Runs a plan and keeps what it returns: ``()`` when the step reports no loss."""

    def __init__(self, plan: Plan, steps: int) -> None:
        self._replay, self._done = plan.replay, 0
        self.values: Any = ()
        for loss in plan.results:
            self.values = np.empty((steps, *loss.shape), loss.dtype)

    def extend(self, arguments: Iterable[tuple[Any, ...]]) -> None:
        replay, values = self._replay, self.values
        if isinstance(values, tuple):
            for bound in arguments:
                replay(*bound)
            return
        done = self._done
        for bound in arguments:
            values[done] = replay(*bound)
            done += 1
        self._done = done


class PlanFunction:
    """``f(xp, *trees)`` as a function of the trees, through a plan for each form of them.

    Results are new arrays, with the bits that ``f`` itself gives. Shapes that come for the first
    time are left to ``f``: what is called once is not worth a plan. So is what is large: it does not
    wait for Python, and a plan would keep its memory. Several threads may call it at once; a plan
    that is in use is out of reach of the others. A function that no plan can stand for runs eagerly.
    """

    def __init__(self, xp: Namespace, f: Callable[..., Tree]) -> None:
        self._xp, self._f = xp, f
        self._idle: Recent[list[Plan]] = Recent(KEPT)
        self._traceable = True

    def __call__(self, *trees: Tree) -> Tree:
        arrays: list[Any] = []
        key = _form(trees, arrays)
        if sum([a.nbytes for a in arrays]) > LARGE or not self._traceable:
            return self._f(self._xp, *trees)
        idle = self._idle.get(key)
        if idle is None:
            self._idle.put(key, [])
            return self._f(self._xp, *trees)
        try:
            plan = idle.pop()
        except IndexError:
            try:
                plan = self._planned(trees, arrays)
            except Exception:  # where f itself is wrong, it says so now
                self._traceable = False
                return self._f(self._xp, *trees)
        results = _results(plan, arrays)
        idle.append(plan)
        return results

    def _planned(self, trees: tuple[Tree, ...], arrays: list[Any]) -> Plan:
        """A plan whose first replay agrees with ``f``."""
        graph = trace_function(self._xp, self._f, trees)
        plan = Plan(graph, State([]), PlanOptions(exact=True))
        check_pure(self._f, self._xp, trees, _results(plan, arrays))
        return plan


def _results(plan: Plan, arrays: list[Any]) -> Tree:
    """What a replay on these arrays gives, as new arrays."""
    results = plan.replay(*plan.bind(arrays))
    if len(plan.results) == 1:
        results = (results,)
    return map_leaves(lambda position: results[position].copy(), plan.form)


def _form(tree: Tree, arrays: list[Any]) -> Any:
    """The form of a tree with the shapes and dtypes of its leaves, which are appended to ``arrays``."""
    if isinstance(tree, tuple):
        return tuple([_form(branch, arrays) for branch in tree])
    arrays.append(tree)
    return tree.shape, tree.dtype
