"""To and from scikit-learn's own fitted estimators, with the same numbers."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.preprocessing import LabelBinarizer

from portable_bp.backend.registry import get_backend
from portable_bp.equations.optimizers import Momentum, Nesterov
from portable_bp.estimators._policy import OptimizerState, ScikitAdam

E = TypeVar("E")

_PLAIN = (
    "t_", "n_iter_", "n_layers_", "n_outputs_", "out_activation_", "loss_", "best_loss_",
    "validation_scores_", "best_validation_score_", "n_features_in_", "feature_names_in_",
    "_no_improvement_count",
)  # fmt: skip
"""Fitted attributes that are the same in both."""


def theirs(est: Any) -> Any:
    """scikit-learn's class for one of ours."""
    return MLPClassifier if hasattr(type(est), "predict_proba") else MLPRegressor


def from_sklearn(cls: type[E], estimator: Any) -> E:
    """``estimator`` as one of ours, see :meth:`MLPClassifier.from_sklearn`."""
    wanted = MLPClassifier if hasattr(cls, "predict_proba") else MLPRegressor
    if not isinstance(estimator, wanted):
        raise TypeError(
            f"{cls.__name__}.from_sklearn takes a sklearn.neural_network.{wanted.__name__}, got "
            f"{type(estimator).__name__}"
        )
    est: Any = cls(**estimator.get_params(deep=False))
    if not hasattr(estimator, "coefs_"):
        return cast(E, est)
    _copy_plain(estimator, est)
    est.coefs_ = [np.array(W) for W in estimator.coefs_]
    est.intercepts_ = [np.array(b) for b in estimator.intercepts_]
    if hasattr(estimator, "loss_curve_"):
        est.loss_curve_ = [float(l) for l in estimator.loss_curve_]
    if hasattr(estimator, "_label_binarizer"):
        binarizer = estimator._label_binarizer
        est._set_classes(
            np.array(estimator.classes_),
            binarizer.y_type_.startswith("multilabel"),
            bool(binarizer.sparse_input_),
            get_backend("numpy"),
        )
    if hasattr(estimator, "_optimizer"):
        est._optimizer = _our_optimizer(estimator._optimizer)
    return cast(E, est)


def as_sklearn(est: Any) -> Any:
    """One of ours as scikit-learn's, see :meth:`MLPClassifier.as_sklearn`."""
    cls = theirs(est)
    known = inspect.signature(cls).parameters
    params = {name: value for name, value in est.get_params(deep=False).items() if name in known}
    estimator = cls(**params)
    try:
        estimator._validate_params()
    except (TypeError, ValueError) as error:
        raise ValueError(f"scikit-learn's {cls.__name__} cannot be this model: {error}") from None
    if not hasattr(est, "coefs_"):
        return estimator
    est = est.to("numpy")
    _copy_plain(est, estimator)
    estimator.coefs_ = [np.array(W) for W in est.coefs_]
    estimator.intercepts_ = [np.array(b) for b in est.intercepts_]
    if hasattr(est, "loss_curve_"):
        estimator.loss_curve_ = list(est.loss_curve_)
    if hasattr(est, "classes_"):
        estimator.classes_ = np.array(est.classes_)
        estimator._label_binarizer = _binarizer(est)
    if hasattr(est, "_optimizer"):
        estimator._optimizer = _their_optimizer(est, estimator)
    return estimator


def _copy_plain(source: Any, target: Any) -> None:
    for name in _PLAIN:
        if hasattr(source, name):
            value = getattr(source, name)
            setattr(target, name, list(value) if isinstance(value, list) else value)


def _binarizer(est: Any) -> LabelBinarizer:
    binarizer = LabelBinarizer()
    binarizer.classes_ = np.array(est.classes_)
    binarizer.y_type_ = est._y_type
    binarizer.sparse_input_ = est._sparse_y
    return binarizer


def _our_optimizer(theirs: Any) -> OptimizerState:
    if isinstance(theirs, AdamOptimizer):
        rule = ScikitAdam(theirs.beta_1, theirs.beta_2, theirs.epsilon)
        slots = (_pairs(theirs.ms), _pairs(theirs.vs))
        return OptimizerState(rule, slots, float(theirs.learning_rate_init), theirs.t)
    kind = Nesterov if theirs.nesterov else Momentum
    return OptimizerState(
        kind(theirs.momentum), (_pairs(theirs.velocities),), float(theirs.learning_rate)
    )


def _their_optimizer(est: Any, estimator: Any) -> Any:
    state = est._optimizer
    params = estimator.coefs_ + estimator.intercepts_
    if isinstance(state.rule, ScikitAdam):
        rule = state.rule
        adam = AdamOptimizer(params, state.learning_rate, rule.beta1, rule.beta2, rule.eps)
        adam.ms, adam.vs = (_flat(s) for s in state.slots)
        adam.t = state.steps
        return adam
    sgd = SGDOptimizer(
        params, est.learning_rate_init, est.learning_rate, state.rule.mu,
        isinstance(state.rule, Nesterov), est.power_t,
    )  # fmt: skip
    sgd.learning_rate = state.learning_rate
    sgd.velocities = _flat(state.slots[0])
    return sgd


def _pairs(arrays: list[Any]) -> Any:
    """scikit-learn's list of all weights, then all biases, as pairs (W, b)."""
    half = len(arrays) // 2
    return tuple(
        (np.array(W), np.array(b)) for W, b in zip(arrays[:half], arrays[half:], strict=True)
    )


def _flat(pairs: Any) -> list[Any]:
    return [np.array(W) for W, _ in pairs] + [np.array(b) for _, b in pairs]
