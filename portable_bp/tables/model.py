"""A trained network with the preparation of its table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import resolve
from portable_bp.errors import CheckpointError
from portable_bp.persistence import container
from portable_bp.tables.prepare import TASKS, Label, Preparation
from portable_bp.tables.table import Table
from portable_bp.training import storage
from portable_bp.training.model import Model

KIND = "tabular"
"""What the metadata of a file call such a model."""


@dataclass(frozen=True, eq=False)
class TabularModel:
    """A trained network with the preparation of its table: takes tables, gives labels or quantities.

    Attributes
    ----------
    preparation : Preparation
    model : Model

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> from portable_bp.tables.prepare import prepare
    >>> x = np.linspace(-1, 1, 60)
    >>> kinds = np.where(x > 0, "plus", "minus").astype(object)
    >>> ready = prepare(Table("signs", {"x": x, "sign": kinds}), "sign")
    >>> net = ready.network([8])
    >>> fitted = portable_bp.fit(net, *ready.part(ready.parts.train), epochs=50, learning_rate=0.1)
    >>> model = TabularModel(ready.preparation, fitted)
    >>> model.predict(Table("two", {"x": np.asarray([-0.7, 0.7])}))
    ['minus', 'plus']
    """

    preparation: Preparation
    model: Model

    def predict(self, table: Table) -> list[Label]:
        """The label or the quantity of each row."""
        x = self.preparation.inputs(table)
        if self.preparation.task == "classification":
            return self.preparation.labels(np.asarray(self.model.predict(x)))
        values: list[Label] = self.preparation.quantities(
            np.asarray(self.model.predict(x))
        ).tolist()
        return values

    def probabilities(self, table: Table) -> HostArray:
        """The probability of each class for each row, shape (n, k).

        Raises
        ------
        ValueError
            The model gives quantities.
        """
        if self.preparation.task != "classification":
            raise ValueError("the model predicts a quantity: there are no probabilities of classes")
        return np.asarray(self.model.forward(self.preparation.inputs(table)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one safetensors file, all or nothing.

        See :func:`portable_bp.persistence.container.write`.
        """
        p = self.preparation
        arrays, network = storage.pack(self.model)
        arrays |= {
            "feature_mean": p.mean,
            "feature_scale": p.scale,
            "target_mean": np.asarray(p.target_mean),
            "target_scale": np.asarray(p.target_scale),
        }
        metadata: dict[str, Any] = {
            "kind": KIND,
            "model": network,
            "features": list(p.features),
            "target": p.target,
            "task": p.task,
            "classes": list(p.classes),
        }
        container.write(path, arrays, metadata)


def load(path: str | os.PathLike[str], backend: str | Backend | None = None) -> TabularModel:
    """A model that :meth:`TabularModel.save` wrote, on any backend.

    Raises
    ------
    CheckpointError
        The file is damaged, is no such model, or was written by a newer version.
    OSError
        The file is missing or cannot be read.
    """
    where = resolve(backend)
    arrays, metadata = container.read(path)
    storage.check_kind(path, metadata, KIND)
    try:
        preparation = _restored(arrays, metadata)
        network = metadata["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} holds no preparation that can be rebuilt: {error}"
        ) from error
    model = storage.unpack(path, arrays, network, where)
    sizes = (len(preparation.features), len(preparation.classes) or 1)
    if (model.net.sizes[0], model.net.sizes[-1]) != sizes:
        raise CheckpointError(
            f"{os.fspath(path)}: {sizes[0]} features and {sizes[1]} outputs do not fit {model.net!r}"
        )
    return TabularModel(preparation, model)


def _restored(arrays: Mapping[str, HostArray], metadata: Mapping[str, Any]) -> Preparation:
    features, classes = tuple(metadata["features"]), tuple(metadata["classes"])
    mean, scale = arrays["feature_mean"], arrays["feature_scale"]
    shift, unit = arrays["target_mean"], arrays["target_scale"]
    task = metadata["task"]
    if task not in TASKS or (task == "classification") != (len(classes) > 1):
        raise ValueError(f"the task {task!r} with {len(classes)} classes")
    if not all(isinstance(name, str) for name in (*features, metadata["target"])):
        raise TypeError("columns have names that are no text")
    if not all(isinstance(label, str | int | float) for label in classes):
        raise TypeError("classes are text or numbers")
    if not mean.shape == scale.shape == (len(features),) or shift.shape or unit.shape:
        raise ValueError("the means and scales are not one for each column")
    if not (scale > 0).all() or not unit > 0:
        raise ValueError("a scale is not positive")
    return Preparation(
        features, mean, scale, metadata["target"], task, classes, float(shift), float(unit)
    )
