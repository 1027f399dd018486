"""Excel workbooks (``.xlsx``), by openpyxl.

The first sheet goes the way of a CSV file: its cells as text, and then each column as what all of its
cells are. A workbook is a zip archive of XML; what it would take is counted, and XML that defines
entities of its own is refused, before openpyxl sees it.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any
from xml.parsers import expat

from portable_bp.tables.limits import CELL_BYTES, refuse_growth
from portable_bp.tables.read_csv import read_csv
from portable_bp.tables.table import DataError, Table, first_line, shown
from portable_bp.tables.text_file import TextFile

MOST_ROWS, MOST_COLUMNS = 2**20, 2**14
"""What a sheet of Excel has at most."""

MIDNIGHT = datetime.time()


def read_excel(path: Path, header: bool | None = None) -> Table:
    """The table in the first sheet of an Excel workbook.

    Parameters
    ----------
    path : Path
        The file.
    header : bool or None
        Whether the first row that is not empty names the columns; None guesses.

    Returns
    -------
    Table
        Formulas count as the values that Excel stored for them.
    """
    openpyxl = _openpyxl()
    try:
        _check_claims(path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        with book._archive:  # a book of openpyxl is not a context manager
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # what the file says about them need not be true
            content, places = _as_csv(path, sheet)
        others = len(book.sheetnames) - 1
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged workbook raises a dozen kinds
        raise DataError(f"{path} is not a valid .xlsx file: {first_line(error)}") from error
    if not places:
        raise DataError(f"{path}: the sheet {shown(sheet.title)} has no rows")
    note = f"the first of {others + 1} sheets, {shown(sheet.title)}" if others else ""
    table = read_csv(TextFile(str(path), content, note), header)
    above = len(places) - table.rows  # the header
    return replace(table, place=partial(_place, places[above:]))


def _place(rows: Sequence[int], row: int) -> str:
    return f"row {rows[row]} of the sheet"


def _openpyxl() -> ModuleType:
    try:
        return import_module("openpyxl")
    except ImportError as error:
        raise DataError(
            "Excel workbooks need openpyxl: pip install 'portable-bp[excel]'"
        ) from error


def _check_claims(path: Path) -> None:
    """Refuse a workbook that would take too much memory, or whose XML is not plain."""
    stored = path.stat().st_size
    refuse = partial(refuse_growth, str(path), stored)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        refuse(sum(member.file_size for member in members))
        for member in members:
            if member.filename.lower().endswith((".xml", ".rels")):
                with archive.open(member) as stream:
                    _Sheet(refuse).read(stream)


class _Sheet:
    """Reads XML for what openpyxl would take on trust: entities, and the places of cells."""

    def __init__(self, refuse: Any) -> None:
        self.refuse, self.rows, self.columns, self.cell = refuse, 0, 0, 0

    def read(self, stream: IO[bytes]) -> None:
        """Read one member of the archive."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._element
        parser.StartDoctypeDeclHandler = self._doctype
        parser.ParseFile(stream)

    def _doctype(self, *arguments: Any) -> None:
        raise ValueError("its XML has a document type of its own")

    def _element(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if name not in ("c", "row"):
            return
        place = re.fullmatch(r"([A-Za-z]*)(\d*)", attributes.get("r", ""))
        if place is None or len(place[1]) > 3 or len(place[2]) > 7:
            raise ValueError("a cell lies outside of the sheet")
        column = 0
        for letter in place[1].upper():
            column = 26 * column + ord(letter) - ord("A") + 1
        row = int(place[2] or 0)
        if column > MOST_COLUMNS or row > MOST_ROWS:
            raise ValueError("a cell lies outside of the sheet")
        if name == "row":
            self.rows, self.cell = max(self.rows + 1, row), 0
        else:  # without a place, it is the next one of its row
            self.cell = column or self.cell + 1
            self.columns = max(self.columns, self.cell)
        self.refuse(CELL_BYTES * self.rows * self.columns)


def _as_csv(path: Path, sheet: Any) -> tuple[bytes, list[int]]:
    """The rows that are not empty as CSV, all cells in quotes, and their numbers in the sheet."""
    refuse = partial(refuse_growth, str(path), path.stat().st_size)
    rows, places, width = [], [], 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = [*map(_as_text, row)]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            rows.append(cells)
            places.append(number)
            width = max(width, len(cells))
    return b"".join(_lines(rows, width, refuse)), places


def _lines(rows: list[list[str]], width: int, refuse: Any) -> Iterator[bytes]:
    taken = 0
    for cells in rows:
        taken += (
            sum(map(len, cells)) + len('"",') * width
        )  # before cells that are shared are copied
        refuse(taken)
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL).writerow([*cells, *[""] * (width - len(cells))])
        yield text.getvalue().encode()


def _as_text(cell: Any) -> str:
    """A cell as CSV would have it."""
    if cell is None:
        return ""
    if isinstance(cell, datetime.datetime):
        return str(cell.date() if cell.time() == MIDNIGHT else cell)
    return str(cell)
