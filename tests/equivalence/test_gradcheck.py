"""check_gradients: right gradients pass everywhere, wrong ones are named."""

from __future__ import annotations

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, Activation, Loss, activations, losses
from portable_bp.testing import check_gradients

RNG = np.random.default_rng(7)
X = RNG.normal(size=(6, 3))
WEIGHTS = RNG.uniform(0.1, 2, size=6)

TARGETS = {
    "real": RNG.normal(size=(6, 2)),
    "binary": RNG.uniform(0, 1, size=(6, 2)),
    "class": RNG.integers(0, 2, size=6),
    "count": RNG.poisson(2.0, size=(6, 2)),
}


def net_for(loss: str, hidden: str = "tanh", **options: object) -> tuple[MLP, np.ndarray]:
    net = MLP([3, 4, 5, 2], hidden, loss, **options)  # type: ignore[arg-type]
    return net, TARGETS[net.loss.target]


@pytest.mark.parametrize("hidden", sorted(activations.ACTIVATIONS))
def test_every_activation(hidden: str) -> None:
    net, y = net_for("squared_error", hidden, l1=0.01, l2=0.1)
    assert check_gradients(net, net.init(1, dtype="float64"), X, y, WEIGHTS) < 1e-7


PAIRS = [
    (loss, output)
    for loss in sorted(losses.LOSSES)
    for output in (None, "sigmoid", "softmax", "exp", "softplus")
    # log loss is a function of probabilities
    if not (loss == "log_loss" and output in ("exp", "softplus"))
]


@pytest.mark.parametrize(("loss", "output"), PAIRS)
def test_every_loss(loss: str, output: str | None) -> None:
    net, y = net_for(loss, output=output)
    assert check_gradients(net, net.init(2, dtype="float64"), X, y) < 1e-7


def test_a_users_own_activation_and_loss() -> None:
    sine = Activation(lambda z, xp: xp.sin(z), lambda z, a, xp: xp.cos(z), "sine")
    quartic = Loss(lambda o, y, xp: (o - y) ** 4, lambda o, y, xp: 4 * (o - y) ** 3, "quartic")
    net = MLP([3, 4, 2], sine, quartic)
    assert check_gradients(net, net.init(0), X, TARGETS["real"], entries=None) < 1e-8


def test_kinks_are_stepped_away_from() -> None:
    # A zero row and zero biases: every hidden unit sits exactly on its kink.
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    net = MLP([2, 8, 1], "relu", "absolute_error")
    assert check_gradients(net, net.init(0), x, [0, 1, 1, 0]) < 1e-6


def test_a_wrong_derivative_is_named_with_both_numbers() -> None:
    wrong = Activation(lambda z, xp: xp.tanh(z), lambda z, a, xp: 1 - a, "wrong")
    net = MLP([3, 4, 2], wrong)
    with pytest.raises(AssertionError, match=r"for (W|b|x).*\] of MLP.*backpropagation says -?\d"):
        check_gradients(net, net.init(0), X, TARGETS["real"])


def test_a_loss_that_is_not_its_gradients_is_found() -> None:
    unhalved = Loss(lambda o, y, xp: (o - y) ** 2, lambda o, y, xp: o - y, "unhalved")
    net = MLP([3, 2], loss=unhalved)
    with pytest.raises(AssertionError, match=r"relative error 5\.0e-01"):
        check_gradients(net, net.init(0), X, TARGETS["real"])


def test_a_slightly_wrong_derivative_is_found() -> None:
    wrong = Activation(lambda z, xp: xp.tanh(z), lambda z, a, xp: (1 - a * a) * 1.00001, "wrong")
    net = MLP([3, 4, 2], wrong)
    with pytest.raises(AssertionError):
        check_gradients(net, net.init(0), X, TARGETS["real"])


def test_nan_is_no_agreement() -> None:
    wrong = Activation(lambda z, xp: z, lambda z, a, xp: z * float("nan"), "wrong")
    net = MLP([3, 4, 2], wrong)
    with pytest.raises(AssertionError, match="backpropagation says nan"):
        check_gradients(net, net.init(0), X, TARGETS["real"])


def test_parameters_and_inputs_stay_as_they_were() -> None:
    net, y = net_for("squared_error")
    params = net.init(0, dtype="float64")
    before = [[np.array(p) for p in pair] for pair in params]
    x = X.copy()
    x.setflags(write=False)
    check_gradients(net, params, x, y)
    for pair, kept in zip(params, before, strict=True):
        for p, k in zip(pair, kept, strict=True):
            np.testing.assert_array_equal(p, k)


def test_it_runs_on_numpy_whatever_backend_is_in_use() -> None:
    net, y = net_for("squared_error", "gelu")
    params = net.init(0, backend="strict", dtype="float32")
    with portable_bp.use_backend("strict"):
        assert check_gradients(net, params, X, y, entries=5) < 1e-7


@pytest.mark.parametrize(
    ("option", "error"),
    [({"tolerance": 0}, ValueError), ({"entries": 0}, ValueError), ({"seed": -1}, ValueError)],
)
def test_bad_options_are_refused(option: dict[str, int], error: type[Exception]) -> None:
    net, y = net_for("squared_error")
    with pytest.raises(error, match=next(iter(option))):
        check_gradients(net, net.init(0), X, y, **option)  # type: ignore[arg-type]
