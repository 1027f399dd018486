"""Cells as people write them: numbers, dates and truth values of a whole column."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from portable_bp.datasets import DataError, Table
from portable_bp.tables.columns import CategoryColumn, NumberColumn, encode, learn
from portable_bp.tables.kinds import survey
from portable_bp.tables.raw import without_absent
from portable_bp.tables.spellings import read_dates, read_numbers, truths_of
from portable_bp.tabular import prepare, prepare_inferred

DAY = 86400.0


def text(*cells):
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2.5", "-3", "+4", ".5", "1e3"], [1, 2.5, -3, 4, 0.5, 1000]),
        (["1,5", "2,25"], [1.5, 2.25]),
        (["1.234,5", "7"], [1234.5, 7]),
        (["1,234", "12,345,678"], [1234, 12345678]),
        (["1,234.5", "-1,000"], [1234.5, -1000]),
        (["0,125", "1,250"], [0.125, 1.25]),  # no group begins with 0
        (["1 234", "1\u202f234", "1'234", "12_345"], [1234, 1234, 1234, 12345]),
        (["$5,100.00", "$7"], [5100, 7]),
        (["5 €", "€6"], [5, 6]),
        (["USD 5", "7 USD"], [5, 7]),
        (["40%", "12.5 %"], [40, 12.5]),
        (["−5", "(6.5)", "$-7", "-$8"], [-5, -6.5, -7, -8]),
    ],
)
def test_numbers(cells, values):
    reading = read_numbers(dict.fromkeys(cells, 1))
    assert reading is not None
    assert [reading.values[cell] for cell in cells] == values


@pytest.mark.parametrize("cells", [["$5", "€6"], ["40%", "0.4"]])
def test_cells_that_do_not_agree_are_no_numbers(cells):
    assert read_numbers(dict.fromkeys(cells, 1)) is None


@pytest.mark.parametrize(
    "cell", ["", "A1", "1.2.3", "1,23,4", "--5", "(5", "1 234,567 8", "5 kg", "$5 €", ".", "1e999"]
)
def test_what_is_no_number(cell):
    reading = read_numbers({cell: 1})
    assert reading is not None
    assert math.isnan(reading.values[cell])


def test_a_long_cell_takes_no_long_time():
    """Patterns that go back and forth over blanks would take hours."""
    for cell in ("1" * 10**5 + "x", "-" + " " * 10**5, "1,234" * 20_000 + "x"):
        reading = read_numbers({cell: 1})
        assert reading is not None
        assert math.isnan(reading.values[cell])
        assert math.isnan(read_dates({cell: 1}).values[cell])


@pytest.mark.parametrize(
    ("cells", "days", "words"),
    [
        (["1970-01-02", "1970/1/3", "1970.01.04"], [1, 2, 3], ""),
        (["31/01/1970", "01/02/1970"], [30, 31], "day first"),
        (["01/31/1970", "02/01/1970"], [30, 31], "month first"),
        (["01/02/1970", "02/02/1970"], [1, 32], "month first (day first is possible as well)"),
        (["01.02.1970", "02.02.1970"], [31, 32], ""),
        (["2 Jan 1970", "January 3, 1970", "4-Sept-1970"], [1, 2, 246], ""),
        (["1970-01-01 12:00", "1970-01-01T18:00:00Z"], [0.5, 0.75], ""),
        (["1970-01-01T12:00+02:00"], [10 / 24], ""),
        (["06:00", "18:00:00"], [0.25, 0.75], ""),
    ],
)
def test_dates(cells, days, words):
    reading = read_dates(dict.fromkeys(cells, 1))
    assert [reading.values[cell] / DAY for cell in cells] == pytest.approx(days)
    assert reading.words == words


@pytest.mark.parametrize(
    "cell", ["1970-02-30", "32/01/1970", "5 Foo 1970", "25:00", "12:75", "1970"]
)
def test_what_is_no_date(cell):
    assert math.isnan(read_dates({cell: 1}).values[cell])


def test_truths():
    assert truths_of(["Yes", "no "]) == {"Yes": 1.0, "no ": 0.0}
    assert truths_of(["T", "f"]) == {"T": 1.0, "f": 0.0}
    assert truths_of(["yes", "true"]) is None
    assert truths_of([]) is None


def test_a_minus_is_missing_unless_there_are_pluses():
    assert without_absent(text("-", "a", " ? ", None)).tolist() == [None, "a", None, None]
    assert without_absent(text("-", "+", "?")).tolist() == ["-", "+", None]


# ------------------------------------------------------------------------------- what is learnt


def learnt(values, rows=None, kind=None):
    table = Table("t", {"c": values})
    (found,) = survey(table, ["c"], {} if kind is None else {"c": kind})
    return learn(found, np.arange(len(values)) if rows is None else rows), table


def test_only_training_rows_are_learnt_from():
    column, _ = learnt(np.asarray([1.0, 2.5, 3.0, np.nan, 100.0, 7.5]), np.arange(3))
    assert isinstance(column, NumberColumn)
    assert (column.fill, column.is_marked) == (2.5, False)


def test_rare_and_new_categories_share_an_input():
    values = text(*["a"] * 40, *["b"] * 40, *["rare", "rarer"], *[None] * 18)
    column, _ = learnt(values)
    assert column.features == ("c=a", "c=b", "c: other", "c: missing")
    new = Table("new", {"c": text("b", "rare", "never seen", None)})
    want = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert encode([column], new).tolist() == want


def test_many_categories_become_their_shares():
    values = text(*[f"v{i}" for i in range(40) for _ in range(5 + i)])
    column, table = learnt(values)
    assert isinstance(column, CategoryColumn)
    assert column.features == ("c: share",)
    assert encode([column], table)[-1, 0] == pytest.approx(44 / len(values))
    assert encode([column], Table("n", {"c": text("new")})).tolist() == [[0.0]]


def test_dates_have_the_cycles_that_they_run_through():
    days = np.arange("2020-01-01", "2020-03-01", dtype="M8[D]")
    column, table = learnt(days)
    assert column.periods == (7 * DAY, 365.2425 * DAY / 12)
    x = encode([column], table)
    np.testing.assert_allclose(x[7:, 1:3], x[:-7, 1:3], atol=1e-9)  # the week comes again
    yearly, _ = learnt(np.arange("1970", "2000", dtype="M8[Y]"))
    assert yearly.periods == ()


def test_another_notation_at_prediction_is_read_where_all_cells_agree():
    column, _ = learnt(text("1,5", "2,5", "4.000,25"))
    assert encode([column], Table("n", {"c": text("2.500,5")})).tolist() == [[2500.5]]
    assert encode([column], Table("n", {"c": text("2.5", "3.25")})).tolist() == [[2.5], [3.25]]
    with pytest.raises(DataError, match="text such as 'red', and was a number in training"):
        encode([column], Table("n", {"c": text("red", "blue")}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = encode([column], Table("n", {"c": text("2,5", "red", "3,5", "4")}))
    assert x.tolist() == [[2.5], [2.5], [3.5], [4.0]]
    said = [str(warning.message) for warning in caught]
    assert "1 cell that is not one ('red', row 1) taken as missing" in said[0]
    assert "2.5 is taken" in said[1]


def test_a_value_missing_for_the_first_time_is_told():
    column, _ = learnt(np.asarray([1.0, 2.5, 4.0]))
    with pytest.warns(UserWarning, match=r"row 1: column 'c' has a missing value, .* 2.5 is taken"):
        x = encode([column], Table("n", {"c": np.asarray([1.0, np.nan])}))
    assert x.tolist() == [[1.0], [2.5]]


def test_all_problems_are_told_at_once():
    bad = np.asarray([1.0, np.inf, 2.0])
    table = Table("t", {"a": bad, "b": bad, "y": np.asarray([0.0, 1.0, 0.5])})
    with pytest.raises(
        DataError, match=r"2 problems: row 1: column 'a' has an inf.*; row 1: column 'b'"
    ):
        prepare_inferred(table, "y")


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([("?" if i == 17 else f"{i % 25 * 1.5}") for i in range(60)], "1 row without it left out"),
        ([f"{i % 30},{i % 10}" for i in range(60)], "decimal comma"),
        ([f"{i % 40}%" for i in range(60)], "percent signs"),
    ],
)
def test_a_quantity_is_not_learnt_as_classes(cells, words):
    table = Table("t", {"x": np.arange(60) % 7, "y": text(*cells)})
    ready = prepare_inferred(table, "y")
    assert ready.preparation.task == "regression"
    assert words in ready.report[0].done
    with pytest.raises(DataError):
        prepare(table, "y")


def test_a_target_that_is_a_number_here_and_there_is_still_an_error():
    cells = [f"{i * 1.5}" for i in range(60)]
    cells[9] = "red"
    table = Table("t", {"x": np.arange(60) % 7, "y": text(*cells)})
    with pytest.raises(DataError, match=r"row 9: 'red' in column 'y' is not a number; 59 of 60"):
        prepare_inferred(table, "y")


@pytest.mark.parametrize("mark", ["?", "-", "NA", ""])
def test_labels_stay_as_they_are_written_beside_missing_ones(mark):
    for labels, classes in ((["007", "07"], ("007", "07")), (["3", "4"], (3, 4))):
        cells = text(*labels * 20, mark)
        table = Table("t", {"x": np.arange(41) % 5, "y": cells})
        ready = prepare_inferred(table, "y", "classification")
        assert (ready.preparation.classes, ready.left_out) == (classes, 1)
        assert ready.preparation.labels(ready.y) == [*classes] * 20


def test_what_cannot_be_set():
    table = Table("t", {"x": text("a", "b", "c"), "y": np.asarray([0.5, 1.0, 2.0])})
    for kinds, words in (
        ({"x": "number"}, "cannot be read as number"),
        ({"x": "date"}, "cannot be read as date"),
        ({"x": "boolean"}, "cannot be read as boolean"),
    ):
        with pytest.raises(DataError, match=words):
            prepare_inferred(table, "y", kinds=kinds)
    for kinds, words in (({"x": "text"}, "must be one of"), ({"y": "number"}, "is the target")):
        with pytest.raises(ValueError, match=words):
            prepare_inferred(table, "y", kinds=kinds)
    with pytest.raises(DataError, match="no column 'z'"):
        prepare_inferred(table, "y", kinds={"z": "number"})
    with pytest.raises(DataError, match=r"left out: 'x .text: another text in each row.'"):
        prepare_inferred(table, "y")
