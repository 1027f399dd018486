"""The affine map of a layer beside its adjoints."""

from __future__ import annotations

from collections.abc import Sequence

from portable_bp._typing import Array, Namespace
from portable_bp.equations._axes import over_examples
from portable_bp.equations._elementwise import replaceable


def affine(a: Array, W: Array, b: Array, *, xp: Namespace) -> Array:
    """``z = a W + b``.

    Parameters
    ----------
    a : (..., n, i), the outputs of the layer before
    W : (..., i, o), the weights
    b : (..., o), the biases: each the weight ``w0`` of a constant input ``x0 = 1``

    Returns
    -------
    z : (..., n, o)
    """
    z: Array = xp.matmul(a, W)
    return z + over_examples(b, xp=xp)


def affine_inputs(delta: Array, W: Array, *, xp: Namespace) -> Array:
    """``dE/da = delta W^T``, shape (..., n, i), for ``delta = dE/dz`` of (..., n, o)."""
    return xp.matmul(delta, xp.matrix_transpose(W))


def affine_gradients(a: Array, delta: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """``dE/dW = a^T delta`` of shape (..., i, o), ``dE/db = sum over n of delta`` of (..., o)."""
    return xp.matmul(xp.matrix_transpose(a), delta), xp.sum(delta, axis=-2, dtype=delta.dtype)


@replaceable
def all_affine_gradients(
    a: Sequence[Array], delta: Sequence[Array], *, xp: Namespace
) -> list[tuple[Array, Array]]:
    """:func:`affine_gradients` of every layer."""
    return [affine_gradients(*layer, xp=xp) for layer in zip(a, delta, strict=True)]
