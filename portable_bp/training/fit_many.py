"""``fit_many``: networks that differ in their numbers, trained side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from portable_bp import rng
from portable_bp._names import suggests
from portable_bp._params import check_memory
from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.backend.memory import translate_oom
from portable_bp.backend.registry import owner, resolve
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.errors import DivergenceError
from portable_bp.inputs import checks, examples, labels
from portable_bp.inputs.examples import Rows
from portable_bp.mlp import MLP
from portable_bp.processes import current
from portable_bp.sources.protocol import is_source
from portable_bp.training import source_rows
from portable_bp.training.callbacks import EarlyStopping
from portable_bp.training.data import (
    DeviceData,
    DeviceRows,
    data_source,
    must_stream,
    select,
)
from portable_bp.training.fit import TO_LOWER, divergence_of, job_of, model_of
from portable_bp.training.fit import fit as fit_one
from portable_bp.training.judging import Held
from portable_bp.training.models import Models
from portable_bp.training.options import FitOptions, check_options
from portable_bp.training.policy import FitPolicy
from portable_bp.training.prepare import (
    PreparedRows,
    device_targets,
    given_rows,
    held_arrays,
    learn,
)
from portable_bp.training.together import train_together

Folds = Sequence[Any]


class Setting(NamedTuple):
    """What one of the networks has for itself."""

    net: MLP
    options: dict[str, Any]
    """Of :func:`portable_bp.fit`."""
    rows: HostArray | None
    """To train on; None for all."""
    held: HostArray | None
    """To judge by, from its fold."""


@suggests()
def fit_many(
    net: MLP,
    X: Any,
    y: Any,
    *,
    seeds: Sequence[int] | None = None,
    learning_rate: float | Schedule | Sequence[float | Schedule] = 1e-3,
    optimizer: str | Optimizer | Sequence[str | Optimizer] = "adam",
    l1: float | Sequence[float] | None = None,
    l2: float | Sequence[float] | None = None,
    dropout: float | Sequence[Any] | None = None,
    clip_value: float | Sequence[float] | None = None,
    clip_norm: float | Sequence[float] | None = None,
    folds: Folds | None = None,
    batch_size: int | None = 128,
    epochs: int = 20,
    validation: Any = None,
    sample_weight: Any = None,
    shuffle: bool = True,
    early_stopping: EarlyStopping | int | None = None,
    max_time: float | None = None,
    backend: str | Backend | None = None,
    dtype: str = "float32",
    compile: bool = True,
    report_loss: bool = True,
) -> Models:
    """Train networks that differ in their numbers side by side: as one batch, where that is quicker.

    Each of ``seeds``, ``learning_rate``, ``optimizer``, ``l1``, ``l2``, ``dropout``, ``clip_value``,
    ``clip_norm`` and ``folds`` may be a sequence with one entry for each network; sequences have one
    length, and what is no sequence is the same for all. Network j has the numbers that
    :func:`portable_bp.fit` alone gives for its seed and settings: the same bits where the same
    products run, else to rounding.

    Parameters
    ----------
    net : MLP
        What to train; ``l1``, ``l2`` and ``dropout`` are its own unless they are given here.
    X : {array, sparse matrix} of shape (n, inputs)
        As :func:`portable_bp.fit` takes it.
    y : array of shape (n, outputs) or (n,)
        As :func:`portable_bp.fit` takes it.
    seeds : sequence of int, optional
        By default 0 for all: such as ``range(16)`` for sixteen networks.
    learning_rate : float, Schedule, or a sequence of them, default 1e-3
        A schedule is asked for each network by itself.
    optimizer : str, Optimizer, or a sequence of them, default "adam"
        Those of one class are trained as one batch, also with different numbers.
    l1 : float or sequence of float, optional
        Of the penalty on absolute weights.
    l2 : float or sequence of float, optional
        Of the penalty on squared weights.
    dropout : float or sequence, optional
        For each network a probability, or one for each of its hidden layers.
    clip_value : float or sequence of float, optional
        Of each entry of the gradient.
    clip_norm : float or sequence of float, optional
        Of the gradient of each network.
    folds : sequence of (train, validation) pairs, or of rows, optional
        The rows that each network is trained on, as integers or booleans; those in the second place
        are its validation data. ``KFold(5).split(X)`` of scikit-learn gives pairs.
    batch_size : int or None, default 128
        Rows per step of each network; None takes all.
    epochs : int, default 20
        How often every row is seen.
    validation : float, (X, y) or (X, y, sample_weight), optional
        A share, which the seed of each network chooses, or data for all.
    sample_weight : array of shape (n,), optional
        Not negative.
    shuffle : bool, default True
        A new order of the rows each epoch, for each network its own.
    early_stopping : EarlyStopping or int, optional
        As :func:`portable_bp.fit` takes it; each network stops by itself.
    max_time : float, optional
        Seconds after which no further epoch starts.
    backend : str or Backend, optional
        Where to train; by default it follows the arrays.
    dtype : {"float32", "float64"}, default "float32"
        The precision of parameters and computation.
    compile : bool, default True
        Let the backend compile the step.
    report_loss : bool, default True
        With False the training loss is not computed.

    Returns
    -------
    Models
        One model for each network. One that diverged has its last finite parameters, and its reason
        in ``errors``; the others go on.

    Raises
    ------
    ValueError, TypeError
        For bad input, before any training.
    OutOfMemoryError
        When the device cannot hold what was asked for.

    Examples
    --------
    >>> import numpy as np, portable_bp
    >>> X = np.random.default_rng(0).normal(size=(90, 4))
    >>> y = X[:, 0] * X[:, 1]
    >>> models = portable_bp.fit_many(
    ...     portable_bp.MLP([4, 16, 1]), X, y, learning_rate=[1e-4, 1e-2], validation=0.2
    ... )
    >>> models.rank("validation_loss")
    [1, 0]
    """
    began = time.perf_counter()
    own = {
        "seed": seeds, "learning_rate": learning_rate, "optimizer": optimizer, "l1": l1, "l2": l2,
        "dropout": dropout, "clip_value": clip_value, "clip_norm": clip_norm, "folds": folds,
    }  # fmt: skip
    shared = {
        "batch_size": batch_size, "epochs": epochs, "shuffle": shuffle, "max_time": max_time,
        "early_stopping": early_stopping, "dtype": dtype, "compile": compile,
        "report_loss": report_loss,
    }  # fmt: skip
    if folds is not None and validation is not None:
        raise ValueError("validation and folds both say which rows to judge by: pass one of them")
    n = X.n if is_source(X) else X.shape[0] if hasattr(X, "shape") else len(X)
    settings = _settings(net, own, shared, n)
    held_out = tuple(validation) if isinstance(validation, tuple | list) else ()
    where = resolve(backend, X, y, sample_weight, *held_out)

    def trained() -> Models:
        with where.scope():
            many = _Many(where, Rows(X, y, sample_weight), validation, settings, began)
            return many.train()

    return translate_oom(
        where, trained, lambda: f"training {len(settings)} x {net!r} on {n:,} rows", TO_LOWER
    )


def _settings(net: MLP, own: dict[str, Any], shared: dict[str, Any], n: int) -> list[Setting]:
    """The settings of each network, checked."""
    if own["seed"] is not None and not _is_sequence(own["seed"]):
        raise TypeError(
            "seeds must be a sequence of integers, one for each network, such as range(16); got "
            f"{checks.shown(own['seed'])}"
        )
    lists = {name: list(v) for name, v in own.items() if _is_sequence(v)}
    lengths = {"seeds" if name == "seed" else name: len(v) for name, v in lists.items()}
    if len({*lengths.values()}) > 1 or 0 in lengths.values():
        raise ValueError(
            "seeds, learning_rate and whatever else is a sequence need one entry for each network; "
            f"got {', '.join(f'{n} with {count}' for n, count in lengths.items())}"
        )
    count = next(iter(lengths.values()), 1)
    settings = []
    for j in range(count):
        one = {name: lists[name][j] if name in lists else v for name, v in own.items()}
        rows, held = _fold(one.pop("folds"), n, j)
        changed = {k: v for k in ("l1", "l2", "dropout") if (v := one.pop(k)) is not None}
        if one["seed"] is None:
            one["seed"] = 0
        one["early_stopping"] = deepcopy(shared["early_stopping"])  # it keeps what it has seen
        settings.append(Setting(_with(net, changed), {**shared, **one}, rows, held))
    return settings


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)


def _with(net: MLP, changed: dict[str, Any]) -> MLP:
    """The network with other penalties or dropout rates."""
    if not changed:
        return net
    if not isinstance(net, MLP):
        raise TypeError(f"net must be a portable_bp.MLP, got {checks.shown(net)}")
    numbers: dict[str, Any] = {
        "l1": net.l1, "l2": net.l2, "dropout": net.dropout, "initializer": net.initializer, **changed,
    }  # fmt: skip
    return MLP(
        net.sizes, net.hidden, net.loss, output=net.activations[-1],
 **numbers,
    )  # fmt: skip


def _fold(fold: Any, n: int, number: int) -> tuple[HostArray | None, HostArray | None]:
    """Rows to train on and rows to judge by."""
    if fold is None:
        return None, None
    parts = fold if isinstance(fold, tuple) else (fold,)
    if len(parts) not in (1, 2):
        raise ValueError(f"folds[{number}] must be rows, or a pair (train, validation)")
    rows = [_rows(part, n, f"folds[{number}]") for part in parts]
    return rows[0], rows[1] if len(rows) == 2 else None


def _rows(part: Any, n: int, name: str) -> HostArray:
    rows = np.asarray(part)
    if rows.dtype.kind == "b" and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise ValueError(
            f"{name} must hold the numbers of rows, or one boolean for each of the {n} rows; got "
            f"{checks.shown(part)}"
        )
    if rows.min() < 0 or rows.max() >= n:
        raise IndexError(f"{name} names rows {rows.min()} to {rows.max()} of {n}")
    return rows.astype(np.int64)


class _Checked(NamedTuple):
    """All rows, checked and on the device."""

    data: DeviceData
    y: HostArray
    """Targets (n, k) or class labels (n,) on the host."""
    weights: HostArray | None
    given: Held | None
    """The rows that the user hands in to judge by."""


@dataclass
class _Many:
    """The runs of some settings on one set of rows."""

    backend: Backend
    unchecked: Rows
    validation: Any
    settings: list[Setting]
    began: float

    def train(self) -> Models:
        """All networks, side by side where their rows live on the device."""
        first = self.settings[0]
        held = self.validation is not None or first.held is not None
        options = [check_options(s.net, held=held, **_DEFAULTS | s.options) for s in self.settings]
        check_memory(first.net)
        checked = None
        if current().size == 1 and all(o.optimizer is not None for o in options):
            checked = self._checked(first.net, options[0].dtype)
        return self._one_by_one() if checked is None else self._together(options, checked)

    def _checked(self, net: MLP, dtype: str) -> _Checked | None:
        """None where rows come in windows or are sent piece by piece."""
        x, y, _ = self.unchecked
        if is_source(x) or source_rows.too_large(x):
            return None
        self.spec = learn(net.spec, x, y)
        given, apart = given_rows(self.validation), None
        if given is not None and is_source(given.x):
            return None
        sets = [self.unchecked] if given is None else [self.unchecked, given]
        rows, *others = examples.check(self.spec, self.backend, dtype, *sets, sparse=True)
        if owner(rows.x) is None and must_stream(self.backend, rows.x, dtype):
            return None
        labels.warn_if_classes(self.spec, rows.y)
        targets = device_targets(net, self.backend, rows.y, dtype)
        data = data_source(self.backend, dtype, rows.x, targets, rows.w)
        if others:
            apart = held_arrays(net, self.backend, others[0], dtype)
        return _Checked(data, rows.y, rows.w, apart) if isinstance(data, DeviceData) else None

    def _together(self, options: list[FitOptions], rows: _Checked) -> Models:
        runs = []
        for setting, option in zip(self.settings, options, strict=True):
            own = self._rows_of(setting, option, rows)
            size = min(option.batch_size or own.data.n, own.data.n)
            limit = option.max_time
            deadline = math.inf if limit is None else self.began + limit
            policy = FitPolicy(
                setting.net, self.spec, self.backend, option.schedule, option.epochs, own.data.n,
                size, own.weights, option.shuffle, option.seed, own.held, option.callbacks,
                option.early, deadline, checkpointed=False, report_loss=option.report_loss,
            )  # fmt: skip
            begin = setting.net.init(option.seed, self.backend, option.dtype)
            runs.append((job_of(setting.net, option, own, policy, begin), policy))
        with ExitStack() as stack:
            for _, policy in runs:
                stack.enter_context(policy.running())
            reasons = train_together([job for job, _ in runs])
        models, errors = [], {}
        for j, ((job, policy), reason) in enumerate(zip(runs, reasons, strict=True)):
            trainer = job.trainer
            if reason == "diverged":
                error = divergence_of(self.settings[j].net, options[j], policy, trainer)
                errors[j] = str(error)
                models.append(error.model)
            else:
                models.append(model_of(policy, trainer.last_snapshot()[0], reason))
        return Models(tuple(models), errors)

    def _rows_of(self, setting: Setting, option: FitOptions, rows: _Checked) -> PreparedRows:
        """The rows of one network, of those that are on the device."""
        n = rows.data.n
        train, held = setting.rows, setting.held
        if self.validation is not None and rows.given is None:
            train, held = split_rows(n, float(self.validation), option.seed)
        if train is None:
            return PreparedRows(rows.data, rows.weights, rows.given, str)
        weights = None if rows.weights is None else rows.weights[train]
        for part, which in ((train, "the rows to train on"), (held, "held-out rows")):
            if part is not None and rows.weights is not None:
                checks.some_weight(rows.weights[part], which, "sample_weight")
        apart = rows.given
        if held is not None:
            w = None if rows.weights is None else rows.weights[held]
            some = Rows(select(rows.data.arrays[0], held), rows.y[held], w)
            apart = held_arrays(setting.net, self.backend, some, option.dtype)
        return PreparedRows(DeviceRows(rows.data.arrays, train), weights, apart, str)

    def _one_by_one(self) -> Models:
        """Each by :func:`portable_bp.fit`: L-BFGS, and rows that do not live on the device."""
        models, errors = [], {}
        for j, setting in enumerate(self.settings):
            x, y, w = (self._part(a, setting.rows) for a in self.unchecked)
            validation = self.validation
            if setting.held is not None:
                parts = (self._part(a, setting.held) for a in self.unchecked)
                validation = tuple(a for a in parts if a is not None)
            try:
                model = fit_one(
                    setting.net, x, y, sample_weight=w, validation=validation,
                    backend=self.backend, **setting.options,
                )  # fmt: skip
            except DivergenceError as error:
                errors[j] = str(error)
                model = error.model
            models.append(model)
        return Models(tuple(models), errors)

    @staticmethod
    def _part(array: Any, rows: HostArray | None) -> Any:
        if rows is None or array is None:
            return array
        if owner(array) is None and not hasattr(array, "tocsr"):
            array = np.asarray(array)
        return select(array, rows)


_DEFAULTS: dict[str, Any] = {
    name: signature(fit_one).parameters[name].default
    for name in signature(check_options).parameters
    if name not in ("net", "held")
}
"""Those of :func:`portable_bp.fit`."""


def split_rows(n: int, share: float, seed: int) -> tuple[HostArray, HostArray]:
    """The rows to train on and the rows to hold out, as :func:`portable_bp.fit` splits them."""
    checks.real("validation", share, low=0, high=1, open_low=True, open_high=True)
    held = math.ceil(share * n)
    if held >= n:
        raise ValueError(f"validation={share} of {n} row(s) leaves none to train on")
    order = rng.permutation(n, seed, rng.SPLIT)
    return np.sort(order[held:]), np.sort(order[:held])
