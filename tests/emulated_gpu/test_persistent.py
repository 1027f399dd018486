"""Many steps in one launch, on emulated devices: each access to a block's memory is watched."""

import dataclasses
import gc
import warnings
from concurrent.futures import ThreadPoolExecutor

import cupy
import numpy as np
import pytest

import portable_bp
from portable_bp import EarlyStopping, schedules
from portable_bp.backend import EagerRunner, leaves
from portable_bp.equations import activations, losses, optimizers
from portable_bp.equations.activations import Activation
from portable_bp.testing import equivalence
from portable_bp_backends import cupy_backend
from portable_bp_backends.cupy_backend import CupyBackend
from portable_bp_backends.cupy_persistent import runner, source
from tests.emulated_gpu import device
from tests.emulated_gpu.install import nvrtc
from tests.gpu.test_on_gpu import Case

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype("float32")
LABELS = RNG.integers(3, size=60)


@pytest.fixture
def backend():
    return portable_bp.get_backend("cupy:0")


@pytest.fixture
def runners(monkeypatch):
    """The runners that are made, and no warning: none of them falls back to graphs."""
    made = []

    class Kept(runner.PersistentRunner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(cupy_backend, "PersistentRunner", Kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* runs this step")
        yield made
    assert made
    assert all(r._other is None for r in made)
    assert any(r.launches for r in made)


def close(case, got, want, rtol=1e-4):
    """To the rounding of sums in another order, some twenty steps long, relative to the largest."""
    for a, b in zip(case.host(got), case.host(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


def fit(backend, net=None, y=LABELS, **options):
    net = net or portable_bp.MLP([4, 6, 3], "tanh", "softmax_cross_entropy")
    return portable_bp.fit(
        net, X, y, **{"epochs": 2, "batch_size": 20, "seed": 1, "backend": backend, **options}
    )


def weights(model):
    return [model.backend.to_numpy(a) for a in leaves(model.params)]


# --- the same numbers


@pytest.mark.parametrize(
    ("hidden", "options"),
    [("relu", {}), ("gelu", {"dropout": 0.4, "clip_norm": 0.05, "clip_value": 0.1})],
)
def test_a_run_agrees_with_the_eager_steps(backend, runners, hidden, options):
    case = Case(backend, hidden=hidden, rows=96, **options)
    kernel, eager = backend.compile(case.step, case.state), case.eager()
    whole, smaller = case.order(21), case.order(1)[:, :7]
    ragged = case.order(9, seed=2)
    ragged[[2, 5, 8], 7:] = -1
    for first, order in ((0, whole), (21, smaller), (22, ragged)):
        table = case.table(first, len(order))
        got = kernel.run(case.data, order, table)
        parts = list(runner.by_size(order))
        want = [eager.run(case.data, o, tuple(t[now] for t in table)) for now, o in parts]
        close(case, got, cupy.concatenate(want))
    if "dropout" not in options:  # there are random words for a mini-batch only
        got, want = (r.run(case.data, None, case.table(31, 3)) for r in (kernel, eager))
        close(case, got, want)
    close(case, kernel.state, eager.state)


BY_DEFAULT = ("adam, cosine, sample weights", "adagrad, step, penalties")


@pytest.mark.parametrize(
    "run",
    [n if n in BY_DEFAULT else pytest.param(n, marks=pytest.mark.slow) for n in equivalence.RUNS],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_training_agrees_with_numpy(backend, runners, run, dtype):
    runs = {run: equivalence.RUNS[run]}
    for row in equivalence.training_rows(backend, dtype, "compiled", runs):
        assert row.agrees, str(row)


NETS = {
    **{f"hidden {a}": portable_bp.MLP([4, 6, 3], a) for a in activations.ACTIVATIONS},
    **{
        f"{loss}, output {output}": portable_bp.MLP([4, 6, 3], "tanh", loss, output=output)
        for loss, output in (
            ("log_loss", None), ("log_loss", "softmax"), ("softmax_cross_entropy", None),
            ("softmax_cross_entropy", "sigmoid"), ("poisson", None), ("poisson", "softplus"),
            ("absolute_error", None), ("huber", None), ("quantile", None),
        )
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_activation_and_loss(backend, runners, name):
    y = np.eye(3, dtype="float32")[LABELS]
    got, want = (weights(fit(b, NETS[name], y)) for b in (backend, "numpy"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimiser_with_labels_and_a_smaller_last_batch(backend, runners, name):
    options = {"optimizer": name, "learning_rate": schedules.Cosine(0.05), "batch_size": 16}
    got, want = (weights(fit(b, **options)) for b in (backend, "numpy"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(b).max())


def test_the_tables_name_what_there_is():
    assert {n.split(",")[0] for n in NETS} >= {f"hidden {a}" for a in activations.ACTIVATIONS}
    assert {n.split(",")[0] for n in NETS} >= set(losses.LOSSES) - {"squared_error"}


# --- whole runs


def test_early_stopping_and_resume_at_a_step(backend, runners, tmp_path):
    """To the same bits: it is no matter how many steps are in a launch."""
    options = {
        "validation": 0.2, "early_stopping": EarlyStopping(2), "batch_size": 16, "epochs": 6,
        "learning_rate": schedules.Cosine(0.3), "net": portable_bp.MLP([4, 6, 3], dropout=0.2),
        "y": np.eye(3, dtype="float32")[LABELS],
    }  # fmt: skip
    whole = fit(backend, checkpoint=tmp_path, checkpoint_every=4, checkpoint_keep=1000, **options)
    assert len(whole.history["loss"]) < 6 or whole.stopped == "finished"
    points = sorted(tmp_path.glob("ckpt-*"))
    for point in points[1::2]:
        there = tmp_path / point.stem
        there.mkdir()
        (there / point.name).write_bytes(point.read_bytes())
        again = fit(backend, checkpoint=there, resume=True, **options)
        assert [a.tobytes() for a in weights(again)] == [b.tobytes() for b in weights(whole)]
        assert again.history["loss"] == whole.history["loss"]


def test_one_launch_an_epoch(backend, runners):
    """And one for all epochs that nobody looks at."""
    net = portable_bp.MLP([4, 16, 2], loss="softmax_cross_entropy")
    fit(backend, net, LABELS % 2, epochs=3, callbacks=[lambda *_: None])
    assert [r.launches for r in runners] == [3]
    fit(backend, net, LABELS % 2, epochs=3)
    fit(backend, net, LABELS % 2, epochs=3, batch_size=32)  # the last mini-batch has 28 rows
    assert [r.launches for r in runners] == [3, 1, 1]


def test_a_run_is_one_kernel(backend, runners):
    case = Case(backend)
    kernel = backend.compile(case.step, case.state)
    kernel.run(case.data, case.order(20), case.table(0, 20))
    before = device.counts["kernel"], device.counts["graph"]
    kernel.run(case.data, case.order(20), case.table(20, 20))
    # The other one copies the losses to memory of the caller's stream.
    assert (device.counts["kernel"], device.counts["graph"]) == (before[0] + 2, before[1])


def test_long_runs_are_several_launches_with_the_same_bits(backend, runners, monkeypatch):
    case = Case(backend, dropout=0.3)
    whole, parts = (backend.compile(case.step, case.state) for _ in range(2))
    order, table = case.order(20), case.table(0, 20)
    want = whole.run(case.data, order, table)
    monkeypatch.setattr(runner, "STEPS", 8)
    case.same(parts.run(case.data, order, table), want)
    case.same(parts.state, whole.state)
    assert (whole.launches, parts.launches) == (1, 3)


def test_a_smaller_mini_batch_has_the_bits_of_a_launch_of_its_own(backend, runners):
    case = Case(backend, dropout=0.3)
    whole, parts = (backend.compile(case.step, case.state) for _ in range(2))
    order, table = case.order(9), case.table(0, 9)
    order[[3, 8], 5:] = -1
    got = whole.run(case.data, order, table)
    want = [
        parts.run(case.data, o, tuple(t[now] for t in table)) for now, o in runner.by_size(order)
    ]
    case.same(got, cupy.concatenate(want))
    case.same(whole.state, parts.state)
    assert (whole.launches, parts.launches) == (1, 4)


def test_lists_of_rows_with_holes_are_refused(backend):
    case = Case(backend)
    made = backend.compile(case.step, case.state)
    for hole, error in ((-1, "at its end alone"), (-2, "reads rows -2 to"), (512, "512")):
        order = case.order(4)
        order[1, 3] = hole
        with pytest.raises(IndexError, match=error):
            made.run(case.data, order, case.table(0, 4))
    order[1, 3], order[2] = 0, -1
    with pytest.raises(IndexError, match="at its end alone"):
        made.run(case.data, order, case.table(0, 4))


def test_data_of_another_layout(backend, runners):
    case = Case(backend)
    whole, parts = (backend.compile(case.step, case.state) for _ in range(2))
    order, table = case.order(9), case.table(0, 9)
    x, y = case.data
    odd = x.T.copy().T, cupy.repeat(y, 2, axis=1)[:, ::2]
    case.same(parts.run(odd, order, table), whole.run(case.data, order, table))


def test_a_search_over_penalties_and_seeds_compiles_nothing_anew(backend, runners):
    for k in range(3):
        net = portable_bp.MLP([4, 6, 3], "tanh", "softmax_cross_entropy", dropout=0.2, l2=0.3 + k)
        fit(backend, net, seed=k)
        if not k:
            before = len(nvrtc.texts)
    assert len(nvrtc.texts) == before


def test_running_out_of_memory_is_told_and_the_next_run_is_right(backend):
    want = weights(fit(backend))
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    with device.exhausted(0), pytest.raises(portable_bp.OutOfMemoryError, match="cupy:0"):
        fit(backend)
    assert [a.tobytes() for a in weights(fit(backend))] == [b.tobytes() for b in want]


def test_another_device_and_threads_at_the_same_time(backend, runners):
    want = [a.tobytes() for a in weights(fit(backend))]
    assert [a.tobytes() for a in weights(fit(CupyBackend(1)))] == want
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: weights(fit(backend)), range(4)):
            assert [a.tobytes() for a in found] == want


# --- what is not run so


def other(case, backend, step, reason):
    """A step that runs from graphs, which says why, with their bits."""
    made = backend.compile(step, case.state)
    eager = EagerRunner(backend, step, case.state)
    order, table = case.order(18), case.table(0, 18)
    order[17, 9:] = -1
    with pytest.warns(RuntimeWarning, match=f"from graphs, not from a persistent kernel: {reason}"):
        got = made.run(case.data, order, table)
    want = [
        eager.run(case.data, o, tuple(t[now] for t in table)) for now, o in runner.by_size(order)
    ]
    case.same(got, cupy.concatenate(want))
    case.same(made.state, eager.state)
    assert made.launches == 0


def test_a_function_without_words_runs_from_graphs(backend):
    odd = Activation(lambda z, xp: xp.atan(z), lambda z, a, xp: 1 / (1 + z * z), "arctan")
    case = Case(backend, hidden=odd)
    other(case, backend, case.step, "a kernel has no words for a?r?c?tan")


def test_a_kernel_whose_numbers_differ_is_not_used(backend, monkeypatch):
    case = Case(backend)
    monkeypatch.setitem(source._OF_FLOATS, "sqrt", "({0})")  # Adam, slightly wrong
    other(case, backend, case.step, "its first steps differ from the eager ones by")


def test_large_steps_and_the_switch_say_nothing(backend, monkeypatch):
    case = Case(backend)
    assert type(CupyBackend(0, persistent=False).compile(case.step, case.state)) is not (
        runner.PersistentRunner
    )
    wide = Case(backend, (64, 400, 10))
    assert type(backend.compile(wide.step, wide.state)) is not runner.PersistentRunner
    own = backend.compile(lambda *arguments: case.step(*arguments), case.state)
    assert type(own) is not runner.PersistentRunner  # it may hold arrays of the device
    monkeypatch.setattr(runner, "PRODUCTS", 1000)
    made = backend.compile(case.step, case.state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = made.run(case.data, case.order(20), case.table(0, 20))
    case.same(got, case.eager().run(case.data, case.order(20), case.table(0, 20)))
    assert made.launches == 0


@pytest.mark.device_errors
def test_a_missing_barrier_is_seen(backend):
    """The emulation sees two threads at one entry even where the numbers come out right."""
    text = """
    extern "C" __global__ void shift(float *x) {
      extern __shared__ __align__(16) char memory[];
      SHARED(float) const s = (SHARED(float))(memory);
      s[threadIdx.x] = x[threadIdx.x];
      %s
      x[threadIdx.x] = s[(threadIdx.x + 31) %% 32];
    }"""
    x = cupy.arange(32, dtype="float32")
    cupy.RawKernel(text % "__syncthreads();", "shift")((1,), (32,), (x,), shared_mem=128)
    assert x.get().tolist() == [31, *range(31)]
    cupy.RawKernel(text % "", "shift")((1,), (32,), (x,), shared_mem=128)
    with pytest.raises(device.EmulationError, match=r"a race at byte 0 .*thread 1, and 0"):
        x.get()


@pytest.mark.device_errors
@pytest.mark.parametrize(
    "left_out", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in range(2, 8))]
)
def test_every_barrier_in_a_step_is_needed(backend, monkeypatch, left_out):
    def without(graphs, *, width):
        sound = source.kernel(graphs, width=width)
        parts = sound.text.split("__syncthreads();")
        assert len(parts) == 9  # one before the first step, seven in each
        parts[left_out : left_out + 2] = ["".join(parts[left_out : left_out + 2])]
        return dataclasses.replace(sound, text="__syncthreads();".join(parts))

    gc.collect()  # a recorder that goes waits for the stream, and an error there is nobody's
    monkeypatch.setattr(runner, "kernel", without)
    case = Case(backend, (8, 9, 2))
    made = backend.compile(case.step, case.state)
    with pytest.raises(device.EmulationError, match="a race at byte"):
        made.run(case.data, case.order(4), case.table(0, 4))
