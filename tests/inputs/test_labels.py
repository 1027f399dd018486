"""What ``fit`` learns of its data besides numbers: labels of classes, and names of features."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import portable_bp
from portable_bp import MLP, CheckpointError, Loss
from portable_bp.backend import Backend
from portable_bp.persistence import documents

N = 24
X = np.random.default_rng(3).normal(size=(N, 3)).astype("float32")
NUMBER = np.arange(N) % 3
WORDS = np.array(["bee", "ant", "cow"])[NUMBER]
"""Not in the order of the class numbers: sorted they are 1, 0, 2."""
SORTED = np.array([1, 0, 2])[NUMBER]
MANY = MLP([3, 4, 3], loss="softmax_cross_entropy")
TWO = MLP([3, 4, 1], loss="log_loss")
REAL = MLP([3, 4, 1])

FORMS: dict[str, Callable[[Any], Any]] = {
    "NumPy": np.asarray,
    "list": lambda v: v.tolist(),
    "object": lambda v: v.astype(object),
    "StringDType": lambda v: v.astype(np.dtypes.StringDType()),
    "pandas": pd.Series,
    "pandas category": lambda v: pd.Series(v, dtype="category"),
    "pandas string[pyarrow]": lambda v: pd.Series(v, dtype="string[pyarrow]"),
    "polars": lambda v: pl.Series(v.tolist()),
    "polars Categorical": lambda v: pl.Series(v.tolist(), dtype=pl.Categorical),
    "pyarrow": lambda v: pa.array(v.tolist()),
    "pyarrow dictionary": lambda v: pa.array(v.tolist()).dictionary_encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_labels_train_as_their_numbers_and_come_back(form: str) -> None:
    y = FORMS[form](WORDS)
    model = portable_bp.fit(MANY, X, y, epochs=3, validation=(X, y))
    numbers = portable_bp.fit(MANY, X, SORTED, epochs=3, validation=(X, SORTED))
    np.testing.assert_array_equal(model.params[0][0], numbers.params[0][0])
    assert model.history["validation_loss"] == numbers.history["validation_loss"]
    assert model.classes.tolist() == ["ant", "bee", "cow"]
    assert numbers.classes is None
    assert model.predict(X).tolist() == model.classes[numbers.predict(X)].tolist()
    assert model.evaluate(X, y) == numbers.evaluate(X, SORTED)
    assert model.score(X, np.eye(3)[SORTED]) == model.score(X, y)


@pytest.mark.parametrize("net", [TWO, MLP([3, 4, 2], loss="softmax_cross_entropy")])
def test_two_classes(net: MLP) -> None:
    words, truth = np.where(X[:, 0] > 0, "up", "down"), X[:, 0] > 0
    numbers = portable_bp.fit(net, X, truth.astype(int), epochs=3)
    for y in (words, truth, pd.Series(truth, dtype="boolean"), truth.astype(object)):
        model = portable_bp.fit(net, X, y, epochs=3)
        np.testing.assert_array_equal(model.params[0][0], numbers.params[0][0])
        predicted = model.predict(X)
        assert predicted.tolist() == model.classes[numbers.predict(X)].tolist()
        assert predicted.dtype.kind == ("U" if y is words else "b")
        assert model.score(X, y) == numbers.score(X, truth)


@pytest.mark.parametrize("spec", ["torch", "jax", "strict"])
def test_labels_for_data_on_a_device(spec: str, usable: Callable[[str], Backend]) -> None:
    x, truth = usable(spec).asarray(X), usable(spec).asarray(X[:, 0] > 0)
    model = portable_bp.fit(MANY, x, WORDS, epochs=2)
    assert model.predict(x).tolist() == model.to("numpy").predict(X).tolist()
    assert model.score(x, WORDS) == pytest.approx(model.to("numpy").score(X, WORDS))
    booleans = portable_bp.fit(TWO, x, truth, epochs=2)
    assert type(booleans.predict(x)) is type(x)
    assert "bool" in str(booleans.predict(x).dtype)
    with pytest.raises(
        ValueError, match="y holds numbers, but the network was fitted with the labels"
    ):
        model.score(x, usable(spec).asarray(NUMBER))


def test_integers_and_wide_booleans_stay_as_they_are() -> None:
    assert portable_bp.fit(MANY, X, NUMBER, epochs=1).classes is None
    assert portable_bp.fit(MANY, X, NUMBER > 0, epochs=1).classes is None
    several = MLP([3, 4, 2], loss="log_loss")
    columns = portable_bp.fit(several, X, X[:, :2] > 0, epochs=1)
    assert columns.classes is None
    assert columns.predict(X).shape == (N, 2)


WRONG: list[tuple[MLP, Any, str]] = [
    (MANY, WORDS[:2].tolist() * 12, r"y has 2 classes \('ant', 'bee'\).*3 output\(s\).* learns 3"),
    (
        TWO,
        WORDS,
        r"y has 3 classes \('ant', 'bee', 'cow'\).*1 output\(s\) and loss='log_loss' learns 2",
    ),
    (MANY, ["a", "b", None] * 8, r"y has missing labels \(None\); fill or drop them first"),
    (MANY, ["a", "b", float("nan")] * 8, r"y has missing labels \(nan\)"),
    (MANY, pd.Series(["a", "b", None] * 8), "y has missing labels"),
    (MANY, pd.Series(["a", "b", None] * 8, dtype="category"), r"y has missing labels \(None\)"),
    (MANY, pl.Series(["a", "b", None] * 8), r"y has missing labels \(None\)"),
    (MANY, pa.array(["a", "b", None] * 8).dictionary_encode(), r"y has missing labels \(None\)"),
    (MANY, pd.Series([0, 1, None] * 8, dtype="Int64"), r"y has missing labels \(<NA>\)"),
    (MANY, ["a", 1, 2] * 8, "y mixes labels of the types int, text; use one type for all"),
    (MANY, [True, 1, 2] * 8, "y mixes labels of the types bool, int"),
    (MANY, ["a", "b", b"c"] * 8, "y mixes labels of the types bytes, text"),
    (MANY, WORDS[:, None], r"y holds text in the shape \(24, 1\); labels have the shape \(n,\)"),
    (TWO, pd.DataFrame({"y": WORDS}), r"y holds text in the shape \(24, 1\)"),
    (MANY, np.zeros(N, "datetime64[D]"), "as labels pass text, integers or booleans"),
    (MANY, WORDS.astype("S"), r"y holds bytes \(\|S3\); decode them to text first"),
    (MANY, [(1, 2)] * N, r"y has the shape \(24, 2\)"),
    (REAL, WORDS, "y holds text .*; convert it to numbers first"),
]


@pytest.mark.parametrize(("net", "y", "says"), WRONG)
def test_labels_that_are_none(net: MLP, y: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        portable_bp.fit(net, X, y, epochs=1)


def test_labels_that_were_not_there_in_fit() -> None:
    model = portable_bp.fit(MANY, X, WORDS, epochs=1)
    other = np.where(WORDS == "cow", "dog", WORDS)
    says = "classes that were not there in fit: 'dog'; known are 'ant', 'bee', 'cow'"
    for call in (
        lambda: model.score(X, other),
        lambda: portable_bp.fit(MANY, X, WORDS, validation=(X, other)),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(
        ValueError, match="y holds numbers, but the network was fitted with the labels"
    ):
        model.score(X, NUMBER)
    # Without fit there is nobody who knows which number a label has.
    with pytest.raises(ValueError, match="y holds text such as 'bee'; only labels handed to fit"):
        MANY.loss_and_gradients(model.params, X, WORDS)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "log_loss"])
def test_labels_and_names_are_kept_in_the_file(loss: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["a", "ä", "c"])
    net = MLP([3, 4, 3 if loss != "log_loss" else 1], loss=loss)
    y = WORDS if loss != "log_loss" else X[:, 0] > 0
    model = portable_bp.fit(net, frame, y, epochs=1)
    model.save(tmp_path / "m.safetensors")
    again = portable_bp.load(tmp_path / "m.safetensors")
    assert again.feature_names == ("a", "ä", "c")
    assert again.classes.tolist() == model.classes.tolist()
    assert again.predict(frame).tolist() == model.predict(frame).tolist()
    assert again.predict(frame).dtype == model.predict(frame).dtype
    moved = again.to("torch")
    assert (moved.feature_names, moved.classes.tolist()) == (
        again.feature_names,
        again.classes.tolist(),
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("classes", ["b", "a", "c"], "sorted and distinct"),
        ("classes", ["a", "a", "b"], "sorted and distinct"),
        ("classes", ["a", "b", 3], "must be text"),
        ("classes", [0, 1, 2], "must be text"),
        ("classes", ["a", "b"], r"2 classes for 3 output\(s\)"),
        ("classes", "abc", "classes"),
        ("feature_names", ["a"], "1 feature_names for 3 inputs"),
        ("feature_names", [1, 2, 3], "feature_names"),
    ],
)
def test_a_file_with_other_labels_or_names_is_refused(
    key: str, value: Any, says: str, tmp_path: Path
) -> None:
    from portable_bp.persistence import container
    from portable_bp.training.model import pack_model

    arrays, metadata = pack_model(portable_bp.fit(MANY, X, WORDS, epochs=1))
    container.write(tmp_path / "m", arrays, metadata | {key: value})
    with pytest.raises(CheckpointError, match=says):
        portable_bp.load(tmp_path / "m")
    with pytest.raises(ValueError, match=says):
        documents.check(arrays, metadata | {key: value})


def test_a_run_that_goes_on_keeps_its_labels(tmp_path: Path) -> None:
    portable_bp.fit(MANY, X, WORDS, epochs=2, checkpoint=tmp_path / "run")
    model = portable_bp.fit(MANY, X, WORDS, epochs=4, checkpoint=tmp_path / "run", resume=True)
    assert model.classes.tolist() == ["ant", "bee", "cow"]
    whole = portable_bp.fit(MANY, X, WORDS, epochs=4)
    np.testing.assert_array_equal(model.params[0][0], whole.params[0][0])


# --- names of features ----------------------------------------------------------------------------

NAMES = ["a", "b", "c"]
FRAMES: dict[str, Callable[[list[str]], Any]] = {
    "pandas": lambda names: pd.DataFrame(X, columns=names),
    "polars": lambda names: pl.DataFrame(X, schema=names),
    "pyarrow": lambda names: pa.table(dict(zip(names, X.T, strict=True))),
}
MATCH = "The feature names should match those that were passed during fit.\n"


@pytest.mark.parametrize("library", FRAMES)
def test_columns_have_to_be_those_of_fit(library: str) -> None:
    frame, y = FRAMES[library], X[:, 0]
    model = portable_bp.fit(REAL, frame(NAMES), y, epochs=1)
    assert model.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(
        model.params[0][0], portable_bp.fit(REAL, X, y, epochs=1).params[0][0]
    )
    for names, says in (
        (["b", "a", "c"], "Feature names must be in the same order as they were in fit.\n"),
        (["a", "b", "z"], "Feature names unseen at fit time:\n- z\n"
         "Feature names seen at fit time, yet now missing:\n- c\n"),
    ):  # fmt: skip
        for call in (model.predict, model.forward, lambda x: model.evaluate(x, y)):
            with pytest.raises(ValueError, match=re.escape(MATCH + says)):
                call(frame(names))
        with pytest.raises(ValueError, match=re.escape("validation X: " + MATCH)):
            portable_bp.fit(REAL, frame(NAMES), y, validation=(frame(names), y))
    model.score(frame(NAMES), y)
    with pytest.warns(
        UserWarning, match="X does not have valid feature names, but the network was"
    ):
        model.predict(X)


def test_names_that_are_no_text_are_not_kept() -> None:
    model = portable_bp.fit(REAL, pd.DataFrame(X), X[:, 0], epochs=1)
    assert model.feature_names is None
    model.predict(X)
    wide = pd.DataFrame(np.ones((N, 12)), columns=[f"f{i}" for i in range(12)])
    many = portable_bp.fit(MLP([12, 1]), wide, X[:, 0], epochs=1)
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- g0\n(- g\d\n){4}- \.\.\.\n"):
        many.predict(wide.rename(columns=lambda name: name.replace("f", "g")))


# --- integers under a loss for quantities ---------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (NUMBER, r"'softmax_cross_entropy' and 3 outputs"),
        (NUMBER.astype("uint8")[:, None], "'softmax_cross_entropy' and 3 outputs"),
        (pd.Series(NUMBER, dtype="Int64"), "'softmax_cross_entropy' and 3 outputs"),
        (torch.tensor(NUMBER), "'softmax_cross_entropy' and 3 outputs"),
        (NUMBER.tolist(), "'softmax_cross_entropy' and 3 outputs"),
        (np.arange(N) % 2, "'log_loss' and one output"),
        (X[:, 0] > 0, "'log_loss' and one output"),
    ],
    ids=["int64", "column", "Int64", "torch", "list", "two", "bool"],
)
def test_integer_labels_under_squared_error_are_told_once(y: Any, loss: str) -> None:
    says = (
        f"learns them as quantities. If they are classes, use loss={loss}; .* pass them as floats"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        portable_bp.fit(REAL, X, y, epochs=3, validation=0.2)
    assert len(caught) == 1
    assert issubclass(caught[0].category, UserWarning)
    assert re.search(says, str(caught[0].message))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "y",
    [
        NUMBER.astype(float),
        np.arange(N),  # each its own: a quantity
        18 + np.arange(N) % 5,  # ages
        2 * (np.arange(N) % 3),  # no class 1 and 3
        np.arange(N) % 12,  # counts of some width
        1 + np.arange(N) % 5,  # ratings
        np.zeros(N, int),
    ],
    ids=["floats", "index", "ages", "gaps", "counts", "ratings", "one value"],
)
def test_quantities_are_not_taken_for_labels(y: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        portable_bp.fit(REAL, X, y, epochs=1)


def test_other_losses_take_integers_silently() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in ("poisson", "absolute_error", "huber"):
            portable_bp.fit(MLP([3, 4, 1], loss=loss), X, NUMBER, epochs=1)
        portable_bp.fit(MLP([3, 4, 3]), X, np.eye(3, dtype=int)[NUMBER], epochs=1)


# --- errors name the loss -------------------------------------------------------------------------


def test_errors_name_the_loss_that_is_used() -> None:
    def value(o: Any, y: Any, xp: Any) -> Any:
        return (o - y) ** 2

    def gradient(o: Any, y: Any, xp: Any) -> Any:
        return 2 * (o - y)

    for target, y, says in (
        ("count", -1.0, "y must not be negative for rare_events, got -1"),
        ("binary", 2.0, r"y must lie in \[0, 1\] for rare_events, got 2"),
    ):
        loss = Loss(value, gradient, target=target, name="rare_events")
        with pytest.raises(ValueError, match=says):
            portable_bp.fit(MLP([3, 1], loss=loss), X, np.full(N, y))


# --- rows of weight 0 -----------------------------------------------------------------------------


def test_a_share_of_rows_that_weigh_nothing_is_refused() -> None:
    for rows, share, says in (
        (slice(0, 4), 0.1, "the held-out rows weigh nothing: with validation=0.1"),
        (slice(0, 4), 0.9, "the rows that are left weigh nothing: with validation=0.9"),
    ):
        weights = np.zeros(N)
        weights[rows] = 1
        refused = 0
        for seed in range(8):
            try:
                model = portable_bp.fit(
                    REAL, X, X[:, 0], validation=share, sample_weight=weights, epochs=1, seed=seed
                )
                assert np.isfinite(model.history["validation_loss"]).all()
            except ValueError as error:
                assert says in str(error)  # noqa: PT017
                refused += 1
        assert 0 < refused < 8
    with pytest.raises(ValueError, match="validation sample_weight is zero for every row"):
        portable_bp.fit(REAL, X, X[:, 0], validation=(X, X[:, 0], np.zeros(N)))
