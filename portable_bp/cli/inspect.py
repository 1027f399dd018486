"""``portable-bp inspect``: what a model file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from portable_bp.cli import shell
from portable_bp.mlp import MLP
from portable_bp.persistence import documents

KINDS = {
    "model": "a network by itself",
    "tabular": "a network with the preparation of its table",
    "checkpoint": "the checkpoint of a run",
}

SHOWN = 12
"""So many columns or classes are listed; --json has all."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@shell.json_option
def inspect(model: Path, as_json: bool) -> int:
    """Show what MODEL, a file that train or Model.save wrote, holds.

    What it is, what it was trained on and how well, its columns, its layers. Nothing in a file is run.
    """
    _, metadata = documents.read(model)
    report = {"file": str(model), "bytes": model.stat().st_size, **describe(metadata)}
    if as_json:
        shell.print_json(report)
        return 0
    for heading, text in _lines(report):
        print(shell.printable(f"{heading:<12}{text}"))
    if "network" in report:
        print(MLP.from_description(report["network"]).summary())
    return 0


def describe(metadata: dict[str, Any]) -> dict[str, Any]:
    """The facts of a file's metadata, as JSON has them."""
    kind = metadata["kind"]
    if kind == "checkpoint":
        keys = ("status", "stopped", "backend", "epoch", "epochs", "steps")
        return {"kind": kind, **{key: metadata[key] for key in keys}, **_trained(metadata)}
    model = metadata if kind == "model" else metadata["model"]
    report = {"kind": kind}
    if kind == "tabular":
        report |= {key: metadata[key] for key in ("task", "target", "classes", "features")}
        kinds = [
            {key: column[key] for key in ("name", "kind")} for column in metadata.get("columns", [])
        ]
        report |= {"columns": kinds, "facts": metadata.get("facts", {})}
    else:
        report |= {"classes": model.get("classes", []), "features": model.get("feature_names", [])}
    report |= {key: model[key] for key in ("backend", "dtype", "stopped", "best_epoch", "network")}
    return report | _trained(model)


def _trained(model: dict[str, Any]) -> dict[str, Any]:
    """The length of the training and the last row of its history."""
    history = model["history"]
    last = {name: value for name, value in (history or [{}])[-1].items() if name != "seconds"}
    return {"trained_epochs": len(history), "last_epoch": last}


def _lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The report for people: headings and what stands beside them."""
    yield "file", f"{report['file']}: {KINDS[report['kind']]}, {report['bytes']:,} bytes"
    if report["kind"] == "checkpoint":
        yield (
            "run",
            f"{report['status']}: epoch {report['epoch']:,} of {report['epochs']:,}, "
            f"{report['steps']:,} steps, on {report['backend']}",
        )
    facts = report.get("facts", {})
    if "source" in facts:
        rows = ", ".join(f"{n:,} {part}" for part, n in facts.get("rows", {}).items())
        yield "table", f"{facts['source']}" + (f" (rows: {rows})" if rows else "")
    if "task" in report:
        yield "target", f"{report['target']!r}: {report['task']}"
    columns = [f"{c['name']!r} ({c['kind']})" for c in report.get("columns", [])]
    for heading, values in (
        ("classes", [*map(repr, report.get("classes", []))]),
        ("columns", columns),
        ("features", [*map(repr, report.get("features", []))]),
    ):
        if values:
            more = ", ..." if len(values) > SHOWN else ""
            yield heading, f"{len(values):,}: {', '.join(values[:SHOWN])}{more}"
    if "dtype" in report:
        best = f", best epoch {report['best_epoch']}" if report["best_epoch"] else ""
        yield (
            "training",
            f"{report['trained_epochs']:,} epochs on {report['backend']}, {report['dtype']}, "
            f"{report['stopped']}{best}",
        )
    if report["last_epoch"]:
        yield "last epoch", _numbers(report["last_epoch"])
    if "scores" in facts:
        yield "test rows", _numbers(facts["scores"])


def _numbers(values: dict[str, Any]) -> str:
    known = {name.removeprefix("test_").replace("_", " "): v for name, v in values.items()}
    return ", ".join(f"{name} {v:.4g}" for name, v in known.items() if isinstance(v, int | float))
