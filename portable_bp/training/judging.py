"""Rows that are held out, and what they say of the parameters after an epoch."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from portable_bp._typing import HostArray, Params
from portable_bp.backend import Backend
from portable_bp.equations.network import Equations
from portable_bp.processes import ALONE, Processes
from portable_bp.training import blocks
from portable_bp.training.metrics import metric


class Judged(NamedTuple):
    """What some rows say of the parameters."""

    loss: float
    score: float
    """Accuracy, or R squared."""
    doubt: str | None
    """What is to be said of a loss that is no finite number."""


class Held(Protocol):
    """Rows that are held out, wherever they are."""

    def judged(
        self,
        backend: Backend,
        equations: Equations,
        params: Params,
        epoch: int,
        processes: Processes = ALONE,
    ) -> Judged:
        """The loss and the score of these parameters after an epoch."""


class ValidationSet(NamedTuple):
    """Rows that are held out, to judge each epoch by."""

    X: Any
    """On the device, or on the host where they are too large or sparse."""
    y: HostArray
    """Targets (n, k) or class labels (n,) on the host."""
    weights: HostArray | None

    def judged(
        self,
        backend: Backend,
        equations: Equations,
        params: Params,
        epoch: int,
        processes: Processes = ALONE,
    ) -> Judged:
        """The loss and the score of these parameters after an epoch."""
        by_row, outputs = blocks.losses_and_outputs(
            backend, equations, params, self.X, self.y, processes
        )
        return judgement(equations, by_row, outputs, self.y, self.weights, epoch)


def judgement(
    equations: Equations,
    by_row: HostArray,
    outputs: HostArray,
    y: HostArray,
    weights: HostArray | None,
    epoch: int,
) -> Judged:
    """What the losses and the outputs of all held-out rows say."""
    loss = blocks.mean_loss(by_row, weights)
    finite = math.isfinite(loss)
    doubt = None if finite else validation_loss_message(by_row, weights, epoch)
    return Judged(loss, metric(equations.loss, outputs, y, weights), doubt)


def validation_loss_message(
    by_row: HostArray, weights: HostArray | None, epoch: int, first: int = 0
) -> str:
    """What to say of a loss on held-out rows that is not a finite number, and of which row it is.

    ``first``: the number of the first of these rows.
    """
    bad = ~np.isfinite(by_row) if weights is None else ~np.isfinite(by_row) & (weights > 0)
    rows = np.flatnonzero(bad)
    row = (
        f"that of validation row {first + rows[0]} is {by_row[rows[0]]}"
        if len(rows)
        else "it overflowed"
    )
    return (
        f"the validation loss is not finite in epoch {epoch}: {row}. Such an epoch is not counted, "
        "neither as the best nor as one without improvement. Check that row for missing values and "
        "sentinels, or scale the inputs"
    )
