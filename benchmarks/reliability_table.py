"""The table of faults in ``docs/reliability.md``: the figures of one run of the tests themselves.

``python benchmarks/reliability_table.py`` runs ``tests/test_files.py``, heavy loops included, prints
the table and writes it between the marks in the page. A failing test leaves the page as it is.
"""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- figures: benchmarks/reliability_table.py -->", "<!-- end of figures -->"


class Figures:
    """A pytest plugin that collects what the tests report, in their order."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: list[Any] = report.user_properties if report.when == "call" else []
        for name, value in properties:
            if name == "figures":
                fault, count = value
                kinds = [count.get(kind, 0) for kind in ("whole", "refused", "wrong")]
                self.rows.append((fault, *(f"{n:,}" for n in (sum(kinds), *kinds))))


def table(rows: list[tuple[str, ...]]) -> str:
    head = ("fault", "tried", "contents whole", "refused with an error", "silently wrong")
    lines = [head, ("---", *["---:"] * 4), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    figures = Figures()
    tests = str(ROOT / "tests" / "test_files.py")
    status = pytest.main(["-q", "-m", "", "-p", "no:cacheprovider", tests], plugins=[figures])
    if status != 0:
        return int(status)
    text = (
        f"{table(figures.rows)}\n\n"
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {platform.system()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"safetensors {safetensors.__version__}."
    )
    print(text)
    before, rest = PAGE.read_text().split(START)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
