"""Axes that lead an equation: several networks in one call."""

from __future__ import annotations

from typing import Any

from portable_bp._typing import Array, Namespace

OF_MATRIX = (-2, -1)
"""The axes of one network's matrix: examples or inputs, and units."""


def per_network(number: Any, like: Array, *, xp: Namespace) -> Any:
    """A number that meets ``like``: one for each network is broadcast over its entries.

    Parameters
    ----------
    number : float, or array of shape () or (m,)
    like : array of shape (m, ...)
    """
    if isinstance(number, int | float) or number.ndim == 0:
        return number
    return xp.reshape(number, (*number.shape, *(1,) * (like.ndim - number.ndim)))


def over_examples(bias: Array, *, xp: Namespace) -> Array:
    """``b`` of shape (..., o), as it meets (..., n, o)."""
    return bias if bias.ndim == 1 else xp.expand_dims(bias, axis=-2)
