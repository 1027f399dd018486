"""JSON lines: one object for each row, its keys the columns."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.arrow_columns import EXACT
from portable_bp.tables.cells import DATE
from portable_bp.tables.limits import CELL_BYTES, COLUMN_BYTES, refuse_growth
from portable_bp.tables.problems import MOST, listed
from portable_bp.tables.table import Table, first_line, plain_name, shown
from portable_bp.tables.text_file import TextFile


def read_json(file: TextFile) -> Table:
    """The table in a file of JSON lines.

    Parameters
    ----------
    file : TextFile
        The file.

    Returns
    -------
    Table
        A key that a row lacks, or null, is a missing cell. Numbers, booleans, text and dates; columns
        of lists or objects cannot be learnt from.
    """
    cells: dict[str, list[Any]] = {}
    problems: list[str] = []
    lines: list[int] = []
    wrong = 0
    with file.text() as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                row = _row(line)
            except (ValueError, RecursionError) as error:
                wrong += 1
                if wrong <= MOST:
                    problems.append(f"line {number}: {_words(error)}")
                continue
            _add(file, cells, row, len(lines))
            lines.append(number)
    if wrong:
        raise listed(file.name, problems, wrong)
    columns = {name: _column([*column, *[None] * (len(lines) - len(column))])
               for name, column in cells.items()}  # fmt: skip
    return Table(
        file.name,
        columns,
        note=file.note,
        place=partial(_place, lines),
        text=partial(_text, {name: cells[name] for name in cells if columns[name].dtype == "V1"}),
    )


def _place(lines: Sequence[int], row: int) -> str:
    return f"line {lines[row]}"


def _row(line: str) -> dict[str, Any]:
    """The cells of a line; lists and objects are not kept."""
    row = json.loads(line, object_pairs_hook=_Object)
    if not isinstance(row, _Object):
        hint = ": write one object for each line" if isinstance(row, list) else ""
        raise ValueError(f"{shown(row, 40)} is not an object{hint}")
    cells = {plain_name(name): cell for name, cell in row}
    if len(cells) < len(row):
        raise ValueError("a key stands twice")
    return cells


class _Object(list[tuple[str, Any]]):
    """The pairs of a JSON object."""


def _words(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else first_line(error)


def _add(file: TextFile, columns: dict[str, list[Any]], row: dict[str, Any], place: int) -> None:
    """Take one row; its new keys begin columns that are missing in the rows above."""
    for name in [name for name in row if name not in columns]:
        taken = (len(columns) + 1) * (COLUMN_BYTES + CELL_BYTES * (place + 1))
        refuse_growth(file.name, file.size, taken)
        columns[name] = []
    # Each column is as long as its last cell asks: the memory of a key that few rows have is small.
    for name, cell in row.items():
        column = columns[name]
        column += [None] * (place - len(column))
        column.append(_NESTED if isinstance(cell, list) else cell)


_NESTED: Any = ...
"""A list or an object: nothing to learn from. (It is the same object after pickling, too.)"""


def _column(cells: list[Any]) -> HostArray:
    """Cells as an array: the narrowest kind that holds them all as they are."""
    kinds = {*map(type, cells)}
    missing = type(None) in kinds
    kinds.discard(type(None))
    if type(_NESTED) in kinds or not kinds:
        return np.zeros(len(cells), "V1") if kinds else np.full(len(cells), np.nan)
    if kinds == {bool}:
        return np.asarray([np.nan if c is None else c for c in cells], float if missing else bool)
    if kinds <= {int, float}:
        large = any(type(cell) is int and abs(cell) > EXACT for cell in cells)
        if not large:
            whole = kinds == {int} and not missing
            numbers = [np.nan if cell is None else cell for cell in cells]
            return np.asarray(numbers, np.int64 if whole else np.float64)
    if kinds == {str} and all(cell is None or re.match(DATE, cell) for cell in cells):
        return np.zeros(len(cells), "V1")
    values = np.empty(len(cells), object)
    values[:] = cells
    return values


def _text(dates: dict[str, list[Any]], name: str) -> HostArray | None:
    """The cells of a column of dates."""
    cells = dates.get(name)
    if cells is None or _NESTED in cells:
        return None
    values = np.empty(len(cells), object)
    values[:] = cells
    return values
