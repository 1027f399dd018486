"""Parquet files, decoded batch by batch so that a small file cannot take much memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.limits import CELL_BYTES, COLUMN_BYTES, FREE_BYTES, refuse_growth
from portable_bp.tables.table import DataError, Table, first_line, plain_name, shown, some

MOST_ROWS, LEAST_ROWS = 2**20, 16
"""Bounds of the rows that are decoded before their size is looked at."""

EXACT_DIGITS = 15
"""Decimals of at most so many digits stay different numbers in float64."""


def read_parquet(path: Path) -> Table:
    """The table in a Parquet file, without the index that pandas stored.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Table
        Numbers, booleans, decimals, text and categories, dates as datetime64; other columns cannot be
        learnt from.
    """
    arrow, parquet = arrow_module("pyarrow"), arrow_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            meta, schema = file.metadata, file.schema_arrow
        _check_claims(path, meta, schema.names)
        index = _pandas_index(schema.metadata or {}, schema.names)
        types = {field.name: field.type for field in schema if field.name not in index}
        kinds = {name: _kind(arrow.types, kind) for name, kind in types.items()}
        decoded = _Decoded(arrow, path, meta, kinds)
        decoded.read(parquet)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a valid Parquet file: {first_line(error)}") from error
    note = f"the index that pandas stored is left out: {some(sorted(index))}" if index else ""
    columns = decoded.columns()
    return Table(str(path), columns, note=note, text=decoded.text)


def arrow_module(name: str) -> ModuleType:
    """A module of pyarrow, or an error that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(
            "CSV and Parquet files need pyarrow: pip install 'portable-bp[cli]'"
        ) from error


def objects(column: Any) -> HostArray:
    """A dictionary array of text as objects, None where null; rows of equal text share one object."""
    nowhere = len(column.dictionary)
    rows = column.indices.fill_null(nowhere).to_numpy(zero_copy_only=False)
    cells = np.empty(nowhere + 1, dtype=object)
    cells[:nowhere] = column.dictionary.to_pylist()
    values: HostArray = cells[rows]
    return values


def _check_claims(path: Path, meta: Any, names: Sequence[str]) -> None:
    """Refuse what the footer alone shows to be wrong."""
    twice = [name for name, count in Counter(map(plain_name, names)).items() if count > 1]
    if twice:
        raise DataError(f"{path}: two columns are called {shown(twice[0])}; rename one")
    if meta.num_rows <= 0:
        raise DataError(f"{path} has no rows")
    groups = (meta.row_group(i) for i in range(meta.num_row_groups))
    cells = meta.num_columns * (COLUMN_BYTES + CELL_BYTES * meta.num_rows)
    refuse_growth(
        str(path), path.stat().st_size, max(sum(g.total_byte_size for g in groups), cells)
    )


def _pandas_index(metadata: Mapping[bytes, bytes], names: Sequence[str]) -> set[str]:
    """The columns that hold an index that pandas stored."""
    index = {name for name in names if re.fullmatch(r"__index_level_\d+__", name)}
    try:
        stored = json.loads(metadata.get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return index  # written by something else
    if isinstance(stored, list):
        index |= {name for name in stored if isinstance(name, str)} & {*names}
    return index


def _kind(types: ModuleType, kind: Any) -> str:
    """What an Arrow type is to a table; nothing where it cannot be learnt from."""
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    if types.is_null(kind):
        return "null"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    if types.is_decimal(kind):
        return "decimal" if kind.precision <= EXACT_DIGITS else "long decimal"
    return ""


class _Decoded:
    """The columns of a Parquet file as they come, and the memory that their cells stand for."""

    def __init__(self, arrow: ModuleType, path: Path, meta: Any, kinds: Mapping[str, str]) -> None:
        self.arrow, self.path, self.meta, self.kinds = arrow, path, meta, kinds
        self.compute = arrow_module("pyarrow.compute")
        self.stored, self.decoded = path.stat().st_size, 0
        self.parts: dict[str, list[HostArray]] = {name: [] for name, kind in kinds.items() if kind}
        self.decimals: dict[str, list[Any]] = {}

    def read(self, parquet: ModuleType) -> None:
        """Take all rows, text as a dictionary: it is decoded once for a value, not for a row."""
        text = [name for name, kind in self.kinds.items() if kind == "text"]
        self._take(parquet, [name for name in self.parts if name not in {*text}])
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
        decoded = self.decoded
        try:
            self._take(parquet, names, dictionaries=names)
        except (self.arrow.ArrowNotImplementedError, OSError) as error:
            if "Not yet implemented" not in str(error):
                raise
            self.decoded = decoded
            self.parts |= {name: [] for name in names}
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
                self.add(batch, {*names})

    def add(self, batch: Any, names: set[str]) -> None:
        """Take the rows of a batch."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name not in names:  # a.b comes along when a is asked for
                continue
            self.decoded += CELL_BYTES * len(column)
            if self.kinds[name] == "text":
                self.parts[name].append(self._objects(column))
            else:
                refuse_growth(str(self.path), self.stored, self.decoded)
                self.parts[name].append(self._numbers(name, column))

    def _objects(self, column: Any) -> HostArray:
        """Text as objects; the rows share those of equal text."""
        arrow = self.arrow
        if not arrow.types.is_dictionary(column.type):
            lengths = self.compute.sum(self.compute.binary_length(column)).as_py() or 0
            refuse_growth(str(self.path), self.stored, self.decoded + lengths)
            column = column.cast(arrow.large_string()).dictionary_encode()
        lengths = self.compute.binary_length(column.dictionary).to_numpy(zero_copy_only=False)
        uses = np.bincount(
            column.indices.drop_null().to_numpy(zero_copy_only=False), minlength=len(lengths)
        )
        self.decoded += int(np.nan_to_num(lengths.astype(np.float64)) @ uses)
        refuse_growth(str(self.path), self.stored, self.decoded)
        return objects(column)

    def _numbers(self, name: str, column: Any) -> HostArray:
        """Numbers, where a null is NaN; or moments, where it is NaT."""
        arrow = self.arrow
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if self.kinds[name] == "long decimal":
            self.decimals.setdefault(plain_name(name), []).append(column)
        if self.kinds[name] == "date":
            zone = getattr(column.type, "tz", None)
            moments: HostArray = column.cast(arrow.timestamp("us", zone), safe=False).to_numpy(
                zero_copy_only=False
            )
            return moments
        if self.kinds[name] != "number":
            column = column.cast(arrow.float64())
        elif arrow.types.is_boolean(column.type) and column.null_count:
            column = column.cast(arrow.int8())
        values: HostArray = column.to_numpy(zero_copy_only=False)
        return values

    def columns(self) -> dict[str, HostArray]:
        """All columns; those that cannot be learnt from as bytes without meaning."""
        rows = self.meta.num_rows
        for parts in self.parts.values():
            there = sum(map(len, parts))
            if there != rows:
                raise DataError(
                    f"{self.path} is not a valid Parquet file: its footer promises {rows:,} rows, but "
                    f"{there:,} are there"
                )
        return {
            plain_name(name): np.concatenate(self.parts[name]) if kind else np.zeros(rows, "V1")
            for name, kind in self.kinds.items()
        }

    def text(self, name: str) -> HostArray | None:
        """The digits of decimals that float64 would round."""
        if name not in self.decimals:
            return None
        text = [c.cast(self.arrow.string()).to_pylist() for c in self.decimals[name]]
        return np.asarray([cell for part in text for cell in part], dtype=object)
