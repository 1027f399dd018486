"""Whole training runs, step by step, with every optimiser, schedule and extra."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle, product
from typing import Any

import numpy as np

from portable_bp._typing import Params
from portable_bp.backend import Backend, map_leaves
from portable_bp.backend.registry import get_backend
from portable_bp.equations import (
    optimizers,
    schedules,
)
from portable_bp.mlp import MLP
from portable_bp.testing import tolerances
from portable_bp.testing.compare import compare
from portable_bp.testing.equivalence.evaluation import network_rows
from portable_bp.testing.equivalence.gradients import loss_net
from portable_bp.testing.problems import Problem, make_problem
from portable_bp.testing.report import Row
from portable_bp.training.fit import fit


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
    backend: Backend, options: Mapping[str, Any], dtype: str, mode: str, *, rounded: str
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
        seed=3, backend=backend, dtype=dtype, compile=mode == "compiled", **chosen,
    )  # fmt: skip
    steps = chosen["epochs"] * math.ceil(n / min(chosen["batch_size"] or n, n))
    return model.params, model.history["loss"], steps


def training_rows(
    backend: Backend, dtype: str, mode: str, runs: Mapping[str, dict[str, Any]] = RUNS
) -> Iterator[Row]:
    """Whole training runs on smooth activations: every optimiser, every schedule, dropout, ..."""
    for case, options in runs.items():
        params, losses, steps = train(backend, options, dtype, mode, rounded=dtype)
        want, exact, _ = train(get_backend("numpy"), options, "float64", "eager", rounded=dtype)
        allowed = tolerances.trajectory(steps)
        yield compare(
            "parameters after training", f"{case}: {steps} steps", backend, params, want, allowed,
            dtype=dtype, mode=mode,
        )  # fmt: skip
        gaps = np.abs(np.asarray(losses) - exact) / np.maximum(1, np.abs(exact))
        error = float(np.max(gaps)) / tolerances.ROUNDOFF[dtype]
        allowed = max(allowed, tolerances.LOSS)
        yield Row("loss of each epoch", case, dtype, mode, error, allowed)


def trained_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Loss and gradients at parameters that have been trained, where they are small differences."""
    problems = {
        f"{loss}, trained": trained_problem(loss, dtype)
        for loss in ("squared_error", "softmax_cross_entropy")
    }
    yield from network_rows(backend, problems, mode, tolerance=tolerances.TRAINED)


def trained_problem(loss: str, dtype: str) -> Problem:
    start = make_problem(loss_net(loss), 24, dtype)
    model = fit(
        start.net, start.x, start.y, params=start.params, optimizer="adam", learning_rate=0.03,
        epochs=50, batch_size=None, backend="numpy", dtype="float64", compile=False,
    )  # fmt: skip
    params = map_leaves(lambda p: np.asarray(p).astype(dtype), model.params)
    return replace(start, params=params)
