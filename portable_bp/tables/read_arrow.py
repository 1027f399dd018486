"""Parquet files, decoded batch by batch so that a small file cannot take much memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
        Numbers, booleans, decimals, text and categories; other columns cannot be learnt from.
    """
    arrow, parquet = arrow_module("pyarrow"), arrow_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            meta, schema = file.metadata, file.schema_arrow
        _check_claims(path, meta, schema.names)
        index = _pandas_index(schema.metadata or {}, schema.names)
        types = {field.name: field.type for field in schema if field.name not in index}
        kinds = {name: _kind(arrow.types, kind) for name, kind in types.items()}
        decoded = _Decoded(arrow, path, kinds)
        for batch in _batches(parquet, path, meta, kinds):
            decoded.add(batch)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a valid Parquet file: {first_line(error)}") from error
    note = f"the index that pandas stored is left out: {some(sorted(index))}" if index else ""
    columns = decoded.columns(meta.num_rows)
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
    if types.is_decimal(kind):
        return "decimal" if kind.precision <= EXACT_DIGITS else "long decimal"
    return ""


def _batches(parquet: ModuleType, path: Path, meta: Any, kinds: Mapping[str, str]) -> Iterator[Any]:
    """All rows of the columns with a kind, in batches that take little memory."""
    largest = _delta_encoded(meta, kinds)
    most = max(1024, FREE_BYTES // (CELL_BYTES * max(len(kinds), 1)))
    plain = [name for name, kind in kinds.items() if kind and name not in largest]
    if plain:
        # Text as a dictionary is decoded once for each value, not once for each row.
        text = [name for name in plain if kinds[name] == "text"]
        with parquet.ParquetFile(path, metadata=meta, read_dictionary=text) as file:
            yield from file.iter_batches(min(most, MOST_ROWS), columns=plain, use_threads=False)
    for name, size in largest.items():
        # Every cell may repeat all of the bytes that came before it.
        rows = min(max(FREE_BYTES // (8 * max(size, 1)), LEAST_ROWS), MOST_ROWS)
        with parquet.ParquetFile(path, metadata=meta) as file:
            yield from file.iter_batches(rows, columns=[name], use_threads=False)


def _delta_encoded(meta: Any, kinds: Mapping[str, str]) -> dict[str, int]:
    """Columns of text that are stored as differences, and the bytes of their largest chunk."""
    largest: dict[str, int] = {}
    leaves = [
        (j, path)
        for j in range(meta.num_columns)
        if kinds.get(path := meta.schema.column(j).path) == "text"
    ]
    for i in range(meta.num_row_groups if leaves else 0):
        group = meta.row_group(i)
        for j, name in leaves:
            chunk = group.column(j)
            if any(encoding.startswith("DELTA") for encoding in chunk.encodings):
                largest[name] = max(largest.get(name, 0), chunk.total_uncompressed_size)
    return largest


class _Decoded:
    """The columns of a Parquet file as they come, and the memory that their cells stand for."""

    def __init__(self, arrow: ModuleType, path: Path, kinds: Mapping[str, str]) -> None:
        self.arrow, self.path, self.kinds = arrow, path, kinds
        self.compute = arrow_module("pyarrow.compute")
        self.stored, self.decoded = path.stat().st_size, 0
        self.parts: dict[str, list[HostArray]] = {name: [] for name, kind in kinds.items() if kind}
        self.decimals: dict[str, list[Any]] = {}

    def add(self, batch: Any) -> None:
        """Take the rows of a batch."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name not in self.parts:  # a.b comes along when a is asked for
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
        """Numbers; a null is NaN."""
        arrow = self.arrow
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if self.kinds[name] == "long decimal":
            self.decimals.setdefault(plain_name(name), []).append(column)
        if self.kinds[name] != "number":
            column = column.cast(arrow.float64())
        elif arrow.types.is_boolean(column.type) and column.null_count:
            column = column.cast(arrow.int8())
        values: HostArray = column.to_numpy(zero_copy_only=False)
        return values

    def columns(self, rows: int) -> dict[str, HostArray]:
        """All columns; those that cannot be learnt from as bytes without meaning."""
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
