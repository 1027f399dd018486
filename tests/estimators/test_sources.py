"""Estimators that are fitted on rows that stay in their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from portable_bp import sources
from portable_bp.errors import DataError
from portable_bp.estimators import MLPClassifier, MLPRegressor
from portable_bp.training import source_rows
from tests.helpers import killed_after

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 305
X = np.random.default_rng(0).standard_normal((N, 4))
LABELS = np.array([2, 5, 7])[np.abs(X[:, :3]).argmax(axis=1)]
Y = X[:, 0] * 2 + 1


def source(y: Any, window: int = 60, x: Any = X) -> sources.Arrays:
    return sources.Arrays(x, y, 12, window)


def classifier(**options: Any) -> MLPClassifier:
    settings: dict[str, Any] = {"max_iter": 4, "random_state": 1, "batch_size": 16}
    return MLPClassifier((6,), **settings | options)


def regressor(**options: Any) -> MLPRegressor:
    settings: dict[str, Any] = {"max_iter": 4, "random_state": 1, "batch_size": 16}
    return MLPRegressor(hidden_layer_sizes=(6,), **settings | options)


def same(one: Any, other: Any) -> None:
    assert one.loss_curve_ == other.loss_curve_
    for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_in_their_order_give_the_numbers_of_arrays() -> None:
    weights = np.random.default_rng(2).uniform(0, 1, N)
    for options in ({}, {"alpha": 0.5}, {"solver": "sgd", "learning_rate": "invscaling"}):
        settings = {"shuffle": False, **options}
        for w in (None, weights):
            same(classifier(**settings).fit(source(LABELS), sample_weight=w),
                 classifier(**settings).fit(X, LABELS, w))  # fmt: skip
            same(regressor(**settings).fit(source(Y), sample_weight=w),
                 regressor(**settings).fit(X, Y, w))  # fmt: skip
    balanced = {"class_weight": "balanced", "shuffle": False}
    same(classifier(**balanced).fit(source(LABELS)), classifier(**balanced).fit(X, LABELS))
    one = regressor(solver="lbfgs").fit(source(Y))
    assert one.loss_ == pytest.approx(regressor(solver="lbfgs").fit(X, Y).loss_, rel=1e-9)


def test_the_numbers_are_the_same_from_arrays_npy_and_parquet(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", LABELS)
    names = ["a", "b", "c", "d"]
    table = pa.table({**{n: X[:, j] for j, n in enumerate(names)}, "y": LABELS})
    pq.write_table(table, tmp_path / "xy.parquet", row_group_size=12)
    text = table.set_column(4, "y", pa.array(LABELS.astype(str)))
    pq.write_table(text, tmp_path / "text.parquet", row_group_size=12)
    mine = classifier(early_stopping=True).fit(source(LABELS))
    assert mine.classes_.tolist() == [2, 5, 7]
    assert len(mine.validation_scores_) == 4
    opened = sources.open(tmp_path / "x.npy", tmp_path / "y.npy", block_rows=12, window_rows=60)
    same(classifier(early_stopping=True).fit(opened), mine)
    parquet = classifier(early_stopping=True).fit(
        sources.open(tmp_path / "xy.parquet", "y", window_rows=60)
    )
    same(parquet, mine)
    assert parquet.feature_names_in_.tolist() == names
    words = classifier(early_stopping=True).fit(
        sources.open(tmp_path / "text.parquet", "y", window_rows=60)
    )
    same(words, mine)
    assert words.classes_.tolist() == ["2", "5", "7"]
    assert words.predict(table.to_pandas()[names][:1])[0] in {"2", "5", "7"}


def test_a_source_shuffles_by_the_random_state() -> None:
    one, again, other = (regressor(random_state=s).fit(source(Y)) for s in (1, 1, 2))
    same(one, again)
    assert one.loss_curve_ != other.loss_curve_
    assert one.loss_curve_ != regressor(shuffle=False).fit(source(Y)).loss_curve_


def test_rows_to_judge_by() -> None:
    held = (X[:50] + 0.1, LABELS[:50])
    arrays = classifier(early_stopping=True).fit(source(LABELS), validation_data=held)
    mine = classifier(early_stopping=True).fit(
        source(LABELS), validation_data=source(held[1], x=held[0])
    )
    same(arrays, mine)
    assert arrays.validation_scores_ == pytest.approx(mine.validation_scores_, rel=1e-12)
    np.testing.assert_allclose(arrays.validation_loss_curve_, mine.validation_loss_curve_)
    other = classifier(early_stopping=True).fit(
        X, LABELS, validation_data=source(held[1], x=held[0])
    )
    assert len(other.validation_scores_) == 4
    binary = classifier(early_stopping=True).fit(source(LABELS == 2))
    assert binary.n_outputs_ == 1
    assert binary.classes_.tolist() == [False, True]
    r2 = regressor(early_stopping=True).fit(source(Y), validation_data=(X, Y))
    mine_r2 = regressor(early_stopping=True).fit(source(Y), validation_data=source(Y))
    np.testing.assert_allclose(mine_r2.validation_scores_, r2.validation_scores_, rtol=1e-9)


def test_a_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = regressor(early_stopping=True).fit(source(Y))
    with killed_after(23):
        regressor(early_stopping=True).fit(
            source(Y), checkpoint=tmp_path / "run", checkpoint_every=1
        )
    again = regressor(early_stopping=True).fit(source(Y), checkpoint=tmp_path / "run", resume=True)
    same(again, whole)
    assert again.validation_scores_ == whole.validation_scores_


def test_warm_start_goes_on() -> None:
    est = classifier(warm_start=True).fit(source(LABELS))
    before = est.loss_
    assert est.fit(source(LABELS)).loss_ < before
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        est.fit(source(np.where(LABELS == 2, 3, LABELS)))


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (lambda: classifier().fit(source(LABELS), LABELS), TypeError, "alone, without y"),
        (lambda: regressor().partial_fit(source(Y), None), TypeError, "alone"),
        (lambda: classifier().fit(source(Y)), ValueError, "Unknown label type"),
        (lambda: classifier().fit(source(np.eye(3)[LABELS % 3])), ValueError, "one label a row"),
        (lambda: regressor().fit(source(np.zeros((N, 0)))), ValueError, "source has no target"),
        (
            lambda: regressor(loss="quantile", quantile=[0.1, 0.9]).fit(source(Y)),
            ValueError, "one quantile is learnt at a time",
        ),
        (
            lambda: regressor(early_stopping=True, scoring="r2").fit(source(Y)),
            ValueError, "scoring needs the rows to judge by in memory",
        ),
        (
            lambda: classifier().fit(source(LABELS), validation_data=source(LABELS + 1)),
            DataError, r"y, row \d+: the class [38] is none of those learnt",
        ),
        (
            lambda: regressor().fit(source(np.where(np.arange(N) == 9, np.nan, Y))),
            DataError, "y, row 9: the target NaN is no number",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(work: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        work()


def test_a_memory_map_that_does_not_fit_is_read_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(source_rows, "physical_memory", lambda: X.nbytes)
    monkeypatch.setattr(source_rows, "WINDOW_BYTES", 60 * 40)
    est = classifier(shuffle=False, class_weight={2: 2.0}).fit(mapped, LABELS)
    same(est, classifier(shuffle=False, class_weight={2: 2.0}).fit(X, LABELS))
    held = classifier(early_stopping=True).fit(mapped, LABELS)
    assert held.loss_curve_ != classifier(early_stopping=True).fit(X, LABELS).loss_curve_
