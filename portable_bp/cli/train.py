"""``portable-bp train``: from a table to a model in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from portable_bp import datasets
from portable_bp.backend import Backend
from portable_bp.backend.registry import choose_auto, get_backend
from portable_bp.cli import large, plot, shell
from portable_bp.cli.kinds import options as columns_options
from portable_bp.cli.report import evaluate, print_setup, print_summary
from portable_bp.equations.activations import ACTIVATIONS
from portable_bp.equations.optimizers import OPTIMIZERS
from portable_bp.mlp import MLP
from portable_bp.persistence import atomic, container
from portable_bp.processes import current, distributed
from portable_bp.tables.large import PreparedSource, SourceFacts
from portable_bp.tabular import Prepared, TabularModel
from portable_bp.training.callbacks import ProgressBar
from portable_bp.training.fit import fit
from portable_bp.training.model import Model

CODES = {"interrupted": shell.INTERRUPTED, "terminated": shell.TERMINATED}
"""From why a training was stopped to the exit code."""


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
            self.fail(
                f"invalid layer widths {value!r}: expected e.g. 128,64, or none", param, context
            )
        return tuple(int(part) for part in parts)


@click.command()
@click.argument("source", shell_complete=shell.complete_source)
@shell.header_option
@shell.query_option
@columns_options
@click.option("--hidden", type=Widths(), default="128,64", help="Widths of the hidden layers; none "
              "for a linear model.")  # fmt: skip
@click.option("--activation", type=click.Choice(sorted(ACTIVATIONS)), default="relu",
              help="Activation of the hidden layers.")  # fmt: skip
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=30,
    help="Number of passes over the training data.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, help="Examples per mini-batch."
)
@click.option("--learning-rate", type=float, default=2e-3, help="Step size of the optimizer.")
@click.option("--optimizer", type=click.Choice(sorted(OPTIMIZERS)), default="adam")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.2,
              help="Probability of dropping a hidden unit.")  # fmt: skip
@click.option("--l2", type=click.FloatRange(min=0), default=0.0, help="Penalty l2/2 sum W^2.")
@click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), default=0,
              help="Seed of initial weights, split, order of rows and dropout.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@shell.backend_option("Where to train: auto, numpy, cupy, cupy:1, torch, torch:cuda, jax, ...")
@shell.test_share_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("model.safetensors"),
              help="Write the model to this file.")  # fmt: skip
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Plot the history of "
              "the training to this file (.png, .svg, .pdf).")  # fmt: skip
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="Save "
              "checkpoints to this directory, so that the run can be resumed.")  # fmt: skip
@click.option("--every", type=click.IntRange(min=1), help="Steps between checkpoints.  "
              "[default: one epoch]")  # fmt: skip
@click.option("--resume", is_flag=True, help="Resume the run in the checkpoint directory.")
@click.option("--early-stopping", type=click.IntRange(min=1), metavar="EPOCHS", help="Stop after "
              "this many epochs without a lower validation loss, and keep the best model.")  # fmt: skip
@click.option("--distributed", metavar="ENGINE", help="Train on all processes that a launcher has "
              "started: mpi for mpiexec and srun, torch for torchrun.")  # fmt: skip
@shell.json_option
@shell.quiet_option
@click.pass_context
def train(context: click.Context, /, source: str, **options: Any) -> int:
    """Train a network on SOURCE and write the model to a file.

    SOURCE is digits; a .csv, .tsv or .jsonl file (also .gz, .zst); a .parquet, .feather, .arrow, .xlsx,
    .npy or .npz file; - for CSV from standard input; or a database, as sqlite:///FILE. What each column
    is (numbers, categories, dates, ...) is inferred and printed; the model keeps what was learnt of it.
    Some of the rows are held out for the test. Folders, patterns ("part-*.parquet"), and .parquet and
    .npy files that exceed a share of the memory are read in windows, and their columns are numbers.
    """
    engine = options["distributed"]
    with nullcontext() if engine is None else distributed(engine):
        return _train(context, source, options)


def _train(context: click.Context, source: str, o: Mapping[str, Any]) -> int:
    """The command, on each process; the first one prints and writes."""
    processes, began = current(), time.perf_counter()
    out = shell.console(o["quiet"] or o["as_json"] or processes.rank > 0)
    with processes.agreeing():
        if o["checkpoint"] is None and (o["resume"] or o["every"] is not None):
            raise click.UsageError("--resume and --every need --checkpoint DIR")
        container.require_library()
        shell.check_target(o["output"], source)
        shell.check_target(o["picture"], source, o["output"])
        if o["picture"] is not None:
            plot.check(o["picture"])
        backend, why = choose(o["backend"], context)
        table, ready = large.loaded(source, o)
        net = ready.preparation.network(
            o["hidden"], hidden=o["activation"], dropout=o["dropout"], l2=o["l2"]
        )
    bar = IntroducedBar(out, partial(print_setup, out, table, ready, backend, why, net))
    model = run(net, ready, o, callbacks=[bar], backend=backend)
    code = CODES.get(model.stopped, 0)

    def finish() -> None:
        if code and o["checkpoint"] is not None:
            shell.say(f"{model.stopped}; saved in {o['checkpoint']}: continue with --resume")
            return
        report = made_of(table, ready, model, backend, why, o, began)
        if o["as_json"]:
            shell.print_json(report)
        print_summary(out, report)
        if code:
            shell.say(f"{model.stopped}; {o['output']} is the best model so far")

    processes.on_first(finish)
    return code


def made_of(
    table: datasets.Table | SourceFacts,
    ready: Prepared | PreparedSource,
    model: Model,
    backend: Backend,
    why: str,
    o: Mapping[str, Any],
    began: float,
) -> dict[str, Any]:
    """The report of a run whose model is written now."""
    scores = evaluate(ready, model)
    rows = {name: len(rows) for name, rows in ready.parts._asdict().items()}
    facts = {
        "source": shell.printable(table.source),
        "rows": rows,
        "scores": {k: shell.finite(v) for k, v in scores.items() if k.startswith("test_")},
    }
    return {
        "source": table.source,
        "note": table.note,
        "task": ready.preparation.task,
        "why": ready.why,
        "target": ready.preparation.target,
        "classes": list(ready.preparation.classes),
        "columns": [treatment._asdict() for treatment in ready.report],
        "left_out": ready.left_out,
        "rows": rows,
        "backend": backend.spec,
        "backend_why": why,
        "layers": list(model.net.sizes),
        "parameters": model.net.n_parameters,
        "epochs": len(model.history.epochs),
        "best_epoch": model.best_epoch,
        "stopped": model.stopped,
        **scores,
        "history": model.history.epochs,
        **write(ready, model, facts, o["output"], o["picture"]),
        "seconds": time.perf_counter() - began,
    }


def run(net: MLP, ready: Prepared | PreparedSource, o: Mapping[str, Any], **options: Any) -> Model:
    """The network trained on the training rows, as the options of the command say."""
    rows, held = ready.training_data()
    return fit(
        net,
        *rows,
        validation=held,
        optimizer=o["optimizer"],
        learning_rate=o["learning_rate"],
        batch_size=o["batch_size"],
        epochs=o["epochs"],
        early_stopping=o["early_stopping"],
        dtype=o["dtype"],
        seed=o["seed"],
        checkpoint=o["checkpoint"],
        checkpoint_every=o["every"],
        resume=o["resume"],
        **options,
    )


def write(
    ready: Prepared | PreparedSource,
    model: Model,
    facts: dict[str, Any],
    output: Path,
    picture: Path | None,
) -> dict[str, str | None]:
    """Write the model and, if asked for, the plot of its history and test rows; where they are."""
    with shell.failing(output):
        TabularModel(ready.preparation, model, facts).save(output)
    if picture is None or not model.history.epochs:
        return {"model": str(output), "plot": None}
    with shell.failing(picture):
        atomic.write(picture, plot.draw(model, ready, picture))
    return {"model": str(output), "plot": str(picture)}


class IntroducedBar(ProgressBar):
    """A progress bar below the setup; both are printed once all arguments have been checked."""

    def __init__(self, console: Console, introduction: Callable[[], None]) -> None:
        super().__init__(console)
        self._introduction = introduction

    def on_train_begin(self, net: MLP, epochs: int) -> None:
        """Print the setup and the empty bar."""
        self._introduction()
        super().on_train_begin(net, epochs)


def choose(spec: str, context: click.Context) -> tuple[Backend, str]:
    """The backend, and the reason for it."""
    if spec == "auto":
        spec, why = choose_auto()
        return get_backend(spec), why
    asked = context.get_parameter_source("backend") is ParameterSource.COMMANDLINE
    return get_backend(spec), "as asked" if asked else "from PORTABLE_BP_BACKEND"
