"""The arguments of ``fit`` that are not data, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from portable_bp import rng
from portable_bp._names import squeezed
from portable_bp.equations import optimizers, schedules
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import ReduceOnPlateau, Schedule
from portable_bp.inputs import checks
from portable_bp.inputs.transfer import float_name
from portable_bp.mlp import MLP
from portable_bp.processes import Processes, current
from portable_bp.training.callbacks import Callback, EarlyStopping, EpochEnd, ProgressBar
from portable_bp.training.notebook import NotebookProgress, in_notebook
from portable_bp.training.policy import recorded_columns, watched_loss

LBFGS = "lbfgs"

REDUCTIONS = ("fast", "ordered")

MOST_PARTS = 2**15
"""Their numbers are counters of random words."""


@dataclass(frozen=True)
class FitOptions:
    """What :func:`portable_bp.fit` is asked for beside the data; see there for each.

    Attributes
    ----------
    optimizer : Optimizer or None
        None for L-BFGS.
    callbacks : list
        Those of the user, then early stopping and the progress bar.
    """

    optimizer: Optimizer | None
    schedule: Schedule
    batch_size: int | None
    epochs: int
    shuffle: bool
    clip_value: float | None
    clip_norm: float | None
    early: EarlyStopping | None
    callbacks: list[Callback]
    max_time: float | None
    dtype: str
    seed: int
    compile: bool
    report_loss: bool
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int | None
    checkpoint_keep: int
    resume: bool
    parts: int | None
    reduction: str
    shards: bool


def check_options(
    net: MLP,
    *,
    held: bool,
    optimizer: Any,
    learning_rate: Any,
    batch_size: Any,
    epochs: Any,
    shuffle: Any,
    clip_value: Any,
    clip_norm: Any,
    early_stopping: Any,
    callbacks: Any,
    progress: Any,
    max_time: Any,
    dtype: Any,
    seed: Any,
    compile: Any,
    report_loss: Any,
    checkpoint: Any,
    checkpoint_every: Any,
    checkpoint_keep: Any,
    resume: Any,
    parts: Any,
    reduction: Any,
    shards: Any,
) -> FitOptions:
    """Check the arguments of ``fit``, alone and against each other, before any work.

    Parameters
    ----------
    net : MLP
    held : bool
        Whether there are rows to judge epochs by.
    **others
        Those of :func:`portable_bp.fit`.

    Returns
    -------
    FitOptions

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what was given and what to do.
    """
    if not isinstance(net, MLP):
        raise TypeError(f"net must be a portable_bp.MLP, got {checks.shown(net)}")
    check_saving(checkpoint, checkpoint_every, resume)
    lbfgs = isinstance(optimizer, str) and squeezed(optimizer) == LBFGS
    early = None if early_stopping is None else _early_stopping(early_stopping)
    options = FitOptions(
        optimizer=None if lbfgs else optimizers.get(optimizer),
        schedule=schedules.get(learning_rate),
        batch_size=None if batch_size is None else checks.positive_int("batch_size", batch_size),
        epochs=checks.positive_int("epochs", epochs),
        shuffle=checks.boolean("shuffle", shuffle),
        clip_value=_limit("clip_value", clip_value),
        clip_norm=_limit("clip_norm", clip_norm),
        early=early,
        callbacks=_callbacks(callbacks, early, checks.boolean("progress", progress)),
        max_time=_limit("max_time", max_time),
        dtype=float_name(dtype),
        seed=rng.as_seed(seed),
        compile=checks.boolean("compile", compile),
        report_loss=checks.boolean("report_loss", report_loss),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        checkpoint_keep=checks.positive_int("checkpoint_keep", checkpoint_keep),
        resume=checks.boolean("resume", resume),
        parts=None if parts is None else checks.positive_int("parts", parts),
        reduction=_reduction(reduction, parts),
        shards=checks.boolean("shards", shards),
    )
    _check_watched(net, held, options)
    if lbfgs:
        _check_lbfgs(net, options)
    return options


def check_saving(checkpoint: Any, checkpoint_every: Any, resume: Any) -> None:
    """Check the path of a checkpoint directory, and that what needs one has one."""
    checks.boolean("resume", resume)
    if checkpoint_every is not None:
        checks.positive_int("checkpoint_every", checkpoint_every)
    if checkpoint is None:
        if resume or checkpoint_every is not None:
            raise ValueError(
                "resume and checkpoint_every need checkpoint, the directory of the run"
            )
    elif not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            f"checkpoint must be the path of a directory, got {checks.shown(checkpoint)}"
        )


def _reduction(reduction: Any, parts: Any) -> str:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}; got {checks.shown(reduction)}"
        )
    if reduction == "ordered" and (parts is None or parts & (parts - 1)):
        raise ValueError(
            "reduction='ordered' needs parts, a power of two, which the number of processes divides: it "
            f"is what the bits depend on; got parts={parts}"
        )
    return reduction


def check_parts(options: FitOptions, processes: Processes) -> None:
    """Check that these processes can share the parts, and can do what is asked for."""
    size, parts = processes.size, options.parts
    if parts is not None and parts % size:
        raise ValueError(
            f"parts={parts} cannot be shared by {size} processes: pass a multiple of {size}"
        )
    if (parts or size) > MOST_PARTS:
        raise ValueError(f"there can be at most {MOST_PARTS} parts; got {parts or size}")
    if options.shards and parts is not None:
        raise ValueError("shards=True has one part for each process: leave out parts and reduction")
    if options.optimizer is None and (size > 1 or parts is not None):
        raise ValueError(
            "optimizer='lbfgs' sees all rows in one process: it takes no parts, and cannot run in "
            "portable_bp.distributed; use an optimizer such as 'adam'"
        )


def _limit(name: str, value: Any) -> float | None:
    return None if value is None else checks.real(name, value, low=0, open_low=True)


def _callbacks(callbacks: Any, early: EarlyStopping | None, progress: bool) -> list[Callback]:
    """All callbacks of the run, as a new list."""
    if callable(callbacks):
        raise TypeError(
            f"callbacks must be a sequence of functions; pass [{checks.shown(callbacks)}]"
        )
    try:
        all_of_them: list[Callback] = list(callbacks)
    except TypeError:
        raise TypeError(
            f"callbacks must be a sequence of functions, got {checks.shown(callbacks)}"
        ) from None
    for callback in all_of_them:
        if not callable(callback):
            raise TypeError(
                f"callbacks must be functions of an EpochEnd, got {checks.shown(callback)}"
            )
    if early is not None:
        all_of_them.append(early)
    if progress:
        bar = NotebookProgress if in_notebook() else ProgressBar
        all_of_them.append(_no_bar if current().rank else bar())
    return all_of_them


def _no_bar(end: EpochEnd) -> None:
    """Process 0 shows it."""


def _early_stopping(value: Any) -> EarlyStopping:
    if isinstance(value, EarlyStopping):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return EarlyStopping(value)
    raise TypeError(
        "early_stopping must be an EarlyStopping or a number of epochs to wait; got "
        f"{checks.shown(value)}"
    )


def _check_watched(net: MLP, held: bool, options: FitOptions) -> None:
    """Check that what is watched will be recorded."""
    rates = options.optimizer is not None
    names = recorded_columns(net, held=held, report_loss=options.report_loss, rates=rates)
    row = dict.fromkeys(names, 0.0)
    for callback in options.callbacks:
        if isinstance(callback, EarlyStopping):
            callback.score(row)
    if isinstance(options.schedule, ReduceOnPlateau):
        watched_loss(row)


def _check_lbfgs(net: MLP, options: FitOptions) -> None:
    """Refuse what needs steps over mini-batches."""
    asked = {
        "dropout": any(net.dropout),
        "l1": net.l1,
        "clip_value": options.clip_value,
        "clip_norm": options.clip_norm,
        "a schedule": not isinstance(options.schedule, schedules.Constant),
        "checkpoint": options.checkpoint is not None,
        "report_loss=False": not options.report_loss,
    }
    for name, value in asked.items():
        if value:
            raise ValueError(
                f"{name} needs an optimizer that works in steps over mini-batches, such as 'adam'; "
                "got optimizer='lbfgs'"
            )
