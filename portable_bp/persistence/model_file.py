"""A trained network as the parts of a file, in plain numbers and NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from portable_bp._typing import HostArray

HostParams: TypeAlias = "tuple[tuple[HostArray, HostArray], ...]"


def pack(
    network: Mapping[str, Any],
    params: HostParams,
    *,
    backend: str,
    history: Sequence[Mapping[str, float]],
    stopped: str,
    best_epoch: int | None,
    classes: HostArray | None = None,
    feature_names: Sequence[str] | None = None,
) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """The arrays and the metadata of a file.

    Parameters
    ----------
    network : mapping
        As :meth:`portable_bp.MLP.describe` gives it.
    params : pairs (W, b)
        NumPy arrays.
    backend : str
        Where the network was trained.
    history : sequence of mappings
        The numbers of each epoch.
    stopped : str
        Why the training ended.
    best_epoch : int or None
        The epoch that the parameters are of, from 1; None for the last.
    classes : array of shape (n_classes,) or None
        The labels of the classes 0, 1, ...: text, or False and True.
    feature_names : sequence of str or None
        The columns of X.

    Returns
    -------
    arrays : dict
        ``W1``, ``b1``, ``W2``, ...
    metadata : dict
        As :data:`portable_bp.persistence.documents.MODEL` says.
    """
    arrays = {
        f"{letter}{l}": p
        for l, pair in enumerate(params, start=1)
        for letter, p in zip("Wb", pair, strict=True)
    }
    metadata: dict[str, Any] = {
        "kind": "model",
        "network": dict(network),
        "backend": backend,
        "dtype": params[0][0].dtype.name,
        "history": [{name: float(v) for name, v in row.items()} for row in history],
        "stopped": stopped,
        "best_epoch": best_epoch,
    }
    if classes is not None:
        metadata["classes"] = classes.tolist()
    if feature_names is not None:
        metadata["feature_names"] = list(feature_names)
    return arrays, metadata


def params_of(arrays: Mapping[str, HostArray], metadata: Mapping[str, Any]) -> HostParams:
    """The pairs (W, b) of a file whose contents have been checked."""
    layers = range(1, len(metadata["network"]["sizes"]))
    return tuple((arrays[f"W{l}"], arrays[f"b{l}"]) for l in layers)
