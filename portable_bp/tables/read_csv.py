"""CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from portable_bp.tables.read_arrow import arrow_module, to_columns
from portable_bp.tables.table import NUMBER, DataError, Table, first_line

SEPARATORS = ",;\t|"
"""What may stand between the cells of a CSV file; the header says which it is."""


def read_csv(path: Path) -> Table:
    arrow, reader = arrow_module("pyarrow"), arrow_module("pyarrow.csv")
    lines = _Lines(path)
    try:
        table = reader.read_csv(
            path,
            reader.ReadOptions(
                column_names=lines.names,
                skip_rows=lines.before,
                # One block, so that types are inferred from all rows.
                block_size=min(path.stat().st_size + 1, 2**31 - 1),
            ),
            reader.ParseOptions(delimiter=lines.separator, newlines_in_values=True),
        )
    except arrow.ArrowException as error:
        raise lines.explain(error) from error
    if any(arrow.types.is_binary(column.type) for column in table.columns):
        raise lines.not_text()
    notes = []
    if not lines.header:
        notes.append("no header: columns are called 0, 1, ...")
    if lines.separator != ",":
        notes.append(f"cells are separated by {lines.separator!r}")
    return Table(str(path), to_columns(arrow, table), note="; ".join(notes), place=lines.place)


class _Lines:
    """A CSV file line by line: its header, and where the trouble is when there is some."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with self._open() as file:
                before, line = next(
                    ((i, line) for i, line in enumerate(file) if line.strip()), (0, "")
                )
            if "\0" in line:
                raise self.not_text()
            if not line:
                raise DataError(f"{path} is empty")
            self.separator = max(
                SEPARATORS, key=lambda s: (len(next(csv.reader([line], delimiter=s))), s == ",")
            )
            first, names = next(self.records())
            second = next((start for start, _ in self.records() if start > first), None)
        except UnicodeDecodeError as error:
            raise self.not_text() from error
        except csv.Error as error:
            raise self._not_csv(error) from error
        self.header = not all(NUMBER.fullmatch(cell) for cell in names)
        self.names = (
            [name.strip() for name in names] if self.header else [str(i) for i in range(len(names))]
        )
        self.before = before
        """Lines above the first row."""
        if self.header:
            if second is None:
                raise DataError(f"{path} has a header and no rows")
            self.before = second - 1
        for i, name in enumerate(self.names):
            if not name:
                raise DataError(
                    f"{path}: column {i + 1} has no name (an index that pandas wrote?); name it or "
                    f"write the file without it"
                )
            if name in self.names[:i]:
                raise DataError(f"{path}: two columns are called {name!r}; rename one")

    def _open(self) -> IO[str]:
        return open(self.path, encoding="utf-8-sig", newline="")  # a byte order mark is skipped

    def not_text(self) -> DataError:
        """What to say about bytes that are none."""
        return DataError(f"{self.path} is not text in UTF-8; save it as CSV UTF-8")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Number of the first line and cells of every record that is not blank."""
        with self._open() as file:
            reader = csv.reader(file, delimiter=self.separator)
            start = 1
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield start, cells
                start = reader.line_num + 1

    def place(self, row: int) -> str:
        """Where the reader finds a row, counted from 0."""
        with suppress(csv.Error):  # a cell that is too large for Python's own reader
            for i, (start, _) in enumerate(self.records(), start=-1 if self.header else 0):
                if i == row:
                    return f"line {start}"
        return f"row {row}"

    def explain(self, error: Exception) -> DataError:
        """What is wrong with the file, once a reader has given it up."""
        try:
            ragged = next((r for r in self.records() if len(r[1]) != len(self.names)), None)
        except UnicodeDecodeError:
            return self.not_text()
        except csv.Error:
            ragged = None
        if ragged is not None:
            return DataError(
                f"{self.path}, line {ragged[0]}: {len(ragged[1])} cells, where the first line has "
                f"{len(self.names)}"
            )
        return self._not_csv(error)

    def _not_csv(self, error: Exception) -> DataError:
        return DataError(f"{self.path} cannot be read as CSV: {first_line(error)}")
