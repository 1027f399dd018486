"""Ensembles: networks that differ in their seed, and in their rows where that is asked for."""

from __future__ import annotations

import operator
from functools import reduce
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state, get_tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _num_samples, check_is_fitted

from portable_bp._typing import HostArray
from portable_bp.estimators import _input
from portable_bp.estimators._base import BaseMLP
from portable_bp.estimators._classifier import MLPClassifier
from portable_bp.estimators._moving import check_home
from portable_bp.estimators._place import home_of
from portable_bp.estimators._regressor import MLPRegressor
from portable_bp.estimators._together import Fit, fit_together
from portable_bp.inputs.transfer import to_host


class _Ensemble(BaseEstimator):
    """What both kinds share."""

    n_features_in_: int

    _method: ClassVar[str]
    """What gives the outputs of a member."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [BaseMLP, None],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        "oob_score": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any = None,
        n_estimators: int = 10,
        *,
        bootstrap: bool = False,
        oob_score: bool = False,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.bootstrap = bootstrap
        self.oob_score = oob_score
        self.random_state = random_state

    def _default(self) -> Any:
        raise NotImplementedError

    def _base(self) -> Any:
        return self._default() if self.estimator is None else self.estimator

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        self._validate_params()
        if self.oob_score and not self.bootstrap:
            raise ValueError("oob_score needs rows that a network has not seen: set bootstrap=True")
        random = check_random_state(self.random_state)
        seeds = random.randint(np.iinfo(np.int32).max, size=self.n_estimators)
        members = [clone(self._base()).set_params(random_state=int(seed)) for seed in seeds]
        weights = [sample_weight] * len(members)
        if self.bootstrap:
            n = _num_samples(X)
            draws = [np.bincount(random.randint(n, size=n), minlength=n) for _ in members]
            own = _input.sample_weights(sample_weight, n)
            weights = [draw * 1.0 if own is None else draw * own for draw in draws]
        fits = (
            Fit(member, X, y, {} if w is None else {"sample_weight": w})
            for member, w in zip(members, weights, strict=True)
        )
        for error in fit_together([*fits]):
            if error is not None:
                raise error
        self.estimators_ = members
        for name in ("n_features_in_", "feature_names_in_", "n_outputs_", "classes_"):
            self.__dict__.pop(name, None)
            if hasattr(members[0], name):
                setattr(self, name, getattr(members[0], name))
        if self.oob_score:
            self._score_oob(X, y, np.stack(weights) == 0)
        return self

    def _outputs(self, X: Any) -> list[Any]:
        return [getattr(member, self._method)(X) for member in self.estimators_]

    def _predicted(self, X: Any, called: str) -> list[Any]:
        """The outputs of each member, where X lives."""
        check_is_fitted(self)
        check_home(self, home_of(self.estimators_[0].coefs_[0]), home_of(X), called)
        return self._outputs(X)

    def _score_oob(self, X: Any, y: Any, unseen: HostArray) -> None:
        """The score of each row by the networks that were trained without it."""
        outputs = np.stack([to_host(own) for own in self._outputs(X)])
        counts = unseen.sum(axis=0)
        share = unseen / np.maximum(counts, 1)
        mean = np.einsum("mn,mn...->n...", share, outputs)
        rows = counts > 0
        if not rows.any():
            raise ValueError("every network has seen every row: use more n_estimators")
        self._set_oob(mean, to_host(y), rows)

    def _set_oob(self, mean: HostArray, y: HostArray, rows: HostArray) -> None:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        base = get_tags(self._base())
        tags.input_tags, tags.target_tags = base.input_tags, base.target_tags
        tags.array_api_support = base.array_api_support
        return tags


def _mean(outputs: list[Any]) -> Any:
    with home_of(outputs[0]).scope():
        return reduce(operator.add, outputs) / len(outputs)


class MLPEnsembleClassifier(ClassifierMixin, _Ensemble):
    """Networks that differ in their seed, trained side by side; their mean probability decides.

    Parameters
    ----------
    estimator : MLPClassifier, default=None
        What each network is; by default ``MLPClassifier()``.
    n_estimators : int, default=10
        How many networks.
    bootstrap : bool, default=False
        Draw the rows of each network with replacement, as weights 0, 1, 2, ...
    oob_score : bool, default=False
        Score each row by the networks that were trained without it; needs ``bootstrap``.
    random_state : int, RandomState instance or None, default=None
        Of the seeds and the rows.

    Attributes
    ----------
    estimators_ : list of MLPClassifier
        As each would be, fitted alone.
    classes_ : array of shape (n_classes,)
        The labels.
    oob_score_ : float
        The accuracy on the rows that were left out.
    oob_decision_function_ : array of shape (n_samples, n_classes)
        Mean probabilities from the networks that were trained without the row; NaN where there is
        none.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from portable_bp.estimators import MLPClassifier, MLPEnsembleClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> base = MLPClassifier((8,), learning_rate_init=0.05, batch_size=16, tol=1.0)
    >>> ensemble = MLPEnsembleClassifier(base, n_estimators=4, random_state=0).fit(X, y)
    >>> ensemble.predict_proba(X[:2]).shape, ensemble.score(X, y) > 0.9
    ((2, 3), True)
    """

    _method = "predict_proba"

    def _default(self) -> MLPClassifier:
        return MLPClassifier()

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train all networks.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes, or one column of 0 and 1 for each label.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight)

    def predict_proba(self, X: Any) -> Any:
        """The mean of the probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        p : array of shape (n_samples, n_classes)
            In the library and on the device of X.
        """
        return _mean(self._predicted(X, "predict_proba"))

    def predict(self, X: Any) -> Any:
        """The class of the highest mean probability.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_labels)
            In the library and on the device of X; labels that are text come in NumPy.
        """
        p = _mean(self._predicted(X, "predict"))
        return self.estimators_[0].from_probabilities(p)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The true labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.

        Returns
        -------
        float
            At most 1.
        """
        true, predicted = to_host(y), to_host(self.predict(X))
        return float(accuracy_score(true, predicted, sample_weight=sample_weight))

    def _set_oob(self, mean: HostArray, y: HostArray, rows: HostArray) -> None:
        self.oob_decision_function_ = np.where(rows[:, None], mean, np.nan)
        predicted = to_host(self.estimators_[0].from_probabilities(mean[rows]))
        self.oob_score_ = float(accuracy_score(y[rows], predicted))


class MLPEnsembleRegressor(RegressorMixin, _Ensemble):
    """Networks that differ in their seed, trained side by side; their mean is the prediction.

    Parameters
    ----------
    estimator : MLPRegressor, default=None
        What each network is; by default ``MLPRegressor()``.
    n_estimators : int, default=10
        How many networks.
    bootstrap : bool, default=False
        Draw the rows of each network with replacement, as weights 0, 1, 2, ...
    oob_score : bool, default=False
        Score each row by the networks that were trained without it; needs ``bootstrap``.
    random_state : int, RandomState instance or None, default=None
        Of the seeds and the rows.

    Attributes
    ----------
    estimators_ : list of MLPRegressor
        As each would be, fitted alone.
    oob_score_ : float
        R squared on the rows that were left out.
    oob_prediction_ : array of shape (n_samples,) or (n_samples, n_outputs)
        The mean of the networks that were trained without the row; NaN where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from portable_bp.estimators import MLPEnsembleRegressor, MLPRegressor
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> base = MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", tol=1e-3)
    >>> ensemble = MLPEnsembleRegressor(base, n_estimators=4, random_state=0).fit(X, X[:, 0] ** 2)
    >>> mean, std = ensemble.predict([[0.5], [9.0]], return_std=True)
    >>> bool(std[0] < std[1])  # they agree where there were rows
    True
    """

    _method = "predict"

    def _default(self) -> MLPRegressor:
        return MLPRegressor()

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train all networks.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The values to predict.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of the networks.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return how far the networks are apart, too.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            In the library and on the device of X.
        std : array of the same shape
            The standard deviation over the networks, with ``return_std``.
        """
        outputs = self._predicted(X, "predict")
        mean = _mean(outputs)
        if not return_std:
            return mean
        home = home_of(mean)
        with home.scope():
            apart = [own - mean for own in outputs]
            return mean, home.xp.sqrt(_mean([d * d for d in apart]))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R squared.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The true values.
        sample_weight : array-like of shape (n_samples,), default=None
            Not negative.

        Returns
        -------
        float
            At most 1.
        """
        return float(r2_score(to_host(y), to_host(self.predict(X)), sample_weight=sample_weight))

    def _set_oob(self, mean: HostArray, y: HostArray, rows: HostArray) -> None:
        some = rows.reshape(-1, *(1,) * (mean.ndim - 1))
        self.oob_prediction_ = np.where(some, mean, np.nan)
        self.oob_score_ = float(r2_score(np.asarray(y)[rows], mean[rows]))
