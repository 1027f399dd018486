"""Parts of the equations that CuPy has whole, beside the same equations operation by operation."""

from itertools import pairwise

import cupy
import numpy as np
import pytest

from portable_bp.backend import leaves
from portable_bp.equations import activations, losses, network, optimizers
from portable_bp.equations.activations import ACTIVATIONS
from portable_bp.equations.losses import LOSSES
from portable_bp.equations.optimizers import OPTIMIZERS
from portable_bp_backends import cupy_flat
from portable_bp_backends.cupy_backend import CupyBackend

WHOLE, PURE = CupyBackend(0), CupyBackend(0, fuse=False)
RNG = np.random.default_rng(0)
FEW = ("relu", "softmax", "leaky_relu", "gelu")

DTYPES = pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)]
)


def few(names, chosen):
    """The default run takes some: each is a kernel to be compiled."""
    return [n if n in chosen else pytest.param(n, marks=pytest.mark.slow) for n in names]


def normal(*shape, dtype="float32"):
    return cupy.asarray(RNG.standard_normal(shape), dtype)


def agree(found, wanted, ulps=8):
    for a, b in zip(leaves(found), leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        eps = float(np.finfo(str(b.dtype)).eps)
        np.testing.assert_allclose(a.get(), b.get(), rtol=ulps * eps, atol=ulps * eps)


def taken(formula, *arguments):
    """What the part answers: it must not leave these arguments to the equations."""
    result = WHOLE.xp.portable_bp_part(formula.__wrapped__)(*arguments)
    assert result is not NotImplemented
    return result


def test_one_switch_turns_them_off():
    assert not hasattr(PURE.xp, "portable_bp_part")


@DTYPES
@pytest.mark.parametrize("name", few(ACTIVATIONS, FEW))
def test_a_layer_and_its_way_back(name, dtype):
    activation = ACTIVATIONS[name]()
    a, W, b = normal(7, 5, dtype=dtype), normal(5, 40, dtype=dtype), normal(40, dtype=dtype)
    with WHOLE.scope():
        z, out = network.layer(a, W, b, activation, xp=PURE.xp)
        if name != "identity":
            agree(taken(network.layer, a, W, b, activation), (z, out))
        if activation.df is not None:
            g = normal(7, 40, dtype=dtype)
            want = activations.scaled_by_derivative(g, z, out, activation, xp=PURE.xp)
            agree(taken(activations.scaled_by_derivative, g, z, out, activation), want)


@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 300])
@pytest.mark.parametrize("top", [0.0, 80.0])
def test_softmax_of_rows_of_any_length(k, top):
    a, W, b = normal(3, 2), normal(2, k), normal(k) + top * cupy.arange(k, dtype="float32") / k
    softmax = ACTIVATIONS["softmax"]()
    with WHOLE.scope():
        agree(
            taken(network.layer, a, W, b, softmax), network.layer(a, W, b, softmax, xp=PURE.xp), 32
        )


def test_a_row_with_a_nan_is_nan_and_the_others_are_not():
    a, W = cupy.asarray([[1.0, np.nan], [1.0, 2.0], [np.inf, 1.0]], "float32"), normal(2, 40)
    with WHOLE.scope():
        _, out = taken(network.layer, a, W, normal(40), ACTIVATIONS["softmax"]())
    assert cupy.isnan(out).all(axis=1).tolist() == [True, False, True]
    assert not cupy.isnan(out[1]).any()


@DTYPES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", few(LOSSES, ("softmax_cross_entropy", "squared_error", "huber")))
def test_a_loss(name, weighted, dtype):
    loss = LOSSES[name]()
    z, y = normal(7, 40, dtype=dtype), cupy.abs(normal(7, 40, dtype=dtype)) / 4
    share = cupy.asarray(RNG.uniform(size=(7, 1)), dtype) if weighted else 1 / 7
    for output in {loss.output, "sigmoid"}:
        activation = ACTIVATIONS[output]()
        with WHOLE.scope():
            o = activation.f(z, PURE.xp)
            want = losses.shared_loss(loss, activation, z, o, y, share, xp=PURE.xp)
            agree(taken(losses.shared_loss, loss, activation, z, o, y, share), want, 64)


def network_of(sizes, dtype="float32", order="C"):
    shapes = list(pairwise(sizes))
    return tuple(
        (cupy.asarray(normal(*s, dtype=dtype), order=order), normal(s[1], dtype=dtype))
        for s in shapes
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("layout", ["together", "apart", "by columns"])
def test_an_update(name, layout):
    rule = OPTIMIZERS[name]()
    params, grads = (network_of((5, 9, 3, 2), order="F" if "col" in layout else "C") for _ in "pg")
    slots = tuple(
        tuple((abs(W), abs(b)) for W, b in network_of((5, 9, 3, 2))) for _ in range(rule.slots)
    )
    if layout == "together":
        params, grads, slots = (cupy_flat.copied(t) for t in (params, grads, slots))
    c = tuple(cupy.asarray(n, "float32") for n in rule.coefficients(3.0, 0.1))
    with WHOLE.scope():
        want = optimizers.apply(rule, grads, slots, params, c, xp=PURE.xp)
        got = optimizers.apply(rule, grads, slots, params, c, xp=WHOLE.xp)
    agree(got, want)
    rows = [list(leaves(t)) for t in (got[0], *got[1])]
    assert len(cupy_flat.runs(*rows)) == (1 if layout == "together" else 6)


def test_a_users_own_optimiser_sees_one_tensor_at_a_time():
    seen = []

    class Normed(optimizers.Optimizer):
        def update(self, g, slots, p, c, *, xp):
            seen.append(p.shape)
            return p - c[0] * g / xp.max(xp.abs(g)), ()

    params, grads = (cupy_flat.copied(network_of((5, 9, 3))) for _ in "pg")
    with WHOLE.scope():
        optimizers.apply(Normed(), grads, (), params, (cupy.float32(0.1),), xp=WHOLE.xp)
    assert seen == [(5, 9), (9,), (9, 3), (3,)]


def test_all_gradients_lie_in_one_buffer():
    from portable_bp.equations import affine

    inputs = [normal(6, n) for n in (5, 9, 3)]
    deltas = [normal(6, n) for n in (9, 3, 2)]
    with WHOLE.scope():
        got = taken(affine.all_affine_gradients, inputs, deltas)
        agree(tuple(got), tuple(affine.all_affine_gradients(inputs, deltas, xp=PURE.xp)), 16)
        flat = list(leaves(tuple(got)))
        assert len(cupy_flat.runs(flat)) == 1
        assert len(cupy_flat.runs(flat[::2])) == 1  # the weights alone, too
        assert all(a.data.ptr % cupy_flat.ALIGNMENT == 0 for a in flat)


def test_neighbours_in_a_users_own_array_are_not_taken_for_one_tensor():
    whole = cupy.arange(400, dtype="float32")
    columns = [whole.reshape(20, 20)[:, :3], whole.reshape(20, 20)[:, 3:]]
    assert len(cupy_flat.runs(columns)) == 2
    backwards = [whole[::-1], whole[:5]]
    assert len(cupy_flat.runs(backwards)) == 2
    assert len(cupy_flat.runs([whole[:5], whole[5:9]], [whole[:5], whole[6:10]])) == 2
    assert len(cupy_flat.runs([whole[:5], whole[300:309]])) == 2


def test_a_stack_of_networks_is_left_to_the_equations():
    a, W, b = normal(2, 7, 5), normal(2, 5, 4), normal(2, 4)
    part = WHOLE.xp.portable_bp_part
    assert part(network.layer)(a, W, b, ACTIVATIONS["relu"]()) is NotImplemented
    assert part(cupy_flat.each_tensor)(lambda t: (t,), [W, b]) is NotImplemented
