"""Trials of an Optuna study that are given up early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable_bp.callbacks.base import EpochLog, Row
from portable_bp.training.callbacks import DIRECTIONS


class OptunaPruning(EpochLog):
    """Report each epoch to an Optuna trial, and end the training where the study's pruner says so.

    Parameters
    ----------
    trial : optuna.trial.Trial
        Of a study with one objective. One trial is one training: Optuna takes each step once.
    monitor : str, optional
        What is reported, a column of the history. By default, where the study minimizes,
        ``validation_loss``, or without validation ``loss``; where it maximizes, ``validation_accuracy``,
        ``validation_r2`` or (of the estimators) ``validation_score``.

    Raises
    ------
    ImportError
        Where Optuna is missing: ``pip install 'portable-bp[optuna]'``.

    Notes
    -----
    Epochs are Optuna's steps, counted from 1: ``MedianPruner(n_warmup_steps=5)`` judges the first time
    after 5 epochs.

    A trial is pruned by ``optuna.TrialPruned``, which comes out of ``fit``; Optuna takes it from there.
    scikit-learn's ``cross_val_score`` and searches swallow it, unless they have ``error_score="raise"``.

    Examples
    --------
    >>> import optuna, portable_bp  # doctest: +SKIP
    >>> from portable_bp.callbacks import OptunaPruning
    >>> def objective(trial):
    ...     rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    ...     model = portable_bp.fit(net, X, y, learning_rate=rate, validation=0.2,
    ...                             callbacks=[OptunaPruning(trial)])
    ...     return model.history["validation_loss"][-1]
    >>> optuna.create_study().optimize(objective, n_trials=20)  # doctest: +SKIP
    """

    def __init__(self, trial: Any, monitor: str | None = None) -> None:
        super().__init__()
        try:
            from optuna import TrialPruned
        except ImportError as error:
            raise ImportError(
                "OptunaPruning needs optuna: pip install 'portable-bp[optuna]'"
            ) from error
        directions = getattr(
            getattr(trial, "study", None), "directions", None
        )  # a FixedTrial has none
        if directions is not None and len(directions) > 1:
            raise ValueError(
                f"Optuna prunes studies with one objective; this one has {len(directions)}"
            )
        self.trial, self.monitor, self._pruned, self._used = trial, monitor, TrialPruned, False
        self._maximizes = directions is not None and directions[0].name == "MAXIMIZE"

    def _open(self, settings: Mapping[str, Any]) -> _Report:
        if self._used:
            raise ValueError(
                "this OptunaPruning has seen a training already, and Optuna takes each step of a trial "
                "once: make one for each trial, and in a cross-validation prune by hand, with "
                "trial.report of each fold's score"
            )
        self._used = True
        return _Report(self)

    def watched(self, row: Row) -> str:
        """The name of the number that is reported.

        Parameters
        ----------
        row : mapping of str to float
            The numbers of an epoch.

        Returns
        -------
        str
            One of the names in the row.
        """
        best, goal = ("max", "maximizes") if self._maximizes else ("min", "minimizes")
        if self.monitor is None:
            # Of the two losses of a row, that of the held-out rows.
            names = [name for name in row if DIRECTIONS.get(name) == best]
            if not names:
                raise ValueError(
                    f"the study {goal}, and the training records only {', '.join(row)}: pass "
                    "validation data, or create_study(direction='minimize')"
                )
            return names[-1]
        if self.monitor not in row:
            raise ValueError(f"monitor must be one of {', '.join(row)}; got {self.monitor!r}")
        if DIRECTIONS.get(self.monitor, best) != best:
            raise ValueError(
                f"the study {goal}, and monitor={self.monitor!r} is better the other way round: choose "
                "another monitor, or another direction in create_study"
            )
        return self.monitor


class _Report:
    """What a trial is told of its training."""

    def __init__(self, callback: OptunaPruning) -> None:
        self._callback = callback

    def log(self, epoch: int, row: Row) -> None:
        callback = self._callback
        name = callback.watched(row)
        callback.trial.report(float(row[name]), epoch)
        if callback.trial.should_prune():
            raise callback._pruned(f"pruned after epoch {epoch}: {name} is {row[name]:.4g}")

    def close(self, failed: bool) -> None:
        """Optuna ends the trial itself."""
