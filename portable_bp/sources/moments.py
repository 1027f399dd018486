"""Mean and deviation of the columns of a source, by one pass over its rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.sources.protocol import Described


class Moments(NamedTuple):
    """The units of a source: a deviation is 1 where nothing varies.

    Attributes
    ----------
    mean, scale : array of shape (columns,)
        Of X.
    target_mean, target_scale : float
        Of y, where it has one number a row.
    """

    mean: HostArray
    scale: HostArray
    target_mean: float
    target_scale: float


class _Running:
    """Mean and squares of some columns, added up block by block (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self.n = 0

    def add(self, x: HostArray) -> None:
        rows, low, high = len(x), x.min(axis=0), x.max(axis=0)
        mean = x.mean(axis=0)
        squares = ((x - mean) ** 2).sum(axis=0)
        if not self.n:
            self.mean, self.squares, self.low, self.high = mean, squares, low, high
        else:
            apart, both = mean - self.mean, self.n + rows
            self.squares = self.squares + squares + apart**2 * (self.n * rows / both)
            self.mean = self.mean + apart * (rows / both)
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.n += rows

    def units(self, rounding: float) -> tuple[HostArray, HostArray]:
        """Mean and deviation; those of a constant are its value and 1."""
        scale = np.sqrt(self.squares / self.n)
        peak = np.maximum(np.abs(self.low), np.abs(self.high))
        constant = (self.high - self.low <= rounding * peak) | (scale == 0)
        return np.where(constant, self.low, self.mean), np.where(constant, 1.0, scale)


def moments(source: Described, *, same_unit: bool = False) -> Moments:
    """The units of all columns.

    Parameters
    ----------
    source : Described
    same_unit : bool
        Whether all columns of X share one unit, as pixels do.

    Returns
    -------
    Moments

    Raises
    ------
    DataError
        A value is missing, or too large to be squared.

    Examples
    --------
    >>> import numpy as np
    >>> from portable_bp.sources import Arrays
    >>> X = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    >>> units = moments(Described.of(Arrays(X, X[:, 0], block_rows=2)))
    >>> units.mean.tolist(), units.scale.round(3).tolist()
    ([3.0, 5.0], [1.633, 1.0])
    """
    features, targets = _Running(), _Running()
    for block in range(len(source.sizes)):
        x, y = source.read(block)
        with np.errstate(all="ignore"):
            x = x.astype(np.float64)
            if same_unit:
                features.add(x.reshape(-1, 1))
            else:
                features.add(x)
            targets.add(y.astype(np.float64).reshape(len(y), -1))
            sound = np.isfinite(features.squares).all() and np.isfinite(targets.squares).all()
        if not sound:
            raise _unsound(source, block, x, y)
    mean, scale = (
        np.broadcast_to(unit, source.width).copy()
        for unit in features.units(_rounding(source.dtype))
    )
    shift, unit = targets.units(_rounding(source.target_dtype))
    return Moments(mean, scale, float(shift[0]), float(unit[0]))


def _rounding(dtype: np.dtype[Any]) -> float:
    """The relative differences that come from rounding alone, after a few dozen operations."""
    if dtype.kind != "f":
        return 0.0
    return float(max(np.finfo(dtype).eps, np.finfo(np.float64).eps) ** 0.8)


def _unsound(source: Described, block: int, x: HostArray, y: HostArray) -> DataError:
    """What to say of a block whose squares are not finite."""
    if not np.isfinite(x).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
        return DataError(
            f"{source.place(block, row, column)}: {x[row, column]:g} is no number to learn from; fill "
            "or drop such rows first"
        )
    if not np.isfinite(y).all():
        row = int(np.argwhere(~np.isfinite(y.reshape(len(y), -1)))[0][0])
        return DataError(f"{source.place(block, row)}: the target is no number to learn")
    row, column = (int(i) for i in np.unravel_index(np.argmax(np.abs(x)), x.shape))
    return DataError(
        f"{source.place(block, row, column)}: {x[row, column]:g} is too large for a deviation; scale "
        "the column"
    )
