"""Data frames of pandas, polars and Arrow as tables."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.table import Table


def table_of_frame(X: Any) -> Table | None:
    """A data frame as a table; None for anything else.

    Parameters
    ----------
    X : data frame
        Of pandas, polars, Arrow or another library that narwhals knows.

    Returns
    -------
    Table or None
        Numbers, text, dates and truth values; a column of another kind as bytes without meaning.
    """
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame) or not all(isinstance(n, str) for n in frame.columns):
        return None
    return Table("X", {name: _column(frame[name]) for name in frame.columns})


def _column(series: Any) -> HostArray:
    dtype = series.dtype
    has_nulls = bool(series.is_null().any())
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return _objects(series.cast(nw.String).to_list())
    if dtype == nw.Object or dtype.is_decimal() or (dtype == nw.Boolean and has_nulls):
        return _objects(series.to_list())
    if dtype == nw.Boolean or (dtype.is_numeric() and not has_nulls):
        return np.asarray(series.to_numpy())
    if dtype.is_numeric():
        return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    if dtype == nw.Datetime and dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if dtype == nw.Date:
        series = series.cast(nw.Datetime("us"))
    if dtype.is_temporal() and dtype != nw.Time:
        return np.asarray(series.to_numpy())
    return np.zeros(len(series), "V1")


def _objects(cells: list[Any]) -> HostArray:
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array
