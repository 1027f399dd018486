"""The losses of the estimators: scikit-learn's own numbers, and several quantiles at once."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

from portable_bp._typing import Array, Namespace
from portable_bp.equations import losses
from portable_bp.equations.losses import Loss, Term


@cache
def capped(loss: Loss) -> Loss:
    """``min(l, -ln eps)``: the terms of a cross-entropy as scikit-learn reports them.

    scikit-learn keeps probabilities at least ``eps``, the spacing of floats at 1, out of the
    logarithm, so no label costs more than ``-ln eps`` (36 in float64, 16 in float32). The gradient
    stays ``o - y``. For targets 0 and 1.
    """
    exact = loss.from_logits
    assert exact is not None

    def from_logits(z: Array, y: Array, xp: Namespace) -> Array:
        info: Any = xp.finfo(z.dtype)
        l = exact(z, y, xp)
        return xp.minimum(l, xp.full_like(l, -math.log(float(info.eps))))

    return replace(loss, from_logits=from_logits)


@cache
def quantiles(levels: tuple[float, ...]) -> Loss:
    """The pinball loss of one quantile level per output, in turn for each target.

    Output ``j`` learns the quantile ``levels[j mod q]`` of target ``j // q``, with q levels.

    >>> import numpy as np
    >>> loss = quantiles((0.1, 0.9))
    >>> loss.value(np.array([[1.0, 1.0]]), np.array([[2.0, 2.0]]), np)
    array([[0.1, 0.9]])
    """
    parts = [losses.quantile(q) for q in levels]

    def columns(term: str) -> Term:
        def of(o: Array, y: Array, xp: Namespace) -> Array:
            terms = [
                getattr(parts[j % len(parts)], term)(o[..., j : j + 1], y[..., j : j + 1], xp)
                for j in range(o.shape[-1])
            ]
            return xp.concat(terms, axis=-1)

        return of

    if len(parts) == 1:
        return parts[0]
    return Loss(columns("value"), columns("gradient"), "quantile")
