"""The benchmark of the estimators runs, and refuses to time numbers that are not the same."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import estimators as benchmark


def test_it_prints_a_table() -> None:
    done = CliRunner().invoke(benchmark.main, ["--quick", "4-100-3"], catch_exceptions=False)
    assert done.exit_code == 0
    head, rule, row, _, summary = done.output.strip().splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert "4-100-3 Bauto adam" in row
    assert summary.startswith("Times faster: median ")
    assert CliRunner().invoke(benchmark.main, ["none such"]).exit_code == 2


def test_other_numbers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = benchmark.losses

    def wrong(est: Any) -> Any:
        return plain(est) * (2 if type(est).__module__.startswith("portable_bp") else 1)

    monkeypatch.setattr(benchmark, "losses", wrong)
    done = CliRunner().invoke(benchmark.main, ["--quick", "4-100-3"])
    assert done.exit_code == 1
    assert "the losses differ by 1" in done.output
