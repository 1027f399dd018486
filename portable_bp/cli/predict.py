"""``portable-bp predict``: labels or quantities for the rows of a table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import click

from portable_bp import datasets, tabular
from portable_bp.cli import shell


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", metavar="FILE")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write CSV here instead of printing."
)
@click.option("--probabilities", is_flag=True, help="Also the probability of each class.")
@shell.backend_option("Where to compute: auto, numpy, cupy, torch, jax, ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@shell.quiet_option
def predict(
    model: Path,
    source: str,
    output: Path | None,
    probabilities: bool,
    backend: str,
    as_json: bool,
    quiet: bool,
) -> int:
    """Predict every row of FILE (as train takes it) with MODEL, a file that train wrote.

    FILE needs the columns that the model was trained on, in any order; others are passed over.
    Prints CSV: one line for each row, and a heading.
    """
    shell.check_target(output, source, model)
    fitted = tabular.load(model, backend)
    table = datasets.load(source)
    told: dict[str, Any] = {"model": str(model), "source": table.source}
    told["target"] = fitted.preparation.target
    told["predictions"] = predictions = fitted.predict(table)
    heading: list[Any] = [fitted.preparation.target]
    rows: list[list[Any]] = [[value] for value in predictions]
    if probabilities:
        shares = fitted.probabilities(table).tolist()
        told["classes"], told["probabilities"] = list(fitted.preparation.classes), shares
        heading += [f"probability of {label}" for label in fitted.preparation.classes]
        rows = [[*row, *share] for row, share in zip(rows, shares, strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heading, *rows])
    if output is not None:
        shell.write(output, text.getvalue().encode())
    if as_json:
        click.echo(json.dumps(told))
    elif output is None and not quiet:
        click.echo(text.getvalue(), nl=False)
    shell.console(quiet or as_json or output is None).print(f"wrote {output}")
    return 0
