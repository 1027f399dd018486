"""Rows that stay in their files: what :func:`portable_bp.fit` trains on when they exceed the memory.

:func:`open` makes a source of ``.npy`` or Parquet files, :class:`Arrays` and :class:`Dataset` of what
is there already; any object with the five names of :class:`Source` is one.
"""

from portable_bp.sources.arrays import Arrays, Dataset
from portable_bp.sources.npy import Npy
from portable_bp.sources.opening import open
from portable_bp.sources.parquet import Parquet
from portable_bp.sources.protocol import Source

__all__ = ["Arrays", "Dataset", "Npy", "Parquet", "Source", "open"]
