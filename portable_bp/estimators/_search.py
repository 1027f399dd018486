"""Searches and cross-validation: all candidates on all folds, side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.metaestimators import _safe_split, available_if
from sklearn.utils.validation import _check_method_params, indexable

from portable_bp.estimators._together import Fit, fit_together


class MLPSearchCV(BaseSearchCV):
    """``GridSearchCV`` and ``RandomizedSearchCV`` around our estimators, all candidates side by side.

    Candidates that differ in rates, penalties, dropout, seeds and the like are trained in one step;
    others (layer sizes, activations, solvers) in a group for each. The attributes are those of
    ``GridSearchCV``, and the scores those that it gives around the same estimator, to rounding;
    ``fit_time`` is the share of a fit in the time of all.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a Pipeline that ends in one
        Any other estimator works as well, one fit after the other.
    param_grid : dict or list of dicts, default=None
        As ``GridSearchCV`` takes it.
    param_distributions : dict or list of dicts, default=None
        As ``RandomizedSearchCV`` takes it, in the place of ``param_grid``.
    n_iter : int, default=10
        How many candidates are drawn from ``param_distributions``.
    scoring : str, callable, list, tuple or dict, default=None
        As ``GridSearchCV`` takes it.
    refit : bool, str, or callable, default=True
        As ``GridSearchCV`` takes it.
    cv : int, cross-validation generator or an iterable, default=None
        As ``GridSearchCV`` takes it.
    halving : int, default=None
        Successive halving: all candidates train a few epochs, the best of them, one of ``halving``,
        that many times as many, and so on up to ``max_iter`` of the estimator.
    verbose : int, default=0
        As ``GridSearchCV`` takes it.
    random_state : int, RandomState instance or None, default=None
        Of the candidates drawn.
    error_score : 'raise' or numeric, default=np.nan
        As ``GridSearchCV`` takes it.
    return_train_score : bool, default=False
        As ``GridSearchCV`` takes it.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_,
    refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As in ``GridSearchCV``. With ``halving``, ``cv_results_`` also has ``iter`` and
        ``n_resources``, the epochs.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from portable_bp.estimators import MLPClassifier, MLPSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> base = MLPClassifier((8,), batch_size=16, tol=1.0, random_state=0)
    >>> search = MLPSearchCV(base, {"learning_rate_init": [1e-5, 0.05]}, cv=3).fit(X, y)
    >>> search.best_params_
    {'learning_rate_init': 0.05}
    """

    estimator: Any

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{k: v for k, v in BaseSearchCV._parameter_constraints.items() if k != "n_jobs"},
        "param_grid": [dict, list, None],
        "param_distributions": [dict, list, None],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "halving": [Interval(Integral, 2, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any = None,
        *,
        param_distributions: Any = None,
        n_iter: int = 10,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = None,
        halving: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator=estimator, scoring=scoring, n_jobs=1, refit=refit, cv=cv, verbose=verbose,
            pre_dispatch=1, error_score=error_score, return_train_score=return_train_score,
        )  # fmt: skip
        self.param_grid = param_grid
        self.param_distributions = param_distributions
        self.n_iter = n_iter
        self.halving = halving
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Train all candidates on all folds, and the best on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        **params : dict
            Such as ``sample_weight`` and ``groups``, as ``GridSearchCV.fit`` takes them.

        Returns
        -------
        self
        """
        if (self.param_grid is None) == (self.param_distributions is None):
            raise ValueError("pass param_grid or param_distributions, one of them")
        original = self.estimator
        self._fits = _Fits(self, X, y, params)
        try:
            self.estimator = self._fits.replayed(original)
            super().fit(X, y, **params)
        finally:
            self.estimator = original
            del self._fits
        if hasattr(self, "best_estimator_"):
            self.best_estimator_.__class__ = type(original)
        return self

    @available_if(lambda self: hasattr(self.estimator, "transform"))
    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """``fit``, then ``transform`` of the best estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        **params : dict
            As ``fit`` takes them.

        Returns
        -------
        array of shape (n_samples, units of the last hidden layer)
            The hidden activations.
        """
        return self.fit(X, y, **params).transform(X)

    def _get_scorers(self) -> Any:
        fits = getattr(self, "_fits", None)
        if fits is None:
            return super()._get_scorers()
        replayed, self.estimator = self.estimator, fits.original  # a scorer may keep it
        try:
            return super()._get_scorers()
        finally:
            self.estimator = replayed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = get_tags(self.estimator).transformer_tags
        return tags

    def _candidates(self) -> list[dict[str, Any]]:
        if self.param_grid is not None:
            return list(ParameterGrid(self.param_grid))
        return list(
            ParameterSampler(self.param_distributions, self.n_iter, random_state=self.random_state)
        )

    def _run_search(self, evaluate_candidates: Any) -> None:
        """Called by ``BaseSearchCV.fit``, with what scores candidates and makes ``cv_results_``."""
        candidates = self._candidates()
        if self.halving is None:
            self._fits.prepare(candidates)
            evaluate_candidates(candidates, cv=self._fits.cv)
            return
        name = "max_iter"
        if isinstance(self.estimator, Pipeline):
            name = f"{self.estimator.steps[-1][0]}__max_iter"
        epochs, factor = self.estimator.get_params()[name], self.halving
        rounds = int(math.log(len(candidates), factor) + 1e-9)
        metric = self.refit if isinstance(self.refit, str) else "score"
        for number in range(rounds + 1):
            now = max(1, epochs // factor ** (rounds - number))
            some = [{**candidate, name: now} for candidate in candidates]
            self._fits.prepare(some)
            more = {"iter": [number] * len(some), "n_resources": [now] * len(some)}
            results = evaluate_candidates(some, cv=self._fits.cv, more_results=more)
            scores = np.asarray(results[f"mean_test_{metric}"])[-len(some) :]
            order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")
            candidates = [candidates[i] for i in sorted(order[: math.ceil(len(some) / factor)])]

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: str, results: Mapping[str, Any]) -> Any:
        """The best of the last round, where there were several."""
        if callable(refit) or "iter" not in results:
            return BaseSearchCV._select_best_index(refit, refit_metric, results)
        last = np.flatnonzero(np.asarray(results["iter"]) == max(results["iter"]))
        scores = np.asarray(results[f"mean_test_{refit_metric}"])[last]
        return last[int(np.nanargmax(scores))]

    def _format_results(
        self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None
    ) -> Any:
        for one, seconds in zip(out, self._fits.seconds, strict=True):
            one["fit_time"] = seconds
        return super()._format_results(candidate_params, n_splits, out, more_results)


class _Fits:
    """The fits of a search: made side by side, before scikit-learn asks for them one by one."""

    def __init__(self, search: MLPSearchCV, X: Any, y: Any, params: Mapping[str, Any]) -> None:
        self._search, self._params, self.original = search, params, search.estimator
        self._X, self._y = indexable(X, y)
        self._ready: Iterator[Any] = iter(())
        self.seconds: list[float] = []
        self.cv: Any = None

    def replayed(self, estimator: Any) -> Any:
        """A clone whose ``fit`` takes the next fit that is ready; without any it fits."""
        fits, original = self, type(estimator)

        def fit(self: Any, X: Any, y: Any = None, **params: Any) -> Any:
            ready = next(fits._ready, None)
            if ready is None:
                return original.fit(self, X, y, **params)
            fitted, error = ready
            if error is not None:
                raise error
            self.__dict__.update(vars(fitted))
            return self

        names = {"fit": fit, "__module__": original.__module__}
        kind: Any = type(original.__name__, (original,), names)
        return kind(**clone(estimator).get_params(deep=False))

    def prepare(self, candidates: Sequence[Mapping[str, Any]]) -> None:
        """Fit all of them on all folds."""
        began = time.perf_counter()
        search = self._search
        params = _check_method_params(self._X, params=self._params)
        routed = search._get_routed_params_for_fit(params)
        if self.cv is None:
            splitter = search._checked_cv_orig
            splits = list(splitter.split(self._X, self._y, **routed.splitter.split))
            self.cv = check_cv(splits)
        parts = [*_parts(self.original, self._X, self._y, self.cv.split(), routed.estimator.fit)]
        fits = [
            Fit(clone(self.original).set_params(**clone(candidate, safe=False)), *part)
            for candidate, part in product(candidates, parts)
        ]
        errors = fit_together(fits)
        self._ready = iter([*zip((fit.estimator for fit in fits), errors, strict=True)])
        self.seconds += [(time.perf_counter() - began) / len(fits)] * len(fits)


def _parts(
    estimator: Any, X: Any, y: Any, splits: Any, params: Mapping[str, Any]
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """What ``fit`` is handed for each fold."""
    for train, _ in splits:
        X_train, y_train = _safe_split(estimator, X, y, train)
        yield X_train, y_train, _check_method_params(X, params=params, indices=train)


def cross_val(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = None,
    scoring: Any = None,
    groups: Any = None,
    sample_weight: Any = None,
) -> dict[str, Any]:
    """``cross_validate`` of scikit-learn with all folds trained side by side.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a Pipeline that ends in one
        It is cloned.
    X : array-like of shape (n_samples, n_features)
        The rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        The targets.
    cv : int, cross-validation generator or an iterable, default=None
        As ``cross_validate`` takes it.
    scoring : str, callable, list, tuple or dict, default=None
        As ``cross_validate`` takes it.
    groups : array-like of shape (n_samples,), default=None
        For the splitter.
    sample_weight : array-like of shape (n_samples,), default=None
        Not negative; for ``fit``.

    Returns
    -------
    dict
        ``test_score`` (or ``test_<name>`` for each of several scores), ``fit_time``, ``score_time``,
        one entry for each fold; ``estimator``, the fitted ones.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from portable_bp.estimators import MLPClassifier, cross_val
    >>> X, y = load_iris(return_X_y=True)
    >>> base = MLPClassifier((8,), learning_rate_init=0.05, batch_size=16, tol=1.0, random_state=0)
    >>> bool(cross_val(base, X, y, cv=3)["test_score"].mean() > 0.9)
    True
    """
    X, y = indexable(X, y)
    splits = list(check_cv(cv, y, classifier=is_classifier(estimator)).split(X, y, groups))
    scorer = check_scoring(estimator, scoring)
    params = {} if sample_weight is None else {"sample_weight": sample_weight}
    began = time.perf_counter()
    fits = [Fit(clone(estimator), *part) for part in _parts(estimator, X, y, splits, params)]
    for error in fit_together(fits):
        if error is not None:
            raise error
    results: dict[str, Any] = {
        "fit_time": np.full(len(fits), (time.perf_counter() - began) / len(fits))
    }
    scores, seconds = [], []
    for fit, (train, test) in zip(fits, splits, strict=True):
        began = time.perf_counter()
        X_test, y_test = _safe_split(fit.estimator, X, y, test, train)
        score = scorer(fit.estimator, X_test, y_test)
        scores.append(score if isinstance(score, dict) else {"score": score})
        seconds.append(time.perf_counter() - began)
    results["score_time"] = np.array(seconds)
    results |= {f"test_{name}": np.array([s[name] for s in scores]) for name in scores[0]}
    return {**results, "estimator": [fit.estimator for fit in fits]}
