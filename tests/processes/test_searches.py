"""Many trainings beside each other: scikit-learn's searches on the engines that joblib knows."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from portable_bp.estimators import MLPClassifier
from tests.processes.runs import LABELS, X


def _search(n_jobs: int | None) -> Any:
    est = MLPClassifier((4,), random_state=0, max_iter=12, dtype="float64", tol=0)
    grid = {"alpha": [0.0, 1.0]}
    return GridSearchCV(est, grid, cv=2, n_jobs=n_jobs, error_score="raise")


@pytest.fixture(scope="module")
def alone() -> Any:
    return _search(None).fit(X, LABELS)


def _check(found: Any, alone: Any) -> None:
    assert found.best_params_ == alone.best_params_
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], alone.cv_results_[name])
    for W, V in zip(found.best_estimator_.coefs_, alone.best_estimator_.coefs_, strict=True):
        np.testing.assert_array_equal(W, V)


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_loky(alone: Any) -> None:
    with joblib.parallel_backend("loky"):
        _check(_search(2).fit(X, LABELS), alone)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own, of the libraries beside it
def test_dask(alone: Any) -> None:
    """Two workers, each a process of its own."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_backend("dask"),
    ):
        _check(_search(2).fit(X, LABELS), alone)
