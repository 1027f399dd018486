"""Predictions: the forward pass over blocks of rows, compiled once for each network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from portable_bp._typing import Array, HostArray, Namespace, Params
from portable_bp.backend import Backend
from portable_bp.equations import activations, network
from portable_bp.equations.activations import Activation
from portable_bp.estimators._remembered import remembered
from portable_bp.inputs.transfer import to_backend
from portable_bp.training.model import BLOCK_BYTES, LastLayer


@remembered
def last_layer(backend: Backend, layers: tuple[str | Activation, ...]) -> LastLayer:
    """``(params, x) -> (z^L, a^L)`` for a network with these activations, by name or as objects."""
    functions = [activations.get(a) for a in layers]

    def z_and_a(xp: Namespace, params: Params, x: Array) -> tuple[Array, Array]:
        cache = network.forward(params, x, functions, xp=xp)
        return cache.z[-1], cache.outputs[-1]

    return backend.compile_function(z_and_a)


def block_rows(params: Params, name: str) -> int:
    """Rows at a time, so that all the layers of a block take some tens of MiB."""
    widths = params[0][0].shape[0] + sum(W.shape[1] for W, _ in params)
    return max(1, BLOCK_BYTES // (int(name[-2:]) // 8 * widths))


def forward(
    backend: Backend, layers: Sequence[str | Activation], params: Params, X: Any, name: str
) -> Iterator[tuple[Array, Array]]:
    """``(z^L, a^L)`` on ``backend`` for blocks of the rows of X, from anywhere, sparse or dense."""
    run = last_layer(backend, tuple(layers))
    rows = block_rows(params, name)
    for start in range(0, X.shape[0], rows):
        block = X if rows >= X.shape[0] else X[start : start + rows, :]
        if hasattr(block, "toarray"):
            block = block.toarray()
        with backend.scope():
            yield run(params, to_backend(backend, block, name, "X"))


def join(backend: Backend, blocks: Sequence[Any]) -> Any:
    """Blocks of results one under the other."""
    if len(blocks) == 1:
        return blocks[0]
    with backend.scope():
        return backend.xp.concat(blocks)


def to_host(backend: Backend, blocks: Sequence[Array]) -> HostArray:
    """The same on the host."""
    return backend.to_numpy(join(backend, blocks))
