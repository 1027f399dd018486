"""Nothing lost: exact resume at every step, signals, kill -9, divergence, streaming."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import portable_bp
from portable_bp import DivergenceError, EarlyStopping, schedules
from portable_bp.backend import leaves
from portable_bp.errors import CheckpointError
from portable_bp.training import feed, loop

RNG = np.random.default_rng(0)
X = RNG.normal(size=(47, 3)).astype("float32")
Y = (np.sin(X[:, 0]) + X[:, 1] ** 2).astype("float32")
NET = portable_bp.MLP([3, 8, 8, 1], hidden="tanh", dropout=0.2, l2=1e-3)


class Stop(Exception):
    """Stands for whatever ends a process between two steps."""


def run(directory=None, resume=False, net=NET, **options):
    settings = {"epochs": 5, "batch_size": 8, "validation": 0.2, "seed": 3, **options}
    if directory is not None:
        settings |= {"checkpoint": directory, "every": 1, "resume": resume}
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
    save = loop._Run.save

    def dying(self, final=False):
        save(self, final)
        if self.steps == steps:
            raise Stop

    monkeypatch.setattr(loop._Run, "save", dying)


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


def test_resume_at_every_step_of_a_run_of_25(tmp_path, monkeypatch):
    resume_everywhere(tmp_path, monkeypatch, range(1, 26), optimizer="adam")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_with_every_optimizer(tmp_path, monkeypatch, optimizer):
    resume_everywhere(tmp_path, monkeypatch, [7, 10], optimizer=optimizer, learning_rate=0.01)


@pytest.mark.parametrize(
    ("backend", "compile"), [("numpy", False), ("torch", True), ("torch", False), ("jax", True)]
)
def test_resume_on_every_backend(tmp_path, monkeypatch, backend, compile):
    # Without dropout: compiling its random bits takes JAX seconds.
    net = portable_bp.MLP([3, 8, 1], hidden="tanh")
    options = {"net": net, "backend": backend, "compile": compile, "epochs": 3}
    resume_everywhere(tmp_path, monkeypatch, [8], **options)


def test_resume_keeps_schedule_early_stopping_and_best_parameters(tmp_path, monkeypatch):
    options = {
        "epochs": 12,
        "learning_rate": schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1),
        "early_stopping": EarlyStopping(3),
    }
    steps = 5 * len(run(**options).history["loss"])
    assert steps < 60
    resume_everywhere(tmp_path, monkeypatch, [5, 13, steps - 3, steps], **options)
    for step, schedule in ((12, schedules.Cosine(0.01)), (14, schedules.OneCycle(0.05))):
        resume_everywhere(tmp_path, monkeypatch, [step], learning_rate=schedule)


def test_a_finished_run_is_not_run_again_and_can_be_made_longer(tmp_path):
    first = run(tmp_path / "a")
    assert_same(run(tmp_path / "a", resume=True), first)
    longer = run(tmp_path / "a", resume=True, epochs=7)
    assert_same(longer, run(epochs=7))


def test_checkpoints_come_at_the_end_of_each_epoch_by_default(tmp_path):
    portable_bp.fit(NET, X, Y, epochs=3, batch_size=8, checkpoint=tmp_path / "a", keep=2)
    names = sorted(p.name for p in (tmp_path / "a").glob("ckpt-*"))
    assert names == ["ckpt-0000000012.safetensors", "ckpt-0000000018.safetensors"]


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
    with pytest.raises(CheckpointError, match="its data is"):
        portable_bp.fit(
            NET, X, Y + 1, epochs=5, batch_size=8, validation=0.2, seed=3,
            checkpoint=tmp_path / "a", resume=True,
        )  # fmt: skip
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
    checkpoint=sys.argv[1], every=5, resume=True,
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


def test_signals_are_left_alone_without_a_directory_and_put_back_after():
    before = [signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM", "SIGUSR1")]
    run()
    assert before == [
        signal.getsignal(getattr(signal, n)) for n in ("SIGINT", "SIGTERM", "SIGUSR1")
    ]


def test_divergence_names_epoch_step_layer_and_cause():
    relu = portable_bp.MLP([3, 8, 1])
    with pytest.raises(
        DivergenceError, match=r"epoch \d+, step \d+ of 6 \(.*layer \d overflowed"
    ) as e:
        portable_bp.fit(relu, X, Y, optimizer="sgd", learning_rate=1e8, epochs=30, batch_size=8)
    assert "Lower learning_rate (now 1e+08)" in str(e.value)
    assert all(np.isfinite(p).all() for p in leaves(e.value.model.params))
    with pytest.raises(DivergenceError, match=r"The inputs reach .*scale them"):
        portable_bp.fit(relu, X * 1e18, Y, optimizer="sgd", learning_rate=1.0, epochs=30)
    with pytest.raises(DivergenceError, match=r"The targets reach"):
        portable_bp.fit(relu, X, Y * 1e30, optimizer="sgd", learning_rate=1.0, epochs=30)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_the_parameters_kept_are_those_of_the_last_finite_step(backend):
    """The message's step, taken once more from the kept parameters, is not finite."""
    relu = portable_bp.MLP([3, 8, 1])
    with pytest.raises(DivergenceError) as caught:
        portable_bp.fit(
            relu, X, Y, optimizer="sgd", learning_rate=1e8, epochs=30, batch_size=None,
            backend=backend,
        )  # fmt: skip
    model = caught.value.model
    with np.errstate(all="ignore"):
        loss, grads = relu.loss_and_gradients(model.params, X, Y)
        moved = [p - 1e8 * g for p, g in zip(leaves(model.params), leaves(grads), strict=True)]
    values = [loss, *moved]
    assert not all(np.isfinite(model.backend.to_numpy(v)).all() for v in values)


def test_divergence_leaves_the_earlier_checkpoints(tmp_path):
    relu = portable_bp.MLP([3, 8, 1])
    with pytest.raises(DivergenceError):
        portable_bp.fit(
            relu, X, Y, optimizer="sgd", learning_rate=1e6, epochs=30, batch_size=8,
            checkpoint=tmp_path / "a", every=1,
        )  # fmt: skip
    from portable_bp.checkpoints import CheckpointDirectory

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
    monkeypatch.setattr(feed, "PIECE_BYTES", 20 * 8 * 4)
    made = []
    true = feed.Streamed.pieces
    monkeypatch.setattr(
        feed.Streamed, "pieces", lambda self, *a: (made.append(p) or p for p in true(self, *a))
    )
    assert_same(run(**options), resident)
    assert len(made) > 5 * 2


def test_an_error_in_the_feeding_thread_reaches_the_caller(monkeypatch):
    adapter = type(portable_bp.get_backend("torch"))
    monkeypatch.setattr(adapter, "free_memory", lambda self: 100)

    def broken(self, order):
        raise OSError("disk went away")

    monkeypatch.setattr(feed.Streamed, "_send", broken)
    with pytest.raises(OSError, match="disk went away"):
        run(backend="torch")


def test_a_memory_map_of_another_dtype_is_not_copied_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    np.save(path, X.astype("float64"))
    mapped = np.load(path, mmap_mode="r")
    in_memory = portable_bp.fit(NET, X, Y, epochs=2, batch_size=8)
    monkeypatch.setattr(feed, "PIECE_BYTES", 256)
    sent = []
    true = feed.Streamed._send
    monkeypatch.setattr(
        feed.Streamed, "_send", lambda self, order: (sent.append(order.size), true(self, order))[1]
    )
    streamed = portable_bp.fit(NET, mapped, Y, epochs=2, batch_size=8)
    assert_same(streamed, in_memory)
    assert sum(sent) == 2 * len(X)
    assert max(sent) <= 8


def test_long_training_does_not_grow():
    """2,000 epochs: the memory that Python holds stays level after the first ones."""
    import tracemalloc

    marks = []

    def mark(end):
        if end.epoch in (200, 2000):
            marks.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        net = portable_bp.MLP([3, 4, 1])
        portable_bp.fit(net, X, Y, epochs=2000, batch_size=None, callbacks=[mark])
    finally:
        tracemalloc.stop()
    history = 1800 * 1000  # the rows of the history itself, at most 1 kB each
    assert marks[1] - marks[0] < history
