"""How much memory a file may take."""

from __future__ import annotations

from pathlib import Path

from portable_bp.tables.table import DataError

GROWTH, GROWTH_BYTES = 100, 2**30
"""A compressed file may grow more than 100-fold in memory, or beyond 1 GiB, but not both."""


def refuse_growth(path: Path, unpacked: int) -> None:
    """Raise when the file would grow beyond all measure."""
    if unpacked > GROWTH_BYTES and unpacked > GROWTH * path.stat().st_size:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes and would take {unpacked:,} in memory, more "
            f"than {GROWTH} times as many; store it uncompressed if that is meant"
        )
