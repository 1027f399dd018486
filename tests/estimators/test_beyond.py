"""What our estimators have beyond scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sklearn
import sklearn.neural_network as theirs
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from portable_bp import Activation, Backend, DivergenceError, losses, optimizers, schedules
from portable_bp.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WITH_CALLBACKS = pytest.mark.skipif(
    not hasattr(MLPClassifier, "set_callbacks"),
    reason=f"scikit-learn {sklearn.__version__} has no callbacks (1.9 and newer)",
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 5))
SIGNAL = X @ RNG.normal(size=(5, 3))
CLASSES = SIGNAL.argmax(axis=1)
UNEVEN = np.array(["often", "rare"])[(SIGNAL[:, 0] > 1.5).astype(int)]
LABELS = (SIGNAL > 0).astype(int)


def classifier(**settings: Any) -> MLPClassifier:
    return MLPClassifier(
        **{"hidden_layer_sizes": (6,), "max_iter": 6, "random_state": 0} | settings
    )


def regressor(**settings: Any) -> MLPRegressor:
    return MLPRegressor(**{"hidden_layer_sizes": (6,), "max_iter": 6, "random_state": 0} | settings)


def assert_same(a: Any, b: Any, rtol: float = 0.0) -> None:
    """The same parameters."""
    for mine, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert_allclose(mine, other, rtol=rtol)


def differ(a: Any, b: Any) -> bool:
    return not np.allclose(a.coefs_[0], b.coefs_[0], rtol=1e-6)


# --- class weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    ("y", "weight"),
    [
        (CLASSES, {0: 1.0, 1: 5.0, 2: 0.5}),
        (CLASSES, {1: 3.0}),
        (CLASSES, "balanced"),
        (UNEVEN, {"rare": 7.0}),
        (UNEVEN, "balanced"),
        (LABELS, "balanced"),
        (LABELS, [{0: 1.0, 1: 2.0}, {0: 1.0, 1: 1.0}, {0: 3.0, 1: 1.0}]),
    ],
)
def test_class_weight_is_a_weight_for_each_row(y: Any, weight: Any, solver: str) -> None:
    weighted = classifier(class_weight=weight, solver=solver).fit(X, y)
    by_row = compute_sample_weight(weight, y)
    assert_same(weighted, classifier(solver=solver).fit(X, y, by_row), rtol=1e-10)
    assert differ(weighted, classifier(solver=solver).fit(X, y))


def test_class_weight_multiplies_sample_weight() -> None:
    rows = RNG.uniform(0.5, 2, size=len(X))
    both = classifier(class_weight="balanced").fit(X, UNEVEN, rows)
    product = compute_sample_weight("balanced", UNEVEN) * rows
    assert_same(both, classifier().fit(X, UNEVEN, product), rtol=1e-10)


def test_class_weight_finds_the_rare_class() -> None:
    plain = classifier(max_iter=100, solver="lbfgs", hidden_layer_sizes=(), alpha=10.0)
    rare = UNEVEN == "rare"
    found = [
        (clone(plain).set_params(class_weight=w).fit(X, UNEVEN).predict(X)[rare] == "rare").mean()
        for w in (None, "balanced")
    ]
    assert found[1] > found[0] + 0.3


def test_class_weight_in_partial_fit() -> None:
    balanced = compute_class_weight("balanced", classes=np.unique(UNEVEN), y=UNEVEN)
    weight = dict(zip(np.unique(UNEVEN), balanced, strict=True))
    est = classifier(class_weight=weight).partial_fit(X, UNEVEN, classes=["often", "rare"])
    by_row = compute_sample_weight("balanced", UNEVEN)
    same = classifier().partial_fit(X, UNEVEN, by_row, classes=["often", "rare"])
    assert_same(est, same, rtol=1e-10)
    only = UNEVEN == "often"
    est.partial_fit(X[only], UNEVEN[only])  # a batch without one of the classes
    with pytest.raises(ValueError, match="compute_class_weight and pass them as a dict"):
        classifier(class_weight="balanced").partial_fit(X, UNEVEN, classes=["often", "rare"])


@pytest.mark.parametrize(
    ("weight", "message"),
    [({7: 1.0}, "contains classes not present in y"), ("even", "class_weight")],
)
def test_wrong_class_weight(weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(class_weight=weight).fit(X, CLASSES)


# --- activations, dropout -------------------------------------------------------------------------


def test_an_activation_per_layer() -> None:
    est = regressor(hidden_layer_sizes=(4, 3), activation=["tanh", "relu"]).fit(X, SIGNAL[:, 0])
    (W1, W2, W3), (b1, b2, b3) = est.coefs_, est.intercepts_
    hidden = np.maximum(np.tanh(X @ W1 + b1) @ W2 + b2, 0)
    assert_allclose(est.predict(X), (hidden @ W3 + b3)[:, 0], rtol=1e-12)
    assert_allclose(est.transform(X), hidden, rtol=1e-12)
    with pytest.raises(ValueError, match=r"1 entries for 2 hidden layer"):
        regressor(hidden_layer_sizes=(4, 3), activation=["tanh"]).fit(X, SIGNAL[:, 0])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_activation_of_your_own(solver: str) -> None:
    own = Activation(lambda z, xp: xp.tanh(z), lambda z, a, xp: 1 - a * a, "own")
    est = classifier(activation=own, solver=solver).fit(X, CLASSES)
    same = classifier(activation="tanh", solver=solver).fit(X, CLASSES)
    assert_same(est, same, rtol=1e-9)
    assert_allclose(est.predict_proba(X), same.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "softplus", "leaky_relu", "mish"])
def test_further_activations_learn(name: str) -> None:
    est = classifier(activation=name, solver="lbfgs", max_iter=100).fit(X, CLASSES)
    assert est.score(X, CLASSES) > 0.95


@pytest.mark.parametrize("spec", ["numpy", "torch", "strict"])
def test_dropout_draws_the_same_masks_everywhere(where: Backend) -> None:
    settings: dict[str, Any] = {"hidden_layer_sizes": (6, 4), "dropout": [0.5, 0.25]}
    host = classifier(**settings).fit(X, CLASSES)
    est = classifier(**settings).fit(where.asarray(X), CLASSES)
    for a, b in zip(est.coefs_, host.coefs_, strict=True):
        assert_allclose(where.to_numpy(a), b, rtol=1e-9, atol=1e-12)
    assert differ(host, classifier(hidden_layer_sizes=(6, 4)).fit(X, CLASSES))
    assert_same(host, classifier(**settings).fit(X, CLASSES))
    assert np.array_equal(host.predict_proba(X), host.predict_proba(X))


def test_no_dropout_changes_nothing() -> None:
    assert_same(classifier(dropout=0.0).fit(X, CLASSES), classifier().fit(X, CLASSES))
    with pytest.raises(ValueError, match="dropout has 2 entries"):
        classifier(dropout=[0.5, 0.5]).fit(X, CLASSES)


# --- losses ---------------------------------------------------------------------------------------

SKEWED = np.random.default_rng(1).exponential(size=400)
NOTHING = np.zeros((400, 1))


def constant(**settings: Any) -> MLPRegressor:
    """A network that can learn one constant per output: the bias of its only layer."""
    return regressor(
        hidden_layer_sizes=(), max_iter=400, learning_rate_init=0.02, n_iter_no_change=1000,
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "best"),
    [
        ("squared_error", SKEWED.mean()),
        ("absolute_error", np.median(SKEWED)),
        (losses.quantile(0.9), np.quantile(SKEWED, 0.9)),
        (losses.huber(1e3), SKEWED.mean()),
        (losses.huber(1e-3), np.median(SKEWED)),
    ],
)
def test_each_loss_has_its_own_best_constant(loss: Any, best: float) -> None:
    est = constant(loss=loss).fit(NOTHING, SKEWED)
    assert_allclose(est.predict(NOTHING[:1]), best, atol=0.04)


def test_quantiles_and_intervals() -> None:
    levels = [0.1, 0.5, 0.9]
    est = constant(loss="quantile", quantile=levels).fit(NOTHING, SKEWED)
    expected = np.quantile(SKEWED, levels)
    assert_allclose(est.predict_quantiles(NOTHING[:2]), [expected] * 2, atol=0.04)
    assert_allclose(est.predict_interval(NOTHING[:1])[0], expected[[0, 2]], atol=0.04)
    assert_allclose(est.predict(NOTHING[:1]), expected[1], atol=0.04)
    low, high = est.predict_interval(NOTHING).T
    assert_allclose(np.mean((low <= SKEWED) & (high >= SKEWED)), 0.8, atol=0.02)


def test_quantiles_of_several_targets() -> None:
    y = np.column_stack([SKEWED, 10 + SKEWED])
    est = constant(loss="quantile", quantile=[0.9, 0.1]).set_params(learning_rate_init=0.1)
    est.fit(NOTHING, y)
    found = est.predict_quantiles(NOTHING[:3])
    assert found.shape == (3, 2, 2)
    assert_allclose(found[0, 0], np.quantile(SKEWED, [0.1, 0.9]), atol=0.1)
    assert_allclose(found[0, 1], 10 + np.quantile(SKEWED, [0.1, 0.9]), atol=0.1)
    assert (np.diff(found, axis=2) >= 0).all()
    assert est.predict(NOTHING[:3]).shape == (3, 2)
    assert est.score(NOTHING, y) < 1


def test_only_quantile_losses_have_intervals() -> None:
    assert not hasattr(regressor(), "predict_interval")
    assert hasattr(regressor(loss="quantile"), "predict_interval")
    for level in (0.0, 1.0, [0.5, 1.5], []):
        with pytest.raises(ValueError, match="quantile"):
            regressor(loss="quantile", quantile=level).fit(X, SIGNAL[:, 0])


# --- optimisers, rates, clipping ------------------------------------------------------------------


def test_adamw_is_that_of_pytorch() -> None:
    y = SIGNAL[:, 0]
    est = regressor(
        solver="adamw", weight_decay=0.1, activation="tanh", alpha=0.0, learning_rate_init=0.01,
        batch_size=len(X), shuffle=False,
    )  # fmt: skip
    start = clone(est).set_params(learning_rate_init=1e-300, max_iter=1).fit(X, y)
    peer = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
    ).double()
    for layer, W, b in zip((peer[0], peer[2]), start.coefs_, start.intercepts_, strict=True):
        layer.weight.data, layer.bias.data = torch.tensor(W.T), torch.tensor(b)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        loss = 0.5 * (peer(torch.tensor(X))[:, 0] - torch.tensor(y)).square().mean()
        loss.backward()
        optimizer.step()
    est.fit(X, y)
    assert_allclose(est.coefs_[0], peer[0].weight.detach().numpy().T, rtol=1e-9)
    assert_allclose(est.intercepts_[1], peer[2].bias.detach().numpy(), rtol=1e-9)


def test_an_optimizer_of_the_library() -> None:
    rule = optimizers.Momentum(0.9)
    same = classifier(solver="sgd", nesterovs_momentum=False).fit(X, CLASSES)
    assert_same(classifier(solver=rule).fit(X, CLASSES), same, rtol=1e-12)
    assert classifier(solver=optimizers.RMSprop(), max_iter=60, learning_rate_init=0.05).fit(
        X, CLASSES
    ).score(X, CLASSES) > 0.9  # fmt: skip


class Noted(schedules.Schedule):
    """A constant rate that notes the steps it was asked for."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012

    def __call__(self, step: int, total: int) -> float:
        self.asked.append((step, total))
        return self.rate


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_a_schedule_gives_each_step_its_rate(solver: str) -> None:
    Noted.asked.clear()
    est = classifier(learning_rate=Noted(0.01), batch_size=32, solver=solver).fit(X, CLASSES)
    assert Noted.asked == [(step, 18) for step in range(18)]  # 6 epochs of 3 steps
    assert_same(
        est, classifier(learning_rate_init=0.01, batch_size=32, solver=solver).fit(X, CLASSES)
    )


def test_a_cosine_schedule_ends_at_rest() -> None:
    settings: dict[str, Any] = {"solver": "sgd", "batch_size": 80, "momentum": 0.0}
    cosine = classifier(learning_rate=schedules.Cosine(0.1, total_steps=5), **settings)
    cosine.fit(X, CLASSES)  # the sixth step has the rate 0
    assert_same(cosine, clone(cosine).set_params(max_iter=5).fit(X, CLASSES))
    assert differ(cosine, clone(cosine).set_params(max_iter=4).fit(X, CLASSES))


def test_a_plateau_lowers_the_rate() -> None:
    flat = schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1, threshold=0.9)
    est = classifier(learning_rate=flat, solver="sgd").fit(X, CLASSES)
    assert est._optimizer.plateau[0] == pytest.approx(0.1 * 0.5**2)  # after epochs 3 and 5


@pytest.mark.parametrize("rate", ["constant", "invscaling", "adaptive", "cosine", "plateau"])
@pytest.mark.parametrize("batch", [16, 30, 80])
@pytest.mark.parametrize("weights", [None, np.linspace(0.1, 2, 80)])
def test_epochs_together_are_epochs_one_by_one(rate: str, batch: int, weights: Any) -> None:
    rates = {
        "cosine": schedules.Cosine(0.1),
        "plateau": schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1, threshold=0.05),
    }
    together = classifier(
        learning_rate=rates.get(rate, rate), batch_size=batch, solver="sgd", max_iter=40, tol=1e-3,
        learning_rate_init=0.05, n_iter_no_change=3, alpha=0.1,
    )  # fmt: skip
    one_by_one = clone(together).set_params(max_time=1e9)  # the clock is looked at after each
    together.fit(X, CLASSES, weights)
    one_by_one.fit(X, CLASSES, weights)
    assert_same(together, one_by_one)
    assert together.loss_curve_ == one_by_one.loss_curve_


@pytest.mark.parametrize("spec", ["numpy", "torch"])
def test_clipping_bounds_each_step(where: Backend) -> None:
    settings: dict[str, Any] = {
        "solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.5, "max_iter": 1, "alpha": 0.0,
        "batch_size": 80,
    }  # fmt: skip
    there, y = where.asarray(X), 1e3 * SIGNAL[:, 0]
    start = regressor(**settings | {"learning_rate_init": 1e-300}).fit(there, y)

    def moved(est: Any) -> Any:
        pairs = zip(est.coefs_ + est.intercepts_, start.coefs_ + start.intercepts_, strict=True)
        return np.concatenate([(where.to_numpy(a) - where.to_numpy(b)).ravel() for a, b in pairs])

    by_norm = moved(regressor(clip_norm=0.1, **settings).fit(there, y))
    assert_allclose(np.linalg.norm(by_norm), 0.5 * 0.1, rtol=1e-9)
    by_value = moved(regressor(clip_value=0.1, **settings).fit(there, y))
    assert_allclose(np.abs(by_value).max(), 0.5 * 0.1, rtol=1e-9)
    assert np.linalg.norm(moved(regressor(**settings).fit(there, y))) > 1


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_max_time(solver: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # to stop in time is no failure to converge
        est = classifier(max_time=1e-9, max_iter=500, solver=solver).fit(X, CLASSES)
    assert est.n_iter_ == 1


# --- validation and early stopping ----------------------------------------------------------------

HELD = np.random.default_rng(5).normal(size=(30, 5))
HELD_CLASSES = (HELD @ np.linalg.lstsq(X, SIGNAL, rcond=None)[0]).argmax(axis=1)


@pytest.mark.parametrize("weights", [None, np.linspace(0, 3, 30)])
def test_validation_loss_curve(weights: Any) -> None:
    held = (HELD, HELD_CLASSES) if weights is None else (HELD, HELD_CLASSES, weights)
    est = classifier(alpha=5.0).fit(X, CLASSES, validation_data=held)
    assert len(est.validation_loss_curve_) == est.n_iter_ == 6
    expected = log_loss(HELD_CLASSES, est.predict_proba(HELD), sample_weight=weights)
    assert_allclose(est.validation_loss_curve_[-1], expected, rtol=1e-9)
    assert_same(est, classifier(alpha=5.0).fit(X, CLASSES))
    assert est.t_ == 6 * len(X)


def test_regression_validation_loss_is_half_the_squared_error() -> None:
    y, held = SIGNAL[:, :2], HELD[:, :2]
    est = regressor().fit(X, y, validation_data=(HELD, held))
    expected = 0.5 * np.square(est.predict(HELD) - held).sum(axis=1).mean()
    assert_allclose(est.validation_loss_curve_[-1], expected, rtol=1e-9)


@pytest.mark.parametrize("spec", ["numpy", "torch", "strict:device1"])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "f1_macro", "own"])
def test_early_stopping_watches_any_scorer(where: Backend, scoring: str) -> None:
    def own(est: Any, X: Any, y: Any) -> float:
        return -float(np.square(est.predict_proba(X)[np.arange(len(y)), y] - 1).mean())

    est = classifier(
        early_stopping=True, scoring=own if scoring == "own" else scoring, n_iter_no_change=2,
        learning_rate_init=0.3, max_iter=40,
    ).fit(where.asarray(X), CLASSES, validation_data=(where.asarray(HELD), HELD_CLASSES))  # fmt: skip
    host = est.to("numpy")
    if scoring == "own":
        final = own(host, HELD, HELD_CLASSES)
    else:
        from sklearn.metrics import get_scorer

        final = get_scorer(scoring)(host, HELD, HELD_CLASSES)
    assert_allclose(est.best_validation_score_, final, rtol=1e-9)  # the best ones were restored
    assert est.best_validation_score_ == max(est.validation_scores_)
    assert len(est.validation_scores_) == est.n_iter_ < 40
    assert est.t_ == est.n_iter_ * len(X)  # nothing of X was held out


def test_scoring_without_early_stopping_is_an_error() -> None:
    with pytest.raises(ValueError, match="set early_stopping=True"):
        classifier(scoring="accuracy").fit(X, CLASSES)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (HELD, "must be"),
        ((HELD, HELD_CLASSES[:-1]), "30"),
        ((HELD[:, :4], HELD_CLASSES), "4 features"),
        ((HELD, np.full(30, 7)), "classes not in"),
    ],
)
def test_wrong_validation_data(held: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, CLASSES, validation_data=held)


def test_validation_data_must_live_where_x_does() -> None:
    with pytest.raises(ValueError, match="Move validation_data"):
        classifier().fit(X, CLASSES, validation_data=(torch.tensor(HELD), HELD_CLASSES))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"dropout": 0.5}, "dropout"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"clip_value": 1.0}, "clip_value"),
        ({"learning_rate": schedules.Cosine(0.1)}, "learning_rate"),
        ({"early_stopping": True, "scoring": "accuracy"}, "scoring"),
    ],
)
def test_lbfgs_refuses_what_it_cannot_do(settings: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs a solver that works in epochs"):
        classifier(solver="lbfgs", **settings).fit(X, CLASSES)
    with pytest.raises(ValueError, match="validation_data needs a solver"):
        classifier(solver="lbfgs").fit(X, CLASSES, validation_data=(HELD, HELD_CLASSES))


# --- partial_fit ----------------------------------------------------------------------------------


def test_multilabel_partial_fit_needs_no_classes_and_equals_fit() -> None:
    settings: dict[str, Any] = {"batch_size": len(X), "shuffle": False, "learning_rate_init": 0.05}
    step_by_step = classifier(**settings)
    for _ in range(50):
        step_by_step.partial_fit(X, LABELS)
    fitted = classifier(max_iter=50, n_iter_no_change=100, **settings).fit(X, LABELS)
    assert_same(step_by_step, fitted, rtol=1e-9)
    assert np.array_equal(step_by_step.predict(X), fitted.predict(X))
    assert fitted.score(X, LABELS) > 0.7
    with pytest.raises(ValueError, match=r"2 label\(s\), but the classifier knows 3"):
        step_by_step.partial_fit(X, LABELS[:, :2])


def test_partial_fit_starts_from_given_parameters() -> None:
    est = regressor(solver="sgd", momentum=0.0, hidden_layer_sizes=(), alpha=0.0, batch_size=1)
    est.coefs_, est.intercepts_ = [np.array([[2.0]])], [np.array([0.5])]
    est.partial_fit([[3.0]], [1.0])
    # o = 6.5, delta = 5.5: W - eta delta x, b - eta delta.
    assert_allclose(est.coefs_[0], [[2.0 - 0.001 * 5.5 * 3.0]], rtol=1e-12)
    assert_allclose(est.intercepts_[0], [0.5 - 0.001 * 5.5], rtol=1e-12)


# --- callbacks ------------------------------------------------------------------------------------


class Stopper:
    """A callback of scikit-learn's protocol that stops after some epochs."""

    def __init__(self, after: int) -> None:
        self.after, self.ended, self.fitted = after, 0, []

    def setup(self, estimator: Any, context: Any) -> None: ...
    def teardown(self, estimator: Any, context: Any) -> None: ...
    def on_fit_task_begin(self, estimator: Any, context: Any, **_: Any) -> None: ...

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None, **_: Any
    ) -> bool:
        if context.task_name == "epoch" and fitted_estimator is not None:
            self.ended += 1
            self.fitted.append(fitted_estimator.coefs_[0].copy())
        return self.ended >= self.after


@WITH_CALLBACKS
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_callback_stops_the_training(solver: str) -> None:
    stopper = Stopper(after=3)
    est = classifier(max_iter=30, solver=solver).set_callbacks(stopper).fit(X, CLASSES)
    assert est.n_iter_ == stopper.ended == 3
    assert np.array_equal(stopper.fitted[-1], est.coefs_[0])
    assert not np.array_equal(stopper.fitted[0], stopper.fitted[1])


@WITH_CALLBACKS
@pytest.mark.parametrize("epochs", [4, 200])
def test_every_task_that_begins_ends(epochs: int) -> None:
    tasks: list[tuple[str, str]] = []

    class Recorder(Stopper):
        def on_fit_task_begin(self, estimator: Any, context: Any, **_: Any) -> None:
            tasks.append(("begin", context.task_name))

        def on_fit_task_end(self, estimator: Any, context: Any, **_: Any) -> bool:
            tasks.append(("end", context.task_name))
            return False

    est = classifier(max_iter=epochs, tol=1e-2, n_iter_no_change=2)
    est.set_callbacks(Recorder(after=0)).fit(X, CLASSES)
    assert (est.n_iter_ < epochs) == (epochs == 200)  # stopped on its own, or not
    assert tasks[0] == ("begin", "fit")
    assert tasks[-1] == ("end", "fit")
    assert tasks[1:-1] == [("begin", "epoch"), ("end", "epoch")] * (len(tasks) // 2 - 1)


@WITH_CALLBACKS
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scores_are_monitored_each_epoch(solver: str) -> None:
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    est = classifier(solver=solver).set_callbacks(monitor).fit(X, CLASSES)
    logged = monitor.get_logs().data
    scores = [entry["accuracy"] for entry in logged if entry["task_name"] == "epoch"]
    assert len(scores) == est.n_iter_
    assert scores[-1] == est.score(X, CLASSES)


@WITH_CALLBACKS
def test_a_progress_bar_in_a_pipeline_and_a_search(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.callback import ProgressBar

    monkeypatch.setenv("COLUMNS", "250")
    pipeline = make_pipeline(StandardScaler(), classifier(max_iter=3))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1, 1.0]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, CLASSES)
    shown = capsys.readouterr().out
    assert "MLPClassifier" in shown
    assert "100%" in shown


@pytest.mark.parametrize("y", [CLASSES, UNEVEN, LABELS])
def test_log_probabilities_are_finite(y: Any) -> None:
    est = classifier().fit(X, y)
    near, far = est.predict_log_proba(X), est.predict_log_proba(1e6 * X)
    assert_allclose(near, np.log(est.predict_proba(X)), rtol=1e-12)
    assert (est.predict_proba(1e6 * X) == 0).any()
    assert np.isfinite(far).all()
    assert far.min() < -1e3


# --- hidden activations ---------------------------------------------------------------------------


def test_transform_gives_the_last_hidden_layer() -> None:
    est = classifier(hidden_layer_sizes=(7, 4)).fit(X, CLASSES)
    (W1, W2, _), (b1, b2, _) = est.coefs_, est.intercepts_
    expected = np.maximum(np.maximum(X @ W1 + b1, 0) @ W2 + b2, 0)
    assert_allclose(est.transform(X), expected, rtol=1e-12)
    assert list(est.get_feature_names_out()) == [f"mlpclassifier{i}" for i in range(4)]
    assert np.array_equal(classifier(hidden_layer_sizes=()).fit(X, CLASSES).transform(X), X)


# --- to and from scikit-learn ---------------------------------------------------------------------

TARGETS: dict[str, Any] = {
    "binary": UNEVEN, "multiclass": CLASSES, "multilabel": LABELS, "regression": SIGNAL[:, 0],
    "outputs": SIGNAL,
}  # fmt: skip


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_to_and_from_scikit_learn(task: str, solver: str) -> None:
    y = TARGETS[task]
    kind = "MLPRegressor" if task in ("regression", "outputs") else "MLPClassifier"
    ours: Any = MLPRegressor if kind == "MLPRegressor" else MLPClassifier
    settings: dict[str, Any] = {
        "hidden_layer_sizes": (6,), "max_iter": 6, "random_state": 0, "solver": solver,
        "learning_rate": "invscaling",
    }  # fmt: skip
    original = getattr(theirs, kind)(**settings).fit(X, y)
    mine = ours.from_sklearn(original)
    back = mine.as_sklearn()
    assert mine.get_params() | original.get_params() == mine.get_params()
    assert type(back) is type(original)
    for method in ("predict", "predict_proba"):
        if hasattr(original, method):
            expected = getattr(original, method)(X)
            found = getattr(mine, method)(X)
            if expected.dtype.kind == "f":
                assert_allclose(found, expected, rtol=1e-12)
            else:
                assert np.array_equal(found, expected)
            assert np.array_equal(getattr(back, method)(X), expected)
    assert mine.score(X, y) == pytest.approx(original.score(X, y))
    if solver == "lbfgs":
        return
    assert back.loss_curve_ == original.loss_curve_
    for model in (original, mine, back):
        model.partial_fit(X, y)
        model.partial_fit(X, y)
    assert_same(original, back)
    assert_same(original, mine, rtol=1e-9)
    assert mine.t_ == original.t_ == back.t_


def test_unfitted_to_and_from_scikit_learn() -> None:
    est = classifier(alpha=0.5).as_sklearn()
    assert type(est) is theirs.MLPClassifier
    assert est.alpha == 0.5
    again = MLPClassifier.from_sklearn(est)
    assert again.alpha == 0.5
    assert not hasattr(again, "coefs_")


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": ["tanh"]},
        {"activation": "gelu"},
        {"solver": "adamw"},
        {"learning_rate": schedules.Cosine(0.1)},
    ],
)
def test_scikit_learn_cannot_be_everything(settings: Any) -> None:
    est = classifier(**settings).fit(X, CLASSES)
    with pytest.raises(ValueError, match="scikit-learn's MLPClassifier cannot be this model"):
        est.as_sklearn()


def test_from_the_wrong_class() -> None:
    with pytest.raises(
        TypeError, match=r"takes a sklearn.neural_network.MLPClassifier, got MLPReg"
    ):
        MLPClassifier.from_sklearn(theirs.MLPRegressor())


def test_from_a_gpu_to_scikit_learn() -> None:
    est = classifier().fit(torch.tensor(X), torch.tensor(CLASSES))
    assert np.array_equal(est.as_sklearn().predict(X), est.predict(torch.tensor(X)).numpy())


# --- honest errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["numpy", "torch"])
def test_a_run_that_diverges_says_when_why_and_what_to_do(where: Backend) -> None:
    y = 1e3 * SIGNAL[:, 0]
    est = regressor(solver="sgd", learning_rate_init=5.0, max_iter=50)
    with pytest.raises(DivergenceError, match="non-finite parameter weights") as error:
        est.fit(where.asarray(X), y)
    assert f"in epoch {est.n_iter_}" in str(error.value)
    assert "learning_rate_init (now 5)" in str(error.value)
    assert all(np.isfinite(where.to_numpy(W)).all() for W in est.coefs_ + est.intercepts_)
    scaled = regressor(solver="sgd", learning_rate_init=5.0, max_iter=50)
    with pytest.raises(DivergenceError, match=r"X reaches .*StandardScaler"):
        scaled.fit(where.asarray(1e5 * X), y)
    clipped = regressor(solver="sgd", learning_rate_init=0.1, clip_norm=1.0).fit(
        where.asarray(X), y
    )
    assert np.isfinite(clipped.loss_)


def test_lbfgs_that_diverges_says_so() -> None:
    with pytest.raises(DivergenceError, match="line search"):
        regressor(solver="lbfgs").fit(X, np.full(80, 1e300))


def test_early_stopping_keeps_the_best_of_a_run_that_diverges() -> None:
    est = regressor(
        solver="sgd", learning_rate_init=5.0, max_iter=50, early_stopping=True, random_state=1
    )
    with pytest.warns(ConvergenceWarning, match="best validation score were kept"):
        est.fit(X, 1e3 * SIGNAL[:, 0])
    assert all(np.isfinite(W).all() for W in est.coefs_)
    assert np.isnan(est.validation_scores_[-1])


@WITH_CALLBACKS
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_interruption_keeps_the_model(solver: str) -> None:
    class Impatient(Stopper):
        def on_fit_task_end(
            self, estimator: Any, context: Any, *, fitted_estimator: Any = None, **_: Any
        ) -> bool:
            stop = super().on_fit_task_end(estimator, context, fitted_estimator=fitted_estimator)
            if stop and context.task_name == "epoch":
                raise KeyboardInterrupt
            return False

    est = classifier(max_iter=30, solver=solver).set_callbacks(Impatient(after=2))
    with pytest.warns(UserWarning, match="interrupted by user"):
        est.fit(X, CLASSES)
    assert est.n_iter_ == 2
    assert est.predict(X).shape == (80,)


# --- scores that are no numbers -------------------------------------------------------------------


@pytest.mark.parametrize("score", ["0.5", None, [0.1, 0.2], 1j, np.array("x")])
def test_a_scorer_that_returns_no_number_is_an_error(score: Any) -> None:
    est = classifier(early_stopping=True, scoring=lambda est, X, y: score)
    with pytest.raises(ValueError, match=r"scoring must return a number, got .* in epoch 1"):
        est.fit(X, CLASSES)


@pytest.mark.parametrize("score", [np.float32(0.5), np.array(0.5), np.array([0.5]), True, 1])
def test_any_kind_of_number_is_a_score(score: Any) -> None:
    est = classifier(early_stopping=True, scoring=lambda est, X, y: score, max_iter=2)
    with pytest.warns(ConvergenceWarning):
        est.fit(X, CLASSES)
    assert est.best_validation_score_ == float(np.asarray(score).item())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_epochs_whose_score_is_not_finite_are_not_counted(bad: float) -> None:
    scores = iter([bad, 0.5, bad, 0.7, bad, bad, bad, 0.6, 0.6])
    kept = []

    def scorer(est: Any, X: Any, y: Any) -> float:
        kept.append(est.coefs_[0].copy())
        return next(scores)

    est = classifier(
        early_stopping=True, scoring=scorer, max_iter=9, n_iter_no_change=2, random_state=0
    )
    with pytest.warns(
        UserWarning, match=r"validation score \(scoring=.* is -?(nan|inf) in epoch 1"
    ):
        est.fit(X, CLASSES)
    assert est.n_iter_ == 9, "two epochs without improvement, not five"
    assert est.best_validation_score_ == 0.7
    np.testing.assert_array_equal(est.coefs_[0], kept[3])
