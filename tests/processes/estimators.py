"""A program for ``mpiexec``: estimators and sources, and what came out of each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import portable_bp
from portable_bp import MLP, sources
from portable_bp.estimators import MLPClassifier, MLPRegressor
from tests.processes.runs import LABELS, WEIGHTS, X, Y

SETTINGS: dict[str, Any] = {
    "hidden_layer_sizes": (8,),
    "random_state": 3,
    "max_iter": 4,
    "dtype": "float64",
}


def _fitted(est: Any, *data: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        est.fit(*data, **options)
    curves = [est.loss_curve_, est.validation_scores_ or []]
    return np.concatenate([*(W.reshape(-1) for W in (*est.coefs_, *est.intercepts_)), *curves])


def _source(folder: str) -> Any:
    """Windows that are smaller than the file; every process reads a copy of its own."""
    rank = portable_bp.processes.current().rank
    paths = [Path(folder) / f"{name}{rank}.npy" for name in "xy"]
    for path, array in zip(paths, (X, Y), strict=True):
        np.save(path, array)
    source = sources.open(paths[0], target=paths[1], block_rows=10, window_rows=40)
    model = portable_bp.fit(
        MLP([6, 7, 2], "tanh"), source, epochs=2, batch_size=30, dtype="float64", validation=0.2
    )
    flat = [p.reshape(-1) for pair in model.params for p in pair]
    return np.concatenate([*flat, model.history["loss"], model.history["validation_loss"]])


CASES: dict[str, Callable[[str], Any]] = {
    "classifier": lambda folder: _fitted(MLPClassifier(**SETTINGS, early_stopping=True), X, LABELS),
    "regressor": lambda folder: _fitted(MLPRegressor(**SETTINGS, alpha=0.1, batch_size=33), X, Y),
    "weights": lambda folder: _fitted(
        MLPClassifier(**SETTINGS, solver="sgd"), X, LABELS, sample_weight=WEIGHTS
    ),
    "saved": lambda folder: _fitted(
        MLPClassifier(**SETTINGS), X, LABELS, checkpoint=Path(folder) / "run", resume=True
    ),
    "source": _source,
}
REFUSED: dict[str, Callable[[], Any]] = {
    "lbfgs": lambda: _fitted(MLPClassifier(**SETTINGS, solver="lbfgs"), X, LABELS),
    "random_state": lambda: _fitted(MLPClassifier(**SETTINGS | {"random_state": None}), X, LABELS),
    "n_jobs": lambda: GridSearchCV(
        MLPClassifier(**SETTINGS), {"alpha": [0.1, 1.0]}, cv=2, n_jobs=2, error_score="raise"
    ).fit(X, LABELS),
}


def main(folder: str) -> None:
    with portable_bp.distributed("mpi", timeout=200) as processes:
        found = {}
        for name, case in CASES.items():
            found[name] = case(folder)
            same = processes.gather(found[name].tobytes())
            assert len(set(same)) == 1, f"{name}: the processes do not hold the same bits"
        for name, case in REFUSED.items():
            try:
                case()  # type: ignore[call-arg]
            except (ValueError, RuntimeError) as error:
                print(f"process {processes.rank} refuses {name}: {error}", flush=True)
        if processes.rank == 0:
            np.savez(Path(folder) / "found.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
