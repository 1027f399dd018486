"""A trained network with the preparation of its table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.registry import resolve
from portable_bp.persistence import documents
from portable_bp.tables import columns
from portable_bp.tables.prepare import Label, Preparation
from portable_bp.tables.table import Table
from portable_bp.training.model import Model, pack_model, unpack_model


@dataclass(frozen=True, eq=False)
class TabularModel:
    """A trained network with the preparation of its table: takes tables, gives labels or quantities.

    Parameters
    ----------
    preparation : Preparation
        How a table becomes numbers.
    model : Model
        The trained network.
    facts : mapping
        For people: ``source`` and ``rows`` of the table that it was trained on, its ``scores``.

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
    facts: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, table: Table) -> list[Label]:
        """The label or the quantity of each row.

        Parameters
        ----------
        table : Table
            With the columns that the model was trained on.

        Returns
        -------
        list
            Labels as they stand in the table; quantities as floats.
        """
        x = self.preparation.inputs(table)
        if self.preparation.task == "classification":
            return self.preparation.labels(np.asarray(self.model.predict(x)))
        values: list[Label] = self.preparation.quantities(
            np.asarray(self.model.predict(x))
        ).tolist()
        return values

    def probabilities(self, table: Table) -> HostArray:
        """The probability of each class for each row.

        Parameters
        ----------
        table : Table
            With the columns that the model was trained on.

        Returns
        -------
        array of shape (n, classes)
            In the order of ``preparation.classes``.

        Raises
        ------
        ValueError
            The model gives quantities.
        """
        if self.preparation.task != "classification":
            raise ValueError("the model predicts a quantity: there are no probabilities of classes")
        return np.asarray(self.model.forward(self.preparation.inputs(table)))

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write it as an ONNX file that takes the table's columns as they are.

        Parameters
        ----------
        path : path
            The file; see :func:`portable_bp.export.to_onnx`.
        """
        from portable_bp.export import to_onnx

        to_onnx(self, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one safetensors file, all or nothing.

        Parameters
        ----------
        path : str or path-like
            The file; one that is there is replaced.

        Notes
        -----
        See :func:`portable_bp.persistence.container.write`.
        """
        p = self.preparation
        arrays, network = pack_model(self.model)
        arrays |= {
            "feature_mean": p.mean,
            "feature_scale": p.scale,
            "target_mean": np.asarray(p.target_mean),
            "target_scale": np.asarray(p.target_scale),
        }
        metadata: dict[str, Any] = {
            "kind": "tabular",
            "model": network,
            "features": list(p.features),
            "target": p.target,
            "task": p.task,
            "classes": list(p.classes),
            "facts": dict(self.facts),
        }
        if p.columns:
            metadata["columns"], codes = columns.to_data(p.columns)
            arrays |= codes
        documents.write(path, arrays, metadata)


def load(path: str | os.PathLike[str], backend: str | Backend | None = None) -> TabularModel:
    """A model that :meth:`TabularModel.save` wrote, on any backend.

    Parameters
    ----------
    path : str or path-like
        The file.
    backend : str, Backend or None
        Where to put it, see :func:`portable_bp.get_backend`.

    Returns
    -------
    TabularModel
        With the same bits as the one that was saved.

    Raises
    ------
    CheckpointError
        The file is damaged, is no such model, or was written by a newer version.
    OSError
        The file is missing or cannot be read.
    """
    resolved = resolve(backend)
    arrays, metadata = documents.read(path, "tabular")
    preparation = Preparation(
        tuple(metadata["features"]),
        arrays["feature_mean"],
        arrays["feature_scale"],
        metadata["target"],
        metadata["task"],
        tuple(metadata["classes"]),
        float(arrays["target_mean"]),
        float(arrays["target_scale"]),
        columns.from_data(metadata.get("columns", []), arrays),
    )
    fitted = unpack_model(path, arrays, metadata["model"], resolved)
    return TabularModel(preparation, fitted, metadata.get("facts", {}))
