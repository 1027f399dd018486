"""Parameters as users hand them in, their place on a backend, and what outputs decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from portable_bp._typing import Array, HostArray, Params
from portable_bp.backend import Backend, memory
from portable_bp.equations.losses import Loss
from portable_bp.errors import OutOfMemoryError
from portable_bp.inputs import arrays, checks
from portable_bp.inputs.transfer import to_host


class Network(Protocol):
    """What is asked of a network here; an :class:`portable_bp.MLP` is one."""

    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def loss(self) -> Loss: ...
    @property
    def shapes(self) -> list[tuple[tuple[int, int], tuple[int]]]: ...
    @property
    def n_parameters(self) -> int: ...


def as_pairs(params: Any, name: str = "params") -> Params:
    """``params`` as a tuple of pairs; its arrays are left as they are."""
    try:
        pairs = tuple((W, b) for W, b in params)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a pair (W, b) for each layer, got {checks.shown(params)}; get some from "
            "net.init()"
        ) from None
    return pairs


def checked_params(
    net: Network, params: Any, name: str = "params"
) -> tuple[tuple[HostArray, HostArray], ...]:
    """Parameters from a user as private host arrays: of the right shapes, and finite."""
    pairs = tuple(
        tuple(
            np.array(arrays.numbers(f"{letter}[{l}] of {name}", to_host(p)))
            for letter, p in zip("Wb", pair, strict=True)
        )
        for l, pair in enumerate(as_pairs(params, name))
    )
    check_shapes(net, pairs, name)
    for l, (W, b) in enumerate(pairs):
        checks.finite(f"W[{l}] of {name}", W)
        checks.finite(f"b[{l}] of {name}", b)
    return pairs  # type: ignore[return-value]


def check_shapes(net: Network, params: Any, name: str) -> None:
    """Raise unless the arrays have the shapes that the network needs."""
    shapes = [tuple(tuple(p.shape) for p in pair) for pair in params]
    if shapes != net.shapes:
        raise ValueError(
            f"{name} has the shapes {shapes}, but {net!r} needs {net.shapes}; get some from "
            "net.init()"
        )


def place_params(
    params: Sequence[tuple[HostArray, HostArray]], backend: Backend, dtype: str
) -> Params:
    """Parameters from the host as private arrays on ``backend``."""
    with backend.scope():
        return tuple((backend.asarray(W, dtype), backend.asarray(b, dtype)) for W, b in params)


def check_memory(net: Network) -> None:
    """Raise an OutOfMemoryError when this machine could not hold the parameters."""
    needed, there = 8 * net.n_parameters, memory.physical_memory()
    if there is not None and needed > there:
        raise OutOfMemoryError(
            f"sizes {list(net.sizes)} has {net.n_parameters:,} parameters: drawing them needs "
            f"{needed:,} bytes, and this machine has {there:,}; use smaller layers"
        )


def decide(net: Network, backend: Backend, out: Array) -> Array:
    """From outputs (n, k) on ``backend`` to predictions, as ``MLP.predict`` gives them."""
    xp = backend.xp
    if net.loss.target == "class":
        labels: Array = xp.argmax(out, axis=1)
        return labels
    if net.loss.target == "binary":
        out = xp.astype(out > 0.5, backend.dtype(backend.index_dtype))
    return out[:, 0] if net.sizes[-1] == 1 else out
