"""``portable-bp train``: from a table to a model in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table as RichTable

from portable_bp import datasets, tabular
from portable_bp.backend import Backend
from portable_bp.backend.registry import choose_auto, get_backend
from portable_bp.cli import plot, shell
from portable_bp.equations.activations import ACTIVATIONS
from portable_bp.equations.optimizers import OPTIMIZERS
from portable_bp.mlp import MLP
from portable_bp.persistence import container
from portable_bp.tabular import Prepared, TabularModel
from portable_bp.training.callbacks import ProgressBar
from portable_bp.training.loop import fit
from portable_bp.training.model import Model

CODES = {"interrupted": shell.INTERRUPTED, "terminated": shell.TERMINATED}
"""How a training may have been stopped, to the exit code."""


class Widths(click.ParamType):  # type: ignore[type-arg]  # click 8.1 to 8.3: not subscriptable
    """Widths of hidden layers: ``128,64``, or ``none`` for a linear model."""

    name = "widths"

    def convert(self, value: Any, param: Any, context: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            self.fail(f"{value!r} is no list of widths such as 128,64 (or none)", param, context)
        return tuple(int(part) for part in parts)


@click.command()
@click.argument("source")
@click.option("--target", metavar="COLUMN", help="The column to learn.  [default: digit of the "
              "digits, y of an .npz file, the last column of an .npy file]")  # fmt: skip
@click.option("--task", type=click.Choice(tabular.TASKS), help="What to learn.  [default: what the "
              "target column looks like]")  # fmt: skip
@click.option(
    "--drop", metavar="COLUMN", multiple=True, help="Leave a column out; may be repeated."
)
@click.option("--hidden", type=Widths(), default="128,64", help="Widths of the hidden layers; none "
              "for a linear model.")  # fmt: skip
@click.option("--activation", type=click.Choice(sorted(ACTIVATIONS)), default="relu",
              help="Of the hidden layers.")  # fmt: skip
@click.option(
    "--epochs", type=click.IntRange(min=1), default=30, help="How often each row is seen."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Rows of a step.")
@click.option("--learning-rate", type=float, default=2e-3, help="A positive number.")
@click.option("--optimizer", type=click.Choice(sorted(OPTIMIZERS)), default="adam")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.2,
              help="The share of hidden units left out of a step.")  # fmt: skip
@click.option("--l2", type=click.FloatRange(min=0), default=0.0, help="Penalty l2/2 sum W^2.")
@click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), default=0,
              help="Start, split, order of the rows and dropout follow from it.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@shell.backend_option("Where to train: auto, numpy, cupy, cupy:1, torch, torch:cuda, jax, ...")
@click.option("--test-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2,
              help="The share of the rows that is kept apart to test on.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), default=Path("model.safetensors"),
              help="The file to write the model to.")  # fmt: skip
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw the curves of the "
              "training; the name says the format (.png, .svg, .pdf).")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="Save the run "
              "here, so that it can go on after an end of any kind.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), help="Steps between two checkpoints.  "
              "[default: those of an epoch]")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the run in the checkpoint directory.")
@click.option("--early-stopping", type=click.IntRange(min=1), metavar="EPOCHS", help="Stop after so "
              "many epochs without a better validation loss; keep the best model.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@shell.quiet_option
@click.pass_context
def train(context: click.Context, /, source: str, **options: Any) -> int:
    """Train a network on SOURCE: digits, or a .csv, .tsv, .parquet, .npy or .npz file.

    Columns are brought to mean 0 and deviation 1 (what this takes is kept in the model), a share of
    the rows is kept apart for the test, and the model is written to a file.
    """
    o = options
    if o["checkpoint"] is None and (o["resume"] or o["every"] is not None):
        raise click.UsageError("--resume and --every need --checkpoint DIR")
    out = shell.console(o["quiet"] or o["as_json"])
    began = time.perf_counter()
    container.require_library()
    shell.check_target(o["output"], source)
    shell.check_target(o["picture"], source, o["output"])
    if o["picture"] is not None:
        plot.check(o["picture"])
    backend, why = choose(o["backend"], context)
    table = datasets.load(source)
    ready = tabular.prepare(
        table, o["target"], o["task"], drop=o["drop"], test_share=o["test_share"], seed=o["seed"]
    )
    net = ready.network(o["hidden"], hidden=o["activation"], dropout=o["dropout"], l2=o["l2"])
    parts = ready.parts
    bar = IntroducedBar(out, partial(introduce, out, table, ready, backend, why, net))
    model = fit(
        net,
        *ready.part(parts.train),
        validation=ready.part(parts.validation) if len(parts.validation) else None,
        optimizer=o["optimizer"],
        learning_rate=o["learning_rate"],
        batch_size=o["batch_size"],
        epochs=o["epochs"],
        early_stopping=o["early_stopping"],
        callbacks=[bar],
        backend=backend,
        dtype=o["dtype"],
        seed=o["seed"],
        checkpoint=o["checkpoint"],
        every=o["every"],
        resume=o["resume"],
    )
    code = CODES.get(model.stopped, 0)
    if code and o["checkpoint"] is not None:
        shell.say(f"{model.stopped}; the run is kept in {o['checkpoint']}: go on with --resume")
        return code
    found = judge(ready, model)
    saved = TabularModel(ready.preparation, model)
    with shell.failing(o["output"]):
        saved.save(o["output"])
    picture = o["picture"] if model.history.epochs else None
    if picture is not None:
        shell.write(picture, plot.draw(model.history, picture))
    told = {
        "source": table.source,
        "task": ready.preparation.task,
        "why": ready.why,
        "target": ready.preparation.target,
        "classes": list(ready.preparation.classes),
        "rows": {name: len(rows) for name, rows in parts._asdict().items()},
        "backend": backend.spec,
        "backend_why": why,
        "layers": list(net.sizes),
        "parameters": net.n_parameters,
        "epochs": len(model.history.epochs),
        "best_epoch": model.best_epoch,
        "stopped": model.stopped,
        "seconds": time.perf_counter() - began,
        **found,
        "history": model.history.epochs,
        "model": str(o["output"]),
        "plot": None if picture is None else str(picture),
    }
    if o["as_json"]:
        click.echo(json.dumps(told))
    conclude(out, ready, told)
    if code:
        shell.say(f"{model.stopped}; {o['output']} is the best model so far")
    return code


class IntroducedBar(ProgressBar):
    """A progress bar below an introduction: both come when everything has been found in order."""

    def __init__(self, console: Console, introduction: Callable[[], None]) -> None:
        super().__init__(console)
        self._introduction = introduction

    def begin(self, net: MLP, epochs: int) -> None:
        """Introduce, and show the empty bar."""
        self._introduction()
        super().begin(net, epochs)


def choose(spec: str, context: click.Context) -> tuple[Backend, str]:
    """The backend, and why it is this one."""
    if spec == "auto":
        spec, why = choose_auto()
        return get_backend(spec), why
    asked = context.get_parameter_source("backend") is ParameterSource.COMMANDLINE
    return get_backend(spec), "as asked" if asked else "as PORTABLE_BP_BACKEND says"


def introduce(
    out: Console, table: datasets.Table, ready: Prepared, backend: Backend, why: str, net: MLP
) -> None:
    """What will be done, before it is done."""
    p, parts = ready.preparation, ready.parts
    classes = f" into {len(p.classes)} classes" if p.classes else ""
    note = f" ({table.note})" if table.note else ""
    out.print(f"table    {shell.printable(table.source)}: {table.rows:,} rows, "
              f"{len(p.features):,} features{note}")  # fmt: skip
    out.print(f"target   {p.target!r}: {p.task}{classes} ({ready.why})")
    out.print(f"rows     {len(parts.train):,} to train on, {len(parts.validation):,} to watch it, "
              f"{len(parts.test):,} to test on")  # fmt: skip
    out.print(f"backend  {backend.spec}: {why}")
    layers = RichTable("layer", "activation", box=None, padding=(0, 2, 0, 0))
    for heading in ("units", "parameters"):
        layers.add_column(heading, justify="right")
    layers.add_row("input", "", f"{net.sizes[0]:,}", "")
    for l, ((W, b), f) in enumerate(zip(net.shapes, net.activations, strict=True), start=1):
        name = "output" if l == len(net.shapes) else f"hidden {l}"
        layers.add_row(name, f.name, f"{W[1]:,}", f"{W[0] * W[1] + b[0]:,}")
    layers.add_row("total", net.loss.name, "", f"{net.n_parameters:,}")
    out.print(layers)


def judge(ready: Prepared, model: Model) -> dict[str, Any]:
    """How the model does on the rows that it has not seen."""
    p = ready.preparation
    X, y = ready.part(ready.parts.test)
    if not p.classes:
        off = (y - np.asarray(model.predict(X))) * p.target_scale
        return {
            "test_r2": model.score(X, y),
            "test_rmse": float(np.sqrt(np.mean(off**2))),
            "test_mae": float(np.mean(np.abs(off))),
        }
    predicted = np.asarray(model.predict(X))
    scores = tabular.class_scores(p.classes, y, predicted)
    return {
        "test_accuracy": float(np.mean(predicted == y)),
        "per_class": [score._asdict() for score in scores],
    }


def conclude(out: Console, ready: Prepared, told: dict[str, Any]) -> None:
    """What came of it."""
    if "test_accuracy" in told:
        scores = RichTable("class", box=None, padding=(0, 2, 0, 0))
        for heading in ("precision", "recall", "f1", "support"):
            scores.add_column(heading, justify="right")
        for row in told["per_class"]:
            shares = (f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            scores.add_row(shell.printable(str(row["label"])), *shares, str(row["support"]))
        out.print(scores)
        n = told["rows"]["test"]
        right = round(told["test_accuracy"] * n)
        out.print(f"test accuracy {told['test_accuracy']:.2%} ({right} of {n})")
    else:
        out.print(
            f"test R^2 {told['test_r2']:.4f}; errors of {ready.preparation.target!r}: root mean square "
            f"{told['test_rmse']:.4g}, mean absolute {told['test_mae']:.4g}"
        )
    out.print(f"{told['epochs']} epochs, {told['seconds']:.1f} s in all")
    written = [told["model"], *([told["plot"]] if told["plot"] else [])]
    out.print(f"wrote {shell.printable(' and '.join(written))}")
