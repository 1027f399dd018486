"""Weights of classes and of held-out rows, and labels of every container, in the estimators."""

from __future__ import annotations

import decimal
import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from portable_bp.equations.losses import Loss
from portable_bp.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 40
X = np.random.default_rng(0).normal(size=(N, 3))
UP = np.where(X[:, 0] > 0, "up", "down")
SEVERAL = (X > 0).astype(int)
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}


def classifier(**settings: Any) -> MLPClassifier:
    return MLPClassifier(**SMALL | settings)


# --- class_weight ---------------------------------------------------------------------------------

ENTRY = "must be a finite number that is not negative, got"
WRONG_WEIGHTS: list[tuple[Any, str]] = [
    ({"up": -1}, rf"class_weight\['up'\] {ENTRY} -1"),
    ({"up": -1, "down": -1}, rf"class_weight\['up'\] {ENTRY} -1"),
    ({"up": np.float32(-0.5)}, rf"class_weight\['up'\] {ENTRY}"),
    ({"up": 0, "down": 0}, "class_weight is zero for every class in y"),
    ({"up": float("nan")}, rf"class_weight\['up'\] {ENTRY} nan"),
    ({"up": float("inf")}, rf"class_weight\['up'\] {ENTRY} inf"),
    ({"up": 10**400}, rf"class_weight\['up'\] {ENTRY} 1000"),
    ({"up": None}, rf"class_weight\['up'\] {ENTRY} None"),
    ({"up": pd.NA}, rf"class_weight\['up'\] {ENTRY} <NA>"),
    ({"up": "2"}, rf"class_weight\['up'\] {ENTRY} '2'"),
    ({"up": b"2"}, rf"class_weight\['up'\] {ENTRY} b'2'"),
    ({"up": 1j}, rf"class_weight\['up'\] {ENTRY} 1j"),
    ({"up": [1, 2]}, rf"class_weight\['up'\] {ENTRY} \[1, 2\]"),
    (
        {"left": 1},
        r"class_weight contains classes not present in y: \['left'\]; y has \['down', 'up'\]",
    ),
    ({0: 1, 1: 2}, r"class_weight contains classes not present in y: \[0, 1\]"),
    ([1, 2], "class_weight is a list, which is for several labels per row"),
    ([{"up": 1}], "class_weight is a list, which is for several labels per row"),
    ("balancd", "'class_weight' parameter of MLPClassifier must be"),
    ("", "'class_weight' parameter of MLPClassifier must be"),
    (2.0, "'class_weight' parameter of MLPClassifier must be"),
    (True, "'class_weight' parameter of MLPClassifier must be"),
    (np.ones(2), "'class_weight' parameter of MLPClassifier must be"),
]


@pytest.mark.parametrize(("weights", "says"), WRONG_WEIGHTS)
def test_class_weight_is_checked_as_sample_weight_is(weights: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        classifier(class_weight=weights).fit(X, UP)
    if isinstance(weights, dict):
        with pytest.raises(ValueError, match=says):
            classifier(class_weight=weights).partial_fit(X, UP, classes=["down", "up"])


WRONG_LISTS: list[tuple[Any, str]] = [
    ([{0: 1, 1: 1}] * 2, "class_weight has 2 entries, but y has 3 labels"),
    ([{0: 1, 1: -1}] * 3, rf"class_weight\[0\]\[1\] {ENTRY} -1"),
    ([{0: 1}, {0: 1}, {1: np.nan}], rf"class_weight\[2\]\[1\] {ENTRY} nan"),
    ([{0: 1}, {0: 1}, {2: 1}], r"class_weight\[2\] contains classes not present in y: \[2\]"),
    ([{0: 1}, 2.0, {1: 1}], r"class_weight\[1\] must be a dict \{0: weight, 1: weight\}, got 2.0"),
    ([{0: 0, 1: 0}] * 3, "class_weight is zero for every row of y"),
    ({0: 1, 1: 2}, "class_weight is one dict, which is for one label per row"),
]


@pytest.mark.parametrize(("weights", "says"), WRONG_LISTS)
def test_class_weight_for_several_labels(weights: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        classifier(class_weight=weights).fit(X, SEVERAL)


def test_weights_of_any_kind_of_number() -> None:
    wanted = classifier(class_weight={"up": 2.0, "down": 1.0}).fit(X, UP)
    for two in (2, np.int8(2), np.float32(2), decimal.Decimal(2), np.array(2.0)):
        est = classifier(class_weight={"up": two}).fit(X, UP)
        np.testing.assert_array_equal(est.coefs_[0], wanted.coefs_[0])
    by_row = classifier().fit(X, UP, np.where(UP == "up", 2.0, 1.0))
    np.testing.assert_array_equal(by_row.coefs_[0], wanted.coefs_[0])


def test_weights_that_leave_nothing_together() -> None:
    with pytest.raises(ValueError, match="sample_weight and class_weight together are zero"):
        classifier(class_weight={"up": 0}).fit(X, UP, (UP == "up").astype(float))


# --- rows of weight 0 -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    ("fraction", "says"),
    [(0.1, "the held-out rows weigh nothing: with validation_fraction=0.1"),
     (0.9, "the rows that are left weigh nothing: with validation_fraction=0.9")],
)  # fmt: skip
def test_held_out_rows_that_weigh_nothing(kind: Any, fraction: float, says: str) -> None:
    weights = np.zeros(N)
    weights[:6] = 1
    y = UP if kind is MLPClassifier else X[:, 0]
    refused = 0
    for seed in range(8):
        est = kind(
            **SMALL | {"random_state": seed}, early_stopping=True, validation_fraction=fraction
        )
        try:
            est.fit(X, y, weights)
        except ValueError as error:
            assert says in str(error)  # noqa: PT017
            refused += 1
        else:
            assert np.isfinite(est.validation_scores_).all()
    assert 0 < refused < 8


def test_a_class_without_weight_may_be_all_that_is_held_out() -> None:
    y = np.where(np.arange(N) < 3, "up", "down")
    est = classifier(class_weight={"down": 0}, early_stopping=True, validation_fraction=0.2)
    for seed in range(6):
        est.set_params(random_state=seed)
        try:
            assert np.isfinite(est.fit(X, y).validation_scores_).all()
        except ValueError as error:
            assert "weigh nothing" in str(error)  # noqa: PT017


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_validation_data_and_scores_without_weight(kind: Any) -> None:
    y = UP if kind is MLPClassifier else X[:, 0]
    with pytest.raises(ValueError, match="validation sample_weight is zero for every row"):
        kind(**SMALL).fit(X, y, validation_data=(X, y, np.zeros(N)))
    with pytest.raises(ValueError, match="sample_weight is zero for every row"):
        kind(**SMALL).fit(X, y).score(X, y, np.zeros(N))


# --- early stopping with one row of a class -------------------------------------------------------


def test_a_class_of_one_row_is_called_by_its_label() -> None:
    y = np.where(np.arange(N) == 5, "ill", "well")
    with pytest.raises(ValueError, match=r"Classes with too few members are: \['ill'\]"):
        classifier(early_stopping=True).fit(X, y)


# --- labels ---------------------------------------------------------------------------------------

HOLED = ["up", "down", None, "up"] * 10
MISSING: dict[str, Any] = {
    "list": HOLED,
    "NumPy object": np.array(HOLED, dtype=object),
    "StringDType": np.array(HOLED, dtype=np.dtypes.StringDType(na_object=None)),
    "pandas str": pd.Series(HOLED),
    "pandas object": pd.Series(HOLED, dtype=object),
    "pandas string[python]": pd.Series(HOLED, dtype="string[python]"),
    "pandas string[pyarrow]": pd.Series(HOLED, dtype="string[pyarrow]"),
    "pandas category": pd.Series(HOLED, dtype="category"),
    "pandas Int64": pd.Series([0, 1, None, 1] * 10, dtype="Int64"),
    "pandas boolean": pd.Series([True, False, None, True] * 10, dtype="boolean"),
    "polars String": pl.Series(HOLED),
    "polars Enum": pl.Series(HOLED, dtype=pl.Enum(["up", "down"])),
    "polars Int64": pl.Series([0, 1, None, 1] * 10),
    "polars Null": pl.Series([None] * N),
    "pyarrow string": pa.array(HOLED),
    "pyarrow string_view": pa.array(HOLED, pa.string_view()),
    "pyarrow chunks": pa.chunked_array([HOLED[:7], HOLED[7:]]),
    "pyarrow dictionary": pa.array(HOLED).dictionary_encode(),
    "pyarrow int64": pa.array([0, 1, None, 1] * 10),
    "pyarrow null": pa.nulls(N),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_named_in_every_container(kind: str) -> None:
    y, says = MISSING[kind], r"y has missing labels \((None|nan|<NA>)\); fill or drop them first"
    for features in (X, torch.tensor(X)):
        with pytest.raises(ValueError, match=says):
            classifier().fit(features, y)
    est = classifier().fit(X, UP)
    for call in (
        lambda: classifier().fit(X, UP, validation_data=(X, y)),
        lambda: est.score(X, y),
        lambda: classifier().partial_fit(X, y, classes=["down", "up"]),
    ):
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (["up", 1] * 20, "y mixes labels of the types int, text; use one type for all"),
        (pd.Series(["up", 1] * 20), "y mixes labels of the types int, text"),
        (pd.Series(["up", 1] * 20, dtype="category"), "y mixes labels of the types int, text"),
        (pl.Series(["up", 1] * 20, dtype=pl.Object), "y mixes labels of the types int, text"),
        ([True, 2] * 20, "y mixes labels of the types bool, int"),
        (["up", 1.5] * 20, "y mixes labels of the types float, text"),
        (["up", b"down"] * 20, "y mixes labels of the types bytes, text"),
        ([b"up", b"down"] * 20, "y holds bytes .*; decode them to text first"),
        (pa.array([b"up", b"down"] * 20), "y holds objects of the type bytes"),
        (pd.Series(pd.date_range("2024", periods=N)), "y has the dtype datetime64"),
        (pl.Series([decimal.Decimal(1), decimal.Decimal(2)] * 20), "objects of the type Decimal"),
        (pl.Series([[1], [2]] * 20), "y has the dtype List"),
    ],
)
def test_labels_that_are_none(y: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        classifier().fit(X, y)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (pl.Series(UP.tolist()), ["down", "up"]),
        (pl.Series(UP.tolist(), dtype=pl.Categorical), ["down", "up"]),
        (pa.array(UP.tolist()).dictionary_encode(), ["down", "up"]),
        (UP.astype(np.dtypes.StringDType()), ["down", "up"]),
        (pd.Series(UP, dtype="category"), ["down", "up"]),
        (pd.Series(X[:, 0] > 0, dtype="boolean"), [False, True]),
        ((X[:, 0] > 0).astype(object), [False, True]),
        (pa.array((X[:, 0] > 0).tolist()), [False, True]),
        (np.array([7, 9], dtype=object)[(X[:, 0] > 0).astype(int)], [7, 9]),
        ([1, 2.0] * 20, [1.0, 2.0]),
    ],
)
def test_labels_come_back_as_they_went_in(y: Any, classes: list[Any]) -> None:
    est = classifier().fit(X, y)
    assert est.classes_.tolist() == classes
    assert [type(c) for c in est.classes_.tolist()] == [type(c) for c in classes]
    assert 0 <= est.score(X, y) <= 1
    again = classifier().partial_fit(X, y, classes=classes)
    assert again.classes_.tolist() == classes


def test_classes_of_partial_fit_pass_the_same_gate() -> None:
    with pytest.raises(ValueError, match=r"classes has missing labels \(None\)"):
        classifier().partial_fit(X, UP, classes=["up", "down", None])
    with pytest.raises(ValueError, match="classes mixes labels of the types int, text"):
        classifier().partial_fit(X, UP, classes=["up", "down", 1])


def test_a_scorer_gets_the_labels_of_any_container() -> None:
    seen = []

    def scorer(est: Any, features: Any, y: Any) -> float:
        seen.append(y)
        return float(np.mean(est.predict(features) == y))

    for y in (pl.Series(UP.tolist()), pd.Series(X[:, 0] > 0, dtype="boolean")):
        est = classifier(early_stopping=True, scoring=scorer).fit(X, y)
        assert set(seen[-1].tolist()) <= set(est.classes_.tolist())


def test_errors_of_the_regressor_name_the_loss() -> None:
    own = Loss(lambda o, y, xp: o - y, lambda o, y, xp: o - y, target="count", name="rare_events")
    for loss, name in (("poisson", "poisson"), (own, "rare_events")):
        with pytest.raises(
            ValueError, match=re.escape(f"y must not be negative for loss={name!r}")
        ):
            MLPRegressor(loss=loss, **SMALL).fit(X, X[:, 0])
