"""CSV as people write it: labels, quantities, headers, dialects, compression, standard input."""

from __future__ import annotations

import gzip
import io
import sys
import unicodedata

import numpy as np
import pytest

from portable_bp import tabular
from portable_bp.datasets import DataError, load
from portable_bp.tables import csv_dialect, limits

N = 60


def csv(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def rows(line, n=N):
    return "".join(f"{line(i)}\n" for i in range(n))


def number(i):
    return f"{i * 7919 % 1000 / 1000:.3f}"


def classes(path, target="y", task=None):
    return tabular.prepare(load(path), target, task).preparation.classes


# ---------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["007", "07", "0100"], ("007", "0100", "07")),
        (['"007"', '"07"'], ("007", "07")),
        (["1E5", "10E4"], ("10E4", "1E5")),
        (
            ["12345678901234567890", "12345678901234567891"],
            ("12345678901234567890", "12345678901234567891"),
        ),
        (["9007199254740993", "9007199254740992"], (2**53, 2**53 + 1)),
        (["+3", "3"], ("+3", "3")),
        (["0x10", "16"], ("0x10", "16")),
        (["1_000", "1000"], ("1000", "1_000")),
        (["3.0", "3"], ("3", "3.0")),
        (["0.10", "0.1"], ("0.1", "0.10")),
        (["-0", "0"], ("-0", "0")),
        (["١", "1"], ("1", "١")),
        (["inf", "1"], ("1", "inf")),
        (["True", "true", "TRUE"], ("TRUE", "True", "true")),
        (["true", "false"], ("false", "true")),
        (["True", "False"], (False, True)),
        (["1", "2", "10"], (1, 2, 10)),
        (["-1", "1"], (-1, 1)),
        (["0.5", "1.5"], (0.5, 1.5)),
        (["yes", " yes", "no", "no "], ("no", "yes")),
        (["None", "some"], ("None", "some")),
    ],
    ids=str,
)
def test_the_label_that_comes_out_is_the_text_that_went_in(tmp_path, cells, labels):
    path = csv(tmp_path, "x,y\n" + rows(lambda i: f"{i},{cells[i % len(cells)]}"))
    ready = tabular.prepare(load(path), "y", "classification")
    assert ready.preparation.classes == labels
    assert [type(label) for label in ready.preparation.classes] == [type(label) for label in labels]
    codes = ready.preparation.labels(ready.y.astype(int))
    assert [str(label) for label in codes[: len(cells)]] == [cell.strip(' "') for cell in cells]


def test_the_text_of_a_feature_does_not_matter(tmp_path):
    table = load(csv(tmp_path, "x,y\n+03.50,1\n 1E1 ,2\n"))
    assert table.numbers(["x"]).ravel().tolist() == [3.5, 10]
    assert table.text("x").tolist() == ["+03.50", "1E1"]


# ------------------------------------------------------------------------------------ quantities


@pytest.mark.parametrize(
    ("cell", "line", "count", "words"),
    [
        (lambda i: "?" if i == 17 else f"{i % 25 * 1.5}", 19, 59, []),
        (lambda i: "-" if i == 17 else f"{i % 25 * 1.5}", 19, 59, []),
        (lambda i: "?" if i == 17 else f"{i % 2}", 19, 59, []),
        (lambda i: "n.d." if i % 10 else f"{i * 1.5}", 3, 6, []),
        (lambda i: f"{i % 30},{i % 10}", 2, 0, ["decimal comma"]),
        (lambda i: f"{i % 40}%", 2, 0, ["percent"]),
        (lambda i: f"${i % 40}.50", 2, 0, ["currenc"]),
        (lambda i: f"{i % 40},50 €", 2, 0, ["currenc"]),
        (lambda i: f"1 {i % 40:03d}", 2, 0, ["thousands"]),
        (lambda i: f"1.{i % 40:03d},25", 2, 0, ["thousands"]),
        (lambda i: f"{i % 40 + 0.5} kg", 2, 0, ["unit"]),
        (lambda i: f"({i % 40}.5)", 2, 0, ["signs"]),
        (lambda i: "<0.1" if i == 17 else f"{i % 25 * 1.5}", 19, 59, ["signs"]),
    ],
)
def test_a_quantity_with_cells_that_are_not_numbers_is_not_learnt_as_classes(
    tmp_path, cell, line, count, words
):
    path = csv(tmp_path, "x;y\n" + rows(lambda i: f"{i};{cell(i)}"))
    table = load(path)
    for task in (None, "regression"):
        with pytest.raises(DataError) as caught:
            tabular.prepare(table, "y", task)
        for word in (f"line {line}", "'y'", f"{count} of 60 cells are", *words):
            assert word in str(caught.value)
    assert len(tabular.prepare(table, "y", "classification").preparation.classes) > 1


@pytest.mark.parametrize(
    "cells", [["0", "1", "2", "3+"], ["1st", "2nd"], ["10%", "20%"], ["a", "7"]]
)
def test_few_codes_are_classes(tmp_path, cells):
    path = csv(tmp_path, "x;y\n" + rows(lambda i: f"{i};{cells[i % len(cells)]}"))
    assert set(classes(path)) == set(cells)


def test_numbers_stored_as_text(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.eye(60), y=np.asarray([f"{i * 1.5}" for i in range(60)]))
    with pytest.raises(DataError, match="'y' has numbers that are stored as text"):
        tabular.prepare(load(str(tmp_path / "t.npz")))


@pytest.mark.parametrize("cells", [["2020-01-02"], ["2020-01-02 10:30"], ["02.01.2020"], ["10:30"]])
def test_dates_are_neither_numbers_nor_text(tmp_path, cells):
    path = csv(tmp_path, "x,y\n" + rows(lambda i: f"{i},{cells[0]}"))
    with pytest.raises(DataError, match="'y' holds neither numbers nor text"):
        classes(path)


@pytest.mark.parametrize("word", ["NA", "", "NaN", "null", "N/A", "<NA>", "#N/A"])
@pytest.mark.parametrize("others", [["yes", "no"], ["true", "false"], ["1", "2"], ["0.5", "1e3"]])
def test_missing_values_are_missing_in_every_kind_of_column(tmp_path, word, others):
    cells = [*others, word]
    path = csv(tmp_path, "x,y\n" + rows(lambda i: f"{i},{cells[i % 3]}"))
    with pytest.raises(DataError, match=r"line 4: column 'y' has a missing value .*, 20 in all"):
        classes(path)


# ---------------------------------------------------------------------------------------- header


def four(i):
    return f"{number(i)},{number(i + 1)},{number(i + 2)},{i % 2}"


@pytest.mark.parametrize(
    ("first", "line", "header"),
    [
        ("a,b,c,d", four, True),
        ("0,1,2,3", four, True),
        ("1,2,3,4", four, True),
        ('"5","7","2","9"', four, True),
        ("0.1,0.2,0.7,1", four, False),
        ("0.1,NaN,0.7,1", four, False),
        ("0.1,,0.7,1", four, False),
        ("0.1,up", lambda i: f"{number(i)},{['up', 'down'][i % 2]}", False),
        ("p,x", lambda i: f"{'pe'[i % 2]},{'xbf'[i % 3]}", False),
        ("class,cap", lambda i: f"{'pe'[i % 2]},{'xbf'[i % 3]}", True),
        (
            "true,false",
            lambda i: f"{['true', 'false'][i % 2]},{['true', 'false'][i % 3 % 2]}",
            False,
        ),
        ("0,1", lambda i: f"{i % 2},{i // 2 % 2}", False),
        ("0,1", lambda i: f"n{i},m{i}", True),
        ("1990,1991,1992,1993", four, None),
        ("400.5,401.0,401.5,402.0", four, None),
        ("land,1990,1991,1992", lambda i: f"l{i},{number(i)},{number(i)},{number(i)}", None),
        ("5,7,2", lambda i: f"{number(i)},{number(i)},{number(i)}", None),
        ("x1,x2,7", lambda i: f"{number(i)},{number(i)},{number(i)}", None),
        ("p,cap", lambda i: f"{'pe'[i % 2]},{'xbf'[i % 3]}", None),
    ],
)
def test_the_header_is_guessed_or_asked_for(tmp_path, first, line, header):
    path = csv(tmp_path, f"{first}\n" + rows(line))
    cells = [cell.strip('"') for cell in first.split(",")]
    if header is None:
        with pytest.raises(DataError, match=r"line 1: cannot tell .* --header or --no-header"):
            load(path)
    else:
        table = load(path)
        assert table.rows == N + (not header)
        assert [*table.columns] == (cells if header else [str(i) for i in range(len(cells))])
        assert ("no header" in table.note) != header
    if "" not in cells:
        assert [*load(path, header=True).columns] == cells
        assert load(path, header=True).rows == N
    assert [*load(path, header=False).columns] == [str(i) for i in range(len(cells))]
    assert load(path, header=False).rows == N + 1


def test_a_header_that_is_numbers_is_told(tmp_path):
    assert "header" in load(csv(tmp_path, "0,1,2,3\n" + rows(four))).note


def test_header_is_for_csv_alone(tmp_path):
    np.save(tmp_path / "t.npy", np.eye(3))
    for source in ("digits", str(tmp_path / "t.npy")):
        with pytest.raises(
            DataError, match="header is an option for CSV files and Excel sheets only"
        ):
            load(source, header=True)


# -------------------------------------------------------------------------------------- dialects

XY = rows(lambda i: f"{i},{i % 2}")
SEMICOLONS = rows(lambda i: f"{i};{i % 2}")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('"Preis\n(EUR)";x;y\n' + rows(lambda i: f"{i};{i};{i % 2}"), ["Preis\n(EUR)", "x", "y"]),
        ('"a\r\nb",y\r\n' + XY.replace("\n", "\r\n"), ["a\r\nb", "y"]),
        ("a (m, kg, s);y\n" + SEMICOLONS, ["a (m, kg, s)", "y"]),
        ("sep=;\nx;y\n" + SEMICOLONS, ["x", "y"]),
        ("\ufeffsep=,\r\nx,y\r\n" + XY.replace("\n", "\r\n"), ["x", "y"]),
        ('"sep=;"\nx;y\n' + SEMICOLONS, ["x", "y"]),
        ("# by a tool\nx,y\n" + XY, ["x", "y"]),
        ("# by a, tool\n#\nx,y\n" + XY, ["x", "y"]),
        ("# x,y\n" + XY, ["x", "y"]),
        ("x,y\n" + XY.replace("\n", "\n\n"), ["x", "y"]),
        ("x,y,\n" + XY.replace("\n", ",\n"), ["x", "y"]),
        ("x;y;;;\n" + SEMICOLONS.replace("\n", ";;;\n"), ["x", "y"]),
        (("x,y\n" + XY).replace("\n", "\r"), ["x", "y"]),
        ('\ufeff"x","y"\n' + XY, ["x", "y"]),
        ("x|y\n" + SEMICOLONS.replace(";", "|"), ["x", "y"]),
        ("x;y\n" + rows(lambda i: f'"{i}";"{i % 2}"'), ["x", "y"]),
        ("x, y\n" + XY.replace(",", ", "), ["x", "y"]),
        ('x,"a ""q""",y\n' + rows(lambda i: f"{i},{i},{i % 2}"), ["x", 'a "q"', "y"]),
        ("x;t;y\n" + rows(lambda i: f"{i};{i * 2};{i % 2}"), ["x", "t", "y"]),
    ],
)
def test_csv_as_others_write_it(tmp_path, text, columns):
    table = load(csv(tmp_path, text))
    assert [*table.columns] == columns
    assert table.rows == N
    assert classes(csv(tmp_path, text)) == (0, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n" + XY + "# end\n", ["line 62", "comments"]),
        ("x,y\n" + XY.replace("\n", ",\n"), ["line 2", "3 cells", "a separator ends the line"]),
        ("x,y,\n" + XY, ["line 2", "a separator ends the first line"]),
        ("x,y\n" + XY + "   \n", ["line 62", "blanks only"]),
        ("A title\nx,y\n" + XY, ["line 2", "title"]),
        ('x, "y"\n' + XY, ["line 1", "blank before the quoted cell"]),
        ("x,y\n" + XY + "7,1,5\n", ["line 62", "3 cells"]),
        ("x,y\n" + XY + '"a\nb",1\n7\n', ["line 64", "1 cells"]),
        (b"PK\x03\x04" + bytes(9), ["zip archive"]),
        (b"PAR1" + bytes(9), ["Parquet"]),
        ("# only\n# comments\n", ["empty but for comments"]),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path, text, words):
    path = csv(tmp_path, text)
    with pytest.raises(DataError) as caught:
        load(path)
    for word in words:
        assert word in str(caught.value)


def test_names_that_look_the_same_are_the_same(tmp_path):
    composed = "y\u00e9"
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, composed)
        path = csv(tmp_path, f"x,{name}\n" + XY)
        for asked in ("NFC", "NFD"):
            ready = tabular.prepare(load(path), unicodedata.normalize(asked, composed))
            assert ready.preparation.target == composed
    with pytest.raises(DataError, match="did you mean 'y\u00e9'"):
        tabular.prepare(load(path), composed + "s")


# ------------------------------------------------------------------------ gzip and standard input


def test_gzip(tmp_path):
    expected = load(csv(tmp_path, "x,y\n" + XY)).numbers(["x", "y"])
    for name in ("t.csv.gz", "T.CSV.GZ", "packed.csv"):
        table = load(csv(tmp_path, gzip.compress(f"x,y\n{XY}".encode()), name))
        assert table.numbers(["x", "y"]).tolist() == expected.tolist()
        assert table.place(3) == "line 5"


def test_bad_gzip(tmp_path):
    whole = gzip.compress(f"x,y\n{XY}".encode())
    for content in (b"x,y\n1,2\n", whole[:-9], whole[:-9] + b"x" * 9, whole[:15]):
        with pytest.raises(DataError, match="not a valid gzip file"):
            load(csv(tmp_path, content, "t.csv.gz"))
    with pytest.raises(DataError, match="is empty"):
        load(csv(tmp_path, gzip.compress(b""), "t.csv.gz"))


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 2**20)
    path = csv(tmp_path, gzip.compress(b"x,y\n" + b"1,2\n" * 1_000_000), "t.csv.gz")
    with pytest.raises(DataError, match=r"t\.csv\.gz has .* bytes and would take"):
        load(path)


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
@pytest.mark.parametrize("packed", [False, True])
def test_standard_input(monkeypatch, source, packed):
    content = f"x,y\n{XY}".encode()
    stream = io.TextIOWrapper(io.BytesIO(gzip.compress(content) if packed else content))
    monkeypatch.setattr(sys, "stdin", stream)
    table = load(source)
    assert table.source == "standard input"
    assert table.rows == N
    assert table.place(0) == "line 2"  # it can be read again


def test_standard_input_without_end(monkeypatch):
    from portable_bp.tables import text_file

    monkeypatch.setattr(text_file, "MOST_BYTES", 100)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(1000))))
    with pytest.raises(DataError, match="more than 100 bytes; write it to a file"):
        load("-")


# ---------------------------------------------------------------------------------------- width


def wide(columns, n=3):
    names = ",".join(f"gene_{i:06d}" for i in range(columns))
    return f"{names}\n" + rows(lambda i: ",".join([number(i)] * columns), n)


def test_twenty_thousand_columns(tmp_path):
    """The header has 240,000 characters; Python's own reader takes cells of 131,072."""
    table = load(csv(tmp_path, wide(20_000)))
    assert len(table.columns) == 20_000
    assert table.numbers(["gene_019999"]).ravel().tolist() == [0, 0.919, 0.838]


def test_a_header_is_judged_by_its_first_columns(tmp_path, monkeypatch):
    judged = []
    is_value = csv_dialect._is_value
    monkeypatch.setattr(
        csv_dialect, "_is_value", lambda cell: judged.append(cell) or is_value(cell)
    )
    load(csv(tmp_path, wide(2000)))
    first = len(judged)
    judged.clear()
    load(csv(tmp_path, wide(4000)))
    assert len(judged) <= 2 * first
