"""Do all backends compute the same numbers? The proof, for anyone to run on their own machine.

:func:`check_backend` compares a backend with the oracle, float64 NumPy running each step as it is
written, on every activation, loss, initialiser, optimiser and schedule, with the steps compiled and
not. Each comparison is a :class:`~portable_bp.testing.report.Row`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, product
from typing import Any

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray, Namespace, Params, Step, Tree
from portable_bp.backend import Backend, EagerRunner, Runner, leaves, map_leaves
from portable_bp.backend.registry import get_backend
from portable_bp.equations import (
    activations,
    initializers,
    losses,
    network,
    optimizers,
    random,
    regularizers,
    schedules,
)
from portable_bp.equations.optimizers import Optimizer
from portable_bp.mlp import MLP
from portable_bp.testing import tolerances
from portable_bp.testing.compare import compare, kind_errors, same_bits
from portable_bp.testing.gradcheck import check_gradients
from portable_bp.testing.problems import Problem, make_problem, normal
from portable_bp.testing.report import Report, Row, library_versions
from portable_bp.training.fit import fit
from portable_bp.training.step import StepPlan, make_step

DTYPES = ("float32", "float64")

# --- what is evaluated ------------------------------------------------------------------------


def modes(where: Backend) -> tuple[str, ...]:
    """``("eager", "compiled")``, or ``("eager",)`` from a backend that runs a step as written."""
    return ("eager",) if type(where).compile is Backend.compile else ("eager", "compiled")


def runner(where: Backend, mode: str, step: Step, state: Tree) -> Runner:
    return where.compile(step, state) if mode == "compiled" else EagerRunner(where, step, state)


def jointly(steps: Sequence[Step]) -> Step:
    """One step that makes each of ``steps`` on its own state and the same batch.

    Compiling them together takes a fraction of the time of compiling each.
    """

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        return tuple(f(xp, s, batch)[0] for f, s in zip(steps, state, strict=True)), ()

    return step


def evaluate(where: Backend, problem: Problem, dtype: str) -> dict[str, Tree]:
    """Loss, outputs, deltas and gradients through the public methods of the network."""
    net = problem.net
    params, x, y, weights = problem.on(where, dtype)
    loss, gradients = net.loss_and_gradients(params, x, y, weights)
    return {
        "loss": loss,
        "outputs": net.forward(params, x),
        "deltas": net.deltas(params, x, y, weights),
        "gradient": gradients,
        "input gradient": net.input_gradient(params, x, y, weights),
    }


def evaluate_compiled(
    where: Backend, problems: Sequence[Problem], dtype: str
) -> list[dict[str, Tree]]:
    """The same for several problems through the door: as one step that the backend compiles."""
    with where.scope():
        xp = where.xp
        placed = [problem.on(where, dtype) for problem in problems]
        states = []
        for params, x, y, weights in placed:
            rows = x.shape[0]
            blank = tuple(
                xp.zeros((rows, b.shape[0]), dtype=x.dtype, device=where.device) for _, b in params
            )
            found = (xp.zeros((), dtype=x.dtype, device=where.device), blank[-1], blank)
            given = (params, x, y, () if weights is None else weights)
            states.append((given, *found, map_leaves(xp.zeros_like, params), xp.zeros_like(x)))
        run = runner(where, "compiled", jointly([_evaluation(p) for p in problems]), tuple(states))
        # The problems stand in the state; the one row of data only says that there is a step.
        run.run((placed[0][1],), None, (np.zeros(1, dtype=where.word_dtype),))
        names = ("loss", "outputs", "deltas", "gradient", "input gradient")
        return [dict(zip(names, state[1:], strict=True)) for state in run.state]


def _evaluation(problem: Problem) -> Step:
    eq = problem.net.equations

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        given = state[0]
        params, x, y, weights = given
        share = network.example_weights(x, None if problem.weights is None else weights, xp=xp)
        cache = network.forward(params, x, eq.activations, xp=xp)
        delta = network.deltas(eq, params, cache, y, share, xp=xp)
        found = (
            network.mean_loss(eq, params, cache, y, share, xp=xp),
            cache.outputs[-1],
            delta,
            network.gradients(eq, params, cache, delta, xp=xp),
            network.input_gradient(params, delta, xp=xp),
        )
        return (given, *found), ()

    return step


def oracle(problem: Problem) -> dict[str, Tree]:
    """The same in float64 on NumPy, as the equations are written."""
    found = evaluate(get_backend("numpy"), problem, "float64")
    return {name: map_leaves(np.asarray, value) for name, value in found.items()}


def network_rows(
    where: Backend,
    problems: Mapping[str, Problem],
    mode: str,
    *,
    tolerance: float | None = None,
    unit: str = "",
) -> Iterator[Row]:
    """Loss, outputs, deltas and gradients of named problems of one dtype against the oracle.

    ``tolerance``: of all but the loss, if not that of a network as it is initialised.
    """
    given = list(problems.values())
    dtype = given[0].dtype
    if mode == "compiled":
        results = evaluate_compiled(where, given, dtype)
    else:
        results = [evaluate(where, problem, dtype) for problem in given]
    for (case, problem), found in zip(problems.items(), results, strict=True):
        want = oracle(problem)
        for what, got in found.items():
            exact = want[what]
            is_loss = what == "loss"
            allowed = tolerance or tolerances.generic(len(problem.params))
            yield compare(
                what, case, where, got, exact, tolerances.LOSS if is_loss else allowed,
                dtype=dtype, mode=mode, unit=unit,
                scale=np.maximum(1.0, np.abs(exact)) if is_loss else None,
            )  # fmt: skip


# --- the checks -------------------------------------------------------------------------------

SIZES = (4, 4, 4, 4)
"""Layers of one size: what a compiler makes of one shape serves all of them."""


def activation_net(name: str) -> MLP:
    # tanh after it keeps the signals of an unbounded activation (exp of exp) from running away.
    return MLP(SIZES, (name, "tanh"), "squared_error", l1=1e-3, l2=1e-2)


def loss_net(name: str) -> MLP:
    return MLP(SIZES, "tanh", name)


def _spread(dtype: str) -> HostArray:
    """Net inputs of every size, from deep saturation to next to nothing; exact in ``dtype``."""
    grid = np.concatenate([np.linspace(-20, 20, 321), [1e-6, -1e-6, 1e-20, -1e-20, 88.0, -88.0]])
    return grid.astype(dtype).reshape(-1, 3)


def activation_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Every activation and its derivative, entry by entry."""
    z = _spread(dtype)
    g = np.cos(np.arange(z.size)).reshape(z.shape).astype(dtype)
    names = sorted(activations.ACTIVATIONS)

    def all_of_them(xp: Namespace, z: Any, g: Any) -> Tree:
        found = []
        for name in names:
            act = activations.get(name)
            a = act.f(z, xp)
            found.append((a, act.vjp(g, z, a, xp)))
        return tuple(found)

    z64, g64 = z.astype(np.float64), g.astype(np.float64)
    wanted = all_of_them(get_backend("numpy").xp, z64, g64)
    with where.scope():
        compiled = mode == "compiled"
        call = where.compile_function(all_of_them) if compiled else partial(all_of_them, where.xp)
        results = call(where.asarray(z), where.asarray(g))
    for name, got, want in zip(names, results, wanted, strict=True):
        steep = 0.8 * (1 + 0.134 * z64 * z64) if name == "gelu_tanh" else 1.0
        lift = 1 + np.abs(z64) * steep
        scale = tuple(lift * np.maximum(1, np.abs(w)) for w in want)
        yield compare(
            "activation and derivative", name, where, got, want, tolerances.ELEMENTWISE,
            dtype=dtype, mode=mode, scale=scale,
        )  # fmt: skip


def gradient_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Every activation and every loss inside a network, with penalties and weights."""
    yield from network_rows(
        where,
        {
            name: make_problem(activation_net(name), 9, dtype, weighted=True)
            for name in sorted(activations.ACTIVATIONS)
        },
        mode,
    )
    yield from network_rows(
        where,
        {name: make_problem(loss_net(name), 9, dtype) for name in sorted(losses.LOSSES)},
        mode,
    )


SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((3, 2), 1),
    ((1, 1, 1), 2),
    ((5, 7, 6, 3), 9),
    ((64, 256, 10), 128),
    ((4, *[8] * 8, 3), 7),
)


def shape_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Networks without a hidden layer, deep, wide, of one unit; one row and many."""
    yield from network_rows(
        where,
        {
            f"{'-'.join(map(str, sizes))}, {n} row(s)": make_problem(MLP(sizes, "tanh"), n, dtype)
            for sizes, n in SHAPES
        },
        mode,
    )


def optimizer_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Five updates of every optimiser by given gradients, so that nothing amplifies an error."""
    steps, shape = 5, (6, 4)
    kinds = [kind() for _, kind in sorted(optimizers.OPTIMIZERS.items())]
    gradients = normal((steps * 6, 4), 301, 0).astype(dtype)
    start = normal(shape, 302, 0).astype(dtype)
    order = np.arange(steps * 6).reshape(steps, 6)

    def descend(which: int, columns: slice) -> Step:
        def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
            params, slots = state
            g, (_, *c) = batch
            grads = ((g, g),)
            c = tuple(c[columns])
            return optimizers.apply(kinds[which], grads, slots, params, c, xp=xp), ()

        return step

    def run(there: Backend, dt: str, how: str) -> Tree:
        made: list[Step] = []
        columns: list[HostArray] = []
        for which, kind in enumerate(kinds):
            table = [
                np.asarray(c, dtype=dt)
                for c in zip(*(kind.coefficients(t + 1, 0.05) for t in range(steps)), strict=True)
            ]
            made.append(descend(which, slice(len(columns), len(columns) + len(table))))
            columns.extend(table)
        with there.scope():
            p = there.asarray(start, dt)
            params = ((p, p * 0.5),)
            state = tuple((params, optimizers.init(k, params, xp=there.xp)) for k in kinds)
            running = runner(there, how, jointly(made), state)
            numbers = np.arange(steps, dtype=there.word_dtype)
            running.run((there.asarray(gradients, dt),), order, (numbers, *columns))
            return running.state

    results = run(where, dtype, mode), run(get_backend("numpy"), "float64", "eager")
    for kind, got, want in zip(kinds, *results, strict=True):
        scale = map_leaves(lambda a: np.full(a.shape, max(1.0, float(np.max(np.abs(a))))), want)
        yield compare(
            "five updates", kind.name, where, got, want, tolerances.UPDATE,
            dtype=dtype, mode=mode, scale=scale,
        )  # fmt: skip


_STEPS: Mapping[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": optimizers.Adam()},
    "clipped by value": {"clip_value": 0.01},
    "clipped by norm": {"clip_norm": 0.1},
    "dropout": {"dropout": (0.5, 0.2)},
}


def step_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """One whole update of a network: forward, backward, dropout, clipping and optimiser."""
    problem = make_problem(loss_net("softmax_cross_entropy"), 9, dtype, weighted=True)

    def run(there: Backend, dt: str, how: str) -> Tree:
        params, *data = problem.on(there, dt)
        with there.scope():
            counters = there.asarray(np.arange(9 * max(SIZES)), there.word_dtype)
            made: list[Step] = []
            states: list[Tree] = []
            columns: list[HostArray] = []
            for options in _STEPS.values():
                plan = StepPlan(
                    problem.net.equations,
                    **{"optimizer": Optimizer(), **options},
                    seed=5,
                    counters=counters,
                    weighted=True,
                )
                found = plan.optimizer.coefficients(1, 0.1)
                made.append(_with_coefficients(make_step(plan), len(columns), len(found)))
                states.append((params, optimizers.init(plan.optimizer, params, xp=there.xp)))
                columns.extend(np.asarray([c], dtype=dt) for c in found)
            running = runner(there, how, jointly(made), tuple(states))
            running.run(tuple(data), None, (np.zeros(1, dtype=there.word_dtype), *columns))
            return tuple(params for params, _ in running.state)

    results = run(where, dtype, mode), run(get_backend("numpy"), "float64", "eager")
    for case, got, want in zip(_STEPS, *results, strict=True):
        yield compare(
            "one update", case, where, got, want, tolerances.trajectory(1), dtype=dtype, mode=mode
        )


def _with_coefficients(step: Step, first: int, count: int) -> Step:
    """``step`` with its own few of the coefficients that several steps share."""

    def chosen(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        *data, (number, *c) = batch
        return step(xp, state, (*data, (number, *c[first : first + count])))

    return chosen


def schedule(name: str, rate: float) -> schedules.Schedule:
    """The schedule with lengths that fit into some fifty steps."""
    short: dict[str, dict[str, Any]] = {
        "step": {"step_size": 10},
        "exponential": {"gamma": 0.98},
        "linear_warmup": {"warmup": 10},
        "reduce_on_plateau": {"patience": 1, "factor": 0.5, "threshold": 0.1},
    }
    return schedules.SCHEDULES[name](rate, **short.get(name, {}))


_EXTRAS: Mapping[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "sample weights": {"weighted": True},
    "clipped": {"clip_norm": 0.5, "clip_value": 0.1},
    "ragged last batch": {"batch_size": 20},
    "batches larger than the data": {"batch_size": 1000, "epochs": 50},
    "batches of one": {"batch_size": 1, "epochs": 1},
    "all rows in order": {"batch_size": None, "shuffle": False, "epochs": 50},
    "penalties": {"l1": 1e-4, "l2": 1e-2},
}


def _run(optimizer: str, rule: str, extra: str) -> tuple[str, dict[str, Any]]:
    rate = 0.05 if optimizer in ("sgd", "momentum", "nesterov") else 0.01
    options = {"optimizer": optimizer, "learning_rate": schedule(rule, rate)}
    return f"{optimizer}, {rule}, {extra}", {**options, **_EXTRAS[extra]}


RUNS = dict(
    _run(*names)
    for names in zip(cycle(sorted(optimizers.OPTIMIZERS)), sorted(schedules.SCHEDULES), _EXTRAS)
)
"""Training runs in which each optimiser, each schedule and each other option occurs."""

ALL_RUNS = dict(
    _run(*names)
    for names in product(sorted(optimizers.OPTIMIZERS), sorted(schedules.SCHEDULES), ("penalties",))
) | dict(_run(o, "constant", e) for o, e in product(sorted(optimizers.OPTIMIZERS), _EXTRAS))


def train(
    where: Backend, options: Mapping[str, Any], dtype: str, mode: str, *, rounded: str
) -> tuple[Params, list[float], int]:
    """``(parameters, losses of the epochs, steps)``, from data and a start rounded to ``rounded``.

    ``options``: those of :func:`portable_bp.fit`, and ``rows``, ``depth``, ``weighted`` and what the
    network has by name.
    """
    chosen = {"batch_size": 16, "epochs": 16, **options}
    own = {k: chosen.pop(k) for k in ("l1", "l2", "dropout", "initializer") if k in chosen}
    n, depth = chosen.pop("rows", 48), chosen.pop("depth", 1)
    net = MLP((4, *[8] * depth, 3), "tanh", "softmax_cross_entropy", **own)
    problem = make_problem(net, n, rounded, weighted=chosen.pop("weighted", False))
    model = fit(
        net, problem.x, problem.y, sample_weight=problem.weights, params=problem.params,
        seed=3, backend=where, dtype=dtype, compile=mode == "compiled", **chosen,
    )  # fmt: skip
    steps = chosen["epochs"] * math.ceil(n / min(chosen["batch_size"] or n, n))
    return model.params, model.history["loss"], steps


def training_rows(
    where: Backend, dtype: str, mode: str, runs: Mapping[str, dict[str, Any]] = RUNS
) -> Iterator[Row]:
    """Whole training runs on smooth activations: every optimiser, every schedule, dropout, ..."""
    for case, options in runs.items():
        params, found, steps = train(where, options, dtype, mode, rounded=dtype)
        want, exact, _ = train(get_backend("numpy"), options, "float64", "eager", rounded=dtype)
        allowed = tolerances.trajectory(steps)
        yield compare(
            "parameters after training", f"{case}: {steps} steps", where, params, want, allowed,
            dtype=dtype, mode=mode,
        )  # fmt: skip
        gaps = np.abs(np.asarray(found) - exact) / np.maximum(1, np.abs(exact))
        error = float(np.max(gaps)) / tolerances.ROUNDOFF[dtype]
        allowed = max(allowed, tolerances.LOSS)
        yield Row("loss of each epoch", case, dtype, mode, error, allowed)


def trained_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Loss and gradients at parameters that have been trained, where they are small differences."""
    problems = {
        f"{loss}, trained": trained_problem(loss, dtype)
        for loss in ("squared_error", "softmax_cross_entropy")
    }
    yield from network_rows(where, problems, mode, tolerance=tolerances.TRAINED)


def trained_problem(loss: str, dtype: str) -> Problem:
    start = make_problem(loss_net(loss), 24, dtype)
    model = fit(
        start.net, start.x, start.y, params=start.params, optimizer="adam", learning_rate=0.03,
        epochs=50, batch_size=None, backend="numpy", dtype="float64", compile=False,
    )  # fmt: skip
    params = map_leaves(lambda p: np.asarray(p).astype(dtype), model.params)
    return replace(start, params=params)


def random_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Start parameters, batch order, random words and dropout masks: the same bits."""
    numpy = get_backend("numpy")
    for name in sorted(initializers.INITIALIZERS):
        net = MLP((5, 7, 3), initializer=name)
        with where.scope():
            got = [where.to_numpy(p) for p in leaves(net.init(11, where, dtype))]
        want = [numpy.to_numpy(p) for p in leaves(net.init(11, numpy, dtype))]
        yield same_bits("start parameters", name, _bits(got), _bits(want), dtype=dtype)
    for what, case, draw in (
        ("batches", "order of the rows", _batches),
        ("random words", "Philox4x32-10", _words),
        ("dropout masks", "Philox4x32-10", _masks),
    ):
        found = [draw(w, m, dtype) for w, m in ((where, mode), (numpy, "eager"))]
        yield same_bits(what, case, *found, dtype=dtype, mode=mode)


def _bits(arrays: Sequence[HostArray]) -> list[HostArray]:
    return [a.view(f"u{a.dtype.itemsize}") for a in arrays]


def _batches(where: Backend, mode: str, dtype: str) -> list[HostArray]:
    """Which rows each step saw: their numbers as the digits of the loss, an integer below 2^24."""
    n, size = 96, 3
    order = rng.permutation(n, 7, rng.SHUFFLE, 1).reshape(-1, size)

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        rows, (digits,) = batch[0], state
        return state, xp.sum(rows * digits, dtype=rows.dtype)

    with where.scope():
        rows = where.asarray(np.arange(n), dtype)
        digits = where.asarray(np.asarray([1.0, n, n * n]), dtype)
        run = runner(where, mode, step, (digits,))
        table = (np.zeros(len(order), dtype=where.word_dtype),)
        return [where.to_numpy(run.run((rows,), order, table)).astype(np.int64)]


def _words(where: Backend, mode: str, dtype: str) -> list[HostArray]:
    """Words of three steps, their numbers on both sides of 2^31."""
    n, steps, seed = 1001, 3, 0xFEDCBA9876543210
    with where.scope():
        index = where.asarray(np.arange(n), where.word_dtype)

        def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
            w = random.words(n, index, seed=seed, layer=2, step=batch[-1][0], xp=xp)
            return (state[1], state[2], w), ()

        run = runner(where, mode, step, (where.xp.zeros_like(index),) * steps)
        numbers = np.arange(2**31 - 1, 2**31 - 1 + steps, dtype=where.word_dtype)
        run.run((index,), None, (numbers,))
        return [where.to_numpy(w).astype(np.int64) for w in run.state]


def _masks(where: Backend, mode: str, dtype: str) -> list[HostArray]:
    shape, steps, rates = (13, 21), 2, (0.1, 0.5, 0.9)
    with where.scope():
        index = where.asarray(np.arange(shape[0] * shape[1]), where.word_dtype)
        blank = where.xp.zeros(shape, dtype=where.dtype(dtype), device=where.device)

        def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
            found = tuple(
                regularizers.dropout_mask(
                    shape, blank.dtype, rate, index, seed=9, layer=l, step=batch[-1][0], xp=xp
                )
                for l, rate in enumerate(rates, start=1)
            )
            return (*state[len(rates) :], *found), ()

        run = runner(where, mode, step, (blank,) * (steps * len(rates)))
        run.run((blank,), None, (np.arange(steps, dtype=where.word_dtype),))
        return [(where.to_numpy(m) != 0).astype(np.int64) for m in run.state]


def odd_inputs() -> dict[str, HostArray]:
    """NumPy arrays as users have them: every stride and byte order."""
    base = np.arange(24.0).reshape(6, 4) - 7.5
    read_only = base.copy()
    read_only.setflags(write=False)
    return {
        "C order": base.copy(),
        "Fortran order": np.asfortranarray(base),
        "transposed": base.copy().T,
        "every other column": base.copy()[:, ::2],
        "negative strides": base.copy()[::-1, ::-1],
        "zero strides": np.broadcast_to(base[:1], (3, 4)),
        "big endian": base.astype(">f8"),
        "read-only": read_only,
        "no rows": base[:0],
    }


def transfer_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """To the device and back: exact, and a private copy each way."""
    for case, values in odd_inputs().items():
        given = values.astype(values.dtype.newbyteorder("=")).astype(dtype)
        row = partial(same_bits, dtype=dtype)
        with where.scope():
            array = where.asarray(values, dtype)
            wrong = next(kind_errors(where, array, given, dtype), "")
            back = where.to_numpy(array)
            yield replace(row("transfer", case, [back], [given]), note=wrong)
            if values.flags.writeable:
                values[...] = 99.0
                after = where.to_numpy(array)
                yield row("private copy", f"{case}, to the device", [after], [given])
            back[...] = 99.0
            after = where.to_numpy(array)
            yield row("private copy", f"{case}, to the host", [after], [given])


def difference_rows(where: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """The oracle itself: its gradients against central differences of its loss."""
    nets = {name: activation_net(name) for name in sorted(activations.ACTIVATIONS)}
    nets |= {name: loss_net(name) for name in sorted(losses.LOSSES)}
    u, tolerance = tolerances.ROUNDOFF["float64"], 1e-7
    for name, net in nets.items():
        p = make_problem(net, 5, "float64", weighted=True)
        error, note = math.inf, ""
        try:
            error = check_gradients(
                net,
                p.params,
                p.x,
                p.y,
                p.weights,
                entries=5,
                tolerance=tolerance,
            )
        except AssertionError as failure:
            note = str(failure)
        yield Row("central differences", name, "float64", "", error / u, tolerance / u, note)


@dataclass(frozen=True)
class Check:
    """A family of comparisons: ``rows(where, dtype, mode)``.

    ``modes``: ``"each"`` of eager and compiled; the ``"best"`` that the backend has; ``"once"``, with
    no regard to it; ``"oracle"``: once for all backends.
    """

    rows: Callable[[Backend, str, str], Iterator[Row]]
    modes: str = "best"


CHECKS: Mapping[str, Check] = {
    "differences": Check(difference_rows, "oracle"),
    "transfers": Check(transfer_rows, "once"),
    "random": Check(random_rows),
    "activations": Check(activation_rows, "each"),
    "gradients": Check(gradient_rows, "each"),
    "shapes": Check(shape_rows),
    "trained": Check(trained_rows),
    "optimizers": Check(optimizer_rows),
    "steps": Check(step_rows),
    "training": Check(training_rows),
}


def check_backend(spec: str | Backend = "numpy", *, thorough: bool = False) -> Report:
    """Compare a backend with float64 NumPy in everything that training does.

    Activations, losses, gradients, initialisers, optimisers, schedules, dropout, whole training
    runs; float32 and, where the device has it, float64; steps compiled and eager. A minute on
    a machine of two cores; ``print(report)`` shows a table.

    Parameters
    ----------
    spec : str or Backend
        As :func:`portable_bp.get_backend` takes it: ``"cupy"``, ``"torch:cuda:0"``.
    thorough : bool
        Every check both compiled and eager.

    Returns
    -------
    Report
        ``report.agrees``, and a row for each comparison.

    Raises
    ------
    BackendError
        When the backend cannot be used here.

    Examples
    --------
    >>> report = check_backend("numpy")
    >>> report.agrees
    True
    """
    where = get_backend(spec)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    if len(modes(where)) == 1:
        skipped["compiled"] = f"{where.spec} runs each step as it is written"
    for dtype in DTYPES:
        reason = where.missing_dtype(dtype)
        if reason:
            skipped[dtype] = reason
            continue
        for name, check in CHECKS.items():
            for mode in chosen_modes(where, check, thorough):
                if check.modes == "oracle" and any(r.what == "central differences" for r in rows):
                    continue
                try:
                    rows.extend(check.rows(where, dtype, mode))
                except Exception as error:  # whatever an unknown library raises is a finding
                    note = f"{type(error).__name__}: {error}".splitlines()[0]
                    rows.append(Row(name, "", dtype, mode, math.inf, 0.0, note))
    return Report(
        where.spec,
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        library_versions(where),
        tuple(rows),
        skipped,
    )


def chosen_modes(where: Backend, check: Check, thorough: bool = False) -> tuple[str, ...]:
    """The modes that a check runs in."""
    there = modes(where)
    if check.modes in ("once", "oracle"):
        return ("",)
    return there if thorough or check.modes == "each" else there[-1:]
