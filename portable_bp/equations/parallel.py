"""Data parallelism: a batch is cut into parts, which any number of processes share.

With E_r the mean loss of part r, penalties included, and c_r the part's share of the weights of the
batch (of its rows where there are no weights), sum over r of c_r = 1::

    E = sum_r c_r E_r          dE/d(params) = sum_r c_r dE_r/d(params)

exactly: what the processes do together is what one of them would do alone. All of it is one flat
vector, so that a step needs one message; its last entry is left to the processes, for a vote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from portable_bp._typing import Array, Namespace, Params


def flatten(loss: Array | tuple[()], grads: Params, share: Array, *, xp: Namespace) -> Array:
    """What one part adds to the sum: ``c_r [gradients, loss, 0]``.

    Parameters
    ----------
    loss : array of shape (), or ()
        E_r; ``()`` is left out.
    grads : pairs (dW, db)
        Of the part.
    share : array of shape ()
        c_r.
    xp : namespace
        The Array API namespace of all of them.

    Returns
    -------
    array of shape (m,)
        With an entry for each parameter, and one or two more.
    """
    numbers = [xp.reshape(g, (-1,)) for pair in grads for g in pair]
    if not isinstance(loss, tuple):
        numbers.append(xp.reshape(loss, (1,)))
    numbers.append(xp.reshape(share * 0, (1,)))
    flat: Array = xp.concat(numbers) * share
    return flat


def add_pairwise(parts: Sequence[Array]) -> Array:
    """The sum along a binary tree, neighbours first: 2^k processes can divide it between them.

    Parameters
    ----------
    parts : sequence of arrays
        One or more, of one shape.

    Returns
    -------
    array
        Of that shape.
    """
    while len(parts) > 1:
        odd = parts[len(parts) // 2 * 2 :]
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + [*odd]
    return parts[0]


def unflatten(
    flat: Array, params: Params, *, report: bool, xp: Namespace
) -> tuple[Array | tuple[()], Params]:
    """Loss and gradients again, from the sum of what :func:`flatten` gives.

    Parameters
    ----------
    flat : array of shape (m,)
        The sum over all parts.
    params : pairs (W, b)
        Whose shapes the gradients have.
    report : bool
        Whether the loss is in it.
    xp : namespace
        The Array API namespace of all of them.

    Returns
    -------
    loss : array of shape ()
        E, or ``()``.
    grads : pairs (dW, db)
        Shaped like ``params``.
    """
    start, grads = 0, []
    for pair in params:
        shaped = []
        for p in pair:
            size = math.prod(p.shape)
            shaped.append(xp.reshape(flat[start : start + size], p.shape))
            start += size
        grads.append((shaped[0], shaped[1]))
    return (flat[start, ...] if report else ()), tuple(grads)


def sum_over_processes(
    parts: Sequence[Array], params: Params, *, ordered: bool, report: bool, xp: Namespace
) -> tuple[Array | tuple[()], Params]:
    """E and its gradients, from what :func:`flatten` gives for the parts of this process.

    Parameters
    ----------
    parts : sequence of arrays of shape (m,)
        Of this process.
    params : pairs (W, b)
        Whose shapes the gradients have.
    ordered : bool
        Whether the processes add along a binary tree, too.
    report : bool
        Whether the loss is in it.
    xp : namespace
        An adapter's: beside the Array API it has ``sum_over_processes``.

    Returns
    -------
    loss : array of shape ()
        E, or ``()``.
    grads : pairs (dW, db)
        Shaped like ``params``.
    """
    flat = xp.sum_over_processes(add_pairwise(parts), ordered=ordered)
    return unflatten(flat, params, report=report, xp=xp)
