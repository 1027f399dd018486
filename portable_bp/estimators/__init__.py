"""scikit-learn's multilayer perceptrons, running where their input lives.

>>> from portable_bp.estimators import MLPClassifier, MLPRegressor, LossCurveDisplay
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "portable_bp.estimators needs scikit-learn: pip install 'portable-bp[sklearn]'"
    ) from error

from portable_bp.display import LossCurveDisplay
from portable_bp.estimators._classifier import MLPClassifier
from portable_bp.estimators._ensemble import MLPEnsembleClassifier, MLPEnsembleRegressor
from portable_bp.estimators._regressor import MLPRegressor
from portable_bp.estimators._search import MLPSearchCV, cross_val
from portable_bp.estimators._tabular import TabularClassifier, TabularRegressor

__all__ = [
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPEnsembleClassifier",
    "MLPEnsembleRegressor",
    "MLPRegressor",
    "MLPSearchCV",
    "TabularClassifier",
    "TabularRegressor",
    "cross_val",
]
