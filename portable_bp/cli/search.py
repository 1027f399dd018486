"""``portable-bp search``: many networks on a table within a time, and the best of them in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from portable_bp.backend import Backend
from portable_bp.cli import large, shell
from portable_bp.cli.kinds import options as columns_options
from portable_bp.cli.report import print_setup, print_summary
from portable_bp.cli.train import choose, made_of
from portable_bp.mlp import MLP
from portable_bp.persistence import container
from portable_bp.tabular import Prepared
from portable_bp.training.fit import fit
from portable_bp.training.fit_many import fit_many
from portable_bp.training.model import Model

TOGETHER = 8
"""Candidates of a round: they have equal layers and batches, and train side by side."""

WIDTHS = ((32,), (64,), (128,), (64, 32), (128, 64), (128, 64, 32))
BATCHES = (32, 64, 128)
EPOCHS, PATIENCE = 60, 6
SHOWN = 10
"""How many candidates are listed."""


class Candidate(NamedTuple):
    """A setting, and how it did on the validation rows."""

    hidden: tuple[int, ...]
    batch_size: int
    learning_rate: float
    l2: float
    dropout: float
    seed: int
    loss: float
    score: float
    epochs: int


@click.command()
@click.argument("source", shell_complete=shell.complete_source)
@shell.header_option
@shell.query_option
@columns_options
@click.option("--time", "seconds", type=click.FloatRange(min=0, min_open=True), default=60.0,
              help="Seconds to search for; the last round may be cut short.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), default=0,
              help="Seed of the candidates, the split and the training.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@shell.backend_option("Where to train: auto, numpy, cupy, cupy:1, torch, torch:cuda, jax, ...")
@shell.test_share_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("model.safetensors"),
              help="Write the best model to this file.")  # fmt: skip
@shell.json_option
@shell.quiet_option
@click.pass_context
def search(context: click.Context, /, source: str, **options: Any) -> int:
    """Search layers, rates and penalties for SOURCE within a time; write the best model to a file.

    Candidates are drawn at random, and judged by their loss on validation rows. The best is trained
    anew on the training and validation rows together, and tested on rows that no candidate has seen.
    SOURCE is as train takes it.
    """
    o = options | {"picture": None}
    began = time.perf_counter()
    out = shell.console(o["quiet"] or o["as_json"])
    container.require_library()
    shell.check_target(o["output"], source)
    backend, why = choose(o["backend"], context)
    table, ready = large.loaded(source, o)
    if not isinstance(ready, Prepared) or not len(ready.parts.validation):
        raise ValueError(
            f"{source} cannot be searched: it needs a table that fits in memory, with rows enough to "
            "judge by"
        )
    candidates = _searched(out, ready, o, backend, began + o["seconds"])
    best = candidates[0]
    net = _network(ready, best)
    print_setup(out, table, ready, backend, why, net)
    _print_candidates(out, candidates)
    model = _refit(net, ready, best, o, backend)
    report = made_of(table, ready, model, backend, why, o, began)
    report["candidates"] = [candidate._asdict() for candidate in candidates[:SHOWN]]
    report["tried"] = len(candidates)
    if o["as_json"]:
        shell.print_json(report)
    print_summary(out, report)
    return 0


def _searched(
    out: Console, ready: Prepared, o: Mapping[str, Any], backend: Backend, deadline: float
) -> list[Candidate]:
    """What was tried until the time was up, the best first."""
    random = np.random.RandomState(o["seed"] % 2**32)
    candidates: list[Candidate] = []
    with _bar(out, o["seconds"]) as advance:
        while not candidates or time.perf_counter() < deadline:
            # The first round may take what it needs to end its first epoch.
            left = max(1e-3, deadline - time.perf_counter())
            candidates += _round(random, ready, o, backend, left)
            candidates.sort(key=lambda c: c.loss)
            advance(candidates)
    if not np.isfinite(candidates[0].loss):
        raise shell.Failure("no candidate had a finite loss on the validation rows")
    return candidates


def _round(
    random: np.random.RandomState, ready: Prepared, o: Mapping[str, Any], backend: Backend,
    left: float,
) -> list[Candidate]:  # fmt: skip
    """Some candidates of equal layers, side by side."""
    hidden, batch = WIDTHS[random.randint(len(WIDTHS))], BATCHES[random.randint(len(BATCHES))]
    rates = np.exp(random.uniform(np.log(3e-4), np.log(2e-2), TOGETHER)).tolist()
    penalties = np.exp(random.uniform(np.log(1e-6), np.log(1e-2), TOGETHER)).tolist()
    dropped = random.uniform(0.05, 0.4, TOGETHER) if random.randint(2) else np.zeros(TOGETHER)
    seeds = random.randint(2**31 - 1, size=TOGETHER).tolist()
    models = fit_many(
        ready.network(hidden), *ready.part(ready.parts.train),
        validation=ready.part(ready.parts.validation), seeds=seeds, learning_rate=rates,
        l2=penalties, dropout=dropped.tolist(), batch_size=batch, epochs=EPOCHS,
        early_stopping=PATIENCE, max_time=left, dtype=o["dtype"], backend=backend,
    )  # fmt: skip
    settings = zip(rates, penalties, dropped.tolist(), seeds, strict=True)
    return [
        Candidate(hidden, batch, *setting, *_judged(model))
        for setting, model in zip(settings, models, strict=True)
    ]


def _judged(model: Model) -> tuple[float, float, int]:
    """The loss and the score on the validation rows, and after how many epochs."""
    if model.stopped == "diverged" or not model.history.epochs:
        return float("inf"), float("nan"), 1
    epochs = model.best_epoch or len(model.history.epochs)
    row = model.history.epochs[epochs - 1]
    (score,) = (v for k, v in row.items() if k in ("validation_accuracy", "validation_r2"))
    loss = row["validation_loss"]
    return (loss if np.isfinite(loss) else float("inf")), score, epochs


def _network(ready: Prepared, c: Candidate) -> MLP:
    return ready.network(c.hidden, dropout=c.dropout, l2=c.l2)


def _refit(
    net: MLP, ready: Prepared, c: Candidate, o: Mapping[str, Any], backend: Backend
) -> Model:
    """The best setting on all rows but those of the test."""
    rows = np.sort(np.concatenate([ready.parts.train, ready.parts.validation]))
    return fit(
        net, *ready.part(rows), learning_rate=c.learning_rate, batch_size=c.batch_size,
        epochs=c.epochs, seed=c.seed, dtype=o["dtype"], backend=backend,
    )  # fmt: skip


@contextmanager
def _bar(out: Console, seconds: float) -> Iterator[Any]:
    """A bar over the time, with the best so far."""
    bar = Progress(
        TextColumn("search"), BarColumn(bar_width=16), TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(), console=out,
    )  # fmt: skip
    began = time.perf_counter()
    with bar:
        task = bar.add_task("search", total=seconds, best="")

        def advance(candidates: list[Candidate]) -> None:
            best = candidates[0]
            words = f"{len(candidates)} tried, best loss {best.loss:.4g}, score {best.score:.4f}"
            bar.update(task, completed=min(seconds, time.perf_counter() - began), best=words)

        yield advance


def _print_candidates(out: Console, candidates: list[Candidate]) -> None:
    table = RichTable("hidden", box=None, padding=(0, 2, 0, 0))
    for heading in ("batch", "rate", "l2", "dropout", "epochs", "loss", "score"):
        table.add_column(heading, justify="right")
    for c in candidates[:SHOWN]:
        numbers = (f"{c.learning_rate:.2g}", f"{c.l2:.2g}", f"{c.dropout:.2f}", str(c.epochs))
        table.add_row(
            ",".join(map(str, c.hidden)), str(c.batch_size), *numbers, f"{c.loss:.4g}",
            f"{c.score:.4f}",
        )  # fmt: skip
    out.print(table)
