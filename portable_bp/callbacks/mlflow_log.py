"""The numbers of each epoch as metrics of an MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable_bp.callbacks.base import EpochLog, Row
from portable_bp.inputs import checks


class MLflow(EpochLog):
    """Log a training to MLflow: its settings as parameters, each epoch's numbers as metrics.

    Where that goes is MLflow's matter: ``mlflow.set_tracking_uri`` and ``mlflow.set_experiment``, or the
    variables ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME``.

    Parameters
    ----------
    run_name : str, optional
        The name of a run that is started here; by default MLflow draws one.
    nested : bool, default False
        Start a run for each training, as a child of the active one if there is one: for searches.
        Otherwise the active run is used and left open; where there is none, a run is started, and ended
        with the training.

    Raises
    ------
    ImportError
        Where MLflow is missing: ``pip install 'portable-bp[mlflow]'``.

    Examples
    --------
    >>> import mlflow  # doctest: +SKIP
    >>> mlflow.set_tracking_uri("sqlite:///mlflow.db")  # doctest: +SKIP
    >>> model = portable_bp.fit(net, X, y, callbacks=[MLflow()])  # doctest: +SKIP
    """

    def __init__(self, *, run_name: str | None = None, nested: bool = False) -> None:
        super().__init__()
        _mlflow()
        self.run_name, self.nested = run_name, checks.boolean("nested", nested)

    def _open(self, settings: Mapping[str, Any]) -> _MLflowRun:
        mlflow = _mlflow()
        active = mlflow.active_run()
        ours = active is None or self.nested
        if ours:
            active = mlflow.start_run(run_name=self.run_name, nested=self.nested)
        mlflow.log_params(settings)
        return _MLflowRun(mlflow, active.info.run_id, ours)


class _MLflowRun:
    """One training in a run; ``ours``: it was started here, and is ended here."""

    def __init__(self, mlflow: Any, run_id: str, ours: bool) -> None:
        self._mlflow, self._id, self._ours, self._active = mlflow, run_id, ours, True

    def log(self, epoch: int, row: Row) -> None:
        if not self._active:  # the training goes on
            self._mlflow.start_run(run_id=self._id, nested=True)
            self._active = True
        metrics = {name: float(value) for name, value in row.items()}
        self._mlflow.log_metrics(metrics, step=epoch, run_id=self._id)

    def close(self, failed: bool) -> None:
        if self._ours and self._active:
            self._mlflow.end_run("FAILED" if failed else "FINISHED")
            self._active = False


def _mlflow() -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise ImportError(
            "the callback MLflow needs mlflow: pip install 'portable-bp[mlflow]'"
        ) from error
    return mlflow
