"""The gradients of every activation and loss against four witnesses that know nothing of ours.

Central differences of the reported loss; ``torch.autograd`` and ``jax.grad`` of PyTorch's and JAX's
own functions; and the complex step, ``Im E(p + ih) / h``, of the formula as a textbook has it, which
subtracts nothing and so is exact to rounding (Squire and Trapp, SIAM Review 40, 1998).
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import torch

import portable_bp
from portable_bp.equations import activations, losses, network, regularizers
from portable_bp.equations.activations import ACTIVATIONS
from portable_bp.equations.losses import LOSSES
from portable_bp.testing import check_gradients
from tests.helpers import jax_64_bits

XP = portable_bp.get_backend("numpy").xp
RNG = np.random.default_rng(7)
N, K = 6, 3

TARGETS = {
    "real": RNG.normal(size=(N, K)),
    "binary": RNG.uniform(0.1, 0.9, size=(N, K)),
    "class": np.eye(K)[RNG.integers(0, K, N)],
    "count": RNG.poisson(2.0, size=(N, K)).astype(float),
}
X = RNG.normal(size=(N, 4))
WEIGHTS = RNG.uniform(0.0, 2.0, N)
MASKS = (None, 2.0 * (RNG.random((N, 5)) > 0.5), 1.25 * (RNG.random((N, 4)) > 0.2))

SETTINGS = {
    "plain": {},
    "weights, penalties": {"weights": WEIGHTS, "l1": 0.01, "l2": 0.1},
    "weights, penalties, dropout": {"weights": WEIGHTS, "l1": 0.02, "l2": 0.1, "masks": MASKS},
}

F, J = torch.nn.functional, jax.nn


def _elu(scale, alpha):
    return lambda z: scale * np.where(z.real > 0, z, alpha * np.expm1(z))


def _softplus(z):
    return np.log(1 + np.exp(z))


def _gelu_tanh(z):
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


# PyTorch's, JAX's, and the formula on complex numbers; a kink is where the real part has it.
ACTIVATION_PEERS = {
    "identity": (lambda z: z, lambda z: z, lambda z: z),
    "sigmoid": (torch.sigmoid, J.sigmoid, lambda z: 1 / (1 + np.exp(-z))),
    "tanh": (torch.tanh, jnp.tanh, np.tanh),
    "relu": (torch.relu, J.relu, lambda z: np.where(z.real > 0, z, 0)),
    "leaky_relu": (F.leaky_relu, J.leaky_relu, lambda z: np.where(z.real > 0, z, 0.01 * z)),
    "elu": (F.elu, J.elu, _elu(1, 1)),
    "selu": (F.selu, J.selu, _elu(1.0507009873554804934193349852946, 1.6732632423543772848170429)),
    "softplus": (F.softplus, J.softplus, _softplus),
    "gelu": (
        F.gelu,
        lambda z: J.gelu(z, approximate=False),
        lambda z: 0.5 * z * scipy.special.erfc(-z / np.sqrt(2)),
    ),
    "gelu_tanh": (lambda z: F.gelu(z, approximate="tanh"), J.gelu, _gelu_tanh),
    "silu": (F.silu, J.silu, lambda z: z / (1 + np.exp(-z))),
    "mish": (F.mish, J.mish, lambda z: z * np.tanh(_softplus(z))),
    "softmax": (
        lambda z: torch.softmax(z, 1),
        J.softmax,
        lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
    ),
    "exp": (torch.exp, jnp.exp, np.exp),
}


def _size(r):
    """|r| as an analytic function on either side of 0."""
    return np.where(r.real > 0, r, -r)


def _huber(r):
    return np.where(_size(r).real < 1, r**2 / 2, _size(r) - 0.5)


LOSS_PEERS = {
    "squared_error": (*[lambda o, y: 0.5 * (o - y) ** 2] * 3,),
    "log_loss": (
        lambda o, y: F.binary_cross_entropy(o, y, reduction="none"),
        *[lambda o, y, m=m: -y * m.log(o) - (1 - y) * m.log(1 - o) for m in (jnp, np)],
    ),
    "softmax_cross_entropy": (*[lambda o, y, m=m: -y * m.log(o) for m in (torch, jnp, np)],),
    "poisson": (
        lambda o, y: torch.special.xlogy(y, y / o) - y + o,
        lambda o, y: jax.scipy.special.xlogy(y, y / o) - y + o,
        lambda o, y: scipy.special.xlogy(y, y) - y * np.log(o) - y + o,
    ),
    "absolute_error": (*[lambda o, y: abs(o - y)] * 2, lambda o, y: _size(o - y)),
    "huber": (
        lambda o, y: F.huber_loss(o, y, reduction="none"),
        lambda o, y: jnp.where(abs(o - y) < 1, (o - y) ** 2 / 2, abs(o - y) - 0.5),
        lambda o, y: _huber(o - y),
    ),
    "quantile": (*[lambda o, y: abs(o - y) / 2] * 2, lambda o, y: _size(o - y) / 2),
}

TORCH, JAX, COMPLEX = range(3)


def test_the_witnesses_know_every_activation_and_loss():
    assert set(ACTIVATION_PEERS) == set(ACTIVATIONS)
    assert set(LOSS_PEERS) == set(LOSSES)


def build(hidden, loss, **options):
    net = portable_bp.MLP([4, 5, 4, K], hidden=hidden, loss=loss, **options)
    params = net.init(seed=3, dtype="float64")
    # Biases off zero, so that nothing is hidden by a symmetric start; exp of exp stays moderate.
    tame = 0.3 if hidden == "exp" else 1.0
    params = tuple((tame * W, b + 0.1 * (i + 1)) for i, (W, b) in enumerate(params))
    return net, params


def ours(net, params, weights=None, masks=(), **penalties):
    """Loss, gradients of all parameters, dE/dx and the deltas by backpropagation."""
    eq, y = net.equations, TARGETS[net.loss.target]
    loss, grads = network.loss_and_gradients(eq, params, X, y, xp=XP, weights=weights, masks=masks)
    share = network.example_weights(X, weights, xp=XP)
    cache = network.forward(params, X, eq.activations, xp=XP, masks=masks)
    delta = network.deltas(eq, params, cache, y, share, xp=XP, masks=masks)
    return (
        loss,
        [g for pair in grads for g in pair],
        network.input_gradient(params, delta, xp=XP, masks=masks),
        delta,
    )


def error_of(which, net, params, x, y, *, weights=None, masks=(), l1=0.0, l2=0.0, zs=()):
    """E as a textbook writes it, in the witness's own functions; ``zs`` are added to the net inputs."""
    a = x
    for l, (W, b) in enumerate(params):
        if masks and masks[l] is not None:
            a = a * masks[l]
        z = a @ W + b
        if zs:
            z = z + zs[l]
        a = ACTIVATION_PEERS[net.activations[l].name][which](z)
    rows = LOSS_PEERS[net.loss.name][which](a, y).sum(-1)
    data = rows.mean(-1) if weights is None else (rows * weights).sum(-1) / weights.sum()
    magnitude = _size if which == COMPLEX else abs
    for W, _ in params:
        data = data + l1 * magnitude(W).sum((-2, -1)) + 0.5 * l2 * (W * W).sum((-2, -1))
    return data


def assert_near(found, wanted, rtol):
    """Of each array, within ``rtol`` of its largest entry."""
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_allclose(f, w, rtol=0, atol=rtol * max(1e-3, np.abs(w).max()))


PAIRS = pytest.mark.parametrize(
    ("hidden", "loss"), [(hidden, loss) for hidden in ACTIVATIONS for loss in LOSSES]
)
IN_EACH = pytest.mark.parametrize("setting", SETTINGS)


def penalties(setting):
    return {k: v for k, v in SETTINGS[setting].items() if k in ("l1", "l2")}


@IN_EACH
@PAIRS
def test_torch_autograd(hidden, loss, setting):
    net, params = build(hidden, loss, **penalties(setting))
    tensors = [[torch.tensor(p, requires_grad=True) for p in pair] for pair in params]
    x = torch.tensor(X, requires_grad=True)
    zs = [torch.zeros(N, size, dtype=x.dtype, requires_grad=True) for size in net.sizes[1:]]
    options = dict(SETTINGS[setting])
    options["masks"] = [None if m is None else torch.tensor(m) for m in options.get("masks", ())]
    if "weights" in options:
        options["weights"] = torch.tensor(WEIGHTS)
    y = torch.tensor(TARGETS[net.loss.target])
    expected = error_of(TORCH, net, tensors, x, y, zs=zs, **options)
    expected.backward()
    value, grads, dx, delta = ours(net, params, **SETTINGS[setting])
    np.testing.assert_allclose(value, expected.item(), rtol=1e-13)
    assert_near(grads, [t.grad.numpy() for pair in tensors for t in pair], 1e-13)
    assert_near([dx, *delta], [t.grad.numpy() for t in (x, *zs)], 1e-13)


@IN_EACH
@PAIRS
def test_complex_step(hidden, loss, setting):
    net, params = build(hidden, loss, **penalties(setting))
    value, grads, dx, _ = ours(net, params, **SETTINGS[setting])
    # All entries at once: copy i of everything has its i-th entry moved by ih.
    given = [p for pair in params for p in pair] + [X]
    cuts = np.cumsum([0, *(p.size for p in given)])
    copies = []
    for p, (start, stop) in zip(given, pairwise(cuts), strict=True):
        many = np.zeros((cuts[-1], p.size), complex) + p.reshape(-1)
        many[np.arange(start, stop), np.arange(p.size)] += 1e-30j
        copies.append(many.reshape(-1, *(p.shape if p.ndim == 2 else (1, p.size))))
    *moved, x = copies
    moved = list(zip(moved[::2], moved[1::2], strict=True))
    y = TARGETS[net.loss.target]
    expected = error_of(COMPLEX, net, moved, x, y, **SETTINGS[setting])
    np.testing.assert_allclose(value, expected[0].real, rtol=1e-13)
    slopes = expected.imag / 1e-30
    wanted = [
        slopes[start:stop].reshape(p.shape)
        for p, (start, stop) in zip(given, pairwise(cuts), strict=True)
    ]
    assert_near([*grads, dx], wanted, 1e-13)


@IN_EACH
@pytest.mark.parametrize(
    ("hidden", "loss"),
    [*((a, "softmax_cross_entropy") for a in ACTIVATIONS), *(("tanh", l) for l in LOSSES)],
)
def test_jax_grad(hidden, loss, setting):
    net, params = build(hidden, loss, **penalties(setting))
    with jax_64_bits(True):
        arrays = [[jnp.asarray(p) for p in pair] for pair in params]
        y = jnp.asarray(TARGETS[net.loss.target])

        def error(arrays, x):
            return error_of(JAX, net, arrays, x, y, **SETTINGS[setting])

        expected, (theirs, dx) = jax.value_and_grad(error, (0, 1))(arrays, jnp.asarray(X))
        value, grads, our_dx, _ = ours(net, params, **SETTINGS[setting])
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        wanted = [np.asarray(t) for pair in theirs for t in pair]
        assert_near([*grads, our_dx], [*wanted, np.asarray(dx)], 1e-13)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weights, penalties"])
@PAIRS
def test_central_differences(hidden, loss, weighted):
    net, params = build(hidden, loss, l1=0.01 * weighted, l2=0.1 * weighted)
    w = WEIGHTS if weighted else None
    check_gradients(net, params, X, TARGETS[net.loss.target], sample_weight=w)


@PAIRS
def test_central_differences_under_dropout(hidden, loss):
    """With fixed masks the gradient is that of the masked network: slopes along five directions."""
    setting = SETTINGS["weights, penalties, dropout"]
    net, params = build(hidden, loss, l1=setting["l1"], l2=setting["l2"])
    _, grads, *_ = ours(net, params, **setting)
    rng, h = np.random.default_rng(8), 6e-6
    for _ in range(5):
        along = [rng.normal(size=g.shape) for g in grads]
        ends = []
        for sign in (1, -1):
            flat = iter(along)
            moved = tuple(tuple(p + sign * h * next(flat) for p in pair) for pair in params)
            ends.append(float(ours(net, moved, **setting)[0]))
        slope = sum(float((g * d).sum()) for g, d in zip(grads, along, strict=True))
        size = np.sqrt(sum((g * g).sum() for g in grads) * sum((d * d).sum() for d in along))
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=0, abs=1e-7 * size)


@pytest.mark.parametrize("output", ["sigmoid", "softmax", "softplus", "exp"])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_every_output_activation(output, loss):
    """Outputs in (0, 1), or positive for the losses that allow more: every pair is defined."""
    if loss in ("log_loss", "softmax_cross_entropy") and output in ("softplus", "exp"):
        output = activations.Activation(
            lambda z, xp: 0.3 + 0.2 * xp.tanh(z), lambda z, a, xp: 0.2 * (1 - xp.tanh(z) ** 2)
        )
    net, params = build("tanh", loss, output=output)
    check_gradients(net, params, X, TARGETS[net.loss.target])


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        ("squared_error", "identity"),
        ("log_loss", "sigmoid"),
        ("softmax_cross_entropy", "softmax"),
        ("poisson", "exp"),
    ],
)
def test_general_and_short_output_delta_agree(loss, output):
    z = 2 * X[:, :K]
    loss, activation = losses.get(loss), activations.get(output)
    o, y = activation.f(z, XP), TARGETS[loss.target]
    assert loss.matches(activation)
    np.testing.assert_allclose(
        losses.general_delta(loss, activation, z, o, y, XP),
        losses.canonical_delta(o, y),
        rtol=1e-12,
        atol=1e-15,
    )
    np.testing.assert_allclose(
        loss.from_logits(z, y, XP).sum(1), loss.value(o, y, XP).sum(1), rtol=1e-12
    )


def test_an_activation_of_the_same_name_is_not_taken_for_ours():
    half = activations.Activation(lambda z, xp: 0.5 * z, lambda z, a, xp: 0.5 + 0 * z, "identity")
    net, params = build("tanh", "squared_error", output=half)
    assert not net.loss.matches(half)
    check_gradients(net, params, X, TARGETS["real"])


def test_dropout_keeps_the_expectation_and_its_rate():
    mask = regularizers.dropout_mask(
        (1000, 400), np.dtype("float32"), 0.3, np.arange(100_000, dtype="uint32"),
        seed=5, layer=1, step=np.asarray(17, dtype="uint32"), xp=XP,
    )  # fmt: skip
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
    # The standard deviation of the share of zeros is sqrt(.3 * .7 / 400000) = 0.0007.
    assert abs((mask == 0).mean() - 0.3) < 0.004
    assert abs(mask.mean() - 1) < 0.006


def test_extreme_logits_neither_overflow_nor_lose_the_loss():
    z = np.array([[1000.0, -1000.0, 0.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        entropy = losses.get("softmax_cross_entropy")
        assert entropy.from_logits(z, np.array([[0.0, 1.0, 0.0]]), XP).sum() == 2000.0
        assert losses.get("log_loss").from_logits(z, np.array([[0.0, 1.0, 1.0]]), XP).tolist() == [
            [1000.0, 1000.0, np.log(2)]
        ]
        for name in ("sigmoid", "tanh", "softplus", "silu", "gelu", "gelu_tanh", "mish", "softmax",
                     "elu", "selu"):  # fmt: skip
            activation = activations.get(name)
            a = activation.f(z, XP)
            assert np.isfinite(a).all()
            assert np.isfinite(activation.vjp(np.ones_like(z), z, a, XP)).all()


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_quantile_loss_learns_the_quantile(q):
    y = np.random.default_rng(0).exponential(size=4000)
    net = portable_bp.MLP([1, 1], loss=losses.quantile(q), initializer="zeros")
    model = portable_bp.fit(
        net, np.zeros((4000, 1)), y, learning_rate=0.02, epochs=40, batch_size=200
    )
    share = (y <= model.predict(np.zeros((1, 1)))[0]).mean()
    assert abs(share - q) < 0.03


def test_sum_over_outputs_and_mean_over_examples():
    net = portable_bp.MLP([1, 2], initializer=((np.zeros((1, 2)), np.zeros(2)),))
    params = net.init(dtype="float64")
    x = np.zeros((2, 1))
    y = np.array([[1.0, 2.0], [3.0, 4.0]])
    loss, grads = net.loss_and_gradients(params, x, y)
    assert float(loss) == (1 + 4 + 9 + 16) / 2 / 2
    assert grads[0][1].tolist() == [-2.0, -3.0]
    loss, _ = net.loss_and_gradients(params, x, y, sample_weight=[1, 3])
    assert float(loss) == (5 + 3 * 25) / 2 / 4


def test_integer_and_one_hot_labels_agree():
    net, params = build("relu", "softmax_cross_entropy")
    x, labels = X, np.arange(N) % K
    a = net.loss_and_gradients(params, x, labels)
    b = net.loss_and_gradients(params, x, np.eye(K)[labels])
    assert a[0] == b[0]
    for pair, other in zip(a[1], b[1], strict=True):
        for g, h in zip(pair, other, strict=True):
            np.testing.assert_array_equal(g, h)


def test_the_slope_of_a_penalty_is_zero_at_zero():
    """|w| has its kink there: sign(0) = 0 leaves a weight that is zero in peace."""
    net = portable_bp.MLP([2, 1], l1=0.5, l2=0.25)
    W = np.array([[0.0], [-2.0]])
    loss, ((dW, db),) = net.loss_and_gradients(((W, np.zeros(1)),), np.zeros((1, 2)), [0.0])
    assert float(loss) == 0.5 * 2 + 0.25 * 4 / 2
    assert (dW.ravel().tolist(), db.tolist()) == ([0.0, -0.5 - 0.25 * 2], [0.0])
