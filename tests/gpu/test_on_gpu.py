"""CUDA graphs, fused kernels and memory on a real device; skipped with the reason where there is none.

pytest tests/gpu --backends cupy,torch:cuda --require-backends cupy,torch:cuda
"""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest

import portable_bp
from portable_bp import schedules
from portable_bp.backend import EagerRunner, leaves, map_leaves
from portable_bp.equations import optimizers
from portable_bp.testing import equivalence, tolerances
from portable_bp.training import data, prepare
from portable_bp.training.step import StepPlan, make_step

pytestmark = pytest.mark.gpu

BOTH = pytest.mark.parametrize("spec", ["cupy", "torch:cuda"])
CUPY = pytest.mark.parametrize("spec", ["cupy"])

SIZES = [
    ((8, 16, 2), 32, 512),
    pytest.param((784, 256, 128, 10), 128, 2048, marks=pytest.mark.large),
    pytest.param((784, 2048, 2048, 10), 1024, 4096, marks=pytest.mark.large),
]


class Case:
    """A network's step on a device, with data, and the numbers of the steps to come."""

    def __init__(self, where, sizes=(8, 16, 2), batch=32, rows=512, hidden="relu", **options):
        rng = np.random.default_rng(0)
        self.where, self.batch, self.rows = where, batch, rows
        self.adam = optimizers.Adam()
        dropout = options.pop("dropout", 0)
        net = portable_bp.MLP(sizes, hidden, "softmax_cross_entropy", dropout=dropout)
        params = net.init(0, where)
        with where.scope():
            counters = where.asarray(np.arange(batch * max(sizes)), where.word_dtype)
            plan = StepPlan(net.equations, self.adam, net.dropout, 3, counters, **options)
            self.step = make_step(plan)
            self.state = (params, optimizers.init(self.adam, params, xp=where.xp))
            x = rng.standard_normal((rows, sizes[0]))
            y = np.eye(sizes[-1])[rng.integers(sizes[-1], size=rows)]
            self.data = where.asarray(x, "float32"), where.asarray(y, "float32")

    def order(self, steps, seed=1):
        return np.random.default_rng(seed).integers(self.rows, size=(steps, self.batch))

    def table(self, first, steps):
        t = np.arange(first + 1.0, first + steps + 1)
        numbers = np.arange(first, first + steps).astype(self.where.word_dtype)
        found = self.adam.coefficients(t, 1e-3 / np.sqrt(t))
        return numbers, *(np.asarray(c).astype("float32") for c in found)

    def compiled(self):
        return self.where.compile(self.step, self.state)

    def eager(self):
        return EagerRunner(self.where, self.step, self.state)

    def host(self, tree):
        with self.where.scope():
            return [self.where.to_numpy(a) for a in leaves(tree)]

    def same(self, got, want):
        for a, b in zip(self.host(got), self.host(want), strict=True):
            assert a.tobytes() == b.tobytes()


@contextmanager
def no_fallback():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries say of their own old parts
        warnings.filterwarnings("error", ".* runs this step eagerly")
        yield


@BOTH
@pytest.mark.parametrize(("sizes", "batch", "rows"), SIZES)
def test_a_replay_has_the_bits_of_the_step_as_it_is_written(where, sizes, batch, rows):
    case = Case(where, sizes, batch, rows)
    graph, eager = case.compiled(), case.eager()
    for first in (0, 64):
        order, table = case.order(64, seed=first), case.table(first, 64)
        with no_fallback():
            losses = graph.run(case.data, order, table)
        case.same(losses, eager.run(case.data, order, table))
        case.same(graph.state, eager.state)


@BOTH
def test_dropout_and_a_smaller_last_batch(where):
    case = Case(where, dropout=0.4)
    graph, eager = case.compiled(), case.eager()
    for order in (case.order(21), case.order(1)[:, :7], case.order(21, seed=2)):
        table = case.table(5, len(order))
        with no_fallback():
            case.same(graph.run(case.data, order, table), eager.run(case.data, order, table))
    case.same(graph.state, eager.state)


@pytest.mark.slow
@BOTH
def test_many_tensors_clipped_together(where):
    """More arrays than CuPy joins without asking the host."""
    case = Case(where, (8, *[6] * 6, 2), hidden="tanh", clip_norm=0.1)
    graph, eager = case.compiled(), case.eager()
    with no_fallback():
        losses = graph.run(case.data, case.order(20), case.table(0, 20))
    case.same(losses, eager.run(case.data, case.order(20), case.table(0, 20)))


@BOTH
def test_rates_and_penalties_that_change_are_not_baked(where):
    X = np.random.default_rng(0).standard_normal((100, 3)).astype("float32")
    options = {
        "learning_rate": schedules.Cosine(0.1), "optimizer": "momentum", "epochs": 3,
        "batch_size": 16, "backend": where,
    }  # fmt: skip
    net = portable_bp.MLP([3, 4, 1], "tanh", "squared_error", l2=0.01, l1=0.001)
    with no_fallback():
        got = portable_bp.fit(net, X, X[:, :1], compile=True, **options)
    want = portable_bp.fit(net, X, X[:, :1], compile=False, **options)
    for a, b in zip(leaves(got.params), leaves(want.params), strict=True):
        assert where.to_numpy(a).tobytes() == where.to_numpy(b).tobytes()


@BOTH
@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_random_bits_are_those_of_numpy(where, mode):
    for row in equivalence.random_rows(where, "float32", mode):
        assert row.agrees, str(row)


@BOTH
def test_the_host_does_not_wait_for_the_device(where):
    case = Case(where)
    graph = case.compiled()
    graph.run(case.data, case.order(100), case.table(0, 100))
    where.synchronize()
    done = busy(where)
    losses = graph.run(case.data, case.order(100), case.table(100, 100))
    assert not done()  # all steps are handed over, none can have begun
    assert np.isfinite(case.host(losses)).all()
    assert done()


def busy(where, cycles=4_000_000_000):
    """Keep the caller's stream busy for seconds; the answer says whether that is over."""
    if where.name == "torch":
        import torch

        torch.cuda._sleep(cycles)
        event = torch.cuda.Event()
        event.record()
        return event.query
    import cupy

    spin = cupy.RawKernel(
        'extern "C" __global__ void spin(long long cycles) {'
        " long long start = clock64(); while (clock64() - start < cycles) {} }",
        "spin",
    )
    with where.scope():
        spin((1,), (1,), (np.int64(cycles),))
        event = cupy.cuda.get_current_stream().record()
    return lambda: event.done


@CUPY
def test_a_graph_reads_nothing_that_it_did_not_write(where):
    """Whatever lies in the memory of temporaries, here NaN, makes no difference."""
    import cupy

    from portable_bp_backends._graph import GraphRunner
    from portable_bp_backends.cupy_beside import Beside
    from portable_bp_backends.cupy_graph import CupyRecorder

    case = Case(where, dropout=0.2)
    with where.scope():
        recorder = CupyRecorder(*(cupy.cuda.Stream(non_blocking=True) for _ in range(2)), Beside())
        malloc, filled = recorder.allocate, []

        def poisoned(size):
            memory = malloc(size)
            memory.memset_async(0xFF, size)
            filled.append(size)
            return memory

        recorder.allocate = poisoned
        graph = GraphRunner(where, case.step, case.state, recorder)
    eager = case.eager()
    with no_fallback():
        losses = graph.run(case.data, case.order(40), case.table(0, 40))
    assert filled
    case.same(losses, eager.run(case.data, case.order(40), case.table(0, 40)))
    case.same(graph.state, eager.state)


@CUPY
def test_a_graph_writes_nothing_that_is_not_its_own(where):
    import cupy

    case = Case(where, (64, 100, 10))
    graph = case.compiled()
    graph.run(case.data, case.order(20), case.table(0, 20))
    foreign = []
    for stream in (cupy.cuda.Stream.null, graph._recorder.stream):
        with where.scope(), stream:
            foreign += [cupy.full(n, 7.0, "float32") for n in (1, 100, 6400, 1 << 20) * 8]
    where.synchronize()
    graph.run(case.data, case.order(20), case.table(20, 20))
    where.synchronize()
    assert all(bool((f == 7).all()) for f in foreign)


@CUPY
def test_a_stream_of_the_users_own(where):
    import cupy

    case = Case(where)
    eager = case.eager()
    want = case.host(eager.run(case.data, case.order(20), case.table(0, 20)))
    with where.scope(), cupy.cuda.Stream(non_blocking=True):
        data = map_leaves(lambda d: d * 1, case.data)
        graph = where.compile(case.step, case.state)
        got = graph.run(data, case.order(20), case.table(0, 20))
        state = graph.state
        del data
        case.same(state, eager.state)
        assert case.host(got)[0].tobytes() == want[0].tobytes()


@CUPY
def test_memory_does_not_grow(where):
    import cupy

    case = Case(where)
    graph = case.compiled()
    pools = cupy.get_default_memory_pool(), graph._recorder._pool
    held = []
    for epoch in range(6):
        graph.run(case.data, case.order(50, seed=epoch), case.table(epoch, 50))
        held.append([pool.total_bytes() for pool in pools])
    assert held[1:] == held[1:2] * 5


@CUPY
def test_a_graph_allocates_nothing(where):
    case = Case(where)
    graph = case.compiled()
    graph.run(case.data, case.order(16), case.table(0, 16))
    (program,) = graph._programs.values()
    drawn = program.graphs[16].func.__self__.debug_dot_str().lower()
    assert "node" in drawn
    assert "alloc" not in drawn


@BOTH
def test_a_step_that_asks_the_host_runs_as_it_is_written(where):
    case = Case(where)

    def asking(xp, state, batch):
        state, loss = case.step(xp, state, batch)
        return state, loss * (1.0 if float(loss) > 0 else 2.0)

    graph = where.compile(asking, case.state)
    eager = EagerRunner(where, asking, case.state)
    with pytest.warns(RuntimeWarning, match="runs this step eagerly, not from a graph"):
        got = graph.run(case.data, case.order(20), case.table(0, 20))
    case.same(got, eager.run(case.data, case.order(20), case.table(0, 20)))
    case.same(graph.state, eager.state)
    case = Case(where)  # and the device is as usable as before
    with no_fallback():
        case.compiled().run(case.data, case.order(20), case.table(0, 20))


@BOTH
@pytest.mark.large
def test_running_out_of_memory_is_told_and_the_device_stays_usable(where):
    X = np.ones((64, 1 << 20), "float32")
    net = portable_bp.MLP([1 << 20, 2, 1], "tanh", "squared_error")
    y = np.zeros((64, 1))
    with limited(where), pytest.raises(portable_bp.OutOfMemoryError, match=where.spec):
        portable_bp.fit(net, X, y, epochs=1, backend=where)
    model = portable_bp.fit(net, X, y, epochs=1, backend=where)
    assert np.isfinite(model.history["loss"]).all()


@contextmanager
def limited(where, size=64 << 20):
    """The library hands out 64 MiB at most."""
    if where.name == "torch":
        import torch

        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(size / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    import cupy

    with where.scope():
        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        pool.set_limit(size=size)
        try:
            yield
        finally:
            pool.set_limit(size=0)


@BOTH
@pytest.mark.parametrize("compile", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_data_that_are_streamed_give_the_same_bits(where, compile, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((5000, 40)).astype("float32"), rng.integers(3, size=5000)
    net = portable_bp.MLP([40, 32, 3], loss="softmax_cross_entropy")
    options = {"epochs": 3, "batch_size": 64, "backend": where, "compile": compile}
    with no_fallback():
        resident = portable_bp.fit(net, X, y, **options)
        for module in (data, prepare):
            monkeypatch.setattr(module, "must_stream", lambda *_: True)
        monkeypatch.setattr(data, "CHUNK_BYTES", 200_000)
        streamed = portable_bp.fit(net, X, y, **options)
    for a, b in zip(leaves(resident.params), leaves(streamed.params), strict=True):
        assert where.to_numpy(a).tobytes() == where.to_numpy(b).tobytes()


@CUPY
def test_products_of_any_layout(where):
    rng = np.random.default_rng(0)
    for dtype, u in (("float32", 2.0**-24), ("float64", 2.0**-53)):
        for m, n, k in [(5, 7, 9), (1, 7, 9), (5, 1, 9), (5, 7, 1), (128, 256, 784)]:
            a, b = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n)))
            exact = a.astype("float64") @ b.astype("float64")
            bound = 4 * u * k * (np.abs(a).astype("float64") @ np.abs(b).astype("float64"))
            with where.scope():
                for left in layouts(where.asarray(a)):
                    for right in layouts(where.asarray(b)):
                        found = where.to_numpy(where.xp.matmul(left, right))
                        assert found.dtype == dtype
                        assert (np.abs(found - exact) <= bound).all()


def layouts(a):
    yield a
    yield a.T.copy().T
    wide = a.repeat(2, axis=1)
    yield wide[:, ::2]


@CUPY
@pytest.mark.slow
def test_fused_kernels_agree_with_single_operations(where):
    from portable_bp_backends.cupy_backend import CupyBackend

    plain = CupyBackend(where.device.id, fuse=False, persistent=False)
    for case in equivalence.RUNS.values():
        fused, _, steps = equivalence.train(where, case, "float32", "eager", rounded="float32")
        single, _, _ = equivalence.train(plain, case, "float32", "eager", rounded="float32")
        a, b = (
            np.concatenate([where.to_numpy(p).ravel() for p in leaves(params)]).astype("float64")
            for params in (fused, single)
        )
        u = tolerances.ROUNDOFF["float32"]
        assert np.linalg.norm(a - b) <= tolerances.trajectory(steps) * u * np.linalg.norm(b)


@CUPY
@pytest.mark.parametrize(("factors", "bits"), [("tf32", 11), ("bf16", 8)])
def test_the_factors_of_products_are_rounded_and_nothing_else(where, factors, bits):
    from portable_bp_backends.cupy_backend import CupyBackend

    rough = CupyBackend(where.device.id, **{factors: True}, persistent=False)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((256, 512)), rng.standard_normal((512, 256))
    found = {}
    for backend in (where, rough):
        for dtype in ("float32", "float64"):
            with backend.scope():
                x, y = backend.asarray(a, dtype), backend.asarray(b, dtype)
                got = backend.to_numpy(backend.xp.matmul(x, y)).astype("float64")
            exact = a.astype(dtype).astype("float64") @ b.astype(dtype).astype("float64")
            found[backend is rough, dtype] = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert found[False, "float32"] < 1e-6
    assert 2.0 ** -(bits + 5) < found[True, "float32"] < 2.0**-bits
    assert max(found[False, "float64"], found[True, "float64"]) < 1e-14
    case = Case(rough, (64, 128, 10), hidden="tanh")
    with no_fallback():
        losses = case.compiled().run(case.data, case.order(20), case.table(0, 20))
    case.same(losses, case.eager().run(case.data, case.order(20), case.table(0, 20)))


@pytest.mark.parametrize("spec", ["cupy:1"])
def test_a_second_device(where):
    import cupy

    case = Case(where, dropout=0.3)
    graph, eager = case.compiled(), case.eager()
    with cupy.cuda.Device(0), no_fallback():
        losses = graph.run(case.data, case.order(20), case.table(0, 20))
        case.same(losses, eager.run(case.data, case.order(20), case.table(0, 20)))
        assert {type(where).spec_of(a) for a in leaves(graph.state)} == {"cupy:1"}
    first = portable_bp.get_backend("cupy:0")
    moved = first.asarray(case.data[0])
    assert type(where).spec_of(moved) == "cupy:0"
    np.testing.assert_array_equal(first.to_numpy(moved), where.to_numpy(case.data[0]))


@pytest.mark.parametrize("spec", ["torch:cuda"])
def test_torch_compile_inside_a_graph(where):
    from portable_bp_backends.torch_backend import TorchBackend

    case = Case(where, hidden="tanh")
    want = case.host(case.compiled().run(case.data, case.order(20), case.table(0, 20)))[0]
    case.where = TorchBackend("cuda:0", inductor=True)
    with no_fallback():
        got = case.host(case.compiled().run(case.data, case.order(20), case.table(0, 20)))[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("spec", ["torch:cuda"])
def test_memory_of_streamed_data_comes_back_after_a_failed_capture(where):
    """PyTorch keeps memory that other streams have used back while it believes a capture under way."""
    import torch

    test_a_step_that_asks_the_host_runs_as_it_is_written(where)
    torch.cuda.empty_cache()
    held = []
    for _ in range(100):
        where.upload(np.zeros(1 << 20, "float32"), "float32")
        where.synchronize()
        held.append(torch.cuda.memory_reserved())
    assert max(held[10:]) <= max(held[:10])
