"""What ``portable-bp train`` prints and reports: the setup, the test, the summary."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from portable_bp.backend import Backend
from portable_bp.cli import shell
from portable_bp.cli.kinds import print_report
from portable_bp.datasets import Table
from portable_bp.mlp import MLP
from portable_bp.tables.large import PreparedSource, SourceFacts
from portable_bp.tabular import Prepared
from portable_bp.training.metrics import metric
from portable_bp.training.model import Model


def print_setup(
    out: Console,
    table: Table | SourceFacts,
    ready: Prepared | PreparedSource,
    backend: Backend,
    why: str,
    net: MLP,
) -> None:
    """The table, the task, the split, the backend and the network, before the training."""
    p, parts = ready.preparation, ready.parts
    classes = f", {len(p.classes)} classes" if p.classes else ""
    note = f" ({table.note})" if table.note else ""
    columns = f"{len(p.columns):,} column{'s' * (len(p.columns) > 1)} as " if p.columns else ""
    lines = (
        f"table    {table.source}: {table.rows:,} rows, {columns}{len(p.features):,} features{note}",
        f"target   {p.target!r}: {p.task}{classes} ({ready.why})",
        f"split    {len(parts.train):,} training, {len(parts.validation):,} validation, "
        f"{len(parts.test):,} test",
        f"backend  {backend.spec}: {why}",
    )
    for line in lines:
        out.print(shell.printable(line))
    print_report(out, ready.report)
    out.print(str(net.summary()))


def evaluate(ready: Prepared | PreparedSource, model: Model) -> dict[str, Any]:
    """The scores on the test rows."""
    p = ready.preparation
    y, predicted = ready.tested(model)
    if not p.classes:
        errors = (y - predicted).astype(np.float64)  # in units of the target's deviation
        peak = float(np.max(np.abs(errors))) or 1.0  # so that no square overflows
        return {
            "test_r2": metric(model.net.loss, predicted[:, None], y[:, None]),
            "test_rmse": float(np.sqrt(np.mean((errors / peak) ** 2))) * peak * p.target_scale,
            "test_mae": float(np.mean(np.abs(errors))) * p.target_scale,
        }
    from sklearn.metrics import precision_recall_fscore_support

    scores = precision_recall_fscore_support(
        y, predicted, labels=range(len(p.classes)), zero_division=0
    )
    keys = ("label", "precision", "recall", "f1", "support")
    rows = zip(p.classes, *(score.tolist() for score in scores), strict=True)
    return {
        "test_accuracy": float(np.mean(predicted == y)),
        "per_class": [dict(zip(keys, row, strict=True)) for row in rows],
    }


def print_summary(out: Console, report: dict[str, Any]) -> None:
    """The scores, the time and the files, after the training."""
    if "test_accuracy" in report:
        scores = RichTable("class", box=None, padding=(0, 2, 0, 0))
        for heading in ("precision", "recall", "f1", "support"):
            scores.add_column(heading, justify="right")
        for row in report["per_class"]:
            numbers = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            scores.add_row(shell.printable(str(row["label"])), *numbers, str(row["support"]))
        out.print(scores)
        n = report["rows"]["test"]
        correct = round(report["test_accuracy"] * n)
        out.print(f"test accuracy {report['test_accuracy']:.2%} ({correct} of {n})")
    else:
        out.print(
            f"test R^2 {report['test_r2']:.4f}; errors of {shell.printable(report['target'])!r}: root "
            f"mean square {report['test_rmse']:.4g}, mean absolute {report['test_mae']:.4g}"
        )
    out.print(f"{report['epochs']} epochs, {report['seconds']:.1f} s in total")
    written = [report["model"], *([report["plot"]] if report["plot"] else [])]
    out.print(f"wrote {shell.printable(' and '.join(written))}")
