"""``portable-bp predict``: labels or quantities for the rows of a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from portable_bp import datasets, tabular
from portable_bp.cli import shell
from portable_bp.persistence import atomic


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", metavar="FILE", shell_complete=shell.complete_source)
@shell.header_option
@shell.query_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write CSV to this file instead of printing it.",
)
@click.option("--probabilities", is_flag=True, help="Add the probability of each class.")
@shell.backend_option("Where to compute: auto, numpy, cupy, torch, jax, ...")
@shell.json_option
@shell.quiet_option
def predict(
    model: Path,
    source: str,
    header: bool | None,
    query: str | None,
    output: Path | None,
    probabilities: bool,
    backend: str,
    as_json: bool,
    quiet: bool,
) -> int:
    """Predict every row of FILE with MODEL, a file that train wrote.

    FILE is a table as for train, or - for CSV from standard input. It needs the columns that the
    model was trained on, in any order; other columns are ignored. Prints CSV: a header, and one line
    for each row.
    """
    shell.check_target(output, source, model)
    fitted = tabular.load(model, backend)
    table = datasets.load(source, header, query=query)
    p = fitted.preparation
    report: dict[str, Any] = {"model": str(model), "source": table.source, "note": table.note}
    report["target"] = p.target
    report["predictions"] = predictions = fitted.predict(table)
    names: list[Any] = [p.target]
    rows: list[list[Any]] = [[value] for value in predictions]
    if probabilities:
        per_class = fitted.probabilities(table).tolist()
        report["classes"], report["probabilities"] = list(p.classes), per_class
        names += [f"probability of {label}" for label in p.classes]
        rows = [[*row, *values] for row, values in zip(rows, per_class, strict=True)]
    text = _as_csv([names, *rows])
    if output is not None:
        with shell.failing(output):
            atomic.write(output, text.encode(errors="backslashreplace"))
    if as_json:
        shell.print_json(report)
        return 0
    if table.note and not quiet:
        shell.say(f"note: {table.source}: {table.note}")
    if output is None and not quiet:
        print(text, end="")
    shell.console(quiet or output is None).print(f"wrote {shell.printable(str(output))}")
    return 0


def _as_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
