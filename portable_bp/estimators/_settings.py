"""What no range of a single parameter of an estimator can say."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp.equations.schedules import Schedule
from portable_bp.estimators import _input
from portable_bp.mlp import MLP


def check_settings(est: Any, incremental: bool, validation_data: Any, saved: bool) -> list[int]:
    """What no range of a parameter can say; the sizes of the hidden layers."""
    if isinstance(est.batch_size, bool):
        raise TypeError(f"batch_size must be 'auto' or an integer, got {est.batch_size!r}")
    hidden = _input.layer_sizes(est.hidden_layer_sizes)
    if est.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    if est.scoring is not None and not est.early_stopping:
        raise ValueError("scoring is what early stopping watches: set early_stopping=True")
    if est.solver == "lbfgs":
        extras = {name: getattr(est, name) for name in ("dropout", "clip_value", "clip_norm")}
        extras["scoring"] = est.scoring
        extras["learning_rate"] = isinstance(est.learning_rate, Schedule)
        extras["validation_data"] = validation_data is not None
        extras["checkpoint"] = saved
        for name, value in extras.items():
            if np.any(value):
                raise ValueError(
                    f"{name} needs a solver that works in epochs of mini-batches, such as "
                    "'adam'; got solver='lbfgs'"
                )
    return hidden


def check_layers(est: Any, net: MLP) -> None:
    """Going on from fitted parameters needs the layers that they have."""
    have = [est.coefs_[0].shape[0], *(W.shape[1] for W in est.coefs_)]
    if have != list(net.sizes):
        raise ValueError(
            f"the fitted network has layers of {have} units, but hidden_layer_sizes="
            f"{est.hidden_layer_sizes!r} and the data ask for {list(net.sizes)}: fit with "
            "warm_start=False, or make a new estimator"
        )
