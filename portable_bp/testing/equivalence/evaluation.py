"""What is evaluated: loss, outputs, deltas and gradients, on a backend and in the oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from portable_bp._typing import Namespace, Step, Tree
from portable_bp.backend import Backend, EagerRunner, Runner, map_leaves
from portable_bp.backend.registry import get_backend
from portable_bp.equations import (
    network,
)
from portable_bp.testing import tolerances
from portable_bp.testing.compare import compare
from portable_bp.testing.problems import Problem
from portable_bp.testing.report import Row

DTYPES = ("float32", "float64")


def modes(backend: Backend) -> tuple[str, ...]:
    """``("eager", "compiled")``, or ``("eager",)`` from a backend that compiles nothing."""
    return ("eager",) if type(backend).compile is Backend.compile else ("eager", "compiled")


def runner(backend: Backend, mode: str, step: Step, state: Tree) -> Runner:
    return backend.compile(step, state) if mode == "compiled" else EagerRunner(backend, step, state)


def jointly(steps: Sequence[Step]) -> Step:
    """One step that makes each of ``steps`` on its own state and the same batch.

    Compiling them together takes a fraction of the time of compiling each.
    """

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        return tuple(f(xp, s, batch)[0] for f, s in zip(steps, state, strict=True)), ()

    return step


def evaluate(backend: Backend, problem: Problem, dtype: str) -> dict[str, Tree]:
    """Loss, outputs, deltas and gradients through the public methods of the network."""
    net = problem.net
    params, x, y, weights = problem.on(backend, dtype)
    loss, gradients = net.loss_and_gradients(params, x, y, weights)
    return {
        "loss": loss,
        "outputs": net.forward(params, x),
        "deltas": net.deltas(params, x, y, weights),
        "gradient": gradients,
        "input gradient": net.input_gradient(params, x, y, weights),
    }


def evaluate_compiled(
    backend: Backend, problems: Sequence[Problem], dtype: str
) -> list[dict[str, Tree]]:
    """The same for several problems through the door: as one step that the backend compiles."""
    with backend.scope():
        xp = backend.xp
        placed = [problem.on(backend, dtype) for problem in problems]
        states = []
        for params, x, y, weights in placed:
            rows = x.shape[0]
            blank = tuple(
                xp.zeros((rows, b.shape[0]), dtype=x.dtype, device=backend.device)
                for _, b in params
            )
            results = (xp.zeros((), dtype=x.dtype, device=backend.device), blank[-1], blank)
            inputs = (params, x, y, () if weights is None else weights)
            states.append((inputs, *results, map_leaves(xp.zeros_like, params), xp.zeros_like(x)))
        run = runner(
            backend, "compiled", jointly([_evaluation(p) for p in problems]), tuple(states)
        )
        # The problems stand in the state; the one row of data only says that there is a step.
        run.run((placed[0][1],), None, (np.zeros(1, dtype=backend.word_dtype),))
        names = ("loss", "outputs", "deltas", "gradient", "input gradient")
        return [dict(zip(names, state[1:], strict=True)) for state in run.state]


def _evaluation(problem: Problem) -> Step:
    eq = problem.net.equations

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        inputs = state[0]
        params, x, y, weights = inputs
        share = network.example_weights(x, None if problem.weights is None else weights, xp=xp)
        cache = network.forward(params, x, eq.activations, xp=xp)
        delta = network.deltas(eq, params, cache, y, share, xp=xp)
        results = (
            network.mean_loss(eq, params, cache, y, share, xp=xp),
            cache.outputs[-1],
            delta,
            network.gradients(eq, params, cache, delta, xp=xp),
            network.input_gradient(params, delta, xp=xp),
        )
        return (inputs, *results), ()

    return step


def oracle(problem: Problem) -> dict[str, Tree]:
    """The same in float64 on NumPy, eager."""
    results = evaluate(get_backend("numpy"), problem, "float64")
    return {name: map_leaves(np.asarray, value) for name, value in results.items()}


def network_rows(
    backend: Backend,
    problems: Mapping[str, Problem],
    mode: str,
    *,
    tolerance: float | None = None,
    unit: str = "",
) -> Iterator[Row]:
    """Loss, outputs, deltas and gradients of named problems of one dtype against the oracle.

    ``tolerance``: of all but the loss, if not that of a network as it is initialised.
    """
    cases = list(problems.values())
    dtype = cases[0].dtype
    if mode == "compiled":
        results = evaluate_compiled(backend, cases, dtype)
    else:
        results = [evaluate(backend, problem, dtype) for problem in cases]
    for (case, problem), result in zip(problems.items(), results, strict=True):
        want = oracle(problem)
        for what, got in result.items():
            exact = want[what]
            is_loss = what == "loss"
            allowed = tolerance or tolerances.generic(len(problem.params))
            yield compare(
                what, case, backend, got, exact, tolerances.LOSS if is_loss else allowed,
                dtype=dtype, mode=mode, unit=unit,
                scale=np.maximum(1.0, np.abs(exact)) if is_loss else None,
            )  # fmt: skip
