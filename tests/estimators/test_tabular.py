"""Estimators for data frames: scikit-learn's checks, every library of frames, and what they refuse."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from portable_bp import datasets, tabular
from portable_bp.estimators import TabularClassifier, TabularRegressor

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 40, "dropout": 0.0, "dtype": "float64"}

EXPECTED = {
    "check_dataframe_column_names_consistency": (
        "the columns of a data frame are found by their names, whatever their order"
    ),
}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        TabularClassifier(learning_rate_init=0.01, **SMALL),
        TabularRegressor(learning_rate_init=0.01, **SMALL),
    ],
    expected_failed_checks=lambda est: EXPECTED,
)
def test_check(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


# ---------------------------------------------------------------------------------------- frames

N = 90
DAYS = [datetime.datetime(2020, 1, 1) + datetime.timedelta(days=9 * i) for i in range(N)]
CELLS: dict[str, list[Any]] = {
    "size": [None if i % 11 == 5 else i % 3 + 0.1 * (i % 7) for i in range(N)],
    "count": [None if i % 13 == 2 else i * 7 % 5 for i in range(N)],
    "town": [None if i % 17 == 4 else ("Bern", "Oslo", "Rome")[i * 5 % 3] for i in range(N)],
    "price": [f"{i * 31 % 97},{i % 10}" for i in range(N)],
    "when": DAYS,
    "open": [i % 2 == 0 for i in range(N)],
}
KINDS = [("up", "down", "flat")[i % 3] for i in range(N)]


def pandas_frame(cells: dict[str, list[Any]]) -> Any:
    return pd.DataFrame(cells)


def pandas_with_arrow(cells: dict[str, list[Any]]) -> Any:
    return pd.DataFrame(
        {
            name: pd.Series(pa.array(v), dtype=pd.ArrowDtype(pa.array(v).type))
            for name, v in cells.items()
        }
    )


def categorical_frame(cells: dict[str, list[Any]]) -> Any:
    return pd.DataFrame(cells).astype({"town": "category"})


FRAMES = {
    "pandas": pandas_frame,
    "pandas with Arrow": pandas_with_arrow,
    "pandas with categories": categorical_frame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


def fitted(frame: Any, y: Any = KINDS, **options: Any) -> TabularClassifier:
    return TabularClassifier(random_state=0, **SMALL | options).fit(frame, y)


@pytest.mark.parametrize("kind", FRAMES)
def test_every_library_of_frames_gives_the_same(kind: str) -> None:
    est, reference = fitted(FRAMES[kind](CELLS)), fitted(pandas_frame(CELLS))
    assert [(t.name, t.kind) for t in est.report_] == [
        ("size", "number"), ("count", "number"), ("town", "category"), ("price", "number"),
        ("when", "date"), ("open", "boolean"),
    ]  # fmt: skip
    assert est.report_ == reference.report_
    want = reference.predict_proba(pandas_frame(CELLS))
    np.testing.assert_array_equal(est.predict_proba(FRAMES[kind](CELLS)), want)
    assert est.feature_names_in_.tolist() == [*CELLS]


def test_columns_are_found_by_name_and_new_values_are_told_apart() -> None:
    est = fitted(pandas_frame(CELLS))
    new = pandas_frame(CELLS)[::-1]
    other = new[[*reversed(CELLS)]].assign(extra="x")
    np.testing.assert_array_equal(est.predict_proba(other), est.predict_proba(new))
    unseen = new.assign(town="Paris")
    assert not np.array_equal(est.predict_proba(unseen), est.predict_proba(new))
    with pytest.raises(ValueError, match="X lacks 1 of the 6 columns needed: 'town'"):
        est.predict(new.drop(columns="town"))
    with pytest.raises(ValueError, match="'price' holds dates, and was a number in training"):
        est.predict(new.assign(price=new["when"]))


def test_kinds_are_set_and_checked() -> None:
    frame = pandas_frame(CELLS)
    est = fitted(frame, kinds={"count": "category", "when": "drop"})
    assert {t.name: t.kind for t in est.report_}["count"] == "category"
    assert "count=0" in est.model_.preparation.features
    assert not any("when" in name for name in est.model_.preparation.features)
    for kinds, words in (({"cost": "number"}, "X lacks"), ({"count": "text"}, "must be one of")):
        with pytest.raises(ValueError, match=words):
            fitted(frame, kinds=kinds)


def test_it_saves_a_model_that_the_command_line_reads(tmp_path: Path) -> None:
    est = fitted(pandas_frame(CELLS))
    est.save(tmp_path / "m.safetensors")
    est.to_onnx(tmp_path / "m.onnx")
    frame = pandas_frame(CELLS)
    frame.to_parquet(tmp_path / "t.parquet")
    model = tabular.load(tmp_path / "m.safetensors")
    assert model.predict(datasets.load(tmp_path / "t.parquet")) == est.predict(frame).tolist()


def test_a_regressor_in_a_cross_validation() -> None:
    y = np.asarray([float(price.replace(",", ".")) for price in CELLS["price"]])
    est = TabularRegressor(random_state=0, learning_rate_init=0.01, **SMALL | {"max_iter": 300})
    frame = pandas_frame(CELLS)[["price", "open"]]
    scores = cross_val_score(est, frame, y, cv=KFold(3, shuffle=True, random_state=0))
    assert scores.mean() > 0.9
    early = clone(est).set_params(early_stopping=True, n_iter_no_change=2, max_iter=300)
    assert early.fit(frame, y).n_iter_ < 300
