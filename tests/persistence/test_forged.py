"""Files with a right checksum and contents that were changed at random, by someone who knows the form.

Whatever comes of them: a CheckpointError when they are loaded, or something that works as what it
says it is. Never another error, never one that comes later, and never many steps or much memory.
"""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import textwrap
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

import portable_bp
from portable_bp import (
    CheckpointError,
    CheckpointWarning,
    DivergenceError,
    EarlyStopping,
    datasets,
    tabular,
)
from portable_bp.estimators import MLPRegressor
from portable_bp.persistence import container

X = np.random.default_rng(1).normal(size=(12, 3))
Y = np.sin(X[:, 0])
NET = portable_bp.MLP([3, 4, 1], "tanh", dropout=0.1)
CALLS = 30_000
"""Calls of functions that a load, or a resumed run of a few steps, may take."""

JUNK = [
    None, True, False, -1, 0, 1, 2, 3.5, 10**9, 10**12, 2**63, 2**64, 10**400, -(10**400), 1e308,
    -1e308, 5e-324, float("nan"), float("inf"), -float("inf"), "", "x", "nan", "1", "relu", "\0",
    "\ud800", "x" * 5_000, [], {}, [1], [[]], [None] * 3, {"name": "relu"}, {"loss": 1.0},
    {"x": {"x": 1}}, [0.5] * 300, "squared_error", "log_loss", "softmax_cross_entropy", "softmax",
    {"name": "squared_error"}, {"name": "log_loss"}, ["a", "b"],
]  # fmt: skip


def forged(arrays, metadata):
    """A file with a digest that is right, whatever the contents."""
    document = {"format": "portable_bp", "version": container.VERSION, "metadata": metadata}
    text = json.dumps(document)
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    return safetensors_bytes(arrays, {"portable_bp": f"{container._digest(text, arrays)} {text}"})


def places(value, path=()):
    """The path to every value within a tree of JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))
        else:
            yield (*path, key)


def spoil_metadata(metadata, rng):
    *path, last = rng.choice([p for p in places(metadata) if p])
    parent = metadata
    for key in path:
        parent = parent[key]
    value, way = parent[last], rng.randrange(10)
    if way < 4:
        parent[last] = copy.deepcopy(rng.choice(JUNK))
    elif way == 4:
        del parent[last]
    elif way == 5:
        other = metadata
        for key in rng.choice([*places(metadata)]):
            other = other[key]
        parent[last] = copy.deepcopy(other)
    elif way == 6 and isinstance(parent, dict):
        parent[rng.choice(["x", last + "s", "classes", "feature_names", "kind"])] = value
    elif way == 7 and isinstance(value, list):
        parent[last] = rng.choice([value * 2, value[1:], value[::-1], [value]])
    elif way == 8 and type(value) in (int, float):
        plain = float(value) if abs(value) < 2**1000 else value
        parent[last] = rng.choice([-value, value + 1, value - 1, plain, value * 2**70])
    else:
        for _ in range(rng.choice([1, 70])):
            parent[last] = [parent[last]]


def spoil_arrays(arrays, rng):
    name = rng.choice(sorted(arrays))
    a, way = arrays[name], rng.randrange(8)
    dtypes = ["int8", "uint8", "int64", "float16", "float32", "float64", "bool"]
    if way == 0:
        arrays[name] = a.astype(rng.choice(dtypes))
    elif way == 1:
        del arrays[name]
    elif way == 2:
        arrays[rng.choice(["W3", "b0", "x", "best/9", "state/0/0", "losses", "", name + "0"])] = a
    elif way == 3:
        arrays[name] = a.reshape(rng.choice([(-1,), (1, -1), (-1, 1), (1, 1, -1)]))
    elif way == 4:
        arrays[name] = rng.choice(
            [a.T, a[:0] if a.ndim else a, a[None], np.concatenate([a.ravel()] * 2)]
        )
    elif way == 5:
        arrays[name] = np.full_like(a, rng.choice([0, -1, 1e300, np.nan, np.inf]))
    elif way == 6:
        arrays[name] = arrays[rng.choice(sorted(arrays))]
    else:
        arrays[name] = np.zeros(rng.choice([(), (0,), (0, 3), (1,) * 32, (3, 0, 2)]), "f4")


def mutants(contents, n, seed):
    """Files like one with ``contents``, each with one to three changes."""
    rng = random.Random(seed)
    for _ in range(n):
        arrays, metadata = dict(contents[0]), copy.deepcopy(contents[1])
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            if arrays and rng.random() < 0.25:
                with np.errstate(all="ignore"):  # casts of infinity
                    spoil_arrays(arrays, rng)
            elif metadata:
                spoil_metadata(metadata, rng)
        yield forged(arrays, metadata)


def bounded(work):
    """The result of ``work``, which may take :data:`CALLS` calls."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call"
        if count > CALLS:
            raise AssertionError(f"more than {CALLS} calls")

    sys.setprofile(profile)
    try:
        return work()
    finally:
        sys.setprofile(None)


def outcomes(contents, n, seed, path, use):
    """What became of each mutant: refused when it was loaded, or whole."""
    for i, data in enumerate(mutants(contents, n, seed)):
        path.write_bytes(data)
        try:
            use() if i % 8 else bounded(use)  # counting takes longer than the work
        except CheckpointError as error:
            yield "refused" if len(str(error)) < 2_000 else "wordy"
        except BaseException as error:
            raise AssertionError(f"mutant {i} of seed {seed}: {error!r}") from error
        else:
            yield "whole"


def model_contents(tmp_path):
    labels = np.where(Y > 0, "plus", "minus")
    net = portable_bp.MLP([3, 4, 1], portable_bp.activations.elu(0.5), loss="log_loss", l2=0.1)
    model = portable_bp.fit(net, X, labels, epochs=3, validation=0.2, early_stopping=2)
    model.save(tmp_path / "m")
    return container.read(tmp_path / "m")


def use_model(path):
    def use():
        model = portable_bp.load(path)
        predicted = model.predict(X)
        assert len(predicted) == len(X)
        with suppress(ValueError):  # what is predicted may not do as what is to be learnt
            model.score(X, predicted)
        assert all(len(model.history[name]) == len(model.history.epochs) for name in model.history)
        assert repr(model)
        assert model.best_epoch is None or model.history.epochs[model.best_epoch - 1]
        model.save(path)
        assert portable_bp.load(path).net.describe() == model.net.describe()

    return use


TABLE = datasets.Table("t", {"a": X[:, 0], "b": X[:, 1], "c": np.asarray(["u", "v"] * 6, "O")})


def tabular_contents(tmp_path):
    ready = tabular.prepare(TABLE, "c")
    model = portable_bp.fit(ready.network([3]), *ready.part(ready.parts.train), epochs=2)
    tabular.TabularModel(ready.preparation, model).save(tmp_path / "t")
    return container.read(tmp_path / "t")


def use_tabular(path):
    def use():
        model = tabular.load(path)
        columns = {name: np.ones(3) for name in model.preparation.features}
        table = datasets.Table("t", columns)
        with suppress(datasets.DataError):  # too far from the means and scales in the file
            assert len(model.predict(table)) == 3
        model.save(path)
        assert tabular.load(path).preparation.features == model.preparation.features

    return use


def run(directory, **options):
    return portable_bp.fit(
        NET, X, Y, epochs=2, batch_size=4, validation=(X, Y), checkpoint=directory,
        early_stopping=EarlyStopping(9), compile=False, **options,
    )  # fmt: skip


def run_contents(tmp_path):
    run(tmp_path / "whole", checkpoint_every=2, checkpoint_keep=9)
    return container.read(tmp_path / "whole" / "ckpt-0000000004.safetensors")


def use_run(path):
    def use():
        for other in path.parent.glob("ckpt-*"):
            if other != path:
                other.unlink()
        with warnings.catch_warnings(), suppress(DivergenceError):  # of a rate of 1e308, say
            warnings.simplefilter(
                "ignore", CheckpointWarning
            )  # an error follows: it is the only one
            assert run(path.parent, resume=True).history.epochs

    return use


def fit_estimator(directory, **options):
    est = MLPRegressor(
        hidden_layer_sizes=(4,), max_iter=2, batch_size=4, random_state=0, early_stopping=True,
        validation_fraction=0.3,
    )  # fmt: skip
    with warnings.catch_warnings(), suppress(DivergenceError):
        # Too few epochs, scores of -inf by a huge rate, and a checkpoint that is skipped: an error
        # follows the last, since it is the only one.
        warnings.simplefilter("ignore", UserWarning)
        return est.fit(X, Y, checkpoint=directory, checkpoint_keep=9, **options)


def estimator_contents(tmp_path):
    fit_estimator(tmp_path / "estimator", checkpoint_every=3)
    return container.read(tmp_path / "estimator" / "ckpt-0000000003.safetensors")


def use_estimator(path):
    def use():
        for other in path.parent.glob("ckpt-*"):
            if other != path:
                other.unlink()
        est = fit_estimator(path.parent, resume=True)
        assert est is None or len(est.predict(X)) == len(X)

    return use


def sweep(tmp_path, report, n, seed, name="more "):
    for kind, contents, use, share in [
        ("model", model_contents, use_model, 9),
        ("tabular model", tabular_contents, use_tabular, 8),
        ("checkpoint", run_contents, use_run, 2),
        ("checkpoint of an estimator", estimator_contents, use_estimator, 1),
    ]:
        folder = tmp_path / kind
        folder.mkdir()
        path = folder / "ckpt-0000000004.safetensors"
        found = [*outcomes(contents(tmp_path), n * share // 20, seed, path, use(path))]
        report(f"{name}random contents of a {kind}, with a digest that is right", found)
        assert "refused" in found


def test_random_contents(tmp_path, report):
    sweep(tmp_path, report, 500, 7, name="")


@pytest.mark.slow
def test_many_random_contents(tmp_path, report):
    sweep(tmp_path, report, 200_000, 8)


BOUNDED = """
import resource, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tests.persistence.test_forged as forged

def report(name, found):
    pass

with tempfile.TemporaryDirectory() as folder:
    forged.sweep(Path(folder), report, 50, 1, name="")  # whatever is imported on the way
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with tempfile.TemporaryDirectory() as folder:
    forged.sweep(Path(folder), report, int(sys.argv[2]), 9, name="")
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process in /proc")
@pytest.mark.slow
def test_random_contents_take_little_memory():
    """256 MiB beyond those of the libraries."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(BOUNDED), str(root), "4000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.stdout == "done\n", done.stderr
