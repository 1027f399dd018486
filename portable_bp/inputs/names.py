"""The names of features: a table's columns have to be those of ``fit``, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from portable_bp._warnings import warn
from portable_bp.inputs import containers

SHOWN = 5
"""How many names an error lists."""


def of(values: Any) -> tuple[str, ...] | None:
    """The names of a table's columns when all are text; None for anything else."""
    if not containers.is_frame(values):
        return None
    names = containers.column_names(values)
    return tuple(names) if names and all(isinstance(n, str) for n in names) else None


def check(fitted: Sequence[str] | None, values: Any, name: str = "X") -> None:
    """Compare the names of ``values`` with those of ``fit``, in scikit-learn's words.

    Raises
    ------
    ValueError
        Naming the columns that are new, missing, or in another order.
    """
    if fitted is None:
        return
    names = of(values)
    if names is None:
        warn(
            f"{name} does not have valid feature names, but the network was fitted with feature names"
        )
        return
    compare(fitted, names, name)


def compare(fitted: Sequence[str], names: Sequence[str], name: str = "X") -> None:
    """Raise a ValueError where names are not those of ``fit``, in the same order."""
    if tuple(names) == tuple(fitted):
        return
    message = "The feature names should match those that were passed during fit.\n"
    unseen = [n for n in names if n not in set(fitted)]
    missing = [n for n in fitted if n not in set(names)]
    if unseen:
        message += "Feature names unseen at fit time:\n" + _listed(unseen)
    if missing:
        message += "Feature names seen at fit time, yet now missing:\n" + _listed(missing)
    if not unseen and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    raise ValueError(message if name == "X" else f"{name}: {message}")


def _listed(names: Sequence[str]) -> str:
    rest = "- ...\n" if len(names) > SHOWN else ""
    return "".join(f"- {n}\n" for n in names[:SHOWN]) + rest
