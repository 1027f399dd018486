"""Blocks of a source as training takes them: cast, and checked when they are read for the first time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.inputs import checks
from portable_bp.inputs.spec import NetSpec
from portable_bp.sources.protocol import Described


class BlockReader:
    """Reads blocks in the dtypes of a training.

    Parameters
    ----------
    source : Described
    spec : NetSpec
        What the network asks of its rows.
    dtype : str
        Of the equations.
    index_dtype : str
        Of class labels.
    weighted : bool
        Whether there are weights beside X and y.
    """

    def __init__(
        self, source: Described, spec: NetSpec, dtype: str, index_dtype: str, weighted: bool = False
    ) -> None:
        self.source, self._spec, self._dtype, self._weighted = source, spec, dtype, weighted
        self.labels = spec.target == "class" and not source.target_shape
        self._index_dtype = index_dtype
        self._direct = source.dtype == np.dtype(dtype) and source.dtype.isnative
        self._seen = np.zeros(len(source.sizes), bool)
        self._rounded = source.dtype.kind not in "iu"

    def empty(self, rows: int) -> tuple[HostArray, ...]:
        """Arrays for so many rows: X, y, and weights where there are any."""
        x = np.empty((rows, self.source.width), self._dtype)
        y: HostArray = (
            np.empty(rows, self._index_dtype)
            if self.labels
            else np.empty((rows, self._spec.outputs), self._dtype)
        )
        return (x, y, np.empty(rows, self._dtype)) if self._weighted else (x, y)

    def read(self, block: int, out_x: HostArray, out_y: HostArray | None) -> None:
        """Fill the arrays with a block; what is wrong with a value is said when it is read first.

        Without ``out_y`` targets are nothing to it.
        """
        source, rows = self.source, len(out_x)
        x = out_x if self._direct else np.empty(out_x.shape, source.dtype)
        y = source.empty_targets(rows)
        source.source.read(block, x, y)
        if not self._seen[block]:
            self._check_features(block, x)
            if out_y is not None:
                self._check_targets(block, y)
        with np.errstate(over="ignore"):
            if x is not out_x:
                out_x[...] = x
                if not self._seen[block]:
                    self._check_cast(block, x, out_x)
            if out_y is not None:
                out_y[...] = y.reshape(out_y.shape)
        self._seen[block] = True

    def check(self, block: int, out_x: HostArray, out_y: HostArray) -> None:
        """Read a block as the source has it, and check it."""
        self.source.source.read(block, out_x, out_y)
        self._check_features(block, out_x)
        self._check_targets(block, out_y)

    def _check_features(self, block: int, x: HostArray) -> None:
        with np.errstate(all="ignore"):
            if x.dtype.kind != "f" or np.isfinite(np.sum(x, dtype=np.float64)):
                return
        bad = ~np.isfinite(x)
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise self._wrong(
                block, row, column, f"{_kind(x[row, column])} is no number to learn from"
            )

    def _check_cast(self, block: int, x: HostArray, cast: HostArray) -> None:
        if x.dtype.kind == "f" and x.dtype.itemsize > cast.dtype.itemsize:
            bad = np.isinf(cast)
            if bad.any():
                row, column = (int(i) for i in np.argwhere(bad)[0])
                raise DataError(
                    f"{self.source.place(block, row, column)}: {x[row, column]:g} is too large for "
                    f"{self._dtype}; scale it, or ask for dtype='float64'"
                )
        if not self._rounded:
            self._rounded = (cast.astype(x.dtype) != x).any()
            if self._rounded:
                checks.warn_if_rounded("X", x, self._dtype)

    def _check_targets(self, block: int, y: HostArray) -> None:
        """Compare targets with what the loss is defined for."""
        spec, flat = self._spec, y.reshape(len(y), math.prod(y.shape[1:]))
        if flat.dtype.kind == "f":
            bad = ~np.isfinite(flat).all(axis=1)
            self._refuse(block, bad, flat, "is no number to learn")
        if self.labels:
            k = spec.outputs
            bad = ((flat < 0) | (flat >= k) | (flat != np.floor(flat))).any(axis=1)
            self._refuse(
                block,
                bad,
                flat,
                f"is no class label: a network with {k} outputs learns 0 .. {k - 1}",
            )
        elif spec.target == "class":
            bad = (flat < 0).any(axis=1) | (abs(flat.sum(axis=1, dtype=np.float64) - 1) > 1e-3)
            self._refuse(block, bad, flat, "begins no one-hot row, nor probabilities that sum to 1")
        elif spec.target == "binary":
            bad = ((flat < 0) | (flat > 1)).any(axis=1)
            self._refuse(block, bad, flat, f"is not in [0, 1], as {spec.loss} needs it")
        elif spec.target == "count":
            self._refuse(
                block, (flat < 0).any(axis=1), flat, f"is negative, which {spec.loss} refuses"
            )
        if flat.dtype.kind == "f" and flat.dtype.itemsize > np.dtype(self._dtype).itemsize:
            bad = (abs(flat) > np.finfo(self._dtype).max).any(axis=1)
            self._refuse(
                block, bad, flat, f"is too large for {self._dtype}; ask for dtype='float64'"
            )

    def _refuse(self, block: int, bad: Any, y: HostArray, words: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            value = next((v for v in y[row] if not np.isfinite(v)), y[row, 0])
            raise DataError(f"{self.source.place(block, row)}: the target {_kind(value)} {words}")

    def _wrong(self, block: int, row: int, column: int, words: str) -> DataError:
        return DataError(
            f"{self.source.place(block, row, column)}: {words}; fill or drop such rows first"
        )


def _kind(value: float) -> str:
    return "NaN" if np.isnan(value) else "infinity" if np.isinf(value) else f"{value:g}"
