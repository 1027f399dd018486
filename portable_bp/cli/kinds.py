"""How ``train`` is told what columns are, and how it tells."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from portable_bp.cli import shell
from portable_bp.datasets import Table
from portable_bp.tables.kinds import Kind
from portable_bp.tabular import KINDS, TASKS, Prepared, Treatment, prepare, prepare_inferred

MOST_COLUMNS = 40
"""So many columns are told; the JSON report has all."""


def options(command: Any) -> Any:
    """The options that say which columns are learnt, and what they are."""
    for option in (
        click.option("--strict", is_flag=True, help="Take numbers alone, as they are: refuse text "
                     "among the features, missing values, dates."),
        click.option("--kind", "kinds", metavar="COLUMN=KIND", multiple=True, help=f"What a column is: "
                     f"{', '.join(KINDS)}; may be repeated."),
        click.option("--columns", type=click.Path(path_type=Path), metavar="FILE",
                     help="A JSON or TOML file with such kinds by the names of columns."),
        click.option("--drop", metavar="COLUMN", multiple=True, help="Leave out a column; may be "
                     "repeated."),
        click.option("--task", type=click.Choice(TASKS), help="Kind of target.  [default: inferred "
                     "from the column]"),
        click.option("--target", metavar="COLUMN", help="The column to predict.  [default: digit of "
                     "the digits, y of an .npz file, the last column of an .npy file]"),
    ):  # fmt: skip
        command = option(command)
    return command


def prepared(table: Table, o: Mapping[str, Any]) -> Prepared:
    """The table as the options of the command say."""
    shares = {"drop": o["drop"], "test_share": o["test_share"], "seed": o["seed"]}
    if not o["strict"]:
        kinds = _kinds(o["columns"], o["kinds"])
        return prepare_inferred(table, o["target"], o["task"], kinds=kinds, **shares)
    if o["columns"] is not None or o["kinds"]:
        raise click.UsageError("--strict takes numbers alone: leave out --columns and --kind")
    return prepare(table, o["target"], o["task"], **shares)


def _kinds(path: Path | None, pairs: Sequence[str]) -> dict[str, Kind]:
    """The kinds in a file, then those on the command line."""
    kinds: dict[str, Any] = {} if path is None else _read(path)
    for pair in pairs:
        name, equals, kind = pair.rpartition("=")
        if not equals:
            raise click.UsageError(f"--kind {pair!r}: expected COLUMN=KIND, such as zip=category")
        kinds[name] = kind
    return kinds


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        kinds = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON or TOML: {error}") from error
    if not isinstance(kinds, dict) or not all(isinstance(kind, str) for kind in kinds.values()):
        raise ValueError(
            f'{path} must hold kinds by the names of columns, such as {{"zip": "category"}}'
        )
    return kinds


def print_report(out: Console, report: Sequence[Treatment]) -> None:
    """What was done with each column, as a table."""
    if not report:
        return
    rows = [("column", "kind", "missing", "what is done")]
    rows += [
        (shell.printable(name), kind, f"{100 * missing:.1f} %" if missing else "", done)
        for name, kind, missing, done in report[:MOST_COLUMNS]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, kind, missing, done in rows:  # a line each, however long: rich would break them
        line = f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {missing:>{widths[2]}}  {done}"
        out.print(shell.printable(line))
    if len(report) > MOST_COLUMNS:
        out.print(f"... and {len(report) - MOST_COLUMNS:,} more columns")
