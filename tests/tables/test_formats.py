"""The same table in every format; encodings, packed text, indexes; and what is wrong, all at once."""

from __future__ import annotations

import datetime
import gzip
import json
import sqlite3
import subprocess
import sys
import zipfile

import numpy as np
import openpyxl
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import feather

from portable_bp.datasets import DataError, load
from portable_bp.tables import read_database, read_parquet

ROWS = [
    (1, 2.5, True, "é", datetime.date(2020, 1, 2)),
    (2, None, None, None, None),
    (3, -4.0, False, "b, c", datetime.date(2021, 2, 3)),
]
NAMES = ["whole", "real", "yes", "text", "day"]
FRAME = pl.DataFrame(ROWS, schema=NAMES, orient="row")


def put(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


def as_lines(frame=FRAME):
    return frame.write_ndjson().encode()


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


def as_workbook(path, rows=(NAMES, *ROWS), corner=(1, 1)):
    book = openpyxl.Workbook()
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            book.active.cell(corner[0] + i, corner[1] + j, cell)
    book.save(path)


def as_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE t (whole INTEGER, real REAL, yes INTEGER, text TEXT, day TEXT)"
        )
        cells = [tuple(str(c) if isinstance(c, datetime.date) else c for c in row) for row in ROWS]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", cells)
    connection.close()


WRITERS = {
    "csv": lambda p: p.write_bytes(FRAME.write_csv().encode()),
    "tsv": lambda p: p.write_bytes(FRAME.write_csv(separator="\t").encode()),
    "csv.gz": lambda p: p.write_bytes(gzip.compress(FRAME.write_csv().encode())),
    "csv.zst": lambda p: p.write_bytes(zstd(FRAME.write_csv().encode())),
    "jsonl": lambda p: p.write_bytes(as_lines()),
    "ndjson": lambda p: p.write_bytes(as_lines()),
    "jsonl.gz": lambda p: p.write_bytes(gzip.compress(as_lines())),
    "jsonl.zst": lambda p: p.write_bytes(zstd(as_lines())),
    "parquet": lambda p: FRAME.write_parquet(p),
    "feather": lambda p: feather.write_feather(FRAME.to_arrow(), p, compression="zstd"),
    "arrow": lambda p: FRAME.write_ipc(p, compression="lz4"),
    "ipc": lambda p: FRAME.write_ipc_stream(p),
    "xlsx": as_workbook,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_table_in_every_format(tmp_path, kind):
    WRITERS[kind](tmp_path / f"t.{kind}")
    table = load(str(tmp_path / f"t.{kind}"))
    assert [*table.columns] == NAMES
    assert table.columns["whole"].tolist() == [1, 2, 3]
    assert table.columns["whole"].dtype == np.int64
    np.testing.assert_array_equal(table.columns["real"], [2.5, np.nan, -4])
    np.testing.assert_array_equal(table.columns["yes"], [1, np.nan, 0])
    assert table.columns["text"].tolist() == ["é", None, "b, c"]
    days = table.columns["day"]
    if days.dtype.kind == "M":
        assert days.astype("M8[D]").astype(str).tolist() == ["2020-01-02", "NaT", "2021-02-03"]
    else:  # the format has no dates: the text of the cells
        assert [cell or "" for cell in table.text("day")] == ["2020-01-02", "", "2021-02-03"]
    with pytest.raises(DataError, match="'day' holds neither numbers nor text"):
        table.column("day")


def test_a_database(tmp_path, monkeypatch):
    as_database(tmp_path / "t.db")
    monkeypatch.chdir(tmp_path)
    for uri in ("sqlite:///t.db", f"sqlite:///{tmp_path / 't.db'}"):
        table = load(uri, query="SELECT * FROM t ORDER BY whole")
        assert table.columns["whole"].tolist() == [1, 2, 3]
        np.testing.assert_array_equal(table.columns["real"], [2.5, np.nan, -4])
        assert table.columns["text"].tolist() == ["é", None, "b, c"]


@pytest.mark.parametrize(
    ("uri", "query", "words"),
    [
        ("sqlite:///t.db", None, "say what to read, as --query"),
        ("sqlite:///t.db", " ", "say what to read"),
        ("sqlite:///t.db", "SELEC", "syntax error"),
        ("sqlite:///t.db", "SELECT * FROM u", "no such table"),
        ("sqlite:///t.db", "DROP TABLE t", "readonly"),
        ("sqlite:///t.db", "SELECT whole AS a, real AS a FROM t", "two columns are called 'a'"),
        ("sqlite:///t.db", "SELECT * FROM t WHERE whole > 9", "has no rows"),
        ("sqlite:///other.db", "SELECT 1", "no such file"),
        ("sqlite:///text.db", "SELECT 1 FROM t", "not a database"),
        ("oracle://me:secret@host/db", "SELECT 1", "oracle://host/db: unknown kind of database"),
        ("snowflake://me:secret@host/db", "SELECT 1", "pip install adbc-driver-snowflake"),
        (
            "sqlite:///t.db",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
            "gives more than 1,000,000 bytes; select less",
        ),
    ],
)
def test_a_database_that_is_wrong(tmp_path, monkeypatch, uri, query, words):
    as_database(tmp_path / "t.db")
    put(tmp_path, "text.db", "x,y\n" * 1000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(read_database, "allowed", lambda stored: 1_000_000)
    with pytest.raises(DataError, match=words) as caught:
        load(uri, query=query)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "other.db").exists()


def test_options_that_mean_nothing_here(tmp_path):
    as_database(tmp_path / "t.db")
    with pytest.raises(DataError, match="query is an option for databases only"):
        load(put(tmp_path, "t.csv", "x,y\n1,2\n"), query="SELECT 1")
    with pytest.raises(DataError, match="header is an option for CSV files and Excel sheets only"):
        load(f"sqlite:///{tmp_path / 't.db'}", True, query="SELECT * FROM t")


# -------------------------------------------------------------------------------------- encodings

TEXT = "x;name\n1;Ångström\n2;größer – 5 €\n"


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("cp1252", "not UTF-8: read as Latin-1"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_encodings(tmp_path, encoding, note, pack):
    table = load(put(tmp_path, "t.csv", pack(TEXT.encode(encoding))))
    assert table.columns["name"].tolist() == ["Ångström", "größer – 5 €"]
    assert note in table.note
    assert ("read as" in table.note) == bool(note)


def test_big_endian_and_bytes_that_windows_lacks(tmp_path):
    content = "\ufeff".encode("utf-16-be") + TEXT.encode("utf-16-be")
    assert load(put(tmp_path, "t.csv", content)).columns["name"][0] == "Ångström"
    table = load(put(tmp_path, "t.csv", "x,name\n1,é\x81\n".encode("latin-1")))
    assert table.columns["name"].tolist() == ["é\x81"]
    assert "read as Latin-1" in table.note


def test_a_character_at_the_end_of_a_chunk(tmp_path, monkeypatch):
    from portable_bp.tables import unpack

    for encoding in ("utf-8", "utf-16", "cp1252"):
        for chunk in (1, 2, 3):
            monkeypatch.setattr(unpack, "CHUNK", chunk)
            table = load(put(tmp_path, "t.csv", TEXT.encode(encoding)))
            assert table.columns["name"][0] == "Ångström"


def test_packed_by_another_name_and_damaged(tmp_path):
    content = zstd(b"x,y\n" + b"1,2\n" * 99)
    assert load(put(tmp_path, "t.csv", content)).rows == 99
    for bad in (b"x,y\n1,2\n", content[:-9], content[:6]):
        with pytest.raises(DataError, match=r"not a valid Zstandard file|is empty"):
            load(put(tmp_path, "t.csv.zst", bad))


# ------------------------------------------------------------------------------------- the index


@pytest.mark.parametrize("index", [None, ["r1", "r2"], [[1, 1], ["a", "b"]]])
def test_an_index_of_pandas_stays_out(tmp_path, index):
    frame = pd.DataFrame({"x": [1.5, 2.5], "kind": ["a", "b"]}, index=index)
    frame.to_csv(tmp_path / "t.csv")
    frame.to_excel(tmp_path / "t.xlsx", merge_cells=False)
    frame.to_feather(tmp_path / "t.feather") if index is None else None
    for path in tmp_path.iterdir():
        table = load(str(path))
        assert [*table.columns] == ["x", "kind"]
        assert table.numbers(["x"]).ravel().tolist() == [1.5, 2.5]
        assert ("index" in table.note) == (path.suffix != ".feather")
    pd.read_csv(tmp_path / "t.csv").to_csv(tmp_path / "again.csv", index=False)
    assert [*load(str(tmp_path / "again.csv")).columns] == ["x", "kind"]


def test_an_index_in_a_feather_file(tmp_path):
    frame = pd.DataFrame({"x": [1.5, 2.5]}, index=pd.Index([7, 8], name="customer"))
    feather.write_feather(pa.Table.from_pandas(frame), tmp_path / "t.feather")
    table = load(str(tmp_path / "t.feather"))
    assert [*table.columns] == ["x"]
    assert "index that pandas stored is left out: 'customer'" in table.note


# -------------------------------------------------------------------------------- cells as they are


@pytest.mark.parametrize("kind", ["parquet", "feather", "jsonl"])
def test_large_whole_numbers_stay_whole_beside_missing_ones(tmp_path, monkeypatch, kind):
    """float64 would make one number of the first two, which come in a batch without missing ones."""
    monkeypatch.setattr(read_parquet, "MOST_ROWS", 2)
    cells = [2**53 + 1, 2**53, None, 5]
    frame = pl.DataFrame({"id": cells})
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_ipc(path) if kind == "feather" else frame.write_ndjson(path)
    assert load(str(path)).columns["id"].tolist() == cells


def test_cells_of_json(tmp_path):
    lines = ['{"a": 1, "mixed": "x", "nested": [1]}', "", '{"b": 2.5, "mixed": 3, "a": null}', "{}"]
    table = load(put(tmp_path, "t.jsonl", "\n".join(lines)))
    assert [*table.columns] == ["a", "mixed", "nested", "b"]
    np.testing.assert_array_equal(table.columns["a"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(table.columns["b"], [np.nan, 2.5, np.nan])
    assert table.columns["mixed"].tolist() == ["x", 3, None]
    assert [table.place(i) for i in range(3)] == ["line 1", "line 3", "line 4"]
    with pytest.raises(DataError, match="'nested' holds neither numbers nor text"):
        table.column("nested")


def test_a_sheet_is_read_as_people_lay_it_out(tmp_path):
    as_workbook(tmp_path / "t.xlsx", [("#", "when"), (1, datetime.datetime(2020, 1, 2, 3))], (5, 3))
    book = openpyxl.load_workbook(tmp_path / "t.xlsx")
    book.create_sheet("notes")["A1"] = 7
    book.save(tmp_path / "t.xlsx")
    table = load(str(tmp_path / "t.xlsx"))
    assert table.columns["#"].tolist() == [1]
    assert table.text("when").tolist() == ["2020-01-02 03:00:00"]
    assert table.place(0) == "row 6 of the sheet"
    assert "the first of 2 sheets, 'Sheet'" in table.note
    assert load(str(tmp_path / "t.xlsx"), header=False).rows == 2


# ------------------------------------------------------------------------------- all that is wrong


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "t.csv",
            "x,y\n1,2\n3\n4,5\n6,7,8\n",
            ["2 problems: line 3: 1 cells, where the first line has 2; line 5: 3 cells"],
        ),
        ("t.csv", "x,y\n" + "1\n1,2\n" * 25, ["25 problems", "line 20", "; and 15 more"]),
        ("t.csv", "a,b,a,b\n1,2,3,4\n", ["several columns have: 'a', 'b'"]),
        (
            "t.jsonl",
            '[1]\n{"a": 1, "a": 2}\n{"a": }\n' + "[" * 100_000 + '\n{"a": 1}\n7',
            ["5 problems", "line 1: [1] is not an object", "line 2: a key stands twice",
             "line 3: not JSON: Expecting value, column 7", "line 4: nested too deeply",
             "line 6: 7 is not"],
        ),
        ("t.jsonl", '{"a": ' + "1" * 5000 + "}\n", ["line 1", "limit"]),
        ("t.jsonl", "\n", ["has no rows"]),
        ("t.feather", "x,y\n1,2\n", ["not a valid Arrow file"]),
        ("t.feather", b"FEA1" + bytes(20), ["Feather of version 1"]),
        ("t.arrow", b"ARROW1\0\0" + bytes(40), ["not a valid Arrow file", "cut short"]),
        ("t.xlsx", "x,y\n1,2\n", ["not a valid .xlsx file"]),
        ("t.csv", b"ARROW1\0\0" + bytes(40), ["an Arrow file", ".arrow"]),
        ("t.csv", b"SQLite format 3\0" + bytes(40), ["a database of SQLite", "sqlite:///"]),
        ("t.zip", b"PK", ["neither 'digits' nor '-'", ".feather", ".xlsx", "sqlite:///FILE"]),
        ("t.parquet.gz", b"PK", ["neither 'digits' nor '-'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_all_at_once(tmp_path, name, content, words):
    path = put(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert path in message
    assert "\n" not in message
    assert len(message) < 1500
    for word in words:
        assert word in message, message


def test_bad_cells_of_all_columns_are_said_at_once(tmp_path):
    cells = [("?" if i % 7 == 3 else i, "" if i == 5 else i) for i in range(40)]
    rows = "".join(f"{i},{b},{c},2020-01-0{1 + i % 8}\n" for i, (b, c) in enumerate(cells))
    path = put(tmp_path, "t.csv", "a,b,c,d\n" + rows)
    with pytest.raises(DataError) as caught:
        load(path).numbers(["a", "b", "c", "d"])
    message = str(caught.value).replace(path, "t.csv")
    assert message.startswith("t.csv, 8 problems: line 5: '?' in column 'b' is not a number")
    assert "; line 7: column 'c' has a missing value" in message
    assert "; column 'd' holds neither numbers nor text" in message
    assert message.endswith("; line 33: '?' in column 'b'; line 40: '?' in column 'b'")
    many = put(tmp_path, "many.csv", "b\n1\n" + "x\n" * 50)
    with pytest.raises(
        DataError, match=r"50 problems: line 3: .* line 12: 'x' in column 'b'; and 40"
    ):
        load(many).numbers(["b"])


def test_lines_are_looked_up_in_one_pass(tmp_path, monkeypatch):
    """Ten places cost one reading of the file, not ten."""
    from portable_bp.tables.text_file import TextFile

    table = load(put(tmp_path, "t.csv", "x,y\n" + '1,"a\nb"\n' * 20))
    passes = []
    records = TextFile.records
    monkeypatch.setattr(TextFile, "records", lambda *a: passes.append(1) or records(*a))
    assert [table.place(row) for row in (0, 1, 19)] == ["line 2", "line 4", "line 40"]
    assert len(passes) == 1


def test_entities_in_a_workbook_are_not_expanded(tmp_path):
    as_workbook(tmp_path / "t.xlsx")
    bad = tmp_path / "bad.xlsx"
    with zipfile.ZipFile(tmp_path / "t.xlsx") as old, zipfile.ZipFile(bad, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename == "xl/workbook.xml":
                content = b'<!DOCTYPE w [<!ENTITY a "aa">]>' + content
            new.writestr(member, content)
    with pytest.raises(DataError, match="document type of its own"):
        load(str(bad))


def is_refused(path):
    try:
        load(path)
    except DataError as error:
        return "\n" not in str(error)
    return False


@pytest.mark.parametrize("kind", ["feather", "arrow", "ipc", "xlsx"])
def test_damaged_files_are_refused_or_read(tmp_path, kind):
    WRITERS[kind](tmp_path / f"t.{kind}")
    content = (tmp_path / f"t.{kind}").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(content)
        for place in random.integers(len(content), size=3):
            changed[place] = random.integers(256)
        cut = len(changed) if random.random() < 0.8 else int(random.integers(1, len(changed)))
        refused += is_refused(put(tmp_path, f"bad.{kind}", bytes(changed[:cut])))
    assert refused > 10


def test_without_the_library_the_extra_is_named(tmp_path):
    as_workbook(tmp_path / "t.xlsx")
    code = (
        "import sys\n"
        "sys.modules['openpyxl'] = None\n"
        "from portable_bp.datasets import DataError, load\n"
        "try:\n"
        "    load(sys.argv[1])\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.xlsx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'portable-bp[excel]'" in done.stdout


def test_json_lines_of_pandas(tmp_path):
    pd.DataFrame({"x": [1, 2]}, index=["a", "b"]).to_json(
        tmp_path / "t.jsonl", orient="records", lines=True
    )
    assert load(str(tmp_path / "t.jsonl")).columns["x"].tolist() == [1, 2]
    assert json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0]) == {"x": 1}
