"""Epochs over mini-batches: the training loop. What a step computes stands in ``equations``."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from portable_bp import checks, host
from portable_bp._typing import Array, HostArray, Params, Tree
from portable_bp.backend import Backend, EagerRunner, Runner, leaves, map_leaves
from portable_bp.equations import optimizers, schedules
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import ReduceOnPlateau, Schedule
from portable_bp.errors import DivergenceError
from portable_bp.mlp import MLP, backend_to_host, float_name, to_backend
from portable_bp.registry import get_backend, owner, resolve
from portable_bp.training.callbacks import Callback, EarlyStopping, EpochEnd, ProgressBar
from portable_bp.training.history import History
from portable_bp.training.metrics import metric_name
from portable_bp.training.model import Model, compile_last_layer
from portable_bp.training.step import StepPlan, make_step

ONE_HOT_ENTRIES = 2**24
"""Labels of at most this many one-hot entries are expanded once, larger ones batch by batch."""


@dataclass(frozen=True)
class Data:
    """Rows to learn from, on the device, and what the host has to know of them."""

    n: int
    arrays: tuple[Array, ...]
    """``(X, y)`` or ``(X, y, weights)``."""
    weights: HostArray | None


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
) -> Model:
    """Train a network by gradient descent.

    Parameters
    ----------
    net : MLP
    X : (n, inputs), finite numbers of any library; host data are moved to ``backend``
    y : (n, outputs), or (n,) for one output; class labels as integers (n,) or one-hot rows
    optimizer : ``sgd``, ``momentum``, ``nesterov``, ``adagrad``, ``rmsprop``, ``adam``, ``adamw``, or
        an Optimizer
    learning_rate : a positive number, or a Schedule such as ``schedules.Cosine(1e-3)``
    batch_size : int or None
        Rows per step: 1 is stochastic gradient descent, None takes all rows at once (batch gradient
        descent), anything between is mini-batch. The last batch of an epoch may be smaller.
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

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> net = portable_bp.MLP([2, 8, 1], hidden="tanh", loss="log_loss")
    >>> model = portable_bp.fit(net, X, [0, 1, 1, 0], learning_rate=0.1, epochs=100, batch_size=None)
    >>> [int(label) for label in model.predict(X)]
    [0, 1, 1, 0]
    """
    start = time.perf_counter()
    optimizer, schedule = optimizers.get(optimizer), schedules.get(learning_rate)
    name = float_name(dtype)
    seed = host.as_seed(seed)
    epochs = checks.positive_int("epochs", epochs)
    clip_value = _limit("clip_value", clip_value)
    clip_norm = _limit("clip_norm", clip_norm)
    max_time = _limit("max_time", max_time)
    early = None if early_stopping is None else _early_stopping(early_stopping)
    held_out = tuple(validation) if isinstance(validation, tuple | list) else ()
    where = resolve(backend, X, y, sample_weight, *held_out)
    with where.scope():
        train, test = _prepare(net, where, X, y, sample_weight, validation, seed, name)
        params = net.init(seed, where, name) if params is None else _given(net, where, params, name)
        plan = _plan(net, where, optimizer, train, batch_size, seed, clip_value, clip_norm)
        state = (params, optimizers.init(optimizer, params, xp=where.xp))
        step = make_step(plan)
        runner = where.compile(step, state) if compile else EagerRunner(where, step, state)
        run = _Run(
            net, where, name, runner, optimizer, schedule, train, test, state,
            _batch_size(batch_size, train.n), epochs, shuffle, seed,
        )  # fmt: skip
        watchers: list[Any] = [*callbacks]
        if early is not None:
            watchers.append(early)
        if progress:
            watchers.append(ProgressBar())
        return run.train(watchers, early, None if max_time is None else start + max_time)


class _Run:
    """The state of one training run between epochs."""

    def __init__(
        self,
        net: MLP,
        backend: Backend,
        dtype: str,
        runner: Runner,
        optimizer: Optimizer,
        schedule: Schedule,
        train: Data,
        test: tuple[Any, HostArray, HostArray | None] | None,
        state: Tree,
        batch_size: int,
        epochs: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        self.net, self.backend, self.dtype, self.runner = net, backend, dtype, runner
        self.optimizer, self.schedule = optimizer, schedule
        self.train_data, self.test = train, test
        self.batch_size, self.epochs, self.shuffle, self.seed = batch_size, epochs, shuffle, seed
        self.per_epoch = -(-train.n // batch_size)
        self.plateau = (schedule.rate, math.inf, 0)
        self.history = History()
        self.state = state
        self.best: tuple[float, int, Params] | None = None
        self.steps = 0
        self.last_layer = compile_last_layer(net, backend)

    def train(
        self, watchers: Sequence[Any], early: EarlyStopping | None, deadline: float | None
    ) -> Model:
        for watcher in watchers:
            getattr(watcher, "begin", _nothing)(self.net, self.epochs)
        stopped = "finished"
        try:
            for epoch in range(1, self.epochs + 1):
                row = self.epoch(epoch)
                self.remember(epoch, row, early)
                end = EpochEnd(epoch, self.epochs, row, self.history, self.net, self.params)
                # Every watcher sees every epoch, also the one that another watcher stops at.
                stops = [watcher(end) for watcher in watchers]
                if any(stops):
                    stopped = "callback"
                    break
                if deadline is not None and time.perf_counter() >= deadline:
                    stopped = "time"
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
        finally:
            for watcher in watchers:
                getattr(watcher, "end", _nothing)()
        keep_best = early.restore_best if early is not None else stopped == "interrupted"
        best = self.best if keep_best else None
        return Model(
            self.net,
            best[2] if best else self.state[0],
            self.backend,
            self.history,
            stopped,
            best[1] if best else None,
        )

    def params(self) -> Params:
        """A private copy of the parameters as they are now."""
        copy: Params = map_leaves(self.backend.copy, self.state[0])
        return copy

    def epoch(self, epoch: int) -> dict[str, float]:
        """Every row once: the numbers that the history keeps."""
        began = time.perf_counter()
        rate = self.rate(self.steps)
        losses, weights = [], []
        for order in self.batches(epoch):
            table = self.table(len(order))
            data = self.train_data.arrays
            # All rows in their own order need no gathering.
            whole = not self.shuffle and order.shape[1] == self.train_data.n
            losses.append(self.runner.run(data, None if whole else order, table))
            weights.append(self.batch_weights(order))
            self.steps += len(order)
        state = self.runner.state
        host_losses = np.concatenate([self.backend.to_numpy(l) for l in losses])
        self.check(epoch, host_losses, state)
        self.state = state
        row = {
            "loss": float(np.average(host_losses.astype(float), weights=np.concatenate(weights)))
        }
        if self.test is not None:
            now = Model(self.net, self.state[0], self.backend, _last_layer=self.last_layer)
            loss, score = now.evaluate_prepared(*self.test)
            row["validation_loss"] = loss
            row[f"validation_{metric_name(self.net.loss)}"] = score
        row["learning_rate"] = rate
        row["seconds"] = time.perf_counter() - began
        if isinstance(self.schedule, ReduceOnPlateau):
            watched = row.get("validation_loss", row["loss"])
            self.plateau = self.schedule.observe(self.plateau, watched)
        self.history.append(row)
        return row

    def rate(self, step: int) -> float:
        if isinstance(self.schedule, ReduceOnPlateau):
            return self.plateau[0]
        return self.schedule(step, self.epochs * self.per_epoch)

    def batches(self, epoch: int) -> list[HostArray]:
        """The rows of each step: whole batches as (steps, batch), then a smaller last one."""
        n, size = self.train_data.n, self.batch_size
        order = (
            host.permutation(n, self.seed, host.SHUFFLE, epoch) if self.shuffle else np.arange(n)
        )
        whole = n // size * size
        parts = [order[:whole].reshape(-1, size), order[whole:].reshape(1, -1)]
        return [part for part in parts if part.size]

    def table(self, steps: int) -> tuple[HostArray, ...]:
        """For each of the next steps: its number, and the optimiser's coefficients."""
        first = self.steps
        rows = [
            self.optimizer.coefficients(t + 1, self.rate(t)) for t in range(first, first + steps)
        ]
        numbers = np.arange(first, first + steps, dtype=self.backend.word_dtype)
        return numbers, *(
            np.asarray(column, dtype=self.dtype) for column in zip(*rows, strict=True)
        )

    def batch_weights(self, order: HostArray) -> HostArray:
        weights = self.train_data.weights
        if weights is None:
            return np.full(len(order), float(order.shape[1]))
        # A batch of zero weights only reports a loss of 0 and counts for nothing.
        sums: HostArray = weights[order].sum(axis=1)
        return sums

    def remember(self, epoch: int, row: dict[str, float], early: EarlyStopping | None) -> None:
        """Keep the best parameters so far, when there is something to judge them by."""
        if early is None and self.test is None:
            return
        score = early.score(row) if early is not None else row["validation_loss"]
        if self.best is None or score < self.best[0]:
            self.best = (score, epoch, self.state[0])

    def check(self, epoch: int, losses: HostArray, state: Tree) -> None:
        """Raise a DivergenceError unless every loss and every parameter is finite."""
        xp = self.backend.xp
        flags = xp.stack([xp.all(xp.isfinite(p)) for p in leaves(state[0])])
        finite = self.backend.to_numpy(flags)
        if finite.all() and np.isfinite(losses).all():
            return
        bad = np.flatnonzero(~np.isfinite(losses))
        step = int(bad[0]) + 1 if bad.size else len(losses)
        layer = (
            "" if finite.all() else f"; layer {int(np.argmin(finite)) // 2 + 1} overflowed first"
        )
        raise DivergenceError(
            f"training diverged in epoch {epoch}, step {step} of {len(losses)}: the loss or a "
            f"parameter is not finite{layer}. Lower learning_rate (now {self.rate(self.steps):g}), "
            "scale the inputs, or set clip_norm",
            Model(self.net, self.state[0], self.backend, self.history, "diverged"),
        )


def _prepare(
    net: MLP,
    backend: Backend,
    X: Any,
    y: Any,
    sample_weight: Any,
    held_out: Any,
    seed: int,
    name: str,
) -> tuple[Data, tuple[Any, HostArray, HostArray | None] | None]:
    """Check everything, hold out rows, and bring the rest to the device."""
    X, y, w = _checked(net, X, y, sample_weight)
    test = None
    if held_out is not None:
        if isinstance(held_out, tuple | list):
            if len(held_out) not in (2, 3):
                raise ValueError(
                    "validation must be a share, (X, y) or (X, y, sample_weight); got "
                    f"{len(held_out)} entries"
                )
            test = _checked(net, *held_out, *([None] if len(held_out) == 2 else []))
        else:
            (X, y, w), test = _split(backend, X, y, w, held_out, seed)
    n = X.shape[0]
    targets = _targets(net, backend, y, n, name)
    features = _contiguous(to_backend(backend, X, name, "X"))
    weights = () if w is None else (to_backend(backend, w, name),)
    arrays = (features, targets, *weights)
    if test is None:
        return Data(n, arrays, w), None
    X_test, y_test, w_test = test
    numpy = get_backend("numpy")
    t = net.targets(numpy, y_test, X_test.shape[0], "float64")
    return Data(n, arrays, w), (to_backend(backend, X_test, name, "X"), np.asarray(t), w_test)


def _checked(net: MLP, X: Any, y: Any, w: Any) -> tuple[Any, HostArray, HostArray | None]:
    """X checked where it lives; y and the weights checked on the host."""
    if y is None:
        raise ValueError("y is None: targets are needed to train, one per row of X")
    if owner(X) is None:
        X = checks.host_array("X", X)
        checks.matrix("X", X.shape, net.sizes[0])
        checks.finite("X", X)
    else:
        checks.matrix("X", tuple(X.shape), net.sizes[0])
        backend = resolve(None, X)
        with backend.scope():
            if not bool(backend.to_numpy(backend.xp.all(backend.xp.isfinite(X)))):
                checks.finite("X", backend.to_numpy(X))
    y = checks.host_array("y", y if owner(y) is None else backend_to_host(y))
    if w is not None:
        w = checks.sample_weight(w if owner(w) is None else backend_to_host(w), X.shape[0])
    checks.same_length("y", len(y) if y.ndim else 0, X.shape[0])
    return X, y, w


def _targets(net: MLP, backend: Backend, y: HostArray, n: int, name: str) -> Array:
    """Targets on the device: (n, k), or labels (n,) where one-hot rows would be too many."""
    k = net.sizes[-1]
    if net.loss.target == "class" and y.ndim == 1 and n * k > ONE_HOT_ENTRIES:
        checks.target_shape("y", y.shape, n, k, classes=True)
        return backend.asarray(checks.labels("y", y, k), backend.index_dtype)
    return _contiguous(net.targets(backend, y, n, name))


def _split(
    backend: Backend, X: Any, y: HostArray, w: HostArray | None, share: Any, seed: int
) -> tuple[tuple[Any, HostArray, HostArray | None], tuple[Any, HostArray, HostArray | None]]:
    share = checks.real("validation", share, low=0, high=1, open_low=True, open_high=True)
    n = X.shape[0]
    checks.same_length("y", len(y), n)
    held = math.ceil(share * n)
    if held >= n:
        raise ValueError(f"validation={share} of {n} row(s) leaves none to train on")
    order = host.permutation(n, seed, host.SPLIT)

    def part(rows: HostArray) -> tuple[Any, HostArray, HostArray | None]:
        if owner(X) is None:
            x = X[rows]
        else:
            there = resolve(None, X)
            x = there.xp.take(X, there.asarray(rows, there.index_dtype), axis=0)
        return x, y[rows], None if w is None else w[rows]

    return part(np.sort(order[held:])), part(np.sort(order[:held]))


def _plan(
    net: MLP,
    backend: Backend,
    optimizer: Optimizer,
    train: Data,
    batch_size: int | None,
    seed: int,
    clip_value: float | None,
    clip_norm: float | None,
) -> StepPlan:
    counters = classes = None
    if any(net.dropout):
        widest = max(s for s, d in zip(net.sizes[1:], net.dropout, strict=False) if d)
        words = -(-_batch_size(batch_size, train.n) * widest // 4)
        counters = backend.asarray(np.arange(words), backend.word_dtype)
    if train.arrays[1].ndim == 1:
        classes = backend.asarray(np.arange(net.sizes[-1]), backend.index_dtype)
    return StepPlan(
        net.equations,
        optimizer,
        net.dropout,
        seed,
        counters,
        classes,
        weighted=train.weights is not None,
        clip_value=clip_value,
        clip_norm=clip_norm,
    )


def _given(net: MLP, backend: Backend, params: Params, name: str) -> Params:
    """Start parameters of the user's, checked and copied to the backend."""
    given = MLP(net.sizes, initializer=params).initializer
    assert not isinstance(given, str)
    return tuple((backend.asarray(W, name), backend.asarray(b, name)) for W, b in given)


def _batch_size(batch_size: int | None, n: int) -> int:
    if batch_size is None:
        return n
    size = checks.positive_int("batch_size", batch_size)
    return min(size, n)


def _contiguous(array: Any) -> Array:
    """Rows one after the other, so that gathering a batch reads memory in order (NumPy only)."""
    if isinstance(array, np.ndarray):
        array = np.ascontiguousarray(array)
    contiguous: Array = array
    return contiguous


def _limit(name: str, value: Any) -> float | None:
    return None if value is None else checks.real(name, value, low=0, open_low=True)


def _early_stopping(value: Any) -> EarlyStopping:
    if isinstance(value, EarlyStopping):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return EarlyStopping(value)
    raise TypeError(
        f"early_stopping must be an EarlyStopping or a number of epochs to wait; got {value!r}"
    )


def _nothing(*args: Any) -> None:
    return
