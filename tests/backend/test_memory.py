"""Memory: level over many epochs, prediction block by block, and running out of it told in words."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, OutOfMemoryError
from portable_bp import backend as backend_module
from portable_bp.backend import Backend, leaves, memory
from portable_bp.persistence import container
from portable_bp.training import data

RNG = np.random.default_rng(2)
X = RNG.normal(size=(64, 3)).astype("float32")
Y = np.sin(X[:, 0])
NET = MLP([3, 4, 1])

ROW_OF_HISTORY = 1000
"""Bytes that an epoch's numbers take at most."""


def test_two_thousand_epochs_take_no_more_memory_than_two_hundred(tmp_path: Any) -> None:
    """What Python holds grows by the rows of the history and nothing else, checkpoints included."""
    marks = {}

    def mark(end: portable_bp.EpochEnd) -> None:
        if end.epoch in (200, 2000):
            marks[end.epoch] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        portable_bp.fit(
            NET, X, Y, epochs=2000, batch_size=None, callbacks=[mark],
            checkpoint=tmp_path / "runs", checkpoint_every=500,
        )  # fmt: skip
    finally:
        tracemalloc.stop()
    assert marks[2000] - marks[200] < 1800 * ROW_OF_HISTORY


SOAK = """
import resource, sys, numpy as np, portable_bp
spec, epochs = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
X = rng.normal(size=(512, 64)).astype("float32"); y = rng.integers(0, 10, 512)
net = portable_bp.MLP([64, 128, 10], loss="softmax_cross_entropy")
marks = []
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
def mark(end):
    if end.epoch in (epochs // 10, epochs):
        marks.append(resident())
portable_bp.fit(net, X, y, epochs=epochs, batch_size=128, backend=spec, validation=0.2, callbacks=[mark])
print(marks[1] - marks[0])
"""


def grown(spec: str, epochs: int) -> int:
    """Bytes by which a process of its own has grown over the last nine tenths of its epochs."""
    command = [sys.executable, "-c", SOAK, spec, str(epochs)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("spec", ["numpy", "torch", "jax"])
def test_the_process_does_not_grow_over_two_thousand_epochs(spec: str, usable: Any) -> None:
    usable(spec)
    # One copy of the parameters per epoch would be 70 MB.
    assert grown(spec, 2000) < 8 * 2**20


LIMITED = """
import resource, sys, tracemalloc, numpy as np, portable_bp
path, room = sys.argv[1], int(sys.argv[2])
net = portable_bp.MLP([100, 2])
mapped = np.load(path, mmap_mode="r")
y = np.zeros((len(mapped), 2), "float32")
model = portable_bp.fit(net, mapped[:2], y[:2], epochs=1)
tracemalloc.start()
model = portable_bp.fit(net, mapped, y, epochs=1, batch_size=1000, validation=(mapped[:10], y[:10]))
print(model.stopped, tracemalloc.get_traced_memory()[1] < room)
model = portable_bp.fit(net, mapped, y, epochs=1, batch_size=1000, validation=0.5)
print(model.stopped, tracemalloc.get_traced_memory()[1] < room)
tracemalloc.stop()
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + room, now + room))
try:
    mapped.astype("float32")
except MemoryError:
    print("too large")
out = model.predict(mapped)
loss, r2 = model.evaluate(mapped, y)
print(out.shape, np.isfinite(out).all(), np.isfinite(loss))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_rows_that_do_not_fit_in_memory(tmp_path: Any) -> None:
    """640 MB of float64 on disk, 250 MB to spare: learnt from, predicted and judged block by block."""
    rows = np.lib.format.open_memmap(
        tmp_path / "x.npy", mode="w+", dtype="float64", shape=(800_000, 100)
    )
    rows[::1000] = 1.0
    rows.flush()
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.npy"), str(250 * 2**20)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "finished True",
        "finished True",
        "too large",
        "(800000, 2) True True",
    ]


def test_a_layer_that_fits_nowhere_allocates_nothing() -> None:
    """Refused before the rows are looked at, by the bytes it would take."""
    tracemalloc.start()
    try:
        for call in (
            MLP([3, 10**12, 1]).init,
            lambda: portable_bp.fit(MLP([3, 10**12, 1]), X, Y),
        ):
            with pytest.raises(OutOfMemoryError, match=r"needs 40,000,000,000,008 bytes"):
                call()
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert issubclass(OutOfMemoryError, MemoryError)


# --------------------------------------------------------- a device that has no room, pretended

MESSAGES = {
    "torch": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB.",
    "jax": "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2147483648 bytes.",
    "cupy": "cudaErrorMemoryAllocation: out of memory",
}


def full(monkeypatch: pytest.MonkeyPatch, spec: str, after: int = 0) -> list[int]:
    """From its ``after``-th array on the device refuses; the returned list counts what lives."""
    adapter = type(portable_bp.get_backend(spec))
    true, count = adapter.asarray, [0]

    def asarray(self: Backend, values: Any, dtype: Any = None) -> Any:
        count[0] += 1
        if count[0] > after:
            raise RuntimeError(MESSAGES[spec])
        return true(self, values, dtype)

    monkeypatch.setattr(adapter, "asarray", asarray)
    monkeypatch.setattr(adapter, "free_memory", lambda self: 123_456_789)
    return count


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("spec", ["torch", "jax"])
def test_a_device_without_memory_says_so(
    spec: str, after: int, monkeypatch: pytest.MonkeyPatch, usable: Callable[[str], Backend]
) -> None:
    """What was asked for, what the library said, what is free and what to lower; then all is well."""
    usable(spec)
    before = X.tobytes()
    with monkeypatch.context() as patch:
        full(patch, spec, after)
        with pytest.raises(OutOfMemoryError) as caught:
            portable_bp.fit(NET, X, Y, backend=spec, batch_size=32)
    said = str(caught.value)
    assert f"{spec} ran out of memory training MLP([3, 4, 1]" in said
    assert "on 64 rows, 32 at a time" in said
    assert MESSAGES[spec].split(".")[0] in said
    assert "123,456,789 bytes are free now. Lower batch_size or the layer sizes" in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None  # its traceback would keep the arrays
    assert X.tobytes() == before
    model = portable_bp.fit(NET, X, Y, backend=spec, batch_size=32, epochs=2)
    assert len(model.history["loss"]) == 2


@pytest.mark.parametrize("spec", ["torch", "jax"])
def test_prediction_without_memory_leaves_the_model_as_it_was(
    spec: str, monkeypatch: pytest.MonkeyPatch, usable: Callable[[str], Backend]
) -> None:
    backend = usable(spec)
    model = portable_bp.fit(NET, X, Y, backend=spec, epochs=1)
    wanted = model.predict(X)
    kept = [backend.to_numpy(p).tobytes() for p in leaves(model.params)]
    with monkeypatch.context() as patch:
        full(patch, spec)
        for call in (lambda: model.predict(X), lambda: model.evaluate(X, Y)):
            with pytest.raises(OutOfMemoryError, match=r"over 64 rows in blocks of .* Lower"):
                call()
    assert kept == [backend.to_numpy(p).tobytes() for p in leaves(model.params)]
    np.testing.assert_array_equal(model.predict(X), wanted)


@pytest.mark.parametrize("when", ["data", "step"])
def test_what_the_attempt_held_is_free_while_the_error_is_at_hand(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = RNG.normal(size=(100_000, 20))
    net = MLP([20, 4, 1])

    def broken(self: Any, *arguments: Any) -> Any:
        self.cycle = self  # as between the parts of a compiled step
        runners.append(weakref.ref(self))
        raise RuntimeError(MESSAGES["torch"])

    runners: list[Any] = []
    with monkeypatch.context() as patch:
        full(patch, "torch", after=2 if when == "data" else 10**6)
        patch.setattr(backend_module.EagerRunner, "run", broken)
        tracemalloc.start()
        try:
            with pytest.raises(OutOfMemoryError) as caught:
                portable_bp.fit(net, big, np.zeros(len(big)), backend="torch", compile=False)
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert caught.value is not None
    assert peak > 8e6  # the rows in float32
    assert held < 1e6
    assert len(runners) == (when == "step")
    assert not any(runner() for runner in runners)  # and with it the state on the device


def test_other_errors_of_a_library_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = type(portable_bp.get_backend("torch"))

    def broken(self: Backend, values: Any, dtype: Any = None) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(adapter, "asarray", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        portable_bp.fit(NET, X, Y, backend="torch")


@pytest.mark.parametrize("name", MESSAGES)
def test_the_words_of_each_library_are_known(name: str) -> None:
    adapter = portable_bp.backend.registry.adapters()[name]
    assert adapter.out_of_memory(RuntimeError(MESSAGES[name]))
    assert adapter.out_of_memory(MemoryError())
    assert not adapter.out_of_memory(RuntimeError("an illegal memory access was encountered"))
    assert not adapter.out_of_memory(ValueError("out of memory"))


def test_the_hosts_memory_runs_out_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Backend, values: Any, dtype: Any = None) -> Any:
        raise MemoryError

    monkeypatch.setattr(type(portable_bp.get_backend("strict")), "asarray", broken)
    with pytest.raises(
        OutOfMemoryError,
        match=r"strict ran out of memory training .*: MemoryError\. [\d,]+ bytes are",
    ):
        portable_bp.fit(NET, X, Y, backend="strict")


def test_rows_that_do_not_fit_on_the_device_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time does the device hold more than two pieces of them."""
    backend = portable_bp.get_backend("torch")
    monkeypatch.setattr(type(backend), "free_memory", lambda self: X.nbytes)
    monkeypatch.setattr(data, "CHUNK_BYTES", X.nbytes // 4)
    largest = []
    true = type(backend).upload

    def upload(self: Backend, values: Any, dtype: str) -> Any:
        largest.append(values.nbytes)
        return true(self, values, dtype)

    monkeypatch.setattr(type(backend), "upload", upload)
    portable_bp.fit(NET, X, Y, backend="torch", epochs=2, batch_size=8)
    assert len(largest) >= 2 * 4 * 2
    assert max(largest) <= X.nbytes // 4


def grouped(root: Path, lines: str, **files: str) -> tuple[tuple[int, Path, Path], ...]:
    """What a machine with these control groups says: ``files`` with __ for / and the numbers."""
    for name, text in {"proc__self__cgroup": lines, **files}.items():
        path = root.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory.control_groups(root)


SYS = "sys__fs__cgroup"


@pytest.mark.parametrize(
    ("lines", "files", "limits"),
    [
        ("0::/\n", {"memory.max": "1000"}, [1000]),
        ("0::/\n", {"memory.max": "max\n"}, []),
        ("0::/a/b\n", {"a__b__memory.max": "max\n", "a__memory.max": "500"}, [500]),
        ("0::/a/b\n", {"a__b__memory.max": "300", "memory.max": "400"}, [300, 400]),
        ("0::/../../elsewhere\n", {"memory.max": "1000"}, [1000]),
        ("9:cpu:/x\n4:hugetlb,memory:/d\n", {"memory__d__memory.limit_in_bytes": "700"}, [700]),
        ("0::/a\n", {}, []),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, lines: str, files: dict[str, str], limits: list[int]
) -> None:
    found = grouped(tmp_path, lines, **{f"{SYS}__{name}": n for name, n in files.items()})
    assert [limit for limit, _, _ in found] == limits


def test_a_container_has_less_memory_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, free = memory.physical_memory(), memory.available_memory()
    assert machine is not None
    assert free is not None
    assert 0 < free < machine
    groups = grouped(
        tmp_path,
        "0::/job\n",
        **{
            f"{SYS}__job__memory.max": "1000000",
            f"{SYS}__job__memory.current": "900000",
            f"{SYS}__job__memory.stat": "anon 500000\ninactive_file 300000\n",
        },
    )
    monkeypatch.setattr(memory, "control_groups", lambda: groups)
    assert memory.physical_memory() == 1_000_000
    assert memory.available_memory() == 400_000
    with pytest.raises(portable_bp.OutOfMemoryError, match="this machine has 1,000,000"):
        portable_bp.MLP([1000, 1000]).init()

    container.write(tmp_path / "f", {"W": np.ones(50_000)}, {})
    with pytest.raises(portable_bp.CheckpointError, match="over the limit of 250000"):
        container.read(tmp_path / "f")
