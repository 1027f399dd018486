"""One object for two protocols: the callbacks of ``fit``, and those of scikit-learn."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from portable_bp.mlp import MLP
from portable_bp.processes import current
from portable_bp.training.callbacks import EpochEnd

Row = Mapping[str, float]


class RunLog(Protocol):
    """What is done with the numbers of one training."""

    def log(self, epoch: int, row: Row) -> None:
        """Take the numbers of an epoch, counted from 1."""

    def close(self, failed: bool) -> None:
        """The training is over; ``failed``: by an exception. It may go on later, with :meth:`log`."""


@dataclass
class _Run:
    """A training that is seen."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    log: RunLog | None = None
    """Made when the first epoch has ended: a run without one leaves nothing."""
    epochs: int = 0
    """How many have been logged."""
    begins: bool = True
    """Whether no epoch has ended since the estimator was fitted last."""
    raised_before: BaseException | None = None
    """What was being handled when the training began."""


class EpochLog(ABC):
    """A callback that is shown every epoch of every training, through either door.

    A run that goes on from a checkpoint is logged whole, the epochs of before first. ``warm_start`` and
    ``partial_fit`` go on with the run of their estimator. Of several processes that train one network
    the first one logs.
    """

    def __init__(self) -> None:
        self._forget_runs()

    def _forget_runs(self) -> None:
        self._fits: dict[int, _Run] = {}  # by thread
        self._estimators: WeakKeyDictionary[Any, _Run] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_fits"], state["_estimators"]
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_runs()

    @abstractmethod
    def _open(self, settings: Mapping[str, Any]) -> RunLog:
        """A log for a training with these settings."""

    def _log(self, run: _Run, rows: Sequence[Row]) -> None:
        """Log the next epochs of a run."""
        if rows and run.log is None:
            run.log = self._open(run.settings)
        for row in rows:
            assert run.log is not None
            run.epochs += 1
            run.log.log(run.epochs, row)

    def _close(self, run: _Run | None) -> None:
        if run is not None and run.log is not None:
            raised = sys.exc_info()[1]
            run.log.close(failed=raised is not None and raised is not run.raised_before)

    # --- the protocol of fit ----------------------------------------------------------------------

    def on_train_begin(self, net: MLP, epochs: int) -> None:
        """Called by ``fit`` before the first epoch.

        Parameters
        ----------
        net : MLP
            The network that is trained.
        epochs : int
            How many epochs are planned.
        """
        if current().rank == 0:  # all processes see the same numbers
            run = _Run(_settings_of(net, epochs), raised_before=sys.exc_info()[1])
            self._fits[threading.get_ident()] = run

    def __call__(self, end: EpochEnd, /) -> None:
        run = self._fits.get(threading.get_ident())
        if run is None:
            return
        # After a resumption the first epoch that is seen is a later one: the history has those before.
        seen = run.epochs == end.epoch - 1
        self._log(run, [end.row] if seen else end.history.epochs[run.epochs :])

    def on_train_end(self) -> None:
        """Called by ``fit`` when the run is over, whatever has happened in it."""
        self._close(self._fits.pop(threading.get_ident(), None))

    # --- scikit-learn's protocol ------------------------------------------------------------------

    def setup(self, estimator: Any, context: Any) -> None:
        """Called by an estimator when ``fit`` begins.

        Parameters
        ----------
        estimator : estimator
            What is fitted.
        context : CallbackContext
            The task, as scikit-learn names it.
        """
        if not hasattr(estimator, "hidden_layer_sizes"):
            raise TypeError(
                f"{type(self).__name__} logs the epochs of an MLPClassifier or an MLPRegressor; set it "
                f"on that step, before it goes into a {type(estimator).__name__}"
            )
        run = self._estimators.setdefault(estimator, _Run())
        run.settings = estimator.get_params(deep=False)
        run.begins, run.raised_before = True, sys.exc_info()[1]

    def teardown(self, estimator: Any, context: Any) -> None:
        """Called by an estimator when ``fit`` is over, whatever has happened in it.

        Parameters
        ----------
        estimator : estimator
            What was fitted.
        context : CallbackContext
            The task, as scikit-learn names it.
        """
        self._close(self._estimators.get(estimator))

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:  # noqa: B027
        """Called by an estimator before each task; nothing is to be done.

        Parameters
        ----------
        estimator : estimator
            What is fitted.
        context : CallbackContext
            The task, as scikit-learn names it.
        """

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Called by an estimator after each task, of which the epochs are logged.

        Parameters
        ----------
        estimator : estimator
            What is fitted.
        context : CallbackContext
            The task, as scikit-learn names it.
        """
        if context.task_name != "epoch":
            return
        run, number = self._estimators[estimator], _epochs_of(estimator)
        if run.begins and number <= run.epochs:  # it does not go on with what was logged
            run.log, run.epochs = None, 0
        run.begins = False
        # None where the task was announced, and the training ended before it.
        self._log(run, [_row_of(estimator, i) for i in range(run.epochs, number)])


def _settings_of(net: MLP, epochs: int) -> dict[str, Any]:
    """What can be said of a training by ``fit`` before it begins."""
    return {
        "sizes": list(net.sizes),
        "activations": [activation.name for activation in net.activations],
        "loss": net.loss.name,
        "dropout": list(net.dropout),
        "l1": net.l1,
        "l2": net.l2,
        "epochs": epochs,
    }


def _epochs_of(estimator: Any) -> int:
    """How many epochs lie behind an estimator; L-BFGS, which records no curve, counts iterations."""
    return estimator.n_iter_ if estimator.solver == "lbfgs" else len(estimator.loss_curve_)


def _row_of(estimator: Any, i: int) -> Row:
    """The numbers of epoch ``i``, counted from 0, under the names that ``fit`` has for them."""
    if estimator.solver == "lbfgs":
        return {"loss": estimator.loss_}
    row = {"loss": estimator.loss_curve_[i]}
    curves = {
        "validation_loss": estimator.validation_loss_curve_,
        "validation_score": estimator.validation_scores_,
    }
    for name, curve in curves.items():
        # An earlier part of the run may have had no held-out rows.
        place = i - len(estimator.loss_curve_) + len(curve or ())
        if curve and place >= 0:
            row[name] = curve[place]
    return row
