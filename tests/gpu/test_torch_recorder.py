"""The kernels that PyTorch's graphs are put together from, on the CPU: everything but the capture."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import portable_bp
from portable_bp.backend import EagerRunner, leaves
from portable_bp.equations import optimizers
from portable_bp.equations.activations import Activation
from portable_bp.training.step import StepPlan, make_step
from portable_bp_backends._graph import GraphRunner
from portable_bp_backends.torch_graph import TorchRecorder, inductor

TORCH = portable_bp.get_backend("torch")
ADAM = optimizers.Adam()


class OnHost(TorchRecorder):
    """Without streams, pinned memory and capture, which need a device."""

    def __init__(self):
        self._device = torch.device("cpu")

    def inside(self):
        return nullcontext()

    def outside(self):
        return nullcontext()

    def synchronize(self):
        return

    def send(self, values):
        return torch.from_numpy(np.array(values))

    def record(self, body):
        body()
        return body


def network(dropout=0.3):
    net = portable_bp.MLP([3, 5, 2], "tanh", "softmax_cross_entropy", dropout=dropout)
    params = net.init(0, TORCH)
    counters = TORCH.asarray(np.arange(64), TORCH.word_dtype)
    with TORCH.scope():
        state = (params, optimizers.init(ADAM, params, xp=TORCH.xp))
    return make_step(StepPlan(net.equations, ADAM, net.dropout, 7, counters)), state


def table(first, steps):
    t = np.arange(first + 1.0, first + steps + 1)
    found = ADAM.coefficients(t, 0.1 / t)
    return np.arange(first, first + steps), *(np.asarray(c).astype("float32") for c in found)


def data(n=24):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 3)), np.eye(2)[rng.integers(2, size=n)]
    return TORCH.asarray(x, "float32"), TORCH.asarray(y, "float32")


def test_graphs_have_the_bits_of_the_step_as_it_is_written():
    step, state = network()
    graph, eager = GraphRunner(TORCH, step, state, OnHost()), EagerRunner(TORCH, step, state)
    rows, first = np.random.default_rng(1), 0
    for steps, batch in ((21, 4), (1, 3), (40, 4)):
        order, now = rows.integers(24, size=(steps, batch)), table(first, steps)
        found, wanted = (r.run(data(), order, now) for r in (graph, eager))
        for a, b in zip(leaves((graph.state, found)), leaves((eager.state, wanted)), strict=True):
            assert torch.equal(a, b)
        first += steps


def test_results_in_memory_of_the_state_are_seen():
    recorder, base = OnHost(), torch.arange(6.0)
    assert recorder.overlap(base[2:], base[:3])
    assert not recorder.overlap(base, base.clone())
    assert not recorder.same_bits([(base, base), (base, base.double())])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own, about its own
def test_a_step_through_torch_compile_agrees():
    step, state = network(dropout=0)
    compiled = inductor(step, TORCH.xp)
    runs = (GraphRunner(TORCH, compiled, state, OnHost()), EagerRunner(TORCH, step, state))
    order = np.random.default_rng(1).integers(24, size=(18, 4))
    found, wanted = (r.run(data(), order, table(0, 18)) for r in runs)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def changed_argument(z, xp):
    z *= 2
    return z + 1


def changed_copy(z, xp):
    a = z.clone()
    a[:, 0] = 1
    return a + z


def branch(z, xp):
    return z * 2 if float(xp.sum(z)) > 0 else z + 1


def counting():
    calls = itertools.count(1)
    return lambda z, xp: z * next(calls)


def counting_on_the_device():
    calls = torch.zeros(())

    def f(z, xp):
        calls.add_(1)
        return z * calls

    return f


def remembering():
    before = []

    def f(z, xp):
        a = z + before[0] if before else z * 1
        before[:] = [z]
        return a

    return f


def own(f):
    """A step with a hidden activation of the user's own."""
    net = portable_bp.MLP([3, 5, 2], Activation(f, lambda z, a, xp: xp.ones_like(z)))
    state = (net.init(0, TORCH), ())
    return make_step(StepPlan(net.equations, optimizers.Optimizer())), state


def rates(steps):
    return np.arange(steps), np.full(steps, 0.1, "float32")


@pytest.mark.parametrize("f", [changed_argument, changed_copy, branch])
def test_a_users_function_has_the_bits_of_the_eager_run(f):
    step, state = own(f)
    order = np.random.default_rng(1).integers(24, size=(20, 4))
    graph, eager = (r(TORCH, step, state, *a) for r, a in
                    ((GraphRunner, (OnHost(),)), (EagerRunner, ())))  # fmt: skip
    found, wanted = (r.run(data(), order, rates(20)) for r in (graph, eager))
    for a, b in zip(leaves((graph.state, found)), leaves((eager.state, wanted)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [counting, counting_on_the_device, remembering])
def test_a_function_with_a_state_of_its_own_is_noticed(make):
    step, state = own(make())
    order = np.random.default_rng(1).integers(24, size=(20, 4))
    with pytest.warns(RuntimeWarning, match=r"runs this step eagerly.*gives other bits"):
        GraphRunner(TORCH, step, state, OnHost()).run(data(), order, rates(20))
