"""Peak memory of training, against the sum of what has to be held."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case, data, step_and_state, table
from benchmarks.race import Race
from benchmarks.workers import Failed

CANDIDATES = (
    "ours numpy",
    "ours numpy, eager",
    "ours torch",
    "ours jax",
    "scikit-learn",
    "torch eager",
    "jax.jit",
    "jax scan",
    "thinc",
)

CASES = (
    Case((30, 64, 32, 2), 32, 2048),
    Case((784, 256, 128, 10), 128, 2048),
    Case((784, 512, 512, 10), 256, 2048),
    Case((784, 2048, 2048, 10), 512, 2048),
)

_FIRST = Case((4, 3, 2), 8, 16)
"""Trained first, so that libraries are loaded and their threads run."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held(case: Case) -> dict[str, int]:
    """Bytes that a step in float32 has to hold at one time or another, each thing once."""
    weights = sum((i + 1) * o for i, o in zip(case.sizes, case.sizes[1:], strict=False))
    io = case.sizes[0] + case.sizes[-1]
    return {
        "parameters": 4 * weights,
        "moments": 4 * weights * {"adam": 2, "sgd": 0}[case.optimizer],
        "gradient": 4 * weights,
        "activations": 4 * case.batch * sum(case.sizes[1:]),
        "mini-batch": 0 if case.full else 4 * case.batch * io,
    }


def plan_bytes(case: Case) -> dict[str, int]:
    """What the plan of the NumPy backend owns, counted; and the peak while it is traced and run."""
    import portable_bp
    from portable_bp.backend import leaves
    from portable_bp_backends.numpy_plan import PlanOptions, PlanRunner

    backend = portable_bp.get_backend("numpy")
    d = data(case)
    arrays, order = (d.x, d.onehot), None if case.full else d.orders[0]
    numbers = table(case, 0, case.steps, "float32", backend.word_dtype)
    step, state = step_and_state(case, backend)
    tracemalloc.start()
    try:
        with backend.scope():
            runner = PlanRunner(backend, step, state, PlanOptions())
            runner.run(arrays, order, numbers)
            peak = tracemalloc.get_traced_memory()[1]
            batch = tuple(a[: case.batch] for a in arrays)
            workspace = runner.plan(batch, numbers).nbytes
    finally:
        tracemalloc.stop()
    return {
        "state": sum(np.asarray(a).nbytes for a in leaves(state)),
        "workspace": workspace,
        "peak": peak,
    }


def growth_of_process(make: Callable[[Case], Any], case: Case) -> int | None:
    """Bytes by which the process grows at most, from its data to the end of an epoch.

    None where the system does not tell.
    """
    if not _RESET.exists() or "VmHWM" not in _STATUS.read_text():
        return None
    make(_FIRST).run(1)
    gc.collect()
    before = _status("VmRSS")
    _RESET.write_text("5")  # the peak starts anew from here
    candidate = make(case)
    candidate.run(1)
    own = candidate.data
    rows: int = sum(a.nbytes for a in (own.x, own.labels, own.onehot, *own.orders))
    return _status("VmHWM") - before - rows


def served(name: str, case: Case) -> int | None:
    """:func:`growth_of_process` of a candidate, in the worker's own process."""
    from benchmarks.peers import TRAINING

    return growth_of_process(TRAINING[name], case)


def measure(names: Sequence[str], cases: Sequence[Case], say: Callable[..., None]) -> list[Any]:
    """For each case what has to be held, what the plan owns, and how far each process grows."""
    found = []
    for case in cases:
        grown: dict[str, Any] = {}
        for name in names:  # each in a fresh process: what was freed before would be reused
            with Race("training", [name]) as alone:
                try:
                    grown[name] = alone.workers[name].call("apply", served, name, case)
                except Failed as failed:
                    grown[name] = failed.refused()
        entry = {
            "name": case.name,
            "case": asdict(case),
            "held": held(case),
            "plan": plan_bytes(case),
            "process": grown,
        }
        found.append(entry)
        say(entry)
    return found


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines[key].split()[0]) * 1024
