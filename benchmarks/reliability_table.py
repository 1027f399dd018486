"""The table of faults in ``docs/reliability.md``: the figures of one run of the tests themselves.

``python benchmarks/reliability_table.py`` runs the tests that report figures, heavy loops included,
prints the table and writes it between the marks in the page. A failing test leaves the page as it is.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
TESTS = (
    "persistence/test_container.py",
    "persistence/test_forged.py",
    "training/test_recovery.py",
    "training/test_endurance.py",
    "inputs/test_bad_input.py",
)
START, END = "<!-- figures: benchmarks/reliability_table.py -->", "<!-- end of figures -->"


class Figures:
    """A pytest plugin that adds up what the tests report, in their order."""

    def __init__(self) -> None:
        self.faults: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: list[Any] = report.user_properties if report.when == "call" else []
        for name, value in properties:
            if name == "figures":
                fault, count = value
                self.faults.setdefault(fault, Counter()).update(count)


def table(faults: dict[str, Counter[str]]) -> str:
    head = ("fault", "tried", "contents whole", "refused with an error", "silently wrong")
    lines = [head, ("---", *["---:"] * 4)]
    for fault, count in faults.items():
        kinds = [count[kind] for kind in ("whole", "refused", "wrong")]
        lines.append((fault, *(f"{n:,}" for n in (sum(kinds), *kinds))))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    figures = Figures()
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    options = ["-q", "-m", "", "-n", "0", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *tests], plugins=[figures])
    if status != 0:
        return int(status)
    text = (
        f"{table(figures.faults)}\n\n"
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
