"""What files of each kind become, and that anything wrong with one ends in a line that says where."""

from __future__ import annotations

import io
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

from portable_bp import tabular
from portable_bp.datasets import DataError, load
from portable_bp.tables import limits


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def numbers(source):
    table = load(source)
    return table.numbers([*table.columns])


def refused(source, *words):
    """The message of the error: one line that names the source and has all the words."""
    with pytest.raises(DataError) as caught:
        numbers(source)
    message = str(caught.value)
    assert source in message
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# ------------------------------------------------------------------------------------------ CSV


@pytest.mark.parametrize(
    "text",
    [
        "a,b,kind\n1,2.5,cat\n2,3.5,dog\n",
        "\ufeffa,b,kind\r\n1,2.5,cat\r\n2,3.5,dog\r\n",
        "a;b;kind\n1;2.5;cat\n2;3.5;dog",
        "a\tb\tkind\n1\t2.5\tcat\n2\t3.5\tdog\n",
        "\n\na,b,kind\n\n1,2.5,cat\n\n2,3.5,dog\n\n",
        '"a","b","kind"\n1,2.5,"cat"\n2,3.5,"dog"\n',
        " a , b,kind\n1,2.5,cat\n2,3.5,dog\n",
    ],
    ids=["plain", "BOM and CRLF", "semicolons", "tabs", "blank lines", "quotes", "blanks in names"],
)
def test_csv(tmp_path, text):
    table = load(write(tmp_path, "t.csv", text))
    assert table.rows == 2
    assert table.numbers(["a", "b"]).tolist() == [[1, 2.5], [2, 3.5]]
    assert table.column("kind").tolist() == ["cat", "dog"]
    assert [*table.columns] == ["a", "b", "kind"]


def test_csv_with_line_breaks_and_separators_in_quotes(tmp_path):
    text = 'a,"the\nkind"\n1,"cat,\nblack"\n2,dog\n'
    table = load(write(tmp_path, "t.csv", text))
    assert table.column("the\nkind").tolist() == ["cat,\nblack", "dog"]
    assert table.place(1) == "line 5"


def test_csv_without_a_header_numbers_its_columns(tmp_path):
    table = load(write(tmp_path, "t.csv", "1,2\n3,4\n5,-6e1\n"))
    assert table.numbers(["0", "1"]).tolist() == [[1, 2], [3, 4], [5, -60]]
    assert "no header" in table.note


def test_types_follow_from_all_rows_of_a_csv(tmp_path):
    """A word in the last of many rows makes a text column; Arrow alone would look at the first block."""
    text = "a,b\n" + "1,1\n" * 300_000 + "1,end\n"
    refused(write(tmp_path, "t.csv", text), "line 300002", "'end'", "'b'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty"]),
        ("\n \n", ["empty"]),
        ("\ufeff", ["empty"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n1,2\n3\n", ["line 3", "1 cells", "2"]),
        ("a,b\n\n1,2\n1,2,3\n", ["line 4", "3 cells"]),
        ("a,b\n1,2\n3,x\n", ["line 3", "'x'", "'b'", "not a number"]),
        ("a,b\n1,2\n\n3,\n", ["line 4", "'b'", "missing"]),
        ("a,b\n1,2\n3,NaN\n", ["line 3", "'b'", "missing"]),
        ("a,b\n1,2\n3,inf\n", ["line 3", "'b'", "infinite"]),
        ("a,b\nyes,2\n,3\n", ["line 3", "'a'", "missing"]),
        ("a,b\ntrue,2\n,3\n", ["line 3", "'a'", "missing"]),
        ("a,b\n2020-01-02,2\n2020-01-03,3\n", ["'a'", "neither numbers nor text"]),
        ("a,,b,\n0,1,2,3\n", ["2 problems", "column 2 has no name", "column 4 has no name"]),
        ("a,a\n0,1\n1,2\n", ["two columns", "'a'"]),
        (b"a,b\n1,\xff\xfe\n", ["line 2", "'\u00ff\u00fe'", "not a number"]),
        (b"\xff\xfea\x00,\x00b\x00\n\x00", ["no rows"]),
        (b"\xff\xfea\x00,\x00b\x00\n", ["not text in UTF-16"]),
        (b"\xff\x00\x10\xfe,2\n", ["not text in UTF-8"]),
        (b"a,b\x00c\n1,2\n", ["UTF-8"]),
        ('a,b\n1,"2\n3,4\n', ["line 2", "not a number"]),
        ("a,b\n" + "1" * 400_000 + "x,2\n", ["row 0", "not a number"]),
    ],
    ids=[
        "empty", "blank", "only a BOM", "only a header", "short row", "long row", "text cell",
        "empty cell", "NaN", "infinity", "empty text", "empty yes or no", "dates", "no names",
        "same name twice", "Latin-1", "UTF-16", "half a character", "bytes", "binary", "open quote",
        "huge cell",
    ],
)  # fmt: skip
def test_a_csv_that_is_wrong_says_where(tmp_path, content, words):
    refused(write(tmp_path, "t.csv", content), *words)


# -------------------------------------------------------------------------------------- Parquet


def parquet(folder, **columns):
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "t.parquet"
    parquet.write_table(pa.table(columns), path)
    return str(path)


def test_parquet(tmp_path):
    import decimal

    import pyarrow as pa

    path = parquet(
        tmp_path,
        i=pa.array([1, 2], pa.int8()),
        f=pa.array([0.5, 1.5], pa.float32()),
        yes=[True, False],
        money=[decimal.Decimal("1.25"), decimal.Decimal("2.50")],
        kind=["cat", "dog"],
        category=pa.array(["x", "y"]).dictionary_encode(),
        when=pa.array([0, 1], pa.timestamp("s")),
        parts=[[1], [2, 3]],
        __index_level_0__=[7, 8],
    )
    table = load(path)
    numbers = table.numbers(["i", "f", "yes", "money"])
    assert numbers.tolist() == [[1, 0.5, 1, 1.25], [2, 1.5, 0, 2.5]]
    assert table.column("kind").tolist() == ["cat", "dog"]
    assert table.column("category").tolist() == ["x", "y"]
    assert "__index_level_0__" not in table.columns
    for name in ("when", "parts"):
        with pytest.raises(DataError, match=f"'{name}' holds neither numbers nor text"):
            table.column(name)


TEXT_KINDS = ["string", "large_string", "string_view"]


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("kind", [*TEXT_KINDS, *(f"dictionary of {k}" for k in TEXT_KINDS[:2])])
def test_every_kind_of_text_in_arrow(tmp_path, kind, store_schema):
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.array(["a", "b", None] * 20).cast(getattr(pa, kind.split()[-1])())
    if kind.startswith("dictionary"):
        values = values.dictionary_encode()
    table = pa.table({"x": [*range(60)], "y": values})
    parquet.write_table(table, tmp_path / "t.parquet", store_schema=store_schema, row_group_size=7)
    assert load(str(tmp_path / "t.parquet")).columns["y"].tolist() == ["a", "b", None] * 20


def test_text_stored_as_differences_and_in_many_groups(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    cells = [f"customer {i}" if i % 3 else None for i in range(500)]
    parquet.write_table(
        pa.table({"a.b": cells, "a": [*range(500)]}), tmp_path / "t.parquet", row_group_size=11,
        use_dictionary=False, column_encoding={"a.b": "DELTA_BYTE_ARRAY", "a": "PLAIN"},
    )  # fmt: skip
    table = load(str(tmp_path / "t.parquet"))
    assert table.columns["a.b"].tolist() == cells
    assert table.numbers(["a"]).ravel().tolist() == [*range(500)]


def test_categories_of_numbers(tmp_path):
    import pyarrow as pa

    codes = pa.array([3, 1, 3], pa.int64()).dictionary_encode()
    assert load(parquet(tmp_path, a=codes)).column("a").tolist() == [3, 1, 3]


def test_long_decimals_stay_different_labels(tmp_path):
    from decimal import Decimal

    ids = [Decimal("12345678901234567890"), Decimal("12345678901234567891")]
    table = load(parquet(tmp_path, x=[*range(60)], y=ids * 30))
    classes = tabular.prepare(table, "y", "classification").preparation.classes
    assert classes == ("12345678901234567890", "12345678901234567891")
    table = load(parquet(tmp_path, x=[*range(60)], y=[Decimal("0.00"), Decimal("1.00")] * 30))
    assert tabular.prepare(table, "y").preparation.classes == (0, 1)


def indexes():
    ids = np.arange(60) * 7
    return {
        "no name": pd.Index(ids),
        "range": None,
        "range with a name": pd.RangeIndex(60, name="row"),
        "a name": pd.Index(ids, name="customer_id"),
        "text": pd.Index([f"c{i}" for i in ids], name="customer"),
        "dates": pd.date_range("2024", periods=60, name="day"),
        "two levels": pd.MultiIndex.from_arrays([ids, ids % 2], names=["a", None]),
    }


@pytest.mark.parametrize("name", indexes())
def test_an_index_that_pandas_stored_is_not_learnt_from(tmp_path, name):
    import pyarrow.parquet as pq

    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60) % 2}, index=indexes()[name])
    for stored in (None, True, False):
        frame.to_parquet(tmp_path / "t.parquet", index=stored)
        table = load(str(tmp_path / "t.parquet"))
        assert tabular.prepare(table, "y").preparation.features == ("x",)
        assert ("index" in table.note) == (
            len(pq.read_schema(tmp_path / "t.parquet").names) > 2  # it was stored as a column
        )


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"[",
        b"[" * 100_000,
        b"7",
        b'{"index_columns": 7}',
        b'{"index_columns": [["y"]]}',
        b"\xff",
    ],
)
def test_hostile_metadata_of_pandas(tmp_path, metadata):
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"x": [1, 2], "y": [0, 1]}).replace_schema_metadata({b"pandas": metadata})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert [*load(str(tmp_path / "t.parquet")).columns] == ["x", "y"]


@pytest.mark.parametrize(
    "values", [[1, None], [0.5, None], [True, None], ["a", None], [None, None]], ids=str
)
def test_nulls_of_parquet_are_missing_values(tmp_path, values):
    refused(parquet(tmp_path, a=[1, 2], b=values), "'b'", "missing")


def test_a_footer_that_promises_other_rows(tmp_path):
    """Thrift writes 1,000 rows of the file, and of its one row group, as the bytes d0 0f."""
    path = parquet(tmp_path, a=[*range(1000)])
    content = (tmp_path / "t.parquet").read_bytes()
    place = content.index(b"\xd0\x0f", len(content) // 2)
    changed = content[:place] + b"\xd2\x0f" + content[place + 2 :]
    refused(write(tmp_path, "t.parquet", changed), "Parquet")
    assert path


def test_damaged_parquet(tmp_path):
    path = parquet(tmp_path, a=[*range(1000)])
    content = (tmp_path / "t.parquet").read_bytes()
    refused(write(tmp_path, "half.parquet", content[: len(content) // 2]), "Parquet")
    refused(write(tmp_path, "text.parquet", "a,b\n1,2\n"), "Parquet")
    assert load(path).rows == 1000


# ---------------------------------------------------------------------------------- .npy, .npz


def npy(folder, array, name="t.npy", **options):
    path = folder / name
    np.save(path, array, **options)
    return str(path)


@pytest.mark.parametrize("dtype", ["f8", ">f4", "f2", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, order):
    array = np.asarray([[0, 1, 1], [1, 0, 1]], dtype=dtype, order=order)
    table = load(npy(tmp_path, array))
    assert table.numbers(["0", "1", "2"]).tolist() == [[0, 1, 1], [1, 0, 1]]
    assert table.default_target == "2"
    assert table.same_unit == (dtype == "u1")


def header(shape, dtype="<f8"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header((2, 3)) + bytes(40), ["cut short", "48"]),
        (header((2, 3)) + bytes(56), ["48", "56"]),
        (header((2**40, 2)) + bytes(64), ["cut short"]),
        (header((2**62, 2**62)) + bytes(64), ["cut short"]),
        (header((-1, 2)) + bytes(64), ["cut short"]),
        (header((0, 2)), ["no rows"]),
        (header((4,)) + bytes(32), ["(4,)", "(rows, columns)"]),
        (header((2, 1, 2)) + bytes(32), ["(2, 1, 2)"]),
        (header((1, 2), "<c16") + bytes(32), ["complex128"]),
        (header((1, 2), "<M8[s]") + bytes(16), ["datetime64"]),
        (header((1, 2), [("a", "<f8")]) + bytes(16), ["'a'"]),
        (b"\x93NUMPY\x01\x00\x05\x00((((\n", ["valid .npy"]),
        (b"\x93NUMPY\x01\x00\x10\x27" + b"[" * 9999 + b"\n", ["valid .npy"]),
        (b"\x93NUMPY\x09\x00\x05\x00{}   ", ["valid .npy"]),
        (b"a,b\n1,2\n", ["valid .npy"]),
        (b"", ["empty"]),
    ],
    ids=[
        "short", "long", "2^41 entries", "more than fits in 64 bits", "negative", "no rows", "1-D",
        "3-D", "complex", "dates", "structured", "header", "nested header", "version", "text",
        "empty",
    ],
)  # fmt: skip
def test_a_npy_that_is_wrong(tmp_path, content, words):
    refused(write(tmp_path, "t.npy", content), *words)


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a file was run')",))


def test_objects_are_never_unpickled(tmp_path):
    array = np.asarray([[Exploit()]], dtype=object)
    refused(npy(tmp_path, array, allow_pickle=True), "Python objects")
    np.savez(tmp_path / "t.npz", X=array)
    refused(str(tmp_path / "t.npz"), "Python objects", "'X'")
    refused(write(tmp_path, "p.npy", pickle.dumps(Exploit())), "valid .npy")


def npz(folder, **arrays):
    np.savez_compressed(folder / "t.npz", **arrays)
    return str(folder / "t.npz")


def test_npz_of_features_and_target(tmp_path):
    X, y = np.arange(6).reshape(3, 2), np.asarray(["b", "a", "b"])
    for target in (y, y[:, None]):
        table = load(npz(tmp_path, X=X, y=target, ids=np.zeros(5)))
        assert table.numbers(["0", "1"]).tolist() == X.tolist()
        assert table.column("y").tolist() == ["b", "a", "b"]
        assert table.default_target == "y"
        assert "'ids'" in table.note
    assert load(npz(tmp_path, X=X)).default_target is None


def test_npz_of_columns(tmp_path):
    table = load(npz(tmp_path, age=np.asarray([1, 2]), size=np.asarray([0.5, 1.5])))
    assert table.numbers(["size", "age"]).tolist() == [[0.5, 1], [1.5, 2]]


def test_text_in_npz_may_be_numbers_that_are_finite(tmp_path):
    table = load(npz(tmp_path, a=np.asarray(["1.5", " -2e3 ", ".5", "7."])))
    assert table.numbers(["a"]).ravel().tolist() == [1.5, -2000, 0.5, 7]
    for cell in ("1e999", "0x10", "1_0", "1,5", "nan", "inf", "1" * 100_000 + "x", "١"):
        refused(npz(tmp_path, a=np.asarray(["1", cell])), "row 1", "'a'")


def test_long_doubles_beyond_float64(tmp_path):
    table = load(npy(tmp_path, np.asarray([[np.longdouble("1e400"), 1]])))
    with pytest.raises(DataError, match="'0' has an infinite value"):
        table.numbers(["0"])


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"X": np.zeros((3, 2)), "y": np.zeros(4)},
        {"X": np.zeros((3, 2)), "y": np.zeros((3, 2))},
        {"a": np.zeros(3), "b": np.zeros(4)},
        {"a": np.zeros((3, 1))},
        {"X": np.zeros((3, 2, 2))},
    ],
)
def test_npz_of_other_shapes(tmp_path, arrays):
    refused(npz(tmp_path, **arrays), "one array for each column")


def test_npz_bomb(tmp_path, monkeypatch):
    path = npz(tmp_path, X=np.zeros((2000, 2000)))
    assert load(path).rows == 2000
    monkeypatch.setattr(limits, "FREE_BYTES", 2**20)
    refused(path, "32,000,", "store it uncompressed")


def test_npz_whose_header_promises_more_than_is_there(tmp_path):
    """NumPy itself would take the memory first and read then."""
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", header((2**40, 2)) + bytes(64))
    refused(str(path), "cut short", "'X'")


def test_every_damage_of_a_npz_is_noticed(tmp_path):
    X = np.arange(8.0).reshape(4, 2)
    npz(tmp_path, X=X)
    content = (tmp_path / "t.npz").read_bytes()
    for size in range(1, len(content)):
        refused(write(tmp_path, "cut.npz", content[:size]))
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        # What changes nothing: a date, a flag that is not read, the name of the array.
        with suppress(DataError):
            assert numbers(write(tmp_path, "flip.npz", bytes(flipped))).tolist() == X.tolist()


# -------------------------------------------------------------------------------- names of files


@pytest.mark.parametrize(
    "source",
    [
        "../x",
        "-rf",
        "a\0b.csv",
        "a\0b",
        "",
        "con",
        "/etc/passwd",
        "no-such.csv",
        "x" * 5000 + ".csv",
    ],
)
def test_names_of_nothing(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(source)


def test_directories_are_not_tables(tmp_path):
    (tmp_path / "d.csv").mkdir()
    refused(str(tmp_path / "d.csv"), "not a file")


def test_digits():
    from sklearn.datasets import load_digits

    table, theirs = load("digits"), load_digits()
    np.testing.assert_array_equal(numbers("digits"), np.c_[theirs.data, theirs.target])
    assert [*table.columns] == [*theirs.feature_names, "digit"]
    assert table.rows == 1797
    assert table.default_target == "digit"
    assert table.numbers([n for n in table.columns if n != "digit"]).max() == 16


def test_columns_that_are_not_there():
    table = load("digits")
    with pytest.raises(DataError, match=r"no column 'price'; it has 'pixel_0_0', .* and 57 more"):
        table.column("price")
    with pytest.raises(DataError, match="lacks 2 of the 3 columns needed: 'a', 'b'"):
        table.numbers(["digit", "a", "b"])
