"""A trained network as one file, and back: on any backend, to the same bits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import resolve
from portable_bp.errors import CheckpointError
from portable_bp.inputs.transfer import dtype_name
from portable_bp.mlp import MLP
from portable_bp.persistence import container
from portable_bp.training.history import History
from portable_bp.training.model import Model

KIND = "model"
"""What the metadata of a file call a network by itself."""

_OTHERS = {
    "checkpoint": "the checkpoint of a run: go on with portable_bp.fit(..., resume=True)",
    KIND: "a network by itself: portable_bp.load reads it",
    "tabular": "a network with the preparation of its table: portable_bp.tabular.load reads it",
}


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """What :meth:`portable_bp.Model.save` does."""
    container.write(path, *pack(model))


def load(path: str | os.PathLike[str], backend: str | Backend | None = None) -> Model:
    """A model that :meth:`portable_bp.Model.save` wrote, wherever it was trained.

    Parameters
    ----------
    path : the file
    backend : str, Backend or None
        Where to put it; see :func:`portable_bp.get_backend`. The parameters have the same bits on
        each.

    Raises
    ------
    CheckpointError
        The file is damaged, is no model, or was written by a newer version.
    OSError
        The file is missing or cannot be read.
    TypeError
        The backend has no numbers of the model's dtype (float64 in JAX without JAX_ENABLE_X64=1).

    Examples
    --------
    >>> import tempfile, portable_bp
    >>> net = portable_bp.MLP([2, 3, 1])
    >>> model = portable_bp.fit(net, [[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0], epochs=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(folder + "/net.safetensors")
    ...     again = portable_bp.load(folder + "/net.safetensors")
    >>> again.net, again.history == model.history
    (MLP([2, 3, 1], hidden=[relu], loss='squared_error', output='identity'), True)
    """
    where = resolve(backend)
    arrays, metadata = container.read(path)
    check_kind(path, metadata, KIND)
    return unpack(path, arrays, metadata, where)


def check_kind(path: str | os.PathLike[str], metadata: Mapping[str, Any], kind: str) -> None:
    """Raise a CheckpointError unless the file is of this kind."""
    found = metadata.get("kind")
    if found != kind:
        known = _OTHERS.get(found) if isinstance(found, str) else None
        raise CheckpointError(f"{os.fspath(path)} is {known or f'no {kind} of portable_bp'}")


def pack(model: Model) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """Arrays and metadata of a file.

    Raises
    ------
    ValueError
        The network has an activation or a loss of the user's own.
    """
    backend, layers = model.backend, enumerate(model.params, start=1)
    metadata = {
        "kind": KIND,
        "network": model.net.describe(),
        "backend": backend.spec,
        "dtype": dtype_name(model.params[0][0]),
        "history": model.history.epochs,
        "stopped": model.stopped,
        "best_epoch": model.best_epoch,
    }
    with backend.scope():
        arrays = {
            f"{letter}{l}": backend.to_numpy(p)
            for l, pair in layers
            for letter, p in zip("Wb", pair, strict=True)
        }
    return arrays, metadata


def unpack(
    path: str | os.PathLike[str],
    arrays: Mapping[str, HostArray],
    metadata: Mapping[str, Any],
    backend: Backend,
) -> Model:
    """The inverse of :func:`pack`; ``path`` is only named in errors."""
    try:
        net = MLP.from_description(metadata["network"])
        pairs = [(arrays[f"W{l}"], arrays[f"b{l}"]) for l in range(1, len(net.sizes))]
        shapes = [(W.shape, b.shape) for W, b in pairs]
        if shapes != net.shapes:
            raise ValueError(f"its arrays have the shapes {shapes}, its network needs {net.shapes}")
        if {p.dtype.name for pair in pairs for p in pair} != {metadata["dtype"]}:
            raise ValueError(f"not all of its arrays are of {metadata['dtype']}")
        history, stopped = History(metadata["history"]), metadata["stopped"]
        best = metadata["best_epoch"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} holds no network that can be rebuilt: {error}"
        ) from error
    with backend.scope():
        params = tuple((backend.asarray(W), backend.asarray(b)) for W, b in pairs)
    return Model(net, params, backend, history, stopped, best)
