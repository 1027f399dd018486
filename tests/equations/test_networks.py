"""Axes that lead the equations: m networks in one call have the numbers of each alone."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from portable_bp.backend import map_leaves
from portable_bp.backend.registry import get_backend
from portable_bp.equations import activations, losses, network, optimizers, regularizers
from portable_bp.equations.network import Equations
from portable_bp.equations.regularizers import Rates, rate_of

M, N, SIZES = 3, 5, (4, 6, 3)
BACKENDS = ("numpy", "torch", "jax", "strict")
_rng = np.random.default_rng(3)


def _params() -> Any:
    shapes = pairwise(SIZES)
    draw = _rng.normal
    return tuple((draw(size=(M, i, o)), draw(size=(M, o))) for i, o in shapes)


PARAMS, GRADS = _params(), _params()
X = _rng.normal(size=(M, N, SIZES[0]))
TARGETS = {
    "squared_error": _rng.normal(size=(M, N, SIZES[-1])),
    "softmax_cross_entropy": np.eye(SIZES[-1])[_rng.integers(0, 3, (M, N))],
    "huber": _rng.normal(size=(M, N, SIZES[-1])),
}
WEIGHTS = _rng.uniform(size=(M, N))


def _close(backend: Any, found: Any, expected: Any) -> None:
    """To rounding: products of a batch may add up in another order than those of one matrix."""

    def check(a: Any, b: Any) -> None:
        np.testing.assert_allclose(backend.to_numpy(a), b, rtol=2e-5, atol=2e-6)

    map_leaves(check, found, expected)


def _together(backend: Any, alone: Any, *trees: Any) -> tuple[Any, Any]:
    """``alone`` of all networks at once, and of each by itself, stacked."""
    with backend.scope():
        placed = map_leaves(lambda a: backend.asarray(a, "float32"), trees)
        stacked = alone(*placed)
        each = [alone(*map_leaves(lambda a, j=j: a[j, ...], placed)) for j in range(M)]
        host = [map_leaves(backend.to_numpy, one) for one in each]
    return stacked, map_leaves(lambda *same: np.stack(same), *host)


@pytest.mark.parametrize("spec", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", TARGETS)
def test_loss_and_gradients(spec: str, loss: str, weighted: bool) -> None:
    backend, rule = get_backend(spec), losses.get(loss)
    layers = activations.get("tanh"), activations.get(rule.output)

    def alone(params: Any, x: Any, y: Any, w: Any, l1: Any, l2: Any) -> Any:
        eq = Equations(layers, rule, l1, l2)
        weights = w if weighted else None
        return network.loss_and_gradients(eq, params, x, y, xp=backend.xp, weights=weights)

    each = np.array([0.1, 0.0, 2.0]), np.array([0.3, 0.5, 0.0])
    _close(backend, *_together(backend, alone, PARAMS, X, TARGETS[loss], WEIGHTS, *each))


@pytest.mark.parametrize("spec", BACKENDS)
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_optimizers_with_numbers_of_their_own(spec: str, name: str) -> None:
    backend, rule = get_backend(spec), optimizers.get(name)
    slots = tuple(map_leaves(np.abs, GRADS) for _ in range(rule.slots))
    numbers = [np.array([1.0, 0.9, 0.5]) * getattr(rule, f.name) for f in fields(rule)]
    count = len(rule.coefficients(1, 0.1))
    coefficients = tuple(np.array([0.1, 0.02, 0.003]) * (i + 1) for i in range(count))

    def alone(grads: Any, slots: Any, params: Any, c: Any, numbers: Any) -> Any:
        named = dict(zip((f.name for f in fields(rule)), numbers, strict=True))
        own = optimizers.with_numbers(rule, named)
        return optimizers.apply(own, grads, slots, params, c, xp=backend.xp)

    _close(backend, *_together(backend, alone, GRADS, slots, PARAMS, coefficients, tuple(numbers)))


@pytest.mark.parametrize("spec", BACKENDS)
@pytest.mark.parametrize("clip", [optimizers.clip_by_value, optimizers.clip_by_global_norm])
def test_clipping_by_the_norm_of_each(spec: str, clip: Any) -> None:
    backend = get_backend(spec)

    def alone(grads: Any, limit: Any) -> Any:
        return clip(grads, limit, xp=backend.xp)

    _close(backend, *_together(backend, alone, GRADS, np.array([0.1, 2.0, 100.0])))


@pytest.mark.parametrize("spec", BACKENDS)
def test_dropout_by_the_seed_and_the_step_of_each(spec: str) -> None:
    """The words themselves: bit for bit."""
    backend = get_backend(spec)
    seeds, steps, rates = [7, 2**40 + 3, 2**32 - 1], [0, 5, 5], [0.2, 0.5, 0.0]
    with backend.scope():
        index = backend.asarray(np.arange(30), backend.word_dtype)

        def words(values: list[int]) -> Any:
            return backend.asarray(np.array(values), backend.word_dtype)

        def mask(shape: Any, rate: Any, seed: Any, step: Any) -> Any:
            return regularizers.dropout_mask(
                shape, backend.dtype("float32"), rate, index, seed=seed, layer=2, step=step,
                xp=backend.xp,
            )  # fmt: skip

        thresholds, scales = zip(*map(rate_of, rates), strict=True)
        many = Rates(words(list(thresholds)), backend.asarray(np.array(scales), "float32"))
        halves = words([s & 0xFFFFFFFF for s in seeds]), words([s >> 32 for s in seeds])
        found = backend.to_numpy(mask((3, 5, 6), many, halves, words(steps)))
        for j, one in enumerate(zip(rates, seeds, steps, strict=True)):
            alone = mask((5, 6), one[0], one[1], words(one[2:])[0])
            np.testing.assert_array_equal(found[j], backend.to_numpy(alone))
        assert 0 < (found[1] == 0).sum() < 30
