"""Element-wise groups keep the rules that a tracer needs, and mean on numbers what they say."""

import ast
import inspect
import textwrap

import array_api_compat.numpy as xp
import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import portable_bp
from portable_bp.backend import extend
from portable_bp.equations import activations, losses, optimizers, random, regularizers, special
from portable_bp.training.step import StepPlan, make_step
from portable_bp_backends.cupy_fuse import traceable

MODULES = (activations, losses, optimizers, random, regularizers, special)
GROUPS = {
    name: function.__wrapped__
    for module in MODULES
    for name, function in vars(module).items()
    if hasattr(function, "__wrapped__") and function.__module__ == module.__name__
    if function.__code__.co_qualname.startswith("elementwise")
}
TRACED = {n: f for n, f in GROUPS.items() if n not in ("erfc", "philox4x32")}  # native kernels


def test_the_groups_are_found():
    assert {"relu", "d_relu", "_adam", "exp_shifted", "_add_l2", "erfc"} <= GROUPS.keys()


@pytest.mark.parametrize("name", GROUPS)
def test_rules(name):
    formula = GROUPS[name]
    assert formula.__closure__ is None
    assert formula.__name__.isidentifier()
    *arguments, last = inspect.signature(formula).parameters.values()
    assert last.name == "xp"
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in arguments)
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(formula)))):
        assert not isinstance(node, ast.Lambda | ast.If | ast.IfExp | ast.While | ast.MatMult)
        if isinstance(node, ast.Attribute):
            assert node.attr not in {
                "shape", "T", "mT", "size", "ndim", "clip", "sum", "max", "min", "mean", "prod",
                "any", "all", "reshape", "take", "concat", "stack", "matmul",
            }  # fmt: skip
        if isinstance(node, ast.keyword):
            assert node.arg == "xp"


def operands(formula, dtype, shape=(3, 5)):
    """Arrays for each array of the formula, numbers for each number."""
    rng = np.random.default_rng(2)
    *arguments, _ = inspect.signature(formula).parameters.values()
    return [
        0.3 if p.annotation == "float" else rng.uniform(0.1, 0.9, size=shape).astype(dtype)
        for p in arguments
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TRACED)
def test_numbers_may_stand_for_arrays_filled_with_them(name, dtype):
    formula = TRACED[name]
    inside = traceable(np, xp, {})
    given = operands(formula, dtype)
    for sign in (1, -1):
        given = [g * sign if isinstance(g, np.ndarray) else g for g in given]
        with np.errstate(invalid="ignore", divide="ignore"):
            want, got = formula(*given, xp=xp), formula(*given, xp=inside)
        for w, g in zip(*((r if isinstance(r, tuple) else (r,)) for r in (want, got)), strict=True):
            assert g.dtype == dtype
            np.testing.assert_array_equal(w, g)


@pytest.mark.parametrize("name", TRACED)
def test_each_entry_is_computed_from_its_own_place(name):
    formula = TRACED[name]
    given = operands(formula, "float64")
    parts = [g[1:2, 2:3] if isinstance(g, np.ndarray) else g for g in given]
    whole, part = formula(*given, xp=xp), formula(*parts, xp=xp)
    for w, p in zip(*((r if isinstance(r, tuple) else (r,)) for r in (whole, part)), strict=True):
        np.testing.assert_allclose(p, w[1:2, 2:3], rtol=1e-14)  # vector units round otherwise


def test_sign_keeps_nan_while_it_is_traced():
    inside = traceable(np, xp, {})
    np.testing.assert_array_equal(inside.sign(np.array([-2.0, 0.0, np.nan])), [-1, 0, np.nan])


class Launches(TorchDispatchMode):
    """Counts kernels: calls that give new memory."""

    count = 0

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        out = kernel(*args, **(kwargs or {}))
        self.count += not kernel.is_view
        return out


@pytest.mark.parametrize(("grouped", "least", "most"), [(True, 37, 37), (False, 100, 150)])
def test_launches_of_a_step(grouped, least, most):
    """Three layers, 8 of the launches products of matrices: what a device is handed for each step."""
    torch, counter = portable_bp.get_backend("torch"), Launches()

    def kernel(formula):
        def one(*arguments):
            before = counter.count
            out = formula(*arguments, xp=torch.xp)
            counter.count = before + 1
            return out

        return one

    space = extend(torch.xp, kernel if grouped else lambda formula: None)
    net = portable_bp.MLP([20, 16, 12, 10], hidden="relu", loss="softmax_cross_entropy")
    adam = optimizers.Adam()
    with torch.scope():
        params = net.init(0, torch)
        state = (params, optimizers.init(adam, params, xp=torch.xp))
        x, y = torch.asarray(np.ones((8, 20)), "float32"), torch.asarray(np.eye(8, 10), "float32")
        numbers = tuple(torch.asarray(np.float32(c)) for c in (0, *adam.coefficients(1, 0.1)))
        with counter:
            make_step(StepPlan(net.equations, adam))(space, state, (x, y, numbers))
    assert least <= counter.count <= most
