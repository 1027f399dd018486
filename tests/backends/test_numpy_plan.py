"""The NumPy plan: the numbers of the eager step, from memory that stays.

A small tile size (``tile=16``) makes short arrays count as long ones, so that every path runs on
arrays of a few entries.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import pickle
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from types import ModuleType
from typing import Any, NamedTuple

import array_api_compat.numpy as xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portable_bp import get_backend
from portable_bp.backend import EagerRunner, leaves, map_leaves
from portable_bp.equations import activations, losses, optimizers
from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.numpy_plan import PlanFunction, PlanOptions, PlanRunner
from portable_bp_backends.numpy_plan.memory import State
from portable_bp_backends.numpy_plan.plan import Plan
from portable_bp_backends.numpy_plan.runner import KEPT
from portable_bp_backends.numpy_plan.trace import trace_function, trace_step
from tests.helpers import StepProblem, agree, same_bits

EXACT = PlanOptions(exact=True)
SHORT = replace(EXACT, tile=16, prefetch_bytes=0)


def numpy() -> Any:
    return get_backend("numpy")


def with_names(namespace: Any) -> Any:
    """NumPy's backend with another namespace."""
    backend: Any = type(numpy())()
    backend.xp = namespace
    return backend


def close(rtol: float) -> Callable[[Any, Any], None]:
    def compare(a: Any, b: Any) -> None:
        scale = max(1e-30, float(np.max(np.abs(a), initial=0.0)))
        np.testing.assert_allclose(b, a, rtol=0, atol=rtol * scale)

    return compare


def poison(plan: Plan, state: Any) -> None:
    """Fill all memory of a plan that must not carry anything from one replay to the next."""
    known = plan.replay.__globals__
    kept = [*leaves(state), *(a for n, a in known.items() if n[0] in "sc" and n[1:].isdigit())]
    cut = [tile for n, p in known.items() if n.startswith("tiles") for tile in p]
    found = [a for n, a in known.items() if n[0] == "v" and n[1:].isdigit()]
    for array in [*found, *itertools.chain.from_iterable(cut)]:
        if array.flags.writeable and not any(np.may_share_memory(array, k) for k in kept):
            array[...] = np.nan if array.dtype.kind == "f" else 1


# --- networks -------------------------------------------------------------------------------------


class Problem(StepProblem):
    """The same on NumPy, with its plan."""

    def __init__(self, *settings: Any, **options: Any) -> None:
        super().__init__(numpy(), *settings, **options)

    def planned(self, options: PlanOptions) -> PlanRunner:
        return PlanRunner(numpy(), self.step, self.state, options)

    def check(self, options: PlanOptions, compare: Callable[[Any, Any], None] = same_bits) -> None:
        """Whole mini-batches, then a ragged one, then all rows at once, then mini-batches again."""
        written, planned = self.eager(), self.planned(options)
        with numpy().scope():
            for size in (self.batch, max(1, self.batch // 2), None, self.batch):
                order = None if size is None else self.order(3, size)
                table = self.table(3)
                wanted = written.run(self.data, order, table)
                agree(wanted, planned.run(self.data, order, table), compare)
                agree(written.state, planned.state, compare)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "weights, l2": {"weighted": True, "l2": 0.1},
    "l1, l2, clipped": {"l1": 0.1, "l2": 0.1, "clip_value": 0.01},
    "labels, no loss": {"labels": True, "clip_norm": 0.1, "dropout": 0.2, "report": False},
}
NETS = {
    "one layer": ((5, 3), 4),
    "small": ((8, 16, 2), 5),
    "square": ((6, 6, 6), 6),
    "deep": ((30, 64, 32, 2), 32),
}


@pytest.mark.parametrize("optimizer", sorted(optimizers.OPTIMIZERS))
def test_every_optimiser_has_the_bits_of_the_step_eager(optimizer: str) -> None:
    for sizes, batch in NETS.values():
        Problem(sizes, batch, optimizer).check(EXACT)
    Problem(*NETS["deep"], optimizer, "float64", l1=0.1, l2=0.1).check(EXACT)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_has_the_bits_of_the_step_eager(options: str) -> None:
    for (sizes, batch), dtype in itertools.product(NETS.values(), ("float32", "float64")):
        Problem(sizes, batch, "adam", dtype, **OPTIONS[options]).check(EXACT)


@pytest.mark.parametrize("optimizer", sorted(optimizers.OPTIMIZERS))
def test_the_stated_rewrites_stay_within_rounding(optimizer: str) -> None:
    for options, net in zip(OPTIONS.values(), itertools.cycle(NETS.values()), strict=False):
        Problem(*net, optimizer, "float64", **options).check(PlanOptions(), close(1e-9))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_runs_are_cut_without_a_trace(dtype: str) -> None:
    for options in OPTIONS.values():
        Problem((40, 50, 30, 3), 33, "adam", dtype, **options).check(replace(EXACT, tile=1 << 10))


def test_every_activation_and_every_loss() -> None:
    for hidden in activations.ACTIVATIONS:
        Problem((4, 9, 7, 3), 6, hidden=hidden).check(SHORT)
    for loss in losses.LOSSES:
        size = 1 if "log_loss" in loss else 3
        Problem((4, 9, size), 6, loss=loss).check(SHORT)


@pytest.mark.parametrize("name", [f.name for f in fields(PlanOptions) if f.name != "exact"])
def test_each_switch_off_gives_the_same_bits(name: str) -> None:
    off = replace(EXACT, **{name: type(getattr(EXACT, name))(0)})
    assert off != EXACT
    for options in OPTIONS.values():
        Problem((30, 64, 32, 2), 32, **options).check(off)


def test_one_row_and_one_unit() -> None:
    for sizes, batch in (((1, 1), 1), ((3, 1, 1), 1), ((8, 16, 2), 1)):
        Problem(sizes, batch, loss="squared_error").check(EXACT)
        Problem(sizes, batch, "adam", "float64", loss="squared_error").check(
            PlanOptions(), close(1e-9)
        )


@pytest.mark.parametrize("chosen", [EXACT, SHORT, PlanOptions()], ids=["exact", "short", "default"])
def test_nothing_but_the_state_passes_from_step_to_step(chosen: PlanOptions) -> None:
    """All temporaries are filled with NaN before a replay: it must not read one it has not written."""
    for options in OPTIONS.values():
        problem = Problem((12, 40, 9, 2), 8, **options)
        clean, dirty = problem.planned(chosen), problem.planned(chosen)
        with numpy().scope():
            for _ in range(3):
                order, table = problem.order(1, 8), problem.table(1)
                wanted = clean.run(problem.data, order, table)
                agree(wanted, dirty.run(problem.data, order, table))
                agree(clean.state, dirty.state)
                example = tuple(d[order[0]] for d in problem.data)
                poison(dirty.plan(example, table), dirty._state)


# --- programs at random ---------------------------------------------------------------------------

CONSTANT = np.arange(12.0, dtype="float32").reshape(3, 4) - 5
LIKE_ONE_NUMBER = np.full(4, 3, "float32")


def real(a: Any, xp: Any) -> Any:
    return a if xp.isdtype(a.dtype, "real floating") else xp.astype(a, xp.float32)


def pair(a: Any, b: Any, xp: Any) -> Any:
    """Both as real numbers, and the second one cut to a single number if they do not broadcast."""
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        b = b[(0,) * b.ndim]
    return real(a, xp), real(b, xp)


def matrix(a: Any, xp: Any) -> Any:
    return xp.reshape(real(a, xp), (-1, a.shape[-1] if a.ndim else 1))


def product(a: Any, b: Any, xp: Any) -> Any:
    a, b = matrix(a, xp), matrix(b, xp)
    return xp.matmul(a, b if b.shape[0] == a.shape[1] else a.T)


def row(a: Any, b: Any, xp: Any) -> Any:
    """A row of ``a`` that is only known when the numbers are: rows by an array of indices."""
    a, b = matrix(a, xp), matrix(b, xp)
    return xp.take(a, xp.argmax(b, axis=0) % a.shape[0], axis=0)


def where_by(c: Any, a: Any, b: Any, xp: Any) -> Any:
    return xp.where(pair(a + b, c, xp)[1] > 0, a, b)


def both(a: Any, xp: Any) -> Any:
    first, second = xp.broadcast_arrays(a, xp.asarray(CONSTANT)[:1, 0])
    return first if a.ndim % 2 else second


# Functions of (a, b, c, xp): any of the arrays, whatever their shapes are.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b, c, xp: xp.add(*pair(a, b, xp)),
    "subtract": lambda a, b, c, xp: xp.subtract(*pair(a, b, xp)),
    "multiply": lambda a, b, c, xp: xp.multiply(*pair(a, b, xp)),
    "divide": lambda a, b, c, xp: xp.divide(*pair(a, b, xp)),
    "maximum": lambda a, b, c, xp: xp.maximum(*pair(a, b, xp)),
    "times a number": lambda a, b, c, xp: 0.5 * real(a, xp),
    "from a number": lambda a, b, c, xp: 1 - real(a, xp),
    "times one": lambda a, b, c, xp: real(a, xp) * 1.0,
    "not below a number": lambda a, b, c, xp: xp.maximum(real(a, xp), xp.asarray(0, dtype=xp.float32)),
    "plus a constant": lambda a, b, c, xp: xp.add(*pair(a, xp.asarray(LIKE_ONE_NUMBER), xp)),
    "times a constant": lambda a, b, c, xp: xp.multiply(*pair(a, xp.asarray(CONSTANT), xp)),
    "squared": lambda a, b, c, xp: real(a, xp) ** 2,
    # Without numbers alone: NumPy's scalars have a power of their own, another than 0-d arrays.
    "cubed": lambda a, b, c, xp: matrix(a, xp) ** 3,
    "to the half": lambda a, b, c, xp: xp.abs(real(a, xp)) ** 0.5,
    "exp": lambda a, b, c, xp: xp.exp(-xp.abs(real(a, xp))),
    "tanh": lambda a, b, c, xp: xp.tanh(real(a, xp)),
    "sign": lambda a, b, c, xp: xp.sign(real(a, xp)),
    "negative": lambda a, b, c, xp: -real(a, xp),
    "greater": lambda a, b, c, xp: xp.greater(*pair(a, b, xp)),
    "where": lambda a, b, c, xp: xp.where(a > 0, *pair(a, b, xp)),
    "where by another": lambda a, b, c, xp: where_by(c, *pair(a, b, xp), xp),
    "narrow": lambda a, b, c, xp: xp.astype(a, xp.float32),
    "widen": lambda a, b, c, xp: xp.astype(a, xp.float64),
    "matmul": lambda a, b, c, xp: product(a, b, xp),
    "gram": lambda a, b, c, xp: xp.matmul(matrix(a, xp).T, matrix(a, xp)),
    "sum": lambda a, b, c, xp: xp.sum(matrix(a, xp), axis=0),
    "sum of rows": lambda a, b, c, xp: xp.sum(matrix(a, xp), axis=1, keepdims=True),
    "sum of all": lambda a, b, c, xp: xp.sum(real(a, xp)),
    "wide sum": lambda a, b, c, xp: xp.sum(real(a, xp), dtype=xp.float64),
    "max": lambda a, b, c, xp: xp.max(matrix(a, xp), axis=1, keepdims=True),
    "min": lambda a, b, c, xp: xp.min(matrix(a, xp), axis=0),
    "mean": lambda a, b, c, xp: xp.mean(matrix(a, xp), axis=0),
    "argmax": lambda a, b, c, xp: xp.argmax(matrix(a, xp), axis=1),
    "rows by index": lambda a, b, c, xp: row(a, b, xp),
    "transpose": lambda a, b, c, xp: matrix(a, xp).T,
    "flat": lambda a, b, c, xp: xp.reshape(a, (-1,)),
    "first column": lambda a, b, c, xp: matrix(a, xp)[:, 0],
    "all but the first": lambda a, b, c, xp: matrix(a, xp)[1:, ...] if matrix(a, xp).shape[0] > 1 else a,
    "backwards": lambda a, b, c, xp: matrix(a, xp)[::-1, :],
    "one number": lambda a, b, c, xp: a[(-1,) * a.ndim],
    "another axis": lambda a, b, c, xp: xp.expand_dims(a, axis=0) if a.ndim < 3 else a[0, ...],
    "concat": lambda a, b, c, xp: xp.concat([xp.reshape(real(x, xp), (-1,)) for x in (a, b)]),
    "concat of rows": lambda a, b, c, xp: xp.concat([matrix(a, xp), matrix(a, xp)], axis=0),
    "stack": lambda a, b, c, xp: xp.stack([a, a]) if a.ndim < 3 else a,
    "one of several": lambda a, b, c, xp: both(a, xp),
    "unstack": lambda a, b, c, xp: xp.unstack(matrix(a, xp))[-1],
    "roll": lambda a, b, c, xp: xp.roll(a, 1) if a.ndim else a,
    "sort": lambda a, b, c, xp: xp.sort(matrix(a, xp), axis=1),
    "sum so far": lambda a, b, c, xp: xp.cumulative_sum(matrix(a, xp), axis=0),
    "zeros": lambda a, b, c, xp: xp.zeros_like(a),
    "norm": lambda a, b, c, xp: xp.linalg.vector_norm(real(a, xp)),
}  # fmt: skip

STATE = tuple(
    np.random.default_rng(1).standard_normal(shape).astype(dtype)
    for shape, dtype in [
        ((3, 4), "float32"), ((4,), "float32"), ((4,), "float32"), ((4, 4), "float32"),
        ((), "float32"), ((5,), "float64"), ((3, 4), "float32"),
    ]
)  # fmt: skip

Program = tuple[list[tuple[str, int, int, int]], list[int]]
POSITION = st.integers(0, 11)
PROGRAMS = st.tuples(
    st.lists(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), POSITION, POSITION, POSITION), max_size=16
    ),
    st.lists(POSITION, min_size=len(STATE) + 1, max_size=len(STATE) + 1),
)


def step_of(program: Program) -> Any:
    """A step that computes one array after another and takes new state where shapes allow."""
    lines, ends = program

    def step(xp: Any, state: Any, batch: Any) -> Any:
        *rows, numbers = batch
        values = [*numbers, *rows, *state]
        for name, *positions in lines:
            a, b, c = (values[-1 - i % len(values)] for i in positions)
            found = OPERATIONS[name](a, b, c, xp)
            if found.size <= 200 and found.ndim < 4:
                values.append(found)

        def ending(leaf: Any, k: int) -> Any:
            fit = [v for v in values if (v.shape, v.dtype) == (leaf.shape, leaf.dtype)]
            return fit[-1 - k % len(fit)]

        new = tuple(map(ending, state, ends))
        return new, xp.sum(real(values[-1 - ends[-1] % len(values)], xp), dtype=xp.float64)

    return step


def check_program(program: Program, options: PlanOptions) -> None:
    step = step_of(program)
    written = EagerRunner(numpy(), step, STATE)
    planned = PlanRunner(numpy(), step, STATE, options)
    rng = np.random.default_rng(2)
    with numpy().scope():
        for _ in range(2):
            data = tuple(rng.standard_normal(s).astype("float32") for s in ((7, 4), (7,)))
            order = rng.integers(0, 7, (2, 3))
            table = (rng.random(2).astype("float32"), np.asarray([5, 5], "uint32"))
            agree(written.run(data, order, table), planned.run(data, order, table))
            agree(written.state, planned.state)
            plan = planned.plan(tuple(d[order[0]] for d in data), table)
            poison(plan, planned._state)


@settings(max_examples=150, deadline=None)
@given(PROGRAMS, st.sampled_from([EXACT, SHORT, replace(SHORT, reuse=False, fusion=False)]))
def test_programs_at_random(program: Program, options: PlanOptions) -> None:
    check_program(program, options)


# --- what a step may do, and what is refused ------------------------------------------------------

ONE = (np.ones(1, "float32"),)


READS: list[Callable[[Any], Any]] = [
    bool, int, float, complex, list, range, np.asarray, pickle.dumps,
    lambda a: a.item(), lambda a: a.tolist(), lambda a: [1, 2][a], lambda a: 1 if a > 0 else 2,
    lambda a: float(a * 2 + 1), np.array_str, lambda a: a.sum(), lambda a: hasattr(a, "copy"),
]  # fmt: skip


def refusal(step: Any, *state: Any, rows: Any = None) -> str:
    """Why no graph can stand for the step."""
    rows = np.ones((2, 3), "float32") if rows is None else rows
    with pytest.raises(CannotReplayError) as error:
        trace_step(numpy().xp, step, state, (rows,), (np.ones((), "float32"),))
    return str(error.value)


@pytest.mark.parametrize("read", READS)
def test_a_read_of_a_number_is_refused(read: Callable[[Any], Any]) -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        with contextlib.suppress(Exception):  # it must not help to catch the refusal
            read(xp.sum(batch[0]))
        return state, ()

    if read is list:  # as of a NumPy scalar
        step = lambda xp, state, batch: (list(batch[0]), ())  # noqa: E731
        with pytest.raises(TypeError, match="not iterable"):
            trace_step(numpy().xp, step, (), (np.ones(2),), ())
        return
    assert refusal(step, np.zeros(2, "float32")).startswith(("it looks at", "it uses", "array_str"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s[0],), "in the form"),
        (lambda s: [*s], "in the form"),
        (lambda s: (s[0], s[1][None, ...]), r"leaf 1 was float32\[3\], .* float32\[1, 3\]"),
        (lambda s: (s[0], np.ones(3)), r"leaf 1 was float32\[3\]"),
    ],
)
def test_a_state_of_another_form_is_refused(change: Any, message: str) -> None:
    step = lambda xp, state, batch: (change(state), ())  # noqa: E731
    runner = PlanRunner(numpy(), step, (np.ones(2, "f"), np.ones(3, "f")), EXACT)
    with pytest.raises(TypeError, match=message):
        runner.run((np.ones((2, 3)),), None, ONE)


def test_functions_of_numpy_itself_are_traced() -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        x = np.tanh(CONSTANT + batch[0]) * np.float32(2)
        stacked = np.concatenate([x, np.where(x > 0, x, -x)])
        return (state[0] + np.sum(stacked, axis=0),), np.add.reduce(state[0])

    written = EagerRunner(numpy(), step, (np.ones(4, "float32"),))
    planned = PlanRunner(numpy(), step, (np.ones(4, "float32"),), EXACT)
    for k in range(3):
        args = (np.full((3, 4), k, "float32"),), None, (np.ones(2, "float32"),)
        agree(written.run(*args), planned.run(*args))
        agree(written.state, planned.state)


def test_a_function_that_looks_at_numbers_runs_as_it_is_written() -> None:
    def f(xp: Any, a: Any) -> Any:
        if a.shape == (2,):
            raise OSError("its own mistake")
        return -a if a[0] < 0 else a + 1

    compiled = PlanFunction(numpy().xp, f)
    for first in (3.0, -3.0, 3.0, -2.0):
        same_bits(compiled(np.full(3, first)), np.full(3, abs(first) + (first > 0)))
    for _ in range(3):
        with pytest.raises(OSError, match="its own mistake"):
            compiled(np.ones(2))


SHAPES: list[Callable[[Any, Any], Any]] = [
    lambda a, xp: xp.nonzero(a)[0],
    lambda a, xp: a[a > 0],
    lambda a, xp: np.unique(a),
    lambda a, xp: np.trim_zeros(a),
    lambda a, xp: xp.repeat(a, xp.astype(a, xp.int64)),
    lambda a, xp: np.compress(a > 0, a),
    lambda a, xp: xp.unique_values(a),
]


@pytest.mark.parametrize("f", SHAPES)
def test_a_shape_that_depends_on_numbers_is_refused(f: Any) -> None:
    step = lambda xp, state, batch: ((state[0] + xp.sum(f(batch[0], xp)),), ())  # noqa: E731
    assert "depends on numbers" in refusal(step, np.zeros(()), rows=np.asarray([0.0, 2.0, 1.0]))


class Pair(NamedTuple):
    left: Any
    right: Any


def test_functions_it_does_not_know_are_called_with_their_arguments() -> None:
    calls = []

    def unknown(a: Any, *, pair: Any, named: Any) -> Any:
        calls.append(a)
        assert named["list"][0] is named["b"]
        assert named["text"] == "{0} and b"
        return a + pair.left * named["b"], (pair.right,)

    namespace = type("", (), {"unknown": staticmethod(unknown)})

    def f(xp: Any, a: Any, b: Any) -> Any:
        found, (other,) = xp.unknown(
            a, pair=Pair(b, a + b), named={"b": b, "list": [b], "text": "{0} and b"}
        )
        return found, other

    compiled = PlanFunction(namespace, f)  # type: ignore[arg-type]
    for k in range(4):
        a, b = np.full(2, float(k)), np.full(2, 2.0 * k)
        found, other = compiled(a, b)
        same_bits(found, a + b * b)
        same_bits(other, a + b)
    # Once for the trace, twice to see that no shape depends on numbers, once to compare.
    assert len(calls) == 1 + 3 + 1 + 4


def test_results_of_one_call_that_share_memory_with_the_state() -> None:
    """A call answers with the old state next to the new one; the new one goes over the old."""
    namespace = type("", (), {"advance": staticmethod(lambda x: (x * 2, x))})

    def step(xp: Any, state: Any, batch: Any) -> Any:
        new, old = xp.advance(state[0])
        return (new,), xp_sum(old)

    def xp_sum(a: Any) -> Any:
        return a[0] + a[1]

    runner = PlanRunner(with_names(namespace), step, (np.ones(2),), EXACT)  # type: ignore[arg-type]
    losses = runner.run((np.ones(1),), None, (np.ones(3),))
    np.testing.assert_array_equal(losses, [2, 4, 8])
    np.testing.assert_array_equal(runner.state[0], [8, 8])


@pytest.mark.parametrize(
    ("new", "wanted"),
    [
        (lambda a, b: (b, a), ([5, 6], [1, 2])),
        (lambda a, b: (a, a), ([1, 2], [1, 2])),
        (lambda a, b: (a + b, a), ([6, 8], [1, 2])),
        (lambda a, b: (a[::-1], b), ([2, 1], [5, 6])),
        (lambda a, b: (b * 2, a - b), ([10, 12], [-4, -4])),
        (lambda a, b: (np.asarray([7.0, 8.0]), b), ([7, 8], [5, 6])),
    ],
    ids=["swapped", "twice", "old one", "backwards", "crossed", "constant"],
)
def test_new_state_over_old(new: Any, wanted: Any) -> None:
    step = lambda xp, state, batch: (new(*state), state[0] + state[1])  # noqa: E731
    state = (np.asarray([1.0, 2.0]), np.asarray([5.0, 6.0]))
    runner = PlanRunner(numpy(), step, state, EXACT)
    written = EagerRunner(numpy(), step, state)
    for steps in (1, 3):
        table = (np.ones(steps, "float32"),)
        agree(written.run((np.ones(1),), None, table), runner.run((np.ones(1),), None, table))
        agree(written.state, runner.state)
        if steps == 1:
            np.testing.assert_array_equal(runner.state, wanted)


def test_tiles_of_a_loop_do_not_overwrite_what_later_tiles_read() -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        (w,) = state
        return ((xp.exp(w) + w[::-1, :]) * 0.5,), ()

    state = (np.arange(16.0, dtype="float32").reshape(4, 4) / 10,)
    written, planned = EagerRunner(numpy(), step, state), PlanRunner(numpy(), step, state, SHORT)  # type: ignore[arg-type]
    for runner in (written, planned):
        runner.run((np.ones(1),), None, (np.ones(3),))
    assert "for tile in" in planned.plan((np.ones(1),), (np.ones(3),)).source
    agree(written.state, planned.state)


def test_neighbours_that_differ_in_a_number_or_a_function_are_told_apart() -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        a, b, c, d = state
        _, (first, second) = batch
        new = a - first * (a * 0.5), b - first * (b * 0.25), c - second * (c * 0.25)
        return (*new, xp.exp(d - second * (d * 0.25))), ()

    state = tuple(np.arange(1.0, 4.0) + k for k in range(4))
    written, planned = EagerRunner(numpy(), step, state), PlanRunner(numpy(), step, state, EXACT)  # type: ignore[arg-type]
    for runner in (written, planned):
        runner.run((np.ones(1),), None, (np.asarray([0.5, 0.25]), np.asarray([0.125, 0.5])))
    agree(written.state, planned.state)


def test_functions_of_one_name_are_told_apart() -> None:
    namespace = ModuleType("namespace")
    namespace.other = ModuleType("other")  # type: ignore[attr-defined]
    namespace.f = lambda a: a * 2  # type: ignore[attr-defined]
    namespace.other.f = lambda a: a * 3  # type: ignore[attr-defined]
    compiled = PlanFunction(namespace, lambda xp, a: (xp.f(a), xp.other.f(a)))  # type: ignore[arg-type]
    for _ in range(3):
        agree(compiled(np.ones(2)), (np.full(2, 2.0), np.full(2, 3.0)))


def test_numbers_are_not_baked() -> None:
    step = lambda xp, state, batch: ((state[0] + batch[-1][0],), batch[-1][0] * 2)  # noqa: E731
    runner = PlanRunner(numpy(), step, (np.zeros(()),), EXACT)
    for numbers in ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [5.0, 5.0, 6.0]):
        losses = runner.run((np.ones(1),), None, (np.asarray(numbers),))
        np.testing.assert_array_equal(losses, np.asarray(numbers) * 2)
    assert runner.state[0] == 34


def test_the_order_is_checked_before_the_first_step() -> None:
    problem = Problem((3, 4, 2), 2)
    runner = problem.planned(EXACT)
    order = problem.order(2, 2)
    for bad, error, message in [
        (np.where(order == order[1, 1], 99, order), IndexError, "to 99, but the data have 7"),
        (order - 7, IndexError, "reads rows -"),
        (order * 1.0, TypeError, "integers"),
        (order[:1], ValueError, "one row of order for each"),
        (order[:, :0], ValueError, r"\(steps, batch\)"),
        (order[:, 0], ValueError, r"\(steps, batch\)"),
    ]:
        with pytest.raises(error, match=message):
            runner.run(problem.data, bad, problem.table(2))
    agree(problem.state, runner.state)


# --- whose memory it is ---------------------------------------------------------------------------


def test_nothing_handed_in_is_changed_and_nothing_handed_out_changes() -> None:
    problem = Problem((6, 8, 3), 4, weighted=True)
    handed = [*leaves(problem.state), *problem.data]
    before = [a.copy() for a in handed]
    for a in handed:
        a.flags.writeable = False
    runner = problem.planned(EXACT)
    losses = runner.run(problem.data, problem.order(5, 4), problem.table(5))
    first, kept = runner.state, losses.copy()
    copied = map_leaves(np.copy, first)
    runner.run(problem.data, problem.order(5, 4), problem.table(5))
    agree(tuple(before), tuple(handed))
    agree(copied, first)
    same_bits(kept, losses)
    for leaf in leaves(first):
        leaf[...] = np.nan  # the caller's own
    assert all(np.isfinite(leaf).all() for leaf in leaves(runner.state))


def test_results_of_a_function_are_new_arrays() -> None:
    compiled = PlanFunction(numpy().xp, lambda xp, a: (a, a.T, xp.exp(a), a[:1]))
    a = np.arange(6.0).reshape(2, 3)
    found = [compiled(a) for _ in range(4)]
    copies = [map_leaves(np.copy, f) for f in found]
    for result in leaves(compiled(a + 1)):
        result[...] = -1
    compiled(a + 2)
    for f, copy in zip(found[1:], copies[1:], strict=True):
        agree(f, copy)
        agree(f, (a, a.T, np.exp(a), a[:1]))
    for one, other in itertools.combinations([*leaves(tuple(found[1:])), a], 2):
        assert not np.shares_memory(one, other)


def test_a_function_keeps_its_form() -> None:
    def f(xp: Any, tree: Any, b: Any) -> Any:
        (a,) = tree
        return ((a + b, ()), 2 * b) if a.ndim == 2 else ()

    compiled = PlanFunction(numpy().xp, f)
    for _ in range(3):
        (x, nothing), y = compiled((np.ones((2, 2)),), np.ones(2))
        assert (x.shape, nothing, y.shape) == ((2, 2), (), (2,))
        assert compiled((np.ones(2),), np.ones(2)) == ()


def test_two_threads_may_call_one_function() -> None:
    def f(xp: Any, a: Any) -> Any:
        for _ in range(30):
            a = 1 - 1.9 * a * a  # chaotic: never forgets what it came from
        return a

    compiled = PlanFunction(numpy().xp, f)
    a = np.linspace(-1, 1, 40_000).reshape(200, 200)
    inputs = [a, a[::-1].copy()]
    wanted = [f(xp, x) for x in inputs]
    for _ in range(2):
        compiled(a)  # now there is one plan, and both want it
    wrong: list[int] = []
    together = threading.Barrier(2)

    def call(k: int) -> None:
        together.wait()
        for _ in range(15):
            if not np.array_equal(compiled(inputs[k]), wanted[k]):
                wrong.append(k)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_nothing_handed_in_is_kept() -> None:
    problem = Problem((6, 8, 3), 4)
    runner = problem.planned(EXACT)
    compiled = PlanFunction(numpy().xp, lambda xp, a: xp.matmul(a.T[1:, :], a))
    gc.disable()
    try:
        for _ in range(3):
            data = map_leaves(np.copy, problem.data)
            made = [weakref.ref(a) for a in data]
            runner.run(data, None, problem.table(2))
            runner.run(data, problem.order(2, 4), problem.table(2))
            compiled(data[0])
            del data
            assert [ref() for ref in made] == [None, None]
    finally:
        gc.enable()


# --- memory ---------------------------------------------------------------------------------------


def test_a_step_allocates_nothing_that_stays() -> None:
    """The peak of 400 steps is that of 40, and far under the memory of one step's temporaries."""
    problem = Problem((200, 300, 10), 100)
    runner = problem.planned(PlanOptions())
    peaks = []
    for steps in (40, 400):
        order = problem.order(steps, 100)
        tables = problem.table(steps), problem.table(steps)
        runner.run(problem.data, order, tables[0])
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        runner.run(problem.data, order, tables[1])
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    per_step = (peaks[1] - peaks[0]) / 360
    assert per_step < 2000  # the numbers of the table as 0-d arrays
    assert peaks[0] < 100 * 300 * 4, "less than one hidden layer's values"


def test_a_trace_holds_no_more_than_the_step_itself() -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        a = batch[0]
        for _ in range(30):
            a = xp.exp(-a)
        return (state[0] + xp.sum(a),), ()

    x = np.ones((100, 100))
    tracemalloc.start()
    trace_step(xp, step, (np.zeros(()),), (x,), (np.ones(()),))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * x.nbytes


def test_plans_are_made_once_for_each_shape_and_few_are_kept() -> None:
    traced = 0

    def step(xp: Any, state: Any, batch: Any) -> Any:
        nonlocal traced
        traced += 1
        return (state[0] + xp.sum(batch[0]),), ()

    runner = PlanRunner(numpy(), step, (np.zeros(()),), EXACT)
    x = np.ones((64, 2))
    table = (np.ones(2, "float32"),)
    for _ in range(3):
        for size in (5, 6):
            runner.run((x,), np.zeros((2, size), int), table)
        runner.run((x,), None, table)
    assert traced == 2 * 3, "once to trace it and once to compare"
    for size in range(1, 3 * KEPT):
        runner.run((x,), np.zeros((2, size), int), table)
    assert len(runner._plans) == len(runner._batches) == KEPT


def test_a_function_plans_at_the_second_call_of_a_shape_and_keeps_few() -> None:
    calls = 0

    def f(xp: Any, a: Any) -> Any:
        nonlocal calls
        calls += 1
        return a + 1

    compiled = PlanFunction(numpy().xp, f)
    for _ in range(6):
        compiled(np.ones(3))
    assert calls == 3, "once eagerly, once to trace it, once to compare"
    for n in range(3 * KEPT):
        compiled(np.ones(n))
    assert len(compiled._idle) == KEPT


def test_reuse_takes_less_memory() -> None:
    def f(xp: Any, a: Any) -> Any:
        for _ in range(20):
            a = xp.exp(a) - xp.sum(a, axis=1, keepdims=True)
        return a

    def nbytes(options: PlanOptions) -> int:
        graph = trace_function(xp, f, (np.ones((50, 50)),))
        return Plan(graph, State([]), replace(options, tile=0)).nbytes

    block = 50 * 50 * 8
    assert nbytes(EXACT) < 4 * block
    assert nbytes(replace(EXACT, reuse=False)) > 40 * block, (
        "two results a round, none over another"
    )


def test_what_is_large_runs_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portable_bp_backends.numpy_plan.runner.LARGE", 64)
    calls = 0

    def f(xp: Any, a: Any) -> Any:
        nonlocal calls
        calls += 1
        return a + 1

    compiled = PlanFunction(numpy().xp, f)
    for n in (8, 9):
        for _ in range(4):
            compiled(np.ones(n))
    assert calls == 3 + 4


def test_extremes_of_many_short_rows() -> None:
    rng = np.random.default_rng(0)
    for columns in (2, 3, 10):
        a = rng.standard_normal((64, columns)).astype("float32")
        a[3, 1] = np.nan
        compiled = PlanFunction(
            numpy().xp,
            lambda xp, a: (xp.max(a, axis=1), xp.min(a + 1, axis=-1, keepdims=True)),
        )
        for _ in range(3):
            agree(compiled(a), (a.max(1), (a + 1).min(1, keepdims=True)))
