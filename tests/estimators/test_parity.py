"""The same seed, the same numbers: our estimators against scikit-learn's, over drawn configurations.

All random numbers are drawn on the host in scikit-learn's order, so parameters, curves and
predictions are equal to rounding, whatever the settings. What differs, by design, is asserted: the
loss of several regression outputs (scikit-learn#8349), and what early stopping keeps in a warm start.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn
import sklearn.neural_network as theirs
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.fixes import parse_version

import portable_bp.estimators as ours

DRAWN = 60
# Rounding grows with the number of steps; L-BFGS amplifies it in each line search.
RTOL = {"float64": 1e-8, "float32": 2e-3}
TASKS = ("binary", "multiclass", "multilabel", "regression", "outputs", "poisson")


@dataclass(frozen=True)
class Configuration:
    """Data, settings and the calls to make."""

    task: str
    calls: str
    dtype: str
    sparse: bool
    X: Any
    y: Any
    weights: Any
    params: dict[str, Any]

    @property
    def classifier(self) -> bool:
        return self.task in ("binary", "multiclass", "multilabel")

    def __str__(self) -> str:
        marks = [self.task, self.params["solver"], self.calls, self.dtype]
        marks += ["sparse"] * self.sparse + ["weighted"] * (self.weights is not None)
        return "-".join(marks)


def targets(rng: np.random.Generator, task: str, X: Any) -> Any:
    signal = X @ rng.normal(size=(X.shape[1], 3))
    if task == "binary":
        return np.where(signal[:, 0] > 0, "yes", "no")
    if task == "multiclass":
        return np.array([10, 20, 30])[signal.argmax(axis=1)]
    if task == "multilabel":
        return (signal > 0).astype(int)
    if task == "poisson":
        return rng.poisson(np.exp(np.clip(signal[:, 0], -2, 2)))
    return signal[:, 0] if task == "regression" else signal


def draw(seed: int) -> Configuration:
    rng = np.random.default_rng(seed)
    pick = rng.choice
    task = TASKS[seed % len(TASKS)]
    solver = ("sgd", "adam", "lbfgs")[seed // len(TASKS) % 3]
    if task == "outputs" and solver == "lbfgs":
        task = "regression"  # several outputs: another loss, so another line search
    calls = str(pick(["fit", "fit", "warm_start"] + ["partial_fit"] * (solver != "lbfgs")))
    n, width = int(rng.integers(40, 90)), int(rng.integers(3, 9))
    X = rng.normal(size=(n, width))
    y = targets(rng, task, X)
    sparse = bool(rng.random() < 0.25)
    if sparse:
        X = scipy.sparse.csr_matrix(X * (rng.random(X.shape) < 0.5))
    dtype = str(pick(["float64", "float64", "float32"])) if solver != "lbfgs" else "float64"
    weights = rng.uniform(0.1, 3, size=n) if rng.random() < 0.4 else None
    early = calls == "fit" and solver != "lbfgs" and bool(rng.random() < 0.5)
    params: dict[str, Any] = {
        "hidden_layer_sizes": tuple(int(s) for s in rng.integers(2, 9, size=rng.integers(0, 3))),
        "activation": str(pick(["identity", "logistic", "tanh", "relu"])),
        "solver": solver,
        "alpha": 0.0 if task == "outputs" else float(pick([0.0, 1e-4, 0.1])),
        "batch_size": pick(["auto", 7, 16, 32, n]),
        "learning_rate": str(pick(["constant", "invscaling", "adaptive"])),
        "learning_rate_init": float(pick([1e-3, 1e-2])),
        "power_t": float(pick([0.3, 0.5])),
        "max_iter": int(rng.integers(3, 15)),
        "shuffle": bool(pick([True, True, False])),
        "random_state": int(rng.integers(1000)),
        "tol": float(pick([0.0, 1e-4, 1e-2])),
        "momentum": float(pick([0.0, 0.5, 0.9])),
        "nesterovs_momentum": bool(pick([True, False])),
        "early_stopping": early,
        "validation_fraction": float(pick([0.1, 0.25])),
        "beta_1": float(pick([0.9, 0.5])),
        "epsilon": float(pick([1e-8, 1e-4])),
        "n_iter_no_change": int(pick([2, 10])),
        "warm_start": calls == "warm_start",
    }
    params["batch_size"] = params["batch_size"] if params["batch_size"] == "auto" else int(
        params["batch_size"]
    )  # fmt: skip
    if task == "poisson":
        params["loss"] = "poisson"
    return Configuration(task, calls, dtype, sparse, X.astype(dtype), y, weights, params)


def fitted(library: Any, c: Configuration) -> Any:
    old = parse_version(sklearn.__version__) < parse_version("1.9")
    if old and c.params["early_stopping"] and c.classifier and np.asarray(c.y).dtype.kind in "UO":
        pytest.skip("scikit-learn before 1.9 cannot score text labels in its early stopping")
    est = (library.MLPClassifier if c.classifier else library.MLPRegressor)(**c.params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if c.calls != "partial_fit":
            for _ in range(2 if c.calls == "warm_start" else 1):
                est.fit(c.X, c.y, c.weights)
            return est
        extra = {"classes": np.unique(c.y)} if c.classifier and c.task != "multilabel" else {}
        if c.task == "multilabel":
            extra = {"classes": np.arange(c.y.shape[1])}
        for _ in range(3):
            est.partial_fit(c.X, c.y, c.weights, **extra)
    return est


CONFIGURATIONS = [draw(seed) for seed in range(DRAWN)]


@pytest.mark.parametrize(
    "c", CONFIGURATIONS, ids=[f"{i}-{c}" for i, c in enumerate(CONFIGURATIONS)]
)
def test_equal_to_scikit_learn(c: Configuration) -> None:
    a, b = fitted(ours, c), fitted(theirs, c)
    close = {"rtol": RTOL[c.dtype], "atol": RTOL[c.dtype] / 10}
    for mine, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert mine.dtype == other.dtype == c.dtype
        assert_allclose(mine, other, **close)
    assert (a.n_iter_, a.n_layers_, a.n_outputs_, a.out_activation_) == (
        b.n_iter_, b.n_layers_, b.n_outputs_, b.out_activation_,
    )  # fmt: skip
    factor = b.n_outputs_ if c.task == "outputs" else 1  # scikit-learn#8349
    assert_allclose(a.loss_, factor * b.loss_, **close)
    if c.params["solver"] != "lbfgs":
        assert a.t_ == b.t_
        assert_allclose(a.loss_curve_, factor * np.array(b.loss_curve_), **close)
        if c.params["early_stopping"]:
            assert_allclose(a.validation_scores_, b.validation_scores_, **close)
            assert_allclose(a.best_validation_score_, b.best_validation_score_, **close)
            assert a.best_loss_ is b.best_loss_ is None
        else:
            assert_allclose(a.best_loss_, factor * b.best_loss_, **close)
    if c.classifier:
        assert_allclose(a.predict_proba(c.X), b.predict_proba(c.X), **close)
        assert np.array_equal(a.predict(c.X), b.predict(c.X))
        assert np.array_equal(a.classes_, b.classes_)
    else:
        assert_allclose(a.predict(c.X), b.predict(c.X), **close)
    assert_allclose(a.score(c.X, c.y, c.weights), b.score(c.X, c.y, c.weights), **close)


def test_the_configurations_cover_the_settings() -> None:
    assert {c.task for c in CONFIGURATIONS} == set(TASKS)
    assert {c.calls for c in CONFIGURATIONS} == {"fit", "warm_start", "partial_fit"}
    for mark in ("dtype", "sparse"):
        assert len({getattr(c, mark) for c in CONFIGURATIONS}) == 2
    assert len({c.weights is None for c in CONFIGURATIONS}) == 2
    for name, count in {
        "solver": 3, "activation": 4, "learning_rate": 3, "early_stopping": 2, "shuffle": 2,
        "momentum": 3, "nesterovs_momentum": 2, "alpha": 3, "tol": 3,
    }.items():  # fmt: skip
        assert len({c.params[name] for c in CONFIGURATIONS}) == count, name


@pytest.mark.parametrize("outputs", [1, 2, 3, 5])
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_the_loss_of_several_outputs_is_their_sum(loss: str, outputs: int) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), rng.poisson(2.0, size=(40, outputs))
    y = y[:, 0] if outputs == 1 else y
    settings: dict[str, Any] = {
        "loss": loss, "hidden_layer_sizes": (5,), "alpha": 0.0, "max_iter": 2, "random_state": 0,
    }  # fmt: skip
    a, b = (library.MLPRegressor(**settings) for library in (ours, theirs))
    for est in (a, b):
        with pytest.warns(ConvergenceWarning):
            est.fit(X, y)
    factor = (
        outputs if loss == "squared_error" else 1
    )  # scikit-learn#8349; its Poisson loss is right
    assert_allclose(a.loss_curve_, factor * np.array(b.loss_curve_), rtol=1e-12)


def test_early_stopping_keeps_the_best_of_both_warm_fits() -> None:
    # scikit-learn trains its own copy of the best parameters on, and gives the last ones back.
    X = np.random.default_rng(0).normal(size=(60, 4))
    est = ours.MLPRegressor(
        hidden_layer_sizes=(5,), max_iter=20, early_stopping=True, warm_start=True, random_state=0
    )
    with pytest.warns(ConvergenceWarning):
        est.fit(X, X[:, 0])
    best, score = [W.copy() for W in est.coefs_], est.best_validation_score_
    est.set_params(learning_rate_init=10.0, n_iter_no_change=3).fit(X, X[:, 0])
    assert max(est.validation_scores_[20:]) < est.best_validation_score_ == score
    assert all(np.array_equal(W, kept) for W, kept in zip(est.coefs_, best, strict=True))


def test_a_batch_of_zero_weights_moves_nothing() -> None:
    # scikit-learn raises a ZeroDivisionError as soon as a mini-batch has no weight.
    rng = np.random.default_rng(0)
    X, y, weights = rng.normal(size=(40, 4)), rng.normal(size=40), np.repeat([1.0, 0.0], 20)
    settings: dict[str, Any] = {
        "hidden_layer_sizes": (5,), "solver": "sgd", "momentum": 0.0, "batch_size": 20,
        "shuffle": False, "max_iter": 3, "random_state": 0,
    }  # fmt: skip
    all_rows, some_rows = ours.MLPRegressor(**settings), theirs.MLPRegressor(**settings)
    with pytest.warns(ConvergenceWarning):
        all_rows.fit(X, y, weights)
    with pytest.warns(ConvergenceWarning):
        some_rows.fit(X[:20], y[:20])
    for mine, other in zip(all_rows.coefs_, some_rows.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-12)


@pytest.mark.parametrize("y", [[0, 1], [0, 1, 2]])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_label_that_seems_impossible_costs_what_scikit_learn_says(y: Any, dtype: str) -> None:
    # It keeps probabilities of 0 out of the logarithm: the loss ends at -ln eps.
    found = []
    for library in (ours, theirs):
        est = library.MLPClassifier(
            (), solver="sgd", alpha=0.0, learning_rate_init=1e-9, random_state=0
        )
        X = np.eye(len(y), dtype=dtype)
        est.partial_fit(X, y, classes=y)
        est.coefs_ = [np.asarray(-1000 * (X if len(y) > 2 else X[:, 1:]), dtype=dtype)]
        found.append(est.partial_fit(X, y).loss_)
    assert found[0] > 7
    assert_allclose(found[0], found[1], rtol=1e-6)
