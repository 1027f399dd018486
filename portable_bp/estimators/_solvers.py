"""The two ways to train an estimator: steps over mini-batches, and L-BFGS over all rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from portable_bp._typing import HostArray, Params
from portable_bp._warnings import warn
from portable_bp.equations import optimizers
from portable_bp.equations.optimizers import AdamW, Momentum, Nesterov, Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.errors import DivergenceError
from portable_bp.estimators import _input
from portable_bp.estimators._place import Place
from portable_bp.estimators._policy import (
    Judge,
    OptimizerState,
    Progress,
    ScikitAdam,
    ScikitPolicy,
    Settings,
)
from portable_bp.estimators._saving import Saving
from portable_bp.mlp import MLP
from portable_bp.processes import current
from portable_bp.sources.protocol import Described
from portable_bp.training import source_rows
from portable_bp.training.agreement import follows_host
from portable_bp.training.checkpointing import Signalled
from portable_bp.training.data import DataSource, DeviceData, data_source
from portable_bp.training.divergence import diagnose
from portable_bp.training.history import History
from portable_bp.training.lbfgs import Objective, minimise
from portable_bp.training.model import Model
from portable_bp.training.shares import Shares
from portable_bp.training.step import StepPlan, step_for
from portable_bp.training.together_groups import Job
from portable_bp.training.trainer import Trainer

COMPILE_STEPS = 8
"""Fewer steps than this are not worth compiling."""

Hooks = Sequence[Callable[[Params], bool]]


class TrainingRows(NamedTuple):
    """Rows to learn from: X and y as training takes them, and their weights on the host."""

    X: Any
    """Or a :class:`~portable_bp.sources.protocol.Described` source, which has y itself."""
    y: Any
    weights: HostArray | None


@dataclass(frozen=True)
class Task:
    """What is to be trained.

    Attributes
    ----------
    net : MLP
    place : Place
    dtype : str
        Of the equations.
    rows : TrainingRows
    params : pairs (W, b)
        Where to start, on ``place.work``.
    hooks : sequence of functions of the parameters
        Called after each epoch or iteration; a true answer stops.
    """

    net: MLP
    place: Place
    dtype: str
    rows: TrainingRows
    params: Params
    hooks: Hooks


class Divergence(NamedTuple):
    """When a run diverged, and what to do about it."""

    when: str
    advice: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the parameters to keep."""

    params: Params
    diverged: Divergence | None


def optimizer_of(est: Any) -> Optimizer:
    """The optimiser that the parameters of an estimator ask for."""
    if isinstance(est.solver, Optimizer):
        return est.solver
    if est.solver == "adam":
        return ScikitAdam(est.beta_1, est.beta_2, est.epsilon)
    if est.solver == "adamw":
        return AdamW(est.beta_1, est.beta_2, est.epsilon, est.weight_decay)
    return (Nesterov if est.nesterovs_momentum else Momentum)(est.momentum)


def fresh_state(est: Any, params: Params, place: Place) -> OptimizerState:
    """The state of the optimiser before the first step."""
    rule = optimizer_of(est)
    with place.work.scope():
        slots = optimizers.init(rule, params, xp=place.work.xp)
    schedule = est.learning_rate
    rate = schedule.rate if isinstance(schedule, Schedule) else float(est.learning_rate_init)
    return OptimizerState(rule, slots, rate, plateau=(rate, math.inf, 0))


def by_steps(
    est: Any,
    task: Task,
    state: OptimizerState,
    judge: Judge | None,
    progress: Progress,
    publish: Callable[[], None],
    *,
    incremental: bool,
    saving: Saving | None,
) -> Generator[Job, None, Outcome]:
    """Train in epochs of mini-batches: whoever is handed the run lets it train, then asks again.

    Parameters
    ----------
    est : estimator
        Whose parameters say how; nothing of it is changed.
    task : Task
    state : OptimizerState
        On ``task.place.work``; brought up to date.
    judge : Judge, optional
        Rows to judge each epoch by.
    progress : Progress
        Brought up to date.
    publish : function
        Called after each epoch, to show the progress.
    incremental : bool
        One epoch only.
    saving : Saving, optional
        Where to save the run.

    Yields
    ------
    Job
        The run, before its first step.

    Returns
    -------
    Outcome
    """
    work, settings = task.place.work, Settings.of(est)
    job, policy = _job(est, task, state, judge, progress, publish, incremental, saving)
    trainer = job.trainer
    with ExitStack() as stack:
        if saving is not None:
            saving.attach(stack, est, task, judge, trainer, policy, (task.params, state.slots))
        yield job
    reason = trainer.stopped or "finished"
    state.steps = trainer.steps
    diverged = None
    params, state.slots = trainer.last_snapshot()
    if reason == "diverged":
        name = "learning_rate" if isinstance(est.learning_rate, Schedule) else "learning_rate_init"
        clipped = est.clip_norm is not None
        with work.scope():
            diagnosis = diagnose(task.net, trainer, clipped=clipped, rate=name)
        diverged = Divergence(diagnosis.when, diagnosis.advice)
        params, state.slots = diagnosis.state
    elif policy.doubt is not None:
        warn(policy.doubt)
    if reason == "interrupted":
        warn("Training interrupted by user.")
    if reason == "finished" and progress.n_iter_ == settings.max_iter and not incremental:
        warn(
            f"Stochastic Optimizer: Maximum iterations ({settings.max_iter}) reached and the "
            "optimization hasn't converged yet.",
            ConvergenceWarning,
        )
    if judge is not None and settings.early_stopping and policy.best is not None:
        params = policy.best[2]
    return Outcome(params, diverged)


def _job(
    est: Any,
    task: Task,
    state: OptimizerState,
    judge: Judge | None,
    progress: Progress,
    publish: Callable[[], None],
    incremental: bool,
    saving: Saving | None,
) -> tuple[Job, ScikitPolicy]:
    net, work, dtype = task.net, task.place.work, task.dtype
    X, y, weights = task.rows
    n = int(X.shape[0])
    batch, epochs = _input.batch_rows(est.batch_size, n), 1 if incremental else est.max_iter
    # Drawn before the shuffles, as ever; without dropout there is nothing to draw.
    seed = int(est._random_state.randint(np.iinfo(np.int32).max)) if any(net.dropout) else 0
    data: DataSource
    windows = None
    if isinstance(X, Described):
        data = source_rows.windows(
            work, net.spec, dtype, X, weights, batch_size=batch, shuffle=est.shuffle,
            seed=int(est._random_state.randint(np.iinfo(np.int32).max)),
        )  # fmt: skip
        windows = data.order
    else:
        data = data_source(work, dtype, X, y, weights)
    processes = current()
    shares = None
    if processes.size > 1:
        shares = Shares(processes, n, batch, processes.size, False, weights)
    plan = StepPlan(
        net.equations, state.rule, net.dropout, seed, weighted=weights is not None,
        clip_value=est.clip_value, clip_norm=est.clip_norm, l2_each_step=est.alpha > 0,
        parts=None if shares is None else shares.mine,
    )  # fmt: skip
    policy = ScikitPolicy(
        Settings.of(est), progress, state, est._random_state, n, batch, weights, epochs,
        backend=work, equations=net.equations, judge=judge, best=task.params,
        watched=saving is not None or not isinstance(data, DeviceData),
        hooks=task.hooks, publish=publish, windows=windows,
    )  # fmt: skip
    at_once = batch if shares is None else shares.part_rows
    step = step_for(work, plan, net.sizes, at_once, labels=data.labels)
    compiled = policy.per_epoch * epochs >= COMPILE_STEPS
    compiled = compiled and (shares is None or follows_host(work))
    trainer = Trainer(
        work, dtype, step, (task.params, state.slots), state.rule, data, batch, policy,
        compile=compiled, steps=state.steps, shares=shares,
    )  # fmt: skip
    if shares is not None:
        trainer.recorder = Signalled(processes, 6 * net.n_parameters * batch)
    return Job(trainer, plan, net.sizes), policy


@dataclass(frozen=True)
class LBFGSOutcome(Outcome):
    """Beside the parameters, what becomes ``n_iter_`` and ``loss_``."""

    n_iter: int
    loss: float


def by_lbfgs(est: Any, task: Task, publish: Callable[[int, float], None]) -> LBFGSOutcome:
    """Train with L-BFGS.

    Parameters
    ----------
    est : estimator
        Whose parameters say how; nothing of it is changed.
    task : Task
    publish : function of the number of iterations and the loss
        Called after each iteration, to show the progress.

    Returns
    -------
    LBFGSOutcome
    """
    X, y, weights = task.rows
    work = task.place.work
    data: DataSource
    if isinstance(X, Described):
        data = source_rows.windows(
            work, task.net.spec, task.dtype, X, weights, batch_size=None, seed=0, shuffle=False
        )
    else:
        data = data_source(work, task.dtype, X, y, weights)
    total = data.n if weights is None else float(weights.sum())
    objective = Objective(task.net, work, task.dtype, data, weights, est.alpha / total)
    started = time.perf_counter()

    def after_iteration(number: int, loss: float, params: Callable[[], Params]) -> str | None:
        if est.verbose:
            print(f"Iteration {number}, loss = {loss:.8f}")
        publish(number, loss)
        if task.hooks:
            present = params()
            stops = [hook(present) for hook in task.hooks]
            if any(stops):
                return "callback"
        if est.max_time is not None and time.perf_counter() - started >= est.max_time:
            return "time"
        return None

    minimum = minimise(
        objective, task.params, max_iter=est.max_iter, max_fun=est.max_fun, tol=est.tol,
        after_iteration=after_iteration,
    )  # fmt: skip
    n_iter = min(minimum.iterations, est.max_iter)
    if minimum.stopped == "interrupted":
        warn("Training interrupted by user.")
    if minimum.failure is not None:
        _warn_not_converged(minimum.failure, minimum.status, n_iter, est.max_iter)
    params, diverged = minimum.params, None
    with work.scope():
        finite = math.isfinite(minimum.loss) and work.all_finite(params)
    if not finite and minimum.iterations + (minimum.stopped != "interrupted"):
        params = task.params
        diverged = Divergence("in the line search", "Scale X and y to mean 0 and deviation 1.")
    return LBFGSOutcome(params, diverged, n_iter, minimum.loss)


def _warn_not_converged(failure: str, status: int, n_iter: int, max_iter: int) -> None:
    message = (
        f"lbfgs failed to converge after {n_iter} iteration(s) (status={status}):\n{failure}\n"
    )
    if n_iter == max_iter:
        message += (
            f"\nIncrease the number of iterations to improve the convergence (max_iter={max_iter})."
        )
    message += (
        "\nYou might also want to scale the data, for example with "
        "sklearn.preprocessing.StandardScaler."
    )
    warn(message, ConvergenceWarning)


def report(est: Any, diverged: Divergence, task: Task, params: Params) -> None:
    """Raise for a run that diverged; with early stopping there are good parameters: warn."""
    what = f"Training diverged {diverged.when}: the loss or a parameter was no longer finite"
    if est.early_stopping and est.solver != "lbfgs":
        warn(
            f"{what}. The parameters with the best validation score were kept. {diverged.advice}",
            ConvergenceWarning,
        )
        return
    history = History([{"loss": loss} for loss in getattr(est, "loss_curve_", [])])
    raise DivergenceError(
        "Solver produced non-finite parameter weights. The input data may contain large values "
        f"and need to be preprocessed. {what}; coefs_ and intercepts_ hold the last finite "
        f"ones. {diverged.advice}",
        Model(task.net, params, task.place.work, history, "diverged"),
    )
