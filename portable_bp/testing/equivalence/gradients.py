"""Activations, losses and shapes: is every number of one pass forth and back the oracle's?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from portable_bp._typing import HostArray, Namespace, Tree
from portable_bp.backend import Backend
from portable_bp.backend.registry import get_backend
from portable_bp.equations import (
    activations,
    losses,
)
from portable_bp.mlp import MLP
from portable_bp.testing import tolerances
from portable_bp.testing.compare import compare
from portable_bp.testing.equivalence.evaluation import network_rows
from portable_bp.testing.problems import make_problem
from portable_bp.testing.report import Row

SIZES = (4, 4, 4, 4)
"""Layers of one size: what a compiler makes of one shape serves all of them."""


def activation_net(name: str) -> MLP:
    # tanh after it keeps the signals of an unbounded activation (exp of exp) from running away.
    return MLP(SIZES, (name, "tanh"), "squared_error", l1=1e-3, l2=1e-2)


def loss_net(name: str) -> MLP:
    return MLP(SIZES, "tanh", name)


def _spread(dtype: str) -> HostArray:
    """Net inputs of every size, from deep saturation to next to nothing; exact in ``dtype``."""
    grid = np.concatenate([np.linspace(-20, 20, 321), [1e-6, -1e-6, 1e-20, -1e-20, 88.0, -88.0]])
    return grid.astype(dtype).reshape(-1, 3)


def activation_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Every activation and its derivative, entry by entry."""
    z = _spread(dtype)
    g = np.cos(np.arange(z.size)).reshape(z.shape).astype(dtype)
    names = sorted(activations.ACTIVATIONS)

    def all_of_them(xp: Namespace, z: Any, g: Any) -> Tree:
        pairs = []
        for name in names:
            act = activations.get(name)
            a = act.f(z, xp)
            pairs.append((a, act.vjp(g, z, a, xp)))
        return tuple(pairs)

    z64, g64 = z.astype(np.float64), g.astype(np.float64)
    wanted = all_of_them(get_backend("numpy").xp, z64, g64)
    with backend.scope():
        compiled = mode == "compiled"
        call = (
            backend.compile_function(all_of_them) if compiled else partial(all_of_them, backend.xp)
        )
        results = call(backend.asarray(z), backend.asarray(g))
    for name, got, want in zip(names, results, wanted, strict=True):
        steep = 0.8 * (1 + 0.134 * z64 * z64) if name == "gelu_tanh" else 1.0
        lift = 1 + np.abs(z64) * steep
        scale = tuple(lift * np.maximum(1, np.abs(w)) for w in want)
        yield compare(
            "activation and derivative", name, backend, got, want, tolerances.ELEMENTWISE,
            dtype=dtype, mode=mode, scale=scale,
        )  # fmt: skip


def gradient_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Every activation and every loss inside a network, with penalties and weights."""
    yield from network_rows(
        backend,
        {
            name: make_problem(activation_net(name), 9, dtype, weighted=True)
            for name in sorted(activations.ACTIVATIONS)
        },
        mode,
    )
    yield from network_rows(
        backend,
        {name: make_problem(loss_net(name), 9, dtype) for name in sorted(losses.LOSSES)},
        mode,
    )


SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((3, 2), 1),
    ((1, 1, 1), 2),
    ((5, 7, 6, 3), 9),
    ((64, 256, 10), 128),
    ((4, *[8] * 8, 3), 7),
)


def shape_rows(backend: Backend, dtype: str, mode: str) -> Iterator[Row]:
    """Networks without a hidden layer, deep, wide, of one unit; one row and many."""
    yield from network_rows(
        backend,
        {
            f"{'-'.join(map(str, sizes))}, {n} row(s)": make_problem(MLP(sizes, "tanh"), n, dtype)
            for sizes, n in SHAPES
        },
        mode,
    )
