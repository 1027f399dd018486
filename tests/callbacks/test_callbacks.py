"""The callbacks that are ready made, through both doors, with the libraries that they write for."""

from __future__ import annotations

import csv
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portable_bp
from portable_bp import DivergenceError, MLPClassifier, MLPRegressor
from portable_bp.callbacks import CSVLog, MLflow, OptunaPruning, TensorBoard, base
from portable_bp.callbacks.base import EpochLog, Row

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WITH_CALLBACKS = pytest.mark.skipif(
    not hasattr(MLPClassifier, "set_callbacks"),
    reason=f"scikit-learn {sklearn.__version__} has no callbacks (1.9 and newer)",
)
BOTH_DOORS = pytest.mark.parametrize(
    "door", ["fit", pytest.param("estimator", marks=WITH_CALLBACKS)]
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
CLASSES = (X @ RNG.normal(size=(4, 3))).argmax(axis=1)
NET = portable_bp.MLP([4, 5, 3], loss="softmax_cross_entropy")


def fit(*callbacks: Any, epochs: int = 3, **settings: Any) -> portable_bp.Model:
    settings = {"validation": 0.2, "learning_rate": 0.01} | settings
    return portable_bp.fit(NET, X, CLASSES, epochs=epochs, callbacks=callbacks, **settings)


def classifier(**settings: Any) -> MLPClassifier:
    return MLPClassifier(
        **{"hidden_layer_sizes": (5,), "max_iter": 3, "random_state": 0} | settings
    )


def train(door: str, callback: Any, epochs: int = 3) -> list[dict[str, float]]:
    """The numbers of each epoch, as the model or the estimator has them."""
    if door == "fit":
        return fit(callback, epochs=epochs).history.epochs
    est = classifier(max_iter=epochs, early_stopping=True).set_callbacks(callback).fit(X, CLASSES)
    curves = {
        "loss": est.loss_curve_,
        "validation_loss": est.validation_loss_curve_,
        "validation_score": est.validation_scores_,
    }
    return [dict(zip(curves, row, strict=True)) for row in zip(*curves.values(), strict=True)]


class Noted(EpochLog):
    """Notes what it is shown: a list for each training."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _open(self, settings: Any) -> Any:
        self.runs.append(_NotedRun(settings))
        return self.runs[-1]


class _NotedRun:
    def __init__(self, settings: Any) -> None:
        self.settings, self.rows, self.closed = settings, [], []

    def log(self, epoch: int, row: Row) -> None:
        self.rows.append((epoch, dict(row)))

    def close(self, failed: bool) -> None:
        self.closed.append(failed)

    @property
    def epochs(self) -> list[int]:
        return [epoch for epoch, _ in self.rows]


# --- which epochs are seen ------------------------------------------------------------------------


@BOTH_DOORS
def test_every_epoch_of_every_training_is_logged(door: str) -> None:
    log = Noted()
    expected = [train(door, log), train(door, log, epochs=2)]
    assert [run.rows for run in log.runs] == [list(enumerate(rows, 1)) for rows in expected]
    assert [run.closed for run in log.runs] == [[False], [False]]


def test_lbfgs_logs_its_iterations() -> None:
    log = Noted()
    history = fit(log, optimizer="lbfgs", learning_rate=1e-3).history
    assert log.runs[0].rows == list(enumerate(history.epochs, 1))


@WITH_CALLBACKS
def test_lbfgs_of_an_estimator_logs_its_iterations() -> None:
    log = Noted()
    est = classifier(solver="lbfgs", max_iter=5).set_callbacks(log).fit(X, CLASSES)
    est.fit(X, CLASSES)
    first, second = log.runs
    assert first.epochs == second.epochs == [1, 2, 3, 4, 5]
    losses = [row["loss"] for _, row in first.rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == est.loss_


@WITH_CALLBACKS
def test_partial_fit_and_warm_start_go_on_with_a_run_and_fit_begins_one() -> None:
    log = Noted()
    est = classifier(warm_start=True).set_callbacks(log)
    est.partial_fit(X, CLASSES, classes=[0, 1, 2]).partial_fit(X, CLASSES).fit(X, CLASSES)
    est.set_params(warm_start=False).fit(X, CLASSES)
    assert [run.epochs for run in log.runs] == [[1, 2, 3, 4, 5], [1, 2, 3]]
    assert log.runs[0].closed == [False] * 3


@WITH_CALLBACKS
def test_held_out_rows_that_come_later() -> None:
    log = Noted()
    est = classifier(warm_start=True, max_iter=2).set_callbacks(log).fit(X, CLASSES)
    est.fit(X, CLASSES, validation_data=(X[:9], CLASSES[:9]))
    (run,) = log.runs
    assert [list(row) for _, row in run.rows] == [["loss"]] * 2 + [["loss", "validation_loss"]] * 2
    assert [row["validation_loss"] for _, row in run.rows[2:]] == est.validation_loss_curve_


@BOTH_DOORS
def test_a_run_that_goes_on_from_a_checkpoint_is_logged_whole(door: str, tmp_path: Path) -> None:
    log = Noted()
    for epochs in (2, 5):
        if door == "fit":
            fit(log, epochs=epochs, checkpoint=tmp_path, resume=True)
        else:
            est = classifier(max_iter=epochs).set_callbacks(log)
            est.fit(X, CLASSES, checkpoint=tmp_path, resume=True)
    first, second = log.runs
    assert second.epochs == [1, 2, 3, 4, 5]
    assert second.rows[:2] == first.rows


@BOTH_DOORS
def test_a_training_that_fails_is_said_to(door: str) -> None:
    log = Noted()
    y = 1e3 * X[:, 0]
    try:
        raise KeyError  # what is handled already is no failure of the training
    except KeyError:
        train(door, log)

    def diverges() -> None:
        if door == "fit":
            net = portable_bp.MLP([4, 5, 1])
            portable_bp.fit(net, X, y, optimizer="sgd", learning_rate=0.1, callbacks=[log])
        est = MLPRegressor(solver="sgd", learning_rate_init=0.1, random_state=0)
        est.set_callbacks(log).fit(X, y)

    with pytest.raises(DivergenceError):
        diverges()
    assert [run.closed for run in log.runs] == [[False], [True]]


def test_of_several_processes_the_first_one_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Noted()
    monkeypatch.setattr(base, "current", lambda: SimpleNamespace(rank=1))
    fit(log)
    assert log.runs == []
    monkeypatch.setattr(base, "current", lambda: SimpleNamespace(rank=0))
    fit(log)
    assert len(log.runs) == 1


def test_the_settings_of_a_network() -> None:
    log = Noted()
    fit(log)
    assert log.runs[0].settings == {
        "sizes": [4, 5, 3], "activations": ["relu", "softmax"], "loss": "softmax_cross_entropy",
        "dropout": [0.0], "l1": 0.0, "l2": 0.0, "epochs": 3,
    }  # fmt: skip


@WITH_CALLBACKS
def test_in_a_search_each_fit_is_a_run() -> None:
    log = Noted()
    pipeline = make_pipeline(StandardScaler(), classifier().set_callbacks(log))
    GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1, 1.0]}, cv=2).fit(X, CLASSES)
    assert [run.settings["alpha"] for run in log.runs[:4]] == [0.1, 0.1, 1.0, 1.0]
    assert [run.epochs for run in log.runs] == [[1, 2, 3]] * 5


@WITH_CALLBACKS
def test_what_has_no_epochs_says_where_the_callback_belongs(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), classifier())
    pipeline.set_callbacks(CSVLog(tmp_path / "log.csv"))
    with pytest.raises(TypeError, match="CSVLog logs the epochs of an MLPClassifier"):
        pipeline.fit(X, CLASSES)


# --- CSV ------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@BOTH_DOORS
def test_a_csv_file_has_every_number_to_the_last_bit(door: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("run,epoch,other\n1,1,2\n", encoding="utf-8")
    log = CSVLog(path)
    expected = [
        {"run": run, "epoch": epoch, **row}
        for run in (1, 2)
        for epoch, row in enumerate(train(door, log), 1)
    ]
    assert [{k: float(v) for k, v in line.items()} for line in lines(path)] == expected


def test_a_csv_file_is_added_to_when_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(CSVLog(path, append=True))
    before = path.read_text("utf-8")
    fit(CSVLog(path, append=True))
    assert path.read_text("utf-8").startswith(before)
    assert [line["run"] for line in lines(path)] == ["1"] * 3 + ["2"] * 3
    with pytest.raises(ValueError, match="give it a CSVLog of its own"):
        fit(CSVLog(path, append=True), validation=None)


def test_a_copy_adds_to_the_file_and_one_in_another_process_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    log = CSVLog(path)
    copy = pickle.loads(pickle.dumps(log))
    fit(log)
    fit(copy)
    assert {line["run"] for line in lines(path)} == {"1", "2"}
    other = pickle.dumps(log)
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    fit(pickle.loads(other), epochs=1)
    fit(pickle.loads(other), epochs=1)
    assert {line["run"] for line in lines(path)} == {"1", "2"}
    assert [line["run"] for line in lines(tmp_path / "log-4711.csv")] == ["1", "2"]


def test_a_folder_that_is_not_there_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder of .* does not exist"):
        CSVLog(tmp_path / "none" / "log.csv")


@WITH_CALLBACKS
def test_a_fitted_estimator_with_a_callback_goes_through_pickle(tmp_path: Path) -> None:
    est = classifier().set_callbacks(CSVLog(tmp_path / "log.csv")).fit(X, CLASSES)
    again = pickle.loads(pickle.dumps(est))
    assert np.array_equal(again.predict(X), est.predict(X))
    again.fit(X, CLASSES)
    assert {line["run"] for line in lines(tmp_path / "log.csv")} == {"1", "2"}


# --- TensorBoard ----------------------------------------------------------------------------------


def scalars(folder: Path) -> list[dict[str, float]]:
    """The numbers of each epoch that TensorBoard itself reads from a run's event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder))
    events.Reload()
    rows: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            rows.setdefault(event.step, {})[tag] = float(make_ndarray(event.tensor_proto))
    assert sorted(rows) == list(range(1, len(rows) + 1))
    return [rows[step] for step in sorted(rows)]


@BOTH_DOORS
def test_tensorboard_reads_every_number(door: str, tmp_path: Path) -> None:
    log = TensorBoard(tmp_path / "logs")
    for folder in ("run_1", "run_2"):
        expected = train(door, log)
        # Event files hold float32.
        rounded = [{k: float(np.float32(v)) for k, v in row.items()} for row in expected]
        assert scalars(tmp_path / "logs" / folder) == rounded


def test_tensorboard_runs_have_the_name_that_is_asked_for(tmp_path: Path) -> None:
    for _ in range(2):
        fit(TensorBoard(tmp_path, name="baseline"), epochs=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["baseline", "baseline_2"]


@WITH_CALLBACKS
def test_tensorboard_goes_on_in_the_folder_of_the_run(tmp_path: Path) -> None:
    est = classifier().set_callbacks(TensorBoard(tmp_path))
    est.partial_fit(X, CLASSES, classes=[0, 1, 2]).partial_fit(X, CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["run_1"]
    assert [row["loss"] for row in scalars(tmp_path / "run_1")] == [
        float(np.float32(loss)) for loss in est.loss_curve_
    ]


# --- Optuna ---------------------------------------------------------------------------------------


@pytest.fixture
def optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@BOTH_DOORS
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_trial_is_told_every_epoch(door: str, direction: str, optuna: Any) -> None:
    watched = "validation_loss"
    if direction == "maximize":
        watched = {"fit": "validation_accuracy", "estimator": "validation_score"}[door]
    told: list[Any] = []

    def objective(trial: Any) -> float:
        told.append([row[watched] for row in train(door, OptunaPruning(trial))])
        return float(told[-1][-1])

    study = optuna.create_study(direction=direction)
    study.optimize(objective, n_trials=2)
    for trial, values in zip(study.trials, told, strict=True):
        assert trial.intermediate_values == dict(enumerate(values, 1))


@BOTH_DOORS
def test_a_hopeless_trial_is_pruned(door: str, optuna: Any) -> None:
    rates = [0.05, 1e-9]

    def objective(trial: Any) -> float:
        pruning, rate = OptunaPruning(trial, "loss"), rates[trial.number]
        if door == "fit":
            return float(fit(pruning, epochs=8, learning_rate=rate).history["loss"][-1])
        est = classifier(max_iter=8, learning_rate_init=rate).set_callbacks(pruning)
        return float(est.fit(X, CLASSES).loss_)

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=4)
    study = optuna.create_study(pruner=pruner)
    study.optimize(objective, n_trials=2)
    good, bad = study.trials
    assert good.state.name == "COMPLETE"
    assert bad.state.name == "PRUNED"
    assert list(bad.intermediate_values) == [1, 2, 3, 4]  # 4 epochs to warm up


def test_pruning_refuses_what_it_cannot_judge(optuna: Any) -> None:
    falls, grows = (optuna.create_study(direction=d).ask() for d in ("minimize", "maximize"))
    with pytest.raises(ValueError, match=r"the study maximizes, .* records only loss"):
        fit(OptunaPruning(grows), validation=None)
    with pytest.raises(ValueError, match="monitor='validation_loss' is better the other way"):
        fit(OptunaPruning(grows, "validation_loss"))
    with pytest.raises(ValueError, match=r"monitor must be one of loss, .*; got 'auc'"):
        fit(OptunaPruning(falls, "auc"))
    pruning = OptunaPruning(optuna.create_study().ask())
    fit(pruning)
    with pytest.raises(ValueError, match="has seen a training already"):
        fit(pruning)
    with pytest.raises(ValueError, match="one objective; this one has 2"):
        OptunaPruning(optuna.create_study(directions=["minimize", "maximize"]).ask())
    fit(OptunaPruning(optuna.trial.FixedTrial({})))  # belongs to no study, and is never pruned


# --- without the libraries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "library"),
    [
        (lambda: OptunaPruning(None), "optuna"),
        (lambda: TensorBoard("logs"), "tensorboard"),
        (MLflow, "mlflow"),
    ],
)
def test_a_library_that_is_missing_is_named(
    make: Callable[[], Any], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library] or [library]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'portable-bp\[{library}\]'"):
        make()
