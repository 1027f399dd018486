"""What a fit has compiled, the next one of the same network takes up again."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp.estimators import MLPClassifier, MLPRegressor
from portable_bp_backends import jax_scan
from portable_bp_backends.numpy_plan import plan as numpy_plan

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).normal(size=(300, 4))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans that are made."""
    found: list[Any] = []
    plain = numpy_plan.Plan.__init__

    def noted(self: Any, *args: Any) -> None:
        found.append(self)
        plain(self, *args)

    monkeypatch.setattr(numpy_plan.Plan, "__init__", noted)
    return found


def small(kind: Any = MLPClassifier, **settings: Any) -> Any:
    defaults = {"hidden_layer_sizes": (7,), "batch_size": 32, "max_iter": 3, "random_state": 0}
    return kind(**defaults | settings)


def test_the_next_fit_makes_no_plans(made: list[Any]) -> None:
    settings: dict[str, Any] = {"hidden_layer_sizes": (7, 5), "beta_1": 0.87}
    first = small(**settings).fit(X, Y)
    assert len(made) == 2  # for the mini-batches of 32 rows, and for the last one
    gc.collect()
    again = small(**settings).fit(X, Y)
    other = small(**settings, alpha=0.1, learning_rate_init=0.1, random_state=1).fit(X, Y)
    assert len(made) == 2
    for a, b in zip(first.coefs_, again.coefs_, strict=True):
        assert np.array_equal(a, b)
    assert not np.allclose(first.coefs_[0], other.coefs_[0])
    small(**settings, activation="tanh").fit(X, Y)  # another network
    small(**{**settings, "beta_1": 0.88}).fit(X, Y)  # another rule
    assert len(made) == 6


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_partial_fit_makes_plans_once(made: list[Any], kind: Any) -> None:
    est = small(kind, beta_1=0.86)
    extra = {"classes": [0, 1]} if kind is MLPClassifier else {}
    for _ in range(4):
        est.partial_fit(X, Y, **extra)
        gc.collect()
    assert len(made) == 2


def test_fits_at_the_same_time_do_not_share_memory(made: list[Any]) -> None:
    expected = [small(beta_1=0.85, random_state=s).fit(X, Y).coefs_[0] for s in (0, 1)]

    class Nested:
        """Fits another estimator of the same network in the middle of a fit."""

        def __call__(self, est: Any, X_held: Any, y_held: Any) -> float:
            self.inner = small(beta_1=0.85, random_state=1).fit(X, Y).coefs_[0]
            return 0.0

    nested = Nested()
    outer = small(
        beta_1=0.85, early_stopping=True, scoring=nested, n_iter_no_change=100
    ).fit(X, Y, validation_data=(X[:5], Y[:5]))  # fmt: skip
    assert np.array_equal(nested.inner, expected[1])
    assert outer.n_iter_ == 3
    plain = small(beta_1=0.85, max_iter=1).fit(X, Y)  # the score is 0 after the first epoch already
    assert np.array_equal(outer.coefs_[0], plain.coefs_[0])
    again = small(beta_1=0.85).fit(X, Y)
    assert np.array_equal(again.coefs_[0], expected[0])
    assert outer.loss_curve_ == again.loss_curve_, "after the fit inside it goes on where it was"


def test_jax_compiles_once_for_fits_of_an_equal_network(monkeypatch: pytest.MonkeyPatch) -> None:
    runners: list[jax_scan.ScanRunner] = []
    plain = jax_scan.ScanRunner.__init__

    def noted(self: Any, *args: Any) -> None:
        runners.append(self)
        plain(self, *args)

    monkeypatch.setattr(jax_scan.ScanRunner, "__init__", noted)
    net = portable_bp.MLP([4, 7, 1], "tanh", loss="log_loss")
    for seed in (0, 1):
        portable_bp.fit(net, X, Y, seed=seed, epochs=3, batch_size=100, backend="jax")
    assert [runner.traces for runner in runners] == [1, 0]


def test_fit_finds_its_plans_again_too(made: list[Any]) -> None:
    net = portable_bp.MLP([4, 7, 1], "silu", loss="log_loss")
    for seed in (0, 1):
        portable_bp.fit(net, X, Y, seed=seed, epochs=3, batch_size=32)
        gc.collect()
    assert len(made) == 2
