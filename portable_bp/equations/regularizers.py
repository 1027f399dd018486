"""Penalties on the weights beside their gradients, and dropout."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from portable_bp._typing import Array, Namespace, Params
from portable_bp.equations._axes import OF_MATRIX, per_network
from portable_bp.equations._elementwise import elementwise
from portable_bp.equations.random import Seed, words

Coefficient = float | Array
"""Of a penalty: a constant, a 0-d array where it changes from step to step, or one for each network
in an array of shape (m,)."""


def _applies(c: Coefficient) -> bool:
    return not isinstance(c, int | float) or c != 0


def applies(l1: Coefficient, l2: Coefficient) -> bool:
    """Whether there is a penalty at all."""
    return _applies(l1) or _applies(l2)


def penalised(
    loss: Array, params: Params, l1: Coefficient, l2: Coefficient, *, xp: Namespace
) -> Array:
    """``E + l1 sum |W| + l2/2 sum W^2`` over the weights of all layers; biases are not penalised."""
    for W, _ in params:
        if _applies(l1):
            loss = loss + l1 * xp.sum(xp.abs(W), axis=OF_MATRIX, dtype=W.dtype)
        if _applies(l2):
            loss = loss + (0.5 * l2) * xp.sum(W * W, axis=OF_MATRIX, dtype=W.dtype)
    return loss


@elementwise
def _add_l1(dW: Array, W: Array, l1: Coefficient, xp: Namespace) -> Array:
    return dW + l1 * xp.sign(W)


@elementwise
def _add_l2(dW: Array, W: Array, l2: Coefficient, xp: Namespace) -> Array:
    return dW + l2 * W


def penalised_gradient(
    dW: Array, W: Array, l1: Coefficient, l2: Coefficient, *, xp: Namespace
) -> Array:
    """``dE/dW + l1 sign(W) + l2 W``, with sign(0) = 0."""
    if _applies(l1):
        dW = _add_l1(dW, W, per_network(l1, W, xp=xp), xp)
    if _applies(l2):
        dW = _add_l2(dW, W, per_network(l2, W, xp=xp), xp)
    return dW


class Rates(NamedTuple):
    """A dropout rate for each of m networks, as the host has worked it out: see :func:`rate_of`."""

    threshold: Array
    """``rate 2^24``, rounded, in a dtype that holds random words; shape (m,)."""
    scale: Array
    """``1 / (1 - rate)``, shape (m,)."""


Rate = float | Rates


def rate_of(rate: float) -> tuple[int, float]:
    """From which of 2^24 words on a unit is kept, and what it is multiplied by then."""
    # A 24-bit comparison: exact on every backend, and small enough for any integer dtype.
    return round(rate * 2**24), 1 / (1 - rate)


def dropout_mask(
    shape: tuple[int, ...],
    dtype: Any,
    rate: Rate,
    index: Array,
    *,
    seed: Seed,
    layer: int,
    step: Array,
    part: int = 0,
    xp: Namespace,
) -> Array:
    """Inverted dropout: each entry is 0 with probability ``rate``, else ``1 / (1 - rate)``.

    The expectation of ``m * a`` is ``a``, so nothing is rescaled at prediction (Srivastava et al.,
    JMLR 15, 2014). The random words are a function of (seed, layer, step, part, position) alone: the
    same mask on every backend, made where the data are.

    Parameters
    ----------
    shape, dtype : of the mask, (..., n, o)
    rate : in [0, 1)
    index : the integers 0, 1, 2, ..., a quarter as many as the mask has entries, or more
    seed, layer : Python integers; the seeds of m networks as two arrays of words
    step : array of shape () or (m,) of the dtype of ``index``, the number of this step
    part : the number of this part of the batch
    """
    w = words(math.prod(shape[-2:]), index, seed=seed, layer=layer, step=step, part=part, xp=xp)
    lead = (*(1,) * (len(shape) - 1 - w.ndim), *w.shape[:-1])  # 1 for networks with equal words
    w = xp.reshape(w >> 8, (*lead, *shape[-2:]))
    threshold, scale = rate if isinstance(rate, Rates) else rate_of(rate)
    keep = w >= per_network(threshold, w, xp=xp)
    mask: Array = xp.astype(keep, dtype) * per_network(scale, w, xp=xp)
    return mask
