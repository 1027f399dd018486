"""Models as files: the same bits on every backend, and nothing but models."""

from __future__ import annotations

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


def without(key):
    def change(arrays, metadata):
        (arrays if key in arrays else metadata).pop(key)

    return change


def change_network(**changes):
    return lambda arrays, metadata: metadata["network"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        without("W2"),
        without("network"),
        without("history"),
        without("dtype"),
        change_network(sizes=[2, 4, 1]),
        change_network(sizes=[2, 10**12, 1]),
        change_network(sizes="abc"),
        change_network(sizes=[2, 3.5, 1]),
        change_network(hidden=[{"name": "__import__"}]),
        change_network(hidden=[{"name": "relu", "slope": 1}]),
        change_network(hidden=[7]),
        change_network(loss={"name": "squared_error", "__class__": 1}),
        change_network(loss=None),
        change_network(dropout=[2]),
        change_network(surprise=1),
        lambda arrays, metadata: arrays.update(W1=arrays["W1"].astype(np.float64)),
        lambda arrays, metadata: arrays.update(W1=arrays["W1"].astype(np.int32)),
        lambda arrays, metadata: metadata.update(network=[]),
    ],
)
def test_a_file_with_a_right_checksum_and_wrong_contents(change, tmp_path):
    trained().save(tmp_path / "m")
    arrays, metadata = container.read(tmp_path / "m")
    change(arrays, metadata)
    container.write(tmp_path / "m", arrays, metadata)
    with pytest.raises(CheckpointError, match="holds no network that can be rebuilt"):
        portable_bp.load(tmp_path / "m")


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


def test_float64_is_not_narrowed_where_jax_has_none(tmp_path, usable):
    import jax

    trained(dtype="float64").save(tmp_path / "m")
    backend = usable("jax")
    with jax.enable_x64(False), pytest.raises(TypeError, match="float64"):
        portable_bp.load(tmp_path / "m", backend)
