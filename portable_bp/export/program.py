"""What a trained network does with a row of a table, ready to be written in another language."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard

import numpy as np

from portable_bp._tree import map_leaves
from portable_bp._typing import HostArray, Params
from portable_bp.backend import Backend
from portable_bp.equations import network
from portable_bp.export.tape import Tape, record
from portable_bp.mlp import MLP

Kind = Literal["class", "binary", "value"]


class Trained(Protocol):
    """What is asked of a :class:`~portable_bp.Model`."""

    net: MLP
    params: Params
    backend: Backend
    classes: HostArray | None
    feature_names: tuple[str, ...] | None


class RawColumn(Protocol):
    """What is asked of a column of a table, whatever it holds."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def absent(self) -> tuple[str, ...]: ...


class RawNumber(RawColumn, Protocol):
    """What is asked of a column of numbers, truth values (0 and 1) or dates (seconds since 1970)."""

    @property
    def fill(self) -> float: ...
    @property
    def is_marked(self) -> bool: ...
    @property
    def periods(self) -> tuple[float, ...]: ...


class RawCategory(RawColumn, Protocol):
    """What is asked of a column of text: rows of ``codes`` for values, a missing one, any other."""

    @property
    def values(self) -> tuple[str, ...]: ...
    @property
    def codes(self) -> HostArray: ...


class Columns(Protocol):
    """What is asked of the preparation of a table."""

    @property
    def columns(self) -> tuple[Any, ...]: ...

    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def mean(self) -> HostArray: ...
    @property
    def scale(self) -> HostArray: ...
    @property
    def target(self) -> str: ...
    @property
    def classes(self) -> tuple[Any, ...]: ...
    @property
    def target_mean(self) -> float: ...
    @property
    def target_scale(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Program:
    """From a row of inputs to outputs, probabilities and labels.

    Attributes
    ----------
    tape : Tape
        From prepared inputs to outputs.
    network : str
        The network in words.
    kind : str
        ``"class"`` (the most probable of k classes), ``"binary"`` (each output is the probability of
        1) or ``"value"``.
    labels : array of shape (k,) or None
        What stands for the classes 0, 1, ...; None for these numbers themselves.
    mean, scale : array of shape (inputs,) or None
        A raw input x becomes ``(x - mean) / scale`` in float64; None where it is taken as it is.
    shift, unit : float
        An output o stands for the quantity ``o unit + shift``.
    features : tuple of str or None
        The names of what is taken: of the inputs, or of the columns.
    target : str or None
        The name of what is predicted.
    columns : tuple of RawNumber and RawCategory
        How raw columns become the inputs x that mean and scale are for; empty where they are these.
    """

    tape: Tape
    network: str
    kind: Kind
    labels: HostArray | None = None
    mean: HostArray | None = None
    scale: HostArray | None = None
    shift: float = 0.0
    unit: float = 1.0
    features: tuple[str, ...] | None = None
    target: str | None = None
    columns: tuple[Any, ...] = ()

    @property
    def has_text(self) -> bool:
        """Whether a raw column is text."""
        return any(is_category(column) for column in self.columns)

    @property
    def inputs(self) -> int:
        return self.tape.input.columns

    @property
    def outputs(self) -> int:
        return self.tape.output.columns

    @property
    def dtype(self) -> str:
        return self.tape.dtype

    @property
    def is_scaled(self) -> bool:
        """Whether outputs stand for quantities in another unit."""
        return (self.shift, self.unit) != (0.0, 1.0)


def program_of(model: Any) -> Program:
    """The program of a model, with its table's preparation where it has one.

    Parameters
    ----------
    model : Model or TabularModel
        A trained network.

    Returns
    -------
    Program
        What it computes.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        When an activation of the user's own uses what cannot be exported.
    """
    columns: Columns | None = getattr(model, "preparation", None)
    trained: Trained = model if columns is None else model.model
    if not isinstance(getattr(trained, "net", None), MLP) or not hasattr(trained, "params"):
        raise TypeError(
            f"a Model or a TabularModel can be exported, not {type(model).__name__}; portable_bp.fit "
            "gives a Model"
        )
    net, backend = trained.net, trained.backend
    with backend.scope():
        params = map_leaves(backend.to_numpy, trained.params)
    tape = record(
        params,
        lambda pairs, x, xp: network.forward(pairs, x, net.activations, xp=xp).outputs[-1],
        str(params[0][0].dtype),
    )
    kinds: dict[str, Kind] = {"class": "class", "binary": "binary"}
    kind = kinds.get(net.loss.target, "value")
    if columns is None:
        return Program(tape, repr(net), kind, trained.classes, features=trained.feature_names)
    raw = columns.columns
    features = tuple(column.name for column in raw) if raw else columns.features
    return Program(
        tape, repr(net), kind, np.asarray(columns.classes) if columns.classes else None,
        columns.mean, columns.scale, columns.target_mean, columns.target_scale, features,
        columns.target, raw,
    )  # fmt: skip


def is_category(column: RawColumn) -> TypeGuard[RawCategory]:
    """Whether a column holds text; otherwise it is a :class:`RawNumber`."""
    return column.kind == "category"


def angular(period: float) -> float:
    """What a number is multiplied by so that a period becomes a full turn."""
    return 2 * math.pi / period
