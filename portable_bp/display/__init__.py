"""Plots of a training and of a trained network, for models and estimators alike.

Each is a class after scikit-learn's ``Display``: it holds the numbers, ``plot()`` draws them, and
``from_...`` class methods compute and draw at once. Matplotlib is imported when something is drawn.

>>> from portable_bp.display import LossCurveDisplay
>>> LossCurveDisplay([0.7, 0.4, 0.3]).loss_curve
[0.7, 0.4, 0.3]
"""

from portable_bp.display.curves import HistoryDisplay, LossCurveDisplay
from portable_bp.display.layers import DeltaDisplay
from portable_bp.display.predictions import ConfusionDisplay, PredictionDisplay

__all__ = [
    "ConfusionDisplay",
    "DeltaDisplay",
    "HistoryDisplay",
    "LossCurveDisplay",
    "PredictionDisplay",
]
