"""The CuPy path on emulated devices: what a GPU does not forgive, and what it would not show."""

import gc
import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cupy
import numpy as np
import pytest

import portable_bp
from portable_bp.backend import leaves
from portable_bp.errors import BackendUnavailableError
from portable_bp.testing import equivalence
from portable_bp_backends import cupy_backend, cupy_cublas
from portable_bp_backends.cupy_backend import CupyBackend
from portable_bp_backends.cupy_beside import Beside
from portable_bp_backends.cupy_graph import CupyRecorder
from tests.emulated_gpu import device, driver, memory
from tests.emulated_gpu.install import nvrtc
from tests.gpu.test_on_gpu import Case, no_fallback


@pytest.fixture
def backend():
    """CuPy with graphs; ``test_persistent.py`` is about what runs small networks by default."""
    return CupyBackend(0, persistent=False)


def problem(n=64, classes=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 3)).astype("float32"), rng.integers(classes, size=n)


def fit(backend, X=None, y=None, **options):
    if X is None:
        X, y = problem()
    net = portable_bp.MLP([3, 4, 3], "tanh", "softmax_cross_entropy", l2=options.pop("l2", 0.0))
    return portable_bp.fit(
        net, X, y, **{"epochs": 1, "batch_size": 16, "backend": backend, **options}
    )


def numbers(tree, backend):
    return [backend.to_numpy(a) for a in leaves(tree)]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.tobytes() == y.tobytes()


# --- the waits between streams, each by itself


def test_what_the_caller_overwrites_after_a_run_was_read_before(backend):
    case = Case(backend)
    graph, eager = case.compiled(), case.eager()
    order, table = case.order(20), case.table(0, 20)
    want = case.host(eager.run(case.data, order, table))
    with no_fallback():
        losses = graph.run(case.data, order, table)
        for array in case.data:  # no read between
            array.fill(np.nan)
    assert case.host(losses)[0].tobytes() == want[0].tobytes()
    case.same(graph.state, eager.state)


def test_a_state_that_the_caller_overwrites_after_compile_was_copied_before(backend):
    case = Case(backend)
    eager = case.eager()
    want = case.host(eager.run(case.data, case.order(20), case.table(0, 20)))
    graph = case.compiled()
    for array in leaves(case.state):  # the end of inside() alone makes this wait
        array.fill(np.nan)
    with no_fallback():
        losses = graph.run(case.data, case.order(20), case.table(0, 20))
    assert case.host(losses)[0].tobytes() == want[0].tobytes()


def test_a_run_on_one_stream_and_its_state_on_another(backend):
    case = Case(backend)
    graph, eager = case.compiled(), case.eager()
    order, table = case.order(20), case.table(0, 20)
    with cupy.cuda.Stream(non_blocking=True) as first:
        cupy.cuda.Device().synchronize()
        graph.run(case.data, order, table)
    with cupy.cuda.Stream(non_blocking=True) as second:
        state = graph.state  # the start of outside() alone makes this wait
    with first:
        graph.run(case.data, order, case.table(20, 20))  # and its end makes this wait
    second.synchronize()
    first.synchronize()
    eager.run(case.data, order, table)
    cupy.cuda.Device().synchronize()
    case.same(state, eager.state)


def test_products_on_two_streams_have_a_workspace_each(backend):
    a = cupy.ones((16, 16), "float32")
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    products = []
    for stream in streams:  # neither waits for the other, and neither has to
        with stream:
            products.append(backend.xp.matmul(a, a))
    cupy.cuda.Device().synchronize()
    assert all(bool((p == 16).all()) for p in products)


@pytest.mark.device_errors
def test_two_streams_without_a_wait_are_told_with_both_places(backend):
    x = cupy.ones(1000, "float32")
    with cupy.cuda.Stream(non_blocking=True), pytest.raises(device.EmulationError) as told:
        x += 1
    assert "race" in str(told.value)
    assert str(told.value).count("test_cupy.py") == 2


@pytest.mark.device_errors
def test_reading_beyond_an_array_is_told(backend):
    x = cupy.zeros(8, "float32")
    wrong = cupy.ndarray((9,), "float32", x.data)
    with pytest.raises(device.EmulationError, match="4 bytes beyond an array"):
        wrong + 1


def test_memory_starts_as_nan_and_is_nan_again_when_it_comes_back(backend):
    first = cupy.empty(100, "float32")
    assert bool(cupy.isnan(first).all())
    first.fill(1)
    address = first.data.ptr
    del first
    again = cupy.empty(100, "float32")
    assert again.data.ptr == address
    assert bool(cupy.isnan(again).all())


# --- which library


def test_cublas_is_the_one_that_cupy_is_linked_to(backend, monkeypatch):
    asked = []
    monkeypatch.setattr(cupy_cublas.ctypes, "CDLL", lambda name: asked.append(name))
    for version, platform in ((12090, "linux"), (13000, "linux"), (13000, "win32")):
        monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda v=version: v)
        monkeypatch.setattr(cupy_cublas.sys, "platform", platform)
        cupy_cublas.library()
    assert asked == ["libcublas.so.12", "libcublas.so.13", "cublas64_13.dll"]


@pytest.mark.parametrize("missing", ["nvrtc", "cublas"])
def test_a_gpu_without_its_libraries_is_not_taken(missing, monkeypatch):
    def failing(*_):
        raise RuntimeError("libnvrtc.so.13: cannot open shared object file")

    cupy_backend._missing_library.cache_clear()
    if missing == "nvrtc":
        monkeypatch.setattr(nvrtc, "getVersion", failing)
    else:
        monkeypatch.setattr(cupy_backend, "library", failing)
    reason = CupyBackend.unavailable_reason()
    assert "not the CUDA libraries" in reason
    assert "cupy-cuda13x[ctk]" in reason
    assert CupyBackend.accelerators() == ()  # `auto` looks on
    cupy_backend._missing_library.cache_clear()
    monkeypatch.undo()
    assert CupyBackend.unavailable_reason() is None
    cupy_backend._missing_library.cache_clear()


def test_two_wheels_of_cupy_are_named(monkeypatch):
    class Wheel:
        def __init__(self, name):
            self.metadata = {"Name": name}

    def failing():
        raise OSError("no cuBLAS")

    names = ("cupy-cuda13x", "numpy", "cupy-cuda12x")
    monkeypatch.setattr(cupy_backend, "distributions", lambda: map(Wheel, names))
    monkeypatch.setattr(cupy_backend, "library", failing)
    said = cupy_backend._missing_library.__wrapped__(cupy)
    assert "cupy-cuda12x and cupy-cuda13x overwrite each other" in said


# --- memory that runs out


def test_a_pool_that_grows_while_it_is_captured_makes_the_graph_anew(backend):
    with backend.scope():
        recorder = CupyRecorder(*(cupy.cuda.Stream(non_blocking=True) for _ in range(2)), Beside())
        kept, calls = [], []

        def body():
            calls.append(None)
            if len(calls) == 2:  # the first capture: something that the warm-up did not need
                kept.append(cupy.empty(1 << 20, "float32"))
            cupy.ones(10, "float32")

        with recorder.inside():
            launch = recorder.record(body)
            launch()
        assert len(calls) == 3
        calls[:] = []

        def growing():
            calls.append(None)
            cupy.empty(len(calls) << 18, "float32")  # more each time

        with recorder.inside(), pytest.raises(MemoryError, match="while a graph was recorded"):
            recorder.record(growing)


def test_free_memory_of_the_other_pool_is_used(backend, monkeypatch):
    monkeypatch.setattr(memory, "TOTAL", memory.memory.used + (64 << 20))
    with backend.scope():
        recorder = CupyRecorder(*(cupy.cuda.Stream(non_blocking=True) for _ in range(2)), Beside())
        data = cupy.empty(48 << 20, "uint8")
        del data
        held = recorder.allocate(32 << 20)
        assert held.mem.size == 32 << 20


@pytest.mark.parametrize(
    ("once", "every"),
    [(False, 25), (True, 15), *(pytest.param(o, 1, marks=pytest.mark.slow) for o in (True, False))],
)
def test_out_of_memory_at_the_allocations_of_a_fit(backend, once, every):
    fit(backend)
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    before = device.memory.allocations
    want = numbers(fit(backend).params, backend)
    count = device.memory.allocations - before
    assert count >= 5
    said = []
    for nth in range(0, count, every):
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        with device.exhausted(nth, 1 if once else 1 << 30), warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = numbers(fit(backend).params, backend)
            except portable_bp.OutOfMemoryError as told:
                said.append(str(told))
            else:
                same(found, want)
    assert all("cupy:0" in text for text in said)
    assert said or once  # what fails once is tried again with the memory that CuPy had kept
    same(numbers(fit(backend).params, backend), want)


# --- devices, threads, processes


def test_a_second_device_outside_its_scope():
    second = CupyBackend(1)
    x = np.arange(6.0, dtype="float32")
    there = second.upload(x, "float32")
    assert CupyBackend.spec_of(there) == "cupy:1"
    np.testing.assert_array_equal(second.to_numpy(there), x)
    first = CupyBackend(0)
    moved = first.asarray(there)
    with second.scope():
        there.fill(0)  # a private copy: what happens to the original is not seen
    np.testing.assert_array_equal(first.to_numpy(moved), x)
    fit(second)


def test_arrays_on_the_wrong_device_are_refused(backend):
    second = CupyBackend(1)
    X, y = problem()
    with pytest.raises(portable_bp.MixedBackendError, match="cupy:0, cupy:1"):
        portable_bp.fit(
            portable_bp.MLP([3, 4, 3], loss="softmax_cross_entropy"),
            backend.asarray(X), second.asarray(y), epochs=1,
        )  # fmt: skip


def test_threads_at_the_same_time(backend):
    want = numbers(fit(backend).params, backend)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: numbers(fit(backend).params, backend), range(6)):
            same(found, want)


def test_per_thread_default_streams(backend):
    want = numbers(fit(backend).params, backend)
    found = []

    def train():
        with cupy.cuda.Stream.ptds:
            found.append(numbers(fit(backend).params, backend))

    threads = [threading.Thread(target=train) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 2
    for f in found:
        same(f, want)


def test_a_piece_that_its_sender_drops_is_waited_for(backend):
    """The thread that sent a piece may be the last to hold it: it does not know who reads."""
    with cupy.cuda.Stream(non_blocking=True) as reader:
        with ThreadPoolExecutor(1) as thread:
            piece = [thread.submit(backend.upload, np.ones(1000, "float32"), "float32").result()]
            read = piece[0] * 2
            thread.submit(piece.clear).result()
            thread.submit(backend.upload, np.zeros(1000, "float32"), "float32").result()
        reader.synchronize()
        assert float(read.sum()) == 2000


def test_a_piece_is_not_given_back_before_its_reader_is_done(backend):
    with ThreadPoolExecutor(1) as thread, cupy.cuda.Stream(non_blocking=True) as reader:
        piece = thread.submit(backend.upload, np.ones(1000, "float32"), "float32").result()
        read = piece * 2
        del piece
        thread.submit(backend.upload, np.zeros(1000, "float32"), "float32").result()
        reader.synchronize()
        assert float(read.sum()) == 2000


def test_data_that_come_after_data_that_are_gone(backend):
    case = Case(backend)
    graph, eager = case.compiled(), case.eager()
    for first in (0, 17, 34):
        order, table = case.order(17), case.table(first, 17)
        data = tuple(d + first for d in case.data)
        with no_fallback():
            case.same(graph.run(data, order, table), eager.run(data, order, table))


# Python 3.12 warns of threads, which every process of pytest may have.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_told(backend):
    fit(backend)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:  # whatever happens: the child is not a second pytest, and does not wait for ever
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            said = "no error"
            try:
                portable_bp.get_backend("cupy:0")
            except BackendUnavailableError as error:
                said = str(error)
            os.write(write, said.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        assert "spawn" in answer.read()


def test_inside_a_capture_of_the_users_own_it_is_said(backend):
    case = Case(backend)
    graph = case.compiled()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="current CUDA stream is being captured"):
            graph.run(case.data, case.order(16), case.table(0, 16))
        stream.end_capture()
    with no_fallback():
        graph.run(case.data, case.order(16), case.table(0, 16))


# --- kernels


def test_a_search_over_a_penalty_compiles_nothing_anew(backend):
    fit(backend, l2=0.1)
    before = len(nvrtc.texts)
    for l2 in (0.2, 0.3, 0.4):
        fit(backend, l2=l2)
    assert len(nvrtc.texts) == before


def test_a_number_that_is_handed_over_does_not_widen_and_one_that_is_computed_with_is_exact(
    backend,
):
    from portable_bp.equations import optimizers, regularizers

    with backend.scope():
        for dtype in ("float32", "float64"):
            a = cupy.asarray([0.1, -0.7, 3.0], dtype)
            got = regularizers._add_l2(a, a, 0.3, backend.xp)
            assert got.dtype == dtype
            host = a.get()
            np.testing.assert_array_equal(got.get(), host + np.dtype(dtype).type(0.3) * host)
            eta = cupy.asarray(0.1, dtype)
            _, s = optimizers._rmsprop(a, a * 0, a, eta, 0.999, 1e-8, backend.xp)
            np.testing.assert_allclose(s.get(), (1 - 0.999) * host**2, rtol=4 * np.finfo(dtype).eps)


def test_zero_and_minus_zero_are_two_numbers(backend):
    from portable_bp_backends.cupy_fuse import fuser

    def scaled(x, number, xp):
        return xp.copysign(x + 1.0, number * (x + 1.0)) * (1.0 + number)

    kernel = fuser({}, backend.xp)(scaled)
    x = cupy.zeros(3, "float32")
    assert kernel(x, 0.0).get().tolist() == [1.0] * 3
    assert kernel(x, -0.0).get().tolist() == [-1.0] * 3


def test_no_group_falls_to_the_other_fusion_engine(backend):
    fit(backend, l2=0.1, optimizer="rmsprop")
    fused = [o for o in gc.get_objects() if type(o).__name__ == "Fusion"]
    assert fused
    assert [f.name for f in fused if f.new_fusion is not None] == []
    assert driver.cooperative == 0


# --- whole runs


def test_graphs_of_ragged_batches_come_and_go(backend, monkeypatch):
    from portable_bp_backends import _graph

    monkeypatch.setattr(_graph, "WINDOW", 32)
    monkeypatch.setattr(_graph, "PROGRAMS", 2)
    case = Case(backend, dropout=0.3)
    graph, eager = case.compiled(), case.eager()
    first = 0
    with no_fallback():
        for batch in (*range(1, _graph.PROGRAMS + 3), 4, 32):
            order, table = case.order(40)[:18, :batch], case.table(first, 18)
            case.same(graph.run(case.data, order, table), eager.run(case.data, order, table))
            first += 18
        order, table = case.order(70), case.table(first, 70)  # over several windows
        case.same(graph.run(case.data, order, table), eager.run(case.data, order, table))
    case.same(graph.state, eager.state)
    assert len(graph._programs) == _graph.PROGRAMS


def test_estimators_on_cupy_input(backend):
    from portable_bp.estimators import MLPClassifier

    X, y = problem()
    here = MLPClassifier((5,), max_iter=3, random_state=0, batch_size=16)
    there = MLPClassifier((5,), max_iter=3, random_state=0, batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three iterations do not converge
        here.fit(X, y)
        there.fit(backend.asarray(X), backend.asarray(y))
    found = there.predict_proba(backend.asarray(X))
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(backend.to_numpy(found), here.predict_proba(X), rtol=2e-5)


def test_a_replay_starts_as_many_kernels_as_are_in_the_graph(backend):
    case = Case(backend, (20, 16, 12, 10), 8, 64)
    graph = case.compiled()
    graph.run(case.data, case.order(16), case.table(0, 16))
    (program,) = graph._programs.values()
    nodes = program.graphs[16].func.__self__.debug_dot_str().splitlines()[1:-1]
    assert not any("alloc" in node for node in nodes)
    assert 20 <= len(nodes) / 16 <= 21  # a step with three layers, Adam and softmax


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["compiled", pytest.param("eager", marks=pytest.mark.slow)])
def test_training_agrees_with_numpy(backend, dtype, mode):
    for row in equivalence.CHECKS["steps"].rows(backend, dtype, mode):
        assert row.agrees, str(row)


@pytest.mark.slow
def test_the_whole_equivalence_suite_by_the_command_line(capsys):
    from portable_bp.cli import run

    assert run(["check", "--backend", "cupy"]) == 0, capsys.readouterr().out


def test_factors_are_rounded_in_one_way():
    with pytest.raises(ValueError, match="tf32 and bf16 round the same factors: choose one"):
        CupyBackend(0, tf32=True, bf16=True)
