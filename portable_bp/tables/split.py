"""Rows held out of the training: those to validate with, and those to test on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portable_bp import rng
from portable_bp._typing import HostArray
from portable_bp.errors import DataError

VALIDATION_SHARE = 0.1
"""The share of the training rows that is held out for validation."""


class Parts(NamedTuple):
    """The rows to train on, to validate with during the training, and to test on."""

    train: HostArray
    validation: HostArray
    test: HostArray


def split_rows(source: str, codes: HostArray, test_share: float, seed: int) -> Parts:
    """Rows of each class in the same shares."""
    n = len(codes)
    rows = rng.permutation(n, seed, rng.SPLIT)
    test, rest = _held_out(codes, rows, test_share)
    validation, train = _held_out(codes, rest, VALIDATION_SHARE)
    if not len(test):
        raise DataError(
            f"{source}: a test share of {test_share:g} of {n} row(s) leaves none to test on; give "
            "more rows, or a larger share"
        )
    return Parts(train, validation, test)


def _held_out(codes: HostArray, rows: HostArray, share: float) -> tuple[HostArray, HostArray]:
    """A share of the rows of each class, and the others; every class keeps one of the others."""
    by_class = rows[np.argsort(codes[rows], kind="stable")]
    counts = np.bincount(codes[rows])
    ends = np.cumsum(counts)
    # Rounded at the ends, so that the shares of many small classes add up to that of all.
    taken = np.diff(np.floor(ends * share + 0.5), prepend=0)
    taken = np.minimum(taken, np.maximum(counts - 1, 0))
    place = np.arange(len(rows)) - np.repeat(ends - counts, counts)
    out = place < np.repeat(taken, counts)
    return np.sort(by_class[out]), np.sort(by_class[~out])
