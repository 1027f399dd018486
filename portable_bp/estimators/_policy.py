"""scikit-learn's epochs: its order of the rows, its rates, its stopping rules and its messages."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from portable_bp._scalars import shown
from portable_bp._tree import map_leaves
from portable_bp._typing import HostArray, Params, Tree
from portable_bp.backend import Backend
from portable_bp.equations.network import Equations
from portable_bp.equations.optimizers import Adam, Optimizer
from portable_bp.equations.schedules import ReduceOnPlateau, Schedule
from portable_bp.processes import current
from portable_bp.training import blocks, recovery
from portable_bp.training.data import Order
from portable_bp.training.judging import Held, ValidationSet, validation_loss_message
from portable_bp.training.policy import (
    LOOKAHEAD,
    LOOKAHEAD_ROWS,
    LOOKAHEAD_STEPS,
    EpochResult,
)
from portable_bp.training.trainer import NotFiniteError


@dataclass(frozen=True)
class ScikitAdam(Adam):
    """Adam as scikit-learn has it: ``p' = p - alpha m' / (sqrt(v') + eps)``, with ``alpha = eta
    sqrt(1 - beta2^t) / (1 - beta1^t)`` and eps beside the uncorrected root (the paper's eps hat)."""

    def coefficients(self, t: Any, eta: Any) -> tuple[Any, ...]:
        return super().coefficients(t, eta)[0], self.eps


@dataclass
class OptimizerState:
    """What a solver carries from one call of ``partial_fit`` to the next.

    Attributes
    ----------
    rule : Optimizer
        With the parameters it started with.
    slots : tree of arrays
        Its state, where the fitted arrays live.
    learning_rate : float
        Of the next epoch.
    steps : int
        How many steps it has made.
    plateau : (rate, best, waited)
        The state of a ReduceOnPlateau schedule.
    """

    rule: Optimizer
    slots: Tree
    learning_rate: float
    steps: int = 0
    plateau: tuple[float, float, int] = (0.0, math.inf, 0)

    def converted(self, convert: Callable[[Any], Any]) -> OptimizerState:
        """The same with other arrays."""
        return replace(self, slots=map_leaves(convert, self.slots))

    def __sklearn_array_api_convert__(self, converter: Callable[[Any], Any]) -> OptimizerState:
        return self.converted(converter)


@dataclass(frozen=True)
class Settings:
    """The parameters of an estimator that its epochs go by, under their names."""

    solver: Any
    alpha: float
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    tol: float
    verbose: Any
    early_stopping: bool
    n_iter_no_change: float
    max_time: float | None
    scoring: Any

    @classmethod
    def of(cls, estimator: Any) -> Self:
        """Those of an estimator."""
        return cls(**{f.name: getattr(estimator, f.name) for f in fields(cls)})

    @property
    def named_schedule(self) -> str:
        """``learning_rate`` where it is a name; as in scikit-learn, Adam has a constant rate."""
        name = self.learning_rate
        return name if isinstance(name, str) and self.solver != "adam" else "constant"


@dataclass
class Progress:
    """How far the training has come, under the names of scikit-learn's fitted attributes."""

    loss_: float | None
    loss_curve_: list[float]
    best_loss_: float | None
    n_iter_: int
    t_: int
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    validation_loss_curve_: list[float] | None
    _no_improvement_count: int

    @classmethod
    def of(cls, fitted: Mapping[str, Any], early_stopping: bool, judged: bool) -> Self:
        """That of the first epoch; ``warm_start`` and ``partial_fit`` go on from an earlier one."""
        curve = fitted.get("validation_loss_curve_")
        if curve is None:
            curve = []
        progress = cls(
            loss_=None,
            loss_curve_=fitted.get("loss_curve_", []),
            best_loss_=None if early_stopping else np.inf,
            n_iter_=0,
            t_=fitted.get("t_", 0),
            validation_scores_=[] if early_stopping else None,
            best_validation_score_=-np.inf if early_stopping else None,
            validation_loss_curve_=curve if judged else None,
            _no_improvement_count=fitted.get("_no_improvement_count", 0),
        )
        if "best_loss_" in fitted and (fitted["best_loss_"] is None) == early_stopping:
            for name in ("best_loss_", "validation_scores_", "best_validation_score_"):
                setattr(progress, name, fitted.get(name, getattr(progress, name)))
        return progress


@dataclass(frozen=True)
class Judge:
    """Rows that are held out, and the number that early stopping watches."""

    rows: Held
    score: Callable[[HostArray, Params], Any]
    """From outputs (on the host) and parameters."""


class ScikitPolicy:
    """What ``MLPClassifier`` and ``MLPRegressor`` do between the steps.

    Parameters
    ----------
    settings : Settings
    progress : Progress
        Kept up to date.
    state : OptimizerState
        Its rates are kept up to date.
    random : RandomState
        The generator of the shuffles.
    n, batch_size : int
        Rows, and those of a mini-batch.
    weights : array of shape (n,), optional
    epochs : int
    backend : Backend
    equations : Equations
    judge : Judge, optional
    best : pairs (W, b), optional
        The parameters that ``progress.best_validation_score_`` belongs to.
    watched : bool
        Whether anybody looks between epochs beside this policy: a checkpoint, or chunks of rows that
        are sent one by one.
    hooks : sequence of functions of the parameters
        Called after each epoch; a true answer stops.
    publish : function
        Called after each epoch, to show the progress.
    windows : function of an epoch, optional
        Its order, where the rows come in windows.
    """

    ends: ClassVar[tuple[str, ...]] = ("callback", "converged")
    report_loss: ClassVar[bool] = True

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        state: OptimizerState,
        random: np.random.RandomState,
        n: int,
        batch_size: int,
        weights: HostArray | None,
        epochs: int,
        *,
        backend: Backend,
        equations: Equations,
        judge: Judge | None,
        best: Params | None,
        watched: bool,
        hooks: Sequence[Callable[[Params], bool]],
        publish: Callable[[], None],
        windows: Callable[[int], Order] | None = None,
    ) -> None:
        self.settings, self.progress, self.state, self._random = settings, progress, state, random
        self._n, self._batch, self._weights, self.epochs = n, batch_size, weights, epochs
        self._backend, self._equations, self._judge = backend, equations, judge
        self._processes = current()
        self._watched, self._hooks, self._publish = watched, hooks, publish
        self.per_epoch = -(-n // batch_size)
        self._sizes = np.full(self.per_epoch, batch_size)
        self._sizes[-1] = n - batch_size * (self.per_epoch - 1)
        self._windows = windows
        self._order = np.arange(n) if windows is None else np.zeros(0, np.int64)
        self._first_step, self._done = state.steps, 0
        self._started = time.perf_counter()
        self.doubt: str | None = None
        """What is to be said when the run is over: of a score or a loss that is no number."""
        self.start: list[Any] = []
        """The state of the generator when the run began, for a checkpoint."""
        self.best: tuple[float, int, Params] | None = None
        if best is not None and progress.best_validation_score_ not in (None, -np.inf):
            self.best = (float(progress.best_validation_score_ or 0), 0, best)

    # --- before an epoch --------------------------------------------------------------------------

    def order(self, epoch: int) -> Order:
        if self._windows is not None:
            return self._windows(epoch)
        if self.settings.shuffle:
            permutation = np.arange(self._n)
            self._random.shuffle(permutation)
            self._order = self._order[permutation]
        return self._order

    def rates(self, steps: range) -> HostArray:
        schedule = self.settings.learning_rate
        if isinstance(schedule, ReduceOnPlateau):
            return np.full(len(steps), self.state.plateau[0])
        if isinstance(schedule, Schedule):
            total = self.settings.max_iter * self.per_epoch
            return np.array([schedule(t, total) for t in steps])
        rates = np.full(len(steps), self.state.learning_rate)
        if self.settings.named_schedule == "invscaling":
            ahead = (np.asarray(steps) - self._first_step) // self.per_epoch - self._done
            for i in range(1, int(ahead.max(initial=0)) + 1):
                rates[ahead == i] = self._inverse_scaling(self.progress.t_ + i * self._n)
        return rates

    def _inverse_scaling(self, seen: int) -> float:
        rate: float = self.settings.learning_rate_init / (seen + 1) ** self.settings.power_t
        return float(rate)

    def penalties(self, orders: Sequence[Order]) -> HostArray | None:
        """alpha, divided by the rows of the mini-batch or by the sum of their weights."""
        alpha, weights = self.settings.alpha, self._weights
        if not alpha > 0:
            return None
        if weights is None:
            return np.tile(alpha / self._sizes.astype(np.float64), len(orders))
        starts = np.arange(self.per_epoch) * self._batch
        totals = np.concatenate(
            [np.add.reduceat(weights[np.asarray(order)], starts) for order in orders]
        )
        # A mini-batch of zero weights moves nothing.
        empty = totals == 0
        return np.where(empty, 0.0, alpha / np.where(empty, 1.0, totals))

    def lookahead(self) -> int:
        """Each epoch fills at most one more of the ``n_iter_no_change`` without progress, so that
        none before the last of them can end the training."""
        looked_at = (
            self._judge is not None,
            bool(self._hooks),
            self.settings.max_time is not None,
            isinstance(self.settings.learning_rate, ReduceOnPlateau),
            self._watched,
            self._processes.size > 1,
        )
        if any(looked_at):
            return 1
        patience = self.settings.n_iter_no_change + 1
        short = min(LOOKAHEAD_STEPS // self.per_epoch, LOOKAHEAD_ROWS // self._n)
        whole = max(1, min(LOOKAHEAD, patience, short))
        # One length or the other: a compiler makes a program for each.
        left = min(patience - self.progress._no_improvement_count, self.epochs - self._done)
        return int(whole) if left >= whole else 1

    def mean_losses(self, losses: HostArray, orders: Sequence[Order]) -> list[float]:
        means: list[float] = ((losses * self._sizes).sum(axis=1) / self._n).tolist()
        return means

    # --- after an epoch ---------------------------------------------------------------------------

    def after_epoch(self, result: EpochResult) -> str | None:
        """Bookkeeping in scikit-learn's order."""
        reason = self._bookkeeping(result)
        self._publish()
        if reason != "diverged" and self._hooks:
            params = result.params()
            stops = [hook(params) for hook in self._hooks]
            if self._processes.any(any(stops)):
                reason = "callback"
        limit = self.settings.max_time
        if reason is None and limit is not None:
            over = time.perf_counter() - self._started >= limit
            return "time" if self._processes.first(over) else None
        return reason

    def _bookkeeping(self, result: EpochResult) -> str | None:
        settings, progress, state = self.settings, self.progress, self.state
        loss = math.nan if result.loss is None else result.loss
        self._done += 1
        progress.n_iter_ += 1
        progress.loss_ = loss
        progress.t_ += self._n
        progress.loss_curve_.append(loss)
        if settings.verbose and self._processes.rank == 0:
            print(f"Iteration {progress.n_iter_}, loss = {loss:.8f}")
        if self._judge is not None and not self._judged(self._judge, result):
            return "diverged"
        if not math.isfinite(loss) and not settings.early_stopping:
            return "diverged"
        self._count(loss, result)
        if settings.named_schedule == "invscaling":
            state.learning_rate = self._inverse_scaling(progress.t_)
        if isinstance(settings.learning_rate, ReduceOnPlateau):
            watched = loss
            if progress.validation_loss_curve_ is not None:
                watched = progress.validation_loss_curve_[-1]
            state.plateau = settings.learning_rate.observe(state.plateau, watched)
        if progress._no_improvement_count > settings.n_iter_no_change:
            if self._no_progress():
                return "converged"
            progress._no_improvement_count = 0
        return None

    def _judged(self, judge: Judge, result: EpochResult) -> bool:
        """Note the loss, and with early stopping the score, on the rows held out.

        Returns whether the parameters are finite.
        """
        progress = self.progress
        assert progress.validation_loss_curve_ is not None
        try:
            params = result.params()
        except NotFiniteError:
            progress.validation_loss_curve_.append(math.nan)
            if progress.validation_scores_ is not None:
                progress.validation_scores_.append(math.nan)
            return False
        held = judge.rows
        if not isinstance(held, ValidationSet):
            self._judged_by_source(held, params)
            return True
        by_row, outputs = blocks.losses_and_outputs(
            self._backend, self._equations, params, held.X, held.y, self._processes
        )
        loss = blocks.mean_loss(by_row, held.weights)
        progress.validation_loss_curve_.append(loss)
        if progress.validation_scores_ is not None:
            score = self._checked_score(judge.score(outputs, params))
            progress.validation_scores_.append(score)
            if self.settings.verbose and self._processes.rank == 0:
                print(f"Validation score: {score:f}")
        elif not math.isfinite(loss):
            self.doubt = self.doubt or validation_loss_message(
                by_row, held.weights, progress.n_iter_
            )
        return True

    def _judged_by_source(self, held: Held, params: Params) -> None:
        """Note what rows say that are read anew for each epoch."""
        progress = self.progress
        assert progress.validation_loss_curve_ is not None
        judged = held.judged(self._backend, self._equations, params, progress.n_iter_)
        progress.validation_loss_curve_.append(judged.loss)
        if progress.validation_scores_ is None:
            self.doubt = self.doubt or judged.doubt
            return
        score = self._checked_score(judged.score)
        progress.validation_scores_.append(score)
        if self.settings.verbose and self._processes.rank == 0:
            print(f"Validation score: {score:f}")

    def _checked_score(self, score: Any) -> float:
        """The score as a float; one that is not finite is not counted."""
        score = score.item() if getattr(score, "size", None) == 1 else score
        if not isinstance(score, numbers.Real):
            raise ValueError(
                f"scoring must return a number, got {shown(score)} in epoch {self.progress.n_iter_}"
            )
        if not math.isfinite(score) and self.doubt is None:
            scoring = self.settings.scoring
            name = "" if scoring is None else f" (scoring={shown(scoring)})"
            self.doubt = (
                f"the validation score{name} is {score} in epoch {self.progress.n_iter_}. Such an "
                "epoch is not counted, neither as the best nor as one without progress. Do the rows "
                "that are held out have every class, and no missing values? Hand in validation_data, "
                "or choose another scoring"
            )
        return float(score)

    def _count(self, loss: float, result: EpochResult) -> None:
        """Epochs without progress, by the validation score or by the training loss."""
        settings, progress = self.settings, self.progress
        if progress.validation_scores_ is not None:
            score, best = progress.validation_scores_[-1], progress.best_validation_score_
            assert best is not None
            if not math.isfinite(score):
                return
            stuck = score < best + settings.tol
            if score > best:
                progress.best_validation_score_ = score
                self.best = (score, result.epoch, result.params())
        else:
            best = math.inf if progress.best_loss_ is None else progress.best_loss_
            stuck = loss > best - settings.tol
            progress.best_loss_ = min(best, loss)
        progress._no_improvement_count = progress._no_improvement_count + 1 if stuck else 0

    def _no_progress(self) -> bool:
        """Whether that ends the training; an adaptive rate falls first."""
        settings, state = self.settings, self.state
        watched = "Validation score" if settings.early_stopping else "Training loss"
        message = (
            f"{watched} did not improve more than tol={settings.tol:f} for "
            f"{settings.n_iter_no_change} consecutive epochs."
        )
        if settings.named_schedule != "adaptive":
            end, stop = "Stopping.", True
        elif state.learning_rate <= 1e-6:
            end, stop = "Learning rate too small. Stopping.", True
        else:
            state.learning_rate /= 5.0
            end, stop = f"Setting learning rate to {state.learning_rate:f}", False
        if settings.verbose and self._processes.rank == 0:
            print(f"{message} {end}")
        return stop

    # --- what a checkpoint holds ------------------------------------------------------------------

    def set_best(self, best: tuple[float, int, Params]) -> None:
        self.best = best

    def saved(self) -> dict[str, Any]:
        rate, best, waited = self.state.plateau
        return {
            "plateau": [rate, recovery.number(best), waited],
            "history": [{}] * self._done,
            "watchers": [],
            "estimator": {
                "progress": {**vars(self.progress)},
                "learning_rate": self.state.learning_rate,
                "random_state": self.start,
            },
        }

    def restore(self, metadata: Mapping[str, Any], epoch: int, steps: int) -> None:
        estimator = metadata.get("estimator")
        estimator = estimator if isinstance(estimator, dict) else {}
        saved = estimator.get("progress")
        known = {f.name for f in fields(Progress)}
        if not isinstance(saved, dict) or saved.keys() != known or saved["n_iter_"] != epoch:
            raise ValueError(f"the progress of {epoch} epochs is missing: {shown(saved)}")
        vars(self.progress).update(saved)
        rate, best, waited = metadata["plateau"]
        self.state.plateau = (float(rate), recovery.from_number(best), int(waited))
        self.state.learning_rate = float(estimator["learning_rate"])
        self._done = epoch
        # The generator makes the shuffles of these epochs again, but no more than this run would.
        for done in range(min(epoch, self.epochs)):
            self.order(done)
        self._publish()
