"""Columns of Arrow as those of a table, taken batch by batch with their memory counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.sources.parquet import pandas_index
from portable_bp.tables.limits import CELL_BYTES
from portable_bp.tables.table import DataError, Table, plain_name, shown, some

EXACT_DIGITS = 15
"""Decimals of at most so many digits stay different numbers in float64."""

EXACT = 2**53
"""Whole numbers up to this size stay different numbers in float64."""


def arrow_module(name: str) -> ModuleType:
    """A module of pyarrow, or an error that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError("tables in files need pyarrow: pip install 'portable-bp[cli]'") from error


def objects(column: Any) -> HostArray:
    """A dictionary array of text as objects, None where null; rows of equal text share one object."""
    nowhere = len(column.dictionary)
    rows = column.indices.fill_null(nowhere).to_numpy(zero_copy_only=False)
    cells = np.empty(nowhere + 1, dtype=object)
    cells[:nowhere] = column.dictionary.to_pylist()
    values: HostArray = cells[rows]
    return values


def check_names(source: str, names: Sequence[str]) -> None:
    """Refuse names that stand twice; one message lists all."""
    counts = Counter(map(plain_name, names))
    twice = [name for name, count in counts.items() if count > 1 and name]
    if len(twice) == 1:
        how_many = "two" if counts[twice[0]] == 2 else f"{counts[twice[0]]:,}"
        raise DataError(f"{source}: {how_many} columns are called {shown(twice[0])}; rename them")
    if twice:
        raise DataError(
            f"{source}: names that several columns have: {some(twice, 10)}; rename them"
        )


def column_kind(types: ModuleType, kind: Any) -> str:
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


class ArrowColumns:
    """The columns of Arrow batches as they come, and the memory that their cells stand for.

    Parameters
    ----------
    source : str
        What messages call the table.
    schema : pyarrow.Schema
        The names and types of the columns; an index that pandas stored is left out.
    refuse : callable
        Called with the bytes that the cells take so far; raises when they are too many.
    """

    def __init__(self, source: str, schema: Any, refuse: Callable[[int], None]) -> None:
        self.arrow, self.compute = arrow_module("pyarrow"), arrow_module("pyarrow.compute")
        self.source, self.refuse = source, refuse
        check_names(source, schema.names)
        self.index = pandas_index(schema.metadata or {}, schema.names)
        kinds = {f.name: column_kind(self.arrow.types, f.type) for f in schema}
        self.kinds = {name: kind for name, kind in kinds.items() if name not in self.index}
        self.decoded = self.rows = 0
        self.parts: dict[str, list[HostArray]] = {n: [] for n, kind in self.kinds.items() if kind}
        self.decimals: dict[str, list[Any]] = {}

    def add(self, batch: Any, names: set[str] | None = None) -> None:
        """Take the rows of a batch: of all columns, or of some."""
        wanted = self.parts.keys() if names is None else names
        self.rows += len(batch) if names is None else 0
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name not in wanted:  # a.b comes along when a is asked for
                continue
            self.decoded += CELL_BYTES * len(column)
            if self.kinds[name] == "text":
                self.parts[name].append(self._objects(column))
            else:
                self.refuse(self.decoded)
                self.parts[name].append(self._numbers(name, column))

    def _objects(self, column: Any) -> HostArray:
        """Text as objects; the rows share those of equal text."""
        arrow = self.arrow
        if not arrow.types.is_dictionary(column.type):
            self.refuse(self.decoded + int(self._lengths(column).sum()))
            column = self._text(column).dictionary_encode()
        lengths = self._lengths(column.dictionary)
        uses = np.bincount(
            column.indices.drop_null().to_numpy(zero_copy_only=False), minlength=len(lengths)
        )
        self.decoded += int(lengths @ uses)
        self.refuse(self.decoded)
        return objects(column)

    def _text(self, column: Any) -> Any:
        large = self.arrow.large_string()
        try:
            return column.cast(large)
        except self.arrow.ArrowNotImplementedError:  # views, in Arrow 16
            return self.arrow.array(column.to_pylist(), large)

    def _lengths(self, column: Any) -> HostArray:
        """The bytes of each text, 0 for a null."""
        if self.arrow.types.is_string_view(column.type):  # Arrow has no kernel: views of 16 bytes
            views = np.frombuffer(column.buffers()[1] or b"", np.int32).reshape(-1, 4)
            lengths = views[column.offset : column.offset + len(column), 0].astype(np.float64)
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            return np.where(valid, lengths, 0.0)
        lengths = self.compute.binary_length(column).fill_null(0)
        return np.asarray(lengths.to_numpy(zero_copy_only=False), np.float64)

    def _numbers(self, name: str, column: Any) -> HostArray:
        """Numbers and moments; a null is NaN or NaT, or None among integers that float64 would round."""
        arrow = self.arrow
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if self.kinds[name] == "long decimal":
            self.decimals.setdefault(plain_name(name), []).append(column)
        if self.kinds[name] == "date":
            zone = getattr(column.type, "tz", None)
            column = column.cast(arrow.timestamp("us", zone), safe=False)
        if "decimal" in self.kinds[name] or self.kinds[name] == "null":
            column = column.cast(arrow.float64())
        elif arrow.types.is_boolean(column.type) and column.null_count:
            column = column.cast(arrow.int8())
        elif arrow.types.is_integer(column.type) and column.null_count:
            known = column.drop_null().to_numpy(zero_copy_only=False)
            if len(known) and _beyond_float64(known):
                return np.asarray([*column.to_pylist(), None], dtype=object)[:-1]
        values: HostArray = column.to_numpy(zero_copy_only=False)
        return values

    def columns(self) -> dict[str, HostArray]:
        """All columns; those that cannot be learnt from as bytes without meaning."""
        return {
            plain_name(name): _joined(self.parts[name]) if kind else np.zeros(self.rows, "V1")
            for name, kind in self.kinds.items()
        }

    def text(self, name: str) -> HostArray | None:
        """The digits of decimals that float64 would round."""
        if name not in self.decimals:
            return None
        text = [c.cast(self.arrow.string()).to_pylist() for c in self.decimals[name]]
        return np.asarray([cell for part in text for cell in part], dtype=object)

    def table(self, note: str = "") -> Table:
        """The table of all batches."""
        left_out = f"the index that pandas stored is left out: {some(sorted(self.index))}"
        notes = [part for part in (note, left_out if self.index else "") if part]
        return Table(self.source, self.columns(), note="; ".join(notes), text=self.text)


def _beyond_float64(integers: HostArray) -> bool:
    """Whether float64 would round some of them."""
    return int(integers.max()) > EXACT or int(integers.min()) < -EXACT


def _joined(parts: Sequence[HostArray]) -> HostArray:
    """The parts of a column; where some are floats for their nulls, large integers are kept whole."""
    kinds = {part.dtype.kind for part in parts}
    if len(kinds) > 1 and kinds <= {*"iufO"}:
        large = any(p.dtype.kind in "iu" and len(p) and _beyond_float64(p) for p in parts)
        if "O" in kinds or large:
            parts = [_whole(part) for part in parts]
    return np.concatenate(parts) if parts else np.zeros(0)


def _whole(values: HostArray) -> HostArray:
    """Whole numbers as Python's; NaN is None."""
    if values.dtype.kind != "f":
        return values.astype(object)
    cells = [None if value != value else int(value) for value in values.tolist()]
    return np.asarray([*cells, None], dtype=object)[:-1]
