"""Every public object through pickle, cloudpickle, joblib, copy and deepcopy: fresh and used."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cloudpickle
import joblib
import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, Activation, EarlyStopping, History, Loss, datasets, tabular
from portable_bp.backend import leaves
from portable_bp.equations import activations, losses, optimizers, schedules
from portable_bp.errors import BackendError
from portable_bp.estimators import MLPClassifier, MLPRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


def through_joblib(value):
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "joblib": through_joblib,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def trained(backend, **options):
    net = MLP([3, 4, 1], activations.leaky_relu(0.2), losses.log_loss())
    options = {"epochs": 3, "batch_size": 16, **options}
    return portable_bp.fit(net, X, Y, backend=backend, **options)


def test_models_predict_the_same(where):
    """Fresh, and after predictions, which compile a function that no pickle can hold."""
    model = trained(where)
    fresh = {name: way(model) for name, way in WAYS.items()}
    before = model.forward(X)
    model.score(X, Y)
    used = {f"{name}, used": way(model) for name, way in WAYS.items()}
    for name, again in (fresh | used).items():
        assert again.backend is model.backend, name
        assert (again.history, again.stopped, again.best_epoch) == (model.history, "finished", None)
        assert again.net.describe() == model.net.describe()
        with where.scope():
            for p, q in zip(leaves(again.params), leaves(model.params), strict=True):
                assert type(p) is type(q), name
                assert np.array_equal(where.to_numpy(p), where.to_numpy(q)), name
    for name in ("pickle", "copy", "deepcopy"):
        assert np.array_equal(used[f"{name}, used"].forward(X), before), name
        assert np.array_equal(pickle.loads(pickle.dumps(fresh[name])).forward(X), before), name


def test_a_deep_copy_shares_no_array_and_a_copy_shares_all():
    model = trained("numpy")
    deep, flat = copy.deepcopy(model), copy.copy(model)
    assert flat.params is model.params
    before = model.forward(X)
    for p in leaves(deep.params):
        p[...] = 0
    deep.history.append({"loss": 0.0})
    assert np.array_equal(model.forward(X), before)
    assert len(model.history["loss"]) == 3


def test_a_pool_of_processes_predicts_with_a_model():
    model = trained("numpy")
    model.predict(X)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(model.predict, X).result(), model.predict(X))


def test_a_model_of_a_backend_that_is_not_here_comes_to_numpy():
    model = trained("numpy")
    state = model.__getstate__() | {"backend": "cupy:7"}
    again = portable_bp.Model.__new__(portable_bp.Model)
    with pytest.warns(UserWarning, match=r"was on cupy:7, which cannot be used here .* to NumPy"):
        again.__setstate__(state)
    assert again.backend.spec == "numpy"
    assert np.array_equal(again.forward(X), model.forward(X))


def sine(z, xp):
    return xp.sin(z)


def cosine(z, a, xp):
    return xp.cos(z)


def absolute(o, y, xp):
    return xp.abs(o - y)


def sign(o, y, xp):
    return xp.sign(o - y)


@ways
def test_functions_of_the_users(way):
    """What pickle can hold of them: a function of a module; cloudpickle holds any."""
    if way is WAYS["cloudpickle"]:
        wave = Activation(lambda z, xp: xp.sin(z), lambda z, a, xp: xp.cos(z), name="relu")
    else:
        wave = Activation(sine, cosine, name="relu")  # a borrowed name must not become our function
    net = MLP([3, 4, 1], wave, Loss(absolute, sign, "mine"))
    model = portable_bp.fit(net, X, Y, epochs=2)
    again = way(model)
    assert np.array_equal(again.forward(X), model.forward(X))
    assert (again.net.loss.name, again.net.hidden[0].name) == ("mine", "relu")


@ways
@pytest.mark.parametrize(
    "part",
    [make() for make in (*activations.ACTIVATIONS.values(), *losses.LOSSES.values())]
    + [activations.elu(0.5), losses.huber(0.3), losses.quantile(0.9)],
    ids=lambda part: part.name,
)
def test_activations_and_losses_come_back_by_name(part, way):
    again = way(part)
    assert type(again) is type(part)
    assert (again.name, again.parameters) == (part.name, part.parameters)
    a, b = np.linspace(0.1, 0.9, 6).reshape(2, 3), np.eye(3)[:2]
    if isinstance(part, Activation):
        assert np.array_equal(again.f(a, np), part.f(a, np))
        assert np.array_equal(again.vjp(b, a, a, np), part.vjp(b, a, a, np))
    else:
        assert np.array_equal(again.value(a, b, np), part.value(a, b, np))
        assert np.array_equal(again.gradient(a, b, np), part.gradient(a, b, np))


@ways
def test_plain_values(way):
    early = EarlyStopping(3, monitor="loss")
    model = trained("numpy", early_stopping=early)
    values = [
        *(make() for make in optimizers.OPTIMIZERS.values()),
        *(make() for make in schedules.SCHEDULES.values()),
        early,
        EarlyStopping(),
        History([{"loss": 1.0}]),
        model.history,
    ]
    for value in values:
        again = way(value)
        assert type(again) is type(value)
        assert again == value


@ways
def test_backends_are_one_for_each_device(where, way):
    assert way(where) is where


@ways
def test_networks_and_their_start(way):
    net = MLP([3, 4, 2], "elu", "softmax_cross_entropy", l2=0.1, dropout=0.2)
    started = MLP([3, 4, 2], initializer=net.init(1))
    for one in (net, started):
        again = way(one)
        assert repr(again) == repr(one)
        for p, q in zip(leaves(again.init(5)), leaves(one.init(5)), strict=True):
            assert np.array_equal(p, q)


def test_what_a_callback_is_shown_outlives_the_run(where):
    kept, params = [], []

    def keep(end):
        kept.append([way(end) for name, way in WAYS.items() if name != "copy"])
        with where.scope():
            params.append([where.to_numpy(p) for p in leaves(end.params())])

    trained(where, epochs=2, callbacks=[keep])
    for epoch, (ends, then) in enumerate(zip(kept, params, strict=True), start=1):
        for end in ends:
            assert end.epoch == epoch
            with where.scope():
                for p, q in zip(leaves(end.params()), then, strict=True):
                    assert type(p) is type(where.asarray(q))
                    assert np.array_equal(where.to_numpy(p), q)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_estimators(where, kind):
    with where.scope():
        inputs = where.asarray(X.astype("float32"))
    est = kind(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
    unfitted = [way(est).get_params() for way in WAYS.values()]
    assert unfitted == [est.get_params()] * len(WAYS)
    with pytest.warns(Warning, match="Maximum iterations"):
        est.fit(inputs, Y)
    fresh = [way(est) for way in WAYS.values()]
    with where.scope():
        before = where.to_numpy(est.predict(inputs))
        for again in (*fresh, *(way(est) for way in WAYS.values())):
            assert np.array_equal(where.to_numpy(again.predict(inputs)), before)


@ways
def test_tables_and_their_models(way, tmp_path):
    table = datasets.Table("signs", {"x": X[:, 0], "y": X[:, 1], "kind": Y.astype(str).astype("O")})
    ready = tabular.prepare(way(table), "kind")
    net = ready.network([4])
    model = tabular.TabularModel(
        ready.preparation, portable_bp.fit(net, *ready.part(ready.parts.train), epochs=2)
    )
    before = model.predict(table)
    assert way(model).predict(way(table)) == before
    assert np.array_equal(way(ready.preparation).inputs(table), ready.preparation.inputs(table))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n\n3,4\n")
    loaded = way(datasets.load(str(tmp_path / "t.csv")))
    assert loaded.numbers(["b"]).tolist() == [[2.0], [4.0]]
    assert loaded.place(1) == "line 4"
    assert way(loaded.take(np.asarray([1]))).place(0) == "line 4"


def write_excel(path):
    import openpyxl

    book = openpyxl.Workbook()
    for row in (["a", "b"], [1, "x"], [3, "y"]):
        book.active.append(row)
    book.save(path)


WRITTEN = {
    "t.csv": lambda path: path.write_text("a,b\n1,x\n3,y\n"),
    "t.jsonl": lambda path: path.write_text('{"a": 1, "b": "x"}\n{"a": 3, "b": "y"}\n'),
    "t.xlsx": write_excel,
}


@ways
@pytest.mark.parametrize("name", WRITTEN)
def test_tables_of_files(way, name, tmp_path):
    WRITTEN[name](tmp_path / name)
    table = datasets.load(str(tmp_path / name))
    again = way(table)
    assert again.numbers(["a"]).tolist() == [[1.0], [3.0]]
    assert [*again.column("b")] == ["x", "y"]
    assert [again.place(0), again.place(1)] == [table.place(0), table.place(1)]


@ways
def test_errors(way):
    error = way(portable_bp.DivergenceError("words", trained("numpy")))
    assert str(error) == "words"
    assert error.model.stopped == "finished"
    assert str(way(BackendError("words"))) == "words"
