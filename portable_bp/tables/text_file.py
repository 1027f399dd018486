"""The text of a file of lines: from a path or from standard input, unpacked, in UTF-8."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from portable_bp.tables.table import DataError
from portable_bp.tables.unpack import PACKED, encoding, not_text, packing, recoded, unpacked

STANDARD_INPUT = ("-", "/dev/stdin")

MOST_BYTES = 2**31
"""Standard input is read whole, up to this size."""

OTHERS = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or name it .xlsx"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save it as .xlsx or as CSV UTF-8"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"ARROW1": ("an Arrow file", "name it .arrow"),
    b"SQLite format 3": ("a database of SQLite", "name it sqlite:///FILE, with a query"),
    b"\x93NUMPY": ("an array of NumPy", "name it .npy"),
}
"""How files begin that are not text, what they are, and what to do."""


@dataclass(frozen=True)
class TextFile:
    """Text that can be read again and again.

    Parameters
    ----------
    name : str
        What messages call it.
    content : Path or bytes
        Where it is, or what it is: UTF-8.
    note : str
        In which other encoding it was stored.
    """

    name: str
    content: Path | bytes = field(repr=False)
    note: str = ""

    @classmethod
    def of(cls, path: Path) -> TextFile:
        """A file; what gzip or Zstandard packed is unpacked.

        Parameters
        ----------
        path : Path
            The file.

        Returns
        -------
        TextFile
            Its text.

        Raises
        ------
        DataError
            It is no text.
        """
        name, suffix = str(path), path.suffix.lower().lstrip(".")
        with open(path, "rb") as file:
            start = file.read(16)
            file.seek(0)
            for magic, (what, advice) in OTHERS.items():
                if start.startswith(magic):
                    raise DataError(f"{name} is {what}, not text; {advice}")
            packed = packing(start) or (suffix if suffix in PACKED else "")
            if not packed:
                return _as_utf8(cls(name, path))
            return _as_utf8(cls(name, unpacked(name, file, packed, path.stat().st_size)))

    @classmethod
    def standard_input(cls) -> TextFile:
        """All of standard input, packed or not.

        Returns
        -------
        TextFile
            Its text.

        Raises
        ------
        DataError
            It is too long, or no text.
        """
        name = "standard input"
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"{name} has more than {MOST_BYTES:,} bytes; write it to a file first")
        packed = packing(content[:8])
        if packed:
            content = unpacked(name, io.BytesIO(content), packed, len(content))
        return _as_utf8(cls(name, content))

    @property
    def size(self) -> int:
        """The number of bytes, unpacked."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> IO[bytes]:
        """The bytes from the start."""
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content)
        return open(self.content, "rb")

    def text(self) -> IO[str]:
        """The text from the start, without a byte order mark, with line breaks as they are."""
        return io.TextIOWrapper(self.open(), encoding="utf-8-sig", newline="")

    def records(self, separator: str, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
        """The number of the first line and the cells of every record of CSV after ``skip`` lines.

        Empty lines are no records.
        """
        with self.text() as file:
            for _ in range(skip):
                file.readline()
            reader = csv.reader(file, delimiter=separator)
            start = 1
            for cells in reader:
                if cells:
                    yield skip + start, cells
                start = reader.line_num + 1

    def lines(self, separator: str, skip: int) -> list[int]:
        """Where the reader finds the rows of CSV after ``skip`` lines, as far as it comes."""
        lines = []
        with suppress(csv.Error):  # a cell that is too large for Python's own reader
            for line, _ in self.records(separator, skip):
                lines.append(line)
        return lines

    def not_text(self) -> DataError:
        """What to say about bytes that are not text."""
        return not_text(self.name)


def _as_utf8(file: TextFile) -> TextFile:
    """The file itself, or its text where that was stored in another encoding."""
    stored = encoding(file.name, file.open)
    if stored == "utf-8":
        return file
    with file.open() as stream:
        content = recoded(file.name, stream, stored)
    known = {"cp1252": "Latin-1 (Windows-1252)", "latin-1": "Latin-1"}
    if stored in known:
        return TextFile(file.name, content, f"not UTF-8: read as {known[stored]}")
    return TextFile(file.name, content, f"read as {stored.upper()}")
