"""From a table to a network and back: which columns, in which units, and what the outputs mean.

This is the public import path; the code is in :mod:`portable_bp.tables`. :func:`prepare` turns a
:class:`~portable_bp.datasets.Table` into what :func:`portable_bp.fit` takes; a :class:`TabularModel`
keeps the columns, units and labels beside the trained network, in one file, so that another table can
be predicted as it is.
"""

from portable_bp.tables.model import TabularModel, load
from portable_bp.tables.prepare import (
    TASKS,
    Parts,
    Preparation,
    Prepared,
    infer_task,
    prepare,
)

__all__ = [
    "TASKS",
    "Parts",
    "Preparation",
    "Prepared",
    "TabularModel",
    "infer_task",
    "load",
    "prepare",
]
