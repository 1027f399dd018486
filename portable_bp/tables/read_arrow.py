"""Parquet files, and Arrow columns as NumPy arrays."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.limits import refuse_growth
from portable_bp.tables.table import DataError, Table, first_line


def read_parquet(path: Path) -> Table:
    arrow, parquet = arrow_module("pyarrow"), arrow_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            meta = file.metadata
            stored = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
            refuse_growth(path, max(stored, 8 * meta.num_rows * meta.num_columns))
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file, or damaged: {first_line(error)}") from error
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise DataError(f"{path}: two columns are called {name!r}; rename one")
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    note = "the index that pandas stored is left out" if index else ""
    return Table(str(path), to_columns(arrow, table.drop_columns(index)), note=note)


def to_columns(arrow: ModuleType, table: Any) -> dict[str, HostArray]:
    return {name: _to_numpy(arrow, table[name]) for name in table.column_names}


def _to_numpy(arrow: ModuleType, column: Any) -> HostArray:
    """An Arrow column as :class:`Table` holds it; a null is NaN, or None in text."""
    types = arrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_boolean(kind) and column.null_count:
        column = column.cast(arrow.int8())
    elif types.is_decimal(kind) or types.is_null(kind):
        column = column.cast(arrow.float64())
    elif not (
        types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
    ):
        return np.zeros(len(column), "V1")
    values: HostArray = column.to_numpy()
    return values


def arrow_module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(
            "CSV and Parquet files need pyarrow: pip install 'portable-bp[cli]'"
        ) from error
