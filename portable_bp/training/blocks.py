"""The forward pass over blocks of rows: to predict, and to judge held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray, Namespace, Params
from portable_bp.backend import Backend
from portable_bp.backend.cache import cached_plan
from portable_bp.equations import losses, network
from portable_bp.equations.activations import Activation
from portable_bp.equations.network import Equations
from portable_bp.inputs.transfer import dtype_name, to_backend
from portable_bp.processes import ALONE, Processes

BLOCK_BYTES = 64 * 2**20
"""About how much memory all the layers of a block take."""

LastLayer = Callable[[Params, Array], tuple[Array, Array]]


def block_rows(params: Params) -> int:
    """Rows of a block, so that all its layers take some tens of MiB."""
    widths = params[0][0].shape[0] + sum(W.shape[1] for W, _ in params)
    return max(1, BLOCK_BYTES // (int(dtype_name(params[0][0])[-2:]) // 8 * widths))


def last_layer(backend: Backend, layers: Sequence[Activation]) -> LastLayer:
    """``(params, x) -> (z^L, a^L)`` for a network with these activations, compiled where that pays."""

    def z_and_a(xp: Namespace, params: Params, x: Array) -> tuple[Array, Array]:
        cache = network.forward(params, x, layers, xp=xp)
        return cache.z[-1], cache.outputs[-1]

    key = (last_layer, *layers)
    return cached_plan(backend, key, lambda: backend.compile_function(z_and_a))


def forward(
    backend: Backend,
    layers: Sequence[Activation],
    params: Params,
    X: Any,
    check: Callable[[HostArray, int], None] | None = None,
) -> Iterator[tuple[Array, Array]]:
    """``(z^L, a^L)`` on ``backend`` for blocks of the rows of X, from anywhere, sparse or dense.

    ``check(block, first row)``: looks at the values of a block before it is used.
    """
    run, dtype = last_layer(backend, layers), dtype_name(params[0][0])
    rows, n = block_rows(params), X.shape[0]
    for start in range(0, n, rows):
        # A slice past the end is an error in the Array API; a slice of all rows would be a copy.
        block = X if rows >= n else X[start : min(start + rows, n), :]
        if hasattr(block, "toarray"):
            block = block.toarray()
        if check is not None:
            check(block, start)
        with backend.scope():
            placed = to_backend(backend, block, dtype, "X")
            results = run(params, placed)
            del block, placed  # neither is held while the next block is read
            yield results


def join(backend: Backend, blocks: Sequence[Array]) -> Array:
    """Blocks of results one under the other, on ``backend``."""
    if len(blocks) == 1:
        return blocks[0]
    with backend.scope():
        joined: Array = backend.xp.concat(blocks)
        return joined


def losses_and_outputs(
    backend: Backend,
    equations: Equations,
    params: Params,
    X: Any,
    t: HostArray,
    processes: Processes = ALONE,
) -> tuple[HostArray, HostArray]:
    """The loss of each row (its data term), shape (n,), and its outputs, shape (n, k), on the host.

    ``t``: targets on the host, (n, k) numbers or (n,) class labels. The rows are dealt out to the
    ``processes``, each exactly once, and all of these get what was found for all rows.
    """
    if processes.size > 1:
        n = X.shape[0]
        start, stop = (n * r // processes.size for r in (processes.rank, processes.rank + 1))
        found = None
        if start < stop:
            own = X[start:stop, ...] if not hasattr(X, "toarray") else X[start:stop]
            found = losses_and_outputs(backend, equations, params, own, t[start:stop])
        parts = [part for part in processes.gather(found) if part is not None]
        all_losses, all_outputs = zip(*parts, strict=True)
        return np.concatenate(all_losses), np.concatenate(all_outputs)
    xp, output = backend.xp, equations.activations[-1]
    by_row, outputs, row = [], [], 0
    for z, o in forward(backend, equations.activations, params, X):
        block = t[row : row + o.shape[0]]
        row += o.shape[0]
        if block.ndim == 1:
            block = block[:, None] == np.arange(o.shape[1])
        with backend.scope():
            y = backend.asarray(np.asarray(block, dtype_name(o)))
            l = losses.elementwise_loss(equations.loss, output, z, o, y, xp)
            l = xp.sum(l, axis=1, dtype=l.dtype)
            by_row.append(backend.to_numpy(l).astype(np.float64))
            outputs.append(backend.to_numpy(o))
    return np.concatenate(by_row), np.concatenate(outputs)


def mean_loss(by_row: HostArray, weights: HostArray | None) -> float:
    """The mean of the losses of rows, by their weights; NaN where all rows weigh nothing."""
    if weights is None:
        return float(np.sum(by_row)) / len(by_row)
    total = float(np.sum(weights))
    if not total:
        return float("nan")
    # A row of weight 0 is not there, whatever its loss.
    return float(np.sum(np.where(weights > 0, by_row, 0.0) * weights)) / total
