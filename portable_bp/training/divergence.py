"""Why a training run is no longer finite: the first layer that overflowed, and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from portable_bp._typing import Array, Params, Tree
from portable_bp.backend import Backend, leaves
from portable_bp.equations import network
from portable_bp.mlp import MLP

LARGE = 100.0
"""Inputs or targets beyond this are called large: standardised data stay below 10."""


def all_finite(backend: Backend, tree: Tree) -> bool:
    """Whether every entry of every array is finite; one read of the device."""
    xp = backend.xp
    flags = [xp.all(xp.isfinite(array)) for array in leaves(tree)]
    return not flags or bool(backend.to_numpy(xp.all(xp.stack(flags))))


def first_overflow(net: MLP, backend: Backend, before: Params, after: Params, x: Array) -> str:
    """Where the step from ``before`` to ``after`` on the rows ``x`` overflowed first, in words."""
    layer = overflowing_layer(net, backend, before, x)
    if layer is not None:
        return f"the outputs of layer {layer} overflowed first"
    # Deltas travel from the last layer to the first.
    for l in range(len(after), 0, -1):
        if not all_finite(backend, after[l - 1]):
            return f"the forward pass was finite; the update of layer {l} overflowed first"
    return (
        f"the outputs and the update of all {len(after)} layer(s) were finite; the loss overflowed"
    )


def overflowing_layer(net: MLP, backend: Backend, params: Params, x: Array) -> int | None:
    """The first layer (from 1) whose outputs on ``x`` are not finite; None if all are."""
    cache = network.forward(params, x, net.activations, xp=backend.xp)
    for l, (z, a) in enumerate(zip(cache.z, cache.outputs, strict=True), start=1):
        if not all_finite(backend, (z, a)):
            return l
    return None


def hint(
    net: MLP, backend: Backend, x: Array, y: Array, rate: float, *, clipped: bool, untrained: bool
) -> str:
    """What to do about it, by what looks unusual.

    Parameters
    ----------
    x, y : the rows of the step
    rate : its learning rate
    clipped : the norm of the gradient was bounded
    untrained : it was the forward pass of the start parameters that was not finite
    """
    slower = f"lower learning_rate (now {rate:g})" + ("" if clipped else ", or set clip_norm=1")
    given = {"inputs": x} | ({"targets": y} if net.loss.target == "real" else {})
    for name, array in given.items():
        largest = float(np.abs(backend.to_numpy(array).astype(np.float64)).max())
        if largest > LARGE:
            return (
                f"The {name} reach {largest:.3g}: scale them to mean 0 and deviation 1, or {slower}"
            )
    if untrained:
        return "Nothing was learnt yet: look at the start parameters, the activations and the loss"
    return slower[0].upper() + slower[1:]


def batch_of(backend: Backend, piece: Any) -> tuple[Array, Array]:
    """``(x, y)`` of the first step of a piece."""
    x, y = piece.arrays[:2]
    if piece.order is None:
        return x, y
    index = backend.asarray(piece.order[0], backend.index_dtype)
    return backend.xp.take(x, index, axis=0), backend.xp.take(y, index, axis=0)
