"""Do all backends compute the same numbers? The proof, for anyone to run on their own machine.

:func:`check_backend` compares a backend with the oracle, float64 NumPy running each step
eagerly, on every activation, loss, initialiser, optimiser and schedule, with the steps compiled and
not. Each comparison is a :class:`~portable_bp.testing.report.Row`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend
from portable_bp.testing.equivalence.differences import difference_rows
from portable_bp.testing.equivalence.evaluation import (
    DTYPES,
    evaluate,
    evaluate_compiled,
    modes,
    network_rows,
    oracle,
    runner,
)
from portable_bp.testing.equivalence.gradients import activation_rows, gradient_rows, shape_rows
from portable_bp.testing.equivalence.optimizers import optimizer_rows, step_rows
from portable_bp.testing.equivalence.randomness import random_rows
from portable_bp.testing.equivalence.training import (
    ALL_RUNS,
    RUNS,
    schedule,
    train,
    trained_rows,
    training_rows,
)
from portable_bp.testing.equivalence.transfers import transfer_rows
from portable_bp.testing.report import Report, Row, library_versions

__all__ = [
    "ALL_RUNS",
    "CHECKS",
    "DTYPES",
    "RUNS",
    "Check",
    "activation_rows",
    "check_backend",
    "chosen_modes",
    "difference_rows",
    "evaluate",
    "evaluate_compiled",
    "modes",
    "network_rows",
    "optimizer_rows",
    "oracle",
    "random_rows",
    "runner",
    "schedule",
    "train",
    "training_rows",
    "transfer_rows",
]


@dataclass(frozen=True)
class Check:
    """A family of comparisons: ``rows(backend, dtype, mode)``.

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
    backend = get_backend(spec)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    if len(modes(backend)) == 1:
        skipped["compiled"] = f"{backend.spec} runs each step eagerly"
    for dtype in DTYPES:
        reason = backend.missing_dtype(dtype)
        if reason:
            skipped[dtype] = reason
            continue
        for name, check in CHECKS.items():
            for mode in chosen_modes(backend, check, thorough):
                if check.modes == "oracle" and any(r.what == "central differences" for r in rows):
                    continue
                try:
                    rows.extend(check.rows(backend, dtype, mode))
                except Exception as error:  # whatever an unknown library raises is a finding
                    note = f"{type(error).__name__}: {error}".splitlines()[0]
                    rows.append(Row(name, "", dtype, mode, math.inf, 0.0, note))
    return Report(
        backend.spec,
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        library_versions(backend),
        tuple(rows),
        skipped,
    )


def chosen_modes(backend: Backend, check: Check, thorough: bool = False) -> tuple[str, ...]:
    """The modes that a check runs in."""
    there = modes(backend)
    if check.modes in ("once", "oracle"):
        return ("",)
    return there if thorough or check.modes == "each" else there[-1:]
