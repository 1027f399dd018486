"""Activations as users write them: a compiled run has the numbers of the eager one, whatever they do.

What writes into an array, changes a constant, or keeps a state of its own cannot be compiled; then
the step runs eagerly, with a warning that says why.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, Backend
from portable_bp._tree import leaves
from portable_bp.backend import EagerRunner
from portable_bp.equations.activations import Activation

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3)).astype("float32")
Y = RNG.standard_normal((24, 2)).astype("float32")

Function = Callable[[Any, Any], Any]


def copied(change: Callable[[Any, Any], Any]) -> Function:
    """A function that copies its argument by NumPy and then changes the copy."""

    def f(z: Any, xp: Any) -> Any:
        a = np.copy(z)
        change(a, z)
        return a

    return f


def by_changed_constant(z: Any, xp: Any) -> Any:
    m = np.zeros(z.shape, "float32")
    m[:, 0] = 1
    u = z * m
    m[:, 1] = 1
    return u + 2 * z * m


def by_changed_view(z: Any, xp: Any) -> Any:
    m = np.ones(z.shape, "float32")
    a, b = np.broadcast_arrays(z, m)
    m[:, 0] = 3
    return a * b


def by_changed_argument(z: Any, xp: Any) -> Any:
    z += 1
    return np.tanh(z)


def by_out(z: Any, xp: Any) -> Any:
    out = np.empty(z.shape, "float32")
    np.multiply(z, 2, out=out)
    np.maximum(out, 0, out=out)
    return np.sin(out, out=out)


def by_out_of_before(z: Any, xp: Any) -> Any:
    a = np.tanh(z)
    b = a * 2
    np.add(a, 1, out=a)
    return a + b


def by_catching(z: Any, xp: Any) -> Any:
    a = np.copy(z)
    try:
        a[a < 0] = 0
    except Exception:
        return np.copy(z)
    return a


def by_type(z: Any, xp: Any) -> Any:
    return np.tanh(z) if isinstance(z, np.ndarray) else z * 1


def by_closure(z: Any, xp: Any) -> Any:
    k = [1.0]
    f = lambda row: row * k[0]  # noqa: E731
    a = np.apply_along_axis(f, 0, z)
    k[0] = 2.0
    return a + np.apply_along_axis(f, 0, z)


def by_base(z: Any, xp: Any) -> Any:
    a = np.copy(z)
    view = a.reshape(-1)
    np.putmask(view, view < 0, 0)
    return a


def by_permutation(z: Any, xp: Any) -> Any:
    a = np.copy(z)
    np.random.default_rng(0).shuffle(a)
    return a


WRITES: dict[str, Function] = {
    "putmask": copied(lambda a, z: np.putmask(a, z < 0, 0)),
    "putmask of what is there": copied(lambda a, z: np.putmask(a, z > 1.5, 0)),
    "copyto where": copied(lambda a, z: np.copyto(a, 0, where=z < 0)),
    "nan_to_num": copied(lambda a, z: np.nan_to_num(a, copy=False)),
    "nan_to_num of a half": copied(lambda a, z: np.nan_to_num(np.sqrt(a), copy=False)),
    "clip out": copied(lambda a, z: np.clip(z, -0.1, 0.1, out=a)),
    "clip out by place": copied(lambda a, z: np.clip(z, -0.1, 0.1, a)),
    "fill_diagonal": copied(lambda a, z: np.fill_diagonal(a, 0)),
    "place": copied(lambda a, z: np.place(a, z < 0, [0.5])),
    "put": copied(lambda a, z: np.put(a, [0, 1], [0.5])),
    "put_along_axis": copied(lambda a, z: np.put_along_axis(a, np.argmax(z, 1)[:, None], 0, 1)),
    "ufunc out": copied(lambda a, z: np.multiply(z, 2, out=a)),
    "ufunc out by place": copied(lambda a, z: np.multiply(z, 2, a)),
    "ufunc at": copied(lambda a, z: np.add.at(a, 0, 1)),
    "accumulate out": copied(lambda a, z: np.add.accumulate(z, 0, None, a)),
    "cumsum out": copied(lambda a, z: np.cumsum(z, 0, out=a)),
    "take out": copied(lambda a, z: np.take(z, range(len(z)), 0, a)),
    "matmul out": copied(lambda a, z: np.matmul(z, np.eye(z.shape[1], dtype="f"), out=a)),
    "setitem": copied(lambda a, z: a.__setitem__(z < 0, 0)),
    "sort": copied(lambda a, z: a.sort(axis=0)),
    "partition": copied(lambda a, z: a.partition(1, axis=1)),
    "fill": copied(lambda a, z: a.fill(0.5)),
    "flat": copied(lambda a, z: a.flat.__setitem__(0, 0.5)),
    "in place": copied(lambda a, z: a.__imul__(2)),
    "resize": copied(lambda a, z: a.resize(a.shape, refcheck=False)),
    "byteswap": copied(lambda a, z: a.byteswap(inplace=True).byteswap(inplace=True)),
    "setflags": copied(lambda a, z: a.setflags(write=False)),
    "a base by its view": by_base,
    "a shuffle": by_permutation,
    "the argument": by_changed_argument,
    "out": by_out,
    "out of a call before": by_out_of_before,
    "a constant": by_changed_constant,
    "a constant by its view": by_changed_view,
    "refusals caught": by_catching,
    "the type of an array": by_type,
    "a closure": by_closure,
}

LOOK_ALIKE: dict[str, Function] = {
    "tuple and list": lambda z, xp: z + z[(0, 1)] + np.sum(z[[0, 1]]),
    "slices": lambda z, xp: z + z[0:1] + z[:1] * 2 + z[slice(0, 2, 2)],
    "zeros": lambda z, xp: np.copysign(z, 0.0) + 2 * np.copysign(z, -0.0),
    "one, 1.0 and True": lambda z, xp: (
        np.astype(np.sum(z > 0, axis=0, keepdims=1), "f") * np.power(z, 1)
        + np.power(z, 1.0) * 3 + np.sum(z, axis=0, keepdims=True)
    ),
    "a nan": lambda z, xp: np.fmax(z, float("nan")) + np.fmax(z, 0.0) * 2,
    "dtypes": lambda z, xp: np.astype(
        np.add(z, np.float64(1)) * np.add(z, np.float32(1)) + np.add(z, np.float16(1)), "f"
    ),
    "None and Ellipsis": lambda z, xp: z + z[None][0] + z[...] + np.sum(z, axis=None),
    "a product of rows": lambda z, xp: z + np.multiply.reduce(z, 1)[:, None],
    "running products": lambda z, xp: np.multiply.accumulate(z, 1) + np.multiply(z, 1),
    "and of truths": lambda z, xp: np.astype((z > 0) & 0, "f") + z,
    "strings": lambda z, xp: np.einsum("ij->ij", z) + np.einsum("ij->i", z)[:, None],
}  # fmt: skip


def by_numpy(z: Any, xp: Any) -> Any:
    """Through NumPy and back: no library sees what happens in between."""
    return xp.asarray(np.tanh(np.asarray(z)))


def by_changed_mask(z: Any, xp: Any) -> Any:
    m = xp.zeros_like(z)
    m[:, 0] = 1
    u = z * m
    m[:, 1] = 1
    return u + 2 * z * m


def written(change: Callable[[Any], Any]) -> Function:
    def f(z: Any, xp: Any) -> Any:
        a = z.clone()
        change(a)
        return a

    return f


OF_TORCH: dict[str, Function] = {
    "setitem": written(lambda a: a.__setitem__(a < 0, 0)),
    "clamp_": written(lambda a: a.clamp_(-0.1, 0.1)),
    "fill_diagonal_": written(lambda a: a.fill_diagonal_(0)),
    "data": written(lambda a: a.data.mul_(2)),
    "a view": written(lambda a: a.view(-1).mul_(2)),
    "numpy's view": written(lambda a: np.putmask(a.numpy(), a.numpy() < 0, 0)),
    "out": lambda z, xp: xp.sin(z, out=z.clone()),
    "a mask": by_changed_mask,
    "numpy": by_numpy,
    "a list": lambda z, xp: xp.asarray(z.tolist()),
    "the argument": lambda z, xp: xp.tanh(z.add_(1)),
    "tuple and list": lambda z, xp: z + z[(0, 1)] + xp.sum(z[[0, 1]]),
    "slices": lambda z, xp: z + z[0:1] + z[:1] * 2 + z[None][0],
}
OF_JAX: dict[str, Function] = {
    "a constant": by_changed_constant,
    "numpy": by_numpy,
    "a constant that stays": lambda z, xp: z * np.asarray([1, 2, 3, 4], "float32"),
    "numbers": lambda z, xp: z + xp.asarray([1.0, 2.0, 3.0, 4.0], dtype=z.dtype),
    "a branch": lambda z, xp: xp.tanh(z) if float(xp.sum(z)) > 0 else z * 0.5,
    "tuple and list": lambda z, xp: z + z[(0, 1)] + xp.sum(z[xp.asarray([0, 1])]),
    "at": lambda z, xp: z.at[0].set(0) + z.at[:, 0].mul(2),
}


QUICK = ("a constant", "numpy")  # each kernel that JAX runs eagerly is compiled first


def outcomes(f: Function, spec: str, *, compile: bool) -> list[Any]:
    """Parameters after some epochs, the losses, and predictions of several rows, call by call."""
    net = MLP([3, 4, 2], hidden=Activation(f, lambda z, a, xp: xp.ones_like(z)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*runs this step eagerly", RuntimeWarning)
        model = portable_bp.fit(
            net, X, Y, epochs=2, batch_size=8, seed=1, backend=spec, compile=compile
        )
    # Eagerly: the first call of a shape is.
    models = itertools.repeat(model) if compile else (model.to(spec) for _ in itertools.count())
    answers = [next(models).predict(X[i : i + 7]) for i in (0, 7, 14, 3)]
    params = [model.backend.to_numpy(p) for p in leaves(model.params)]
    return [*params, np.asarray(model.history["loss"]), *map(np.asarray, answers)]


def check(f: Function, spec: str) -> None:
    compiled, eager = (outcomes(f, spec, compile=c) for c in (True, False))
    for got, want in zip(compiled, eager, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("name", [*WRITES, *LOOK_ALIKE])
def test_the_numbers_of_the_eager_run_on_numpy(name: str) -> None:
    check((WRITES | LOOK_ALIKE)[name], "numpy")


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_numbers_of_the_eager_run_on_torch(name: str) -> None:
    check(OF_TORCH[name], "torch")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OF_JAX],
)
def test_the_numbers_of_the_eager_run_on_jax(name: str) -> None:
    check(OF_JAX[name], "jax")


@pytest.mark.parametrize("spec", ["numpy", "torch"])
@pytest.mark.parametrize("what", ["a counter", "random numbers"])
def test_a_function_with_a_state_of_its_own_is_noticed(spec: str, what: str) -> None:
    """What a function keeps, or draws, must be an argument; within two calls it shows."""
    counter, rng = itertools.count(1), np.random.default_rng(0)

    def f(z: Any, xp: Any) -> Any:
        return z * float(next(counter) if what == "a counter" else rng.random())

    net = MLP([3, 4, 2], hidden=Activation(f, lambda z, a, xp: xp.ones_like(z)))
    with pytest.warns(RuntimeWarning, match="runs this step eagerly"):
        portable_bp.fit(net, X, Y, epochs=1, batch_size=6, backend=spec)


@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict"])
@pytest.mark.parametrize("compiled", [False, True])
def test_every_runner_refuses_the_same_orders(
    usable: Callable[[str], Backend], spec: str, compiled: bool
) -> None:
    backend = usable(spec)

    def step(xp: Any, state: Any, batch: Any) -> Any:
        return (state[0] + xp.sum(batch[0]),), xp.sum(batch[0])

    with backend.scope():
        state, x = (backend.asarray(0.0, "float32"),), backend.asarray(np.ones(4, "float32"))
        runner = (backend.compile if compiled else partial(EagerRunner, backend))(step, state)
    table = (np.ones(1, "float32"),)
    for order in ([[0, -1]], [[0, 4]]):
        with pytest.raises(IndexError, match="but the data have 4 rows"):
            runner.run((x,), np.asarray(order), table)
    with pytest.raises(TypeError, match="order must hold integers"):
        runner.run((x,), np.asarray([[0.0, 1.0]]), table)
    for bad in (np.asarray([0, 1]), np.zeros((1, 0), int), np.zeros((2, 2), int)):
        with pytest.raises(ValueError, match="order"):
            runner.run((x,), bad, table)
    with pytest.raises(ValueError, match="table"):
        runner.run((x,), None, (np.ones((), "float32"),))
    with pytest.raises(ValueError, match="table"):
        runner.run((x,), None, ())
    assert float(runner.state[0]) == 0
