"""Bytes of a text file as UTF-8: unpacked from gzip or Zstandard, and decoded."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable
from typing import IO, Any

from portable_bp.tables.arrow_columns import arrow_module
from portable_bp.tables.limits import allowed, refuse_growth
from portable_bp.tables.table import DataError, first_line

CHUNK = 2**20

PACKED = {"gz": (b"\x1f\x8b", "gzip"), "zst": (b"\x28\xb5\x2f\xfd", "Zstandard")}
"""From the suffix of packed files to how they begin, and the name of the format."""

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""From byte order marks to encodings; that of UTF-16 begins that of UTF-32."""


def packing(start: bytes) -> str:
    """The suffix of the format that packed a file, told by its first bytes; nothing for none.

    >>> packing(b"x,y"), packing(gzip.compress(b"x,y"))
    ('', 'gz')
    """
    return next((suffix for suffix, (magic, _) in PACKED.items() if start.startswith(magic)), "")


def unpacked(name: str, packed: IO[bytes], suffix: str, stored: int) -> bytes:
    """What was packed, as long as it takes no more memory than a file of that size may."""
    arrow = arrow_module("pyarrow") if suffix == "zst" else None
    damages = (arrow.ArrowException,) if arrow else ()
    pieces, size = [], 0
    try:
        stream: Any = (
            arrow.CompressedInputStream(arrow.PythonFile(packed, "r"), "zstd")
            if arrow
            else gzip.GzipFile(fileobj=packed)
        )
        with stream:
            while piece := stream.read(min(CHUNK, allowed(stored) + 1)):
                pieces.append(piece)
                size += len(piece)
                refuse_growth(name, stored, size)
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, *damages) as error:
        raise DataError(
            f"{name} is not a valid {PACKED[suffix][1]} file: {first_line(error)}"
        ) from error
    return b"".join(pieces)


def encoding(name: str, opened: Callable[[], IO[bytes]]) -> str:
    """The encoding of text: by its byte order mark, else UTF-8 if it is, else Windows' Latin-1."""
    with opened() as file:
        start = file.read(4)
    for mark, known in MARKS.items():
        if start.startswith(mark):
            return known
    if _decodes(opened, "utf-8"):
        return "utf-8"
    with opened() as file:
        if any(b"\0" in piece for piece in iter(lambda: file.read(CHUNK), b"")):
            raise not_text(name)
    return "cp1252" if _decodes(opened, "cp1252") else "latin-1"


def recoded(name: str, file: IO[bytes], encoding: str) -> bytes:
    """Text of another encoding in UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)()
    pieces = []
    try:
        while piece := file.read(CHUNK):
            pieces.append(decoder.decode(piece).encode())
        pieces.append(decoder.decode(b"", final=True).encode())
    except UnicodeDecodeError as error:
        raise not_text(name, encoding.upper()) from error
    return b"".join(pieces)


def not_text(name: str, encoding: str = "UTF-8") -> DataError:
    """What to say about bytes that are not text."""
    return DataError(f"{name} is not text in {encoding}; save it as CSV UTF-8")


def _decodes(opened: Callable[[], IO[bytes]], encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened() as file:
        try:
            while piece := file.read(CHUNK):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True
