"""The gradient of every activation and loss against central differences and torch.autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import portable_bp
from portable_bp.equations import activations, losses, network, regularizers
from portable_bp.equations.activations import ACTIVATIONS
from portable_bp.equations.losses import LOSSES
from portable_bp.testing import check_gradients

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

TORCH_ACTIVATIONS = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "selu": torch.nn.functional.selu,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "mish": torch.nn.functional.mish,
    "softmax": lambda z: torch.softmax(z, 1),
    "exp": torch.exp,
}

TORCH_LOSSES = {
    "squared_error": lambda o, y: 0.5 * (o - y) ** 2,
    "log_loss": lambda o, y: torch.nn.functional.binary_cross_entropy(o, y, reduction="none"),
    "softmax_cross_entropy": lambda o, y: -y * torch.log(o),
    "poisson": lambda o, y: torch.special.xlogy(y, y / o) - y + o,
    "absolute_error": lambda o, y: (o - y).abs(),
    "huber": lambda o, y: torch.nn.functional.huber_loss(o, y, reduction="none"),
    "quantile": lambda o, y: torch.maximum(0.5 * (y - o), -0.5 * (y - o)),
}


def test_the_witness_knows_every_activation_and_loss():
    assert set(TORCH_ACTIVATIONS) == set(ACTIVATIONS)
    assert set(TORCH_LOSSES) == set(LOSSES)


def build(hidden, loss, **options):
    net = portable_bp.MLP([4, 5, 4, K], hidden=hidden, loss=loss, **options)
    params = net.init(seed=3, dtype="float64")
    # Biases off zero, so that nothing is hidden by a symmetric start.
    params = tuple((W, b + 0.1 * (i + 1)) for i, (W, b) in enumerate(params))
    return net, params


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", ACTIVATIONS)
def test_gradient_of_every_pair(hidden, loss, weighted):
    net, params = build(hidden, loss, l1=0.01 * weighted, l2=0.1)
    x, y = X, TARGETS[net.loss.target]
    w = WEIGHTS if weighted else None
    check_gradients(net, params, x, y, sample_weight=w)
    value, grads = net.loss_and_gradients(params, x, y, sample_weight=w)

    tensors = [[torch.tensor(p, requires_grad=True) for p in pair] for pair in params]
    a = torch.tensor(x)
    for l, (W, b) in enumerate(tensors):
        z = a @ W + b
        name = net.activations[l].name
        a = TORCH_ACTIVATIONS[name](z)
    per_row = TORCH_LOSSES[loss](a, torch.tensor(y)).sum(1)
    share = torch.full((N,), 1 / N, dtype=torch.float64) if w is None else torch.tensor(w / w.sum())
    expected = (per_row * share).sum()
    expected = expected + sum(
        net.l1 * W.abs().sum() + 0.5 * net.l2 * (W * W).sum() for W, _ in tensors
    )
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    for pair, theirs in zip(grads, tensors, strict=True):
        for g, t in zip(pair, theirs, strict=True):
            np.testing.assert_allclose(g, t.grad.numpy(), rtol=1e-10, atol=1e-13)


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
        losses.short_delta(o, y),
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


def test_dropout_masks_scale_both_ways():
    """With fixed masks the gradient is that of the loss of the masked network."""
    net, params = build("tanh", "squared_error")
    eq, x, y = net.equations, X, TARGETS["real"]
    rng = np.random.default_rng(8)
    masks = [None, 2.0 * (rng.random((N, 5)) > 0.5), 1.25 * (rng.random((N, 4)) > 0.2)]
    _, grads = network.loss_and_gradients(eq, params, x, y, xp=XP, masks=masks)

    def loss_at(moved):
        cache = network.forward(moved, x, eq.activations, xp=XP, masks=masks)
        return network.mean_loss(eq, moved, cache, y, 1 / N, xp=XP)

    h = 1e-6
    for l, pair in enumerate(params):
        for which, p in enumerate(pair):
            corner = (0,) * p.ndim
            losses_at = []
            for shift in (h, -h):
                q = p.copy()
                q[corner] += shift
                moved = [list(layer) for layer in params]
                moved[l][which] = q
                losses_at.append(loss_at(moved))
            slope = (losses_at[0] - losses_at[1]) / (2 * h)
            assert grads[l][which][corner] == pytest.approx(slope, abs=1e-8)


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
            assert np.isfinite(activation.back(np.ones_like(z), z, a, XP)).all()


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
