"""Checks on what users hand in: each error names the argument, what was given and what to do.

Host data (NumPy, lists, data frames) are checked and converted here, before anything reaches a
device. Arrays of device libraries are checked for shape and kind only; their values cost one
synchronisation, which the training loop pays once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from portable_bp._scalars import boolean as boolean
from portable_bp._scalars import positive_int as positive_int
from portable_bp._scalars import real as real
from portable_bp._scalars import shown as shown
from portable_bp._typing import HostArray
from portable_bp._warnings import warn

BLOCK_ENTRIES = 2**22
"""Large arrays are looked at in blocks of about as many entries: they may be a file's."""


def blocks(array: HostArray) -> Iterator[tuple[int, HostArray]]:
    """``(first row, rows)`` of an array, in order, some tens of MiB at a time."""
    rows = max(1, BLOCK_ENTRIES // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def finite(name: str, array: HostArray, first_row: int = 0) -> None:
    """Raise a ValueError that says where the first value is that is not finite.

    ``first_row``: where the array stands in what the user handed in.
    """
    if array.dtype.kind != "f":
        return
    count, first = 0, None
    for start, block in blocks(array):
        with np.errstate(all="ignore"):
            # A finite sum proves that all is finite, in one pass and without a temporary.
            if np.isfinite(np.sum(block, dtype=np.float64)):
                continue
        bad = ~np.isfinite(block)
        if first is None and bad.any():
            row, *rest = (int(i) for i in np.argwhere(bad)[0])
            first = (start + row, *rest)
        count += int(bad.sum())
    if first is not None:
        kind = "NaN" if np.isnan(array[first]) else "infinity"
        row, *rest = first
        place = f"row {first_row + row}" + "".join(f", column {column}" for column in rest)
        raise ValueError(
            f"Input {name} contains {kind}: {count} value(s) are not finite, the first at {place}; "
            "fill or drop them first"
        )


def fits(name: str, array: HostArray, dtype: str) -> None:
    """Raise a ValueError when a finite entry is too large for ``dtype``."""
    target = np.dtype(dtype)
    if array.dtype.kind != "f" or array.dtype.itemsize <= target.itemsize:
        return
    limit = np.finfo(target).max
    largest = max((np.abs(block).max(initial=0) for _, block in blocks(array)), default=0)
    if limit < largest < np.inf:
        raise ValueError(
            f"{name} has values too large for {dtype} (up to {largest:.3g}); scale it, or ask for "
            "dtype='float64'"
        )


def cast(name: str, array: HostArray, dtype: str) -> HostArray:
    """``array`` in ``dtype``; an error when it overflows, a warning when integers lose digits.

    An array that has the dtype already, in the machine's byte order, is returned as it is.
    """
    target = np.dtype(dtype)
    if array.dtype == target:
        return array
    fits(name, array, dtype)
    with np.errstate(over="ignore"):  # long doubles just below the limit round up to infinity
        result = array.astype(target)
    warn_if_rounded(name, array, dtype)
    return result


def warn_if_rounded(name: str, array: HostArray, dtype: str) -> None:
    """Warn of integers that ``dtype``, one of floating point, does not hold exactly."""
    if array.dtype.kind not in "iu" or np.dtype(dtype).kind != "f":
        return
    if np.iinfo(array.dtype).max <= 2 ** (np.finfo(dtype).nmant + 1):
        return
    limit = float(np.iinfo(array.dtype).max)  # of 64 bits: one more, which is out of range
    for _, block in blocks(np.atleast_1d(array)):
        rounded = block.astype(dtype)
        with np.errstate(invalid="ignore"):
            wrong = (rounded >= limit) | (rounded.astype(block.dtype) != block)
        if wrong.any():
            warn(
                f"{name} has integers such as {block[wrong][0]} that {dtype} does not hold exactly; "
                "they were rounded"
            )
            return


def matrix(name: str, shape: Sequence[int], width: int | None, least: int = 1) -> None:
    """Check the shape of features: (rows, width), at least ``least`` rows and one column."""
    if len(shape) == 1:
        raise ValueError(
            f"Expected 2D array, got 1D array instead: {name} must have the shape (rows, features), "
            f"got {tuple(shape)}. Reshape your data either using array.reshape(-1, 1) if it has a "
            "single feature or array.reshape(1, -1) if it is a single sample"
        )
    if len(shape) != 2:
        raise ValueError(f"{name} must be 2-D, of shape (rows, features); got {tuple(shape)}")
    if shape[0] < least:
        raise ValueError(f"{name} has {shape[0]} row(s); at least {least} needed")
    if shape[1] < 1:
        raise ValueError(f"{name} has no columns: 0 feature(s) with shape {tuple(shape)}")
    if width is not None and shape[1] != width:
        raise ValueError(f"{name} has {shape[1]} features, but the network expects {width}")


def same_length(name: str, length: int, n: int) -> None:
    """Check that ``name`` has one entry per row of X."""
    if length != n:
        raise ValueError(f"{name} has {length} row(s), but X has {n}: one is needed for each row")


def one_each(name: str, shape: Sequence[int], n: int) -> None:
    """Check for the shape (n,): one entry per row of X, none broadcast."""
    if tuple(shape) != (n,):
        raise ValueError(f"{name} must have the shape ({n},), one per row of X; got {tuple(shape)}")


def sample_weight(values: HostArray, n: int, name: str = "sample_weight") -> HostArray:
    """Weights as float64, shape (n,): finite, not negative, not all zero."""
    weights = values.astype(np.float64)
    one_each(name, weights.shape, n)
    finite(name, weights)
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise ValueError(f"{name} has a negative value, {weights[row]:g} at row {row}")
    if not weights.any():
        raise ValueError(f"{name} is zero for every row: nothing could be learnt")
    return weights


def some_weight(weights: HostArray | None, rows: str, split: str) -> None:
    """Raise a ValueError when ``rows``, a part of those handed in, weigh nothing.

    ``rows``: what they are; ``split``: the setting by which they are a part.
    """
    if weights is not None and not weights.any():
        raise ValueError(
            f"the {rows} weigh nothing: with {split} their sample_weight is zero in every row. Leave "
            "out rows of weight 0, choose another share or seed, or pass validation data"
        )


def labels(name: str, values: HostArray, k: int) -> HostArray:
    """Class labels, shape (n,), as int64 in [0, k)."""
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    if values.dtype.kind == "f":
        finite(name, values)
        if (values != np.floor(values)).any():
            raise ValueError(
                f"{name} must hold class labels 0 .. {k - 1}, got the fraction "
                f"{values[values != np.floor(values)][0]:g}; for real-valued targets use a "
                "regression loss such as 'squared_error'"
            )
    wrong = (values < 0) | (values >= k)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{name} must hold class labels 0 .. {k - 1} for a network with {k} outputs, got "
            f"{values[row]:g} at row {row}"
        )
    return values.astype(np.int64)


def target_values(name: str, y: HostArray, target: str, loss: str) -> None:
    """Check real-valued targets against what the loss is defined for ("real", "binary", ...)."""
    finite(name, y)
    if target == "binary" and ((y < 0) | (y > 1)).any():
        raise ValueError(f"{name} must lie in [0, 1] for {loss}, got {_extreme(y):g}")
    if target == "count" and (y < 0).any():
        raise ValueError(f"{name} must not be negative for {loss}, got {_extreme(y):g}")
    if target == "class" and (
        (y < 0).any() or (np.abs(np.sum(y, axis=1, dtype=np.float64) - 1) > 1e-3).any()
    ):
        raise ValueError(
            f"each row of {name} must be one-hot, or probabilities that sum to 1; for class labels "
            f"pass one integer per row"
        )


def _extreme(y: HostArray) -> float:
    return float(y.min() if y.min() < 0 else y.max())


def target_shape(name: str, shape: Sequence[int], n: int, k: int, classes: bool) -> None:
    """Check the shape of targets against n rows and k outputs."""
    if len(shape) == 0 or len(shape) > 2:
        raise ValueError(f"{name} must have the shape ({n},) or ({n}, {k}); got {tuple(shape)}")
    same_length(name, shape[0], n)
    if (len(shape) == 2 and shape[1] != k) or (len(shape) == 1 and k > 1 and not classes):
        labels = f"class labels ({n},) or " if classes else ""
        raise ValueError(
            f"{name} has the shape {tuple(shape)}, but a network with {k} output(s) needs "
            f"{labels}({n}, {k})"
        )
