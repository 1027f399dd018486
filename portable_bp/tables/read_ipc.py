"""Arrow files, also called Feather, and Arrow streams.

A buffer in such a file may be compressed, and says how long it is decompressed: these claims are added
up before Arrow takes the memory. They stand in the head of each message, a FlatBuffers table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from portable_bp.tables.arrow_columns import ArrowColumns, arrow_module
from portable_bp.tables.limits import CELL_BYTES, COLUMN_BYTES, refuse_growth
from portable_bp.tables.table import DataError, Table, first_line

MAGIC, OLD_MAGIC = b"ARROW1", b"FEA1"

DICTIONARY, RECORDS = 2, 3
"""Kinds of messages that hold cells."""


def read_ipc(path: Path) -> Table:
    """The table in an Arrow file (Feather) or stream, without the index that pandas stored.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Table
        Numbers, booleans, decimals, text, categories and dates; other columns cannot be learnt from.
    """
    arrow, ipc = arrow_module("pyarrow"), arrow_module("pyarrow.ipc")
    source = str(path)
    refuse = partial(refuse_growth, source, path.stat().st_size)
    try:
        with arrow.memory_map(source) as file:
            content = file.read_buffer()
            start = content.slice(0, 8).to_pybytes()
            if start.startswith(OLD_MAGIC):
                raise DataError(f"{source} is Feather of version 1; write it again in version 2")
            is_file = start.startswith(MAGIC)
            messages = (
                _messages(ipc, content) if is_file else ipc.MessageReader.open_stream(content)
            )
            taken = 0
            for message in messages:
                taken += _claimed(message)
                refuse(taken)
            with ipc.open_file(content) if is_file else ipc.open_stream(content) as reader:
                refuse(COLUMN_BYTES * len(reader.schema))
                columns = ArrowColumns(source, reader.schema, refuse)
                for batch in _batches(reader) if is_file else reader:
                    batch.validate(full=True)
                    columns.add(batch)
            return columns.table()
    except DataError:
        raise
    except (arrow.ArrowException, OSError, EOFError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"{source} is not a valid Arrow file: {first_line(error)}") from error


def _messages(ipc: Any, content: Any) -> Iterator[Any]:
    """The messages of a file, at the places that its footer names."""
    size = len(content)
    if content.slice(max(size - 6, 0)).to_pybytes() != MAGIC or size < 20:
        raise OSError("it is cut short")
    (length,) = struct.unpack("<i", content.slice(size - 10, 4).to_pybytes())
    if not 0 < length <= size - 20:
        raise OSError("its footer is longer than the file")
    data = content.slice(size - 10 - length, length).to_pybytes()
    footer = _Flat(data, _Flat(data, 0).offset())
    for dictionaries_or_records in (2, 3):
        for offset, head, body in footer.structs(dictionaries_or_records, "<qi4xq"):
            if min(offset, head, body) < 0 or offset + head + body > size:
                raise OSError("its footer names places outside of the file")
            yield ipc.read_message(content.slice(offset, head + body))


def _batches(reader: Any) -> Iterator[Any]:
    return (reader.get_batch(i) for i in range(reader.num_record_batches))


def _claimed(message: Any) -> int:
    """The bytes that the cells of a message take, decompressed."""
    data = message.metadata.to_pybytes()
    head = _Flat(data, _Flat(data, 0).offset())
    kind, records = head.byte(1), head.child(2)
    if kind not in (DICTIONARY, RECORDS) or records is None:
        return 0
    if kind == DICTIONARY:
        records = records.child(1)
        if records is None:
            return 0
    taken = sum(CELL_BYTES * max(rows, 0) for rows, _ in records.structs(1, "<qq"))
    for offset, length in records.structs(2, "<qq"):
        if records.child(3) is not None and length >= 8:
            (claim,) = struct.unpack("<q", message.body.slice(offset, 8).to_pybytes())
            length = claim if claim >= 0 else length
        taken += max(length, 0)
    return taken


class _Flat:
    """A table of FlatBuffers: its fields by number, absent where the writer left them out."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.start = data, start

    def _read(self, form: str, position: int) -> int:
        if position < 0:
            raise struct.error("a field lies outside of its message")
        value: int = struct.unpack_from(form, self.data, position)[0]
        return value

    def offset(self) -> int:
        """Where the first table starts."""
        return self._read("<I", self.start)

    def _field(self, number: int) -> int | None:
        vtable = self.start - self._read("<i", self.start)
        if 4 + 2 * number >= self._read("<H", vtable):
            return None
        offset = self._read("<H", vtable + 4 + 2 * number)
        return self.start + offset if offset else None

    def byte(self, number: int) -> int:
        """A field of one byte."""
        position = self._field(number)
        return 0 if position is None else self._read("<B", position)

    def child(self, number: int) -> _Flat | None:
        """A field that is a table or a vector."""
        position = self._field(number)
        if position is None:
            return None
        return _Flat(self.data, position + self._read("<I", position))

    def structs(self, number: int, form: str) -> list[tuple[int, ...]]:
        """A field that is a vector of structs of integers."""
        vector = self.child(number)
        if vector is None:
            return []
        size = struct.calcsize(form) * self._read("<I", vector.start)
        if vector.start + 4 + size > len(self.data):
            raise struct.error("a vector is longer than its message")
        return [*struct.iter_unpack(form, self.data[vector.start + 4 : vector.start + 4 + size])]
