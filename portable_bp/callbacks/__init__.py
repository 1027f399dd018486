"""Callbacks that write a training down, or prune it: for ``fit`` and for the estimators.

Each is one object for two doors: ``portable_bp.fit(..., callbacks=[CSVLog("log.csv")])`` and
``MLPClassifier().set_callbacks(CSVLog("log.csv"))``; the second is scikit-learn's, of 1.9 and newer. One
object may see many trainings, such as those of a search (an ``OptunaPruning`` only one). To stop early
there is :class:`portable_bp.EarlyStopping`.
"""

from __future__ import annotations

from portable_bp.callbacks.csv_log import CSVLog
from portable_bp.callbacks.mlflow_log import MLflow
from portable_bp.callbacks.optuna_pruning import OptunaPruning
from portable_bp.callbacks.tensorboard_log import TensorBoard

__all__ = ["CSVLog", "MLflow", "OptunaPruning", "TensorBoard"]
