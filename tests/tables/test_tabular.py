"""From a table to a network and back: tasks, labels, units, splits, and the file that keeps them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import portable_bp
from portable_bp import tabular
from portable_bp.datasets import DataError, Table, digits
from portable_bp.errors import CheckpointError
from portable_bp.persistence import container
from portable_bp.tabular import TabularModel, infer_task, prepare

RNG = np.random.default_rng(0)


def text(*values):
    return np.asarray(values, dtype=object)


def pets(n=60, **columns):
    weight = np.linspace(1, 30, n)
    kind = np.where(weight > 9, "dog", "cat").astype(object)
    age = np.random.default_rng(1).uniform(0, 15, n)
    return Table("pets", {"weight": weight, "age": age, "kind": kind, **columns})


# ----------------------------------------------------------------------------------- the task


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (text("a", "b"), "classification"),
        (np.asarray([True, False]), "classification"),
        (np.asarray([0, 1, 1]), "classification"),
        (np.asarray([-1.0, 1.0]), "classification"),
        (np.arange(20).repeat(5), "classification"),
        (np.arange(20.0).repeat(5), "classification"),
        (np.arange(21).repeat(5), "regression"),
        (np.arange(20).repeat(5)[1:], "regression"),
        (np.arange(12), "regression"),
        (np.asarray([0.0, 0.5]), "regression"),
        (np.asarray([np.inf, 1.0]), "regression"),
    ],
)
def test_the_task_follows_from_the_target(values, task):
    found, why = infer_task(values)
    assert found == task
    assert why.startswith("target ")


def test_the_task_can_be_chosen():
    table = Table("t", {"x": RNG.normal(size=40), "grade": np.arange(4).repeat(10)})
    assert prepare(table, "grade").preparation.classes == (0, 1, 2, 3)
    ready = prepare(table, "grade", "regression")
    assert ready.preparation.classes == ()
    assert ready.why == "as asked"
    halves = Table("t", {"x": RNG.normal(size=40), "y": np.asarray([0.5, 1.5]).repeat(20)})
    assert prepare(halves, "y").preparation.task == "regression"
    assert prepare(halves, "y", "classification").preparation.classes == (0.5, 1.5)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (text("b", "a", "b"), ("a", "b")),
        (np.asarray([True, False, True]), (False, True)),
        (np.asarray([7, -1, 7], np.int8), (-1, 7)),
        (np.asarray([2**64 - 1, 0, 0], np.uint64), (0, 2**64 - 1)),
        (np.asarray([1.0, 2.0, 2.0], np.float32), (1, 2)),
    ],
)
def test_labels_are_kept(values, classes):
    values = np.tile(values, 5)
    ready = prepare(Table("t", {"x": np.arange(15.0), "y": values}), "y", "classification")
    assert ready.preparation.classes == classes
    assert [type(c) for c in ready.preparation.classes] == [type(c) for c in classes]
    assert ready.preparation.labels(ready.y) == values.tolist()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (text("up", 1), "row 1: column 'y' mixes values of different types, such as 'up' and 1"),
        (text(1, "up"), "row 1: column 'y' mixes"),
        (text("up", float("nan")), "row 1: column 'y' has a missing value"),
        (text(1, None), "row 1: column 'y' has a missing value"),
        (text("up", pd.NA), "row 1: column 'y' has a missing value"),
        (text(b"up", b"down"), "mixes|neither"),
        (np.asarray([b"up", b"down"]), "neither numbers nor text"),
        (np.zeros((2, 2)), "'y' has the shape"),
        (np.asarray([1 + 0j, 2]), "neither numbers nor text"),
    ],
)
def test_columns_of_mixed_and_missing_values(values, words):
    columns = {"x": np.zeros(60), "y": np.concatenate([values] * 30)}
    with pytest.raises(DataError, match=words):
        prepare(Table("t", columns), "y")


@pytest.mark.parametrize(
    "values",
    [
        ["up", "down"] * 30,
        np.asarray(["up", "down"] * 30),
        np.asarray(["up", "down"] * 30, np.dtypes.StringDType()),
        pd.Series(["up", "down"] * 30),
        pd.Series(["up", "down"] * 30, dtype="category"),
    ],
)
def test_text_of_every_container(values):
    table = Table("t", {"x": range(60), "y": values})
    assert prepare(table, "y").preparation.classes == ("down", "up")


def test_objects_that_are_all_numbers_are_numbers():
    values = text(*[2**60, 2**60 + 1] * 30)
    ready = prepare(Table("t", {"x": np.arange(60), "y": values}), "y", "classification")
    assert ready.preparation.classes == (2**60, 2**60 + 1)


def test_columns_of_other_lengths_and_names():
    with pytest.raises(DataError, match="'b' has 3 rows, the first has 2"):
        Table("t", {"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(DataError, match="name of a column must be text, not 7"):
        Table("t", {7: [1, 2]})


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (pets(kind=text(*["cat"] * 60)), {"target": "kind"}, "every row has the class 'cat'"),
        (pets(kind=text(*[f"k{i}" for i in range(60)])), {"target": "kind"}, "different class"),
        (pets(kind=np.ones(60)), {"target": "kind"}, "every row has the class 1 in"),
        (pets(), {}, "name the column to learn"),
        (pets(), {"target": "price"}, "no column 'price'"),
        (pets(), {"target": "kind", "drop": ["price"]}, "no column 'price'"),
        (pets(), {"target": "kind", "drop": ["age", "weight"]}, "no column to learn from"),
        (pets(), {"target": "kind", "task": "regression"}, "'cat' in column 'kind' is not a"),
        (pets(), {"target": "age"}, "'cat' in column 'kind' is not a number"),
        (pets(age=np.full(60, np.nan)), {"target": "kind"}, "row 0: column 'age' has a missing"),
        (pets(age=np.full(60, np.inf)), {"target": "kind"}, "row 0: column 'age' has an infinite"),
        (pets(y=np.full(60, np.inf)), {"target": "y", "drop": ["kind"]}, "'y' has an infinite"),
        (pets(kind=text(*[None] * 60)), {"target": "kind"}, "'kind' has a missing value"),
        (pets(4), {"target": "kind"}, "leaves none to test on"),
        (pets(when=np.zeros(60, "M8[s]")), {"target": "kind"}, "'when' holds neither"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from(table, options, words):
    with pytest.raises(DataError, match=words) as caught:
        prepare(table, **{"test_share": 0.1, **options})
    assert "\n" not in str(caught.value)
    assert "pets" in str(caught.value)


# --------------------------------------------------------------------------------------- units


def test_each_feature_is_brought_to_mean_0_and_deviation_1_of_the_training_rows():
    n = 500
    table = Table(
        "t",
        {
            "small": RNG.normal(3e-310, 1e-311, n),
            "large": RNG.normal(1e300, 1e299, n),
            "both": RNG.choice([-1e308, 1e308], n),
            "offset": RNG.normal(1e6, 1.0, n),
            "count": RNG.integers(0, 5, n),
            "yes": RNG.integers(0, 2, n).astype(bool),
            "constant": np.full(n, 0.1),
            "zero": np.zeros(n),
            "y": RNG.integers(0, 2, n),
        },
    )
    ready = prepare(table, "y")
    Z = ready.X[ready.parts.train]
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(Z.std(axis=0), [1, 1, 1, 1, 1, 1, 0, 0], rtol=1e-3)
    assert not ready.X[:, 6:].any()
    assert ready.preparation.scale[6:].tolist() == [1, 1]
    assert abs(ready.X[ready.parts.test].mean(axis=0)[:6]).max() > 1e-3  # their mean is not used


def rounded(values, dtype=float, n=300):
    return np.resize(np.asarray(values, dtype), n)


@pytest.mark.parametrize(
    "column",
    [
        rounded([0.3, 0.1 + 0.2]),
        rounded([1e9 * (0.1 + 0.2), 0.3e9]),
        rounded([0.1, np.nextafter(np.float32(0.1), np.float32(1))], np.float32),
        rounded([0.1, np.nextafter(np.float16(0.1), np.float16(1))], np.float16),
        np.diff(0.1 * np.arange(301)),
        rounded([1 / 3, 1 - 2 / 3]),
        rounded([7]),
        text(*["0.3", "0.30000000000000004"] * 150),
    ],
    ids=["0.3", "large", "float32", "float16", "differences", "thirds", "integers", "text"],
)
def test_a_column_that_is_constant_but_for_rounding_is_not_scaled(column):
    """scikit-learn's StandardScaler takes scale 1 for most of these; none may blow up later."""
    x = RNG.normal(size=300)
    p = prepare(Table("t", {"x": x, "c": column, "y": 2 * x + 1}), "y").preparation
    assert p.scale[1] == 1
    new = Table("new", {"x": [0.5] * 2, "c": [float(column[0]), float(column[0]) + 0.01]})
    np.testing.assert_allclose(p.inputs(new)[:, 1], [0, 0.01], atol=1e-3)


@pytest.mark.parametrize(
    "column",
    [
        rounded([10**12, 10**12 + 1], np.int64),
        rounded([1.7e9, 1.7e9 + 1]),
        rounded([1e-310, 2e-310]),
        rounded([1, 1 + 1e-9]),
        rounded([2000, 2000.5], np.float32),
    ],
)
def test_a_column_that_varies_a_little_is_scaled(column):
    ready = prepare(Table("t", {"c": column, "y": RNG.normal(size=300)}), "y")
    assert ready.X[ready.parts.train].std() == pytest.approx(1, rel=1e-3)


def test_a_target_that_is_constant_but_for_rounding():
    y = rounded([0.3, 0.1 + 0.2])
    p = prepare(Table("t", {"x": RNG.normal(size=300), "y": y}), "y").preparation
    assert p.target_scale == 1


def test_pixels_share_one_unit():
    ready = prepare(digits())
    assert np.unique(ready.preparation.mean).size == np.unique(ready.preparation.scale).size == 1
    Z = ready.X[ready.parts.train]
    assert Z.mean() == pytest.approx(0, abs=1e-12)
    assert Z.std() == pytest.approx(1)


def test_columns_are_found_by_name():
    ready = prepare(pets(), "kind")
    p = ready.preparation
    rows = Table("new", {"extra": text("x"), "age": np.asarray([3.0]), "weight": np.asarray([9])})
    expected = (np.asarray([[9, 3.0]]) - p.mean) / p.scale
    np.testing.assert_array_equal(p.inputs(rows), expected)
    with pytest.raises(DataError, match="new lacks 1 of the 2 columns needed: 'weight'"):
        p.inputs(Table("new", {"age": np.ones(2)}))
    with pytest.raises(DataError, match="new, row 1: column 'age' has a missing value"):
        p.inputs(Table("new", {"age": np.asarray([1, np.nan]), "weight": np.ones(2)}))


def test_a_value_beyond_all_numbers_says_where():
    n = 50
    table = Table("t", {"x": RNG.normal(size=n) * 1e-300, "y": RNG.integers(0, 2, n)})
    p = prepare(table, "y").preparation
    with pytest.raises(DataError, match="new, row 1: column 'x' is too far from the training data"):
        p.inputs(Table("new", {"x": np.asarray([0.0, 1e300])}))


# -------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_split_in_the_same_shares(seed):
    sizes = [100, 50, 10, 3, 2, 1]
    y = np.repeat(np.arange(6), sizes)
    table = Table("t", {"x": RNG.normal(size=len(y)), "y": RNG.permutation(y)})
    ready = prepare(table, "y", test_share=0.3, seed=seed)
    assert np.array_equal(np.sort(np.concatenate(ready.parts)), np.arange(len(y)))
    counts = [np.bincount(ready.y[part], minlength=6) for part in ready.parts]
    train, _, test = counts
    assert abs(test - 0.3 * np.asarray(sizes)).max() <= 1
    assert abs(test.sum() - 0.3 * len(y)) <= 1
    assert train.min() >= 1


def test_the_seed_chooses_the_rows():
    parts = [prepare(pets(), "kind", seed=seed).parts for seed in (1, 1, 2)]
    assert np.array_equal(parts[0].test, parts[1].test)
    assert not np.array_equal(parts[0].test, parts[2].test)


def test_many_small_classes_leave_rows_to_test_on():
    y = np.arange(50).repeat(2)
    table = Table("t", {"x": RNG.normal(size=100), "y": y})
    parts = prepare(table, "y", "classification").parts
    assert len(parts.test) == 20
    assert set(y[parts.train]) == set(range(50))


# --------------------------------------------------------------------------------- the results


def fitted(ready, **options):
    net = ready.network([8], hidden="tanh")
    options = {"epochs": 60, "learning_rate": 0.02, "batch_size": 16} | options
    return TabularModel(
        ready.preparation, portable_bp.fit(net, *ready.part(ready.parts.train), **options)
    )


def test_a_quantity_comes_back_in_its_unit():
    x = RNG.normal(size=(400, 2))
    y = 1e6 + 1e5 * (x[:, 0] - 2 * x[:, 1])
    table = Table("t", {"a": x[:, 0], "b": x[:, 1], "y": y})
    ready = prepare(table, "y")
    assert ready.y[ready.parts.train].std() == pytest.approx(1)
    found = np.asarray(fitted(ready).predict(table))
    assert 1 - np.var(found - y) / np.var(y) > 0.99
    assert abs(np.mean(found - y)) < 1e4


def test_probabilities():
    ready = prepare(pets(), "kind")
    model = fitted(ready)
    shares = model.probabilities(pets())
    assert shares.shape == (60, 2)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert model.preparation.labels(shares.argmax(axis=1)) == model.predict(pets())
    numbers = fitted(prepare(pets(), "age", drop=["kind"]), epochs=1)
    with pytest.raises(ValueError, match="no probabilities"):
        numbers.probabilities(pets())


# ------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("target", ["kind", "age"])
def test_saved_and_loaded_on_every_backend(where, target, tmp_path):
    ready = prepare(pets(), target, drop=["kind"] if target == "age" else [])
    model = fitted(ready, epochs=1, backend=where, compile=False)
    model.save(tmp_path / "m.safetensors")
    again = tabular.load(tmp_path / "m.safetensors", where)
    assert again.predict(pets()) == model.predict(pets())
    a, b = again.preparation, model.preparation
    assert (a.features, a.target, a.task, a.classes) == (b.features, b.target, b.task, b.classes)
    assert (a.target_mean, a.target_scale) == (b.target_mean, b.target_scale)
    for p, q in ((a.mean, b.mean), (a.scale, b.scale)):
        assert p.tobytes() == q.tobytes()
    on_host = tabular.load(tmp_path / "m.safetensors", "numpy").predict(pets())
    if target == "kind":
        assert on_host == model.predict(pets())
    else:
        np.testing.assert_allclose(on_host, model.predict(pets()), rtol=1e-5)


@pytest.mark.parametrize("values", [text("é\n", ""), [True, False], [3, 2**60], [0.5, -1e300]])
def test_labels_of_every_type_come_back(values, tmp_path):
    labels = np.asarray(values, dtype=None if values[0] != "é\n" else object)
    labels = np.where(labels == "", "b", labels) if labels.dtype == object else labels
    table = Table("t", {"x": np.arange(20.0), "y": np.tile(labels, 10)})
    fitted(prepare(table, "y", "classification"), epochs=1).save(tmp_path / "m")
    classes = tabular.load(tmp_path / "m").preparation.classes
    assert sorted(classes) == sorted(labels.tolist())
    assert {type(c) for c in classes} == {type(c) for c in labels.tolist()}


def test_a_network_by_itself_and_a_table_model_are_not_mixed_up(tmp_path):
    model = fitted(prepare(pets(), "kind"), epochs=1)
    model.save(tmp_path / "table")
    model.model.save(tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"portable_bp\.tabular\.load reads it"):
        portable_bp.load(tmp_path / "table")
    with pytest.raises(CheckpointError, match=r"by itself: portable_bp\.load reads it"):
        tabular.load(tmp_path / "net")


@pytest.mark.parametrize(
    "change",
    [
        {"features": ["weight"]},
        {"features": ["weight", 3]},
        {"features": None},
        {"task": "clustering"},
        {"task": "regression"},
        {"classes": []},
        {"classes": ["cat"]},
        {"classes": ["cat", "dog", "bird"]},
        {"classes": ["cat", None]},
        {"target": 7},
        {"model": None},
        {"model": {}},
        {"feature_mean": np.zeros(3)},
        {"feature_mean": np.zeros((2, 1))},
        {"feature_scale": np.zeros(2)},
        {"target_scale": np.asarray(0.0)},
        {"target_mean": np.zeros(1)},
    ],
    ids=lambda c: f"{next(iter(c))}-{next(iter(c.values()))}".replace("\n", ""),
)
def test_a_file_with_a_right_checksum_and_wrong_contents(change, tmp_path):
    fitted(prepare(pets(), "kind"), epochs=1).save(tmp_path / "m")
    arrays, metadata = container.read(tmp_path / "m")
    for key, value in change.items():
        (arrays if key in arrays else metadata)[key] = value
    container.write(tmp_path / "m", arrays, metadata)
    with pytest.raises(CheckpointError, match=str(tmp_path / "m")):
        tabular.load(tmp_path / "m")
