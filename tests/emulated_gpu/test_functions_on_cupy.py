"""Activations and losses as users write them, on CuPy: a graph has the bits of the eager run, or
the step runs eagerly with a warning that says why."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
import pytest

import portable_bp
from portable_bp.backend import leaves
from portable_bp.equations.activations import Activation
from portable_bp.equations.losses import Loss
from portable_bp_backends.cupy_backend import CupyBackend

GRAPHS = CupyBackend(0, persistent=False)
"""One kernel for all steps has not the bits of the eager run."""
RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3)).astype("float32")
Y = RNG.standard_normal((24, 4)).astype("float32")

Function = Callable[[Any, Any], Any]


def changed_argument(z: Any, xp: Any) -> Any:
    z *= 2
    return z + 1


def changed_copy(z: Any, xp: Any) -> Any:
    a = z.copy()
    cupy.multiply(z, 2, out=a)
    a[:, 0] = 1
    return a + z


def changed_constant(z: Any, xp: Any) -> Any:
    m = xp.zeros_like(z)
    m[:, 0] = 1
    u = z * m
    m[:, 1] = 1
    return u + z * m


def changed_host_constant(z: Any, xp: Any) -> Any:
    m = np.ones(4, "float32")
    u = z * xp.asarray(m)
    m[1] = 3
    return u + z * xp.asarray(m)


def host_constant(z: Any, xp: Any) -> Any:
    return z * cupy.asarray(np.asarray([1, 2, 3, 4], "float32"))


def tuple_and_list(z: Any, xp: Any) -> Any:
    return z + z[(0, 1)] + z[[0, 1]].sum()


def branch(z: Any, xp: Any) -> Any:
    return z * 2 if float(xp.sum(z)) > 0 else z + 1


def by_numpy(z: Any, xp: Any) -> Any:
    return xp.asarray(np.tanh(z.get()))


def counting() -> Function:
    calls = itertools.count(1)
    return lambda z, xp: z * float(next(calls))


def counting_on_the_device() -> Function:
    calls: list[Any] = []

    def f(z: Any, xp: Any) -> Any:
        if not calls:
            calls.append(cupy.zeros((), "float32"))
        calls[0] += 1
        return z * calls[0]

    return f


def remembering() -> Function:
    before: list[Any] = []

    def f(z: Any, xp: Any) -> Any:
        a = z + before[0] if before else z * 1
        before[:] = [z]
        return a

    return f


def collecting() -> Function:
    seen: list[Any] = []

    def f(z: Any, xp: Any) -> Any:
        seen.append(z + 1)
        return z * 2

    return f


SAME: dict[str, Callable[[], Function]] = {
    "its argument": lambda: changed_argument,
    "a copy": lambda: changed_copy,
    "a constant": lambda: changed_constant,
    "tuple and list": lambda: tuple_and_list,
    "a constant of the host": lambda: host_constant,
    "a changed constant of the host": lambda: changed_host_constant,
    "a branch": lambda: branch,
    "numpy": lambda: by_numpy,
}
ASKS_THE_HOST = (
    "tuple and list", "a constant of the host", "a changed constant of the host", "a branch", "numpy",
)  # fmt: skip
"""These cannot be recorded: each step takes something from the host, or asks it."""

WITH_A_STATE: dict[str, Callable[[], Function]] = {
    "a counter": counting,
    "a counter on the device": counting_on_the_device,
}
THAT_KEEPS_ARRAYS: dict[str, Callable[[], Function]] = {
    "the one of the call before": remembering,
    "all of them": collecting,
}


def outcomes(f: Function, loss: Any, batch: int | None, *, compile: bool) -> tuple[list[Any], str]:
    """Parameters, losses, predictions of several rows, call by call; and what was said."""
    net = portable_bp.MLP([3, 4, 4], Activation(f, lambda z, a, xp: xp.ones_like(z)), loss)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = portable_bp.fit(
            net, X, Y, epochs=2, batch_size=batch, shuffle=batch is not None, seed=1,
            backend=GRAPHS, compile=compile, learning_rate=0.01,
        )  # fmt: skip
    answers = [np.asarray(model.predict(X[i : i + 7])) for i in (0, 7, 0)]
    params = [model.backend.to_numpy(p) for p in leaves(model.params)]
    found = [*params, np.asarray(model.history["loss"]), *answers]
    return found, " ".join(str(w.message) for w in said)


def check(f: Function, loss: Any = "squared_error", batch: int | None = 4) -> str:
    found, said = outcomes(f, loss, batch, compile=True)
    want, _ = outcomes(f, loss, batch, compile=False)
    for got, right in zip(found, want, strict=True):
        assert got.tobytes() == right.tobytes(), said
    return said


@pytest.mark.parametrize("name", SAME)
def test_the_bits_of_the_eager_run(name):
    said = check(SAME[name]())
    assert ("transfers are disallowed" in said) == (name in ASKS_THE_HOST)


@pytest.mark.parametrize("name", WITH_A_STATE)
def test_a_function_with_a_state_of_its_own_is_noticed(name):
    _, said = outcomes(WITH_A_STATE[name](), "squared_error", 4, compile=True)
    assert "runs this step eagerly, not from a graph" in said


@pytest.mark.parametrize("name", THAT_KEEPS_ARRAYS)
def test_a_function_that_keeps_arrays_runs_eagerly(name):
    """In a graph their memory would be that of the next step, or somebody else's."""
    f = THAT_KEEPS_ARRAYS[name]()
    net = portable_bp.MLP([3, 4, 4], Activation(f, lambda z, a, xp: xp.ones_like(z)))
    with pytest.warns(RuntimeWarning, match="eagerly, not from a graph: it keeps an array"):
        portable_bp.fit(net, X, Y, epochs=2, batch_size=None, backend=GRAPHS)


def test_a_function_that_meets_an_array_of_the_host_in_a_kernel_s_place_is_told_why():
    """The persistent kernel is written from a call with arrays of the host, which it has kept."""
    net = portable_bp.MLP([3, 4, 4], Activation(remembering(), lambda z, a, xp: xp.ones_like(z)))
    with pytest.raises(TypeError) as told:
        portable_bp.fit(net, X, Y, epochs=2, batch_size=None, backend="cupy:0")
    (note,) = told.value.__notes__
    assert "cannot run from a persistent kernel" in note
    assert "keeps arrays from one call to the next" in note


def doubled(o: Any, y: Any, xp: Any) -> Any:
    o *= 2
    return (o - y) ** 2


def halved_targets(o: Any, y: Any, xp: Any) -> Any:
    y *= 0.5
    return (o - y) ** 2


@pytest.mark.parametrize("value", [doubled, halved_targets])
@pytest.mark.parametrize("batch", [4, None])
def test_a_loss_that_writes_into_its_arguments(value, batch):
    loss = Loss(value, lambda o, y, xp: 2 * (o - y), "own")
    check(lambda z, xp: z + 1, loss, batch)
