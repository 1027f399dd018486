"""A small file takes little memory, whatever it claims; the work grows with the cells, not faster."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from itertools import pairwise

import numpy as np
import openpyxl
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from benchmarks import reading
from portable_bp import datasets
from portable_bp.datasets import DataError, load
from portable_bp.tables import arrow_columns, limits, read_parquet


def header(shape, dtype="<f8"):
    stream = io.BytesIO()
    descr = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(stream, descr)
    return stream.getvalue()


def write_npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def repeated(text, n):
    return pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text]))


def zeros(n):
    return pa.table({"x": np.zeros(n, np.int8)})


def views(text, n):
    """Texts that share their bytes."""
    buffer = pa.array([text], pa.string_view()).buffers()
    record = np.tile(np.frombuffer(buffer[1], np.uint8)[:16], n)
    shared = [None, pa.py_buffer(record.tobytes()), buffer[2]]
    return pa.Array.from_buffers(pa.string_view(), n, shared)


SPREADSHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEETS = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def write_sheet(path, rows, strings=""):
    """A workbook of openpyxl with other rows, and other shared text."""
    stream = io.BytesIO()
    book = openpyxl.Workbook()
    book.active["A1"] = "text"
    book.save(stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            content = old.read(member).decode()
            if member.filename == "xl/worksheets/sheet1.xml":
                content = re.sub("<row.*</row>", rows, content)
            if member.filename == "[Content_Types].xml" and strings:
                kind = f"{SHEETS}.sharedStrings+xml"
                part = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
                content = content.replace("</Types>", part)
            new.writestr(member, content)
        if strings:
            new.writestr("xl/sharedStrings.xml", f'<sst xmlns="{SPREADSHEET}">{strings}</sst>')


def write_parquet(path, **options):
    def write(**columns):
        parquet.write_table(pa.table(columns), path, compression="zstd", **options)

    return write


BOMBS = {
    "entries of no bytes.npz": lambda p: write_npz(p, X=header((10**8,), "<U0")),
    "many of them.npz": lambda p: write_npz(
        p, **{f"a{i}": header((4 * 10**6,), "<U0") for i in range(20)}
    ),
    "entries of no bytes.npy": lambda p: p.write_bytes(header((2, 5 * 10**7), "<U0")),
    "columns without rows.npy": lambda p: p.write_bytes(header((0, 3_000_000))),
    "columns without rows.npz": lambda p: write_npz(p, X=header((0, 3_000_000))),
    "rows without columns.npy": lambda p: p.write_bytes(header((3_000_000, 0))),
    "columns of a byte.npy": lambda p: p.write_bytes(header((1, 10**6), "|u1") + bytes(10**6)),
    "zeros.npz": lambda p: write_npz(p, X=header((10**4, 10**3)) + bytes(8 * 10**7)),
    "text of a dictionary.parquet": lambda p: write_parquet(p)(x=repeated("a" * 10**6, 100)),
    "without a schema of Arrow.parquet": lambda p: write_parquet(p, store_schema=False)(
        x=repeated("a" * 10**6, 100)
    ),
    "a huge cell.parquet": lambda p: write_parquet(p)(x=["a" * 7 * 10**7, "b"]),
    "text as differences.parquet": lambda p: write_parquet(
        p, use_dictionary=False, column_encoding={"x": "DELTA_BYTE_ARRAY"}
    )(x=["a" * 10**5 + str(i) for i in range(700)]),
    "runs of numbers.parquet": lambda p: write_parquet(p)(x=np.zeros(10**7, np.int8)),
    "zeros.feather": lambda p: feather.write_feather(zeros(10**7), p, compression="zstd"),
    "zeros.arrow": lambda p: feather.write_feather(zeros(2 * 10**7), p, compression="lz4"),
    "nulls.feather": lambda p: feather.write_feather(pa.table({"x": pa.nulls(10**7)}), p),
    "text of a dictionary.feather": lambda p: feather.write_feather(
        pa.table({"x": repeated("a" * 10**6, 100)}), p, compression="zstd"
    ),
    "text of views.arrow": lambda p: feather.write_feather(
        pa.table({"x": views("a" * 10**6, 100)}), p, compression="zstd"
    ),
    "a key for each row.jsonl": lambda p: p.write_text(
        "".join(f'{{"{i}":1}}\n' for i in range(20_000))
    ),
    "zeros.csv.zst": lambda p: p.write_bytes(
        pa.compress(b"x,y\n" + b"1,2\n" * 3 * 10**7, codec="zstd", asbytes=True)
    ),
    "far apart.xlsx": lambda p: write_sheet(
        p, "".join(f'<row><c r="XFD{i}"><v>1</v></c></row>' for i in range(1, 4001))
    ),
    "a huge cell that is not read.feather": lambda p: feather.write_feather(
        pa.table({"x": [bytes(7 * 10**7)], "y": [1]}), p, compression="zstd"
    ),
    "cells of no place.xlsx": lambda p: write_sheet(
        p, "<row>" + "<c/>" * 16_000 + "</row>" + "<row/>" * 10_000
    ),
    "shared text.xlsx": lambda p: write_sheet(
        p, "<row>" + '<c t="s"><v>0</v></c>' * 100 + "</row>", f"<si><t>{'a' * 10**6}</t></si>"
    ),
    "zeros.xlsx": lambda p: write_sheet(p, "<row><c><v>1</v></c></row>" + " " * 8 * 10**7),
    "nulls.parquet": lambda p: write_parquet(p)(x=pa.nulls(10**7)),
}


MEASURED = """
import sys
from pathlib import Path

import pyarrow.parquet  # what the libraries take is not counted
from portable_bp import datasets

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

before = peak()
for path in sys.argv[1:]:
    try:
        datasets.load(path)
        print("loaded", path)
    except datasets.DataError as error:
        print(error)
print(peak() - before)
"""


def test_bombs_are_refused_before_they_take_memory(tmp_path):
    paths = []
    for name, write in BOMBS.items():
        paths.append(tmp_path / name)
        write(paths[-1])
    harmless = tmp_path / "a list that is not read.parquet"
    entries = pa.array([np.zeros(3 * 10**7, np.int8)], pa.list_(pa.int8()))
    write_parquet(harmless)(parts=entries, y=[1])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, [*paths, harmless])],
        capture_output=True,
        text=True,
        check=True,
    )
    *messages, last, taken = done.stdout.splitlines()
    assert last == f"loaded {harmless}"
    for path, message in zip(paths, messages, strict=True):
        assert str(path) in message
        assert not message.startswith("loaded")
        assert len(message) < 400, "no cell is quoted whole"
    # Twice what any file may take, and the batches of text that are on their way.
    assert int(taken) < 4 * limits.FREE_BYTES


def test_what_a_file_may_take():
    assert limits.allowed(0) == limits.FREE_BYTES
    sizes = [limits.allowed(4**i) for i in range(20)]
    assert all(a <= b for a, b in pairwise(sizes))
    assert limits.allowed(2**40) == limits.GROWTH * 2**40


def test_batches_are_counted_one_by_one(tmp_path, monkeypatch):
    """Cells, not what is stored; and decoding stops at the batch that is too much."""
    monkeypatch.setattr(read_parquet, "MOST_ROWS", 100)
    monkeypatch.setattr(limits, "FREE_BYTES", 50_000)
    monkeypatch.setattr(limits, "SMALL_GROWTH", 1)
    monkeypatch.setattr(limits, "GROWTH", 1)
    write_parquet(tmp_path / "t.parquet")(x=repeated("a" * 100, 5000))
    seen = []
    add = arrow_columns.ArrowColumns.add
    monkeypatch.setattr(
        arrow_columns.ArrowColumns,
        "add",
        lambda self, batch, names: seen.append(len(batch)) or add(self, batch, names),
    )
    with pytest.raises(DataError, match="would take"):
        load(str(tmp_path / "t.parquet"))
    assert seen == [100] * 5  # 108 bytes a cell


def test_text_that_many_rows_share_is_one_object(tmp_path):
    write_parquet(tmp_path / "t.parquet")(x=repeated("a" * 1000, 5000))
    column = load(str(tmp_path / "t.parquet")).column("x")
    assert len({id(cell) for cell in column}) == 1


# ------------------------------------------------------------------------- the work of wide files


def calls(function):
    """How many calls of functions, Python's and C's, an action takes."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def wide(folder, kind, columns):
    path = folder / f"{columns}.{kind}"
    names = [f"gene_{i:06d}" for i in range(columns)]
    matrix = np.arange(3.0 * columns).reshape(3, columns) / 7
    if kind in ("csv", "tsv"):
        separator = "," if kind == "csv" else "\t"
        np.savetxt(path, matrix, delimiter=separator, header=separator.join(names), comments="")
    elif kind == "parquet":
        parquet.write_table(pa.table(dict(zip(names, matrix.T, strict=True))), path)
    elif kind == "npy":
        np.save(path, matrix)
    else:
        np.savez(path, **dict(zip(names, matrix.T, strict=True)))
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "npy", "npz"])
def test_the_steps_grow_with_the_columns(tmp_path, kind):
    def work(columns):
        path = wide(tmp_path, kind, columns)

        def read():
            table = datasets.load(path)
            table.numbers([*table.columns])

        read()  # the first time imports
        return calls(read)

    few, more = work(400), work(800)
    assert more < 2.1 * few


def test_the_benchmark_of_reading():
    """It runs, and its committed record shows that twice the cells take about twice the time."""
    times = reading.measure(reading.QUICK, rounds=1)
    assert {entry["format"] for entry in times["columns"]} == {*reading.READERS}
    record = json.loads(reading.RECORD.read_text())["reading"]
    for axis, entries in record.items():
        for kind in reading.READERS:
            seconds = [e["seconds"] for e in entries if e["format"] == kind]
            assert len(seconds) == len(reading.AXES[axis])
            growth = (seconds[-1] / seconds[0]) ** (1 / (len(seconds) - 1))
            assert growth < 2.8, f"{axis}, {kind}: the square would be 4"
