"""Many problems of one file in one message."""

from __future__ import annotations

from collections.abc import Sequence

from portable_bp.errors import DataError

MOST = 10
"""So many problems are told; the others are counted."""


def listed(source: str, problems: Sequence[str], total: int | None = None) -> DataError:
    """All problems of a file as one error.

    Parameters
    ----------
    source : str
        What messages call the file.
    problems : sequence of str
        Where and what, each; those beyond the first :data:`MOST` are only counted.
    total : int or None
        How many there are in all, where not all are given.

    Returns
    -------
    DataError
        One line.

    Examples
    --------
    >>> print(listed("t.csv", ["line 3: 1 cell", "line 7: 5 cells"]))
    t.csv, 2 problems: line 3: 1 cell; line 7: 5 cells
    """
    total = len(problems) if total is None else total
    if total == 1:
        return DataError(f"{source}, {problems[0]}")
    more = f"; and {total - MOST:,} more" if total > MOST else ""
    return DataError(f"{source}, {total:,} problems: " + "; ".join(problems[:MOST]) + more)
