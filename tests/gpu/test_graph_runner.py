"""What all CUDA graphs share, run without one: windows, counters, unrolling, data that come and go."""

import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest

import portable_bp
from portable_bp.backend import EagerRunner, leaves
from portable_bp.equations import optimizers
from portable_bp.training.step import StepPlan, make_step
from portable_bp_backends import _graph
from portable_bp_backends._graph import GraphRunner
from portable_bp_backends._runs import CannotReplayError
from tests.gpu.host_recorder import HostRecorder

NUMPY = portable_bp.get_backend("numpy")
ADAM = optimizers.Adam()


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    monkeypatch.setattr(_graph, "WINDOW", 64)


def network(report=True):
    net = portable_bp.MLP([3, 5, 2], hidden="tanh", loss="softmax_cross_entropy", dropout=0.25)
    params = net.init(0, "numpy")
    counters = np.arange(64, dtype="uint32")
    plan = StepPlan(net.equations, ADAM, net.dropout, 7, counters, report=report)
    return make_step(plan), (params, optimizers.init(ADAM, params, xp=NUMPY.xp))


def data(n=24, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3), dtype="float32")
    return x, np.eye(2, dtype="float32")[rng.integers(2, size=n)]


def table(first, steps):
    t = np.arange(first + 1.0, first + steps + 1)
    rates = 0.1 / t  # baked into a graph, the first one would be used for all
    numbers = np.arange(first, first + steps, dtype="uint32")
    return numbers, *(c.astype("float32") for c in ADAM.coefficients(t, rates))


def order(steps, batch=4, n=24, seed=1):
    return np.random.default_rng(seed).integers(n, size=(steps, batch))


class Pair:
    """A graph and the eager step, side by side."""

    def __init__(self, step, state, recorder=None):
        self.graph = GraphRunner(NUMPY, step, state, recorder or HostRecorder())
        self.eager = EagerRunner(NUMPY, step, state)
        self.steps = 0

    def run(self, data, order, steps=None):
        steps = steps or len(order)
        now = table(self.steps, steps)
        self.steps += steps
        got, want = (r.run(data, order, now) for r in (self.graph, self.eager))
        for a, b in zip(
            leaves((self.graph.state, got)), leaves((self.eager.state, want)), strict=True
        ):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 40, 64, 150])
def test_any_number_of_steps(steps):
    pair = Pair(*network())
    pair.run(data(), order(steps))
    pair.run(data(seed=3), order(steps, seed=2))


def test_an_epoch_with_a_smaller_last_batch_records_nothing_twice():
    pair, (x, y) = Pair(*network()), data()
    for epoch in range(3):
        pair.run((x, y), order(18, seed=epoch))
        pair.run((x, y), order(1, batch=3, seed=epoch))
        if epoch == 0:
            recorded = [id(g) for p in pair.graph._programs.values() for g in p.graphs.values()]
    assert len(recorded) == 3  # 16 steps, one, and one of the smaller batch
    again = [id(g) for p in pair.graph._programs.values() for g in p.graphs.values()]
    assert again == recorded


def test_all_rows_in_each_step():
    pair, both = Pair(*network()), data()
    pair.run(both, None, steps=20)
    both[0][...] *= 2  # graphs read the caller's arrays: a change is seen as it would be without
    pair.run(both, None, steps=3)
    pair.run(data(seed=5), None, steps=3)


@pytest.mark.parametrize("report", [True, False])
def test_a_step_that_writes_into_its_data(report):
    """As a loss of a user's may: what the proofs of a graph wrote is not there when it is used."""
    step, state = network(report)

    def writing(xp, state, batch):
        batch[1][...] *= 0.5
        return step(xp, state, batch)

    graph, eager = (
        r(NUMPY, writing, state)
        for r in (partial(GraphRunner, recorder=HostRecorder()), EagerRunner)
    )
    mine, own = data(), data()
    for first in (0, 20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether it is refused or not
            got = graph.run(mine, None, table(first, 20))
        want = eager.run(own, None, table(first, 20))
        for a, b in zip(
            leaves((graph.state, got, mine)), leaves((eager.state, want, own)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_resident_data_are_not_copied_and_streamed_data_are_recorded_once_more():
    pair = Pair(*network())
    pieces = [data(24), data(20, seed=1), data(24, seed=2), data(7, seed=3)]
    pair.run(pieces[0], order(17))
    (program,) = pair.graph._programs.values()
    assert program.data[0] is pieces[0][0]
    recorded = []
    for piece in pieces[1:] * 2:
        pair.run(piece, order(17, n=len(piece[0])))
        (program,) = pair.graph._programs.values()
        recorded.append(id(program.graphs[16]))
    assert program.owned
    assert len(set(recorded)) == 2  # for 20 rows, then for the 24 that did not fit


def test_no_loss_where_none_is_reported():
    pair = Pair(*network(report=False))
    pair.run(data(), order(20))
    assert pair.graph.run(data(), order(2), table(0, 2)) == ()


def test_state_that_changes_places():
    def rotate(xp, state, batch):
        a, b, c = state
        return (b, a, a + b), xp.sum(c)

    state = tuple(np.arange(3.0) * k for k in (1, 10, 100))
    pair = Pair(rotate, state)
    pair.run(data(), order(21))
    pair.run(data(), order(1))


def test_the_state_handed_in_and_out_is_private():
    step, state = network()
    start = [np.array(a) for a in leaves(state)]
    runner = GraphRunner(NUMPY, step, state, HostRecorder())
    runner.run(data(), order(17), table(0, 17))
    out = runner.state
    kept = [np.array(a) for a in leaves(out)]
    runner.run(data(), order(17), table(17, 17))
    for before, after in zip(start + kept, [*leaves(state), *leaves(out)], strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_number_of_graphs_is_bounded():
    pair, both = Pair(*network()), data()
    for _ in range(2):
        for batch in range(1, _graph.PROGRAMS + 3):
            pair.run(both, order(2, batch=batch))
    assert len(pair.graph._programs) == _graph.PROGRAMS


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_step_that_cannot_be_captured_runs_as_it_is_written(failing):
    class Failing(HostRecorder):
        recordings = 0

        def record(self, body):
            Failing.recordings += 1
            if Failing.recordings >= failing:
                raise CannotReplayError("NotImplementedError: not while capturing")
            return super().record(body)

    pair, both = Pair(*network(), Failing()), data()
    for batch in (4, 3):
        told = pytest.warns(RuntimeWarning, match="numpy runs this step eagerly.*capturing")
        with told if (batch == 4) == (failing < 3) else nullcontext():
            pair.run(both, order(17, batch=batch))  # nothing is lost and nothing done twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair.run(both, order(17))


def test_a_replay_with_other_bits_is_not_used():
    class Forgetful(HostRecorder):
        """Numbers that are baked: every launch sees those of the recording."""

        def record(self, body):
            now = self.now = None
            body()

            def launch():
                nonlocal now
                self.now = now = True
                body()

            return launch

        def gather(self, source, rows):
            if self.__dict__.get("now") and source.dtype == "float32" and source.ndim == 1:
                rows = rows * 0
            return super().gather(source, rows)

    pair = Pair(*network(), Forgetful())
    with pytest.warns(RuntimeWarning, match="its replay gives other bits"):
        pair.run(data(), order(17))
    pair.run(data(), order(17))


def test_running_out_of_memory_is_told_and_leaves_the_state_as_it_was():
    class Full(HostRecorder):
        full = False

        def record(self, body):
            launch = super().record(body)
            if self.full:
                raise MemoryError("full")
            return launch

    recorder = Full()
    pair = Pair(*network(), recorder)
    pair.run(data(), order(3))
    recorder.full = True
    before = pair.graph.state
    with pytest.raises(MemoryError, match="full"):
        pair.graph.run(data(), order(17, batch=5), table(3, 17))
    for a, b in zip(leaves(before), leaves(pair.graph.state), strict=True):
        np.testing.assert_array_equal(a, b)
    recorder.full = False
    pair.run(data(), order(17, batch=5))
