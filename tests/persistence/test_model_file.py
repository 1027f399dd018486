"""Models as files: the same bits on every backend, and nothing but models."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest

import portable_bp
from portable_bp import Activation, Loss, tabular
from portable_bp.backend import leaves
from portable_bp.equations import activations, losses
from portable_bp.errors import CheckpointError
from portable_bp.persistence import container
from tests.helpers import jax_64_bits

GOLDEN = Path(__file__).parent / "data" / "models"
X = np.linspace(-1, 1, 20).reshape(10, 2)
Y = X[:, 0] * X[:, 1]


def trained(backend="numpy", dtype="float32", **options):
    net = portable_bp.MLP([2, 3, 1], **{"hidden": "tanh", **options})
    return portable_bp.fit(
        net, X, Y, epochs=4, batch_size=4, validation=0.2, backend=backend, dtype=dtype
    )


def host(model):
    with model.backend.scope():
        return [model.backend.to_numpy(p) for p in leaves(model.params)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_on_one_backend_and_loaded_on_the_others(where, dtype, tmp_path, usable):
    model = trained(where, dtype)
    model.save(tmp_path / "m.safetensors")
    for spec in {where.spec, "numpy", "strict"}:
        again = portable_bp.load(tmp_path / "m.safetensors", backend=usable(spec))
        assert again.backend.spec == spec
        for p, q in zip(host(model), host(again), strict=True):
            assert p.dtype == q.dtype == dtype
            assert p.tobytes() == q.tobytes()
        assert again.net.describe() == model.net.describe()
        assert (again.history, again.stopped) == (model.history, model.stopped)
    again = portable_bp.load(tmp_path / "m.safetensors", where)
    assert np.array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize("name", sorted(activations.ACTIVATIONS))
def test_every_activation_comes_back(name, tmp_path):
    trained(hidden=name).save(tmp_path / "m")
    assert portable_bp.load(tmp_path / "m").net.hidden[0].name == name


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("hidden", activations.leaky_relu(slope=0.3)),
        ("hidden", activations.elu(0.5)),
        ("loss", losses.huber(0.7)),
        ("loss", losses.quantile(0.9)),
        ("loss", losses.absolute_error()),
    ],
    ids=lambda v: getattr(v, "name", v),
)
def test_parameters_of_activations_and_losses_come_back(part, value, tmp_path):
    trained(**{part: value}).save(tmp_path / "m")
    net = portable_bp.load(tmp_path / "m").net
    found = net.loss if part == "loss" else net.hidden[0]
    assert (found.name, found.parameters) == (value.name, value.parameters)


def sine(name):
    return Activation(lambda z, xp: xp.sin(z), lambda z, a, xp: xp.cos(z), name=name)


def square(name):
    return Loss(lambda o, y, xp: (o - y) ** 2, lambda o, y, xp: 2 * (o - y), name=name)


@pytest.mark.parametrize("name", ["mine", "tanh", "leaky_relu"])
def test_an_activation_of_the_users_is_refused_before_anything_is_written(name, tmp_path):
    """A borrowed name must not come back as the function that we have under it."""
    with pytest.raises(ValueError, match=f"'{name}' is not one of portable_bp's own"):
        trained(hidden=sine(name)).save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mine", "squared_error", "huber"])
def test_a_loss_of_the_users_is_refused_before_anything_is_written(name, tmp_path):
    (tmp_path / "m").write_text("old")
    with pytest.raises(ValueError, match=f"'{name}' is not one of portable_bp's own"):
        trained(loss=square(name)).save(tmp_path / "m")
    assert (tmp_path / "m").read_text() == "old"


def test_files_of_another_kind_say_what_they_are(tmp_path):
    net = portable_bp.MLP([2, 3, 1])
    portable_bp.fit(net, X, Y, epochs=1, checkpoint=tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("*.safetensors")
    with pytest.raises(CheckpointError, match=r"the checkpoint of a run: go on with .*resume=True"):
        portable_bp.load(checkpoint)
    for kind in ("other", 3, None, ["model"]):
        container.write(tmp_path / "m", {}, {"kind": kind})
        with pytest.raises(CheckpointError, match="is no model of portable_bp"):
            portable_bp.load(tmp_path / "m")


def changed(*path, **values):
    """Sets ``values`` in the part of the metadata that ``path`` leads to."""

    def change(arrays, metadata):
        for key in path:
            metadata = metadata[key]
        metadata.update(values)

    return change


def without(*path):
    def change(arrays, metadata):
        part = arrays if path[0] in arrays else metadata
        for key in path[:-1]:
            part = part[key]
        part.pop(path[-1])

    return change


def recast(to, **also):
    def change(arrays, metadata):
        arrays.update({name: a.astype(to) for name, a in arrays.items()})
        metadata.update(also)

    return change


def row_of(**values):
    return changed("history", 1, **values)


HUGE = 10**400

WRONG = [
    # what is changed, and what the error says
    (without("W2"), r"arrays \['W2'\] are missing"),
    (lambda a, m: a.update(W9=a["W1"]), r"\['W9'\] are unknown"),
    (without("network"), "metadata lacks 'network'"),
    (without("history"), "metadata lacks 'history'"),
    (without("dtype"), "metadata lacks 'dtype'"),
    (changed(surprise=1), "unknown key 'surprise'"),
    (changed(network=[]), r"metadata\['network'\] must be an object"),
    (changed("network", surprise=1), "unknown key 'surprise'"),
    (changed("network", sizes=[2, 4, 1]), "array 'W1' must be float32 of shape"),
    (changed("network", sizes=[2, 10**12, 1]), "array 'W1' must be float32 of shape"),
    (changed("network", sizes=[2, HUGE, 1]), r"sizes'\]\[1\] must be an integer"),
    (changed("network", sizes="abc"), "sizes'] must be a list".replace("]", r"\]")),
    (changed("network", sizes=[2, 3.5, 1]), r"sizes'\]\[1\] must be an integer"),
    (changed("network", sizes=[2, True, 1]), r"sizes'\]\[1\] must be an integer"),
    (changed("network", sizes=[2]), "a list of at least 2"),
    (changed("network", hidden=[{"name": "__import__"}]), "unknown name '__import__'"),
    (changed("network", hidden=[{"name": "relu", "slope": 1}]), "network: .*slope"),
    (changed("network", hidden=[{"name": "elu", "alpha": HUGE}]), "that a float can hold"),
    (changed("network", hidden=[{"name": "elu", "alpha": float("nan")}]), "finite number"),
    (changed("network", hidden=[{"name": ["relu"]}]), "must be text"),
    (changed("network", hidden=[7]), "must be an object"),
    (changed("network", hidden=[]), "hidden has 0 entries for 1 hidden"),
    (changed("network", loss={"name": "squared_error", "__class__": 1}), "network: "),
    (changed("network", loss={"name": "softmax_cross_entropy"}), "at least 2"),
    (changed("network", loss=None), "must be an object"),
    (changed("network", dropout=[2]), "from 0 to 1"),
    (changed("network", dropout=[1.0]), r"dropout .*\[0, 1\)"),
    (changed("network", dropout=[0.1, 0.1]), "dropout has 2 entries"),
    (changed("network", l2=-1.0), r"l2'\] must be a number from 0"),
    (changed("network", l2=float("inf")), "finite number"),
    (changed("network", l2=HUGE), "that a float can hold"),
    (changed("network", initializer="surprise"), "initializer"),
    (recast("int8", dtype="int8"), r"dtype'\] must be one of 'float32', 'float64'"),
    (recast("float16", dtype="float16"), r"dtype'\] must be one of"),
    (recast("int32"), "array 'W1' must be float32 .* is int32"),
    (recast("float64"), "array 'W1' must be float32 .* is float64"),
    (lambda a, m: a.update(b1=a["b1"].astype("float64")), "array 'b1' must be float32"),
    (lambda a, m: a.update(b1=a["b1"][:, None]), "array 'b1' must be float32 of shape"),
    (changed(history=3), r"history'\] must be a list"),
    (changed(history=[3]), r"history'\]\[0\] must be an object"),
    (changed(history={"loss": [1.0]}), r"history'\] must be a list"),
    (row_of(loss="low"), r"history'\]\[1\]\['loss'\]"),
    (row_of(loss=None), r"history'\]\[1\]\['loss'\]"),
    (row_of(loss=True), r"history'\]\[1\]\['loss'\]"),
    (row_of(loss=[0.5]), r"history'\]\[1\]\['loss'\]"),
    (row_of(loss=HUGE), r"\['loss'\] must be a number that a float can hold"),
    (row_of(loss=-HUGE), r"\['loss'\] must be a number that a float can hold"),
    (row_of(loss=float("nan")), r"\['loss'\] must be a finite number"),
    (row_of(learning_rate=float("inf")), r"\['learning_rate'\] must be a finite number"),
    (row_of(validation_loss=HUGE), "that a float can hold"),
    (row_of(surprise=1.0), r"history'\]\[1\] has the columns"),
    (without("history", 1, "loss"), r"history'\]\[1\] has the columns"),
    (changed(stopped=["finished"]), r"stopped'\] must be one of"),
    (changed(stopped="bored"), r"stopped'\] must be one of"),
    (changed(stopped=None), r"stopped'\] must be one of"),
    (changed(best_epoch="3"), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=1.5), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=True), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=0), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=-1), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=HUGE), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=float("nan")), r"best_epoch'\] must be an integer"),
    (changed(best_epoch=5), "best_epoch is 5, and the history has 4"),
    (changed(classes=["a", "b"]), "classes for the loss 'squared_error', which has none"),
    (changed(classes=["a"]), "a list of at least 2"),
    (changed(classes=[["a"], ["b"]]), "classes must be text"),
    (changed(feature_names=["a"]), "1 feature_names for 2 inputs"),
    (changed(backend=3), r"backend'\] must be text"),
    (changed(backend="x" * 200_000), "at most 100000 characters"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=range(len(WRONG)))
def test_a_file_with_a_right_checksum_and_wrong_contents(change, words, tmp_path):
    trained().save(tmp_path / "m")
    arrays, metadata = container.read(tmp_path / "m")
    change(arrays, metadata)
    container.write(tmp_path / "m", arrays, metadata)
    with pytest.raises(CheckpointError, match=f"m: contents: .*{words}"):
        portable_bp.load(tmp_path / "m")


def test_a_loss_on_held_out_rows_may_overflow(tmp_path):
    model = trained()
    model.history.epochs[2]["validation_loss"] = np.inf
    model.history.epochs[1]["validation_r2"] = np.float32("nan")
    model.save(tmp_path / "m")
    again = portable_bp.load(tmp_path / "m")
    assert again.history["validation_loss"][2] == np.inf
    assert np.isnan(again.history["validation_r2"][1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model: setattr(model, "stopped", "bored"), "stopped"),
        (lambda model: setattr(model, "best_epoch", 7), "best_epoch is 7"),
        (lambda model: model.history.append({"loss": 1.0}), "has the columns"),
        (lambda model: model.params[0][0].fill(np.nan), "not finite"),
    ],
)
def test_nothing_is_saved_that_could_not_be_loaded(spoil, words, tmp_path):
    model = trained()
    spoil(model)
    with pytest.raises(ValueError, match=words):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def tabular_contents():
    return container.read(GOLDEN / f"tabular-v{container.VERSION}.safetensors")


def array_of(name, value):
    return lambda arrays, metadata: arrays.update({name: np.asarray(value)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(features=["x"]), "1 features and 2 outputs do not fit"),
        (changed(features=["x", "x"]), "a column comes twice"),
        (changed(features=["x", "kind"]), "a column comes twice"),
        (changed(features=["x", 3]), r"features'\]\[1\] must be text"),
        (changed(features="xy"), "must be a list"),
        (changed(features=[]), "a list of at least 1"),
        (changed(target=None), r"target'\] must be text"),
        (changed(task="guess"), r"task'\] must be one of"),
        (changed(task="regression"), "the task 'regression' with 2 classes"),
        (changed(classes=[]), "the task 'classification' with 0 classes"),
        (changed(classes=["a"]), "with 1 classes"),
        (changed(classes=["a", "a"]), "a class comes twice"),
        (changed(classes=["a", "b", "c"]), "2 features and 3 outputs"),
        (changed(classes=["a", "\ud800"]), "text that UTF-8 can hold"),
        (changed(classes=["a", None]), r"classes'\]\[1\]"),
        (changed(classes=["a", ["b"]]), r"classes'\]\[1\]"),
        (changed(classes=["a", HUGE]), r"classes'\]\[1\]"),
        (changed(classes=["a", float("nan")]), r"classes'\]\[1\]"),
        (changed("model", "network", loss={"name": "log_loss"}), "the loss 'log_loss'"),
        (changed("model", "network", loss={"name": "squared_error"}), "the loss 'squared_error'"),
        (changed("model", classes=["a", "b"]), "has no classes of its own"),
        (changed("model", feature_names=["x", "y"]), "has no feature_names of its own"),
        (changed(surprise=1), "unknown key 'surprise'"),
        (without("feature_mean"), "are missing"),
        (array_of("feature_mean", [1.0]), "array 'feature_mean' must be float64 of shape"),
        (array_of("feature_mean", np.float32([1, 2])), "array 'feature_mean' must be float64"),
        (array_of("feature_scale", [1.0, 0.0]), "a scale that is not positive"),
        (array_of("target_scale", -1.0), "a scale that is not positive"),
        (array_of("target_scale", [1.0]), "array 'target_scale' must be float64 of shape"),
        (array_of("target_mean", np.int8(1)), "array 'target_mean' must be float64"),
        (changed("model", dtype="int8"), r"dtype'\] must be one of"),
        (changed("model", kind="tabular"), r"kind'\] must be one of"),
        (changed("model", best_epoch=-1), "best_epoch"),
        (without("model"), "metadata lacks 'model'"),
    ],
)
def test_a_tabular_file_with_a_right_checksum_and_wrong_contents(
    change, words, tabular_contents, tmp_path
):
    arrays, metadata = copy.deepcopy(tabular_contents)
    change(arrays, metadata)
    container.write(tmp_path / "m", arrays, metadata)
    with pytest.raises(CheckpointError, match=f"m: contents: .*{words}"):
        tabular.load(tmp_path / "m")


@pytest.mark.parametrize("version", range(1, container.VERSION + 1))
def test_models_of_every_version_load_and_mean_the_same(version):
    """Against the numbers in the files, by the formulas, without our code."""
    table = runpy.run_path(str(GOLDEN / "make_golden.py"))["table"]()
    x = np.column_stack([table.columns["x"], table.columns["y"]])
    model = portable_bp.load(GOLDEN / f"model-v{version}.safetensors")
    whole = tabular.load(GOLDEN / f"tabular-v{version}.safetensors")
    arrays, _ = container.read(GOLDEN / f"tabular-v{version}.safetensors")
    standard = (x - arrays["feature_mean"]) / arrays["feature_scale"]
    z = standard @ arrays["W1"] + arrays["b1"]
    o = np.where(z > 0, z, 0.2 * z) @ arrays["W2"] + arrays["b2"]
    shares = np.exp(o) / np.exp(o).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.forward(standard), shares, rtol=1e-4)
    np.testing.assert_allclose(whole.probabilities(table), shares, rtol=1e-4)
    labels = ["above θ" if share[0] > 0.5 else "below" for share in shares]
    assert whole.predict(table) == labels
    assert np.mean(np.asarray(labels) == table.columns["kind"]) > 0.9
    assert model.net.describe() == whole.model.net.describe()
    assert (model.net.l2, model.net.dropout) == (0.001, (0.1,))
    assert len(model.history["loss"]) == 40


def test_a_golden_model_of_an_untidy_table_means_the_same():
    """Its columns turned into numbers here, by hand."""
    golden = runpy.run_path(str(GOLDEN / "make_golden.py"))
    table, path = golden["untidy_table"](), GOLDEN / "columns-v1.safetensors"
    arrays, metadata = container.read(path)
    cells = table.columns
    missing = np.asarray([cell is None for cell in cells["price"]])
    price = np.asarray([3.4 if c is None else float(c.replace(",", ".")) for c in cells["price"]])
    towns = np.stack([cells["town"] == town for town in ("Bern", "Ōsaka", None)], axis=1)
    seconds = cells["day"].astype("M8[s]").astype(float)
    angle = seconds * (2 * np.pi / (365.2425 * 86400 / 12))
    x = np.column_stack(
        [price, missing, towns, cells["open"] == "yes", seconds, np.sin(angle), np.cos(angle)]
    )
    z = (x - arrays["feature_mean"]) / arrays["feature_scale"] @ arrays["W1"] + arrays["b1"]
    o = np.maximum(z, 0) @ arrays["W2"] + arrays["b2"]
    shares = np.exp(o) / np.exp(o).sum(axis=1, keepdims=True)
    model = tabular.load(path)
    np.testing.assert_allclose(model.probabilities(table), shares, rtol=1e-3, atol=1e-6)
    assert np.mean(np.asarray(model.predict(table)) == cells["kind"]) > 0.9
    assert [column["kind"] for column in metadata["columns"]] == [
        "number", "category", "boolean", "date",
    ]  # fmt: skip


def column(i, **entries):
    def change(arrays, metadata):
        metadata["columns"][i].update(entries)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (column(0, fill=float("nan")), r"fill'\] must be a finite number"),
        (column(0, notation="roman"), r"notation'\] must be one of"),
        (column(0, is_marked=1), r"is_marked'\] must be one of"),
        (column(0, is_marked=False), "the columns have 8 inputs, and 9 features are named"),
        (column(0, kind="text"), r"kind'\] must be one of"),
        (column(0, kind="category"), "lacks 'features', 'values'"),
        (column(0, name="town"), "a column comes twice"),
        (column(0, name="kind"), "a column comes twice"),
        (column(0, code="import os"), "has an unknown key 'code'"),
        (column(1, values=["Bern", "Bern"]), "a value comes twice"),
        (column(1, values=["Bern"]), "array 'codes1' must be float64 of shape"),
        (column(3, periods=[0.0]), "must be a number from 1e-06"),
        (array_of("codes1", np.zeros((4, 3), np.float32)), "array 'codes1' must be float64"),
        (array_of("codes0", np.zeros((4, 3))), "'codes0'.* unknown"),
    ],
)
def test_columns_with_a_right_checksum_and_wrong_contents(change, words, tmp_path):
    arrays, metadata = container.read(GOLDEN / "columns-v1.safetensors")
    change(arrays, metadata)
    container.write(tmp_path / "m", arrays, metadata)
    with pytest.raises(CheckpointError, match=f"m: contents: .*{words}"):
        tabular.load(tmp_path / "m")


def test_float64_is_not_narrowed_where_jax_has_none(tmp_path, usable):

    trained(dtype="float64").save(tmp_path / "m")
    backend = usable("jax")
    with jax_64_bits(False), pytest.raises(TypeError, match="float64"):
        portable_bp.load(tmp_path / "m", backend)
