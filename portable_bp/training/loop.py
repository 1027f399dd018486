"""Epochs over mini-batches: the training loop. What a step computes stands in ``equations``."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from portable_bp import rng
from portable_bp._names import suggests
from portable_bp._params import as_pairs, check_memory, checked_params, place_params
from portable_bp._typing import Array, HostArray, Params, Step, Tree
from portable_bp.backend import Backend, EagerRunner, Runner, leaves
from portable_bp.backend.memory import translate_oom
from portable_bp.backend.registry import get_backend, owner, resolve
from portable_bp.equations import activations, losses, optimizers, schedules
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import ReduceOnPlateau, Schedule
from portable_bp.errors import CheckpointError, DivergenceError
from portable_bp.inputs import checks, examples, labels
from portable_bp.inputs.examples import Rows
from portable_bp.inputs.spec import NetSpec
from portable_bp.inputs.transfer import float_name, to_backend
from portable_bp.mlp import MLP
from portable_bp.persistence import documents
from portable_bp.training import blocks, divergence, recovery
from portable_bp.training.callbacks import Callback, EarlyStopping, EpochEnd, ProgressBar
from portable_bp.training.feed import Feed, Piece, Resident, Streamed, must_stream, select
from portable_bp.training.history import History
from portable_bp.training.metrics import metric, metric_name
from portable_bp.training.model import Model
from portable_bp.training.step import StepPlan, make_step

if TYPE_CHECKING:
    from portable_bp.persistence.checkpoints import CheckpointDirectory

ONE_HOT_ENTRIES = 2**24
"""Labels of at most this many one-hot entries are expanded once, larger ones batch by batch."""

SNAPSHOT_SECONDS = 0.5
"""How much training a snapshot of the state may be behind: what an interruption can cost."""

SIGNAL_STEPS, SIGNAL_WORK = 500, 10**11
"""With a checkpoint directory, at most so many steps, and at most about so many multiplications and
additions (some seconds of one processor core), run between two looks at the signals."""

TO_LOWER = (
    "batch_size or the layer sizes; features handed in as a NumPy array or a memory map are sent piece "
    "by piece when the device cannot hold them"
)
"""What to do when the memory does not suffice."""

Test: TypeAlias = "tuple[Any, HostArray, HostArray | None]"
"""Held-out features on the device or host; targets (n, k) and weights on the host."""


@suggests()
def fit(
    net: MLP,
    X: Any,
    y: Any,
    *,
    optimizer: str | Optimizer = "adam",
    learning_rate: float | Schedule = 1e-3,
    batch_size: int | None = 128,
    epochs: int = 20,
    validation: Any = None,
    sample_weight: Any = None,
    shuffle: bool = True,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    early_stopping: EarlyStopping | int | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    max_time: float | None = None,
    backend: str | Backend | None = None,
    dtype: str = "float32",
    seed: int = 0,
    params: Params | None = None,
    compile: bool = True,
    report_loss: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    keep: int = 3,
    resume: bool = False,
) -> Model:
    """Train a network by gradient descent.

    Parameters
    ----------
    net : MLP
    X : (n, inputs), finite numbers of any library; host data are moved to ``backend``, and a tensor
        that requires a gradient is detached
    y : (n, outputs), or (n,) for one output; class labels as integers (n,) or one-hot rows
    optimizer : ``sgd``, ``momentum``, ``nesterov``, ``adagrad``, ``rmsprop``, ``adam``, ``adamw``, or
        an Optimizer
    learning_rate : a positive number, or a Schedule such as ``schedules.Cosine(1e-3)``
    batch_size : int or None
        Rows per step: 1 is stochastic gradient descent, None (or a number beyond that of the rows)
        takes all rows at once (batch gradient descent), anything between is mini-batch. The last
        batch of an epoch may be smaller.
    epochs : int
        How often every row is seen.
    validation : float, (X, y), (X, y, sample_weight) or None
        A share of the rows to hold out, or data of your own: after each epoch the loss (its data
        term, without penalties) and the accuracy or R squared on them are recorded.
    sample_weight : (n,), not negative, optional
    shuffle : bool
        A new order of the rows each epoch.
    clip_value, clip_norm : float, optional
        Bring each entry of the gradient into [-clip_value, clip_value]; scale the whole gradient to
        a norm of at most clip_norm.
    early_stopping : EarlyStopping, int or None
        Stop after that many epochs without improvement, and give back the best parameters.
    callbacks : functions of an :class:`~portable_bp.EpochEnd`
        Called after each epoch; one that returns True stops.
    progress : bool
        Show a progress bar.
    max_time : float, optional
        Seconds after which no further epoch starts.
    backend : str, Backend or None
        Where to train; None follows the arrays (see :func:`portable_bp.get_backend`).
    dtype : "float32" or "float64"
    seed : int
        Start parameters, order of the rows, dropout and the split follow from it, the same on every
        backend.
    params : pairs (W, b), optional
        Start from these instead of ``net.init(seed)``; they are not changed.
    compile : bool
        Let the backend compile the step; the numbers are the same.
    report_loss : bool
        With False the training loss is not computed and the history has no ``loss``: a little
        faster for very small networks.
    checkpoint : path, optional
        A directory to save the run in; needs ``safetensors``. Nothing is lost when the process is
        killed: see ``resume``. While it is open, SIGINT, SIGTERM and SIGUSR1 finish the step, save,
        and end the training; ``model.stopped`` names the signal.
    every : int, optional
        Steps between two checkpoints; by default one at the end of each epoch.
    keep : int
        How many checkpoints stay, the newest ones.
    resume : bool
        Go on from the newest valid checkpoint in the directory, if there is one. The run ends with
        the same bits as one that was never interrupted, on the same backend.

    Returns
    -------
    Model
        Ctrl-C ends the training with the best model so far (the best on the validation data if
        there are any, else that of the last whole epoch); ``model.stopped`` says so.

    Raises
    ------
    ValueError, TypeError
        For bad input, before any training.
    DivergenceError
        When the loss or a parameter is no longer finite; its ``model`` has the last finite ones.
    OutOfMemoryError
        When the device cannot hold what was asked for; nothing handed in has changed.
    CheckpointError
        When the directory is in use, holds another run, or holds one and ``resume`` is not set.

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> net = portable_bp.MLP([2, 8, 1], hidden="tanh", loss="log_loss")
    >>> model = portable_bp.fit(net, X, [0, 1, 1, 0], learning_rate=0.1, epochs=100, batch_size=None)
    >>> [int(label) for label in model.predict(X)]
    [0, 1, 1, 0]
    """
    began = time.perf_counter()
    if not isinstance(net, MLP):
        raise TypeError(f"net must be a portable_bp.MLP, got {checks.shown(net)}")
    optimizer, schedule = optimizers.get(optimizer), schedules.get(learning_rate)
    name = float_name(dtype)
    seed = rng.as_seed(seed)
    for switch, value in (
        ("shuffle", shuffle), ("progress", progress), ("compile", compile),
        ("report_loss", report_loss), ("resume", resume),
    ):  # fmt: skip
        checks.boolean(switch, value)
    early = None if early_stopping is None else _early_stopping(early_stopping)
    watchers = _callbacks(callbacks)
    if early is not None:
        watchers.append(early)
    if progress:
        watchers.append(ProgressBar())
    epochs = checks.positive_int("epochs", epochs)
    clip_value = _limit("clip_value", clip_value)
    clip_norm = _limit("clip_norm", clip_norm)
    max_time = _limit("max_time", max_time)
    every = None if every is None else checks.positive_int("every", every)
    keep = checks.positive_int("keep", keep)
    if checkpoint is None and (resume or every is not None):
        raise ValueError("resume and every need checkpoint, the directory of the run")
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(
            f"checkpoint must be the path of a directory, got {checks.shown(checkpoint)}"
        )
    size = None if batch_size is None else checks.positive_int("batch_size", batch_size)
    columns = _columns(net, validation is not None, report_loss)
    if early is not None:
        early.score(columns)
    if isinstance(schedule, ReduceOnPlateau):
        _watched(columns)
    held_out = tuple(validation) if isinstance(validation, tuple | list) else ()
    start = None if params is None else checked_params(net, params)
    spec = examples.learn(net.spec, X, y)
    where = resolve(
        backend, X, y, sample_weight, *held_out, *leaves(() if start is None else as_pairs(params))
    )

    def trained() -> Model:
        with ExitStack() as stack:
            stack.enter_context(where.scope())
            if start is None:
                check_memory(net)
            feed, weights, test, targets = _prepare(
                net, spec, where, X, y, sample_weight, validation, seed, name
            )
            batch = feed.n if size is None else min(size, feed.n)
            begin = (
                net.init(seed, where, name) if start is None else place_params(start, where, name)
            )
            plan = _plan(net, where, optimizer, feed, weights is not None, batch, seed)
            plan = replace(plan, clip_value=clip_value, clip_norm=clip_norm, report=report_loss)
            state = (begin, optimizers.init(optimizer, begin, xp=where.xp))
            run = _Run(
                net, spec, where, name, make_step(plan), optimizer, schedule, feed, weights, test, batch,
                epochs, shuffle, seed, watchers, early, state, compile,
                deadline=math.inf if max_time is None else began + max_time,
                clipped=clip_norm is not None,
            )  # fmt: skip
            if checkpoint is not None:
                from portable_bp.persistence.checkpoints import CheckpointDirectory

                directory = stack.enter_context(CheckpointDirectory(checkpoint, keep))
                run.identity = {
                    "network": [
                        list(net.sizes),
                        [activations.describe(a) for a in net.activations],
                        losses.describe(net.loss),
                    ],
                    "penalties": [net.l1, net.l2],
                    "dropout": list(net.dropout),
                    "optimizer": optimizers.describe(optimizer),
                    "learning_rate": schedules.describe(schedule),
                    "batch_size": batch,
                    "shuffle": shuffle,
                    "clip": [clip_value, clip_norm],
                    "seed": seed,
                    "dtype": name,
                    "data": recovery.fingerprint(
                        where, name, (feed.arrays[0], targets, weights), test or ()
                    ),
                }
                run.columns = {*columns, "seconds"}
                run.record_in(directory, every, resume)
            return run.train()

    def task() -> str:
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        batch = n if size is None else min(size, n)
        return f"training {net!r} on {n:,} rows, {batch:,} at a time"

    return translate_oom(where, trained, task, TO_LOWER)


@dataclass
class _Snapshot:
    """A private copy of the state, and where in the run it was taken."""

    state: Tree
    epoch: int
    in_epoch: int
    steps: int
    taken: float = field(default_factory=time.perf_counter)


@dataclass
class _Run:
    """One training run: what it does, and how far it has come."""

    net: MLP
    spec: NetSpec
    backend: Backend
    dtype: str
    step: Step
    optimizer: Optimizer
    schedule: Schedule
    feed: Feed
    weights: HostArray | None
    test: Test | None
    batch_size: int
    epochs: int
    shuffle: bool
    seed: int
    watchers: list[Any]
    early: EarlyStopping | None
    state: Tree
    compile: bool
    deadline: float
    clipped: bool
    """Whether the norm of the gradient is bounded."""
    identity: dict[str, Any] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    """What the history has a number of for each epoch."""

    epoch: int = 0
    """Whole epochs done."""
    in_epoch: int = 0
    """Steps done of the epoch after them."""
    steps: int = 0
    losses: list[Any] = field(default_factory=list)
    """Of the steps done in this epoch; on the host after a look at them."""
    history: History = field(default_factory=History)
    plateau: tuple[float, float, int] = (0.0, math.inf, 0)
    best: tuple[float, int, Params] | None = None
    directory: CheckpointDirectory | None = None
    every: int | None = None
    stopped: str = "finished"
    restored: list[Any] = field(default_factory=list)
    """What a checkpoint holds of the callbacks."""

    def __post_init__(self) -> None:
        self.plateau = (self.schedule.rate, math.inf, 0)
        self.signals = recovery.Signals()
        self.start_from(self.state)

    def start_from(self, state: Tree) -> None:
        """Go on from this state."""
        compile = self.backend.compile if self.compile else self.eager
        self.runner: Runner = compile(self.step, state)
        self.snapshot = _Snapshot(state, self.epoch, self.in_epoch, self.steps)

    def eager(self, step: Step, state: Tree) -> Runner:
        return EagerRunner(self.backend, step, state)

    # Epochs

    def train(self) -> Model:
        """All epochs that are left, with whatever ends them early."""
        try:
            for watcher in self.watchers:
                getattr(watcher, "begin", _nothing)(self.net, self.epochs)
            for watcher, kept in zip(self.watchers, self.restored, strict=False):
                if kept is not None:
                    _restore(watcher, kept)
            with self.signals if self.directory is not None else ExitStack():
                while self.stopped == "finished" and self.epoch < self.epochs:
                    self.one_epoch()
        except KeyboardInterrupt:
            # It may have come in the middle of a step: only the last snapshot is whole.
            self.stopped = "interrupted"
        else:
            self.take_snapshot()
            if self.directory is not None:
                self.save(final=True)
        finally:
            for watcher in self.watchers:
                getattr(watcher, "end", _nothing)()
        return self.result()

    def one_epoch(self) -> None:
        """Every row once, then validation, the history and the callbacks."""
        began = time.perf_counter()
        for piece, rows in self.pieces():
            self.losses.append(self.runner.run(piece.arrays, piece.order, self.table(rows)))
            self.steps += rows
            self.in_epoch += rows
            if self.signals.received is not None:
                is_interrupt = self.signals.received == "SIGINT"
                self.stopped = "interrupted" if is_interrupt else "terminated"
                return
            if self.every and self.steps % self.every == 0 and self.in_epoch < self.per_epoch:
                self.save()
        row = self.finish_epoch()
        row["seconds"] = time.perf_counter() - began
        self.history.append(row)
        end = EpochEnd(self.epoch, self.epochs, row, self.history, self.net, self.params)
        # Every watcher sees every epoch, also the one that another watcher stops at.
        stops = [watcher(end) for watcher in self.watchers]
        if any(stops):
            self.stopped = "callback"
        elif time.perf_counter() >= self.deadline:
            self.stopped = "time"
        if self.directory is not None and (self.every is None or self.steps % self.every == 0):
            self.save()

    def finish_epoch(self) -> dict[str, float]:
        """The numbers of the epoch that has just been run."""
        rate = self.rates(self.steps - 1, self.steps)[0]
        row = {}
        of_steps = self.host_losses()
        if of_steps.size:
            if not np.isfinite(of_steps).all():
                self.diverged()
            row["loss"] = float(np.average(of_steps, weights=self.batch_weights()))
        self.epoch, self.in_epoch, self.losses = self.epoch + 1, 0, []
        watch = self.test is not None or self.early is not None
        if watch or time.perf_counter() - self.snapshot.taken > SNAPSHOT_SECONDS:
            self.take_snapshot()
        if self.test is not None:
            x, t, w = self.test
            by_row, outputs = blocks.losses_and_outputs(
                self.backend, self.net.equations, self.snapshot.state[0], x, t
            )
            row["validation_loss"] = blocks.mean_loss(by_row, w)
            row[f"validation_{metric_name(self.net.loss)}"] = metric(self.net.loss, outputs, t, w)
        row["learning_rate"] = rate
        if isinstance(self.schedule, ReduceOnPlateau):
            self.plateau = self.schedule.observe(self.plateau, _watched(row))
            self.take_snapshot()  # a replay from an older one would see this rate too early
        if watch:
            score = self.early.score(row) if self.early is not None else row["validation_loss"]
            if self.best is None or score < self.best[0]:
                self.best = (score, self.epoch, self.snapshot.state[0])
        return row

    def result(self) -> Model:
        """The model: of the best epoch where that was asked for, else as the run left it."""
        cut_short = self.stopped in ("interrupted", "terminated")
        keep_best = self.early.restore_best if self.early is not None else cut_short
        best = self.best if keep_best else None
        return self.model(
            best[2] if best else self.snapshot.state[0],
            history=self.history,
            stopped=self.stopped,
            best_epoch=best[1] if best else None,
        )

    def model(self, params: Params, **rest: Any) -> Model:
        """A model with these parameters and what ``fit`` learnt of labels and names."""
        known = {"classes": self.spec.classes, "feature_names": self.spec.features}
        return Model(self.net, params, self.backend, **known, **rest)  # type: ignore[arg-type]

    def params(self) -> Params:
        """A private copy of the parameters as they are now."""
        copy: Params = self.runner.state[0]
        return copy

    # Steps

    @property
    def per_epoch(self) -> int:
        return -(-self.feed.n // self.batch_size)

    @property
    def unheard(self) -> int:
        """How many steps may run between two looks at the signals."""
        step = 6 * self.net.n_parameters * self.batch_size  # a product forth, two back
        return max(1, min(SIGNAL_STEPS, SIGNAL_WORK // step))

    def batches(self) -> list[HostArray]:
        """The rows of each step: whole batches as (steps, batch), then a smaller last one."""
        n, size = self.feed.n, self.batch_size
        order = np.arange(n)
        if self.shuffle and size < n:
            order = rng.permutation(n, self.seed, rng.SHUFFLE, self.epoch)
        whole = n // size * size
        parts = [order[:whole].reshape(-1, size), order[whole:].reshape(1, -1)]
        return [part for part in parts if part.size]

    def pieces(self, limit: int | None = None) -> Iterator[tuple[Piece, int]]:
        """What is left of this epoch, in runs of steps that end where a checkpoint is due."""
        limit = limit or (self.per_epoch if self.directory is None else self.unheard)
        before = 0
        for order in self.batches():
            left = order[max(0, self.in_epoch - before) :]
            before += len(order)
            while len(left):
                due = self.every - self.steps % self.every if self.every else len(left)
                for piece in self.feed.pieces(left[:due], limit):
                    yield piece, 1 if piece.order is None else len(piece.order)
                left = left[due:]

    def rates(self, first: int, last: int) -> list[float]:
        """The rate of each of the steps ``first`` .. ``last - 1``."""
        if isinstance(self.schedule, ReduceOnPlateau):
            return [self.plateau[0]] * (last - first)
        total = self.epochs * self.per_epoch
        return [self.schedule(t, total) for t in range(first, last)]

    def table(self, steps: int) -> tuple[HostArray, ...]:
        """For each of the next steps: its number, and the optimiser's coefficients."""
        first, last = self.steps, self.steps + steps
        t, eta = np.arange(first + 1.0, last + 1.0), np.asarray(self.rates(first, last))
        numbers = np.arange(first, last).astype(self.backend.word_dtype)
        coefficients = self.optimizer.coefficients(t, eta)
        return numbers, *(np.asarray(c).astype(self.dtype) for c in coefficients)

    def batch_weights(self) -> HostArray:
        """The weight of each step's loss in the epoch's mean: that of its rows."""
        if self.weights is not None:
            # A batch of zero weights only reports a loss of 0 and counts for nothing.
            return np.concatenate([self.weights[order].sum(axis=1) for order in self.batches()])
        rows = np.full(self.per_epoch, float(self.batch_size))
        rows[-1] = self.feed.n - (self.per_epoch - 1) * self.batch_size
        return rows

    def host_losses(self) -> HostArray:
        """The losses of this epoch's steps so far: the one read of the device per epoch."""
        device = [l for l in self.losses if not isinstance(l, tuple)]
        found = [l if type(l) is np.ndarray else self.backend.to_numpy(l) for l in device]
        of_steps = np.concatenate(found).astype(np.float64) if found else np.zeros(0)
        self.losses = [of_steps] if found else []
        return of_steps

    # What an interruption leaves

    def take_snapshot(self) -> None:
        """Keep a copy of the present state; a DivergenceError when it is not finite."""
        at = self.snapshot
        if (at.steps, at.epoch) == (self.steps, self.epoch):
            return
        state = self.runner.state
        if not divergence.all_finite(self.backend, state[0]):
            self.diverged()
        self.snapshot = _Snapshot(state, self.epoch, self.in_epoch, self.steps)

    def record_in(self, directory: CheckpointDirectory, every: int | None, resume: bool) -> None:
        """Save the run in ``directory`` from now on; with ``resume``, go on from what is there."""
        found = directory.latest() if resume or directory.steps() else None
        if found is not None and not resume:
            raise CheckpointError(
                f"{directory.path} holds the checkpoints of a run already: pass resume=True to go "
                "on with it, or another directory"
            )
        self.directory, self.every = directory, every
        if found is not None:
            self.load(found.arrays, found.metadata)

    def save(self, final: bool = False) -> None:
        """A checkpoint of the present state."""
        assert self.directory is not None
        self.take_snapshot()
        backend = self.backend
        arrays = recovery.flatten(backend, "state", self.snapshot.state)
        arrays["losses"] = self.host_losses()
        if self.best is not None:
            arrays |= recovery.flatten(backend, "best", self.best[2])
        metadata: dict[str, Any] = {
            "kind": "checkpoint",
            "status": "complete"
            if self.stopped in ("finished", "callback") and final
            else "running",
            "stopped": self.stopped,
            "run": self.identity,
            "backend": backend.spec,
            "epochs": self.epochs,
            "epoch": self.epoch,
            "in_epoch": self.in_epoch,
            "steps": self.steps,
            "plateau": [self.plateau[0], recovery.number(self.plateau[1]), self.plateau[2]],
            "best": None if self.best is None else [self.best[0], self.best[1]],
            "history": self.history.epochs,
            "watchers": [_state_of(w) for w in self.watchers],
        }
        self.directory.save(self.steps, arrays, metadata, final=final)

    def load(self, arrays: dict[str, HostArray], metadata: dict[str, Any]) -> None:
        """Go on where a checkpoint stands."""
        if metadata.get("kind") != "checkpoint":
            raise CheckpointError("the file is a model, not the checkpoint of a run")
        try:
            documents.check(arrays, metadata)
            recovery.agree(metadata["run"], self.identity)
            self.resume_at(metadata)
            self.losses = [arrays["losses"]] if arrays["losses"].size else []
            if metadata["best"] is not None:
                score, epoch = metadata["best"]
                params = recovery.unflatten(self.backend, "best", self.state[0], arrays)
                self.best = (float(score), epoch, params)
            state = recovery.unflatten(self.backend, "state", self.state, arrays)
            extra = len(arrays) - 1 - len([*leaves((state, (self.best and self.best[2]) or ()))])
            if extra:
                raise ValueError(f"{extra} of its arrays are unknown to this run")
            self.start_from(state)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(
                f"the checkpoint does not hold what a run needs: {error}"
            ) from error

    def resume_at(self, metadata: dict[str, Any]) -> None:
        """Where the run stands, by the numbers of a checkpoint, which agree with each other."""
        self.epoch, self.in_epoch, self.steps = (
            metadata[name] for name in ("epoch", "in_epoch", "steps")
        )
        if (
            self.steps != self.epoch * self.per_epoch + self.in_epoch
            or self.in_epoch > self.per_epoch
        ):
            raise ValueError(
                f"{self.steps} steps are not {self.epoch} epochs of {self.per_epoch} and "
                f"{self.in_epoch} steps"
            )
        planned, now = (e * self.per_epoch for e in (metadata["epochs"], self.epochs))
        # No more steps than this run would make: what a file claims is never the length of a loop.
        steps = range(min(self.steps, now))
        if any(self.schedule(t, planned) != self.schedule(t, now) for t in steps):
            raise CheckpointError(
                f"the checkpoint is of a run of {metadata['epochs']} epochs, here are {self.epochs}, "
                f"and the rates of {self.schedule.name} depend on that: pass "
                f"epochs={metadata['epochs']}, or a schedule with total_steps"
            )
        rate, best, waited = metadata["plateau"]
        self.plateau = (float(rate), recovery.from_number(best), waited)
        self.history = History(
            [{k: float(v) for k, v in row.items()} for row in metadata["history"]]
        )
        if self.history.epochs and self.history.epochs[0].keys() != self.columns:
            raise ValueError(
                f"its history has the columns {checks.shown(sorted(self.history))}, this run records "
                f"{sorted(self.columns)}"
            )
        self.restored = metadata["watchers"]
        if len(self.restored) != len(self.watchers):
            raise CheckpointError(
                f"the checkpoint is of a run with {len(self.restored)} callback(s), here are "
                f"{len(self.watchers)}: pass the same ones"
            )
        if metadata["stopped"] == "callback":
            self.stopped = "callback"  # that run had come to its end

    def diverged(self) -> NoReturn:
        """Find the step where it happened, by a replay from the last snapshot, and raise."""
        backend, end, at = self.backend, self.steps, self.snapshot
        self.epoch, self.in_epoch, self.steps = at.epoch, at.in_epoch, at.steps
        replay, before = EagerRunner(backend, self.step, at.state), at.state[0]
        where = f"after epoch {at.epoch}"
        advice = f"Lower learning_rate (now {self.rates(end - 1, end)[0]:g})"
        for piece in self.replayed(end):
            loss = replay.run(piece.arrays, piece.order, self.table(1))
            after = replay.state[0]
            if not divergence.all_finite(backend, (loss, after)):
                x, y = divergence.batch_of(backend, piece)
                where = (
                    f"in epoch {self.epoch + 1}, step {self.in_epoch + 1} of {self.per_epoch} "
                    f"({divergence.first_overflow(self.net, backend, before, after, x)})"
                )
                layer = divergence.overflowing_layer(self.net, backend, before, x)
                advice = divergence.hint(
                    self.net, backend, x, y, self.rates(self.steps, self.steps + 1)[0],
                    clipped=self.clipped,
                    untrained=self.steps == 0 and layer is not None,
                )  # fmt: skip
                break
            before = after
        raise DivergenceError(
            f"training diverged {where}: the loss or a parameter is not finite. {advice}",
            self.model(before, history=self.history, stopped="diverged"),
        )

    def replayed(self, end: int) -> Iterator[Piece]:
        """The steps from here up to step ``end``, one by one."""
        while self.steps < end:
            for piece, _ in self.pieces(limit=1):
                yield piece
                self.steps, self.in_epoch = self.steps + 1, self.in_epoch + 1
            self.epoch, self.in_epoch = self.epoch + 1, 0


def _prepare(
    net: MLP,
    spec: NetSpec,
    backend: Backend,
    X: Any,
    y: Any,
    sample_weight: Any,
    held_out: Any,
    seed: int,
    name: str,
) -> tuple[Feed, HostArray | None, Test | None, HostArray]:
    """Check everything, hold out rows, and bring the rest to the device, or near it.

    Returns the rows, their weights, the held-out rows, and the targets of the rows on the host.
    """
    given = [Rows(X, y, sample_weight)]
    if isinstance(held_out, tuple | list):
        if len(held_out) not in (2, 3):
            raise ValueError(
                "validation must be a share, (X, y) or (X, y, sample_weight); got "
                f"{len(held_out)} entries"
            )
        given.append(Rows(*held_out))
    elif held_out is not None:
        if not isinstance(held_out, Real):
            raise TypeError(
                "validation must be a share of the rows in (0, 1), (X, y) or (X, y, sample_weight); "
                f"got {checks.shown(held_out)}"
            )
        checks.real("validation", held_out, low=0, high=1, open_low=True, open_high=True)
    rows, *apart = examples.check(spec, backend, name, *given)
    labels.warn_if_classes(spec, rows.y)
    if held_out is not None and not apart:
        rows, *apart = _split(backend, rows, held_out, seed)
        for part, which in ((apart[0], "held-out rows"), (rows, "rows that are left")):
            checks.some_weight(part.w, which, f"validation={held_out}")
    x, y, w = rows
    n = x.shape[0]
    extra = () if w is None else (w,)
    feed: Feed
    if owner(x) is None and must_stream(backend, x, name):
        for _, block in checks.blocks(x):
            checks.cast("X", block, name)  # here, not in the thread that sends it
        targets = _targets(net, get_backend("numpy"), y, name)
        dtypes = (name, name if targets.ndim == 2 else backend.index_dtype, name)
        kept = (x, np.asarray(targets), *extra)
        feed = Streamed(n, backend, kept, dtypes[: len(kept)])
    else:
        targets = _targets(net, backend, y, name)
        features = _contiguous(to_backend(backend, x, name, "X"))
        weights = tuple(to_backend(backend, e, name) for e in extra)
        feed = Resident(n, (features, targets, *weights))
    test = _test(net, backend, apart[0], name) if apart else None
    return feed, w, test, y


def _targets(net: MLP, backend: Backend, y: HostArray, name: str) -> Array:
    """Targets on the device: (n, k), or labels (n,) where one-hot rows would be too many."""
    if y.ndim == 1 and len(y) * net.sizes[-1] > ONE_HOT_ENTRIES:
        return backend.asarray(y, backend.index_dtype)
    return _contiguous(examples.place_targets(net.spec, backend, y, name))


def _test(net: MLP, backend: Backend, rows: Rows, name: str) -> Test:
    """Held-out features on the device where they fit; the rest in float64 on the host."""
    large = owner(rows.x) is None and must_stream(backend, rows.x, name)
    x = rows.x if large else to_backend(backend, rows.x, name, "validation X")
    t = examples.place_targets(net.spec, get_backend("numpy"), rows.y, "float64")
    return x, np.asarray(t), rows.w


def _split(backend: Backend, given: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """The rows to train on, and the share of them that is held out."""
    x, y, w = given
    n = x.shape[0]
    held = math.ceil(share * n)
    if held >= n:
        raise ValueError(f"validation={share} of {n} row(s) leaves none to train on")
    order = rng.permutation(n, seed, rng.SPLIT)

    def part(rows: HostArray) -> Rows:
        features: Any
        if owner(x) is None:
            features = select(x, rows)
        else:
            index = backend.asarray(rows, backend.index_dtype)
            features = backend.xp.take(x, index, axis=0)
        return Rows(features, y[rows], None if w is None else w[rows])

    return part(np.sort(order[held:])), part(np.sort(order[:held]))


def _plan(
    net: MLP,
    backend: Backend,
    optimizer: Optimizer,
    feed: Feed,
    weighted: bool,
    batch_size: int,
    seed: int,
) -> StepPlan:
    """The step, with the constants that it needs on the device."""
    counters = classes = None
    if any(net.dropout):
        widest = max(s for s, d in zip(net.sizes[1:], net.dropout, strict=False) if d)
        counters = backend.asarray(np.arange(-(-batch_size * widest // 4)), backend.word_dtype)
    if feed.arrays[1].ndim == 1:
        classes = backend.asarray(np.arange(net.sizes[-1]), backend.index_dtype)
    return StepPlan(net.equations, optimizer, net.dropout, seed, counters, classes, weighted)


def _contiguous(array: Any) -> Array:
    """Rows one after the other, so that gathering a batch reads memory in order (NumPy only)."""
    if isinstance(array, np.ndarray):
        array = np.ascontiguousarray(array)
    contiguous: Array = array
    return contiguous


def _limit(name: str, value: Any) -> float | None:
    return None if value is None else checks.real(name, value, low=0, open_low=True)


def _columns(net: MLP, held_out: bool, report_loss: bool) -> dict[str, float]:
    """A row as the history will hold it, to look for a name before there is one."""
    names = ["loss"] if report_loss else []
    if held_out:
        names += ["validation_loss", f"validation_{metric_name(net.loss)}"]
    return dict.fromkeys([*names, "learning_rate"], 0.0)


def _callbacks(given: Any) -> list[Any]:
    """The callbacks of the user's as a new list."""
    if callable(given):
        raise TypeError(f"callbacks must be a sequence of functions; pass [{checks.shown(given)}]")
    try:
        found = list(given)
    except TypeError:
        raise TypeError(
            f"callbacks must be a sequence of functions, got {checks.shown(given)}"
        ) from None
    for callback in found:
        if not callable(callback):
            raise TypeError(
                f"callbacks must be functions of an EpochEnd, got {checks.shown(callback)}"
            )
    return found


def _early_stopping(value: Any) -> EarlyStopping:
    if isinstance(value, EarlyStopping):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return EarlyStopping(value)
    raise TypeError(
        "early_stopping must be an EarlyStopping or a number of epochs to wait; got "
        f"{checks.shown(value)}"
    )


def _watched(row: dict[str, float]) -> float:
    """What a plateau is judged by: the validation loss, else the training loss."""
    if "validation_loss" not in row and "loss" not in row:
        raise ValueError("ReduceOnPlateau needs validation data, or report_loss=True")
    return row["validation_loss"] if "validation_loss" in row else row["loss"]


def _state_of(watcher: Any) -> Any:
    """What a checkpoint keeps of a callback."""
    return watcher.state() if hasattr(watcher, "state") else None


def _restore(watcher: Any, kept: Any) -> None:
    """Hand a callback what a checkpoint keeps of it."""
    try:
        watcher.restore(kept)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint does not hold the state of {checks.shown(watcher)}: {error!r}; pass the "
            "callbacks of that run, in their order"
        ) from error


def _nothing(*args: Any) -> None:
    return
