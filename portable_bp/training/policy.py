"""What a run does between its steps: the order of the rows, the rates, and what ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from portable_bp import rng
from portable_bp._scalars import shown
from portable_bp._typing import HostArray, Params
from portable_bp._warnings import warn
from portable_bp.backend import Backend
from portable_bp.equations.schedules import ReduceOnPlateau, Schedule
from portable_bp.errors import CheckpointError
from portable_bp.inputs.spec import NetSpec
from portable_bp.mlp import MLP
from portable_bp.processes import ALONE, Processes
from portable_bp.training import recovery
from portable_bp.training.callbacks import Callback, EarlyStopping, EpochEnd
from portable_bp.training.data import Order
from portable_bp.training.history import History
from portable_bp.training.judging import Held
from portable_bp.training.metrics import metric_name
from portable_bp.training.model import Model

LOOKAHEAD = 8
"""Epochs that may run in one call of the backend, when nobody looks between them."""

LOOKAHEAD_STEPS, LOOKAHEAD_ROWS = 512, 2**20
"""Such a call is kept this short: an interruption loses what it has done."""


@dataclass(frozen=True)
class EpochResult:
    """An epoch that has run, as a policy sees it.

    Attributes
    ----------
    epoch : int
        Its number, from 1.
    loss : float or None
        The mean of the losses of its steps; None from steps that report none.
    rate : float or None
        The rate of its last step.
    began : float
        When the turn began, by ``time.perf_counter``.
    epochs : int
        How many epochs ran in that turn.
    params : function
        The present parameters, to be read only. It ends the run when they are not finite.
    copied_params : function
        A private copy of the present parameters.
    """

    epoch: int
    loss: float | None
    rate: float | None
    began: float
    epochs: int
    params: Callable[[], Params]
    copied_params: Callable[[], Params]

    @property
    def seconds(self) -> float:
        """How long an epoch of that turn took until now."""
        return (time.perf_counter() - self.began) / self.epochs


class Policy(Protocol):
    """The decisions of a run; see :class:`portable_bp.training.trainer.Trainer` for their order."""

    epochs: int
    """At most so many epochs run."""

    def order(self, epoch: int) -> Order:
        """The numbers of the rows in the order of the epoch that comes after ``epoch`` others."""

    def rates(self, steps: range) -> HostArray:
        """The rate of each of these steps."""

    def penalties(self, orders: Sequence[Order]) -> HostArray | None:
        """The coefficient of the L2 penalty of each step, or None where the step itself has it."""

    def lookahead(self) -> int:
        """How many epochs may run before :meth:`after_epoch` has to see them."""

    def mean_losses(self, losses: HostArray, orders: Sequence[Order]) -> list[float]:
        """The loss of each epoch, from those of its steps, shape (epochs, steps of an epoch)."""

    def after_epoch(self, result: EpochResult) -> str | None:
        """Why to stop, or None; ``"diverged"`` for a loss that cannot be gone on from."""


@dataclass
class FitPolicy:
    """What :func:`portable_bp.fit` does between the steps.

    Attributes
    ----------
    net : MLP
    spec : NetSpec
        With the labels and the names of columns that ``fit`` has learnt.
    backend : Backend
    schedule : Schedule
    epochs, batch_size, seed : int
    n : int
        Rows to train on.
    weights : array of shape (n,), optional
    shuffle : bool
    held : Held, optional
    callbacks : list of functions of an EpochEnd
        Early stopping and the progress bar among them.
    early : EarlyStopping, optional
        The one that decides which parameters are the best.
    deadline : float
        When no further epoch starts, by ``time.perf_counter``.
    checkpointed : bool
        Whether the run is saved in a checkpoint directory.
    report_loss : bool
        Whether steps report their loss.
    processes : Processes
        Those that decide together.
    windows : function of an epoch, optional
        Its order, where the rows come in windows.
    """

    net: MLP
    spec: NetSpec
    backend: Backend
    schedule: Schedule
    epochs: int
    n: int
    batch_size: int
    weights: HostArray | None
    shuffle: bool
    seed: int
    held: Held | None
    callbacks: list[Callback]
    early: EarlyStopping | None
    deadline: float
    checkpointed: bool
    report_loss: bool
    processes: Processes = ALONE
    windows: Callable[[int], Order] | None = None

    history: History = field(default_factory=History, init=False)
    best: tuple[float, int, Params] | None = field(default=None, init=False)
    """Score (smaller is better), epoch and parameters."""

    def __post_init__(self) -> None:
        self.plateau = (self.schedule.rate, math.inf, 0)
        self.per_epoch = -(-self.n // self.batch_size)
        self._warned = False
        self._callback_states: list[Any] = []

    def model(self, params: Params, stopped: str, best_epoch: int | None = None) -> Model:
        """A model with these parameters and what ``fit`` learnt of labels and names."""
        return Model(
            self.net, params, self.backend, self.history, stopped, best_epoch,
            self.spec.classes, self.spec.features,
        )  # fmt: skip

    def columns(self) -> list[str]:
        """What the history has a number of for each epoch, beside ``seconds``."""
        return recorded_columns(self.net, held=self.held is not None, report_loss=self.report_loss)

    # Before an epoch

    def order(self, epoch: int) -> Order:
        if self.windows is not None:
            return self.windows(epoch)
        if self.shuffle and self.batch_size < self.n:
            return rng.permutation(self.n, self.seed, rng.SHUFFLE, epoch)
        return np.arange(self.n)

    def rates(self, steps: range) -> HostArray:
        if isinstance(self.schedule, ReduceOnPlateau):
            return np.full(len(steps), self.plateau[0])
        total = self.epochs * self.per_epoch
        return np.asarray([self.schedule(t, total) for t in steps])

    def penalties(self, orders: Sequence[Order]) -> HostArray | None:
        return None

    def lookahead(self) -> int:
        looked_at = (
            self.held is not None,
            bool(self.callbacks),
            self.deadline < math.inf,
            isinstance(self.schedule, ReduceOnPlateau),
            self.checkpointed,
            self.processes.size > 1,
            self.windows is not None,
        )
        if any(looked_at):
            return 1
        most = min(LOOKAHEAD, LOOKAHEAD_STEPS // self.per_epoch, LOOKAHEAD_ROWS // self.n)
        # One length for the whole run: a compiler makes a program for each.
        return next((e for e in range(most, 1, -1) if self.epochs % e == 0), 1)

    def mean_losses(self, losses: HostArray, orders: Sequence[Order]) -> list[float]:
        totals = np.stack([self._totals(order) for order in orders])
        # A batch of zero weights only reports a loss of 0 and counts for nothing.
        means: list[float] = np.average(losses, axis=1, weights=totals).tolist()
        return means

    def _totals(self, order: Order) -> HostArray:
        """The weight of each step's loss in the epoch's mean: that of its rows."""
        n, size = self.n, self.batch_size
        if self.weights is None:
            rows = np.full(self.per_epoch, float(size))
            rows[-1] = n - (self.per_epoch - 1) * size
            return rows
        whole = n // size * size
        weights = self.weights[np.asarray(order)]
        totals = weights[:whole].reshape(-1, size).sum(axis=1)
        last = weights[whole:]
        return np.append(totals, last.sum()) if last.size else totals

    # After an epoch

    def after_epoch(self, result: EpochResult) -> str | None:
        if result.loss is not None and not math.isfinite(result.loss):
            return "diverged"
        row: dict[str, float] = {} if result.loss is None else {"loss": result.loss}
        if self.held is not None:
            row |= self._judged(self.held, result)
        if result.rate is not None:
            row["learning_rate"] = result.rate
        if isinstance(self.schedule, ReduceOnPlateau):
            self.plateau = self.schedule.observe(self.plateau, watched_loss(row))
        if self.held is not None or self.early is not None:
            self._keep_the_best(row, result)
        row["seconds"] = result.seconds
        self.history.append(row)
        return self._asked(row, result)

    def _judged(self, held: Held, result: EpochResult) -> dict[str, float]:
        """The loss and the score on the held-out rows."""
        judged = held.judged(
            self.backend, self.net.equations, result.params(), result.epoch, self.processes
        )
        if judged.doubt is not None and not self._warned:
            self._warned = True
            warn(judged.doubt)
        name = f"validation_{metric_name(self.net.loss)}"
        return {"validation_loss": judged.loss, name: judged.score}

    def _keep_the_best(self, row: Mapping[str, float], result: EpochResult) -> None:
        score = row["validation_loss"] if self.early is None else self.early.score(row)
        params = result.params()
        if math.isfinite(score) and (self.best is None or score < self.best[0]):
            self.best = (score, result.epoch, params)

    def _asked(self, row: Mapping[str, float], result: EpochResult) -> str | None:
        """Why the callbacks or the clock end the run. Every callback sees every epoch."""

        def asked(callback: Callback) -> bool:
            # A row of its own for each: one cannot change what the others see.
            end = EpochEnd(
                result.epoch, self.epochs, dict(row), self.history, self.net,
                result.copied_params, self.n,
            )  # fmt: skip
            return _says_stop(callback, callback(end))

        stops = [asked(callback) for callback in self.callbacks]
        if self.processes.any(any(stops)):
            return "callback"
        if self.deadline == math.inf:
            return None
        return "time" if self.processes.first(time.perf_counter() >= self.deadline) else None

    # What a checkpoint holds

    ends: ClassVar[tuple[str, ...]] = ("callback",)

    def set_best(self, best: tuple[float, int, Params]) -> None:
        self.best = best

    def saved(self) -> dict[str, Any]:
        rate, best, waited = self.plateau
        return {
            "plateau": [rate, recovery.number(best), waited],
            "history": self.history.epochs,
            "watchers": [_state_of(callback) for callback in self.callbacks],
        }

    def restore(self, metadata: Mapping[str, Any], epoch: int, steps: int) -> None:
        self.history = History(
            [{k: float(v) for k, v in row.items()} for row in metadata["history"]]
        )
        columns = {*self.columns(), "seconds"}
        if self.history.epochs and self.history.epochs[0].keys() != columns:
            raise ValueError(
                f"its history has the columns {shown(sorted(self.history))}, this run records "
                f"{sorted(columns)}"
            )
        planned, now = (e * self.per_epoch for e in (metadata["epochs"], self.epochs))
        # No more steps than this run would make: what a file claims is never the length of a loop.
        known = range(min(steps, now))
        if any(self.schedule(t, planned) != self.schedule(t, now) for t in known):
            raise CheckpointError(
                f"the checkpoint is of a run of {metadata['epochs']} epochs, here are {self.epochs}, "
                f"and the rates of {self.schedule.name} depend on that: pass "
                f"epochs={metadata['epochs']}, or a schedule with total_steps"
            )
        rate, best, waited = metadata["plateau"]
        self.plateau = (float(rate), recovery.from_number(best), int(waited))
        states = metadata["watchers"]
        if len(states) != len(self.callbacks):
            raise CheckpointError(
                f"the checkpoint is of a run with {len(states)} callback(s), here are "
                f"{len(self.callbacks)}: pass the same ones"
            )
        self._callback_states = states

    # Around the run

    @contextmanager
    def running(self) -> Iterator[None]:
        """Tell the callbacks that the run begins, and that it is over, whatever happens in it."""
        try:
            for callback in self.callbacks:
                getattr(callback, "on_train_begin", _nothing)(self.net, self.epochs)
            for callback, state in zip(self.callbacks, self._callback_states, strict=False):
                if state is not None:
                    _restore(callback, state)
            yield
        finally:
            for callback in self.callbacks:
                getattr(callback, "on_train_end", _nothing)()


def recorded_columns(net: MLP, *, held: bool, report_loss: bool, rates: bool = True) -> list[str]:
    """The names of what the history has a number of for each epoch, beside ``seconds``."""
    names = ["loss"] if report_loss else []
    if held:
        names += ["validation_loss", f"validation_{metric_name(net.loss)}"]
    return [*names, "learning_rate"] if rates else names


def watched_loss(row: Mapping[str, float]) -> float:
    """What a plateau is judged by: the validation loss, else the training loss."""
    if "validation_loss" not in row and "loss" not in row:
        raise ValueError("ReduceOnPlateau needs validation data, or report_loss=True")
    return row["validation_loss"] if "validation_loss" in row else row["loss"]


def _says_stop(callback: Any, answer: Any) -> bool:
    """Whether a callback ends the run: True does, None and False do not, nothing else may come."""
    if answer is None or isinstance(answer, bool | np.bool_):
        return bool(answer)
    raise TypeError(
        f"a callback must return True to stop the training, or None to go on; {shown(callback)} "
        f"returned {shown(answer)}"
    )


def _state_of(callback: Any) -> Any:
    """What a checkpoint keeps of a callback."""
    return callback.state() if hasattr(callback, "state") else None


def _restore(callback: Any, state: Any) -> None:
    """Hand a callback what a checkpoint keeps of it."""
    try:
        callback.restore(state)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint does not hold the state of {shown(callback)}: {error!r}; pass the "
            "callbacks of that run, in their order"
        ) from error


def _nothing(*args: Any) -> None:
    return
