"""Small problems to compare backends on: a network, its parameters and data, the same every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray, Params, Tree
from portable_bp.backend import Backend, map_leaves
from portable_bp.equations.initializers import Scale
from portable_bp.inputs import examples
from portable_bp.mlp import MLP

_X, _Y, _WEIGHTS, _BIAS = range(201, 205)  # streams of random words, apart from those of training


@dataclass(frozen=True)
class Problem:
    """A network with parameters, inputs, targets and perhaps weights on the host, in ``dtype``."""

    net: MLP
    dtype: str
    params: Tree
    x: HostArray
    y: HostArray
    weights: HostArray | None

    def on(self, backend: Backend, dtype: str | None = None) -> tuple[Params, Any, Any, Any]:
        """``(params, x, y, weights)`` on a backend; y is (n, k), labels as one-hot rows."""
        name = dtype or self.dtype
        with backend.scope():
            params, x = map_leaves(lambda p: backend.asarray(p, name), (self.params, self.x))
            y = examples.place_targets(self.net.spec, backend, self.y, name)
            weights = None if self.weights is None else backend.asarray(self.weights, name)
            return params, x, y, weights


def normal(shape: tuple[int, ...], stream: int, seed: int) -> HostArray:
    """Standard normal numbers in float64."""
    return rng.draw(Scale("normal", 1.0), shape, seed, stream)


def targets(net: MLP, n: int, seed: int) -> HostArray:
    """Targets that the network's loss is defined for."""
    k, kind = net.sizes[-1], net.loss.target
    if kind == "real":
        return normal((n, k), _Y, seed)
    uniform = rng.uniform(rng.raw_words(n * k, seed, _Y)).reshape(n, k)
    if kind == "class":
        labels: HostArray = np.argmax(uniform, axis=1)
        return labels
    return np.floor(5 * uniform) if kind == "count" else uniform


def make_problem(net: MLP, n: int, dtype: str, *, weighted: bool = False, seed: int = 0) -> Problem:
    """``n`` rows for ``net``; parameters of its initialiser, with biases that are not zero."""

    def rounded(values: HostArray) -> HostArray:
        return values.astype(dtype)

    params = tuple(
        (
            rounded(np.asarray(W)),
            rounded(0.1 * normal(b.shape, _BIAS + l, seed)),
        )
        for l, (W, b) in enumerate(net.init(seed, "numpy", "float64"))
    )
    y = targets(net, n, seed)
    weights = rng.uniform(rng.raw_words(n, seed, _WEIGHTS)) + 0.1 if weighted else None
    return Problem(
        net,
        dtype,
        params,
        rounded(normal((n, net.sizes[0]), _X, seed)),
        y if y.dtype.kind == "i" else rounded(y),
        None if weights is None else rounded(weights),
    )


def on_host(backend: Backend, tree: Tree) -> Tree:
    """The tree with NumPy copies in float64."""
    with backend.scope():
        return map_leaves(lambda a: backend.to_numpy(a).astype(np.float64), tree)
