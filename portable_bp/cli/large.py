"""Which files ``train`` leaves where they are: those that exceed a share of the memory."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from portable_bp import datasets
from portable_bp.backend.memory import physical_memory
from portable_bp.cli import kinds
from portable_bp.errors import DataError
from portable_bp.sources.opening import SUFFIXES
from portable_bp.tables import limits
from portable_bp.tables.large import PreparedSource, SourceFacts, cells_of, prepare_source
from portable_bp.tabular import Prepared

CELL_BYTES = 24
"""A cell of a table that is trained on in memory: the column, the inputs, and a part of them."""

SHARE = 0.5
"""The share of the memory that a table may take."""


def loaded(
    source: str, o: Mapping[str, Any]
) -> tuple[datasets.Table | SourceFacts, Prepared | PreparedSource]:
    """The rows of ``source`` as the options of the command say: in memory, or in their files."""
    if not _stays(source):
        table = datasets.load(source, o["header"], query=o["query"])
        return table, kinds.prepared(table, o)
    given = ("header", "query", "kinds", "columns")
    asked = [f"--{name.rstrip('s')}" for name in given if o[name]]
    if asked:
        raise click.UsageError(
            f"{source} is read in windows, and its columns are taken as numbers: leave out "
            f"{', '.join(asked)}"
        )
    ready = prepare_source(
        source, o["target"], o["task"], drop=o["drop"], test_share=o["test_share"], seed=o["seed"]
    )
    return SourceFacts(source, ready.rows, "read in windows"), ready


def _stays(source: str) -> bool:
    """Whether it is a folder or a pattern, or a file that is too large to be decoded.

    What is wrong with a file is said where tables are read.
    """
    path = Path(source)
    if source == "digits":
        return False
    if path.is_dir():
        return source != ""  # which pathlib takes for the present folder
    if path.suffix.lower() not in SUFFIXES:
        return False
    if not path.exists():
        return glob.has_magic(source)
    try:
        cells, stored = cells_of(path), path.stat().st_size
    except (DataError, ImportError, OSError):
        return False
    memory = physical_memory()
    if memory is None or cells * limits.CELL_BYTES > limits.allowed(stored):
        return False  # more than a file of this size may hold
    return cells * CELL_BYTES > SHARE * memory
