"""``fit``: check the arguments, bring the rows to the device, train, and make a model of the result."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from portable_bp._names import squeezed, suggests
from portable_bp._params import as_pairs, check_memory, checked_params, place_params
from portable_bp._typing import Params
from portable_bp.backend import Backend, leaves
from portable_bp.backend.memory import translate_oom
from portable_bp.backend.registry import resolve
from portable_bp.equations import activations, losses, optimizers, schedules
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.errors import DivergenceError
from portable_bp.inputs.examples import Rows
from portable_bp.mlp import MLP
from portable_bp.processes import joined
from portable_bp.sources.protocol import is_source
from portable_bp.training.agreement import all_settings, follows_host
from portable_bp.training.callbacks import Callback, EarlyStopping
from portable_bp.training.checkpointing import Checkpointing, Signalled
from portable_bp.training.divergence import diagnose
from portable_bp.training.fastest import FASTEST, fastest
from portable_bp.training.lbfgs import Objective, minimise
from portable_bp.training.model import Model
from portable_bp.training.options import FitOptions, check_options, check_parts
from portable_bp.training.policy import EpochResult, FitPolicy
from portable_bp.training.prepare import PreparedRows, learn, prepare
from portable_bp.training.shards import ShardData, of_all
from portable_bp.training.shared_directory import SharedDirectory
from portable_bp.training.shares import Shares
from portable_bp.training.step import StepPlan, step_for
from portable_bp.training.together_groups import Job
from portable_bp.training.trainer import Trainer

TO_LOWER = (
    "batch_size or the layer sizes; features handed in as a NumPy array or a memory map are sent piece "
    "by piece when the device cannot hold them"
)
"""What to do when the memory does not suffice."""

LBFGS_TOLERANCE = 1e-5
"""No entry of the gradient is larger where L-BFGS has converged: SciPy's default."""


@suggests()
def fit(
    net: MLP,
    X: Any,
    y: Any = None,
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
    checkpoint_every: int | None = None,
    checkpoint_keep: int = 3,
    resume: bool = False,
    parts: int | None = None,
    reduction: str = "fast",
    shards: bool = False,
) -> Model:
    """Train a network by gradient descent.

    Parameters
    ----------
    net : MLP
        What to train.
    X : {array, sparse matrix} of shape (n, inputs), or Source
        Finite numbers of any library. Host data are moved to ``backend``; a tensor that requires a
        gradient is detached. Sparse rows become dense batch by batch. Of a source
        (:func:`portable_bp.sources.open`), and of a memory map that does not fit in memory, two
        windows of rows are in memory at a time; a new order mixes the rows of a window.
    y : array of shape (n, outputs) or (n,), left out for a source
        ``(n,)`` for one output; class labels ``(n,)`` as integers 0, 1, ..., text or booleans, or
        one-hot rows. Text and booleans are kept as ``model.classes``, and predictions give them back.
    optimizer : str or Optimizer, default "adam"
        ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"adagrad"``, ``"rmsprop"``, ``"adam"``,
        ``"adamw"``, an Optimizer, or ``"lbfgs"``. L-BFGS (SciPy's) sees all rows in each of at most
        ``epochs`` iterations and finds its own step lengths: ``batch_size``, ``shuffle``,
        ``learning_rate`` and ``compile`` are nothing to it; dropout, ``l1``, clipping, schedules and
        ``checkpoint`` are errors.
    learning_rate : float or Schedule, default 1e-3
        A schedule such as ``schedules.Cosine(1e-3)``.
    batch_size : int or None, default 128
        Rows per step: 1 is stochastic gradient descent, None (or a number beyond that of the rows)
        takes all rows at once (batch gradient descent), anything between is mini-batch. The last
        batch of an epoch may be smaller.
    epochs : int, default 20
        How often every row is seen.
    validation : float, (X, y), (X, y, sample_weight) or Source, optional
        A share of the rows to hold out (of a source with 20 blocks or more, of the blocks), or data
        of your own: after each epoch the loss (its data
        term, without penalties) and the accuracy or R squared on them are recorded.
    sample_weight : array of shape (n,), optional
        Not negative; a row of weight 0 is not there.
    shuffle : bool, default True
        A new order of the rows each epoch.
    clip_value : float, optional
        Bring each entry of the gradient into ``[-clip_value, clip_value]``.
    clip_norm : float, optional
        Scale the whole gradient to a norm of at most ``clip_norm``.
    early_stopping : EarlyStopping or int, optional
        Stop after that many epochs without improvement, and give back the best parameters.
    callbacks : sequence of functions, default ()
        Called after each epoch with an :class:`~portable_bp.EpochEnd`; one that returns True stops.
    progress : bool, default False
        Show a progress bar.
    max_time : float, optional
        Seconds after which no further epoch starts.
    backend : str or Backend, optional
        Where to train; by default it follows the arrays (see :func:`portable_bp.get_backend`).
        ``"fastest"`` times training steps on every usable backend and device, which takes some seconds
        once for each shape in a process, and takes the quickest; ``portable-bp bench`` shows the same.
    dtype : {"float32", "float64"}, default "float32"
        The precision of parameters and computation.
    seed : int, default 0
        Start parameters, order of the rows, dropout and the split follow from it, the same on every
        backend.
    params : pairs (W, b), optional
        Start from these instead of ``net.init(seed)``; they are not changed.
    compile : bool, default True
        Let the backend compile the step; the numbers are the same.
    report_loss : bool, default True
        With False the training loss is not computed and the history has no ``loss``: a little
        faster for very small networks.
    checkpoint : str or path, optional
        A directory to save the run in; needs ``safetensors``. Nothing is lost when the process is
        killed: see ``resume``. While it is open, SIGINT, SIGTERM and SIGUSR1 finish the step, save,
        and end the training; ``model.stopped`` names the signal.
    checkpoint_every : int, optional
        Steps between two checkpoints; by default one at the end of each epoch.
    checkpoint_keep : int, default 3
        How many checkpoints stay, the newest ones.
    resume : bool, default False
        Go on from the newest valid checkpoint in the directory, if there is one. The run ends with
        the same bits as one that was never interrupted, on the same backend.
    parts : int, optional
        Cut each batch into so many parts, which the processes of :func:`portable_bp.distributed` share;
        by default one for each. Masks of dropout depend on the number of parts, not on that of the
        processes.
    reduction : {"fast", "ordered"}, default "fast"
        How the gradients of the parts are added. ``"ordered"`` adds them along a binary tree: the bits
        do not depend on the number of processes. It needs ``parts``, a power of two.
    shards : bool, default False
        In :func:`portable_bp.distributed`: each process hands in rows of its own (those of
        ``validation``, too), which no other has. It brings its share of them into each batch; rows are
        shuffled within the process.

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
    RemoteError
        In :func:`portable_bp.distributed`, for an error that another process has.

    Warns
    -----
    UserWarning
        When the validation loss is not a finite number: such an epoch is not counted, neither as the
        best nor as one without improvement.

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> net = portable_bp.MLP([2, 8, 1], hidden="tanh", loss="log_loss")
    >>> model = portable_bp.fit(net, X, [0, 1, 1, 0], learning_rate=0.1, epochs=100, batch_size=None)
    >>> [int(label) for label in model.predict(X)]
    [0, 1, 1, 0]
    """
    began, processes = time.perf_counter(), joined()
    with processes.agreeing():
        options = check_options(
            net, held=validation is not None, optimizer=optimizer, learning_rate=learning_rate,
            batch_size=batch_size, epochs=epochs, shuffle=shuffle, clip_value=clip_value,
            clip_norm=clip_norm, early_stopping=early_stopping, callbacks=callbacks,
            progress=progress,
            max_time=max_time, dtype=dtype, seed=seed, compile=compile, report_loss=report_loss,
            checkpoint=checkpoint, checkpoint_every=checkpoint_every, checkpoint_keep=checkpoint_keep,
            resume=resume, parts=parts, reduction=reduction, shards=shards,
        )  # fmt: skip
        check_parts(options, processes)
        start = None if params is None else checked_params(net, params)
        spec = learn(net.spec, X, y)
        held_out = tuple(validation) if isinstance(validation, tuple | list) else ()
        arrays = () if params is None else leaves(as_pairs(params))
    if isinstance(backend, str) and squeezed(backend) == FASTEST:
        backend = processes.on_first(lambda: _quickest(net, options, _rows(X)))
    with processes.agreeing():
        backend = resolve(backend, X, y, sample_weight, *held_out, *arrays)

    def trained() -> Model:
        with backend.scope():
            with processes.agreeing():
                if start is None:
                    check_memory(net)
                rows = prepare(net, spec, backend, options, Rows(X, y, sample_weight), validation)
                begin = (
                    net.init(options.seed, backend, options.dtype)
                    if start is None
                    else place_params(start, backend, options.dtype)
                )
            if options.shards and processes.size > 1:
                rows = of_all(rows, processes, options)
            deadline = math.inf if options.max_time is None else began + options.max_time
            policy = FitPolicy(
                net, spec, backend, options.schedule, options.epochs, rows.data.n,
                min(options.batch_size or rows.data.n, rows.data.n), rows.weights, options.shuffle,
                options.seed, rows.held, options.callbacks, options.early, deadline,
                checkpointed=options.checkpoint is not None, report_loss=options.report_loss,
                processes=processes,
                windows=rows.windows,
            )  # fmt: skip
            if processes.size > 1:
                same = _identity(net, options, rows, policy)
                same |= {"labels": None if spec.classes is None else [*spec.classes]}
                processes.compare(same | all_settings(backend, options, rows, begin))
            run = _by_lbfgs if options.optimizer is None else _by_steps
            return run(net, options, rows, policy, begin)

    def task() -> str:
        n = _rows(X)
        batch = n if options.batch_size is None else min(options.batch_size, n)
        return f"training {net!r} on {n:,} rows, {batch:,} at a time"

    return translate_oom(backend, trained, task, TO_LOWER)


def _rows(X: Any) -> int:
    return int(X.n if is_source(X) else X.shape[0] if hasattr(X, "shape") else len(X))


def _quickest(net: MLP, options: FitOptions, n: int) -> str:
    """The backend that wins a race of steps like those of this training."""
    rule = options.optimizer or Optimizer()  # L-BFGS takes all rows at once
    batch = n if options.optimizer is None else min(options.batch_size or n, n)
    return fastest(net, rule, batch, options.dtype, compile=options.compile).spec


def _by_steps(
    net: MLP, options: FitOptions, rows: PreparedRows, policy: FitPolicy, begin: Params
) -> Model:
    """Train in steps over mini-batches."""
    trainer, processes = job_of(net, options, rows, policy, begin).trainer, policy.processes
    work = 6 * net.n_parameters * policy.batch_size  # a product forth, two back
    with ExitStack() as stack:
        if options.checkpoint is not None:
            checkpointing = Checkpointing(
                stack.enter_context(
                    SharedDirectory(processes, options.checkpoint, options.checkpoint_keep)
                ),
                options.checkpoint_every, _identity(net, options, rows, policy), policy,
                work=work, processes=processes,
            )  # fmt: skip
            trainer.recorder = checkpointing
            checkpointing.go_on(trainer, trainer.last_snapshot(), options.resume)
        elif processes.size > 1:
            trainer.recorder = Signalled(processes, work)
        with policy.running():
            reason = trainer.train()
            if reason == "diverged":
                processes.raise_everywhere(divergence_of(net, options, policy, trainer))
    return model_of(policy, trainer.last_snapshot()[0], reason)


def job_of(
    net: MLP, options: FitOptions, rows: PreparedRows, policy: FitPolicy, begin: Params
) -> Job:
    """A run in steps over mini-batches, before its first step."""
    backend, rule, processes = policy.backend, options.optimizer, policy.processes
    assert rule is not None
    shares = rows.data.shards if isinstance(rows.data, ShardData) else _shares(options, policy)
    plan = StepPlan(
        net.equations, rule, net.dropout, options.seed, weighted=rows.weights is not None,
        clip_value=options.clip_value, clip_norm=options.clip_norm, report=options.report_loss,
        parts=None if shares is None else shares.mine,
    )  # fmt: skip
    labels = rows.data.labels
    at_once = policy.batch_size if shares is None else shares.part_rows
    step = step_for(backend, plan, net.sizes, at_once, labels=labels)
    state = (begin, optimizers.init(rule, begin, xp=backend.xp))
    trainer = Trainer(
        backend, options.dtype, step, state, rule, rows.data, policy.batch_size, policy,
        compile=options.compile and (processes.size == 1 or follows_host(backend)), shares=shares,
    )  # fmt: skip
    return Job(trainer, plan, net.sizes)


def divergence_of(
    net: MLP, options: FitOptions, policy: FitPolicy, trainer: Trainer
) -> DivergenceError:
    """Why a run diverged, with its last finite parameters."""
    diagnosis = diagnose(net, trainer, clipped=options.clip_norm is not None)
    return DivergenceError(
        f"training diverged {diagnosis.when}: the loss or a parameter is not finite. "
        f"{diagnosis.advice}",
        policy.model(diagnosis.state[0], "diverged"),
    )


def _shares(options: FitOptions, policy: FitPolicy) -> Shares | None:
    """Which rows of each batch are this process's; None where it computes all of them at once."""
    parts = options.parts or policy.processes.size
    if parts == 1:
        return None
    return Shares(
        policy.processes, policy.n, policy.batch_size, parts, options.reduction == "ordered",
        policy.weights,
    )  # fmt: skip


def _by_lbfgs(
    net: MLP, options: FitOptions, rows: PreparedRows, policy: FitPolicy, begin: Params
) -> Model:
    """Train with L-BFGS: an epoch is an iteration."""
    backend = policy.backend
    objective = Objective(net, backend, options.dtype, rows.data, rows.weights, net.l2)
    last_finite, began = begin, time.perf_counter()

    def after_iteration(number: int, loss: float, params: Callable[[], Params]) -> str | None:
        nonlocal last_finite, began
        reason = policy.after_epoch(EpochResult(number, loss, None, began, 1, params, params))
        if reason != "diverged":
            last_finite = params()
        began = time.perf_counter()
        return reason

    with policy.running():
        minimum = minimise(
            objective, begin, max_iter=options.epochs, max_fun=20 * options.epochs + 100,
            tol=LBFGS_TOLERANCE, after_iteration=after_iteration,
        )  # fmt: skip
        if not math.isfinite(minimum.loss) and minimum.stopped != "interrupted":
            raise DivergenceError(
                f"training diverged in the line search of iteration {minimum.iterations + 1}: the "
                "loss is not finite. Scale X and y to mean 0 and deviation 1",
                policy.model(last_finite, "diverged"),
            )
    if minimum.stopped == "failed":
        warnings.warn(
            f"L-BFGS stopped after {minimum.iterations} iteration(s), before it converged: "
            f"{minimum.failure}. Scaling X and y may help, or dtype='float64'",
            UserWarning,
            stacklevel=2,
        )
    return model_of(policy, minimum.params, minimum.stopped)


def model_of(policy: FitPolicy, params: Params, reason: str) -> Model:
    """The model: of the best epoch where that was asked for, else as the run left it."""
    cut_short = reason in ("interrupted", "terminated")
    keep_best = policy.early.restore_best if policy.early is not None else cut_short
    best = policy.best if keep_best else None
    return policy.model(best[2], reason, best[1]) if best else policy.model(params, reason)


def _identity(
    net: MLP, options: FitOptions, rows: PreparedRows, policy: FitPolicy
) -> dict[str, Any]:
    """What has to be the same for a run to go on from its checkpoint."""
    assert options.optimizer is not None
    layers = [activations.describe(a) for a in net.activations]
    return {
        "network": [list(net.sizes), layers, losses.describe(net.loss)],
        "penalties": [net.l1, net.l2],
        "dropout": list(net.dropout),
        "optimizer": optimizers.describe(options.optimizer),
        "learning_rate": schedules.describe(options.schedule),
        "batch_size": policy.batch_size,
        "shuffle": options.shuffle,
        "clip": [options.clip_value, options.clip_norm],
        "seed": options.seed,
        "dtype": options.dtype,
        "parts": options.parts,
        "reduction": None if options.reduction == "fast" else options.reduction,
        "data": rows.digest(),
    }
