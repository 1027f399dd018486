"""The text of a CSV file: from a path, unpacked, or from standard input."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from portable_bp.tables.limits import allowed, refuse_growth
from portable_bp.tables.table import DataError, first_line

STANDARD_INPUT = ("-", "/dev/stdin")

MOST_BYTES = 2**31
"""Standard input is read whole, up to this size."""

CHUNK = 2**20

GZIP = b"\x1f\x8b"

OTHERS = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save it as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save it as CSV UTF-8"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"\x93NUMPY": ("an array of NumPy", "name it .npy"),
}
"""How files begin that are not CSV, what they are, and what to do."""


@dataclass(frozen=True)
class CsvFile:
    """Text that can be read again and again.

    Parameters
    ----------
    name : str
        What messages call it.
    content : Path or bytes
        Where it is, or what it is.
    """

    name: str
    content: Path | bytes = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> CsvFile:
        """A file; what gzip packed is unpacked."""
        with open(path, "rb") as file:
            start = file.read(8)
            file.seek(0)
            for magic, (what, advice) in OTHERS.items():
                if start.startswith(magic):
                    raise DataError(f"{path} is {what}, not CSV; {advice}")
            if not start.startswith(GZIP) and path.suffix.lower() != ".gz":
                return cls(str(path), path)
            return cls(str(path), _unpacked(str(path), file, path.stat().st_size))

    @classmethod
    def standard_input(cls) -> CsvFile:
        """All of standard input, packed by gzip or not."""
        name = "standard input"
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"{name} has more than {MOST_BYTES:,} bytes; write it to a file first")
        if content.startswith(GZIP):
            content = _unpacked(name, io.BytesIO(content), len(content))
        return cls(name, content)

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
        """The number of the first line and the cells of every record after ``skip`` lines.

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

    def line_of(self, row: int, separator: str, skip: int) -> str:
        """Where the reader finds a row, counted from 0 after ``skip`` lines."""
        with suppress(csv.Error):  # a cell that is too large for Python's own reader
            for i, (line, _) in enumerate(self.records(separator, skip)):
                if i == row:
                    return f"line {line}"
        return f"row {row}"

    def not_text(self) -> DataError:
        """What to say about bytes that are not text."""
        return DataError(f"{self.name} is not text in UTF-8; save it as CSV UTF-8")


def _unpacked(name: str, packed: IO[bytes], stored: int) -> bytes:
    """What gzip packed, as long as it takes no more memory than a file of that size may."""
    pieces, unpacked = [], 0
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            while piece := file.read(min(CHUNK, allowed(stored) + 1)):
                pieces.append(piece)
                unpacked += len(piece)
                refuse_growth(name, stored, unpacked)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a valid gzip file: {first_line(error)}") from error
    return b"".join(pieces)
