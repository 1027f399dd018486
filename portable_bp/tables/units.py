"""The unit of a column: its mean and its deviation, or neither where it is constant."""

from __future__ import annotations

import numpy as np

from portable_bp._typing import HostArray


def rounding_of(values: HostArray) -> float:
    """The relative differences that come from rounding alone, after a few dozen operations."""
    if values.dtype.kind == "O":
        return float(np.finfo(np.float64).eps ** 0.8)
    # float64: 3e-13, float32: 3e-6, float16: 4e-3
    if values.dtype.kind != "f":
        return 0.0
    return float(max(np.finfo(values.dtype).eps, np.finfo(np.float64).eps) ** 0.8)


def moments(
    x: HostArray, axis: int | None, rounding: float | HostArray
) -> tuple[HostArray, HostArray]:
    """Mean and standard deviation along an axis; the deviation of what is constant is 1.

    Constant is what varies by no more than ``rounding`` of its size: divided by such a deviation, a
    later value that differs a little would be astronomically large.
    """
    peak = np.max(np.abs(x), axis=axis)
    peak = np.where(peak > 0, peak, 1.0)
    shares = x / peak  # in [-1, 1]: no square overflows or vanishes
    mean, scale = np.mean(shares, axis=axis) * peak, np.std(shares, axis=axis) * peak
    constant = (np.max(shares, axis=axis) - np.min(shares, axis=axis) <= rounding) | (scale == 0)
    return np.where(constant, np.take(x, 0, axis=axis), mean), np.where(constant, 1.0, scale)
