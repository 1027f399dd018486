"""What holds for every network and for all data: examples drawn by hypothesis, the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import array_api_compat.torch
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from portable_bp import MLP, Backend, DivergenceError, fit, get_backend
from portable_bp.backend import leaves, map_leaves
from portable_bp.equations import activations, losses, network
from portable_bp.testing import equivalence
from portable_bp.testing.problems import Problem, make_problem
from portable_bp.testing.tolerances import ELEMENTWISE, GRADIENT, LOSS

EACH = HealthCheck.function_scoped_fixture  # the backend: the same for all examples
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=[EACH]
)
MANY = settings(FEW, max_examples=100)
U = {"float32": 2.0**-24, "float64": 2.0**-53}
NUMPY = get_backend("numpy")

SIGNS = st.sampled_from([-1.0, 1.0])
EXTREME = st.one_of(
    st.builds(lambda s, e: s * 10.0**e, SIGNS, st.floats(-30, 30)),
    st.sampled_from([0.0, -0.0, 88.5, -88.5, 104.0, -104.0, 1e30, -1e30, 1e-30, -1e-30]),
)
ROWS = st.lists(EXTREME, min_size=6, max_size=6)


@st.composite
def problems(draw: Any, dtype: str = "float64", one_shape: bool = False) -> Problem:
    """A network of any depth, width, activations, loss and penalties, with data for it."""
    depth = draw(st.integers(0, 4))
    width = st.just(3) if one_shape else st.integers(1, 6)
    sizes = draw(st.lists(width, min_size=depth + 2, max_size=depth + 2))
    hidden = draw(st.lists(st.sampled_from(sorted(activations.ACTIVATIONS)), min_size=depth,
                           max_size=depth))  # fmt: skip
    loss = draw(st.sampled_from(sorted(losses.LOSSES)))
    if losses.get(loss).target == "class" and sizes[-1] == 1:
        sizes[-1] = 2
    net = MLP(
        sizes, hidden, loss,
        l1=draw(st.sampled_from([0.0, 0.01])), l2=draw(st.sampled_from([0.0, 0.1])),
    )  # fmt: skip
    n = 3 if one_shape else draw(st.integers(1, 8))
    seed = draw(st.integers(0, 2**32))
    return make_problem(net, n, dtype, weighted=draw(st.booleans()), seed=seed)


# --- random networks ----------------------------------------------------------------------------


@MANY
@given(problem=problems(), dropout=st.booleans())
def test_gradients_are_those_that_autograd_finds_in_the_reported_loss(
    problem: Problem, dropout: bool
) -> None:
    net, eq = problem.net, problem.net.equations
    masks: list[Any] = [None] * len(problem.params)
    if dropout:
        rng = np.random.default_rng(0)
        masks = [None] + [1.25 * (rng.random((len(problem.x), s)) > 0.2) for s in net.sizes[1:-1]]
    params, x, y, weights = problem.on(NUMPY)
    loss, grads = network.loss_and_gradients(
        eq, params, x, y, xp=NUMPY.xp, weights=weights, masks=masks
    )
    largest = max(float(np.abs(g).max()) for g in leaves(grads))
    assume(np.isfinite(largest) and largest < 1e6)  # exp of exp of exp

    xp: Any = array_api_compat.torch
    tensors = map_leaves(lambda p: torch.tensor(p, requires_grad=True), params)
    given_x, given_y, *rest = (
        torch.tensor(a) for a in (x, y) + (() if weights is None else (weights,))
    )
    torch_masks = [None if m is None else torch.tensor(m) for m in masks]
    share = network.example_weights(given_x, rest[0] if rest else None, xp=xp)
    cache = network.forward(tensors, given_x, eq.activations, xp=xp, masks=torch_masks)
    reported = network.mean_loss(eq, tensors, cache, given_y, share, xp=xp)
    reported.backward()
    assert float(loss) == pytest.approx(reported.item(), rel=1e-12)
    for g, t in zip(leaves(grads), leaves(tensors), strict=True):
        wanted = np.zeros_like(g) if t.grad is None else t.grad.numpy()
        np.testing.assert_allclose(g, wanted, rtol=0, atol=1e-12 * max(1, largest))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@FEW
@given(data=st.data())
def test_every_backend_agrees_with_the_oracle(where: Backend, dtype: str, data: Any) -> None:
    problem = data.draw(problems(dtype, one_shape=True))  # JAX compiles each shape anew
    wanted, found = equivalence.oracle(problem), equivalence.evaluate(where, problem, dtype)
    for what, exact in wanted.items():
        arrays = [where.to_numpy(a).astype(float) for a in leaves(found[what])]
        # An absolute share of 1: some draws are trained by chance, with hardly any gradient left.
        scale = 1 + np.sqrt(sum(np.sum(np.square(e)) for e in leaves(exact)))
        assume(scale < 1e6)
        gap = np.sqrt(sum(np.sum((a - e) ** 2) for a, e in zip(arrays, leaves(exact), strict=True)))
        allowed = max(GRADIENT, LOSS) * U[dtype] * scale
        assert gap <= allowed, f"{what} of {problem.net}: {gap / allowed:.2g} of what is allowed"


# --- extreme values -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(activations.ACTIVATIONS))
@FEW
@given(values=ROWS)
def test_activations_from_1e_minus_30_to_1e30(
    where: Backend, name: str, values: list[float]
) -> None:
    """Right, or beyond what float32 holds; never NaN."""
    z = np.asarray(values, dtype="float32").reshape(2, 3)
    activation = activations.get(name)
    z64 = z.astype("float64")
    with where.scope(), NUMPY.scope():
        a64 = activation.f(z64, NUMPY.xp)
        d64 = activation.vjp(np.ones_like(z64), z64, a64, NUMPY.xp)
        placed = where.asarray(z)
        a = activation.f(placed, where.xp)
        found = (a, activation.vjp(where.xp.ones_like(placed), placed, a, where.xp))
        steep = 0.8 * (1 + 0.134 * z64**2) if name == "gelu_tanh" else 1.0
        # What an error of z itself does, where the function is neither flat nor straight.
        lift = 1 + np.where(np.abs(z64) < 110, np.abs(z64) * steep, 0)
        for array, exact in zip(found, (a64, d64), strict=True):
            got, rounded = where.to_numpy(array), exact.astype("float32")
            assert not np.isnan(got).any()
            inside = np.isfinite(rounded) & np.isfinite(got)
            # On the edge of the range one may already be infinite.
            edge = np.abs(exact) > 0.99 * np.finfo("float32").max
            assert ((got == rounded) | inside | edge).all()
            error = np.abs(got[inside] - exact[inside])
            allowed = ELEMENTWISE * U["float32"] * (lift * np.maximum(1, np.abs(exact)))[inside]
            assert (error <= allowed).all()


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
@FEW
@given(values=ROWS, seed=st.integers(0, 99))
def test_losses_from_1e_minus_30_to_1e30(
    where: Backend, name: str, values: list[float], seed: int
) -> None:
    """Terms and output deltas from extreme net inputs, with the output that belongs to the loss."""
    z = np.asarray(values, dtype="float32").reshape(2, 3)
    loss = losses.get(name)
    activation = activations.get(loss.output)
    y = make_problem(MLP((1, 3), loss=loss), 2, "float32", seed=seed).on(NUMPY)[2]

    def both(there: Backend, z: Any, y: Any) -> tuple[Any, Any]:
        o = activation.f(z, there.xp)
        return (
            losses.elementwise_loss(loss, activation, z, o, y, there.xp),
            losses.output_delta(loss, activation, z, o, y, there.xp),
        )

    with where.scope(), NUMPY.scope():
        wanted = both(NUMPY, z.astype("float64"), np.asarray(y, dtype="float64"))
        found = both(where, where.asarray(z), where.asarray(y))
        # Differences within a row, and for poisson an error of z in exp(z).
        size = np.abs(z.astype("float64")).max(axis=1, keepdims=True)
        lift = 1 + (size if loss.output != "exp" else np.minimum(size, 110) * (1 + wanted[0]))
        for array, exact in zip(found, wanted, strict=True):
            got = where.to_numpy(array)
            assert not np.isnan(got).any()
            inside = np.isfinite(got)
            assert (inside | (np.abs(exact) > 0.99 * np.finfo("float32").max)).all()
            allowed = ELEMENTWISE * U["float32"] * (lift * np.maximum(1, np.abs(exact)))
            assert (np.abs(got - exact)[inside] <= allowed[inside]).all()


@FEW
@given(
    exponent=st.floats(-30, 30), loss=st.sampled_from(sorted(losses.LOSSES)), seed=st.integers(0, 9)
)
def test_training_on_extreme_data_ends_with_finite_parameters_or_says_that_it_diverged(
    exponent: float, loss: str, seed: int
) -> None:
    problem = make_problem(MLP((3, 4, 2), "tanh", loss), 8, "float64", seed=seed)
    try:
        model = fit(
            problem.net, problem.x * 10.0**exponent, problem.y, optimizer="sgd",
            learning_rate=0.1, epochs=3, batch_size=4, backend="numpy",
        )  # fmt: skip
    except DivergenceError as error:
        model = error.model
    assert all(np.isfinite(p).all() for p in leaves(model.params))


# --- data that say what has to come out ---------------------------------------------------------


@FEW
@given(c=EXTREME, k=st.integers(2, 5))
def test_equal_logits(where: Backend, c: float, k: int) -> None:
    """All classes are equally probable, whatever the logits are: loss ln k, deltas 1/k - y."""
    net = MLP([1, k], loss="softmax_cross_entropy")
    zero = np.zeros((1, k), dtype="float32")
    with where.scope():
        params = map_leaves(where.asarray, ((zero, np.full(k, c, dtype="float32")),))
        y = np.arange(k)
        loss, _ = net.loss_and_gradients(params, np.ones((k, 1)), y)
        (delta,) = net.deltas(params, np.ones((k, 1)), y)
        assert float(where.to_numpy(loss)) == pytest.approx(np.log(k), rel=1e-6)
        np.testing.assert_allclose(where.to_numpy(delta), (1 / k - np.eye(k)) / k, atol=1e-7)


@FEW
@given(size=st.floats(40, 1e30), name=st.sampled_from(["tanh", "sigmoid", "softmax", "gelu_tanh"]))
def test_saturated_units_pass_nothing_on(where: Backend, size: float, name: str) -> None:
    """Net inputs of +-size: outputs at their limits, no gradient reaches the first layer."""
    net = MLP([2, 2, 1], name)
    W1 = np.asarray([[size, -size], [0, 0]], dtype="float32")
    if name == "gelu_tanh":
        W1 = -np.abs(W1)  # on the right it is the identity
    with where.scope():
        params = map_leaves(
            where.asarray,
            ((W1, np.zeros(2, "float32")), (np.ones((2, 1), "float32"), np.zeros(1, "float32"))),
        )
        loss, grads = net.loss_and_gradients(params, [[1.0, 3.0]], [0.5])
        assert np.isfinite(where.to_numpy(loss))
        for g in leaves(grads[0]):
            np.testing.assert_allclose(where.to_numpy(g), 0, atol=1e-9)


@FEW
@given(problem=problems(), copies=st.integers(2, 5))
def test_constant_inputs_are_one_input(problem: Problem, copies: int) -> None:
    """The mean over equal examples is the example, with weights or without."""
    one = Problem(problem.net, "float64", problem.params, problem.x[:1], problem.y[:1], None)
    many = replace(
        one,
        x=np.repeat(one.x, copies, axis=0),
        y=np.repeat(one.y, copies, axis=0),
        weights=None if problem.weights is None else np.arange(1.0, copies + 1),
    )
    assert_equal(
        equivalence.evaluate(NUMPY, many, "float64"), equivalence.evaluate(NUMPY, one, "float64")
    )


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for what in ("loss", "gradient"):
        for a, b in zip(leaves(found[what]), leaves(wanted[what]), strict=True):
            assume(np.abs(b).max() < 1e6)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


@FEW
@given(problem=problems(), seed=st.integers(0, 99))
def test_the_order_of_the_rows_makes_no_difference(problem: Problem, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(problem.x))
    w = problem.weights
    shuffled = replace(
        problem, x=problem.x[order], y=problem.y[order], weights=None if w is None else w[order]
    )
    assert_equal(
        equivalence.evaluate(NUMPY, shuffled, "float64"),
        equivalence.evaluate(NUMPY, problem, "float64"),
    )


@FEW
@given(problem=problems(), k=st.integers(-60, 60))
def test_only_the_ratios_of_weights_count(problem: Problem, k: int) -> None:
    """Scaled by a power of two: the same bits."""
    weights = np.arange(1.0, len(problem.x) + 1)
    here, there = (replace(problem, weights=w) for w in (weights, weights * 2.0**k))
    found, wanted = (equivalence.evaluate(NUMPY, p, "float64") for p in (there, here))
    for what in found:
        for a, b in zip(leaves(found[what]), leaves(wanted[what]), strict=True):
            np.testing.assert_array_equal(a, b)


@FEW
@given(problem=problems(), seed=st.integers(0, 99))
def test_a_row_without_weight_is_not_there(problem: Problem, seed: int) -> None:
    keep = np.random.default_rng(seed).random(len(problem.x)) > 0.4
    keep[0] = True
    weights = np.linspace(1, 2, len(keep))
    there = replace(problem, weights=weights * keep)
    absent = replace(problem, x=problem.x[keep], y=problem.y[keep], weights=weights[keep])
    assert_equal(
        equivalence.evaluate(NUMPY, there, "float64"),
        equivalence.evaluate(NUMPY, absent, "float64"),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@FEW
@given(k=st.integers(-30, 30), seed=st.integers(0, 99))
def test_a_power_of_two_goes_through_a_linear_network_unrounded(
    where: Backend, dtype: str, k: int, seed: int
) -> None:
    """X and y times 2^k: the loss and dE/dW times 4^k, dE/db times 2^k, to the last bit."""
    problem = make_problem(MLP((3, 2)), 5, dtype, seed=seed)
    ((W, b),) = problem.params
    problem = replace(problem, params=((W, 0 * b),))
    factor = np.asarray(2.0**k, dtype=dtype)
    scaled = replace(problem, x=problem.x * factor, y=problem.y * factor)
    one, other = (equivalence.evaluate(where, p, dtype) for p in (problem, scaled))
    ((dW, db),), ((dW_k, db_k),) = one["gradient"], other["gradient"]
    for a, b, power in (
        (other["loss"], one["loss"], 2),
        (dW_k, dW, 2),
        (db_k, db, 1),
        (other["outputs"], one["outputs"], 1),
    ):
        np.testing.assert_array_equal(where.to_numpy(a), where.to_numpy(b) * factor**power)
