"""Rows of a source, and of a memory map that does not fit in memory, as the estimators take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.estimators import _input
from portable_bp.estimators._policy import Judge
from portable_bp.inputs import checks, labels
from portable_bp.inputs.spec import NetSpec
from portable_bp.sources.protocol import Described
from portable_bp.sources.views import Encoded
from portable_bp.training import source_rows
from portable_bp.training.source_rows import HeldSource

LARGEST_SEED = np.iinfo(np.int32).max


def features(est: Any, source: Described, *, reset: bool) -> None:
    """Learn, or compare, the number of features and their names."""
    checks.matrix("source", (source.n, source.width), None)
    if source.target_shape == (0,):
        raise ValueError(
            "source has no target to learn: pass target to portable_bp.sources.open, or give the "
            "source a target_shape"
        )
    names = source.feature_names
    if reset:
        est.n_features_in_ = source.width
        vars(est).pop("feature_names_in_", None)
        if names is not None:
            est.feature_names_in_ = np.asarray(names, dtype=object)
    elif source.width != est.n_features_in_:
        raise ValueError(
            f"X has {source.width} features, but {type(est).__name__} is expecting "
            f"{est.n_features_in_} features as input."
        )


def distinct(source: Described) -> HostArray:
    """The labels of all rows, sorted, by one pass over the targets."""
    if source.target_shape:
        raise ValueError(
            f"y has {source.target_shape[0]} columns: of a source a classifier learns one label a row"
        )
    if source.classes is not None:
        return source.classes
    found: HostArray = np.zeros(0, source.target_dtype)
    for block in range(len(source.sizes)):
        y = source.read_targets(block)
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            row = int(np.argmin(np.isfinite(y)))
            raise DataError(
                f"{source.place(block, row)}: the target is {y[row]}, which is no label"
            )
        found = np.union1d(found, y)
        if not block:
            _input.classification_labels(found)
    _input.classification_labels(found)
    return found


def encoded(source: Described, classes: HostArray) -> Described:
    """The source with class numbers as its targets."""
    if source.classes is None:
        return Described.of(Encoded(source, classes))
    if source.classes.tolist() != classes.tolist():
        raise DataError(
            f"the labels of the source are {labels.some(source.classes)}, those of fit were "
            f"{labels.some(classes)}"
        )
    return source


def codes(source: Described) -> HostArray:
    """The class number of every row: 8 bytes a row."""
    return np.concatenate([source.read_targets(block) for block in range(len(source.sizes))])


def hold_out(
    est: Any, spec: NetSpec, dtype: str, source: Described, weights: HostArray | None
) -> tuple[Judge | None, Described, HostArray | None]:
    """The rows to judge epochs by, and those that are left to train on, with their weights."""
    if not est.early_stopping:
        return None, source, weights
    seed = int(est._random_state.randint(LARGEST_SEED))
    (left, of_left), apart = source_rows.held_out(
        source, weights, est.validation_fraction, seed, "validation_fraction"
    )
    return judge(est, spec, dtype, *apart), left, of_left


def judge(
    est: Any, spec: NetSpec, dtype: str, source: Described, weights: HostArray | None = None
) -> Judge:
    """A judge that reads its rows anew for each epoch."""
    if est.scoring is not None:
        raise ValueError(
            "scoring needs the rows to judge by in memory: pass validation_data=(X, y), or leave out "
            "scoring"
        )
    held = HeldSource.of(spec, dtype, source, weights)
    return Judge(held, _unused)


def _unused(outputs: HostArray, params: Any) -> Any:
    raise AssertionError("a source gives the score itself")
