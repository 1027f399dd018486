"""Measures again what the tolerances in ``portable_bp.testing.tolerances`` rest on.

``python -m tools.measure_constants``, some minutes. It writes ``benchmarks/results/constants.json``,
and the table of ``docs/equivalence.md`` follows from that; a test holds the record to the tolerances.
All errors are in units of the roundoff u of the dtype that computes, against float64 NumPy.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_ENABLE_X64", "1")

import numpy as np

from portable_bp import MLP, Backend, EpochEnd, fit, get_backend
from portable_bp.backend import leaves, map_leaves
from portable_bp.equations import activations, losses, network
from portable_bp.testing import equivalence, tolerances
from portable_bp.testing.compare import norm
from portable_bp.testing.problems import Problem, make_problem
from portable_bp.testing.report import Row, library_versions

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "constants.json"
SPECS = ("numpy", "torch", "jax")
NUMPY = get_backend("numpy")
STEPS = (1, 10, 100, 1000)
RATES = {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}


class Worst:
    """The largest error of each quantity, and where it was."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, what: str, where: Backend, error: float, case: str, allowed: float) -> None:
        old = self.found.get(what)
        if old is None or error > old["error"]:
            case = f"{where.name}, {case}"
            self.found[what] = {"error": round(error, 3), "case": case, "allowed": allowed}

    def rows(self, what: str, where: Backend, rows: Iterator[Row]) -> None:
        for row in rows:
            self.add(what, where, row.error, f"{row.case} {row.dtype}".strip(), row.tolerance)


def generic_problems(dtype: str) -> Iterator[tuple[str, Problem]]:
    """Networks as they are initialised: every activation, depths and widths, rows."""
    for name in sorted(set(activations.ACTIVATIONS) - {"exp", "softmax"}):
        for depth, width in ((1, 32), (2, 32), (4, 32), (8, 32), (1, 1024), (2, 1024), (4, 1024)):
            net = MLP((16, *[width] * depth, 10), name, "softmax_cross_entropy")
            case = f"{name}, {depth} x {width}"
            yield case, make_problem(net, 32, dtype, seed=depth)


def measure_generic(worst: Worst, where: Backend, dtype: str) -> None:
    for case, problem in generic_problems(dtype):
        allowed = tolerances.generic(len(problem.params))
        width = problem.net.sizes[1]
        for row in equivalence.network_rows(where, {case: problem}, "eager"):
            case = f"{row.case} {dtype}"
            if row.what == "loss":
                worst.add("loss", where, row.error, case, tolerances.LOSS)
            else:
                layers = len(problem.params)
                what = f"gradient, deltas, outputs: {layers} layers of {width}"
                worst.add(what, where, row.error, case, allowed)


def digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16)[:512], y[:512]


def measure_trained(worst: Worst, where: Backend, dtype: str) -> None:
    """Gradients of 64 rows after more and more epochs on the digits."""
    x, y = digits()
    net = MLP((64, 64, 32, 10), "tanh", "softmax_cross_entropy")
    params = net.init(0, NUMPY, "float64")
    for epochs in (1, 4, 15):
        model = fit(net, x, y, params=params, epochs=epochs, batch_size=32, dtype="float64",
                    learning_rate=3e-3, backend=NUMPY)  # fmt: skip
        params = model.params
        rounded = map_leaves(lambda p: np.asarray(p).astype(dtype), params)
        problem = Problem(net, dtype, rounded, x[:64].astype(dtype), y[:64], None)
        for row in equivalence.network_rows(where, {"": problem}, "eager"):
            if row.what == "gradient":
                case = f"digits, loss {model.history['loss'][-1]:.2g}, {dtype}"
                worst.add("gradient, partly trained", where, row.error, case, tolerances.TRAINED)


def path(where: Backend, dtype: str, hidden: str, optimizer: str, rate: float, steps: int) -> Any:
    """The parameters after each step, in float64, of mini-batches on the digits."""
    x, y = digits()
    net = MLP((64, 64, 32, 10), hidden, "softmax_cross_entropy")
    start = map_leaves(lambda p: np.asarray(p), net.init(0, NUMPY, "float32"))
    seen: list[Any] = []

    def keep(end: EpochEnd) -> None:
        with where.scope():
            seen.append([where.to_numpy(p).astype(float) for p in leaves(end.params())])

    # All rows at once: then an epoch is a step, and a callback sees each.
    fit(
        net, x[:128].astype("float32"), y[:128], params=start, batch_size=None, epochs=steps,
        optimizer=optimizer, learning_rate=rate, backend=where, dtype=dtype, callbacks=[keep],
    )  # fmt: skip
    return seen


def drift(here: Sequence[Any], there: Sequence[Any]) -> list[float]:
    """||w - w'|| / ||w'|| after each step."""
    return [
        norm([a - b for a, b in zip(p, q, strict=True)]) / norm(q)
        for p, q in zip(here, there, strict=True)
    ]


def measure_drift(worst: Worst) -> None:
    """k steps: the drift over ``u sqrt(k + 1)``, smooth activations."""
    for optimizer, rate in RATES.items():
        exact = path(NUMPY, "float64", "tanh", optimizer, rate, max(STEPS))
        for spec in SPECS:
            where = get_backend(spec)
            for dtype in equivalence.DTYPES:
                if spec == "numpy" and dtype == "float64":
                    continue
                found = path(where, dtype, "tanh", optimizer, rate, max(STEPS))
                gaps = drift(found, exact)
                for k in STEPS:
                    error = gaps[k - 1] / tolerances.ROUNDOFF[dtype] / math.sqrt(k + 1)
                    what = f"drift / sqrt(k + 1), {dtype}: k = {k}"
                    worst.add(what, where, error, optimizer, 4.0)


def measure_flip() -> dict[str, Any]:
    """Two relu runs in float32 and float64: the drift before and after the first gate differs."""
    x = digits()[0][:128]
    net = MLP((64, 64, 32, 10), "relu", "softmax_cross_entropy")
    found, exact = (path(NUMPY, d, "relu", "sgd", 0.3, 1000) for d in equivalence.DTYPES)
    gaps = drift(found, exact)

    def gates(p: Any) -> Any:
        params = tuple(zip(p[::2], p[1::2], strict=True))
        cache = network.forward(params, x, net.activations, xp=NUMPY.xp)
        return np.concatenate([z.ravel() > 0 for z in cache.z[:-1]])

    flips = (
        k for k, (p, q) in enumerate(zip(found, exact, strict=True)) if (gates(p) != gates(q)).any()
    )
    first = next(flips, None)
    u = tolerances.ROUNDOFF["float32"]
    if first is None:
        return {"step": None, "end": gaps[-1] / u}
    return {
        "step": first + 1,
        "before": gaps[max(first - 1, 0)] / u,
        "after": gaps[min(first + 10, len(gaps) - 1)] / u,
        "end": gaps[-1] / u,
        "law": tolerances.trajectory(first + 1),
    }


def main() -> None:
    worst = Worst()
    for spec in SPECS:
        where = get_backend(spec)
        for dtype in equivalence.DTYPES:
            rows = equivalence.activation_rows(where, dtype, "eager")
            worst.rows("activation and derivative", where, rows)
            worst.rows("five updates", where, equivalence.optimizer_rows(where, dtype, "eager"))
            measure_trained(worst, where, dtype)
        measure_generic(worst, where, "float32")
    measure_drift(worst)
    versions: dict[str, str] = {}
    for spec in SPECS:
        versions |= library_versions(get_backend(spec))
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": versions,
        "activations": sorted(activations.ACTIVATIONS),
        "losses": sorted(losses.LOSSES),
        "rows": worst.found,
        "first gate flip": measure_flip(),
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def table() -> str:
    """The record as a table in Markdown."""
    record = json.loads(RECORD.read_text())
    lines = ["| what | worst error / u | allowed / u | where |", "|---|---:|---:|---|"]
    lines += [
        f"| {what} | {row['error']:.2g} | {row['allowed']:g} | {row['case']} |"
        for what, row in record["rows"].items()
    ]
    lines.append(
        f"| TF32 (gradient, in units of 2^-11) | not measured on this code | {tolerances.TF32:g} | |"
    )
    flip = record["first gate flip"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return "\n".join(lines) + (
        f"\n\nA run with relu (full batches of 128 digits, SGD): float32 and float64 first disagree "
        f"about a gate at step {flip['step']}. The step before, the parameters had drifted apart by "
        f"{flip['before']:.2g} u (allowed by the law: {flip['law']:.2g} u); ten steps later by "
        f"{flip['after']:.2g} u, and at step 1000 by {flip['end']:.2g} u.\n\n"
        f"Measured on {record['date']}: {versions}."
    )


if __name__ == "__main__":
    main()
