"""Rows that are read in windows: each once an epoch, the same numbers from every kind of file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from portable_bp import MLP, DivergenceError, fit, get_backend, sources
from portable_bp.backend import leaves
from portable_bp.errors import CheckpointError, DataError
from portable_bp.sources.protocol import Described
from portable_bp.training import source_rows
from portable_bp.training.source_blocks import BlockReader
from tests.helpers import killed_after

N, WIDTH = 503, 5
X = np.random.default_rng(0).standard_normal((N, WIDTH)).astype("float32")
Y = (np.abs(X[:, :3]).argmax(axis=1)).astype("int64")
NET = MLP([WIDTH, 8, 3], "tanh", "softmax_cross_entropy")


def blocky(block: int = 20, window: int = 100, x: Any = X, y: Any = Y) -> sources.Arrays:
    return sources.Arrays(x, y, block, window)


def trained(source: Any, y: Any = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 32, "seed": 4, "backend": "numpy"}
    return fit(NET, source, y, **settings | options)


def bits(model: Any) -> list[bytes]:
    return [np.asarray(p).tobytes() for p in leaves(model.params)]


def streams() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("portable_bp-stream")]


def rows_of_an_epoch(
    epoch: int, block: int, window: int, batch: int, pieces: int = 10**9, shuffle: bool = True
) -> tuple[list[float], list[int]]:
    """The rows that the steps see, and how many each step sees."""
    numbered = np.arange(N, dtype="float32")[:, None]
    source = Described.of(blocky(block, window, numbered, np.zeros(N)))
    spec = MLP([1, 1]).spec
    data = source_rows.windows(
        get_backend("numpy"),
        spec,
        "float32",
        source,
        None,
        batch_size=batch,
        seed=3,
        shuffle=shuffle,
    )
    seen, sizes, whole = [], [], N // batch * batch
    order = data.order(epoch)
    assert len(order) == N
    parts = [order[:whole].reshape(-1, batch)] if whole else []
    if N % batch:
        parts.append(order[whole:].reshape(1, -1))
    for part in parts:
        assert part.shape == (len(part), part.batch)
        for start in range(0, len(part), pieces):
            for chunk in data.chunks(part[start : start + pieces], 7):
                assert chunk.steps <= 7
                assert chunk.order is not None
                for step in chunk.order:
                    seen += np.asarray(chunk.arrays[0])[step, 0].tolist()
                    sizes.append(len(step))
    data.close()
    assert seen == np.asarray(order).tolist(), "what the order stands for, written down"
    return seen, sizes


@pytest.mark.parametrize("block", [1, 7, 64, 600])
@pytest.mark.parametrize("window", [1, 50, 128])
@pytest.mark.parametrize("batch", [1, 32, 100])
def test_every_row_is_seen_exactly_once_an_epoch(block: int, window: int, batch: int) -> None:
    seen, sizes = rows_of_an_epoch(0, block, window, batch)
    assert sorted(seen) == list(range(N))
    assert sizes == [batch] * (N // batch) + [N % batch] * (N % batch > 0)
    again, _ = rows_of_an_epoch(0, block, window, batch, pieces=3)
    assert again == seen, "whatever the pieces in which steps are asked for"
    in_order, _ = rows_of_an_epoch(0, block, window, batch, shuffle=False)
    assert in_order == list(range(N))


def test_the_order_is_another_one_in_each_epoch_and_for_each_seed() -> None:
    orders = [rows_of_an_epoch(epoch, 20, 100, 32)[0] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    first_blocks = {int(order[0]) // 20 for order in orders}
    assert len(first_blocks) > 1, "the blocks are permuted"
    window = np.asarray(orders[0][:100]).astype(int)
    assert len({*(window // 20).tolist()}) == 5, "five blocks of any place make a window"
    assert sorted(window.tolist()) != window.tolist(), "and its rows are permuted"
    assert bits(trained(blocky(), seed=4)) != bits(trained(blocky(), seed=5))


def test_the_numbers_are_the_same_from_memory_npy_and_parquet(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "x64.npy", X.astype("float64"))
    columns = {f"f{j}": X[:, j] for j in range(WIDTH)}
    pq.write_table(pa.table({**columns, "y": Y}), tmp_path / "xy.parquet", row_group_size=20)
    mine = trained(blocky(), validation=0.2)
    others = {
        "npy": sources.open(tmp_path / "x.npy", tmp_path / "y.npy", block_rows=20, window_rows=100),
        "f8": sources.open(
            tmp_path / "x64.npy", tmp_path / "y.npy", block_rows=20, window_rows=100
        ),
        "parquet": sources.open(tmp_path / "xy.parquet", "y", window_rows=100),
        "items": sources.Dataset(list(zip(X, Y, strict=True)), 20, 100),
    }
    for name, source in others.items():
        model = trained(source, validation=0.2)
        assert bits(model) == bits(mine), name
        assert model.history["validation_accuracy"] == mine.history["validation_accuracy"]
    assert trained(others["parquet"]).feature_names == tuple(columns)
    in_order = trained(X, Y, shuffle=False)
    assert bits(trained(blocky(), shuffle=False)) == bits(in_order)
    assert bits(trained(blocky(window=N))) == bits(trained(X, Y)), "one window is as good as arrays"


@pytest.mark.parametrize("spec", ["torch", "jax", "strict"])
def test_on_other_backends(spec: str, usable: Any) -> None:
    usable(spec)
    mine, theirs = (trained(blocky(), backend=b, validation=0.2) for b in ("numpy", spec))
    np.testing.assert_allclose(theirs.history["loss"], mine.history["loss"], rtol=2e-5)
    np.testing.assert_allclose(
        theirs.history["validation_loss"], mine.history["validation_loss"], rtol=2e-5
    )


def test_weights_are_those_of_their_rows() -> None:
    weights = np.random.default_rng(5).uniform(0, 1, N) * (np.arange(N) % 3 > 0)
    in_order = trained(X, Y, sample_weight=weights, shuffle=False)
    mine = trained(blocky(), sample_weight=weights, shuffle=False)
    assert bits(mine) == bits(in_order)
    assert mine.history["loss"] == in_order.history["loss"]
    spoilt = np.where((np.arange(N) % 3 > 0)[:, None], X, 50.0).astype("float32")
    one, other = (trained(blocky(x=x), sample_weight=weights, validation=0.2) for x in (X, spoilt))
    assert one.history["validation_loss"] == other.history["validation_loss"], "rows of weight 0"
    assert bits(one) == bits(other)


@pytest.mark.parametrize(("block", "window"), [(20, 100), (60, 120)], ids=["blocks", "rows"])
def test_the_rows_that_are_held_out_are_not_learnt(block: int, window: int) -> None:
    source = Described.of(blocky(block, window, np.arange(N)[:, None] * 1.0, np.arange(N)))
    (left, _), (held, _) = source_rows.held_out(source, None, 0.2, 7)
    numbers = [
        np.concatenate([part.read(b)[1] for b in range(len(part.sizes))]) for part in (left, held)
    ]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(N))
    blocks = -(-N // block)
    wanted = 6 * 20 if blocks >= 20 else sum(-(-s // 5) for s in source.sizes.tolist())
    assert abs(len(numbers[1]) - wanted) < 20
    for part, rows in zip((left, held), numbers, strict=True):
        row = len(part.source.numbers(1)) - 1  # type: ignore[attr-defined]
        assert part.source.numbers(1)[row] == rows[part.starts[1] + row]  # type: ignore[attr-defined]
        assert f"row {rows[part.starts[1] + row]}" in part.place(1, row)
    other = source_rows.held_out(source, None, 0.2, 8)[1][0]
    assert other.read(0)[1].tolist() != held.read(0)[1].tolist()


def test_rows_to_judge_by_may_be_arrays_or_a_source() -> None:
    arrays = trained(blocky(), validation=(X[:99], Y[:99]))
    source = trained(blocky(), validation=blocky(x=X[:99], y=Y[:99]))
    other = trained(X, Y, validation=blocky(x=X[:99], y=Y[:99]))
    for name in ("validation_loss", "validation_accuracy"):
        np.testing.assert_allclose(source.history[name], arrays.history[name], rtol=1e-12)
        assert len(other.history[name]) == 3
    net, y = MLP([WIDTH, 4, 2]), np.column_stack([X[:, 0] * 2, X[:, 1] + 1])
    weights = np.arange(N) % 2 + 0.5
    for held in ((X, y), (X, y, weights)):
        r2 = fit(net, blocky(y=y), validation=held, epochs=2).history["validation_r2"]
        assert r2[0] != r2[1]
        if len(held) == 2:
            mine = fit(net, blocky(y=y), validation=blocky(y=y), epochs=2)
            np.testing.assert_allclose(mine.history["validation_r2"], r2, rtol=1e-9)


def test_a_model_predicts_and_is_judged_from_a_source() -> None:
    model = trained(blocky())
    source = blocky()
    np.testing.assert_array_equal(model.predict(source), model.predict(X))
    np.testing.assert_allclose(model(source), model(X), rtol=1e-6)
    np.testing.assert_allclose(model.evaluate(source), model.evaluate(X, Y), rtol=1e-6)
    assert model.score(source) == pytest.approx(model.score(X, Y))
    with pytest.raises(TypeError, match="y must be left out"):
        model.score(source, Y)
    with pytest.raises(ValueError, match="features"):
        model.predict(blocky(x=X[:, :3]))


def test_lbfgs_adds_up_over_windows() -> None:
    mine, in_memory = (
        fit(NET, *data, optimizer="lbfgs", epochs=15, dtype="float64")
        for data in ((blocky(),), (X, Y))
    )
    np.testing.assert_allclose(mine.history["loss"], in_memory.history["loss"], rtol=1e-6)


# --- going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, 13, 15, 16, 17, 33])
def test_a_run_goes_on_from_any_step_with_the_same_bits(steps: int, tmp_path: Path) -> None:
    whole = trained(blocky(), validation=0.2)
    with killed_after(steps):
        trained(blocky(), validation=0.2, checkpoint=tmp_path / "run", checkpoint_every=1)
    assert streams() == []
    with pytest.raises(CheckpointError, match="another run: its data"):
        trained(blocky(25), validation=0.2, checkpoint=tmp_path / "run", resume=True)
    again = trained(blocky(), validation=0.2, checkpoint=tmp_path / "run", resume=True)
    assert bits(again) == bits(whole)
    assert again.history["loss"] == whole.history["loss"]


# --- ends ---------------------------------------------------------------------------------------


def test_no_thread_outlives_an_early_end() -> None:
    def interrupt(end: Any) -> None:
        raise KeyboardInterrupt

    def fail(end: Any) -> None:
        raise RuntimeError("mine")

    assert trained(blocky(), callbacks=[lambda end: True]).stopped == "callback"
    assert streams() == []
    assert trained(blocky(), callbacks=[interrupt]).stopped == "interrupted"
    with pytest.raises(RuntimeError, match="mine"):
        trained(blocky(), callbacks=[fail])
    assert streams() == []
    with pytest.raises(DivergenceError, match="step"):
        fit(MLP([WIDTH, 4, 1]), blocky(y=X[:, 0] * 1e3), optimizer="sgd", learning_rate=1e30)
    assert streams() == []


class Source:
    """Ten lines of a user's own; a callback of the test looks at each block that is read."""

    n, row_shape, dtype = N, (WIDTH,), "float32"
    target_dtype = "int64"
    window_rows = 100

    def __init__(self, look: Any) -> None:
        self.blocks = [*[10] * 50, 3]
        self._look = look

    def read(self, block: int, out_x: Any, out_y: Any) -> None:
        self._look(block)
        out_x[...] = X[block * 10 :][: len(out_x)]
        out_y[...] = Y[block * 10 :][: len(out_y)]


def test_an_interruption_in_the_middle_of_an_epoch_leaves_no_thread() -> None:
    waiting = threading.Event()
    blocks: list[int] = []

    def look(block: int) -> None:
        blocks.append(block)
        if len(blocks) == 25:  # the trainer is at work on an earlier window
            signal.raise_signal(signal.SIGINT) if threading.current_thread() is (
                threading.main_thread()
            ) else os.kill(os.getpid(), signal.SIGINT)
            waiting.wait(0.05)

    before = len(blocks)
    model = trained(Source(look), epochs=100)
    assert model.stopped == "interrupted"
    assert streams() == []
    assert before < len(blocks) < 100 * 51


def test_what_the_reading_thread_raises_reaches_the_caller() -> None:
    def look(block: int) -> None:
        if block == 37:
            raise ConnectionError("the database is gone")

    with pytest.raises(ConnectionError, match="the database is gone"):
        trained(Source(look))
    assert streams() == []


def test_one_window_is_read_ahead_and_no_further() -> None:
    blocks: list[int] = []
    data = source_rows.windows(
        get_backend("numpy"), NET.spec, "float32", Described.of(Source(blocks.append)), None,
        batch_size=10, seed=0, shuffle=True,
    )  # fmt: skip
    chunks = data.chunks(data.order(0)[:500].reshape(-1, 10), 1000)
    next(chunks)
    deadline = time.monotonic() + 10
    while len(blocks) < 20 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(blocks) == 20
    data.close()
    assert streams() == []


# --- values -------------------------------------------------------------------------------------


def spoilt(row: int, column: int, value: float) -> Any:
    x = X.astype("float64")
    x[row, column] = value
    return x


@pytest.mark.parametrize("window", [100, N])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (spoilt(123, 4, np.nan), Y, r"X, row 123, column 4: NaN is no number to learn from"),
        (spoilt(502, 0, np.inf), Y, r"X, row 502, column 0: infinity is no number"),
        (X, np.where(np.arange(N) == 77, 3, Y), r"y, row 77: the target 3 is no class label"),
        (X, np.where(np.arange(N) == 77, 0.5, Y), r"y, row 77: the target 0.5 is no class label"),
        (X, np.where(np.arange(N) == 400, np.nan, Y), r"y, row 400: the target NaN is no number"),
    ],
)
def test_a_bad_value_is_named_with_its_place(x: Any, y: Any, words: str, window: int) -> None:
    with pytest.raises(DataError, match=words):
        trained(blocky(window=window, x=x, y=y))
    assert streams() == []


def test_what_float32_cannot_hold() -> None:
    with pytest.raises(DataError, match=r"X, row 9, column 1: 1e\+300 is too large for float32"):
        trained(blocky(x=spoilt(9, 1, 1e300)))
    whole = (np.arange(N * WIDTH).reshape(N, WIDTH) + 2**24 + 1).astype("int64")
    with pytest.warns(UserWarning, match="X has integers such as .* does not hold exactly"):
        trained(blocky(x=whole), learning_rate=1e-9, epochs=1)
    for loss, y, words in (
        ("log_loss", np.full(N, 1.5), "1.5 is not in"),
        ("poisson", np.full(N, -1.0), "-1 is negative"),
        ("squared_error", np.full(N, 1e300), "too large for float32"),
    ):
        with pytest.raises(DataError, match=f"y, row .*{words}"):
            fit(MLP([WIDTH, 1], loss=loss), blocky(y=y))


def test_values_are_looked_at_when_they_are_read_for_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    check = BlockReader._check_features

    def noted(self: Any, block: int, x: Any) -> None:
        looked.append(block)
        check(self, block, x)

    monkeypatch.setattr(BlockReader, "_check_features", noted)
    trained(blocky(), epochs=4)
    assert sorted(looked) == list(range(26))


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (lambda: trained(blocky(), batch_size=None), ValueError, "batch_size=None takes all 503 rows"),
        (lambda: trained(blocky(), Y), TypeError, "y must be left out for a source"),
        (lambda: trained(X), ValueError, "y is None; an array of numbers is needed"),
        (lambda: trained(blocky(x=X[:, :3])), ValueError, "3 features, but the network expects 5"),
        (lambda: trained(blocky(y=np.eye(4)[Y])), ValueError, r"network with 3 output\(s\) needs"),
        (lambda: trained(blocky(y=np.zeros((N, 0)))), ValueError, "source has no target"),
        (lambda: trained(blocky(), validation=0.999), ValueError, "leaves none to train on"),
        (lambda: trained(blocky(window=-1)), ValueError, "window_rows must be at least 1"),
        (lambda: trained(blocky(), sample_weight=Y[:3] + 1.0), ValueError, r"the shape \(503,\)"),
        (lambda: trained(blocky(), sample_weight=np.zeros(N)), ValueError, "zero for every row"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_a_source(work: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        work()


def test_text_labels_come_back(tmp_path: Path) -> None:
    words = np.array(["low", "mid", "top"])[Y]
    table = pa.table({**{f"f{j}": X[:, j] for j in range(WIDTH)}, "y": words})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=50)
    for rows in (100, N):
        model = trained(sources.open(tmp_path / "t.parquet", "y", window_rows=rows))
        assert {*model.predict(table.drop_columns(["y"]))} <= {"low", "mid", "top"}
        assert model.classes is not None
        assert model.classes.tolist() == ["low", "mid", "top"]
    with pytest.raises(DataError, match=r"3 classes .*learns 2"):
        fit(MLP([WIDTH, 1], loss="log_loss"), sources.open(tmp_path / "t.parquet", "y"))
    with pytest.raises(DataError, match="target holds text such as 'low'"):
        fit(MLP([WIDTH, 1]), sources.open(tmp_path / "t.parquet", "y"))
    with pytest.raises(DataError, match="validation has the labels None"):
        trained(sources.open(tmp_path / "t.parquet", "y", window_rows=100), validation=blocky())


def test_rows_handed_out_are_told_to_who_wants_to_know() -> None:
    told: list[tuple[int, int]] = []

    class Watching:
        def __call__(self, end: Any) -> None:
            return

        def on_rows(self, done: int, total: int) -> None:
            told.append((done, total))

    trained(blocky(), epochs=2, callbacks=[Watching()])
    assert told[-1] == (N, N)
    half = len(told) // 2
    assert half > N // 100, "once a window at least"
    assert told[:half] == sorted({*told[:half]})


MEMORY = """
import json, resource, sys
import numpy as np
from portable_bp import MLP, fit, sources
rows, width, folder = int(sys.argv[1]), 64, sys.argv[2]
net = MLP([width, 32, 1])
def run(n):
    source = sources.open(folder + f"/{n}.npy", folder + f"/{n}-y.npy", window_rows=2**14)
    fit(net, source, epochs=1, batch_size=256, validation=0.1, backend="numpy")
run(2**15)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
run(rows)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(after - before))
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Eight times the rows of a run that has two windows in memory."""
    rows, width = 2**18, 64
    for n in (2**15, rows):
        x = np.lib.format.open_memmap(tmp_path / f"{n}.npy", "w+", np.float32, (n, width))
        x[...] = np.arange(width)
        np.save(tmp_path / f"{n}-y.npy", np.zeros(n, np.float32))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(rows), str(tmp_path)], capture_output=True, text=True,
        env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    window = 2**14 * width * 4
    assert json.loads(done.stdout) < window, f"the data have {rows * width * 4:,} bytes"


def test_a_memory_map_whose_file_shrinks_is_an_error_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(source_rows, "physical_memory", lambda: X.nbytes)
    monkeypatch.setattr(source_rows, "WINDOW_BYTES", 2000)

    def shrink(end: Any) -> None:
        os.truncate(tmp_path / "x.npy", 128)

    with pytest.raises(DataError, match=r"x\.npy ends after 128 bytes, in row 0 of 503"):
        trained(mapped, Y, shuffle=False, callbacks=[shrink])
    assert streams() == []


LIMITED = """
import resource, sys
import numpy as np
from portable_bp import MLP, OutOfMemoryError, fit, sources
x, y, kind = sys.argv[1:]
net, window = MLP([64, 32, 1]), 2**15
settings = dict(epochs=1, batch_size=256, backend="numpy")
fit(net, np.zeros((512, 64), np.float32), np.zeros(512), **settings)
used = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmData"))
room = 2 * window * 65 * 4 + 2**25  # two windows; the net, its steps and a thread
resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
try:
    if kind == "source":
        fit(net, sources.open(x, y, window_rows=window), validation=0.1, **settings)
    else:
        fit(net, np.load(x), np.load(y), **settings)
    print("trained")
except MemoryError:
    print("out of memory")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
@pytest.mark.parametrize(("kind", "end"), [("source", "trained"), ("arrays", "out of memory")])
def test_two_windows_and_the_net_are_all_that_a_source_takes(
    kind: str, end: str, tmp_path: Path
) -> None:
    rows = 2**19
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 64)).flush()
    np.save(tmp_path / "y.npy", np.zeros(rows, np.float32))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), kind],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == (end, 0), done.stderr
