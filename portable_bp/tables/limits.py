"""How much memory a file may take: what is decoded counts, not what is stored."""

from __future__ import annotations

from portable_bp.tables.table import DataError

FREE_BYTES = 2**26
"""So much may be taken whatever the size of the file."""

SMALL_GROWTH, SMALL_BYTES = 250, 2**30
"""Up to 1 GiB, a file may grow 250-fold in memory ..."""

GROWTH = 100
"""... and beyond that 100-fold."""

CELL_BYTES, COLUMN_BYTES = 8, 256
"""What a cell (a number, or a pointer to text) and a column take in any case."""


def allowed(stored: int) -> int:
    """How many bytes a file of ``stored`` bytes may take in memory.

    >>> allowed(236), allowed(10**6), allowed(10**9)
    (67108864, 250000000, 100000000000)
    """
    return max(FREE_BYTES, min(SMALL_GROWTH * stored, SMALL_BYTES), GROWTH * stored)


def refuse_growth(source: str, stored: int, decoded: int) -> None:
    """Raise when a file of ``stored`` bytes would take ``decoded`` bytes of memory or more."""
    if decoded > allowed(stored):
        raise DataError(
            f"{source} has {stored:,} bytes and would take {decoded:,} bytes of memory or more; if "
            "this is intended, store it uncompressed (Parquet: without dictionaries as well)"
        )
