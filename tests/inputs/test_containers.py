"""Host data of every container pass one gate: what is no number is refused in the same words."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from sklearn.base import clone

import portable_bp
from portable_bp import MLP
from portable_bp.estimators import MLPClassifier, MLPRegressor
from portable_bp.inputs import arrays

N = 12
NUMBERS = np.linspace(-1, 1, N)
LABELS = np.arange(N) % 2
TEXT = [f"{v:.2f}" for v in NUMBERS]
DAYS = [datetime.date(2024, 1, 1 + i) for i in range(N)]
TIMES = [datetime.datetime(2024, 1, 1 + i) for i in range(N)]
SPANS = [datetime.timedelta(days=i) for i in range(N)]
HOLED = [*NUMBERS[:-1].tolist(), None]
WHOLE_HOLED = [*range(N - 1), None]
AWARE = pd.date_range("2024", periods=N, tz="UTC")


def arrow(values: Any, dtype: Any = None) -> pd.Series:
    """A pandas Series over Arrow's memory."""
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, dtype)))


TEXTS = {
    "list": TEXT,
    "list of bytes": [t.encode() for t in TEXT],
    "NumPy U": np.array(TEXT),
    "NumPy S": np.array(TEXT, dtype="S"),
    "NumPy object": np.array(TEXT, dtype=object),
    "NumPy StringDType": np.array(TEXT, dtype=np.dtypes.StringDType()),
    "pandas str": pd.Series(TEXT),
    "pandas object": pd.Series(TEXT, dtype=object),
    "pandas string[python]": pd.Series(TEXT, dtype="string[python]"),
    "pandas string[pyarrow]": pd.Series(TEXT, dtype="string[pyarrow]"),
    "pandas category": pd.Series(TEXT, dtype="category"),
    "pandas Categorical": pd.Categorical(TEXT),
    "pandas Index": pd.Index(TEXT),
    "pandas Arrow string": arrow(TEXT, pa.string()),
    "pandas Arrow large_string": arrow(TEXT, pa.large_string()),
    "pandas Arrow string_view": arrow(TEXT, pa.string_view()),
    "pandas Arrow dictionary": arrow(pa.array(TEXT).dictionary_encode()),
    "polars String": pl.Series(TEXT),
    "polars Categorical": pl.Series(TEXT, dtype=pl.Categorical),
    "polars Enum": pl.Series(TEXT, dtype=pl.Enum(TEXT)),
    "polars Object": pl.Series(TEXT, dtype=pl.Object),
    "pyarrow string": pa.array(TEXT),
    "pyarrow chunks": pa.chunked_array([TEXT[:5], TEXT[5:]]),
    "pyarrow large_string": pa.array(TEXT, pa.large_string()),
    "pyarrow string_view": pa.array(TEXT, pa.string_view()),
    "pyarrow dictionary": pa.array(TEXT).dictionary_encode(),
    "pyarrow binary": pa.array([t.encode() for t in TEXT]),
}
DATES = {
    "list of dates": DAYS,
    "list of spans": SPANS,
    "NumPy datetime64": np.array(DAYS, dtype="datetime64[D]"),
    "NumPy timedelta64": np.array(SPANS, dtype="timedelta64[s]"),
    "pandas datetime": pd.Series(TIMES),
    "pandas datetime with zone": pd.Series(AWARE),
    "pandas DatetimeIndex": AWARE,
    "pandas timedelta": pd.Series(SPANS),
    "pandas Period": pd.Series(pd.period_range("2024", periods=N)),
    "pandas Interval": pd.Series(pd.interval_range(0, N)),
    "pandas object": pd.Series(DAYS, dtype=object),
    "pandas category": pd.Series(TIMES, dtype="category"),
    "pandas Arrow date": arrow(DAYS),
    "pandas Arrow timestamp": arrow(TIMES),
    "pandas Arrow duration": arrow(SPANS),
    "polars Date": pl.Series(DAYS),
    "polars Datetime": pl.Series(TIMES),
    "polars Duration": pl.Series(SPANS),
    "polars Time": pl.Series([t.time() for t in TIMES]),
    "pyarrow date": pa.array(DAYS),
    "pyarrow timestamp": pa.array(TIMES),
    "pyarrow duration": pa.array(SPANS),
    "pyarrow dictionary": pa.array(DAYS).dictionary_encode(),
}
MISSING = {
    "list": HOLED,
    "NumPy object": np.array(HOLED, dtype=object),
    "pandas Int64": pd.Series(WHOLE_HOLED, dtype="Int64"),
    "pandas Float64": pd.Series(HOLED, dtype="Float64"),
    "pandas boolean": pd.Series([True, None] * (N // 2), dtype="boolean"),
    "pandas Arrow": arrow(HOLED),
    "pandas category": pd.Series(HOLED, dtype="category"),
    "polars Float64": pl.Series(HOLED),
    "polars Int64": pl.Series(WHOLE_HOLED),
    "polars Boolean": pl.Series([True, None] * (N // 2)),
    "polars Null": pl.Series([None] * N),
    "pyarrow double": pa.array(HOLED),
    "pyarrow int64": pa.array(WHOLE_HOLED),
    "pyarrow null": pa.nulls(N),
    "pyarrow dictionary": pa.array(WHOLE_HOLED).dictionary_encode(),
}
OTHERS: dict[str, tuple[Any, type[Exception], str]] = {
    "NumPy complex": (NUMBERS + 0j, ValueError, "Complex data not supported"),
    "object complex": ((NUMBERS + 0j).astype(object), ValueError, "Complex data not supported"),
    "pandas complex": (pd.Series(NUMBERS + 0j), ValueError, "Complex data not supported"),
    "structured": (np.zeros(N, [("a", "f4")]), TypeError, "has the dtype"),
    "masked": (np.ma.masked_array(NUMBERS, LABELS), ValueError, "has masked values"),
    "polars List": (pl.Series([[1.0]] * N), TypeError, "has the dtype List"),
    "polars Struct": (pl.Series([{"a": 1}] * N), TypeError, "has the dtype Struct"),
    "pyarrow list": (pa.array([[1.0]] * N), TypeError, "has the dtype list"),
    "polars lazy": (pl.LazyFrame({"a": NUMBERS}), TypeError, "polars LazyFrame; call its collect"),
    "objects": (np.array([object()] * N), TypeError, r"Python objects \(object\)"),
}

net = MLP([1, 3, 1])
model = portable_bp.Model(net, net.init(0), portable_bp.get_backend("numpy"))
COLUMN = NUMBERS[:, None]


def fitted(kind: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(hidden_layer_sizes=(3,), max_iter=1).fit(COLUMN, y)


REGRESSOR = fitted(MLPRegressor, NUMBERS)


def frame(column: Any) -> Any:
    """A table with the column, of the library that made it; else a matrix."""
    if isinstance(column, pl.LazyFrame):
        return column
    if isinstance(column, pl.Series):
        return pl.DataFrame({"a": column})
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return pa.table({"a": column})
    if type(column).__module__.startswith("pandas"):
        return pd.DataFrame({"a": column})
    if isinstance(column, np.ndarray):
        return column[:, None]
    return [[value] for value in column]


# Each takes one argument that is to be refused before anything is trained.
AS_X: dict[str, Callable[[Any], Any]] = {
    "fit": lambda v: portable_bp.fit(net, v, NUMBERS),
    "validation": lambda v: portable_bp.fit(net, COLUMN, NUMBERS, validation=(v, NUMBERS)),
    "Model.predict": lambda v: model.predict(v),
    "Model.evaluate": lambda v: model.evaluate(v, NUMBERS),
    "MLP.forward": lambda v: net.forward(model.params, v),
    "classifier": lambda v: MLPClassifier().fit(v, LABELS),
    "regressor": lambda v: MLPRegressor().fit(v, NUMBERS),
    "regressor predict": lambda v: REGRESSOR.predict(v),
}
AS_Y: dict[str, Callable[[Any], Any]] = {
    "fit": lambda v: portable_bp.fit(net, COLUMN, v),
    "fit weights": lambda v: portable_bp.fit(net, COLUMN, NUMBERS, sample_weight=v),
    "validation": lambda v: portable_bp.fit(net, COLUMN, NUMBERS, validation=(COLUMN, v)),
    "Model.evaluate": lambda v: model.evaluate(COLUMN, v),
    "MLP.deltas": lambda v: net.deltas(model.params, COLUMN, v),
    "regressor": lambda v: MLPRegressor().fit(COLUMN, v),
    "regressor weights": lambda v: MLPRegressor().fit(COLUMN, NUMBERS, v),
    "regressor validation": lambda v: MLPRegressor().fit(
        COLUMN, NUMBERS, validation_data=(COLUMN, v)
    ),
    "regressor score": lambda v: REGRESSOR.score(COLUMN, v),
    "regressor of a tensor": lambda v: MLPRegressor().fit(torch.tensor(COLUMN), v),
}


def refused(calls: dict[str, Callable[[Any], Any]], value: Any, error: Any, says: str) -> None:
    for name, call in calls.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            pytest.fail(f"taken by {name}: {call(value)}")
        assert isinstance(caught.value, error), (name, caught)
        assert re.search(says, str(caught.value)), (name, caught)


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_never_taken_for_numbers(kind: str) -> None:
    says = "holds text .*convert it to numbers first"
    refused(AS_X, frame(TEXTS[kind]), ValueError, says)
    refused(AS_Y, TEXTS[kind], ValueError, says)


@pytest.mark.parametrize("kind", DATES)
def test_dates_are_never_taken_for_numbers(kind: str) -> None:
    says = "(has the dtype|holds dates such as) .*; convert it to numbers first"
    refused(AS_X, frame(DATES[kind]), TypeError, says)
    refused(AS_Y, DATES[kind], TypeError, says)


@pytest.mark.parametrize("kind", MISSING)
def test_what_is_missing_is_named(kind: str) -> None:
    says = r"has missing values \((None|<NA>)\); fill or drop them first"
    refused(AS_X, frame(MISSING[kind]), ValueError, says)
    refused(AS_Y, MISSING[kind], ValueError, says)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_else_is_no_number(kind: str) -> None:
    value, error, says = OTHERS[kind]
    if kind != "masked":
        refused(AS_X, frame(value), error, says)
    refused(AS_Y, value, error, says)


def test_columns_are_named() -> None:
    for table in (
        pd.DataFrame({"a": NUMBERS, "day": DAYS}),
        pl.DataFrame({"a": NUMBERS, "day": DAYS}),
        pa.table({"a": NUMBERS, "day": DAYS}),
        pa.record_batch({"a": NUMBERS, "day": pa.array(DAYS)}),
    ):
        refused(AS_X, table, TypeError, r"X\['day'\]")


# --- what holds numbers gives the same as NumPy ---------------------------------------------------

WHOLE = np.arange(N)
TAKEN: dict[str, Any] = {
    "list": NUMBERS.tolist(),
    "tuple": tuple(NUMBERS),
    "range": range(N),
    "array.array": array.array("d", NUMBERS),
    "memoryview": memoryview(NUMBERS),
    "Decimal": [decimal.Decimal(i) / 8 for i in range(N)],
    "Fraction": [fractions.Fraction(i, 8) for i in range(N)],
    "object": NUMBERS.astype(object),
    "nothing masked": np.ma.masked_array(NUMBERS),
    "pandas": pd.Series(NUMBERS),
    "pandas Float64": pd.Series(NUMBERS, dtype="Float64"),
    "pandas Int8": pd.Series(WHOLE, dtype="Int8"),
    "pandas boolean": pd.Series(LABELS == 1, dtype="boolean"),
    "pandas sparse": pd.Series(pd.arrays.SparseArray(WHOLE % 3)),
    "pandas category": pd.Series(WHOLE % 3, dtype="category"),
    "pandas Arrow": arrow(NUMBERS),
    "pandas Arrow boolean": arrow(LABELS == 1),
    "pandas Index": pd.Index(WHOLE),
    "polars": pl.Series(NUMBERS),
    "polars Float32": pl.Series(NUMBERS, dtype=pl.Float32),
    "polars Boolean": pl.Series(LABELS == 1),
    "polars Decimal": pl.Series([decimal.Decimal(i) for i in range(N)]),
    "pyarrow": pa.array(NUMBERS),
    "pyarrow chunks": pa.chunked_array([NUMBERS[:5], NUMBERS[5:]]),
    "pyarrow bool": pa.array(LABELS == 1),
    "pyarrow half": pa.array(NUMBERS.astype("float16")),
    "pyarrow decimal": pa.array([decimal.Decimal(i) for i in range(N)]),
    "pyarrow dictionary": pa.array(WHOLE % 3).dictionary_encode(),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_numbers_are_taken_as_they_are(kind: str) -> None:
    given = TAKEN[kind]
    wanted = np.array([float(v) for v in (given.to_pylist() if "pyarrow" in kind else given)])
    np.testing.assert_array_equal(arrays.numbers("y", given), wanted)
    if "array" not in kind and kind not in ("memoryview", "range"):
        table = frame(given)
        np.testing.assert_array_equal(arrays.numbers("X", table), wanted[:, None])


def test_a_table_of_several_kinds_becomes_one_matrix() -> None:
    wanted = np.stack([NUMBERS, WHOLE, LABELS == 1], axis=1)
    columns = {"a": NUMBERS, "b": WHOLE, "c": LABELS == 1}
    pandas = pd.DataFrame(columns)
    for table in (pandas, pandas.convert_dtypes(), pl.DataFrame(columns), pa.table(columns)):
        np.testing.assert_array_equal(arrays.numbers("X", table), wanted)
        assert arrays.numbers("X", table).dtype == np.float64


def test_a_pandas_table_of_sparse_columns_stays_sparse_in_the_estimators() -> None:
    dense = np.eye(N)
    table = pd.DataFrame.sparse.from_spmatrix(scipy.sparse.csr_array(dense))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, random_state=0)
        ours = [clone(est).fit(x, NUMBERS) for x in (table, dense)]
    np.testing.assert_allclose(ours[0].coefs_[0], ours[1].coefs_[0], rtol=1e-12)


BIG = np.arange(N) % 3 + 2**60
BIG_FORMS = {
    "pandas Int64": pd.Series(BIG, dtype="Int64"),
    "pandas UInt64": pd.Series(BIG, dtype="UInt64"),
    "pandas int64[pyarrow]": arrow(BIG),
    "pandas object": pd.Series(BIG, dtype=object),
    "pandas category": pd.Series(BIG, dtype="category"),
    "polars": pl.Series(BIG),
    "pyarrow": pa.array(BIG),
    "pyarrow dictionary": pa.array(BIG).dictionary_encode(),
    "list": BIG.tolist(),
    "NumPy object": BIG.astype(object),
}


@pytest.mark.parametrize("kind", BIG_FORMS)
def test_large_whole_numbers_stay_whole(kind: str) -> None:
    """Three classes, not one; as features they are rounded, and that is said."""
    est = fitted(MLPClassifier, BIG_FORMS[kind])
    table = frame(BIG_FORMS[kind])
    assert est.classes_.tolist() == [2**60, 2**60 + 1, 2**60 + 2]
    says = "X.* has integers such as 1152921504606846977 that float64 does not hold exactly"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est.predict(table)
    assert [bool(re.match(says, str(w.message))) for w in caught].count(True) == 1
    assert arrays.numbers("y", BIG_FORMS[kind]).tolist() == BIG.tolist()


def test_the_largest_integers_are_known_to_be_rounded() -> None:
    """2**64 - 1 becomes 2**64, which no integer of 64 bits holds."""
    for value in (2**64 - 1, 2**63 - 1):
        with pytest.warns(UserWarning, match=f"integers such as {value} "):
            REGRESSOR.predict(np.full((2, 1), value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        REGRESSOR.predict(np.full((2, 1), 2**63, dtype="uint64"))


# --- what is no array -----------------------------------------------------------------------------

LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(COLUMN)))
NO_ARRAYS: dict[str, tuple[Any, str]] = {
    "DataLoader": (LOADER, r"is a DataLoader, not an array: .*torch\.cat"),
    "TensorDataset": (LOADER.dataset, r"is a TensorDataset, not an array: .*numpy\.stack"),
    "generator": ((row for row in COLUMN), r"is a generator, not an array: .*numpy\.stack"),
    "iterator": (iter([1.0]), r"is a list_iterator, not an array: .*numpy\.stack"),
    "dict": ({"a": NUMBERS}, r"is a dict, not an array: .*pandas\.DataFrame"),
    "set": ({1.0, 2.0}, "is a set, not an array: a set has no order"),
    "path": (pathlib.Path("a.csv"), r"is .*Path\('a\.csv'\), not an array: "),
    "text": (
        "a.csv",
        r"is 'a\.csv', not an array: (read .*datasets\.load|pass one number per row)",
    ),
    "module": (torch.nn.Linear(1, 1), "is a Linear, not an array"),
    "object": (object(), "is a object, not an array: pass an array"),
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_what_is_no_array_says_what_to_pass(kind: str) -> None:
    value, says = NO_ARRAYS[kind]
    refused(AS_X, value, TypeError, f"X {says}")
    refused(AS_Y, value, TypeError, says)


class Exchanged:
    """An array that is known by one protocol alone."""

    def __init__(self, values: Any, protocol: str) -> None:
        self.values = values
        if protocol == "interface":
            self.__array_interface__ = values.__array_interface__


class ByDLPack(Exchanged):
    def __dlpack__(self, **options: Any) -> Any:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.values.__dlpack_device__()


class ByArray(Exchanged):
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.values, dtype=dtype)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda v: ByDLPack(v, "dlpack"),
        lambda v: ByDLPack(torch.tensor(v), "dlpack"),
        lambda v: ByArray(v, "array"),
        lambda v: Exchanged(v, "interface"),
    ],
    ids=["DLPack of NumPy", "DLPack of torch", "__array__", "__array_interface__"],
)
def test_an_array_of_any_protocol_is_taken(wrapped: Callable[[Any], Any]) -> None:
    y = NUMBERS.copy()
    wanted = portable_bp.fit(net, COLUMN, y, sample_weight=np.arange(1.0, N + 1), epochs=1)
    got = portable_bp.fit(
        net, wrapped(COLUMN), wrapped(y), sample_weight=wrapped(np.arange(1.0, N + 1)), epochs=1
    )
    np.testing.assert_array_equal(got.params[0][0], wanted.params[0][0])
    np.testing.assert_array_equal(got.predict(wrapped(COLUMN)), wanted.predict(COLUMN))
    est = fitted(MLPRegressor, wrapped(y))
    np.testing.assert_array_equal(est.predict(wrapped(COLUMN)), est.predict(COLUMN))


def test_dlpack_that_numpy_cannot_read_says_so() -> None:
    half = ByDLPack(torch.zeros((N, 1), dtype=torch.bfloat16), "dlpack")
    with pytest.raises(TypeError, match="X is a ByDLPack, whose DLPack memory NumPy cannot read"):
        portable_bp.fit(net, half, NUMBERS)
