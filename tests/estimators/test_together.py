"""Ensembles, searches and cross-validation: what is trained side by side is what each fit gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, RandomizedSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from portable_bp import DivergenceError
from portable_bp.backend.registry import adapters
from portable_bp.estimators import (
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    MLPSearchCV,
    cross_val,
)
from portable_bp.estimators._together import Fit, fit_together
from portable_bp.training import together_groups
from portable_bp.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _short_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one batch, however short they are."""
    monkeypatch.setattr(together_groups, "FEWEST", {})


_rng = np.random.default_rng(2)
X = _rng.normal(size=(61, 4))
Y = X[:, 0] * X[:, 1] + 0.1 * _rng.normal(size=61)
LABELS = np.array(["a", "b", "c"])[(X[:, 0] > 0.3).astype(int) + (X[:, 1] > 0)]
WEIGHTS = _rng.uniform(size=61) + 0.1
SMALL: dict[str, Any] = {"max_iter": 6, "batch_size": 16, "learning_rate_init": 0.02}
CLASSIFIER = MLPClassifier((6,), random_state=3, **SMALL)
REGRESSOR = MLPRegressor(hidden_layer_sizes=(6,), random_state=3, **SMALL)

SETTINGS: list[tuple[Any, Any, dict[str, Any]]] = [
    (CLASSIFIER, LABELS, {}),
    (CLASSIFIER, LABELS, {"sample_weight": WEIGHTS}),
    (REGRESSOR, Y, {}),
    (clone(CLASSIFIER).set_params(dropout=0.2, clip_norm=0.5), LABELS, {}),
    (clone(CLASSIFIER).set_params(early_stopping=True, n_iter_no_change=2), LABELS, {}),
    (clone(REGRESSOR).set_params(solver="sgd", learning_rate="adaptive", tol=0.5), Y, {}),
    (clone(REGRESSOR).set_params(solver="sgd", learning_rate="invscaling"), Y, {}),
    (clone(REGRESSOR).set_params(loss="quantile", quantile=[0.1, 0.9]), Y, {}),
    (clone(REGRESSOR).set_params(solver="lbfgs"), Y, {}),
]


@pytest.mark.parametrize(("base", "y", "params"), SETTINGS)
def test_side_by_side_each_has_its_numbers(base: Any, y: Any, params: dict[str, Any]) -> None:
    changes: list[dict[str, Any]] = [
        {"random_state": 1},
        {"alpha": 0.1},
        {"alpha": 0.3, "tol": 1.0},
    ]
    rows = [np.arange(61), np.arange(40), np.arange(9, 61)]
    fits, alone = [], []
    for change, part in zip(changes, rows, strict=True):
        own = {name: value[part] for name, value in params.items()}
        fits.append(Fit(clone(base).set_params(**change), X[part], y[part], own))
        alone.append(clone(base).set_params(**change).fit(X[part], y[part], **own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_run", None)
        assert fit_together(fits) == [None] * 3
    for fit, expected in zip(fits, alone, strict=True):
        assert fit.estimator.n_iter_ == expected.n_iter_
        for name in ("coefs_", "intercepts_"):
            for a, b in zip(getattr(fit.estimator, name), getattr(expected, name), strict=True):
                # Sums with weights, or with clipping, add up in another order: 1e-16 a step.
                np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(
            getattr(fit.estimator, "loss_curve_", []), getattr(expected, "loss_curve_", [])
        )


def test_one_that_fails_leaves_the_others() -> None:
    wild = clone(REGRESSOR).set_params(solver="sgd", learning_rate_init=1e200)
    fits = [
        Fit(clone(REGRESSOR), X, Y, {}),
        Fit(wild, X, Y, {}),
        Fit(clone(REGRESSOR).set_params(alpha=-1), X, Y, {}),
    ]
    errors = fit_together(fits)
    assert errors[0] is None
    assert isinstance(errors[1], DivergenceError)
    assert isinstance(errors[2], ValueError)
    np.testing.assert_array_equal(
        fits[0].estimator.predict(X), clone(REGRESSOR).fit(X, Y).predict(X)
    )


def _same_results(found: Any, expected: Any) -> None:
    assert found.cv_results_.keys() == expected.cv_results_.keys()
    for name, values in expected.cv_results_.items():
        if name == "params":
            assert found.cv_results_[name] == values
        elif "time" not in name:
            np.testing.assert_array_equal(
                np.ma.asarray(found.cv_results_[name]).data, np.ma.asarray(values).data
            )
    for name in ("best_params_", "best_score_", "best_index_", "n_splits_", "multimetric_"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    assert type(found.best_estimator_) is type(expected.best_estimator_)


def test_search_has_the_results_of_grid_search() -> None:
    grid = {
        "alpha": [1e-4, 10.0],
        "learning_rate_init": [1e-3, 0.05],
        "hidden_layer_sizes": [(6,), 3],
    }
    cv = KFold(3, shuffle=True, random_state=0)
    found = MLPSearchCV(CLASSIFIER, grid, cv=cv).fit(X, LABELS, sample_weight=WEIGHTS)
    expected = GridSearchCV(CLASSIFIER, grid, cv=cv).fit(X, LABELS, sample_weight=WEIGHTS)
    _same_results(found, expected)


def test_search_in_a_pipeline_with_several_scores() -> None:
    pipeline = make_pipeline(StandardScaler(), REGRESSOR)
    drawn = {"mlpregressor__alpha": [1e-4, 1e-2, 1.0], "mlpregressor__beta_1": [0.9, 0.5]}
    options: dict[str, Any] = {
        "n_iter": 3, "random_state": 1, "cv": 2, "scoring": ["r2", "neg_mean_squared_error"],
        "refit": "r2", "return_train_score": True,
    }  # fmt: skip
    found = MLPSearchCV(pipeline, param_distributions=drawn, **options).fit(X, Y)
    expected = RandomizedSearchCV(pipeline, drawn, **options).fit(X, Y)
    _same_results(found, expected)


def test_search_scores_a_failure_as_it_is_asked_to() -> None:
    sgd = clone(REGRESSOR).set_params(solver="sgd")
    grid = {"learning_rate_init": [0.01, 1e200]}
    search = MLPSearchCV(sgd, grid, cv=2, error_score=-7.0).fit(X, Y)
    assert search.cv_results_["mean_test_score"][1] == -7
    with pytest.raises(DivergenceError):
        MLPSearchCV(sgd, grid, cv=2, error_score="raise").fit(X, Y)


def test_halving_gives_the_best_more_epochs() -> None:
    grid = {"learning_rate_init": [1e-6, 1e-5, 0.05, 1e-4]}
    search = MLPSearchCV(clone(CLASSIFIER).set_params(max_iter=8), grid, cv=2, halving=2).fit(
        X, LABELS
    )
    assert search.cv_results_["n_resources"].tolist() == [2] * 4 + [4] * 2 + [8]
    assert search.best_params_ == {"learning_rate_init": 0.05, "max_iter": 8}
    assert search.best_index_ == 6


def test_search_needs_one_of_two() -> None:
    with pytest.raises(ValueError, match="pass param_grid or param_distributions, one of them"):
        MLPSearchCV(CLASSIFIER).fit(X, LABELS)


def test_cross_val_has_the_scores_of_cross_validate() -> None:
    found = cross_val(CLASSIFIER, X, LABELS, cv=3, scoring=["accuracy", "neg_log_loss"])
    expected = cross_validate(CLASSIFIER, X, LABELS, cv=3, scoring=["accuracy", "neg_log_loss"])
    for name in ("test_accuracy", "test_neg_log_loss"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert len(found["estimator"]) == len(found["fit_time"]) == 3
    with pytest.raises(DivergenceError):
        cross_val(clone(REGRESSOR).set_params(solver="sgd", learning_rate_init=1e200), X, Y)


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    ensemble = MLPEnsembleClassifier(CLASSIFIER, 3, random_state=0).fit(X, LABELS)
    seeds = [member.random_state for member in ensemble.estimators_]
    assert len({*seeds}) == 3
    alone = [clone(CLASSIFIER).set_params(random_state=s).fit(X, LABELS) for s in seeds]
    mean = sum(m.predict_proba(X) for m in alone) / 3
    np.testing.assert_array_equal(ensemble.predict_proba(X), mean)
    np.testing.assert_array_equal(
        ensemble.predict(X), np.array(["a", "b", "c"])[mean.argmax(axis=1)]
    )
    regressor = MLPEnsembleRegressor(REGRESSOR, 3, random_state=0).fit(X, Y)
    every = np.stack([m.predict(X) for m in regressor.estimators_])
    mean, std = regressor.predict(X, return_std=True)
    np.testing.assert_allclose(mean, every.mean(axis=0))
    np.testing.assert_allclose(std, every.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("y", [LABELS, (X[:, 0] > 0), np.stack([X[:, 0] > 0, X[:, 1] > 0], 1) * 1])
def test_labels_of_every_kind(y: Any) -> None:
    ensemble = MLPEnsembleClassifier(CLASSIFIER, 2, random_state=0).fit(X, y)
    assert ensemble.predict(X).shape == y.shape
    assert ensemble.predict(X).dtype.kind in (y.dtype.kind, "i")
    assert ensemble.score(X, y) > 0.3


def test_rows_out_of_the_bag() -> None:
    options: dict[str, Any] = {"bootstrap": True, "oob_score": True, "random_state": 0}
    base = clone(REGRESSOR).set_params(max_iter=60, tol=0)
    ensemble = MLPEnsembleRegressor(base, 12, **options).fit(X, Y)
    assert ensemble.oob_score_ < ensemble.score(X, Y)
    assert np.isfinite(ensemble.oob_prediction_).sum() > 50
    classifier = MLPEnsembleClassifier(CLASSIFIER, 6, **options).fit(X, LABELS)
    assert classifier.oob_decision_function_.shape == (61, 3)
    assert 0 < classifier.oob_score_ < 1
    with pytest.raises(ValueError, match="set bootstrap=True"):
        MLPEnsembleRegressor(oob_score=True).fit(X, Y)


def test_an_ensemble_follows_its_input() -> None:
    import torch

    x, y = torch.asarray(X), torch.asarray(Y)
    ensemble = MLPEnsembleRegressor(REGRESSOR, 2, random_state=0).fit(x, y)
    mean, std = ensemble.predict(x, return_std=True)
    assert isinstance(mean, torch.Tensor)
    assert isinstance(std, torch.Tensor)
    assert isinstance(
        MLPEnsembleClassifier(CLASSIFIER, 2).fit(x, y > 0).predict_proba(x), torch.Tensor
    )


SEARCHED = MLPClassifier((6,), max_iter=20, learning_rate_init=0.05, random_state=0)


@parametrize_with_checks(
    [
        MLPEnsembleClassifier(MLPClassifier((8,), max_iter=60, learning_rate_init=0.02), 2),
        MLPEnsembleRegressor(
            MLPRegressor(hidden_layer_sizes=(8,), max_iter=60, learning_rate_init=0.02), 2
        ),
        MLPSearchCV(SEARCHED, {"alpha": [1e-4, 1]}, cv=2),
    ]
)
@pytest.mark.slow
def test_check(estimator: Any, check: Callable[[Any], None]) -> None:
    if getattr(check, "keywords", {}).get("array_namespace") == "cupy":
        reason = adapters()["cupy"].unavailable_reason()
        if reason is not None:
            pytest.skip(reason)
    check(estimator)
