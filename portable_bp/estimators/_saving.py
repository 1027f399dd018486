"""Checkpoints of an estimator's training, and how it goes on from one."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from portable_bp._scalars import positive_int
from portable_bp._typing import Tree
from portable_bp.equations import activations, losses, optimizers, schedules
from portable_bp.equations.optimizers import Optimizer
from portable_bp.equations.schedules import Schedule
from portable_bp.estimators._policy import Judge, ScikitPolicy
from portable_bp.processes import current
from portable_bp.sources.protocol import Described
from portable_bp.training import source_rows
from portable_bp.training.checkpointing import Checkpointing, newest
from portable_bp.training.options import check_saving
from portable_bp.training.shared_directory import SharedDirectory
from portable_bp.training.trainer import Trainer

_FREE = frozenset(
    {"solver", "learning_rate", "activation", "loss", "hidden_layer_sizes", "scoring", "max_iter",
     "max_time", "verbose", "device", "dtype", "random_state", "warm_start", "class_weight"}
)  # fmt: skip
"""Parameters that may differ when a run goes on, or whose effect is compared by itself."""


@dataclass
class Saving:
    """Where ``fit`` saves its run, and how.

    Attributes
    ----------
    path : str or path
        The directory.
    every : int or None
        Steps between two checkpoints; None saves at the end of each epoch.
    keep : int
        How many checkpoints stay.
    resume : bool
        Go on from the newest one.
    """

    path: str | os.PathLike[str]
    every: int | None
    keep: int
    resume: bool
    _directory: SharedDirectory | None = field(default=None, init=False)
    _start: list[Any] = field(default_factory=list, init=False)

    @classmethod
    def of(cls, path: Any, every: Any, keep: Any, resume: Any) -> Saving | None:
        """From the arguments of ``fit``, checked; None where nothing is to be saved."""
        check_saving(path, every, resume)
        every = None if every is None else positive_int("checkpoint_every", every)
        keep = positive_int("checkpoint_keep", keep)
        return None if path is None else cls(path, every, keep, resume)

    def open(self, stack: ExitStack) -> None:
        """Take the directory for this run."""
        self._directory = stack.enter_context(SharedDirectory(current(), self.path, self.keep))

    def random_state(self, random_state: Any) -> np.random.RandomState:
        """The generator of the run: where the saved run began, if one goes on."""
        assert self._directory is not None
        # Without a seed scikit-learn draws from NumPy's global generator, which is not ours to set.
        source = np.random.RandomState() if random_state is None else random_state
        random: np.random.RandomState = check_random_state(source)
        checkpoint = newest(self._directory) if self.resume else None
        saved: Any = None if checkpoint is None else checkpoint.metadata.get("estimator")
        if saved is not None:
            keys, *rest = saved["random_state"]
            random.set_state(("MT19937", np.asarray(keys, np.uint32), *rest))
        _, keys, position, has_gauss, gauss = random.get_state(legacy=True)
        self._start = [np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)]
        return random

    def attach(
        self,
        stack: ExitStack,
        est: Any,
        task: Any,
        judge: Judge | None,
        trainer: Trainer,
        policy: ScikitPolicy,
        state: Tree,
    ) -> None:
        """Let the trainer save its run, and put it where the newest checkpoint stands."""
        assert self._directory is not None
        policy.start = self._start
        checkpointing = Checkpointing(
            self._directory, self.every, _identity(est, task, judge), policy,
            work=6 * task.net.n_parameters * trainer.batch_size, processes=current(),
        )  # fmt: skip
        trainer.recorder = checkpointing
        checkpointing.go_on(trainer, state, self.resume)


def _identity(est: Any, task: Any, judge: Judge | None) -> dict[str, Any]:
    """What has to be the same for a run to go on from its checkpoint."""
    net, work, (X, y, weights) = task.net, task.place.work, task.rows
    settings = {k: v for k, v in est.get_params(deep=False).items() if k not in _FREE}
    rate = est.learning_rate
    scheduled = isinstance(rate, Schedule)
    with work.scope():
        held = None if judge is None else judge.rows
        if isinstance(X, Described):
            data = source_rows.fingerprint(work, task.dtype, (X, weights), held)
        else:
            y = y if isinstance(y, np.ndarray) else work.to_numpy(y)
            data = source_rows.fingerprint(work, task.dtype, (X, y, weights), held)
    solver = est.solver
    return {
        "estimator": type(est).__name__,
        "network": [
            list(net.sizes),
            [activations.describe(a) for a in net.activations],
            losses.describe(net.loss),
        ],
        "optimizer": optimizers.describe(solver) if isinstance(solver, Optimizer) else solver,
        "learning_rate": [schedules.describe(rate), est.max_iter] if scheduled else rate,
        "parameters": {k: v if _is_plain(v) else repr(v) for k, v in settings.items()},
        "dtype": task.dtype,
        "data": data,
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
