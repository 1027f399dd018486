"""How a CSV file is written: its separator, and whether its first line is a header."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from portable_bp.tables.arrow_columns import check_names
from portable_bp.tables.cells import MISSING, NUMBER, amount
from portable_bp.tables.table import DataError, plain_name, shown, some
from portable_bp.tables.text_file import TextFile

SEPARATORS = "\t;|,"
"""What may stand between cells; where two fit as well, the first is taken."""

MOST_RECORDS, LEAST_RECORDS, SAMPLE_CELLS = 1000, 20, 100_000
"""How much of a file is looked at: 1,000 records, or fewer wide ones."""

JUDGED_COLUMNS = 200
"""The header of a wide table is told from its first columns."""

Record = tuple[int, list[str]]


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Parameters
    ----------
    separator : str
        What stands between cells.
    names : tuple of str
        The names of the columns.
    header : bool
        Whether they stand in the file.
    skip : int
        Lines before the first row.
    note : str
        What was assumed, for people to check.
    """

    separator: str
    names: tuple[str, ...]
    header: bool
    skip: int
    note: str


def find_dialect(file: TextFile, header: bool | None) -> Dialect:
    """How a file is written.

    Parameters
    ----------
    file : TextFile
        The file.
    header : bool or None
        Whether its first line names the columns; None guesses.

    Returns
    -------
    Dialect
        What the first rows show.

    Raises
    ------
    DataError
        The file is empty or not text, or the first line may be a header or not.
    """
    try:
        skip, comments, separator = _top(file)
        separator = separator or _separator(file, skip)
        records, whole = _sample(file, separator, skip)
        if not records:  # the first cell is larger than Python's own reader takes
            next(file.records(separator, skip))
    except UnicodeDecodeError as error:
        raise file.not_text() from error
    except csv.Error as error:
        raise DataError(f"{file.name} cannot be read as CSV: {error}") from error
    _check_quotes(file.name, records)
    notes = [file.note] if file.note else []
    above = _names_in_comment(comments, records, separator) if header is not False else None
    if above is not None:
        names, first_row = above, records[0][0]
        notes.append("the comment above the first row is taken for the header")
        header = True
    else:
        if header is None:
            header, note = _judge(file, records, separator)
            notes += [note] if note else []
        names = records[0][1] if header else [str(i) for i in range(len(records[0][1]))]
        if header and whole and len(records) == 1:
            raise DataError(f"{file.name} has a header and no rows")
        first_row = records[0][0] + (_lines(records[0][1]) if header else 0)
        if comments:
            notes.append(f"{len(comments)} comment line(s) skipped")
    if not header:
        notes.append("no header: columns are called 0, 1, ...")
    if separator != ",":
        notes.append(f"cells are separated by {separator!r}")
    names = [plain_name(name.strip()) for name in names]
    check_names(file.name, names)
    return Dialect(separator, tuple(names), header, first_row - 1, "; ".join(notes))


def _check_quotes(source: str, records: Sequence[Record]) -> None:
    for line, cells in records[:LEAST_RECORDS]:
        for cell in cells:
            if cell[:1] == " " and cell.lstrip().startswith('"'):
                raise DataError(
                    f"{source}, line {line}: a blank before the quoted cell {shown(cell.strip())}; "
                    "remove the blanks after separators"
                )


def _top(file: TextFile) -> tuple[int, list[str], str]:
    """The lines above the table, the comments among them, and the separator that one may name."""
    comments, named = [], ""
    with file.text() as lines:
        for number, line in enumerate(lines):
            if "\0" in line:
                raise file.not_text()
            sep = re.fullmatch(r'"?sep=(.)"?\s*', line, re.IGNORECASE | re.DOTALL)  # Excel's
            if sep and sep[1] in SEPARATORS:
                named = sep[1]
            elif line.startswith("#"):
                comments.append(line)
            elif line.strip():
                return number, comments, named
    raise DataError(f"{file.name} is empty" + (" but for comments" if comments else ""))


def _lines(cells: Sequence[str]) -> int:
    """How many lines a record takes."""
    return 1 + sum(len(re.findall(r"\r\n|\r|\n", cell)) for cell in cells)


def _sample(file: TextFile, separator: str, skip: int) -> tuple[list[Record], bool]:
    """The first records, and whether the file has no more than these."""
    records: list[Record] = []
    cells = 0
    try:
        for record in file.records(separator, skip):
            records.append(record)
            cells += len(record[1])
            if len(records) == MOST_RECORDS or (
                cells > SAMPLE_CELLS and len(records) >= LEAST_RECORDS
            ):
                return records, False
    except csv.Error:  # a cell beyond csv.field_size_limit: often the wrong separator
        return records, False
    return records, True


def _separator(file: TextFile, skip: int) -> str:
    """The separator with which most records have the same number of cells, and more than one."""
    best, best_share = ",", 0.0
    for separator in SEPARATORS:
        records, _ = _sample(file, separator, skip)
        counts = Counter(len(cells) for _, cells in records if len(cells) > 1)
        if counts:
            share = max(counts.values()) / len(records)
            # A first line of another length is a worse sign than any other.
            share -= len(records[0][1]) != counts.most_common(1)[0][0]
            if share > best_share or (best_share == 0 and separator == ","):
                best, best_share = separator, share
    return best


def _names_in_comment(
    comments: Sequence[str], records: Sequence[Record], separator: str
) -> list[str] | None:
    """The names in the last comment, as ``numpy.savetxt`` writes them above the rows."""
    if not comments or not records:
        return None
    names = next(csv.reader([comments[-1]], delimiter=separator))
    rows = [cells for _, cells in records]
    if len(names) != len(rows[0]) or len(names) < 2:
        return None
    if len(rows) > 1 and _is_header(rows[0], rows[1:]) is not False:
        return None  # the first line itself is the header
    names[0] = names[0].strip().lstrip("#").strip() or names[0].strip()
    return names if _is_header(names, rows) else None


def _judge(file: TextFile, records: Sequence[Record], separator: str) -> tuple[bool, str]:
    """Whether the first record is a header, and what to tell people where that is a guess."""
    line, first = records[0]
    body = [cells for _, cells in records[1:]]
    if _only_first_is_quoted(file, line, separator):
        return True, ""
    verdict = _is_header(first, body)
    if verdict is None:
        raise DataError(
            f"{file.name}, line {line}: cannot tell whether {some(first, 4)} are the names of the "
            "columns or a row; say so: --header or --no-header (in Python, header=True or False)"
        )
    doubtful = verdict and any(map(_is_value, first))
    return verdict, "the first line is taken for the header" if doubtful else ""


def _only_first_is_quoted(file: TextFile, line: int, separator: str) -> bool:
    """Whether all cells of the first record are in quotes, and none of the second."""
    with file.text() as lines:
        for _ in range(line - 1):
            lines.readline()
        first, second = lines.readline().strip(), lines.readline().strip()
    cells = first.split(separator)
    return (
        '"' not in second
        and bool(second)
        and all(len(cell) > 2 and cell[0] == cell[-1] == '"' for cell in cells)
    )


def _is_value(cell: str) -> bool:
    """Whether a cell is a number, a quantity or a date rather than a name."""
    cell = cell.strip()
    if NUMBER.fullmatch(cell):
        return True
    has_digit = any(c.isdigit() for c in cell)
    return has_digit and (not any(c.isalpha() for c in cell) or amount(cell) is not None)


def _is_header(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool | None:
    """Whether the first record names the columns of those below; None where that is not clear."""
    first = [cell.strip() for cell in first]
    values = [_is_value(cell) for cell in first]
    if not body:
        return not any(values)
    as_name, as_cell, new_text = _signs(first, values, body)
    if not any(values):
        if as_name or not as_cell:
            return True
        return None if new_text else False
    if as_name:
        return None if as_cell else True
    if new_text:
        counted = [cell for cell, value in zip(first, values, strict=True) if value]
        return None if len(counted) > 1 and _steps(counted) else False
    return _numbers_are_names(first, body) if all(values) else False


def _signs(
    first: Sequence[str], values: Sequence[bool], body: Sequence[Sequence[str]]
) -> tuple[int, int, int]:
    """In how many columns the first cell is unlike, and like, those below; and texts seen once."""
    as_name = as_cell = new_text = 0
    for j, (cell, value) in enumerate(zip(first[:JUDGED_COLUMNS], values, strict=False)):
        below = [cells[j].strip() for cells in body if j < len(cells)]
        below = [other for other in below if other not in MISSING]
        if cell in MISSING or not below:
            continue
        numeric = [_is_value(other) for other in below]
        if value == all(numeric) and (value or not any(numeric) or cell in below):
            as_cell += value or cell in below
            new_text += not value and cell not in below
        elif value:
            as_name += not any(numeric)
        elif all(numeric):
            as_name += 1
        elif cell in below:
            as_cell += 1
        else:
            new_text += 1
    return as_name, as_cell, new_text


def _numbers_are_names(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool | None:
    """Whether a first record of numbers names the columns, as 0, 1, 2 or 1990, 1991, 1992 do."""
    n = len(first)
    sample = [[cell.strip() for cell in cells] for cells in body[:LEAST_RECORDS]]
    others = [cell for cells in sample for cell in cells if cell not in MISSING]
    if n > 2 and _steps(first) and not any(_steps(cells) for cells in sample):
        counted = [[str(i + start) for i in range(n)] for start in (0, 1)]
        return True if first in counted else None
    whole = [bool(re.fullmatch(r"-?\d+", cell)) for cell in others]
    if n == 2 and first == ["0", "1"] and ["0", "1"] not in sample:
        return None if any(whole) else True
    if n > 1 and all(cell.isdigit() for cell in first) and others and not any(whole):
        return None
    return False


def _steps(cells: Sequence[str]) -> bool:
    """Whether cells are numbers that grow or fall in equal steps."""
    if not all(NUMBER.fullmatch(cell) for cell in cells):
        return False
    numbers = [float(cell) for cell in cells]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    return steps[0] != 0 and all(abs(step - steps[0]) <= 1e-6 * abs(steps[0]) for step in steps)
