"""Backpropagation: the forward pass, the delta rule and the gradients, for any number of layers.

Layers are numbered 1 .. L; ``a^0 = x``, ``W^l`` has shape (i, o) and ``delta^l = dE/dz^l`` shape
(n, o). Whatever leads these axes counts networks: (m, n, i) and (m, i, o) are m of them::

    z^l = a^{l-1} W^l + b^l          a^l = f^l(z^l)                                (forward pass)
    delta^L = s * dl/do * f'(z^L)                                                  (output delta)
    delta^l = (delta^{l+1} W^{l+1}^T) * f'(z^l)                                    (delta rule)
    dE/dW^l = a^{l-1}^T delta^l      dE/db^l = sum over examples of delta^l        (gradients)

with ``s`` the share of each example in the mean, 1/n without weights. With dropout, the input of a
layer is ``m * a`` for a mask ``m``, and ``m`` multiplies on the way back where it did on the way
forth. Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", Nature
323 (1986); the notation follows Nielsen, "Neural Networks and Deep Learning", chapter 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from portable_bp._typing import Array, Namespace, Params
from portable_bp.equations import losses, regularizers
from portable_bp.equations._elementwise import each_tensor, replaceable
from portable_bp.equations.activations import Activation
from portable_bp.equations.affine import affine, affine_inputs, all_affine_gradients
from portable_bp.equations.losses import Loss
from portable_bp.equations.regularizers import Coefficient

Masks = Sequence[Array | None]


@dataclass(frozen=True)
class Equations:
    """What a network computes: one activation per layer, the loss, the penalties."""

    activations: tuple[Activation, ...]
    loss: Loss
    l1: Coefficient = 0.0
    l2: Coefficient = 0.0


class Cache(NamedTuple):
    """What the forward pass leaves for the backward pass: one entry per layer."""

    inputs: tuple[Array, ...]
    """``a^{l-1}``, what the layer multiplied: dropped out where there was a mask."""
    z: tuple[Array, ...]
    outputs: tuple[Array, ...]
    """``f^l(z^l)``, before any mask."""


@replaceable
def layer(
    a: Array, W: Array, b: Array, activation: Activation, *, xp: Namespace
) -> tuple[Array, Array]:
    """``z = a W + b`` and ``f(z)``."""
    z = affine(a, W, b, xp=xp)
    return z, activation.f(z, xp)


def forward(
    params: Params,
    x: Array,
    activations: Sequence[Activation],
    *,
    xp: Namespace,
    masks: Masks = (),
) -> Cache:
    """The forward pass; ``masks[l]`` multiplies the input of layer l + 1 (None: no dropout)."""
    inputs, zs, outputs = [], [], []
    a = x
    for l, ((W, b), activation) in enumerate(zip(params, activations, strict=True)):
        mask = masks[l] if masks else None
        if mask is not None:
            a = a * mask
        inputs.append(a)
        z, a = layer(a, W, b, activation, xp=xp)
        zs.append(z)
        outputs.append(a)
    return Cache(tuple(inputs), tuple(zs), tuple(outputs))


def example_weights(x: Array, weights: Array | None, *, xp: Namespace) -> Array | float:
    """``s``: the share of each example in the mean, 1/n or ``w_i / sum w`` of shape (..., n, 1).

    Examples of a batch whose weights are all zero have no share: they move nothing.
    """
    if weights is None:
        return 1 / x.shape[-2]
    total = xp.sum(weights, axis=-1, keepdims=True, dtype=weights.dtype)
    share: Array = weights / xp.where(total > 0, total, xp.ones_like(total))
    return xp.expand_dims(share, axis=-1)


def mean_loss(
    eq: Equations, params: Params, cache: Cache, y: Array, share: Array | float, *, xp: Namespace
) -> Array:
    """E: terms summed over outputs, averaged over examples, plus the penalties: one number."""
    z, o = cache.z[-1], cache.outputs[-1]
    data = losses.shared_loss(eq.loss, eq.activations[-1], z, o, y, share, xp=xp)
    return regularizers.penalised(data, params, eq.l1, eq.l2, xp=xp)


def deltas(
    eq: Equations,
    params: Params,
    cache: Cache,
    y: Array,
    share: Array | float,
    *,
    xp: Namespace,
    masks: Masks = (),
) -> tuple[Array, ...]:
    """``delta^l`` of every layer by the delta rule; nothing is computed for the input layer."""
    z, a = cache.z, cache.outputs
    delta = losses.shared_delta(eq.loss, eq.activations[-1], z[-1], a[-1], y, share, xp)
    backwards = [delta]
    for l in range(len(params) - 2, -1, -1):
        W = params[l + 1][0]
        g = affine_inputs(delta, W, xp=xp)
        mask = masks[l + 1] if masks else None
        if mask is not None:
            g = g * mask
        delta = eq.activations[l].vjp(g, z[l], a[l], xp)
        backwards.append(delta)
    return tuple(reversed(backwards))


def gradients(
    eq: Equations, params: Params, cache: Cache, delta: Sequence[Array], *, xp: Namespace
) -> Params:
    """``(dE/dW^l, dE/db^l)`` for every layer, penalties included."""
    grads = all_affine_gradients(cache.inputs, delta, xp=xp)
    dWs, dbs = zip(*grads, strict=True)
    if regularizers.applies(eq.l1, eq.l2):
        add = partial(_penalised, l1=eq.l1, l2=eq.l2, xp=xp)
        (dWs,) = zip(*each_tensor(add, dWs, [W for W, _ in params], xp=xp), strict=True)
    return tuple(zip(dWs, dbs, strict=True))


def _penalised(
    dW: Array, W: Array, *, l1: Coefficient, l2: Coefficient, xp: Namespace
) -> tuple[Array]:
    return (regularizers.penalised_gradient(dW, W, l1, l2, xp=xp),)


def input_gradient(
    params: Params, delta: Sequence[Array], *, xp: Namespace, masks: Masks = ()
) -> Array:
    """``dE/dx = delta^1 W^1^T``, shape (..., n, i): asked for apart, training has no use for it."""
    g = affine_inputs(delta[0], params[0][0], xp=xp)
    mask = masks[0] if masks else None
    return g if mask is None else g * mask


def loss_and_gradients(
    eq: Equations,
    params: Params,
    x: Array,
    y: Array,
    *,
    xp: Namespace,
    weights: Array | None = None,
    masks: Masks = (),
    report: bool = True,
) -> tuple[Array | tuple[()], Params]:
    """E and ``dE/d(params)``: one pass forth and one back.

    Parameters
    ----------
    eq : Equations
        What the network computes.
    params : pairs (W, b)
        One for each of the L layers.
    x : array of shape (..., n, i)
        The examples.
    y : array of shape (..., n, k)
        The targets; class labels as one-hot rows.
    xp : namespace
        The Array API namespace of all of them.
    weights : array of shape (..., n), optional
        Not negative.
    masks : sequence of arrays or None, optional
        Dropout masks, one per layer's input; None where there is none.
    report : bool
        With False the value of E is not computed and ``()`` stands in its place.

    Returns
    -------
    loss : array of shape (...)
        E of each network, 0-d for one; or ``()``.
    grads : pairs (dW, db)
        Shaped like ``params``.
    """
    share = example_weights(x, weights, xp=xp)
    cache = forward(params, x, eq.activations, xp=xp, masks=masks)
    delta = deltas(eq, params, cache, y, share, xp=xp, masks=masks)
    loss = mean_loss(eq, params, cache, y, share, xp=xp) if report else ()
    return loss, gradients(eq, params, cache, delta, xp=xp)
