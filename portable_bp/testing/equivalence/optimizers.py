"""Optimisers: single updates, and some steps of each, compiled and eager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from portable_bp._typing import HostArray, Namespace, Step, Tree
from portable_bp.backend import Backend, map_leaves
from portable_bp.backend.registry import get_backend
from portable_bp.equations import (
    optimizers,
)
from portable_bp.equations.optimizers import Optimizer
from portable_bp.testing import tolerances
from portable_bp.testing.compare import compare
from portable_bp.testing.equivalence.evaluation import jointly, runner
from portable_bp.testing.equivalence.gradients import SIZES, loss_net
from portable_bp.testing.problems import make_problem, normal
from portable_bp.testing.report import Row
from portable_bp.training.step import StepPlan, make_step


def optimizer_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
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

    results = run(backend, dtype, mode), run(get_backend("numpy"), "float64", "eager")
    for kind, got, want in zip(kinds, *results, strict=True):
        scale = map_leaves(lambda a: np.full(a.shape, max(1.0, float(np.max(np.abs(a))))), want)
        yield compare(
            "five updates", kind.name, backend, got, want, tolerances.UPDATE,
            dtype=dtype, mode=mode, scale=scale,
        )  # fmt: skip


_STEPS: Mapping[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": optimizers.Adam()},
    "clipped by value": {"clip_value": 0.01},
    "clipped by norm": {"clip_norm": 0.1},
    "dropout": {"dropout": (0.5, 0.2)},
}


def step_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
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
                coefficients = plan.optimizer.coefficients(1, 0.1)
                made.append(_with_coefficients(make_step(plan), len(columns), len(coefficients)))
                states.append((params, optimizers.init(plan.optimizer, params, xp=there.xp)))
                columns.extend(np.asarray([c], dtype=dt) for c in coefficients)
            running = runner(there, how, jointly(made), tuple(states))
            running.run(tuple(data), None, (np.zeros(1, dtype=there.word_dtype), *columns))
            return tuple(params for params, _ in running.state)

    results = run(backend, dtype, mode), run(get_backend("numpy"), "float64", "eager")
    for case, got, want in zip(_STEPS, *results, strict=True):
        yield compare(
            "one update", case, backend, got, want, tolerances.trajectory(1), dtype=dtype, mode=mode
        )


def _with_coefficients(step: Step, first: int, count: int) -> Step:
    """``step`` with its own few of the coefficients that several steps share."""

    def chosen(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        *data, (number, *c) = batch
        return step(xp, state, (*data, (number, *c[first : first + count])))

    return chosen
