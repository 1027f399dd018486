"""Activations and losses made by a grammar of array functions, mutation included.

Each function is a short program: it computes arrays from those it has, and may write into them, by one
of the ways that NumPy knows. A compiled run must have the numbers of the eager one; a function that
raises eagerly must raise compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP
from portable_bp._tree import leaves
from portable_bp.equations.activations import Activation
from portable_bp.equations.losses import Loss

QUICK, MANY, CHUNK = 20, 200, 20
RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((18, 3)).astype("f"), RNG.random((18, 3)).astype("f")

ROW = np.asarray([0.5, 1.0, -0.5], "f")

# From arrays of one shape (n, 3) to another one of it.
PURE: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - 0.5 * b, lambda a, b: np.maximum(a, b),
    lambda a, b: np.tanh(a), lambda a, b: np.exp(-np.abs(a)), lambda a, b: np.where(a > 0, a, b),
    lambda a, b: a / (1 + np.abs(b)), lambda a, b: np.clip(a, -1, 0.5), lambda a, b: np.sign(a) * b,
    lambda a, b: a + np.sum(b, axis=0), lambda a, b: a - np.mean(b, axis=1, keepdims=True),
    lambda a, b: a * ROW, lambda a, b: np.roll(a, 1, axis=1), lambda a, b: a[:, ::-1] + 0.0,
    lambda a, b: np.multiply.accumulate(a, 1) + b, lambda a, b: a + np.add.reduce(b, 1)[:, None],
    lambda a, b: np.copy(a), lambda a, b: np.nan_to_num(a), lambda a, b: np.sort(a, axis=1),
    lambda a, b: np.cumsum(a, axis=1), lambda a, b: a + b[[0]] * b[(0, 1)],
    lambda a, b: np.concatenate([a[:, :1], b[:, 1:]], axis=1),
    lambda a, b: np.einsum("ij,j->ij", a, ROW),
    lambda a, b: np.full(a.shape, 0.5, "f") * a, lambda a, b: np.zeros(a.shape, "f") + b,
    lambda a, b: np.flip(a, 1), lambda a, b: np.broadcast_arrays(a, b)[1] * 1.5,
    lambda a, b: np.linalg.norm(a, axis=1, keepdims=True) + b, lambda a, b: np.outer(a[:, 0], ROW),
]  # fmt: skip

# Changes of the first array.
WRITES: list[Callable[[Any, Any], Any]] = [
    lambda a, b: np.putmask(a, b < 0, 0), lambda a, b: np.copyto(a, 0.25, where=b > 0.5),
    lambda a, b: a.__setitem__((slice(None), 0), 1), lambda a, b: a.__setitem__(a < 0, 0),
    lambda a, b: np.clip(b, -0.1, 0.1, out=a), lambda a, b: np.add(a, b, out=a),
    lambda a, b: np.fill_diagonal(a, 0), lambda a, b: a.sort(axis=1), lambda a, b: a.fill(0.5),
    lambda a, b: np.add.at(a, 0, 1), lambda a, b: a.__imul__(0.5), lambda a, b: a[1:].__iadd__(1),
    lambda a, b: np.nan_to_num(a, copy=False), lambda a, b: np.multiply(b, 2, a),
    lambda a, b: np.put(a, [0, 1], 2), lambda a, b: np.cumsum(b, axis=1, out=a),
    lambda a, b: a.T.__setitem__(0, 0), lambda a, b: a.flat.__setitem__(1, 3),
]  # fmt: skip


def program(number: int, *, writes: bool) -> Callable[[Any, Any], Any]:
    """A function of two arrays; what it does follows from its number."""
    r = np.random.default_rng([11, number])
    steps = []
    for _ in range(int(r.integers(2, 7))):
        write = writes and r.random() < 0.35
        steps.append((bool(write), int(r.integers(len(WRITES if write else PURE))), *r.random(2)))

    def f(a: Any, b: Any) -> Any:
        arrays = [a, b, np.zeros(np.shape(a), "f") + ROW]
        for write, which, first, second in steps:
            x, y = (arrays[int(len(arrays) * share)] for share in (first, second))
            if write:
                WRITES[which](x, y)
            else:
                arrays.append(PURE[which](x, y))
        return np.tanh(arrays[-1]) + 0.01 * a

    return f


def outcome(number: int, *, compile: bool) -> list[Any] | str:
    """Parameters, losses and predictions; the kind of error where there is one."""
    f, value = (
        program(number, writes=number % 3 > 0),
        program(number + 10_000, writes=number % 2 > 0),
    )
    net = MLP(
        [3, 3, 3],
        Activation(lambda z, xp: f(z, z * 0.5), lambda z, a, xp: np.tanh(a) + 0.1 * z),
        Loss(lambda o, y, xp: abs(value(o, y)), lambda o, y, xp: 0.1 * f(o, y), "own", "identity"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = portable_bp.fit(
                net, X, Y, epochs=2, batch_size=6, seed=number, backend="numpy", compile=compile,
                learning_rate=1e-3, optimizer="sgd",
            )  # fmt: skip
            models = [model] * 4 if compile else [model.to("numpy") for _ in range(4)]
            answers = [m.predict(X[i : i + 6]) for m, i in zip(models, (0, 6, 12, 3), strict=True)]
        except Exception as error:
            return type(error).__name__
    return [*leaves(model.params), np.asarray(model.history["loss"]), *answers]


def check(number: int) -> None:
    compiled, eager = (outcome(number, compile=c) for c in (True, False))
    if isinstance(eager, str) or isinstance(compiled, str):
        assert compiled == eager
        return
    for got, want in zip(compiled, eager, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)  # sums in another order


def check_all(numbers: range) -> None:
    failed = {}
    for number in numbers:
        try:
            check(number)
        except AssertionError as error:
            failed[number] = str(error)[:300]
    assert not failed, "\n".join(f"{k}: {v}" for k, v in failed.items())


def test_random_functions() -> None:
    check_all(range(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, CHUNK))
def test_many_random_functions(first: int) -> None:
    check_all(range(first, first + CHUNK))
