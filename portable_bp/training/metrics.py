"""The number that an epoch is judged by, beside its loss: accuracy, or R squared."""

from __future__ import annotations

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.equations.losses import Loss


def metric_name(loss: Loss) -> str:
    """``"accuracy"`` for a classification loss, else ``"r2"``."""
    return "accuracy" if loss.classes else "r2"


def metric(loss: Loss, out: HostArray, y: HostArray, weights: HostArray | None = None) -> float:
    """Accuracy (the share of right decisions), or ``R^2 = 1 - sum (y - o)^2 / sum (y - mean)^2``.

    Parameters
    ----------
    out, y : (n, k) outputs and targets (one-hot for classes)
    weights : (n,), optional

    Notes
    -----
    With several outputs, accuracy counts each output of ``log_loss`` by itself, and R squared is
    the mean over outputs. R squared of a constant target is 1 for a perfect prediction, else 0.
    """
    if weights is not None and not np.isfinite(out).all():  # rows of weight 0 are not there
        there = weights > 0
        out, y, weights = out[there], y[there], weights[there]
    with np.errstate(all="ignore"):
        return _metric(loss, out, y, np.ones(len(out)) if weights is None else weights)


def _metric(loss: Loss, out: HostArray, y: HostArray, w: HostArray) -> float:
    if loss.target == "class":
        right = (np.argmax(out, axis=1) == np.argmax(y, axis=1)).astype(np.float64)
        return float(np.average(right, weights=w))
    if loss.target == "binary":
        return float(np.average(np.mean((out > 0.5) == (y > 0.5), axis=1), weights=w))
    y = y.astype(np.float64)
    residual = np.average((y - out) ** 2, axis=0, weights=w)
    spread = np.average((y - np.average(y, axis=0, weights=w)) ** 2, axis=0, weights=w)
    constant = spread == 0
    score = np.where(constant, residual == 0, 1 - residual / np.where(constant, 1, spread))
    return float(np.mean(score))


class Score:
    """:func:`metric` of rows that come some at a time.

    Parameters
    ----------
    loss : Loss
    """

    def __init__(self, loss: Loss) -> None:
        self._loss, self._weight = loss, 0.0
        self._right = 0.0
        self._mean: HostArray = np.zeros(0)
        self._spread: HostArray = np.zeros(0)
        self._residual: HostArray = np.zeros(0)

    def add(self, out: HostArray, y: HostArray, weights: HostArray | None = None) -> None:
        """Take some rows, as :func:`metric` takes all; together they must weigh something."""
        w = np.ones(len(out)) if weights is None else weights
        there = w > 0
        out, y, w = out[there], y[there].astype(np.float64), w[there]
        total = float(w.sum())
        if self._loss.classes:
            self._right += total * metric(self._loss, out, y, w)
            self._weight += total
            return
        with np.errstate(all="ignore"):
            mean = np.average(y, axis=0, weights=w)
            spread = w @ (y - mean) ** 2
            residual = w @ (y - out) ** 2
            if self._weight:  # Chan, Golub and LeVeque (1979)
                apart, both = mean - self._mean, self._weight + total
                spread += self._spread + apart**2 * self._weight * total / both
                residual += self._residual
                mean = self._mean + apart * total / both
        self._mean, self._spread, self._residual = mean, spread, residual
        self._weight += total

    def value(self) -> float:
        """The number for all rows that have come."""
        if self._loss.classes:
            return self._right / self._weight
        with np.errstate(all="ignore"):
            constant = self._spread == 0
            score = 1 - self._residual / np.where(constant, 1, self._spread)
            return float(np.mean(np.where(constant, self._residual == 0, score)))
