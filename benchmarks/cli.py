"""``python -m benchmarks``: measures everything, prints tables, and keeps the record with ``--save``."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import ablation, cases, growth, memory, plots, tables
from benchmarks.machine import ROOT, load, machine, sources
from benchmarks.peers import INFERENCE, TRAINING
from benchmarks.race import Entry, median, race

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ("training", "inference", "ablation", "growth", "memory")
FORMAT = 1

QUICK = ("ours numpy", "floor", ablation.ALL, ablation.NOT)
"""What ``--quick`` runs: every part of the machinery once, in seconds. Its figures mean nothing."""

NAMES = tuple(dict.fromkeys((*TRAINING, *INFERENCE, *ablation.ABLATION)))

console = Console(width=None if sys.stdout.isatty() else 200)


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    case: tuple[str, ...]
    candidate: tuple[str, ...]
    rounds: int
    seconds: float
    quick: bool

    def cases(self, found: Sequence[cases.Case], quick: int = 1) -> list[cases.Case]:
        """Those whose name contains one of the words asked for; the first few when it is quick."""
        kept = [c for c in found if not self.case or any(word in c.name for word in self.case)]
        return kept[:quick] if self.quick else kept

    def names(self, found: Sequence[str]) -> list[str]:
        only = self.candidate or (QUICK if self.quick else tuple(found))
        return [n for n in found if n in only]


def _training(plan: Plan) -> dict[str, Any]:
    names = plan.names(list(TRAINING))
    entries, blas = race(
        "training", plan.cases(cases.CASES, 2), names, plan.rounds, plan.seconds, _say
    )
    for optimizer in cases.RATES:
        some = tables.of_optimizer(entries, optimizer)
        _show(f"Training, {optimizer}: median time per step", tables.speeds(some))
    _show("Training: all figures", tables.spreads(entries))
    _show("Seconds until the first epoch is done", tables.ready(entries))
    _show(f"Targets: {tables.tally(entries)}", tables.verdict_table(entries))
    return {"cases": entries, "blas": blas}


def _inference(plan: Plan) -> dict[str, Any]:
    names = plan.names(list(INFERENCE))
    entries, blas = race(
        "inference", plan.cases(cases.SHAPES), names, plan.rounds, plan.seconds / 3, _say
    )
    _show("Inference: median time for a batch", tables.speeds(entries))
    return {"cases": entries, "blas": blas}


def _ablation(plan: Plan) -> dict[str, Any]:
    names = plan.names(list(ablation.ABLATION))
    entries, blas = race(
        "ablation", plan.cases(ablation.CASES), names, plan.rounds, plan.seconds, _say
    )
    _show("Where the time of a step goes", tables.anatomy(entries))
    _show("Ablation: time over that with everything on (of minima)", tables.ablations(entries))
    return {"cases": entries, "blas": blas}


def _growth(plan: Plan) -> dict[str, Any]:
    names = plan.names(growth.CANDIDATES)
    points = 1 if plan.quick else None
    axes = growth.grow(names, points, min(plan.rounds, 7), plan.seconds / 4, _say)
    for axis in axes:
        _show(growth.MEANS[axis], tables.growths(axes, axis))
    return {"axes": axes}


def _memory(plan: Plan) -> dict[str, Any]:
    entries = memory.measure(plan.names(memory.CANDIDATES), plan.cases(memory.CASES), _say)
    _show("Peak memory of training", tables.memories(entries))
    return {"cases": entries}


MEASURE: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "training": _training,
    "inference": _inference,
    "ablation": _ablation,
    "growth": _growth,
    "memory": _memory,
}


@click.command()
@click.option("--part", type=click.Choice(list(MEASURE)), multiple=True, help="Only these parts.")
@click.option("--case", multiple=True, help="Only cases whose name contains this, as 'B32 adam'.")
@click.option("--candidate", type=click.Choice(NAMES), multiple=True, help="Only these candidates.")
@click.option(
    "--rounds", type=click.IntRange(2), default=15, show_default=True, help="Rounds of each case."
)
@click.option(
    "--seconds",
    type=float,
    default=15.0,
    show_default=True,
    help="After so long a case has no further round, beyond the first five.",
)
@click.option("--quick", is_flag=True, help="The smallest cases: does it all run?")
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    is_flag=False,
    flag_value=RESULTS,
    help="Keep record and pictures; by default in benchmarks/results.",
)
def main(part: tuple[str, ...], save: Path | None, **options: Any) -> None:
    """Measure portable_bp on the CPU, side by side with its peers.

    Parts that are not measured again stay in a saved record, if it is of the same machine.
    """
    # Set by some systems for older builds of OpenBLAS; it would choose NumPy's kernels, not torch's.
    os.environ.pop("OPENBLAS_CORETYPE", None)
    plan = Plan(**options)
    record = kept(save)
    for name in part or MEASURE:
        before = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "load": load(), "sources": sources()}
        record[name] = {**before, **MEASURE[name](plan)}
        if save is not None:
            _save(record, save)
    refused = {f"{e['name']}, {n}: {f['refused']}" for e, n, f in figures(record) if "refused" in f}
    for line in sorted(refused):
        console.print(f"[red]REFUSED[/red] {line}", highlight=False)
    if refused:
        raise SystemExit(1)


def kept(directory: Path | None) -> dict[str, Any]:
    """A new record, or the one that is there and of this machine."""
    fresh = {"format": FORMAT, "machine": machine()}
    if directory is None or not (directory / "cpu.json").exists():
        return fresh
    old: dict[str, Any] = json.loads((directory / "cpu.json").read_text())
    return old if all(old[k] == fresh[k] for k in fresh) else fresh


def _save(record: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cpu.json").write_text(_json(record))
    plots.draw(record, directory)


def _json(record: dict[str, Any]) -> str:
    """Indented, each list of numbers on one line."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def figures(record: dict[str, Any]) -> list[tuple[Entry, str, Any]]:
    """Each candidate of each case of all parts."""
    lists = [record[p]["cases"] for p in PARTS if "cases" in record.get(p, {})]
    lists += record.get("growth", {}).get("axes", {}).values()
    return [
        (e, n, f)
        for entries in lists
        for e in entries
        for n, f in (e.get("candidates") or e["process"]).items()
        if isinstance(f, dict)
    ]


def _say(entry: Entry) -> None:
    """A line as soon as a case is done."""
    times = ((n, median(entry, n)) for n in entry.get("candidates", {}))
    parts = [f"{n} {tables.duration(us)}" for n, us in times if us is not None]
    grown = entry.get("process", {}).items()
    parts += [f"{n} {tables.size(nbytes)}" for n, nbytes in grown if isinstance(nbytes, int)]
    console.print(f"  {entry['name']}: {', '.join(parts)}", highlight=False, soft_wrap=True)


def _show(title: str, table: tables.Table) -> None:
    rich = RichTable(title=title, title_justify="left")
    for i, name in enumerate(table.head):
        rich.add_column(name, justify="right" if i else "left")
    for row in table.rows:
        rich.add_row(*(cell.replace("**", "") for cell in row))
    console.print(rich)
