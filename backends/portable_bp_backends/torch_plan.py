"""PyTorch on the CPU: a step recorded once and replayed into tensors that stay.

PyTorch's kernels are quick; what a small or middling network waits for is what surrounds them:
namespaces, Python numbers made into tensors, and memory that every temporary makes the system hand
out anew. So the step runs once under a recorder, which sees the kernels it comes down to; each is
bound to fixed operands and a fixed result, and from then on a step is that list of calls. The
kernels stay the same, and so do the bits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from portable_bp._cache import Recent
from portable_bp._tree import leaves, map_leaves
from portable_bp._typing import HostArray, Step, Tree
from portable_bp.backend import Backend
from portable_bp.processes import muted
from portable_bp_backends._runs import CannotReplayError, ReplayRunner

# Only the form of their operand matters, never its values.
_CONSTANT = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
# Kernels for which a 0-d tensor means the same as the Python number. Making a tensor of the number,
# which PyTorch does in every call, takes longer than the kernel itself on a small operand.
_TAKES_NUMBERS = ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge")

KEPT = 16
"""How many plans a runner keeps, of the shapes it met last."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function with its arguments and keywords."""


class _Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Notes each kernel call with its operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], tuple[Tensor, ...]]] = []

    def __torch_dispatch__(
        self, kernel: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        unfit = {
            torch.Tag.nondeterministic_seeded: "draws random numbers",
            torch.Tag.data_dependent_output: "reads values on the host",
            torch.Tag.dynamic_output_shape: "makes a shape that depends on values",
        }
        why = [reason for tag, reason in unfit.items() if tag in kernel.tags]
        if kernel._schema.is_mutable:
            why.append("changes a tensor in place")
        if why:
            raise CannotReplayError(f"{kernel} {why[0]}")
        out = kernel(*args, **(kwargs or {}))
        self.calls.append((kernel, args, kwargs or {}, tuple(_tensors(out))))
        return out


def _map(f: Callable[[Tensor], Tensor], operand: Any) -> Any:
    """``operand`` with ``f(tensor)`` in place of each tensor."""
    return map_leaves(lambda o: f(o) if isinstance(o, Tensor) else o, operand)


def _tensors(operand: Any) -> Iterator[Tensor]:
    return (o for o in leaves(operand) if isinstance(o, Tensor))


def _name(kernel: Any) -> str:
    name: str = kernel._schema.name.partition("::")[2]
    return name


def _memory(t: Tensor) -> int:
    """The memory that ``t`` looks into: the same for a tensor and its views."""
    return t.untyped_storage().data_ptr() or -id(t)  # empty tensors own none


def _form(t: Tensor) -> tuple[Any, ...]:
    return t.dtype, t.shape, t.stride()


def _empty(form: tuple[Any, ...]) -> Tensor:
    dtype, shape, stride = form
    empty: Tensor = torch.empty_strided(shape, stride, dtype=dtype)
    return empty


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit (so NaN equals NaN)."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    same: bool = torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))
    return same


def _ways(kernel: Any, args: tuple[Any, ...]) -> Iterator[tuple[Callable[..., Any], Any]]:
    """Functions with ``out=`` that may do the kernel's work, and their arguments; best first."""
    name = _name(kernel)
    if name == "rsub":  # a - b written the other way round, without out=
        name, args = "sub", (args[1], args[0], *args[2:])
    if name == "sum" and len(args) == 1:
        args = (*args, None)  # over all axes: the form that takes out=
    if name in ("_to_copy", "clone"):
        yield _copy, args[:1]
    function = getattr(torch, name, None)
    if function is None:
        return
    if name in _TAKES_NUMBERS:
        dtype = next(_tensors(args)).dtype

        def exact(value: Any) -> Any:
            fits = type(value) is int or (type(value) is float and dtype.is_floating_point)
            return torch.tensor(value, dtype=dtype) if fits else value

        yield function, tuple(map(exact, args))
    yield function, args


def _copy(source: Tensor, *, out: Tensor) -> None:
    out.copy_(source)


def _call(kernel: Any, args: Any, kwargs: Any, *, out: tuple[Tensor, ...]) -> None:
    """For a kernel that has no ``out=`` of its own."""
    for target, result in zip(out, _tensors(kernel(*args, **kwargs)), strict=True):
        target.copy_(result)


@dataclass(frozen=True)
class Plan:
    """A step as kernel calls that are bound to the tensors of a state and of a batch.

    Attributes
    ----------
    calls : list of (function, arguments, keywords)
        A replay runs them in order; it reads the state's tensors and then overwrites them.
    batch, step_inputs : tuples of tensors
        The rows and the numbers of the step to come, filled before each replay.
    loss : where a replay leaves the loss, or ``()``
    """

    calls: list[Call]
    batch: tuple[Any, ...]
    step_inputs: tuple[Any, ...]
    loss: Tree

    def replay(self) -> None:
        for function, args, kwargs in self.calls:
            function(*args, **kwargs)

    def reads(self, t: Tensor) -> bool:
        """Whether a call reads the tensor."""
        return any(
            _memory(t) == _memory(o) for _, *operands, _ in self.calls for o in _tensors(operands)
        )


class _Planner:
    """Turns recorded calls into bound ones: who is written where.

    Parameters
    ----------
    recorded : list of (kernel, arguments, keywords, results)
    state, inputs : tuples of tensors: those to overwrite, and others that replays read
    after, loss : tuples of tensors: what the recorded step returned
    """

    def __init__(self, recorded: Any, state: Any, inputs: Any, after: Any, loss: Any) -> None:
        self.calls: list[Call] = []
        self._targets, self._results = state, after
        # From a recorded tensor to the one that stands for it; from memory to the tensor it is for.
        self._stands: dict[int, Tensor] = {id(t): t for t in (*state, *inputs)}
        self._owner: dict[int, Tensor] = {_memory(t): t for t in state}
        # Memory of results that nothing needs once its last reader ran, and tensors free by now.
        self._temporary: set[int] = set()
        self._free: dict[Any, list[Tensor]] = defaultdict(list)
        self._varies = {_memory(t) for t in (*state, *inputs)}
        work = [call for call in recorded if self._is_work(*call)]
        self._last: dict[int, float] = {}
        for i, (_, args, kwargs, _) in enumerate(work):
            self._last |= {_memory(t): i for t in _tensors((args, kwargs))}
        self._last |= {_memory(t): math.inf for t in (*after, *loss)}
        for i, call in enumerate(work):
            self._place(i, *call)
        self.loss = self._finish(loss)

    def _is_work(self, kernel: Any, args: Any, kwargs: Any, out: tuple[Tensor, ...]) -> bool:
        """Whether the results differ from replay to replay."""
        if _name(kernel) in _CONSTANT:
            return False
        varies = any(_memory(t) in self._varies for t in _tensors((args, kwargs)))
        if varies:
            self._varies |= {_memory(t) for t in out}
        return varies

    def _stand_in(self, t: Tensor) -> Tensor:
        if id(t) not in self._stands and _memory(t) in self._varies:
            raise CannotReplayError("it passes a tensor on by a way that cannot be followed")
        return self._stands.get(id(t), t)  # what never varies stays where it was made

    def _place(
        self, i: int, kernel: Any, args: Any, kwargs: Any, results: tuple[Tensor, ...]
    ) -> None:
        """Bind the ``i``-th call."""
        operands = list(_tensors((args, kwargs)))
        bound, keywords = _map(self._stand_in, args), _map(self._stand_in, kwargs)
        if any(_memory(t) == _memory(o) for t in results for o in operands):
            # Views are made once and cost a replay nothing.
            views = _tensors(kernel(*bound, **keywords))
            self._stands |= {id(t): view for t, view in zip(results, views, strict=True)}
            return
        for t in results:
            self._owner[_memory(t)] = self._stands[id(t)] = self._home(t, i, kernel, operands)
        out = tuple(self._stands[id(t)] for t in results)
        self.calls.append(self._bind(kernel, args, kwargs, results, out))
        for memory in {_memory(t) for t in operands} & self._temporary:
            if self._last[memory] == i:
                self._temporary.remove(memory)
                self._free[_form(self._owner[memory])].append(self._owner[memory])

    def _home(self, t: Tensor, i: int, kernel: Any, operands: list[Tensor]) -> Tensor:
        """A tensor to write the result ``t`` of call ``i`` into."""

        def overwritable(memory: int) -> bool:
            owner, last = self._owner[memory], self._last.get(memory, -1)
            readers = [self._stands[id(o)] for o in operands if _memory(o) == memory]
            in_place = torch.Tag.pointwise in kernel.tags and all(
                _form(r) == _form(owner) and r.data_ptr() == owner.data_ptr() for r in readers
            )
            return _form(owner) == _form(t) and (last < i or (last == i and in_place))

        for target, result in zip(self._targets, self._results, strict=True):
            if result is t and overwritable(_memory(target)):
                return target  # new state over old
        if self._last.get(_memory(t), -1) < math.inf:
            self._temporary.add(_memory(t))
        for memory in {_memory(o) for o in operands} & self._temporary:
            if overwritable(memory):
                self._temporary.remove(memory)
                return self._owner[memory]
        return self._free[_form(t)].pop() if self._free[_form(t)] else _empty(_form(t))

    def _bind(
        self, kernel: Any, args: Any, kwargs: Any, results: tuple[Tensor, ...], out: Any
    ) -> Call:
        """The quickest call that writes the recorded bits from the recorded operands."""
        if len(results) == 1:
            for function, arguments in _ways(kernel, args):
                extra = {} if function is _copy else kwargs
                trial = _empty(_form(results[0]))
                try:
                    function(*arguments, **extra, out=trial)
                except (TypeError, RuntimeError):
                    continue
                if same_bits(trial, results[0]):
                    keywords = {**_map(self._stand_in, extra), "out": out[0]}
                    return function, _map(self._stand_in, arguments), keywords
        bound = (kernel, _map(self._stand_in, args), _map(self._stand_in, kwargs))
        return _call, bound, {"out": out}

    def _finish(self, loss: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Write what is not yet in its place there, when nothing reads the old state any more."""
        state = {_memory(t) for t in self._targets}

        def saved(t: Tensor) -> Tensor:
            """``t``, copied away from the memory that the last calls overwrite."""
            if _memory(t) not in state:
                return t
            copy = _empty(_form(t))
            self.calls.append((_copy, (t,), {"out": copy}))
            return copy

        losses = tuple(saved(self._stand_in(t)) for t in loss)
        pairs = zip(self._targets, map(self._stand_in, self._results), strict=True)
        moves = [(target, saved(t)) for target, t in pairs if t is not target]
        self.calls += [(_copy, (t,), {"out": target}) for target, t in moves]
        return losses


class PlanRunner(ReplayRunner):
    """Runs steps from a plan, one plan for each combination of shapes.

    Before a plan is used its replay is compared with two eager steps, bit for bit. A step that cannot
    be planned, or whose replay differs, runs eagerly, with a warning that says why.
    """

    recording = "plan"

    def __init__(self, backend: Backend, step: Step, state: Tree) -> None:
        super().__init__(backend, step)
        with backend.scope():
            self._state = map_leaves(backend.copy, state)
        self._plans: Recent[Plan] = Recent(KEPT)

    def _copied(self) -> Tree:
        return map_leaves(self._backend.copy, self._state)

    def _forget(self) -> None:
        self._plans.clear()

    def _replay(self, steps: int, data: Any, order: HostArray | None, table: Any) -> Tree:
        backend = self._backend
        columns: Any = [backend.asarray(t, dtype=t.dtype) for t in table]
        columns = [column.unbind() for column in columns]
        rows: Any = None
        if order is not None:
            rows = backend.asarray(order, dtype=backend.index_dtype)
            rows = rows.unbind()
        plan = self._plan(data, rows, columns)
        losses = map_leaves(lambda t: t.new_empty((steps, *t.shape)), plan.loss)
        numbers = [(t, c) for t, c in zip(plan.step_inputs, columns, strict=True) if plan.reads(t)]
        reports = [
            (to.unbind(), t) for to, t in zip(*map(leaves, (losses, plan.loss)), strict=True)
        ]
        for i in range(steps):
            if rows is not None:
                _gather(data, rows[i], plan.batch)
            for t, column in numbers:
                t.copy_(column[i])
            plan.replay()
            for to, t in reports:
                to[i].copy_(t)
        return losses

    def _plan(self, data: Any, rows: Any, columns: Any) -> Plan:
        """The plan for these shapes."""
        of = None if rows is None else tuple(rows[0].shape)
        forms = tuple((d.dtype, d.shape if of is None else (*of, *d.shape[1:])) for d in data)
        key = (of, forms, tuple((column[0].dtype, column[0].shape) for column in columns))
        plan = self._plans.get(key)
        # Without an order a plan reads the data where they lie.
        if plan and (rows or all(a is b for a, b in zip(plan.batch, data, strict=True))):
            return plan
        batch = data
        if rows is not None:
            batch = tuple(torch.empty(shape, dtype=dtype) for dtype, shape in forms)
            _gather(data, rows[0], batch)
        step_inputs = tuple(column[0].clone() for column in columns)
        with muted():
            plan = self._recorded(batch, step_inputs)
        self._plans.pop(key)
        return self._plans.put(key, plan)

    def _recorded(self, batch: Any, step_inputs: Any) -> Plan:
        """A plan whose replay gives what the step gives."""
        with _Recorder() as recorder:
            recorded = self._step(self._backend.xp, self._state, (*batch, step_inputs))
        after, loss = (tuple(leaves(tree)) for tree in recorded)
        planner = _Planner(
            recorder.calls, tuple(leaves(self._state)), (*batch, *step_inputs), after, loss
        )
        losses = iter(planner.loss)
        plan = Plan(
            planner.calls, batch, step_inputs, map_leaves(lambda _: next(losses), recorded[1])
        )
        self._verify(plan, recorded)
        return plan

    def _verify(self, plan: Plan, recorded: Tree) -> None:
        """Replay the recorded step, compare, and go back to where it started."""
        # Copies: a step may hand on a tensor of its old state, which the replay overwrites.
        copy = partial(map_leaves, self._backend.copy)
        before, first = copy((self._state, recorded))
        try:
            # The second step starts from another state: it shows what was taken for a constant
            # (numbers that went through NumPy), and a step that keeps a state of its own.
            batch = (*plan.batch, plan.step_inputs)
            second = copy(self._step(self._backend.xp, copy(first[0]), batch))
            for expected in (first, second):
                plan.replay()
                if not all(map(same_bits, leaves((self._state, plan.loss)), leaves(expected))):
                    raise CannotReplayError("its replay gives other bits than the step itself")
        finally:
            map_leaves(lambda target, source: target.copy_(source), self._state, before)


def _gather(data: Any, rows: Tensor, batch: Any) -> None:
    for source, target in zip(data, batch, strict=True):
        flat = target.view(-1, *source.shape[1:])
        torch.index_select(source, 0, rows.view(-1), out=flat)
