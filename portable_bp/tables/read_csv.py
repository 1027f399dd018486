"""CSV files: every column is read as text, then as what all of its cells are."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.arrow_columns import arrow_module, objects
from portable_bp.tables.cells import DATE, MISSING
from portable_bp.tables.csv_dialect import Dialect, find_dialect
from portable_bp.tables.limits import COLUMN_BYTES, refuse_growth
from portable_bp.tables.problems import MOST, listed
from portable_bp.tables.table import DataError, Table, first_line
from portable_bp.tables.text_file import TextFile

NUMBER = r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$"


def read_csv(file: TextFile, header: bool | None = None) -> Table:
    """The table in a CSV file.

    Parameters
    ----------
    file : TextFile
        The file.
    header : bool or None
        Whether its first line names the columns; None guesses.

    Returns
    -------
    Table
        Numbers where all cells are numbers, booleans where all are true or false, else text.
    """
    dialect = find_dialect(file, header)
    refuse_growth(file.name, file.size, COLUMN_BYTES * len(dialect.names))
    texts = _texts(file, dialect)
    names, notes = list(dialect.names), [dialect.note] if dialect.note else []
    empty = [not name and _is_blank(text) for name, text in zip(names, texts, strict=True)]
    if any(empty):  # every line ends with a separator, or a sheet begins further to the right
        notes.append(f"{sum(empty)} empty column(s) left out")
        names = [*itertools.compress(names, np.invert(empty))]
        texts = [*itertools.compress(texts, np.invert(empty))]
    index = _index_columns(names)
    if index:
        notes.append("the first column, an index without a name, is left out")
        names, texts = names[index:], texts[index:]
    nameless = [f"column {index + i + 1} has no name" for i, name in enumerate(names) if not name]
    if nameless:
        raise listed(file.name, nameless)
    columns = _Columns(dict(zip(names, texts, strict=True)))
    return Table(
        file.name,
        columns.values,
        note="; ".join(notes),
        place=_Places(partial(file.lines, dialect.separator, dialect.skip)),
        text=partial(_text, columns.spelled),
    )


@dataclass(frozen=True)
class _Places:
    """From rows to lines of the file, which is read again when somebody asks for the first time."""

    read: Callable[[], list[int]]

    @cached_property
    def lines(self) -> list[int]:
        return self.read()

    def __call__(self, row: int) -> str:
        return f"line {self.lines[row]}" if row < len(self.lines) else f"row {row}"


def _index_columns(names: Sequence[str]) -> int:
    """How many of the first columns are an index, as pandas and R write it: without a name."""
    index = 0
    while index < len(names) - 1 and re.fullmatch(r"|Unnamed: \d+", names[index]):
        index += 1
    return index


def _texts(file: TextFile, dialect: Dialect) -> list[Any]:
    """Every column as text, in Arrow."""
    arrow, reader = arrow_module("pyarrow"), arrow_module("pyarrow.csv")
    ids = [str(i) for i in range(len(dialect.names))]
    try:
        with file.open() as stream:
            table = reader.read_csv(
                stream,
                reader.ReadOptions(
                    column_names=ids,
                    skip_rows=dialect.skip,
                    block_size=min(file.size + 1, 2**31 - 1),
                ),
                reader.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
                reader.ConvertOptions(column_types=dict.fromkeys(ids, arrow.string())),
            )
    except arrow.ArrowException as error:
        raise _explained(file, dialect, error) from error
    columns = table.columns
    if any(column.num_chunks > 1 for column in columns[:1]):
        columns = [column.cast(arrow.large_string()) for column in columns]
    return [column.combine_chunks() for column in columns]


def _explained(file: TextFile, dialect: Dialect, error: Exception) -> DataError:
    """What is wrong with a file that Arrow has given up."""
    n = len(dialect.names)
    problems, ragged = [], 0
    with suppress(csv.Error):
        for line, cells in file.records(dialect.separator, dialect.skip):
            if len(cells) == n:
                continue
            ragged += 1
            if ragged <= MOST:
                problems.append(
                    f"line {line}: {len(cells)} cells, where the first line has {n}"
                    f"{_hint(cells, dialect)}"
                )
    if not ragged:
        return DataError(f"{file.name} cannot be read as CSV: {first_line(error)}")
    return listed(file.name, problems, ragged)


def _hint(cells: Sequence[str], dialect: Dialect) -> str:
    """Why a record may have another number of cells than the first line."""
    n = len(dialect.names)
    if cells[0].startswith("#"):
        return " (comments are skipped above the table only)"
    if len(cells) == n + 1 and not cells[-1].strip():
        return " (a separator ends the line)"
    if len(cells) == n - 1 and not dialect.names[-1]:
        return " (a separator ends the first line)"
    if len(cells) == 1 and not cells[0].strip():
        return " (the line holds blanks only)"
    return " (is there a title above the table?)" if n == 1 else ""


def _is_blank(texts: Any) -> bool:
    compute = arrow_module("pyarrow.compute")
    return bool(compute.all(compute.equal(compute.utf8_trim_whitespace(texts), "")).as_py())


def _text(spelled: Mapping[str, Any], name: str) -> HostArray | None:
    """The cells of a column of numbers, booleans or dates, without blanks around them."""
    if name not in spelled:
        return None
    compute = arrow_module("pyarrow.compute")
    return objects(compute.utf8_trim_whitespace(spelled[name]).dictionary_encode())


class _Columns:
    """Columns of text as numbers, booleans, text or dates; the text of all but text on demand."""

    def __init__(self, texts: dict[str, Any]) -> None:
        self.arrow, self.compute = arrow_module("pyarrow"), arrow_module("pyarrow.compute")
        self.missing = self.arrow.array(sorted(MISSING))
        self.spelled: dict[str, Any] = {}
        self.values: dict[str, HostArray] = {}
        for name, text in texts.items():
            self.values[name] = self._converted(text)
            if self.values[name].dtype.kind != "O":
                self.spelled[name] = text

    def _converted(self, text: Any) -> HostArray:
        """A column: numbers, or what its cells are besides."""
        arrow, compute = self.arrow, self.compute
        try:
            numbers = compute.cast(text, arrow.float64())
        except arrow.ArrowException:
            return self._untidy(text)
        return self._integers(text, numbers.to_numpy(zero_copy_only=False))

    def _integers(self, text: Any, numbers: HostArray) -> HostArray:
        """Numbers as int64 where all are whole and fit."""
        whole = len(numbers) and numbers[0] == np.rint(numbers[0])
        if whole and (numbers == np.rint(numbers)).all():
            try:
                integers: HostArray = self.compute.cast(text, self.arrow.int64()).to_numpy()
                return integers
            except self.arrow.ArrowException:  # 1e5, or beyond 64 bits
                pass
        return numbers

    def _untidy(self, text: Any) -> HostArray:
        """A column with blanks, missing cells, or cells that are not numbers."""
        arrow, compute = self.arrow, self.compute
        text = compute.utf8_trim_whitespace(text)
        absent = compute.is_in(text, value_set=self.missing.cast(text.type))
        text = compute.if_else(absent, arrow.scalar(None, text.type), text)
        known = text.drop_null()
        try:
            numbers: HostArray = compute.cast(text, arrow.float64()).to_numpy(zero_copy_only=False)
            return numbers if text.null_count else self._integers(text, numbers)
        except arrow.ArrowException:
            pass
        if self._all_match(known, NUMBER):  # +3, in older versions of Arrow
            cells = [np.nan if cell is None else float(cell) for cell in text.to_pylist()]
            return np.asarray(cells)
        lower = compute.utf8_lower(text)
        if compute.all(
            compute.is_in(lower.drop_null(), value_set=arrow.array(["true", "false"], text.type))
        ).as_py():
            truth = compute.equal(lower, "true")
            kind = arrow.float64() if truth.null_count else arrow.bool_()
            values: HostArray = truth.cast(arrow.int8()).cast(kind).to_numpy(zero_copy_only=False)
            return values
        if self._all_match(known, DATE):
            return np.zeros(len(text), "V1")
        return objects(text.dictionary_encode())

    def _all_match(self, text: Any, pattern: str) -> bool:
        first = text[:1]
        compute = self.compute
        return all(
            compute.all(compute.match_substring_regex(some, pattern)).as_py()
            for some in (first, text)
        )
