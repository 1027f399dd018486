"""The stochastic solvers: scikit-learn's epochs, batches and stopping rules around our step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from portable_bp._typing import HostArray, Params, Step, Tree
from portable_bp._warnings import warn
from portable_bp.backend import EagerRunner, map_leaves
from portable_bp.equations import optimizers
from portable_bp.equations.optimizers import Adam, AdamW, Momentum, Nesterov, Optimizer
from portable_bp.equations.schedules import ReduceOnPlateau, Schedule
from portable_bp.estimators._place import Place
from portable_bp.estimators._remembered import remembered
from portable_bp.estimators._rows import Rows
from portable_bp.mlp import MLP
from portable_bp.training import blocks
from portable_bp.training.step import StepPlan, make_step

if TYPE_CHECKING:
    from portable_bp.estimators._base import BaseMLP

TOGETHER = 8
"""Epochs that may run in one call, when nothing can stop the training between them."""

TOGETHER_STEPS, TOGETHER_ROWS = 512, 2**20
"""Such a call is kept this short: an interruption loses what it has done."""

COMPILE_STEPS = 8
"""Fewer steps than this are not worth compiling."""


@dataclass(frozen=True)
class ScikitAdam(Adam):
    """Adam as scikit-learn has it: ``p' = p - alpha m' / (sqrt(v') + eps)``, with ``alpha = eta
    sqrt(1 - beta2^t) / (1 - beta1^t)`` and eps beside the uncorrected root (the paper's eps hat)."""

    def coefficients(self, t: Any, eta: Any) -> tuple[Any, ...]:
        return super().coefficients(t, eta)[0], self.eps


def rule_of(est: BaseMLP) -> Optimizer:
    """The optimiser that the parameters of an estimator ask for."""
    if isinstance(est.solver, Optimizer):
        return est.solver
    if est.solver == "adam":
        return ScikitAdam(est.beta_1, est.beta_2, est.epsilon)
    if est.solver == "adamw":
        return AdamW(est.beta_1, est.beta_2, est.epsilon, est.weight_decay)
    return (Nesterov if est.nesterovs_momentum else Momentum)(est.momentum)


@dataclass
class OptimizerState:
    """What a solver carries from one call of ``partial_fit`` to the next.

    Attributes
    ----------
    rule : the optimiser, with the parameters it started with
    slots : its arrays, where the fitted ones live
    learning_rate : of the next epoch
    steps : how many steps it has made
    plateau : (rate, best, waited) of a ReduceOnPlateau schedule
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


def fresh_state(est: BaseMLP, params: Params, place: Place) -> OptimizerState:
    """The state before the first step."""
    rule = rule_of(est)
    with place.work.scope():
        slots = optimizers.init(rule, params, xp=place.work.xp)
    schedule = est.learning_rate
    rate = schedule.rate if isinstance(schedule, Schedule) else float(est.learning_rate_init)
    return OptimizerState(rule, slots, rate, plateau=(rate, math.inf, 0))


_known_step = remembered(make_step)


def step_of(plan: StepPlan) -> Step:
    """The step of this plan: the same function for an equal plan, wherever that can be told.

    So a backend may take up what it has compiled for it before: in the next call of
    ``partial_fit``, in the next fold of a cross-validation.
    """
    constant = plan.counters is None and plan.classes is None  # else there are arrays to compare
    return (_known_step if constant else make_step)(plan)


@dataclass(frozen=True)
class Held:
    """Rows that are held out, to judge each epoch by.

    ``score(est, outputs)`` is the number that early stopping watches.
    """

    rows: Rows
    score: Callable[[HostArray, Params], float]


@dataclass
class Outcome:
    """How a run ended: the parameters and optimiser to keep, and why it stopped."""

    params: Params
    slots: Tree
    reason: str


class StochasticRun:
    """One call of ``fit`` or ``partial_fit`` with a stochastic solver.

    Parameters
    ----------
    est : the estimator; its progress attributes are kept up to date
    net : what the network computes
    place : where
    rows : the rows to train on
    batch : rows of a mini-batch
    params : pairs (W, b) on ``place.work``
    state : of the optimiser, on ``place.work``
    rng : the generator of the shuffles
    seed : of the dropout masks
    incremental : one epoch only
    held : rows to judge each epoch by
    hooks : what to call after each epoch; a true answer stops
    """

    def __init__(
        self,
        est: BaseMLP,
        net: MLP,
        place: Place,
        rows: Rows,
        batch: int,
        params: Params,
        state: OptimizerState,
        rng: np.random.RandomState,
        *,
        seed: int,
        incremental: bool,
        held: Held | None,
        hooks: Sequence[Callable[[Params], bool]],
    ) -> None:
        self.est, self.net, self.place, self.rows, self.batch = est, net, place, rows, batch
        self.state, self.rng, self.held, self.hooks = state, rng, held, hooks
        self.incremental = incremental
        self.epochs = 1 if incremental else est.max_iter
        self.per_epoch = -(-rows.n // batch)
        self.started = time.perf_counter()
        self.sizes = np.full(self.per_epoch, batch)
        self.sizes[-1] = rows.n - batch * (self.per_epoch - 1)
        step = step_of(self._plan(seed))
        start = (params, state.slots)
        compiled = self.per_epoch * self.epochs >= COMPILE_STEPS
        with place.work.scope():
            self.runner = (
                place.work.compile(step, start)
                if compiled
                else EagerRunner(place.work, step, start)
            )
        # The parameters at two moments: the later is known to be finite only when the losses that
        # follow it are.
        self.safe: Tree = start
        self.latest: Tree = start
        self.best: Params = params
        self.done = 0

    def _plan(self, seed: int) -> StepPlan:
        work, net, est = self.place.work, self.net, self.est
        counters = classes = None
        with work.scope():
            if any(net.dropout):
                widest = max(s for s, d in zip(net.sizes[1:], net.dropout, strict=False) if d)
                counters = work.asarray(np.arange(-(-self.batch * widest // 4)), work.word_dtype)
            if self.rows.y.ndim == 1:
                classes = work.asarray(np.arange(net.sizes[-1]), work.index_dtype)
        return StepPlan(
            net.equations, self.state.rule, net.dropout, seed, counters, classes,
            weighted=self.rows.weights is not None,
            clip_value=est.clip_value,
            clip_norm=est.clip_norm,
            l2_each_step=est.alpha > 0,
        )  # fmt: skip

    # --- epochs -----------------------------------------------------------------------------------

    def train(self) -> Outcome:
        """All epochs, or as many as it takes."""
        est = self.est
        reason = "finished"
        est.n_iter_ = 0
        order = np.arange(self.rows.n)
        try:
            while self.done < self.epochs and reason == "finished":
                orders = []
                for _ in range(self._together()):
                    order = self._shuffled(order)
                    orders.append(order)
                reason = self._epochs_end(self._run(orders))
                if reason == "finished" and self.done == est.max_iter and not self.incremental:
                    warn(
                        f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the "
                        "optimization hasn't converged yet.",
                        ConvergenceWarning,
                    )
        except KeyboardInterrupt:
            warn("Training interrupted by user.")
            reason = "interrupted"
            self.latest = self.runner.state
        return self._outcome(reason)

    def _outcome(self, reason: str) -> Outcome:
        params, slots = self.latest
        if reason != "diverged" and not self.place.finite(params):
            reason = "diverged"
        if reason == "diverged":
            params, slots = self.safe
        if self.held is not None and self.est.early_stopping:
            params = self.best
        return Outcome(params, slots, reason)

    def _together(self) -> int:
        """How many epochs may run before anything has to be looked at.

        Each fills at most one more of the ``n_iter_no_change`` epochs without progress, so that
        none before the last of them can end the training.
        """
        est = self.est
        looked_at = (
            self.held is not None,
            bool(self.hooks),
            est.max_time is not None,
            isinstance(est.learning_rate, ReduceOnPlateau),
            self.rows.sparse,
        )
        if any(looked_at):
            return 1
        short = min(TOGETHER_STEPS // self.per_epoch, TOGETHER_ROWS // self.rows.n)
        whole = max(1, min(TOGETHER, est.n_iter_no_change + 1, short))
        # One length or the other: a compiler makes a program for each.
        left = min(est.n_iter_no_change + 1 - est._no_improvement_count, self.epochs - self.done)
        return whole if left >= whole else 1

    def _shuffled(self, order: HostArray) -> HostArray:
        if not self.est.shuffle:
            return order
        permutation = np.arange(len(order))
        self.rng.shuffle(permutation)
        return order[permutation]

    def _run(self, orders: Sequence[HostArray]) -> list[float]:
        """Epochs over the rows in these orders: the mean loss of each."""
        work = self.place.work
        table = self._table(orders)
        with work.scope(), np.errstate(invalid="ignore", over="ignore"):
            # Read when all is handed to the device: it does not wait for the host in between.
            found = [
                loss
                for rows, steps in self._parts(orders)
                for loss in self.rows.run(self.runner, rows, tuple(t[steps] for t in table))
            ]
            losses = np.concatenate([work.to_numpy(loss) for loss in found]).astype(np.float64)
        self.state.steps += len(losses)
        by_epoch = (losses.reshape(len(orders), -1) * self.sizes).sum(axis=1) / self.rows.n
        return [float(loss) for loss in by_epoch]

    def _parts(self, orders: Sequence[HostArray]) -> Iterator[tuple[HostArray | None, slice]]:
        """Mini-batches of one size each: their rows, and which of the steps they are."""
        if self.per_epoch == 1:
            # All rows at once: their order is nothing to the sum, and nothing is gathered.
            yield None, slice(None)
        elif self.sizes[-1] == self.batch:
            yield np.concatenate(orders).reshape(-1, self.batch), slice(None)
        else:
            whole = self.batch * (self.per_epoch - 1)
            for epoch, order in enumerate(orders):
                first = epoch * self.per_epoch
                last = first + self.per_epoch - 1
                yield order[:whole].reshape(-1, self.batch), slice(first, last)
                yield order[whole:].reshape(1, -1), slice(last, last + 1)

    def _table(self, orders: Sequence[HostArray]) -> tuple[HostArray, ...]:
        """For each step: its number, the optimiser's coefficients, and that of the penalty."""
        steps = len(orders) * self.per_epoch
        numbers = np.arange(self.state.steps, self.state.steps + steps)
        rates = np.concatenate([self._rates(ahead) for ahead in range(len(orders))])
        coefficients = list(self.state.rule.coefficients(numbers + 1, rates))
        if self.est.alpha > 0:
            coefficients.append(self._penalties(orders))
        columns = (
            np.broadcast_to(np.asarray(c, dtype=self.rows.name), (steps,)) for c in coefficients
        )
        return numbers.astype(self.place.work.word_dtype), *columns

    def _penalties(self, orders: Sequence[HostArray]) -> HostArray:
        """alpha, divided by the rows of the mini-batch or by the sum of their weights."""
        weights = self.rows.weights
        totals = self.sizes.astype(np.float64)
        if weights is None:
            return np.tile(self.est.alpha / totals, len(orders))
        starts = np.arange(self.per_epoch) * self.batch
        totals = np.concatenate([np.add.reduceat(weights[order], starts) for order in orders])
        # A mini-batch of zero weights moves nothing.
        empty = totals == 0
        return np.where(empty, 0.0, self.est.alpha / np.where(empty, 1.0, totals))

    # --- rates ------------------------------------------------------------------------------------

    def _rates(self, ahead: int) -> HostArray:
        """The rate of each step of the epoch that comes ``ahead`` epochs after the next."""
        est, schedule = self.est, self.est.learning_rate
        if isinstance(schedule, ReduceOnPlateau):
            return np.full(self.per_epoch, self.state.plateau[0])
        if isinstance(schedule, Schedule):
            first = self.state.steps + ahead * self.per_epoch
            total = est.max_iter * self.per_epoch
            return np.array([schedule(t, total) for t in range(first, first + self.per_epoch)])
        rate = self.state.learning_rate
        if ahead and self._named_schedule == "invscaling":
            rate = self._inverse_scaling(est.t_ + ahead * self.rows.n)
        return np.full(self.per_epoch, rate)

    @property
    def _named_schedule(self) -> str:
        """``learning_rate`` where it is a name; as in scikit-learn, Adam has a constant rate."""
        name = self.est.learning_rate
        return name if isinstance(name, str) and self.est.solver != "adam" else "constant"

    def _inverse_scaling(self, seen: int) -> float:
        rate: float = self.est.learning_rate_init / (seen + 1) ** self.est.power_t
        return float(rate)

    # --- between epochs ---------------------------------------------------------------------------

    def _epochs_end(self, epoch_losses: Sequence[float]) -> str:
        """Keep the state, do the bookkeeping: why to stop, or ``"finished"`` to go on."""
        before, self.latest = self.latest, self.runner.state
        if all(map(math.isfinite, epoch_losses)) or self.place.finite(before[0]):
            self.safe = before
        for loss in epoch_losses:
            stop = self._epoch_ends(loss)
            useless = not math.isfinite(loss) and not (
                self.est.early_stopping and self.place.finite(self.latest[0])
            )
            if useless:
                return "diverged"
            if stop:
                return "stopped"
        return "time" if self._time_is_up() else "finished"

    def _epoch_ends(self, loss: float) -> bool:
        """Bookkeeping in scikit-learn's order; whether to stop."""
        est, state = self.est, self.state
        self.done += 1
        est.n_iter_ += 1
        est.loss_ = loss
        est.t_ += self.rows.n
        est.loss_curve_.append(loss)
        if est.verbose:
            print(f"Iteration {est.n_iter_}, loss = {loss:.8f}")
        if self.held is not None:
            self._judge(self.held)
        self._count(loss)
        if self._named_schedule == "invscaling":
            state.learning_rate = self._inverse_scaling(est.t_)
        if isinstance(est.learning_rate, ReduceOnPlateau):
            watched = est.validation_loss_curve_[-1] if self.held is not None else loss
            state.plateau = est.learning_rate.observe(state.plateau, watched)
        stop = False
        if est._no_improvement_count > est.n_iter_no_change:
            stop = self._no_progress()
            if not stop:
                est._no_improvement_count = 0
        asked = [hook(self.latest[0]) for hook in self.hooks]
        return stop or any(asked)

    def _judge(self, held: Held) -> None:
        """The loss, and with early stopping the score, on the rows held out."""
        est, work, params = self.est, self.place.work, self.latest[0]
        rows = held.rows
        t = rows.y if rows.sparse else work.to_numpy(rows.y)
        by_row, outputs = blocks.losses_and_outputs(work, self.net.equations, params, rows.X, t)
        est.validation_loss_curve_.append(blocks.mean_loss(by_row, rows.weights))
        if not est.early_stopping:
            return
        score = held.score(outputs, params)
        est.validation_scores_.append(score)
        if est.verbose:
            print(f"Validation score: {score:f}")

    def _count(self, loss: float) -> None:
        """Epochs without progress, by the validation score or by the training loss."""
        est = self.est
        if est.early_stopping:
            score = est.validation_scores_[-1]
            stuck = score < est.best_validation_score_ + est.tol
            if score > est.best_validation_score_:
                est.best_validation_score_ = score
                self.best = self.latest[0]
        else:
            stuck = loss > est.best_loss_ - est.tol
            est.best_loss_ = min(est.best_loss_, loss)
        est._no_improvement_count = est._no_improvement_count + 1 if stuck else 0

    def _no_progress(self) -> bool:
        """Whether that ends the training; an adaptive rate falls first."""
        est, state = self.est, self.state
        watched = "Validation score" if est.early_stopping else "Training loss"
        message = (
            f"{watched} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} "
            "consecutive epochs."
        )
        if self._named_schedule != "adaptive":
            end, stop = "Stopping.", True
        elif state.learning_rate <= 1e-6:
            end, stop = "Learning rate too small. Stopping.", True
        else:
            state.learning_rate /= 5.0
            end, stop = f"Setting learning rate to {state.learning_rate:f}", False
        if est.verbose:
            print(f"{message} {end}")
        return stop

    def _time_is_up(self) -> bool:
        limit = self.est.max_time
        return limit is not None and time.perf_counter() - self.started >= limit
