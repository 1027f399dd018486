"""Parquet files, decoded batch by batch so that a small file cannot take much memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from portable_bp.tables.arrow_columns import ArrowColumns, arrow_module, check_names
from portable_bp.tables.limits import CELL_BYTES, COLUMN_BYTES, FREE_BYTES, refuse_growth
from portable_bp.tables.table import DataError, Table, first_line

MOST_ROWS, LEAST_ROWS = 2**20, 16
"""Bounds of the rows that are decoded before their size is looked at."""


def read_parquet(path: Path) -> Table:
    """The table in a Parquet file, without the index that pandas stored.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Table
        Numbers, booleans, decimals, text, categories and dates; other columns cannot be learnt from.
    """
    arrow, parquet = arrow_module("pyarrow"), arrow_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            meta, schema = file.metadata, file.schema_arrow
        _check_claims(path, meta, schema.names)
        reader = _Reader(path, meta, schema)
        reader.read(parquet)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a valid Parquet file: {first_line(error)}") from error
    reader.check_rows()
    return reader.columns.table()


def _check_claims(path: Path, meta: Any, names: list[str]) -> None:
    """Refuse what the footer alone shows to be wrong."""
    check_names(str(path), names)
    if meta.num_rows <= 0:
        raise DataError(f"{path} has no rows")
    groups = (meta.row_group(i) for i in range(meta.num_row_groups))
    cells = meta.num_columns * (COLUMN_BYTES + CELL_BYTES * meta.num_rows)
    refuse_growth(
        str(path), path.stat().st_size, max(sum(g.total_byte_size for g in groups), cells)
    )


class _Reader:
    """Reads the columns of a Parquet file in batches."""

    def __init__(self, path: Path, meta: Any, schema: Any) -> None:
        self.arrow, self.path, self.meta = arrow_module("pyarrow"), path, meta
        refuse = partial(refuse_growth, str(path), path.stat().st_size)
        self.columns = ArrowColumns(str(path), schema, refuse)
        self.columns.rows = meta.num_rows

    def read(self, parquet: ModuleType) -> None:
        """Take all rows, text as a dictionary: it is decoded once for a value, not for a row."""
        columns = self.columns
        text = [name for name, kind in columns.kinds.items() if kind == "text"]
        self._take(parquet, [name for name in columns.parts if name not in {*text}])
        if self._took_dictionaries(parquet, text):
            return
        for name in text:
            if not self._took_dictionaries(parquet, [name]):
                # Stored as differences: a cell may repeat all bytes that came before it.
                groups = range(self.meta.num_row_groups)
                size = max(self.meta.row_group(i).total_byte_size for i in groups)
                rows = max(FREE_BYTES // (8 * max(size, 1)), LEAST_ROWS)
                self._take(parquet, [name], rows)

    def _took_dictionaries(self, parquet: ModuleType, names: list[str]) -> bool:
        """Take columns of text as dictionaries, or nothing where Arrow cannot."""
        decoded = self.columns.decoded
        try:
            self._take(parquet, names, dictionaries=names)
        except (self.arrow.ArrowNotImplementedError, OSError) as error:
            if "Not yet implemented" not in str(error):
                raise
            self.columns.decoded = decoded
            self.columns.parts |= {name: [] for name in names}
            return False
        return True

    def _take(
        self,
        parquet: ModuleType,
        names: list[str],
        rows: int | None = None,
        dictionaries: Any = None,
    ) -> None:
        """Take all rows of some columns, in batches that take little memory."""
        if not names:
            return
        most = max(1024, FREE_BYTES // (CELL_BYTES * len(names)))
        with parquet.ParquetFile(
            self.path, metadata=self.meta, read_dictionary=dictionaries
        ) as file:
            for batch in file.iter_batches(
                min(rows or MOST_ROWS, most), columns=names, use_threads=False
            ):
                self.columns.add(batch, {*names})

    def check_rows(self) -> None:
        """Refuse a file that has other rows than its footer promises."""
        for parts in self.columns.parts.values():
            there = sum(map(len, parts))
            if there != self.meta.num_rows:
                raise DataError(
                    f"{self.path} is not a valid Parquet file: its footer promises "
                    f"{self.meta.num_rows:,} rows, but {there:,} are there"
                )
