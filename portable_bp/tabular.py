"""From a table to a network and back: which columns, in which units, and what the outputs mean.

This is the public import path; the code is in :mod:`portable_bp.tables`. :func:`prepare` turns a
:class:`~portable_bp.datasets.Table` of numbers into what :func:`portable_bp.fit` takes, and
:func:`prepare_inferred` one of text, dates and missing values as well; a :class:`TabularModel`
keeps the columns, units and labels beside the trained network, in one file, so that another table can
be predicted as it is.
"""

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

__all__ = [
    "KINDS",
    "TASKS",
    "CategoryColumn",
    "NumberColumn",
    "Parts",
    "Preparation",
    "Prepared",
    "TabularModel",
    "Treatment",
    "infer_task",
    "load",
    "prepare",
    "prepare_inferred",
]
