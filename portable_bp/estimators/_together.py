"""Several estimators, fitted side by side."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

from sklearn.pipeline import Pipeline

from portable_bp.estimators._base import BaseMLP
from portable_bp.processes import current
from portable_bp.training.together import train_together
from portable_bp.training.together_groups import Job


class Fit(NamedTuple):
    """A call of ``estimator.fit(X, y, **params)``."""

    estimator: Any
    X: Any
    y: Any
    params: Mapping[str, Any]


def fit_together(fits: Sequence[Fit]) -> list[Exception | None]:
    """Make these calls, those of our estimators side by side; the error of each, or None.

    Parameters
    ----------
    fits : sequence of Fit
        Estimators of ours, pipelines that end in one, or any others, which are fitted alone.

    Returns
    -------
    list of Exception or None
        The estimators without an error are fitted.
    """
    errors: list[Exception | None] = [None] * len(fits)
    running: list[tuple[int, Generator[Job, None, None], Job]] = []
    for i, fit in enumerate(fits):
        jobs = _jobs(fit)
        try:
            running += [(i, jobs, job) for job in [next(jobs, None)] if job is not None]
        except Exception as error:  # the other fits go on: it is the caller's to raise it
            errors[i] = error
    train_together([job for _, _, job in running])
    for i, jobs, _ in running:
        try:
            next(jobs, None)
        except Exception as error:
            errors[i] = error
    return errors


def _jobs(fit: Fit) -> Generator[Job, None, None]:
    """The run of a fit, in the middle of it."""
    estimator, X, y, params = fit
    alone = current().size > 1  # processes share the rows of one run
    if not alone and isinstance(estimator, BaseMLP) and {*params} <= {"sample_weight"}:
        yield from estimator.fit_jobs(X, y, **params)
        return
    ours = isinstance(estimator, Pipeline) and isinstance(estimator.steps[-1][1], BaseMLP)
    if not alone and ours and not params and estimator.memory is None:
        before = estimator[:-1]
        transformed = before.fit_transform(X, y) if len(estimator.steps) > 1 else X
        yield from estimator[-1].fit_jobs(transformed, y)
        return
    estimator.fit(X, y, **params)
