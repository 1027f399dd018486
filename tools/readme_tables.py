"""Writes the tables of README.md and docs/ from the committed records of what was measured.

``python -m tools.readme_tables``; a test fails while a page is not up to date. In a page, a table
stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import estimators, gpu_record, growth, launches, tables
from portable_bp.testing import capabilities
from tools import measure_constants

ROOT = Path(__file__).parents[1]
CPU = ROOT / "benchmarks" / "results" / "cpu.json"

IN_README = (
    "ours numpy", "ours jax", "scikit-learn", "torch eager", "torch.compile", "jax.jit", "jax scan",
    "thinc", "floor",
)  # fmt: skip


def cpu() -> dict[str, Any]:
    """The record of the CPU benchmark."""
    record: dict[str, Any] = json.loads(CPU.read_text())
    return record


def speed() -> str:
    """README: training with Adam, and what was measured on."""
    record = cpu()
    entries = tables.of_optimizer(record["training"]["cases"], "adam")
    table = tables.speeds(entries, IN_README).markdown()
    return (
        "Time of one training step with Adam, mini-batches gathered and all. `floor`: the matrix "
        f"products alone.\n\n{table}\n\n{tables.measured_on(record)}"
    )


def speed_of(optimizer: str) -> str:
    entries = tables.of_optimizer(cpu()["training"]["cases"], optimizer)
    return tables.speeds(entries).markdown()


def growth_tables() -> str:
    axes = cpu()["growth"]["axes"]
    found = (
        f"{what[0].upper()}{what[1:]}:\n\n{tables.growths(axes, axis).markdown()}"
        for axis, what in growth.MEANS.items()
    )
    return "\n\n".join(found)


def met() -> str:
    entries = cpu()["training"]["cases"]
    return f"{tables.tally(entries)}.\n\n{tables.verdict_table(entries).markdown()}"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"devices": lambda: gpu_record.devices(gpu_record.load()), "speed": speed},
    "docs/estimators.md": {"speed": estimators.table},
    "docs/gpu.md": {
        "record": lambda: gpu_record.report(gpu_record.load()),
        "launches": launches.ours_table,
        "launches of others": launches.others_table,
    },
    "docs/performance.md": {
        "machine": lambda: tables.measured_on(cpu()),
        "adam": lambda: speed_of("adam"),
        "sgd": lambda: speed_of("sgd"),
        "inference": lambda: tables.speeds(cpu()["inference"]["cases"]).markdown(),
        "ready": lambda: tables.ready(cpu()["training"]["cases"]).markdown(),
        "anatomy": lambda: tables.anatomy(cpu()["ablation"]["cases"]).markdown(),
        "ablation": lambda: tables.ablations(cpu()["ablation"]["cases"]).markdown(),
        "growth": growth_tables,
        "memory": lambda: tables.memories(cpu()["memory"]["cases"]).markdown(),
        "targets": met,
    },
    "docs/equivalence.md": {
        "capabilities": capabilities.table,
        "constants": measure_constants.table,
    },
}


def updated(page: str) -> str:
    """The page's text with its tables as they should be."""
    text = (ROOT / page).read_text()
    for name, table in PAGES[page].items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(updated(page))
