"""Interruptions at any moment, deaths, threads, processes, and thousands of fits in one process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import portable_bp
from portable_bp import EarlyStopping, Model
from portable_bp.backend import leaves

pytest.importorskip("safetensors.numpy", reason="needs the extra [io]")

X = np.random.default_rng(3).normal(size=(24, 3)).astype("float32")
Y = np.sin(X[:, 0])
NET = portable_bp.MLP([3, 5, 1], "tanh", dropout=0.1)


def train(**options):
    return portable_bp.fit(
        NET, X, Y, epochs=3, batch_size=7, validation=(X, Y), early_stopping=EarlyStopping(5),
        backend="numpy", **options,
    )  # fmt: skip


def bits(model):
    return [np.asarray(p).tobytes() for p in leaves(model.params)]


def moments(count, **options):
    """Seconds to wait: ``count`` moments at random within a run, or just after it."""
    began = time.perf_counter()
    train(**options)
    whole = time.perf_counter() - began
    rng = random.Random(count)
    return [rng.uniform(1e-6, 1.1 * whole) for _ in range(count)]


def interrupted(moment, **options):
    """The model, if there is one after a Ctrl-C at that moment."""
    handler, threads, came = signal.getsignal(signal.SIGINT), threading.active_count(), []

    def ctrl_c(number, frame):
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    model, before = None, signal.signal(signal.SIGALRM, ctrl_c)
    try:
        signal.setitimer(signal.ITIMER_REAL, moment)
        model = train(**options)
        while not came:
            time.sleep(0.001)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert came
    assert signal.getsignal(signal.SIGINT) is handler
    assert threading.active_count() == threads
    return model


def check_interruptions(count, report, name):
    whole = train()
    found = []
    for moment in moments(count):
        model = interrupted(moment)
        if model is not None:
            assert isinstance(model, Model)
            assert model.stopped in ("interrupted", "finished")
            assert all(np.isfinite(p).all() for p in leaves(model.params))
            assert len(model.predict(X)) == len(X)
        assert bits(train()) == bits(whole)  # what is kept for the next run is sound
        found.append("whole")
    report(name, found)


# A signal that strikes in a finaliser is Python's to report: it cannot be raised from there.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

posix = pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")


@posix
def test_ctrl_c_at_any_moment(report):
    check_interruptions(10, report, "Ctrl-C at a random moment of a run")


@posix
@pytest.mark.slow
def test_ctrl_c_at_many_moments(report):
    check_interruptions(200, report, "more Ctrl-C at random moments")


def check_saved_interruptions(count, tmp_path, report, name):
    whole = train()
    found = []
    for i, moment in enumerate(moments(count, checkpoint=tmp_path / "whole", checkpoint_every=1)):
        directory = tmp_path / str(i)
        interrupted(moment, checkpoint=directory, checkpoint_every=1)
        again = train(checkpoint=directory, checkpoint_every=1, resume=True)
        assert again.stopped == "finished", "a signal from outside stopped it: timeout(1)?"
        assert bits(again) == bits(whole), moment
        assert [*again.history["loss"]] == [*whole.history["loss"]]
        found.append("whole")
    report(name, found)


@posix
def test_ctrl_c_at_any_moment_of_a_run_that_is_saved(tmp_path, report):
    check_saved_interruptions(6, tmp_path, report, "Ctrl-C at a random moment, and resumed")


@posix
@pytest.mark.slow
def test_ctrl_c_at_many_moments_of_a_run_that_is_saved(tmp_path, report):
    check_saved_interruptions(200, tmp_path, report, "more Ctrl-C at random moments, and resumed")


KILLS = """
import json, os, random, signal, sys, time
import numpy as np, portable_bp

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 3)).astype("float32"); y = np.sin(X[:, 0])
net = portable_bp.MLP([3, 16, 1], hidden="tanh", dropout=0.1)

def train(**options):
    model = portable_bp.fit(net, X, y, epochs=int(sys.argv[3]), batch_size=20, seed=1, **options)
    return "".join(p.tobytes().hex() for pair in model.params for p in pair)

directory, kills, whole = sys.argv[1], int(sys.argv[2]), train()
random = random.Random(kills)
died = steps = 0
while died < kills:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        def started(end):
            os.write(tell, b".")
        train(checkpoint=directory, checkpoint_every=1, resume=True, callbacks=[started])
        os._exit(0)
    os.close(tell)
    os.read(ready, 1)  # the end of an epoch, or of the process
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(ready)
    if not os.WIFSIGNALED(status):
        break  # the run has come to its end
    died += 1
last = train(checkpoint=directory, checkpoint_every=1, resume=True, callbacks=[lambda end: None])
print(json.dumps([died, last == whole]))
"""


def script(code, *arguments, timeout=3000):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_kills(tmp_path, kills, epochs, report, name):
    died, same = script(KILLS, tmp_path / "run", kills, epochs)
    report(name, ["whole"] * died)
    assert same
    assert died == kills


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL and fork")
def test_kill_9_with_a_checkpoint_after_every_step(tmp_path, report):
    check_kills(tmp_path, 2, 20, report, "`kill -9` of a run that saves every step")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL and fork")
def test_many_kill_9_with_a_checkpoint_after_every_step(tmp_path, report):
    check_kills(tmp_path, 100, 600, report, "more `kill -9` of a run that saves every step")


@pytest.mark.parametrize(
    "backend", ["numpy", *(pytest.param(b, marks=pytest.mark.slow) for b in ("torch", "jax"))]
)
def test_threads_train_and_predict_side_by_side(backend, usable):
    usable(backend)

    def work(seed):
        model = portable_bp.fit(NET, X, Y, epochs=3, batch_size=7, seed=seed, backend=backend)
        return model.forward(X).tobytes()

    alone = [work(seed) for seed in range(3)]
    shared = portable_bp.fit(NET, X, Y, epochs=3, batch_size=7, backend=backend)
    expected = shared.forward(X).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(work, [*range(3)] * 2)] == alone * 2
        assert {*pool.map(lambda _: shared.forward(X).tobytes(), range(12))} == {expected}


POOL = """
import json, multiprocessing, sys, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np, portable_bp

X = np.random.default_rng(0).normal(size=(40, 3)); y = np.sin(X[:, 0])
net = portable_bp.MLP([3, 4, 1])

def train(seed):
    return portable_bp.fit(net, X, y, epochs=2, seed=seed, backend="numpy")

def numbers(seed):
    return train(seed).forward(X).tolist()

if __name__ == "__main__":
    model = train(0)
    model.predict(X)
    found = {}
    for start in sys.argv[1:]:
        context = multiprocessing.get_context(start)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            same = [*pool.map(numbers, range(4))] == [numbers(seed) for seed in range(4)]
            same &= pool.submit(model.forward, X).result().tolist() == model.forward(X).tolist()
        found[start] = same
    print(json.dumps(found))
"""


def test_processes_by_fork_and_by_spawn(tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    starts = ["spawn"] if sys.platform == "win32" else ["fork", "spawn"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "pool.py"), *starts], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(starts, True)


FITS = """
import gc, json, os, sys, threading
import numpy as np, portable_bp

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32"); y = np.sin(X[:, 0])

def train(seed):
    net = portable_bp.MLP([3, 4, 1], hidden="tanh")
    model = portable_bp.fit(net, X, y, epochs=2, batch_size=8, seed=seed, backend=sys.argv[2])
    model.predict(X)

def held():
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return [pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/task")),
            len(os.listdir("/proc/self/fd")), threading.active_count()]

fits = int(sys.argv[1])
for seed in range(100 + fits // 10):  # caches fill, arenas grow
    train(seed)
before = held()
for seed in range(fits):
    train(seed)
print(json.dumps([before, held()]))
"""


def check_fits(fits, backend):
    before, after = script(FITS, fits, backend)
    assert after[1:] == before[1:]  # threads of the system, open files, threads of Python
    # A page of memory that a fit leaves behind would be 4 KiB each; allocators keep some in hand.
    assert after[0] - before[0] < 2**20 + 300 * fits


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_hundreds_of_fits_leave_nothing_behind():
    check_fits(200, "numpy")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_ten_thousand_fits_leave_nothing_behind(backend):
    check_fits(10_000, backend)
