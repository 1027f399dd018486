"""scikit-learn's estimator checks, under every solver and without an expected failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sklearn
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from portable_bp.backend.registry import adapters
from portable_bp.estimators import MLPClassifier, MLPRegressor

KINDS = (MLPClassifier, MLPRegressor)
# Small networks and few epochs: the checks ask for manners, and now and then for some fit.
SMALL: dict[str, dict[str, Any]] = {
    "lbfgs": {"max_iter": 30},
    "sgd": {"max_iter": 60, "learning_rate_init": 0.01},
    "adam": {"max_iter": 60, "learning_rate_init": 0.02},
    "adamw": {"max_iter": 60, "learning_rate_init": 0.02},
}
SOLVERS = [
    kind(hidden_layer_sizes=(8,), solver=solver, **settings)
    for kind in KINDS
    for solver, settings in SMALL.items()
]
# A few steps only: there float32 has not wandered off by more than the checks allow.
STEPS = [kind(hidden_layer_sizes=(4,), solver="sgd", max_iter=3) for kind in KINDS]
PLACES = [
    ("numpy", None, "float64"),
    ("numpy", None, "float32"),
    ("array_api_strict", "CPU_DEVICE", "float64"),
    ("array_api_strict", "device1", "float32"),
    ("torch", "cpu", "float64"),
    ("torch", "cpu", "float32"),
]

WITH_ARRAYS = pytest.mark.skipif(
    not hasattr(estimator_checks, "check_array_api_same_namespace"),
    reason=f"scikit-learn {sklearn.__version__} has no such check",
)

pytestmark = pytest.mark.filterwarnings("ignore")


@parametrize_with_checks(SOLVERS)
def test_check(estimator: Any, check: Callable[[Any], None]) -> None:
    if getattr(check, "keywords", {}).get("array_namespace") == "cupy":
        # scikit-learn asks whether CuPy can be imported, not whether there is a device.
        reason = adapters()["cupy"].unavailable_reason()
        if reason is not None:
            pytest.skip(reason)
    check(estimator)


@pytest.mark.parametrize("kind", KINDS)
def test_param_validation(kind: Any) -> None:
    estimator_checks.check_param_validation(kind.__name__, kind())


@WITH_ARRAYS
@pytest.mark.parametrize("estimator", STEPS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(("library", "device", "dtype"), PLACES)
def test_array_api_values(estimator: Any, library: str, device: str | None, dtype: str) -> None:
    estimator_checks.check_array_api_input_and_values(
        type(estimator).__name__, estimator, library, device, dtype, check_sample_weight=True
    )


@WITH_ARRAYS
@pytest.mark.parametrize("estimator", STEPS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    ("of_x", "of_others"),
    [
        (("torch", "cpu"), ("numpy", None)),
        (("numpy", None), ("torch", "cpu")),
        (("array_api_strict", "device1"), ("numpy", None)),
        (("torch", "cpu"), ("array_api_strict", "device1")),
    ],
)
def test_labels_and_weights_follow_x(estimator: Any, of_x: Any, of_others: Any) -> None:
    from sklearn.utils._array_api import NamespaceAndDevice

    name = type(estimator).__name__
    there, elsewhere = NamespaceAndDevice(*of_x), NamespaceAndDevice(*of_others)
    estimator_checks.check_array_api_mixed_inputs(
        name, estimator, there, elsewhere, check_values=True
    )


@WITH_ARRAYS
@pytest.mark.parametrize("estimator", STEPS, ids=lambda e: type(e).__name__)
def test_torch_models_refuse_numpy(estimator: Any) -> None:
    estimator_checks.check_array_api_same_namespace(
        type(estimator).__name__, estimator, "torch", "cpu"
    )
