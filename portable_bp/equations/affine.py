"""The affine map of a layer beside its adjoints."""

from __future__ import annotations

from portable_bp._typing import Array, Namespace


def affine(a: Array, W: Array, b: Array, *, xp: Namespace) -> Array:
    """``z = a W + b``.

    Parameters
    ----------
    a : (n, i), the outputs of the layer before
    W : (i, o), the weights
    b : (o,), the biases: each the weight ``w0`` of a constant input ``x0 = 1``

    Returns
    -------
    z : (n, o)
    """
    z: Array = xp.matmul(a, W)
    return z + b


def affine_inputs(delta: Array, W: Array, *, xp: Namespace) -> Array:
    """``dE/da = delta W^T``, shape (n, i), for ``delta = dE/dz`` of shape (n, o)."""
    return xp.matmul(delta, xp.matrix_transpose(W))


def affine_gradients(a: Array, delta: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """``dE/dW = a^T delta`` of shape (i, o) and ``dE/db = sum over n of delta`` of shape (o,)."""
    return xp.matmul(xp.matrix_transpose(a), delta), xp.sum(delta, axis=0, dtype=delta.dtype)
