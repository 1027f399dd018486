"""Nothing lost: exact resume at every step, signals, kill -9, divergence, streaming."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import portable_bp
from portable_bp import DivergenceError, EarlyStopping, schedules
from portable_bp.backend import leaves
from portable_bp.errors import CheckpointError
from portable_bp.persistence import container
from portable_bp.persistence.checkpoints import CheckpointDirectory
from portable_bp.training import checkpointing, data, trainer
from portable_bp.training.checkpointing import Checkpointing

RNG = np.random.default_rng(0)
X = RNG.normal(size=(47, 3)).astype("float32")
Y = (np.sin(X[:, 0]) + X[:, 1] ** 2).astype("float32")
NET = portable_bp.MLP([3, 8, 8, 1], hidden="tanh", dropout=0.2, l2=1e-3)


class Stop(Exception):
    """Stands for whatever ends a process between two steps."""


def run(directory=None, net=NET, **options):
    settings = {"epochs": 5, "batch_size": 8, "validation": 0.2, "seed": 3, **options}
    if directory is not None:
        settings = {"checkpoint_every": 1, "checkpoint": directory} | settings
    return portable_bp.fit(net, X, Y, **settings)


def numbers(model):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in model.history.epochs]
    return rows, [np.asarray(model.backend.to_numpy(p)) for p in leaves(model.params)]


def assert_same(a, b):
    rows, params = numbers(a)
    other_rows, other_params = numbers(b)
    assert rows == other_rows
    for p, q in zip(params, other_params, strict=True):
        np.testing.assert_array_equal(p, q)


def stop_after(monkeypatch, steps):
    """Let the run die at the save after ``steps`` steps, the checkpoint being on the disk."""
    save = Checkpointing.save

    def dying(self, trainer, final=False):
        save(self, trainer, final)
        if trainer.steps == steps:
            raise Stop

    monkeypatch.setattr(Checkpointing, "save", dying)


def resume_everywhere(tmp_path, monkeypatch, steps, **options):
    whole = run(**options)
    for step in steps:
        directory = tmp_path / str(step)
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            with pytest.raises(Stop):
                run(directory, **options)
        assert_same(run(directory, resume=True, **options), whole)


OPTIMIZERS = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"]
THIRTY = {"epochs": 6}
"""Thirty steps: of 47 rows 37 are learnt from, 8 at a time."""
WAYS = {
    **{name: {"optimizer": name, "learning_rate": 0.01} for name in OPTIMIZERS},
    "plateau, early stopping, weights": {
        "learning_rate": schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1),
        "early_stopping": EarlyStopping(2),
        "sample_weight": np.linspace(0.5, 1, 47),
    },
    "plateau": {
        "learning_rate": schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1, threshold=0.3)
    },
    "one cycle, clipping": {"learning_rate": schedules.OneCycle(0.05), "clip_norm": 0.1},
    "warm-up, last parameters": {
        "learning_rate": schedules.LinearWarmup(0.05, warmup=12),
        "early_stopping": EarlyStopping(3, restore_best=False),
    },
    "no validation, no shuffle": {"validation": None, "shuffle": False, "epochs": 5},
    "no loss": {"report_loss": False, "optimizer": "nesterov"},
    "whole batches": {"batch_size": None, "epochs": 30, "learning_rate": schedules.Cosine(0.1)},
}


def resumed(tmp_path, whole, points, train):
    """Resume from each of these checkpoints, each time to the same bits as the whole run."""
    for point in points:
        directory = tmp_path / point.stem
        directory.mkdir()
        shutil.copy(point, directory)
        assert_same(train(checkpoint=directory, resume=True, checkpoint_every=10**6), whole)
        yield "whole"


RESUMED = "a run stopped after any of its steps, and resumed"


@pytest.mark.parametrize("way", WAYS)
def test_resume_at_every_step_of_a_run_of_thirty(tmp_path, report, way):
    """From each checkpoint of a run that saves after every step, to the same bits as that run."""

    def train(**more):
        return run(**THIRTY | {"compile": False} | WAYS[way] | more)

    whole = train(checkpoint=tmp_path / "whole", checkpoint_every=1, checkpoint_keep=100)
    assert_same(train(), whole)
    points = sorted((tmp_path / "whole").glob("ckpt-*"))
    assert len(points) >= (20 if "early_stopping" in WAYS[way] else 30)
    report(RESUMED, resumed(tmp_path, whole, points, train))
    if way == "plateau":
        assert len(set(whole.history["learning_rate"])) == 3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_of_compiled_steps(tmp_path, report, optimizer):
    net = portable_bp.MLP([3, 4, 1], hidden="tanh", dropout=0.2 if optimizer == "adamw" else 0)

    def train(**more):
        return run(**THIRTY | {"net": net, "optimizer": optimizer, "validation": None} | more)

    whole = train(checkpoint=tmp_path / "whole", checkpoint_every=1, checkpoint_keep=100)
    assert_same(train(), whole)
    points = sorted((tmp_path / "whole").glob("ckpt-*"))
    report(RESUMED, resumed(tmp_path, whole, points[2::5], train))


def test_resume_from_streamed_rows(tmp_path, monkeypatch, report):
    """A memory map that is read piece by piece, with checkpoints in the middle of a piece."""
    np.save(tmp_path / "x.npy", X.astype("float64"))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(data, "CHUNK_BYTES", 250)
    monkeypatch.setattr(data.DeviceData, "chunks", None)

    def train(**more):
        options = {"epochs": 5, "batch_size": 8, "seed": 3, "optimizer": "adamw", "compile": False}
        return portable_bp.fit(NET, mapped, Y, **options | more)

    whole = train(checkpoint=tmp_path / "whole", checkpoint_every=1, checkpoint_keep=100)
    points = sorted((tmp_path / "whole").glob("ckpt-*"))
    assert len(points) == 30
    report(RESUMED, resumed(tmp_path, whole, points, train))


def test_resume_after_death_at_a_step(tmp_path, monkeypatch):
    resume_everywhere(tmp_path, monkeypatch, [1, 10, 24], compile=False)


@pytest.mark.parametrize(
    ("backend", "compile"),
    [("torch", True), ("torch", False), ("jax", True), ("strict", False)],
)
def test_resume_on_every_backend(tmp_path, monkeypatch, backend, compile):
    # Without dropout: compiling its random bits takes JAX seconds.
    net = portable_bp.MLP([3, 8, 1], hidden="tanh")
    options = {
        "net": net, "backend": backend, "compile": compile, "epochs": 2, "optimizer": "adamw",
        "validation": None,
        "learning_rate": schedules.OneCycle(0.05), "sample_weight": np.linspace(0.5, 1, 47),
    }  # fmt: skip
    resume_everywhere(tmp_path, monkeypatch, [8], **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "backend"),
    [(way, "torch") for way in WAYS]
    + [("adamw", "jax"), ("plateau", "jax"), ("adamw", "strict"), ("plateau", "strict")],
)
def test_resume_at_every_step_on_other_backends(tmp_path, report, way, backend):
    def train(**more):
        return run(**THIRTY | WAYS[way] | {"backend": backend} | more)

    whole = train(checkpoint=tmp_path / "whole", checkpoint_every=1, checkpoint_keep=100)
    points = sorted((tmp_path / "whole").glob("ckpt-*"))
    report(RESUMED, resumed(tmp_path, whole, points[::5], train))


def test_a_finished_run_is_not_run_again_and_can_be_made_longer(tmp_path):
    first = run(tmp_path / "a")
    assert_same(run(tmp_path / "a", resume=True), first)
    longer = run(tmp_path / "a", resume=True, epochs=7)
    assert_same(longer, run(epochs=7))


def test_a_longer_run_needs_rates_that_do_not_depend_on_its_length(tmp_path):
    run(tmp_path / "a", learning_rate=schedules.Cosine(0.1), epochs=2)
    with pytest.raises(CheckpointError, match=r"of a run of 2 epochs, here are 4.*epochs=2"):
        run(tmp_path / "a", resume=True, learning_rate=schedules.Cosine(0.1), epochs=4)
    fixed = schedules.Cosine(0.1, total_steps=20)
    run(tmp_path / "b", learning_rate=fixed, epochs=2)
    longer = run(tmp_path / "b", resume=True, learning_rate=fixed, epochs=4)
    assert_same(longer, run(learning_rate=fixed, epochs=4))


def test_checkpoints_come_at_the_end_of_each_epoch_by_default(tmp_path):
    portable_bp.fit(NET, X, Y, epochs=3, batch_size=8, checkpoint=tmp_path / "a", checkpoint_keep=2)
    names = sorted(p.name for p in (tmp_path / "a").glob("ckpt-*"))
    assert names == ["ckpt-0000000012.safetensors", "ckpt-0000000018.safetensors"]


def test_the_last_checkpoint_is_of_the_end_of_the_run(tmp_path):
    """Whatever the interval; only the end of a run is called complete."""
    model = run(tmp_path / "a", checkpoint_every=7)
    with CheckpointDirectory(tmp_path / "a") as kept:
        assert kept.steps() == (14, 21, 25)
        found = kept.latest()
        before = container.read(kept.path / "ckpt-0000000021.safetensors")[1]
    assert found.metadata["status"] == "complete"
    assert before["status"] == "running"
    for i, layer in enumerate(model.params):
        for j, p in enumerate(layer):
            np.testing.assert_array_equal(found.arrays[f"state/0/{i}/{j}"], p)


GOLDEN = Path(__file__).parents[1] / "persistence" / "data" / "ckpt"


@pytest.mark.parametrize("version", range(1, container.VERSION + 1))
def test_checkpoints_of_every_version_are_gone_on_with(tmp_path, version):
    """From the middle of an epoch; another machine's bits may differ in the last place."""
    golden = runpy.run_path(str(GOLDEN / "make_golden.py"))["run"]
    shutil.copy(GOLDEN / f"run-v{version}.safetensors", tmp_path / f"ckpt-{6:010d}.safetensors")
    model, whole = golden(checkpoint=tmp_path, resume=True), golden()
    assert len(model.history["loss"]) == 3
    for name in set(whole.history) - {"seconds"}:
        np.testing.assert_allclose(model.history[name], whole.history[name], rtol=1e-3)
    for p, q in zip(leaves(model.params), leaves(whole.params), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-5)


JUNK = [None, True, -1, 3, 1e9, "x", [], [1], {}, {"x": 1}, [None, None, None]]


def test_a_checkpoint_that_does_not_hold_together_is_refused(tmp_path, report):
    """With a digest that is right: each entry gone, or anything else in its place."""
    options = {"early_stopping": EarlyStopping(4), "compile": False}
    whole = run(tmp_path / "whole", checkpoint_every=7, checkpoint_keep=9, **options)
    arrays, metadata = container.read(tmp_path / "whole" / "ckpt-0000000007.safetensors")
    spoilt = [(arrays, {k: v for k, v in metadata.items() if k != name}) for name in metadata]
    spoilt += [(arrays, metadata | {name: junk}) for name in metadata for junk in JUNK]
    spoilt += [({k: a for k, a in arrays.items() if k != name}, metadata) for name in arrays]
    spoilt += [(arrays | {name: arrays[name][:-1]}, metadata) for name in arrays]
    for name in ("epoch", "in_epoch", "steps"):
        spoilt += [(arrays, metadata | {name: metadata[name] + d}) for d in (-1, 1)]

    def outcomes():
        for i, contents in enumerate(spoilt):
            directory = tmp_path / str(i)
            directory.mkdir()
            container.write(directory / "ckpt-0000000007.safetensors", *contents)
            try:
                resumed = run(directory, resume=True, checkpoint_every=10**6, **options)
            except CheckpointError:
                yield "refused"
            else:
                assert_same(resumed, whole)  # status, backend and the like decide nothing
                yield "whole"

    report(
        "a checkpoint whose entries are gone or replaced, with a digest that is right", outcomes()
    )


def test_another_run_is_refused(tmp_path):
    run(tmp_path / "a")
    with pytest.raises(CheckpointError, match="pass resume=True"):
        run(tmp_path / "a")
    for options, name in [
        ({"seed": 4}, "seed"),
        ({"batch_size": 9}, "batch_size"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"dtype": "float64"}, "dtype"),
    ]:
        with pytest.raises(CheckpointError, match=f"its {name} is"):
            run(tmp_path / "a", resume=True, **options)
    again = {"epochs": 5, "batch_size": 8, "seed": 3, "checkpoint": tmp_path / "a", "resume": True}
    Xv, yv = X[:9], Y[:9]
    portable_bp.fit(NET, X, Y, **again | {"checkpoint": tmp_path / "b"}, validation=(Xv, yv))
    for other, directory in [
        ((X, Y + 1, 0.2), "a"),
        ((X + 1, Y, 0.2), "a"),
        ((X, Y, 0.3), "a"),
        ((X, Y, (Xv, yv + 1)), "b"),
        ((X, Y, (Xv + 1, yv)), "b"),
    ]:
        with pytest.raises(CheckpointError, match="its data is"):
            portable_bp.fit(
                NET, *other[:2], validation=other[2],
                **again | {"checkpoint": tmp_path / directory},
            )  # fmt: skip
    leaky = portable_bp.activations.leaky_relu
    run(tmp_path / "c", net=portable_bp.MLP([3, 4, 1], leaky(0.1)))
    with pytest.raises(CheckpointError, match="its network is"):
        run(tmp_path / "c", resume=True, net=portable_bp.MLP([3, 4, 1], leaky(0.2)))
    with pytest.raises(CheckpointError, match="callback"):
        run(tmp_path / "a", resume=True, callbacks=[lambda end: None])
    with pytest.raises(ValueError, match="need checkpoint"):
        portable_bp.fit(NET, X, Y, resume=True)


CHILD = """
import sys, numpy as np, portable_bp
rng = np.random.default_rng(0)
X = rng.normal(size=(300, 3)).astype("float32"); y = np.sin(X[:, 0])
net = portable_bp.MLP([3, 16, 1], hidden="tanh", dropout=0.1)
model = portable_bp.fit(net, X, y, epochs=int(sys.argv[2]), batch_size=16, seed=1,
    checkpoint=sys.argv[1], checkpoint_every=5, resume=True,
    callbacks=[lambda end: print("epoch", end.epoch, flush=True)])
print("stopped", model.stopped)
print("sum", repr([p.tobytes().hex() for pair in model.params for p in pair]))
"""


def child(directory, epochs):
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(directory), str(epochs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGKILL"])
def test_a_run_that_is_stopped_from_outside_goes_on_to_the_same_bits(tmp_path, number):
    with child(tmp_path / "a", 10**6) as process:
        for line in process.stdout:
            if line.startswith("epoch 3"):
                break
        process.send_signal(getattr(signal, number))
        rest = process.stdout.read()
        assert process.wait(20) == (-9 if number == "SIGKILL" else 0)
    if number != "SIGKILL":
        assert f"stopped {'interrupted' if number == 'SIGINT' else 'terminated'}" in rest
    epochs = 5 + rest.count("epoch")
    with child(tmp_path / "a", epochs) as process:
        resumed = process.communicate()[0]
    whole = portable_bp.fit(
        portable_bp.MLP([3, 16, 1], hidden="tanh", dropout=0.1), *child_data(), epochs=epochs,
        batch_size=16, seed=1,
    )  # fmt: skip
    bits = [p.tobytes().hex() for p in leaves(whole.params)]
    assert resumed.splitlines()[-1] == f"sum {bits!r}"


def child_data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 3)).astype("float32")
    return features, np.sin(features[:, 0])


def test_an_exception_in_a_callback_loses_nothing(tmp_path):
    """It reaches the caller, the directory is free again, and the run goes on to the same bits."""

    def broken(end):
        if end.epoch == 3 and armed:
            raise RuntimeError("mine")

    armed = True
    with pytest.raises(RuntimeError, match="mine"):
        run(tmp_path / "a", callbacks=[broken])
    armed = False
    assert_same(run(tmp_path / "a", resume=True, callbacks=[broken]), run())


def test_two_runs_on_one_directory(tmp_path):
    refused = []

    def second(end):
        with pytest.raises(CheckpointError, match=r"another run .* saves its checkpoints here"):
            run(tmp_path / "a", resume=True)
        refused.append(end.epoch)

    assert_same(run(tmp_path / "a", callbacks=[second]), run())
    assert refused == [1, 2, 3, 4, 5]


FULL = """
import resource, sys, warnings, numpy as np, portable_bp
from portable_bp import CheckpointWarning
rng = np.random.default_rng(0)
X = rng.normal(size=(300, 3)).astype("float32"); y = np.sin(X[:, 0])
def fill(end):
    sizes = {2: 100, 4: resource.RLIM_INFINITY}
    if end.epoch in sizes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[end.epoch], resource.RLIM_INFINITY))
net = portable_bp.MLP([3, 16, 1], hidden="tanh", dropout=0.1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = portable_bp.fit(net, X, y, epochs=5, batch_size=16, seed=1, checkpoint=sys.argv[1],
                            callbacks=[fill])
told = [str(w.message) for w in caught if w.category is CheckpointWarning]
print(len(told), all("training goes on and tries again later" in t for t in told))
print(repr([p.tobytes().hex() for pair in model.params for p in pair]))
"""


def test_a_full_disk_does_not_stop_the_training(tmp_path):
    """No file may grow beyond 100 bytes for two epochs: both saves fail, the next one does not."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, bits = done.stdout.splitlines()
    assert first == "2 True"
    whole = portable_bp.fit(
        portable_bp.MLP([3, 16, 1], hidden="tanh", dropout=0.1), *child_data(), epochs=5,
        batch_size=16, seed=1,
    )  # fmt: skip
    assert bits == repr([p.tobytes().hex() for p in leaves(whole.params)])
    names = sorted(p.name for p in (tmp_path / "a").glob("*.safetensors"))
    assert names == [f"ckpt-{19 * e:010d}.safetensors" for e in (1, 4, 5)]


def test_a_signal_waits_for_few_steps_of_a_large_network(tmp_path, monkeypatch):
    """It comes during the second look's steps; what they did is saved, and no more is done."""
    monkeypatch.setattr(checkpointing, "SIGNAL_WORK", 3 * 6 * NET.n_parameters * 4)
    chunks, steps = data.DeviceData.chunks, []

    def spied(self, order, limit):
        for chunk in chunks(self, order, limit):
            steps.append(chunk.steps)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(data.DeviceData, "chunks", spied)
        model = run(tmp_path / "a", checkpoint_every=None, batch_size=4)
    assert steps == [3, 3]
    assert model.stopped == "terminated"
    with CheckpointDirectory(tmp_path / "a") as kept:
        assert kept.steps() == (6,)
    again = run(tmp_path / "a", checkpoint_every=None, batch_size=4, resume=True)
    assert_same(again, run(batch_size=4))


def test_a_second_interrupt_ends_at_once(tmp_path, monkeypatch):
    """In the middle of a step: the model is that of the last save, and the run can go on."""
    chunks, steps = data.DeviceData.chunks, []

    def spied(self, order, limit):
        for chunk in chunks(self, order, limit):
            steps.append(chunk.steps)
            if len(steps) == 7:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            yield chunk

    with monkeypatch.context() as patch:
        patch.setattr(data.DeviceData, "chunks", spied)
        model = run(tmp_path / "a", validation=None)
    assert model.stopped == "interrupted"
    with CheckpointDirectory(tmp_path / "a") as kept:
        assert kept.steps() == (4, 5, 6)
        found = kept.latest()
    np.testing.assert_array_equal(model.params[0][0], found.arrays["state/0/0/0"])
    assert_same(run(tmp_path / "a", resume=True, validation=None), run(validation=None))


@pytest.mark.parametrize(("first", "second"), [("numpy", "torch"), ("torch", "numpy")])
def test_a_run_goes_on_on_another_backend(tmp_path, monkeypatch, first, second):
    """To the same numbers up to rounding."""
    options = {"dtype": "float64", "compile": False}
    with monkeypatch.context() as patch:
        stop_after(patch, 12)
        with pytest.raises(Stop):
            run(tmp_path / "a", backend=first, **options)
    model = run(tmp_path / "a", resume=True, backend=second, **options)
    assert model.backend.spec == second
    whole = run(**options)
    for name in set(whole.history) - {"seconds"}:
        np.testing.assert_allclose(model.history[name], whole.history[name], rtol=1e-9)
    for p, q in zip(leaves(model.params), leaves(whole.params), strict=True):
        np.testing.assert_allclose(model.backend.to_numpy(p), q, rtol=1e-9, atol=1e-12)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model = run(tmp_path / "a", callbacks=[lambda end: signal.raise_signal(signal.SIGINT)])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert model.stopped == "finished"


def test_signals_are_left_alone_without_a_directory_and_put_back_after():
    before = [signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM", "SIGUSR1")]
    run()
    assert before == [
        signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM", "SIGUSR1")
    ]


RELU = portable_bp.MLP([3, 8, 1])


def first_bad_step(net, rate, epochs):
    """By plain arithmetic over the public gradients: the epoch and step that are not finite, from 1,
    and the parameters before."""
    params = net.init(0)
    with np.errstate(all="ignore"):
        for epoch in range(epochs):
            for step, start in enumerate(range(0, len(X), 8)):
                rows = slice(start, start + 8)
                loss, grads = net.loss_and_gradients(params, X[rows], Y[rows])
                eta = np.float32(rate(epoch * 6 + step, 6 * epochs))
                after = tuple(
                    (W - eta * dW, b - eta * db)
                    for (W, b), (dW, db) in zip(params, grads, strict=True)
                )
                if not all(np.isfinite(a).all() for a in (loss, *leaves(after))):
                    return epoch + 1, step + 1, params
                params = after
    raise AssertionError("it does not diverge")


@pytest.mark.parametrize(
    ("backend", "compile"),
    [("numpy", True), ("numpy", False), ("torch", True), ("torch", False), ("jax", True),
     ("strict", False)],
)  # fmt: skip
@pytest.mark.parametrize("rate", [schedules.Constant(2.0), schedules.LinearWarmup(4.0, 9)])
def test_divergence_is_told_everywhere(backend, compile, rate):
    net = portable_bp.MLP([3, 8, 1], "identity")
    epoch, step, before = first_bad_step(net, rate, 5)
    with pytest.raises(DivergenceError, match=rf"in epoch {epoch}, step {step} of 6 \(") as caught:
        portable_bp.fit(
            net, X, Y, optimizer="sgd", learning_rate=rate, epochs=5, batch_size=8, shuffle=False,
            backend=backend, compile=compile,
        )  # fmt: skip
    said, model = str(caught.value), caught.value.model
    assert "layer" in said
    assert f"Lower learning_rate (now {rate((epoch - 1) * 6 + step - 1, 30):g})" in said
    assert model.stopped == "diverged"
    assert model.backend.spec == backend
    assert len(model.history.epochs) < epoch
    for p, q in zip(leaves(model.params), leaves(before), strict=True):
        np.testing.assert_allclose(model.backend.to_numpy(p), q, rtol=1e-2)
    assert all(np.isfinite(model.backend.to_numpy(p)).all() for p in leaves(model.params))


def diverging(net=RELU, features=X, y=Y, **options):
    settings = {"optimizer": "sgd", "epochs": 30, "batch_size": 8, "compile": False, **options}
    with pytest.raises(DivergenceError) as caught:
        portable_bp.fit(net, features, y, **settings)
    return str(caught.value)


def test_the_advice_fits_the_cause():
    assert "Lower learning_rate (now 1e+08), or set clip_norm=1" in diverging(learning_rate=1e8)
    clipped = diverging(learning_rate=1e38, clip_norm=1.0)
    assert "Lower learning_rate (now 1e+38)" in clipped
    assert "clip_norm" not in clipped
    inputs = diverging(features=X * 1e18, learning_rate=1.0)
    assert "X reaches 2" in inputs
    assert "scale it to mean 0 and deviation 1" in inputs
    assert "y reaches" in diverging(y=Y * 1e30, learning_rate=1.0)
    root = portable_bp.Activation(lambda z, xp: xp.sqrt(z), lambda z, a, xp: 0.5 / a, "root")
    own = diverging(net=portable_bp.MLP([3, 8, 1], root))
    assert "in epoch 1, step 1 of 6 (the outputs of layer 1 overflowed first)" in own
    assert "look at the start parameters, the activations and the loss" in own
    labels = portable_bp.MLP([3, 200], loss="softmax_cross_entropy")
    many = diverging(net=labels, y=np.arange(47) + 150, learning_rate=1e38)
    assert "Lower learning_rate" in many  # a label of 196 is no large target


def test_the_first_layer_that_overflowed_is_named():
    params = tuple((W.copy(), b) for W, b in portable_bp.MLP([3, 4, 4, 4, 1], "identity").init(0))
    params[2][0][...] = 1e38
    said = diverging(net=portable_bp.MLP([3, 4, 4, 4, 1], "identity"), params=params)
    assert "the outputs of layer 3 overflowed first" in said
    # The output is finite, its delta times the rate is not: the last layer is updated first.
    said = diverging(learning_rate=1e38, features=X * 10, y=Y * 10)
    assert "the forward pass was finite; the update of layer 2 overflowed first" in said


@pytest.mark.parametrize("report_loss", [True, False])
def test_no_step_waits_for_the_device(monkeypatch, report_loss):
    """Reads of the device belong to epochs, and no step looks at a value: as many for 5 steps as 40."""
    import array_api_strict

    calls = []

    def counted(owner, name):
        true = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(name), true(*a, **k))[1])

    monkeypatch.setattr(trainer, "SNAPSHOT_SECONDS", 1e9)
    for name in ("__bool__", "__float__", "__int__", "__index__", "__array__"):
        counted(type(array_api_strict.zeros(1)), name)
    counted(type(portable_bp.get_backend("strict")), "to_numpy")
    counts = []
    for size in (8, 1):
        calls.clear()
        portable_bp.fit(
            RELU, X[:40], Y[:40], backend="strict", epochs=3, batch_size=size, clip_norm=1.0,
            report_loss=report_loss,
        )  # fmt: skip
        counts.append(Counter(calls))
    assert counts[0] == counts[1]
    assert set(counts[0]) <= {"to_numpy", "__array__"}
    assert counts[0]["__array__"] == counts[0]["to_numpy"]  # no value is looked at elsewhere
    assert counts[0]["to_numpy"] <= 3 + 1


def test_divergence_leaves_the_earlier_checkpoints(tmp_path):
    relu = portable_bp.MLP([3, 8, 1])
    with pytest.raises(DivergenceError):
        portable_bp.fit(
            relu, X, Y, optimizer="sgd", learning_rate=1e6, epochs=30, batch_size=8,
            checkpoint=tmp_path / "a", checkpoint_every=1,
        )  # fmt: skip
    with CheckpointDirectory(tmp_path / "a") as kept:
        latest = kept.latest()
    assert latest is not None
    assert all(np.isfinite(a).all() for a in latest.arrays.values())


def test_the_users_seterr_does_not_stop_healthy_training():
    with np.errstate(all="raise"):
        model = run()
    assert_same(model, run())


@pytest.mark.parametrize("backend", ["torch", "jax", "strict"])
def test_data_that_do_not_fit_on_the_device_are_streamed_with_the_same_numbers(
    backend, monkeypatch
):
    net = portable_bp.MLP([3, 8, 1], hidden="tanh")
    options = {"net": net, "backend": backend, "sample_weight": np.linspace(0.5, 1, 47)}
    resident = run(**options)
    adapter = type(portable_bp.get_backend(backend))
    monkeypatch.setattr(adapter, "free_memory", lambda self: 100)
    monkeypatch.setattr(data, "CHUNK_BYTES", 20 * 8 * 2)
    made = []
    true = data.HostStream.chunks
    monkeypatch.setattr(
        data.HostStream, "chunks", lambda self, *a: (made.append(p) or p for p in true(self, *a))
    )
    assert_same(run(**options), resident)
    assert len(made) > 5 * 2


def test_an_error_in_the_feeding_thread_reaches_the_caller(monkeypatch):
    adapter = type(portable_bp.get_backend("torch"))
    monkeypatch.setattr(adapter, "free_memory", lambda self: 100)

    def broken(self, order):
        raise OSError("disk went away")

    monkeypatch.setattr(data.HostStream, "_send", broken)
    with pytest.raises(OSError, match="disk went away"):
        run(backend="torch")


def test_a_memory_map_of_another_dtype_is_not_copied_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    np.save(path, X.astype("float64"))
    mapped = np.load(path, mmap_mode="r")
    in_memory = portable_bp.fit(NET, X, Y, epochs=2, batch_size=8)
    monkeypatch.setattr(data, "CHUNK_BYTES", 128)
    monkeypatch.setattr(data, "CAST_ENTRIES", 3 * 3)
    sent = []
    true = data.HostStream._send
    monkeypatch.setattr(
        data.HostStream,
        "_send",
        lambda self, order: (sent.append(order.size), true(self, order))[1],
    )
    streamed = portable_bp.fit(NET, mapped, Y, epochs=2, batch_size=8)
    assert_same(streamed, in_memory)
    assert sum(sent) == 2 * len(X)
    assert max(sent) <= 8
