"""The formulas of tools/cost_model.py, and the tables that the guide has of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import cost_model
from tools.cost_model import Link, Site

GUIDE = Path(__file__).parents[2] / "docs/guide/processes.md"
FREE = Link(0.0, 1e9)


def test_parameters() -> None:
    assert cost_model.parameters((64, 100, 10)) == 64 * 100 + 100 + 100 * 10 + 10


def test_a_sum_takes_the_quicker_of_ring_and_tree() -> None:
    assert FREE.sum_seconds(1e9, 1) == 0
    assert FREE.sum_seconds(1e9, 2) == pytest.approx(
        1.0
    )  # a ring of two: each half goes there and back
    assert FREE.sum_seconds(1e9, 1000) == pytest.approx(2 * 0.999)
    # Without bytes only the messages count: those of a tree are fewer.
    assert Link(1e-6, 1e9).sum_seconds(0, 2) == pytest.approx(2e-6)
    assert Link(1e-6, 1e9).sum_seconds(0, 64) == pytest.approx(12e-6)


def test_between_nodes_each_process_sends_its_part() -> None:
    site = Site("", 16, 1e12, 0, Link(0, 8e9), 4, FREE)
    assert site.sum_seconds(1e9, 4) == Link(0, 8e9).sum_seconds(1e9, 4)
    inside, between = 2 * 3 / 4 * 1e9 / 8e9, FREE.sum_seconds(1e9 / 4, 4)
    assert site.sum_seconds(1e9, 16) == pytest.approx(inside + between)


def test_a_step() -> None:
    site = Site("", 4, 6e6, 1e-3, FREE, 4, jitter=0.0)
    assert site.compute_seconds((9, 10), 100) == pytest.approx(100 * 100 * 6 / 6e6)
    assert site.compute_seconds((9, 10), 0.01) == 1e-3  # the floor
    assert site.efficiency((9, 10), 100, 1) == 1
    assert site.efficiency((9, 10), 100, 4) == pytest.approx(0.01 / (0.01 + 2 * 3 / 4 * 408 / 1e9))


def test_rows_needed_are_those_of_the_efficiency() -> None:
    site = Site("", 8, 1e9, 0, Link(1e-5, 1e8), 8, jitter=0.0)
    rows = site.rows_needed((64, 100, 10), 0.8)
    assert rows is not None
    assert site.efficiency((64, 100, 10), rows, 8) == pytest.approx(0.8, abs=1e-3)
    assert site.rows_needed((64, 100, 10), 1e-9) == 1


def test_the_best_number_is_better_than_half_of_it() -> None:
    for site in cost_model.SITES:
        p, gain = site.best((784, 512, 512, 10), 8192)
        assert 1 <= p <= site.processes
        assert 1 <= gain <= p
        if p > 1:
            half = site.step_seconds((784, 512, 512, 10), 8192 / (p / 2), p // 2)
            assert site.step_seconds((784, 512, 512, 10), 8192 / p, p) <= half


def test_the_guide_has_these_tables() -> None:
    page = GUIDE.read_text(encoding="utf-8")
    assert cost_model.weak() in page
    assert cost_model.strong() in page
