"""Which rows of each batch are whose: each row once, whatever the sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portable_bp.processes import Processes
from portable_bp.processes.engine import Single
from portable_bp.training.shards import Shards
from portable_bp.training.shares import Shares


def _process(rank: int, size: int) -> Processes:
    processes = Processes(Single())
    processes.rank, processes.size = rank, size
    return processes


@pytest.mark.parametrize(
    ("n", "batch", "parts"), [(203, 32, 4), (17, 3, 8), (25, 25, 2), (1, 1, 4)]
)
def test_parts_have_each_row_once(n: int, batch: int, parts: int) -> None:
    order, seen, total = np.random.default_rng(0).permutation(n), [], 0.0
    for rank in range(parts):
        shares = Shares(_process(rank, parts), n, batch, parts, False, None)
        share, *count = shares.columns([order])
        total = total + share
        for step in range(-(-n // batch)):
            rows = shares.rows(order[step * batch : (step + 1) * batch][None])[0]
            seen += rows[: int(count[0][step]) if count else None].tolist()
    assert sorted(seen) == list(range(n))
    np.testing.assert_allclose(total, 1, 1e-15)


@pytest.mark.parametrize(
    ("sizes", "batch"), [((5, 60, 138), 30), ((1, 1), 1), ((7, 8), 15), ((3, 90), 4)]
)
def test_shards_have_each_row_once(sizes: tuple[int, ...], batch: int) -> None:
    total: Any = 0.0
    for rank, size in enumerate(sizes):
        shards = Shards(_process(rank, len(sizes)), sizes, batch, 0, True)
        share, count = shards.columns([shards.order(0)])
        total = total + share
        n, seen = shards.n, []
        for step in range(-(-n // batch)):
            places = shards.order(0)[step * batch : (step + 1) * batch].reshape(1, -1)
            rows = np.asarray(places)
            assert rows.shape[1] <= shards.part_rows
            seen += rows[0, : count[step]].tolist()
        assert sorted(seen) == list(range(size))
    np.testing.assert_allclose(total, 1, 1e-15)
