"""CSV files: every column is read as text, then as what all of its cells are."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.cells import MISSING
from portable_bp.tables.csv_dialect import Dialect, find_dialect
from portable_bp.tables.csv_file import CsvFile
from portable_bp.tables.limits import COLUMN_BYTES, refuse_growth
from portable_bp.tables.read_arrow import arrow_module, objects
from portable_bp.tables.table import DataError, Table, first_line

NUMBER = r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$"
DATE = (
    r"^(?:\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[-+]\d\d:?\d\d)?)?"
    r"|(?:\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{4}[./]\d{1,2}[./]\d{1,2})(?: \d\d:\d\d(?::\d\d)?)?"
    r"|\d\d:\d\d(?::\d\d(?:\.\d+)?)?)$"
)


def read_csv(file: CsvFile, header: bool | None = None) -> Table:
    """The table in a CSV file.

    Parameters
    ----------
    file : CsvFile
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
    while names and not names[-1] and _is_blank(texts[len(names) - 1]):
        names.pop()  # every line ends with a separator
    if len(names) < len(texts):
        notes.append("empty last column left out")
    if "" in names:
        raise DataError(
            f"{file.name}: column {names.index('') + 1} has no name (an index that pandas wrote?); "
            "name it, or write the file without it"
        )
    columns = _Columns(dict(zip(names, texts, strict=False)))
    return Table(
        file.name,
        columns.values,
        note="; ".join(notes),
        place=partial(file.line_of, separator=dialect.separator, skip=dialect.skip),
        text=partial(_text, columns.converted),
    )


def _texts(file: CsvFile, dialect: Dialect) -> list[Any]:
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


def _explained(file: CsvFile, dialect: Dialect, error: Exception) -> DataError:
    """What is wrong with a file that Arrow has given up."""
    n = len(dialect.names)
    try:
        ragged = next(
            (r for r in file.records(dialect.separator, dialect.skip) if len(r[1]) != n), None
        )
    except UnicodeDecodeError:
        return file.not_text()
    except csv.Error:
        ragged = None
    if ragged is None:
        return DataError(f"{file.name} cannot be read as CSV: {first_line(error)}")
    line, cells = ragged
    hint = ""
    if cells[0].startswith("#"):
        hint = "; comments are skipped above the table only"
    elif len(cells) == n + 1 and not cells[-1].strip():
        hint = "; a separator ends the line"
    elif len(cells) == n - 1 and not dialect.names[-1]:
        hint = "; a separator ends the first line"
    elif len(cells) == 1 and not cells[0].strip():
        hint = "; the line holds blanks only"
    elif n == 1:
        hint = "; is there a title above the table?"
    return DataError(
        f"{file.name}, line {line}: {len(cells)} cells, where the first line has {n}{hint}"
    )


def _is_blank(texts: Any) -> bool:
    compute = arrow_module("pyarrow.compute")
    return bool(compute.all(compute.equal(compute.utf8_trim_whitespace(texts), "")).as_py())


def _text(converted: Mapping[str, Any], name: str) -> HostArray | None:
    """The cells of a column of numbers, booleans or dates, without blanks around them."""
    if name not in converted:
        return None
    compute = arrow_module("pyarrow.compute")
    return objects(compute.utf8_trim_whitespace(converted[name]).dictionary_encode())


class _Columns:
    """Columns of text as numbers, booleans, text or dates; the text of numbers on demand."""

    def __init__(self, texts: dict[str, Any]) -> None:
        self.arrow, self.compute = arrow_module("pyarrow"), arrow_module("pyarrow.compute")
        self.missing = self.arrow.array(sorted(MISSING))
        self.converted: dict[str, Any] = {}
        self.values: dict[str, HostArray] = {}
        for name, text in texts.items():
            self.values[name], is_converted = self._converted(text)
            if is_converted:
                self.converted[name] = text

    def _converted(self, text: Any) -> tuple[HostArray, bool]:
        """A column, and whether it became anything but text."""
        arrow, compute = self.arrow, self.compute
        try:
            numbers = compute.cast(text, arrow.float64())
        except arrow.ArrowException:
            return self._untidy(text)
        return self._integers(text, numbers.to_numpy(zero_copy_only=False)), True

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

    def _untidy(self, text: Any) -> tuple[HostArray, bool]:
        """A column with blanks, missing cells, or cells that are not numbers."""
        arrow, compute = self.arrow, self.compute
        text = compute.utf8_trim_whitespace(text)
        absent = compute.is_in(text, value_set=self.missing.cast(text.type))
        text = compute.if_else(absent, arrow.scalar(None, text.type), text)
        known = text.drop_null()
        try:
            numbers: HostArray = compute.cast(text, arrow.float64()).to_numpy(zero_copy_only=False)
            return (numbers if text.null_count else self._integers(text, numbers)), True
        except arrow.ArrowException:
            pass
        if self._all_match(known, NUMBER):  # +3, in older versions of Arrow
            cells = [np.nan if cell is None else float(cell) for cell in text.to_pylist()]
            return np.asarray(cells), True
        lower = compute.utf8_lower(text)
        if compute.all(
            compute.is_in(lower.drop_null(), value_set=arrow.array(["true", "false"], text.type))
        ).as_py():
            truth = compute.equal(lower, "true")
            kind = arrow.float64() if truth.null_count else arrow.bool_()
            return truth.cast(arrow.int8()).cast(kind).to_numpy(zero_copy_only=False), True
        if self._all_match(known, DATE):
            return np.zeros(len(text), "V1"), True
        return objects(text.dictionary_encode()), False

    def _all_match(self, text: Any, pattern: str) -> bool:
        first = text[:1]
        compute = self.compute
        return all(
            compute.all(compute.match_substring_regex(some, pattern)).as_py()
            for some in (first, text)
        )
