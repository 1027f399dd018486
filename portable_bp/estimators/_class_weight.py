"""Weights by class: checked as weights by row are, and turned into these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from portable_bp._scalars import shown
from portable_bp._typing import HostArray


def of_one_label(class_weight: Any, classes: HostArray, number: HostArray) -> HostArray:
    """The weight of each row, (n,).

    Parameters
    ----------
    class_weight : dict or 'balanced'
    classes : array of shape (n_classes,)
    number : array of shape (n,)
        The class of each row, as an index into ``classes``.

    Raises
    ------
    ValueError
        Naming the entry of ``class_weight`` that is no weight.
    """
    # A class without rows has no balanced weight, and needs none.
    present = np.unique(number)
    if isinstance(class_weight, Mapping):
        checked = _checked("class_weight", class_weight, classes)
        by_class = np.array([checked.get(c, 1.0) for c in classes.tolist()])
        if not by_class[present].any():
            raise ValueError("class_weight is zero for every class in y: nothing could be learnt")
    elif isinstance(class_weight, str):
        by_class = np.ones(len(classes))
        by_class[present] = compute_class_weight(
            class_weight, classes=classes[present], y=classes[number]
        )
    else:
        raise ValueError(
            "class_weight is a list, which is for several labels per row; for one label per row pass "
            "a dict {class: weight}, 'balanced' or None"
        )
    by_row: HostArray = by_class[number]
    return by_row


def of_several_labels(class_weight: Any, y: HostArray) -> HostArray:
    """The weight of each row, (n,), for y of shape (n, k): the product over the labels."""
    y = y.astype(np.int64)
    if isinstance(class_weight, Mapping):
        raise ValueError(
            "class_weight is one dict, which is for one label per row; for several labels pass a list "
            "of one dict {0: weight, 1: weight} per label, 'balanced' or None"
        )
    if isinstance(class_weight, Sequence) and not isinstance(class_weight, str):
        if len(class_weight) != y.shape[1]:
            raise ValueError(
                f"class_weight has {len(class_weight)} entries, but y has {y.shape[1]} labels: one "
                "dict is needed for each"
            )
        for label, weights in enumerate(class_weight):
            if not isinstance(weights, Mapping):
                raise ValueError(
                    f"class_weight[{label}] must be a dict {{0: weight, 1: weight}}, got "
                    f"{shown(weights)}"
                )
            _checked(f"class_weight[{label}]", weights, np.arange(2))
    by_row: HostArray = compute_sample_weight(class_weight, y)
    if not by_row.any():
        raise ValueError("class_weight is zero for every row of y: nothing could be learnt")
    return by_row


def _checked(name: str, weights: Mapping[Any, Any], classes: HostArray) -> dict[Any, float]:
    """The weights as floats: finite, not negative, and for classes that exist."""
    unknown = set(weights) - set(classes.tolist())
    if unknown:
        raise ValueError(
            f"{name} contains classes not present in y: {sorted(unknown, key=str)}; y has "
            f"{classes.tolist()}"
        )
    result = {}
    for c, weight in weights.items():
        try:
            value = float("nan" if isinstance(weight, str | bytes) else weight)
        except (OverflowError, TypeError, ValueError):
            value = np.nan
        if not 0 <= value < np.inf:
            raise ValueError(
                f"{name}[{c!r}] must be a finite number that is not negative, got {shown(weight)}"
            )
        result[c] = value
    return result
