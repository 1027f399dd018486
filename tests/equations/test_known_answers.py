"""Backpropagation against published numbers, on every backend."""

from __future__ import annotations

import numpy as np
import pytest

import portable_bp
from portable_bp.equations import network

BACKENDS = ("numpy", "torch", "jax", "strict")


def host(array):
    backend = portable_bp.backend.registry.resolve(None, array)
    return backend.to_numpy(array)


def place(backend, *layers):
    return tuple(
        (backend.asarray(np.asarray(W, dtype=float)), backend.asarray(np.asarray(b, dtype=float)))
        for W, b in layers
    )


def descend(params, grads, rate):
    """One step of plain gradient descent on the weights; these examples keep their biases."""
    return tuple((W - rate * dW, b) for (W, b), (dW, _) in zip(params, grads, strict=True))


@pytest.mark.parametrize("spec", BACKENDS)
def test_step_by_step_derivation(spec):
    """Yehoshua's pair of outputs, 0.6718 before and 0.6981 after a step of rate 0.5.

    The article does not print its weights in the text; these are our reconstruction, which gives
    both values. They are written (out, in) there and transposed here.
    """
    backend = portable_bp.get_backend(spec)
    net = portable_bp.MLP([2, 2, 2, 1], hidden="sigmoid", loss="log_loss")
    params = place(
        backend,
        (np.transpose([[0.7, 0.6], [0.1, -1.0]]), [0, 0]),
        (np.transpose([[0.3, 0.2], [0.3, 0.4]]), [0, 0]),
        (np.transpose([[0.2, 1.0]]), [0]),
    )
    x, y = np.array([[1.0, 0.0]]), np.array([1])
    assert float(net.forward(params, x)[0, 0]) == pytest.approx(0.6718, abs=5e-5)
    loss, grads = net.loss_and_gradients(params, x, y)
    assert float(host(loss)) == pytest.approx(-np.log(0.6718), abs=1e-4)
    after = descend(params, grads, 0.5)
    assert float(net.forward(after, x)[0, 0]) == pytest.approx(0.6981, abs=5e-5)
    norms = [float(np.linalg.norm(host(d))) for d in net.deltas(params, x, y)]
    assert norms[0] < norms[1] < norms[2]


@pytest.mark.parametrize("spec", BACKENDS)
def test_mazur(spec):
    """Mazur's worked example. The post prints 0.291027924 for the error after the step, from
    rounded intermediate values; in exact arithmetic it is 0.29102777."""
    backend = portable_bp.get_backend(spec)
    net = portable_bp.MLP([2, 2, 2], hidden="sigmoid", output="sigmoid", loss="squared_error")
    params = place(
        backend,
        ([[0.15, 0.25], [0.20, 0.30]], [0.35, 0.35]),
        ([[0.40, 0.50], [0.45, 0.55]], [0.60, 0.60]),
    )
    x, y = np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]])
    loss, grads = net.loss_and_gradients(params, x, y)
    assert float(host(loss)) == pytest.approx(0.298371109, abs=5e-10)
    (W1, _), (W2, _) = after = descend(params, grads, 0.5)
    np.testing.assert_allclose(
        host(W2).T.ravel(), [0.35891648, 0.408666186, 0.51130127, 0.561370121], atol=5e-9
    )
    np.testing.assert_allclose(
        host(W1).T.ravel(), [0.149780716, 0.19956143, 0.24975114, 0.29950229], atol=5e-9
    )
    assert float(host(net.loss_and_gradients(after, x, y)[0])) == pytest.approx(
        0.29102777, abs=5e-9
    )


@pytest.mark.parametrize("spec", BACKENDS)
def test_xor_is_learnt_from_scratch(spec):
    X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    net = portable_bp.MLP([2, 4, 1], hidden="tanh", loss="log_loss")
    model = portable_bp.fit(
        net, X, [0, 1, 1, 0], learning_rate=0.1, epochs=100, batch_size=None, backend=spec
    )
    assert host(model.predict(X)).tolist() == [0, 1, 1, 0]
    assert model.history["loss"][-1] < 0.05 < model.history["loss"][0]


def test_bias_is_a_weight_of_a_constant_input():
    """``x W + b = [1, x] [b; W]``: same outputs, and the same gradient for b and for w0."""
    rng = np.random.default_rng(0)
    net = portable_bp.MLP([3, 4, 2], hidden="tanh")
    (W1, b1), (W2, b2) = net.init(seed=1, dtype="float64")
    b1, b2 = rng.normal(size=4), rng.normal(size=2)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    one = np.ones((5, 1))
    xp = portable_bp.get_backend("numpy").xp

    h = net.activations[0].f(np.hstack([one, x]) @ np.vstack([b1, W1]), xp)
    out = np.hstack([one, h]) @ np.vstack([b2, W2])
    np.testing.assert_allclose(net.forward(((W1, b1), (W2, b2)), x), out, rtol=1e-13)

    widened = portable_bp.MLP([4, 4, 2], hidden="tanh")
    _, grads = net.loss_and_gradients(((W1, b1), (W2, b2)), x, y)
    without_bias = ((np.vstack([b1, W1]), np.zeros(4)), (W2, b2))
    _, grads_wide = widened.loss_and_gradients(without_bias, np.hstack([one, x]), y)
    np.testing.assert_allclose(grads_wide[0][0][0], grads[0][1], rtol=1e-13)
    np.testing.assert_allclose(grads_wide[0][0][1:], grads[0][0], rtol=1e-13)


def test_no_delta_for_the_input_layer_unless_asked_for(monkeypatch):
    net = portable_bp.MLP([3, 4, 2], hidden="tanh")
    params = net.init(dtype="float64")
    x, y = np.ones((2, 3)), np.zeros((2, 2))
    calls = []
    true = network.affine_inputs
    monkeypatch.setattr(network, "affine_inputs", lambda *a, **k: calls.append(1) or true(*a, **k))
    net.loss_and_gradients(params, x, y)
    assert len(calls) == 1
    net.input_gradient(params, x, y)
    assert len(calls) == 3
