"""Class labels: those of the user's, learnt by ``fit``, and the class numbers that training takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp._warnings import warn
from portable_bp.backend import Backend
from portable_bp.backend.registry import owner
from portable_bp.inputs import arrays
from portable_bp.inputs.spec import NetSpec

FEW = 10
"""Whole numbers 0, 1, ... that are fewer than this or as many may be meant as classes."""


def takes_labels(spec: NetSpec) -> bool:
    """Whether one column of y may hold labels."""
    return spec.target == "class" or (spec.target == "binary" and spec.outputs == 1)


def learn(spec: NetSpec, y: Any) -> HostArray | None:
    """The labels in ``y``, sorted, one for each class; None where y holds class numbers or quantities.

    Raises
    ------
    ValueError, TypeError
        For labels that are missing, of several kinds, or of another number than the network's classes.
    """
    if not takes_labels(spec):
        return None
    classes = max(2, spec.outputs)
    if owner(y) is not None:
        booleans = "bool" in str(y.dtype) and len(y.shape) == 1
    else:
        y = arrays.labels("y", y)
        booleans = y.dtype.kind == "b" and y.ndim == 1
        if y.dtype.kind in "OU":
            if y.ndim != 1:
                raise ValueError(
                    f"y holds text in the shape {y.shape}; labels have the shape (n,), one per row"
                )
            distinct: HostArray = np.unique(y.astype(str))
            if len(distinct) != classes:
                raise ValueError(
                    f"y has {len(distinct)} classes ({some(distinct)}), but a network with "
                    f"{spec.outputs} output(s) and loss={spec.loss!r} learns {classes}"
                )
            return distinct
    return np.array([False, True]) if booleans and classes == 2 else None


def to_numbers(spec: NetSpec, name: str, y: Any) -> HostArray:
    """Targets from the host as numbers: labels become the numbers of their classes.

    Raises
    ------
    ValueError, TypeError
        For what is neither a label of ``spec.classes`` nor a number.
    """
    if not takes_labels(spec):
        return arrays.numbers(name, y)
    y = arrays.labels(name, y)
    known = spec.classes if spec.classes is not None and spec.classes.dtype.kind == "U" else None
    if y.dtype.kind not in "OU":
        if known is not None and y.ndim == 1:
            raise ValueError(
                f"{name} holds numbers, but the network was fitted with the labels {some(known)}"
            )
        return np.asarray(y)
    if known is None:
        raise ValueError(
            f"{name} holds text such as {str(y.flat[0])!r}; only labels handed to fit are known: "
            f"convert them to class numbers 0 .. {max(2, spec.outputs) - 1} first"
        )
    text = y.astype(str)
    unseen = np.setdiff1d(text, known)
    if len(unseen):
        raise ValueError(
            f"{name} has classes that were not there in fit: {some(unseen)}; known are {some(known)}"
        )
    numbers: HostArray = np.searchsorted(known, text)
    return numbers


def named(spec: NetSpec, backend: Backend, numbers: Array) -> Array:
    """Predicted class numbers as the labels that they stand for; text in NumPy."""
    if spec.classes is None:
        return numbers
    if spec.classes.dtype.kind == "b":
        return numbers > 0
    return spec.classes[backend.to_numpy(numbers)]  # type: ignore[return-value]


def warn_if_classes(spec: NetSpec, y: HostArray) -> None:
    """Warn where whole numbers 0, 1, ... that look like classes are about to be learnt as quantities."""
    if spec.loss != "squared_error" or spec.outputs != 1 or y.dtype.kind not in "biu" or not y.size:
        return
    if y.min() != 0 or not 1 <= y.max() < FEW:
        return
    counts = np.bincount(y.reshape(-1).astype(np.int64))
    if not counts.all() or 2 * len(counts) > y.size:
        return
    classes = (
        "'log_loss' and one output"
        if len(counts) == 2
        else (f"'softmax_cross_entropy' and {len(counts)} outputs")
    )
    warn(
        f"y holds the integers 0 .. {len(counts) - 1}, and loss='squared_error' learns them as "
        f"quantities. If they are classes, use loss={classes}; if they are quantities, pass them as "
        "floats"
    )


def some(labels: HostArray) -> str:
    """The first labels, as errors list them."""
    shown = ", ".join(repr(str(label)) for label in labels[:5])
    return f"{shown}, ..." if len(labels) > 5 else shown
