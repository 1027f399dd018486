"""Running plans: training steps over a table of numbers, and functions over their arguments."""

from __future__ import annotations

import operator
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np

from portable_bp._typing import Array, HostArray, Namespace, Step, Tree
from portable_bp.backend import leaves, map_leaves
from portable_bp_backends._runs import check_run
from portable_bp_backends.numpy_plan.memory import State
from portable_bp_backends.numpy_plan.plan import Plan
from portable_bp_backends.numpy_plan.switches import Switches
from portable_bp_backends.numpy_plan.trace import trace_function, trace_step

KEPT = 16
"""How many plans a runner or a function keeps, of the shapes it met last."""

IDLE = 1 << 24
"""Bytes of the memory of steps that nothing runs at present, kept for another run of them."""

LARGE = 1 << 23
"""Bytes of arguments from which on a function runs as it is written."""

T = TypeVar("T")


class _Recent(Generic[T]):
    """The entries used last, by key; safe to use from several threads."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Any, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Any, entry: T) -> T:
        """Keep the entry, or an earlier one under the same key; answers with the one kept."""
        with self._lock:
            kept = self._entries.setdefault(key, entry)
            self._entries.move_to_end(key)
            while len(self._entries) > KEPT:
                self._entries.popitem(last=False)
            return kept

    def entries(self) -> list[T]:
        with self._lock:
            return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


class _Batches:
    """A plan for mini-batches of one size, and the buffers that they are gathered in, several ahead."""

    def __init__(self, plan: Plan, example: tuple[Any, ...], ahead: int) -> None:
        self.plan = plan
        nbytes = max(1, sum(rows.nbytes for rows in example))
        self.count = max(1, ahead // nbytes)
        self._buffers = [np.empty((self.count, *rows.shape), rows.dtype) for rows in example]
        self.nbytes = sum(buffer.nbytes for buffer in self._buffers)
        self.handed = [plan.bind(batch) for batch in zip(*self._buffers, strict=True)]

    def gather(self, data: tuple[Any, ...], order: Any) -> None:
        """Fill the buffers with the rows ``order`` of all arrays.

        None is out of bounds: that was checked. ``"clip"`` spares ``take`` a buffer of its own.
        """
        for rows, buffer in zip(data, self._buffers, strict=True):
            flat = buffer.reshape(-1, *rows.shape[1:])
            rows.take(order.reshape(-1), 0, flat[: order.size], "clip")


class _Workshop:
    """What a step works with: memory for its state, and its plans and buffers by kind of mini-batch."""

    def __init__(self, state: list[Any]) -> None:
        self.memory = State(state)
        self.plans: _Recent[Plan] = _Recent()
        self.batches: _Recent[_Batches] = _Recent()

    def start(self, state: list[Any]) -> None:
        """Take over another state."""
        for place, leaf in zip(self.memory.arrays, state, strict=True):
            place[...] = leaf

    @property
    def nbytes(self) -> int:
        owned = (self.memory.arrays, self.plans.entries(), self.batches.entries())
        return sum(int(owner.nbytes) for part in owned for owner in part)


_idle: weakref.WeakKeyDictionary[Step, dict[Any, _Workshop]] = weakref.WeakKeyDictionary()
"""Workshops whose runner is gone, by step and form of the state; they go with the step."""

_idle_lock = threading.RLock()  # the end of a runner may come in the middle of anything


def _keep(idle: dict[Any, _Workshop], form: Any, workshop: _Workshop) -> None:
    """Keep a workshop; all others are dropped when they have become too large together."""
    with _idle_lock:
        kept = list(_idle.values())
        if workshop.nbytes + sum(w.nbytes for ws in kept for w in list(ws.values())) > IDLE:
            for workshops in kept:
                workshops.clear()
        if workshop.nbytes <= IDLE:
            idle[form] = workshop


class PlanRunner:
    """A training step bound to its state: a :class:`portable_bp.backend.Runner`.

    Each size of mini-batch has a plan of its own; all of them work on the one state. When a
    runner is gone, they wait for the next one of the same step.
    """

    def __init__(self, xp: Namespace, step: Step, state: Tree, switches: Switches) -> None:
        self._xp, self._step, self._switches = xp, step, switches
        given = [np.asarray(leaf) for leaf in leaves(state)]
        form = xp, switches, tuple((a.shape, a.dtype) for a in given)
        with _idle_lock:
            idle = _idle.setdefault(step, {})
            found = idle.pop(form, None)
        workshop = found or _Workshop(given)
        workshop.start(given)
        weakref.finalize(self, _keep, idle, form, workshop).atexit = False
        self._memory, self._plans, self._batches = (
            workshop.memory, workshop.plans, workshop.batches,
        )  # fmt: skip
        arrays = iter(self._memory.arrays)
        self._state = map_leaves(lambda leaf: next(arrays), state)

    @property
    def state(self) -> Tree:
        """A private copy of the present state: later steps do not change it."""
        return map_leaves(np.copy, self._state)

    def run(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> Tree:
        """Advance the state by one step for each entry of the table's arrays.

        The indices in ``order`` are checked before the first step.
        """
        steps = check_run(data, order, table)
        rows = tuple(map(np.ascontiguousarray, data))
        if order is None:
            plan = self.plan(rows, table)
            losses = _Losses(plan, steps)
            losses.extend(map(operator.add, [plan.bind(rows)] * steps, plan.numbers(table)))
            return losses.found
        indices = np.ascontiguousarray(order, np.intp)
        batches = self._mini_batches(rows, indices[0], table)
        losses = _Losses(batches.plan, steps)
        each = batches.plan.numbers(table)
        for start in range(0, steps, batches.count):
            ahead = slice(start, start + batches.count)
            batches.gather(rows, indices[ahead])
            losses.extend(map(operator.add, batches.handed, each[ahead]))
        return losses.found

    def plan(self, batch: tuple[Any, ...], table: tuple[Any, ...]) -> Plan:
        """The plan for a batch and a table of these shapes and dtypes."""
        key = tuple((a.shape, a.dtype) for a in batch), tuple(t.dtype for t in table)
        plan = self._plans.get(key)
        if plan is None:
            now = tuple(t[0, ...] for t in table)
            graph = trace_step(self._xp, self._step, self._state, batch, now)
            plan = self._plans.put(key, Plan(graph, self._memory, self._switches))
        return plan

    def _mini_batches(self, data: tuple[Any, ...], rows: Any, table: tuple[Any, ...]) -> _Batches:
        forms = tuple((d.shape[1:], d.dtype) for d in data)
        key = len(rows), forms, tuple(t.dtype for t in table)
        batches = self._batches.get(key)
        if batches is None:
            example = tuple(d[rows] for d in data)
            plan = self.plan(example, table)
            batches = self._batches.put(key, _Batches(plan, example, self._switches.ahead))
        return batches


class _Losses:
    """Runs a plan and keeps what it returns: ``()`` when the step reports no loss."""

    def __init__(self, plan: Plan, steps: int) -> None:
        self._replay, self._done = plan.replay, 0
        self.found: Any = ()
        for loss in plan.results:
            self.found = np.empty((steps, *loss.shape), loss.dtype)

    def extend(self, arguments: Iterable[tuple[Any, ...]]) -> None:
        replay, found = self._replay, self.found
        if isinstance(found, tuple):
            for handed in arguments:
                replay(*handed)
            return
        done = self._done
        for handed in arguments:
            found[done] = replay(*handed)
            done += 1
        self._done = done


class PlanFunction:
    """``f(xp, *trees)`` as a function of the trees, through a plan for each form of them.

    Results are new arrays, with the bits that ``f`` itself gives. Shapes that come for the first
    time are left to ``f``: what is called once is not worth a plan. So is what is large: it does not
    wait for Python, and a plan would keep its memory. Several threads may call it at once; a plan
    that is in use is out of reach of the others. A function that cannot be traced, because it looks
    at numbers, runs as it is written.
    """

    def __init__(self, xp: Namespace, f: Callable[..., Tree]) -> None:
        self._xp, self._f = xp, f
        self._idle: _Recent[list[Plan]] = _Recent()
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
                graph = trace_function(self._xp, self._f, trees)
            except Exception:  # where f itself is wrong, it says so now
                self._traceable = False
                return self._f(self._xp, *trees)
            plan = Plan(graph, State([]), Switches(exact=True))
        results = plan.replay(*plan.bind(arrays))
        if len(plan.results) == 1:
            results = (results,)
        found = map_leaves(lambda position: results[position].copy(), plan.form)
        idle.append(plan)
        return found


def _form(tree: Tree, arrays: list[Any]) -> Any:
    """The form of a tree with the shapes and dtypes of its leaves, which are appended to ``arrays``."""
    if isinstance(tree, tuple):
        return tuple([_form(branch, arrays) for branch in tree])
    arrays.append(tree)
    return tree.shape, tree.dtype
