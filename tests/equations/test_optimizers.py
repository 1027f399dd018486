"""The arithmetic of optimisers, clipping and schedules against PyTorch's, with given gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import portable_bp
from portable_bp import rng
from portable_bp.equations import initializers, optimizers, schedules

XP = portable_bp.get_backend("numpy").xp

PEERS = {
    "sgd": (optimizers.Optimizer(), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (
        optimizers.Momentum(mu=0.8),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8),
    ),
    "nesterov": (
        optimizers.Nesterov(mu=0.8),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    ),
    "adagrad": (optimizers.Adagrad(), lambda p: torch.optim.Adagrad(p, lr=0.05)),
    "rmsprop": (optimizers.RMSprop(), lambda p: torch.optim.RMSprop(p, lr=0.05)),
    "adam": (optimizers.Adam(), lambda p: torch.optim.Adam(p, lr=0.05)),
    "adamw": (optimizers.AdamW(), lambda p: torch.optim.AdamW(p, lr=0.05)),
}


def test_every_optimizer_has_a_peer():
    assert set(PEERS) == set(optimizers.OPTIMIZERS)


@pytest.mark.parametrize("name", PEERS)
def test_fifty_steps_equal_those_of_torch(name):
    ours, make = PEERS[name]
    rng = np.random.default_rng(0)
    params = ((rng.normal(size=(3, 4)), rng.normal(size=4)), (rng.normal(size=(4, 2)), np.ones(2)))
    theirs = [torch.nn.Parameter(torch.tensor(p)) for pair in params for p in pair]
    peer = make(theirs)
    slots = optimizers.init(ours, params, xp=XP)
    assert len(slots) == ours.slots
    for t in range(1, 51):
        grads = tuple(
            (rng.normal(size=W.shape) * 10.0 ** rng.integers(-4, 2), rng.normal(size=b.shape))
            for W, b in params
        )
        c = tuple(np.asarray(v) for v in ours.coefficients(t, 0.05))
        params, slots = optimizers.apply(ours, grads, slots, params, c, xp=XP)
        for p, g in zip(theirs, (g for pair in grads for g in pair), strict=True):
            p.grad = torch.tensor(g)
        peer.step()
    for mine, other in zip((p for pair in params for p in pair), theirs, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("limit", [0.1, 5.0, 1e6])
def test_clipping_equals_that_of_torch(limit):
    rng = np.random.default_rng(1)
    grads = ((rng.normal(size=(3, 4)), rng.normal(size=4)),)
    flat = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in grads[0]]
    for p, g in zip(flat, grads[0], strict=True):
        p.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(flat, limit)
    assert float(optimizers.global_norm(grads, xp=XP)) == pytest.approx(float(norm), rel=1e-13)
    # torch adds 1e-6 to the norm before it divides.
    for mine, p in zip(optimizers.clip_by_global_norm(grads, limit, xp=XP)[0], flat, strict=True):
        np.testing.assert_allclose(mine, p.grad.numpy(), rtol=1e-6)
    clipped = optimizers.clip_by_value(grads, limit, xp=XP)
    np.testing.assert_array_equal(clipped[0][0], np.clip(grads[0][0], -limit, limit))


def test_the_norm_of_huge_and_of_zero_gradients():
    huge = ((np.full((2, 2), 1e30, dtype=np.float32), np.zeros(2, dtype=np.float32)),)
    assert float(optimizers.global_norm(huge, xp=XP)) == pytest.approx(2e30, rel=1e-6)
    zero = ((np.zeros((2, 2)), np.zeros(2)),)
    assert float(optimizers.global_norm(zero, xp=XP)) == 0
    assert not optimizers.clip_by_global_norm(zero, 1.0, xp=XP)[0][0].any()


def torch_rates(make, steps, rate=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


LR = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (schedules.Constant(0.5), lambda o: LR.ConstantLR(o, factor=1.0)),
        (schedules.StepDecay(0.5, step_size=7, gamma=0.3), lambda o: LR.StepLR(o, 7, 0.3)),
        (schedules.Exponential(0.5, gamma=0.9), lambda o: LR.ExponentialLR(o, 0.9)),
        (
            schedules.InverseScaling(0.5, power=0.7),
            lambda o: LR.LambdaLR(o, lambda t: (t + 1) ** -0.7),
        ),
        (
            schedules.Cosine(0.5, eta_min=0.1),
            lambda o: LR.CosineAnnealingLR(o, 40, eta_min=0.1),
        ),
        (
            schedules.LinearWarmup(0.5, warmup=10),
            lambda o: LR.LinearLR(o, start_factor=0.1, total_iters=9),
        ),
        (schedules.OneCycle(0.5), lambda o: LR.OneCycleLR(o, 0.5, total_steps=40)),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_schedules_equal_those_of_torch(ours, peer):
    mine = [ours(t, 40) for t in range(40)]
    np.testing.assert_allclose(mine, torch_rates(peer, 40), rtol=1e-12)


def test_reduce_on_plateau_equals_that_of_torch():
    watched = [1.0, 0.9, 0.91, 0.92, 0.93, 0.5, 0.51, 0.5, 0.5, 0.5, 0.4, 0.39, 0.4, 0.4, 0.4, 0.4]
    ours = schedules.ReduceOnPlateau(0.5, factor=0.2, patience=2, min_lr=0.01)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    peer = LR.ReduceLROnPlateau(optimizer, factor=0.2, patience=2, min_lr=0.01)
    state = (0.5, math.inf, 0)
    for loss in watched:
        peer.step(loss)
        state = ours.observe(state, loss)
        assert state[0] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert state[0] < 0.5


def torch_training(net, params, x, y, weights, optimizer, scheduler, batch_size, epochs, seed):
    """Parameters and the losses of the epochs, by autograd and torch.optim, batch by batch."""
    tensors = [torch.nn.Parameter(torch.tensor(p)) for pair in params for p in pair]
    steps = math.ceil(len(x) / batch_size)
    descent = optimizer(tensors)
    schedule = scheduler(descent, steps * epochs)
    plateau = isinstance(schedule, LR.ReduceLROnPlateau)
    x, y, weights = (torch.tensor(a) for a in (x, y, weights))
    history = []
    for epoch in range(epochs):
        order = torch.tensor(rng.permutation(len(x), seed, rng.SHUFFLE, epoch))
        losses, sizes = [], []
        for rows in order.split(batch_size):
            a = x[rows]
            for W, b in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
                a = torch.tanh(a @ W + b)
            z = a @ tensors[-2] + tensors[-1]
            terms = torch.nn.functional.cross_entropy(z, y[rows], reduction="none")
            loss = (terms * weights[rows]).sum() / weights[rows].sum()
            loss = loss + sum(
                net.l1 * W.abs().sum() + net.l2 / 2 * (W**2).sum() for W in tensors[::2]
            )
            descent.zero_grad()
            loss.backward()
            descent.step()
            if not plateau:
                schedule.step()
            losses.append(loss.item())
            sizes.append(weights[rows].sum().item())
        history.append(np.average(losses, weights=sizes))
        if plateau:
            schedule.step(history[-1])
    return [t.detach().numpy() for t in tensors], history


WHOLE_RUNS = {
    "sgd": ("cosine", lambda o, n: LR.CosineAnnealingLR(o, n)),
    "adam": ("one_cycle", lambda o, n: LR.OneCycleLR(o, 0.05, n, cycle_momentum=False)),
    "adamw": ("exponential", lambda o, n: LR.ExponentialLR(o, 0.999)),
    "rmsprop": ("linear_warmup", lambda o, n: LR.LinearLR(o, 0.01, total_iters=99)),
    "adagrad": ("inverse_scaling", lambda o, n: LR.LambdaLR(o, lambda t: (t + 1) ** -0.5)),
    "momentum": ("constant", lambda o, n: LR.ConstantLR(o, factor=1.0)),
    "nesterov": ("step", lambda o, n: LR.StepLR(o, 1000, 0.1)),
}


@pytest.mark.parametrize("schedule", ["of its own", "reduce_on_plateau"])
@pytest.mark.parametrize("name", WHOLE_RUNS)
def test_whole_runs_equal_those_of_torch(name, schedule):
    """Order of the rows, a smaller last batch, weights, penalties, rates: all of training."""
    rule, scheduler = WHOLE_RUNS[name]
    rates = schedules.SCHEDULES[rule](0.05)
    if schedule == "reduce_on_plateau":
        if name in ("momentum", "nesterov"):
            pytest.skip("torch applies a rate that changes to the velocity instead")
        rates = schedules.ReduceOnPlateau(0.05, patience=1, threshold=0.2)
        scheduler = lambda o, n: LR.ReduceLROnPlateau(o, patience=1, threshold=0.2, eps=0)  # noqa: E731
    rng = np.random.default_rng(5)
    x, y, weights = rng.normal(size=(22, 4)), rng.integers(0, 3, 22), rng.uniform(0.5, 2, 22)
    net = portable_bp.MLP([4, 6, 3], "tanh", "softmax_cross_entropy", l1=1e-3, l2=1e-2)
    params = net.init(1, dtype="float64")
    ours, optimizer = PEERS[name]
    weighted = name in ("sgd", "adam")
    weights = weights if weighted else np.ones(22)
    model = portable_bp.fit(
        net, x, y, sample_weight=weights if weighted else None, params=params, optimizer=ours,
        learning_rate=rates, batch_size=8, epochs=20, dtype="float64", seed=9,
    )  # fmt: skip
    wanted, history = torch_training(net, params, x, y, weights, optimizer, scheduler, 8, 20, 9)
    np.testing.assert_allclose(model.history["loss"], history, rtol=1e-10)
    if schedule == "reduce_on_plateau":
        assert model.history["learning_rate"][-1] < 0.05
    for p, t in zip((p for pair in model.params for p in pair), wanted, strict=True):
        np.testing.assert_allclose(p, t, rtol=1e-8, atol=1e-10)


@dataclass(frozen=True)
class Lion(optimizers.Optimizer):
    """Somebody's own: new numbers, one with a range and one without."""

    name: ClassVar[str] = "lion"
    momentum: float = optimizers.hyperparameter(0.9, low=0, high=1, open_high=True)
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Sawtooth(schedules.Schedule):
    name: ClassVar[str] = "sawtooth"
    teeth: int = schedules.count(3, least=1)
    depth: float = 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lion(momentum=7), r"momentum must be a number in \[0, 1\), got 7"),
        (lambda: Lion(epsilon=math.nan), "epsilon must be a number"),
        (lambda: Lion(epsilon="1e-8"), "epsilon must be a number, got '1e-8'"),
        (lambda: Sawtooth(0.1, teeth=0), "teeth must be at least 1, got 0"),
        (lambda: Sawtooth(0.1, teeth=2.5), "teeth must be an integer, got 2.5"),
        (lambda: Sawtooth(0.1, depth=math.inf), "depth must be a number"),
        (lambda: Sawtooth(-1), r"learning_rate must be a number in \(0, inf\), got -1"),
    ],
)
def test_numbers_of_a_subclass_have_a_range(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_old_names_of_a_schedule_still_load():
    old = {"name": "one_cycle", "rate": 0.1, "rise": 0.3, "start": 25.0, "end": 1e4,
           "total_steps": None}  # fmt: skip
    assert schedules.modern(old) == schedules.describe(schedules.OneCycle(0.1))
    assert schedules.modern({"name": "step", "rate": 0.1, "every": 5, "gamma": 0.1}) == (
        schedules.describe(schedules.StepDecay(0.1, 5))
    )
    old = {"name": "reduce_on_plateau", "rate": 0.1, "factor": 0.1, "patience": 10,
           "threshold": 1e-4, "minimum": 0.0}  # fmt: skip
    assert schedules.modern(old) == schedules.describe(schedules.ReduceOnPlateau(0.1))
    adamw = optimizers.describe(optimizers.AdamW())
    old = {"decay" if k == "weight_decay" else k: v for k, v in adamw.items()}
    assert optimizers.modern(old) == adamw
    assert all(schedules.modern(d) == d for d in (schedules.describe(schedules.Cosine(0.1)),))


def test_every_schedule_is_positive_over_its_run():
    for kind in schedules.SCHEDULES.values():
        if kind is not schedules.ReduceOnPlateau:
            rates = [kind(0.1)(t, 200) for t in range(200)]
            assert all(0 < rate <= 0.1 + 1e-12 for rate in rates), kind


@pytest.mark.parametrize("total", range(1, 13))
def test_schedules_of_short_runs(total):
    """Also where a peak or an end falls on the first step."""
    for kind in schedules.SCHEDULES.values():
        fractions = (
            {"pct_start": (0.1, 0.25, 0.5, 0.9)} if kind is schedules.OneCycle else {"rate": (0.1,)}
        )
        for name, values in fractions.items():
            for value in values:
                rates = [kind(**{"rate": 0.1, name: value})(t, total) for t in range(total + 2)]
                assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates), (kind, value)


@pytest.mark.parametrize("name", [n for n in initializers.INITIALIZERS if n != "zeros"])
def test_initial_variance(name):
    net = portable_bp.MLP([400, 250], initializer=name)
    ((W, b),) = net.init(seed=0, dtype="float64")
    rule, _, distribution = name.rpartition("_")
    variance = {"glorot": 2 / 650, "he": 2 / 400, "lecun": 1 / 400}[rule]
    assert W.var() == pytest.approx(variance, rel=0.02)
    assert abs(W.mean()) < 4 * math.sqrt(variance / W.size)
    assert not b.any()
    if distribution == "uniform":
        assert abs(W).max() <= math.sqrt(3 * variance)
    else:
        kurtosis = ((W / W.std()) ** 4).mean()
        assert kurtosis == pytest.approx(3, abs=0.1)


def test_given_and_zero_parameters():
    W, b = np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0])
    net = portable_bp.MLP([3, 2], initializer=((W, b),))
    ((V, c),) = net.init(dtype="float64")
    np.testing.assert_array_equal(V, W)
    np.testing.assert_array_equal(c, b)
    V += 1
    np.testing.assert_array_equal(net.init(dtype="float64")[0][0], W)
    assert not portable_bp.MLP([3, 2], initializer="zeros").init()[0][0].any()
    with pytest.raises(ValueError, match=r"initializer has the shapes"):
        portable_bp.MLP([4, 2], initializer=((W, b),))
