"""From a table to a network and back: which columns, in which units, and what the outputs mean.

This is the public import path; the code is in :mod:`portable_bp.tables`. :func:`prepare` turns a
:class:`~portable_bp.datasets.Table` of numbers into what :func:`portable_bp.fit` takes, and
:func:`prepare_inferred` one of text, dates and missing values as well; a :class:`TabularModel`
keeps the columns, units and labels beside the trained network, in one file, so that another table can
be predicted as it is.
"""

from typing import TYPE_CHECKING, Any

from portable_bp.tables.columns import CategoryColumn, NumberColumn
from portable_bp.tables.kinds import KINDS
from portable_bp.tables.model import TabularModel, load
from portable_bp.tables.prepare import (
    TASKS,
    Preparation,
    Prepared,
    Treatment,
    infer_task,
    prepare,
)
from portable_bp.tables.split import Parts
from portable_bp.tables.untidy import prepare_inferred

if TYPE_CHECKING:
    from portable_bp.estimators._tabular import TabularClassifier, TabularRegressor

__all__ = [
    "KINDS",
    "TASKS",
    "CategoryColumn",
    "NumberColumn",
    "Parts",
    "Preparation",
    "Prepared",
    "TabularClassifier",
    "TabularModel",
    "TabularRegressor",
    "Treatment",
    "infer_task",
    "load",
    "prepare",
    "prepare_inferred",
]


def __getattr__(name: str) -> Any:
    """The estimators are loaded when they are asked for: they need scikit-learn."""
    if name not in ("TabularClassifier", "TabularRegressor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from portable_bp import estimators

    return getattr(estimators, name)
