"""The rows that judge an estimator's epochs, and the number that early stopping watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split

from portable_bp._typing import HostArray, Params
from portable_bp.backend.registry import get_backend
from portable_bp.estimators import _input, _sources
from portable_bp.estimators._place import Place, home_of
from portable_bp.estimators._policy import Judge
from portable_bp.estimators._solvers import TrainingRows
from portable_bp.inputs import checks
from portable_bp.inputs.containers import is_sparse
from portable_bp.inputs.spec import NetSpec
from portable_bp.inputs.transfer import to_host
from portable_bp.sources.protocol import Described, is_source
from portable_bp.training.data import held_features, select
from portable_bp.training.judging import ValidationSet


def hold_out(
    est: Any,
    place: Place,
    spec: NetSpec,
    dtype: str,
    rows: TrainingRows,
    raw_y: Any,
    validation_data: Any,
) -> tuple[Judge | None, TrainingRows]:
    """The rows to judge epochs by, and those that are left to train on.

    Parameters
    ----------
    est : estimator
    place : Place
    spec : NetSpec
        What the network asks of its rows.
    dtype : str
    rows : TrainingRows
    raw_y : array-like
        y as the user handed it in, for a scorer.
    validation_data : tuple, source or None
        As ``fit`` takes it.

    Returns
    -------
    judge : Judge or None
    rows : TrainingRows
    """
    if is_source(validation_data):
        source = est._held_source(Described.of(validation_data, "validation_data"))
        return _sources.judge(est, spec, dtype, source), rows
    if validation_data is not None:
        return _given(est, place, dtype, validation_data), rows
    if isinstance(rows.X, Described):
        judge, apart, weights = _sources.hold_out(est, spec, dtype, rows.X, rows.weights)
        return judge, TrainingRows(apart, None, weights)
    if not est.early_stopping:
        return None, rows
    train, held = train_test_split(
        np.arange(rows.X.shape[0]),
        random_state=est._random_state,
        test_size=est.validation_fraction,
        stratify=est._stratify(rows.y),
    )
    if len(held) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            "dataset."
        )
    held_rows, left = _part(rows, held), _part(rows, train)
    for part, which in ((held_rows, "held-out rows"), (left, "rows that are left")):
        checks.some_weight(part.weights, which, f"validation_fraction={est.validation_fraction}")
    judge = _judge(est, place, dtype, held_rows, lambda: _raw_targets(est, raw_y)[held])
    return judge, left


def _part(rows: TrainingRows, index: HostArray) -> TrainingRows:
    X, y, weights = rows
    return TrainingRows(
        select(X, index), select(y, index), None if weights is None else weights[index]
    )


def _given(est: Any, place: Place, dtype: str, validation_data: Any) -> Judge:
    """A judge by rows that the user hands in."""
    if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
        raise ValueError(
            "validation_data must be (X, y), (X, y, sample_weight) or a source, got "
            f"{type(validation_data).__name__}"
        )
    X, y, *w = validation_data
    est._same_home(X, home_of(X), "fit", place.home, "validation_data")
    X = est._features(X, place.home)
    targets = est._held_targets(to_host(y), X.shape[0])
    weights = _input.sample_weights(w[0] if w else None, X.shape[0], "validation sample_weight")
    return _judge(
        est, place, dtype, TrainingRows(X, targets, weights), lambda: _raw_targets(est, y)
    )


def _judge(
    est: Any, place: Place, dtype: str, rows: TrainingRows, raw_y: Callable[[], Any]
) -> Judge:
    X, y, weights = rows
    held = ValidationSet(held_features(place.work, dtype, X), np.asarray(to_host(y)), weights)
    if est.scoring is not None:
        return Judge(held, _scorer(est, place, rows, raw_y()))
    return Judge(held, lambda outputs, params: est._metric(outputs, held.y, weights))


def _scorer(
    est: Any, place: Place, rows: TrainingRows, y: Any
) -> Callable[[HostArray, Params], Any]:
    """The user's scorer, on the host: any scorer of scikit-learn runs there."""
    from sklearn.metrics import check_scoring, get_scorer

    scorer = get_scorer(est.scoring) if isinstance(est.scoring, str) else est.scoring
    scorer = check_scoring(est, scorer)
    X = rows.X if is_sparse(rows.X) else np.asarray(to_host(rows.X))
    extra = {} if rows.weights is None else {"sample_weight": rows.weights}
    numpy, work = get_backend("numpy"), place.work

    def score(outputs: HostArray, params: Params) -> Any:
        twin = est._twin(numpy)
        twin.coefs_ = [work.to_numpy(W) for W, _ in params]
        twin.intercepts_ = [work.to_numpy(b) for _, b in params]
        return scorer(twin, X, y, **extra)

    return score


def _raw_targets(est: Any, y: Any) -> Any:
    """Targets as the user's scorer takes them, on the host."""
    return _input.targets(y, numeric=not is_classifier(est))
