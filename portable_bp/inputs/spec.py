"""What a network asks of its examples."""

from __future__ import annotations

from dataclasses import dataclass

from portable_bp._typing import HostArray


@dataclass(frozen=True, eq=False)
class NetSpec:
    """What a network asks of its examples.

    Attributes
    ----------
    inputs, outputs : int
        Columns of X and of y.
    target : str
        What the loss takes as y: ``"real"``, ``"binary"``, ``"count"`` or ``"class"``.
    loss : str
        The name of the loss.
    classes : array of shape (n_classes,) or None
        The labels that stand for the class numbers 0, 1, ...
    features : tuple of str or None
        The names of the columns of X.
    """

    inputs: int
    outputs: int
    target: str
    loss: str
    classes: HostArray | None = None
    features: tuple[str, ...] | None = None
