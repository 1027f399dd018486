"""MLflow with a database behind it: the callback through both doors, and models that are kept there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portable_bp
from portable_bp import DivergenceError, MLPClassifier
from portable_bp.callbacks import MLflow

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Of MLflow's own modules.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*inferred as AnyType:UserWarning"),
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
CLASSES = (X @ RNG.normal(size=(4, 3))).argmax(axis=1)
NET = portable_bp.MLP([4, 5, 3], loss="softmax_cross_entropy")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MLflow with a SQLite database: one for all workers, since its tables take seconds to be made."""
    import mlflow

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    with FileLock(folder / "mlflow.lock"):
        mlflow.search_experiments()
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.fixture(autouse=True)
def experiment(database: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One for each test, whose artifacts lie in the test's folder."""
    name = request.node.name
    database.create_experiment(name, artifact_location=tmp_path.as_uri())
    database.set_experiment(name)


def runs(mlflow: Any) -> list[Any]:
    """The runs of this test, the newest first."""
    return list(mlflow.search_runs(output_format="list"))


def metrics(mlflow: Any, run: Any) -> list[dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        for entry in mlflow.MlflowClient().get_metric_history(run.info.run_id, name):
            rows.setdefault(entry.step, {})[name] = entry.value
    assert sorted(rows) == list(range(1, len(rows) + 1))
    return [rows[step] for step in sorted(rows)]


def test_a_training_by_fit_is_a_run(database: Any) -> None:
    log = MLflow(run_name="by hand")
    model = portable_bp.fit(NET, X, CLASSES, epochs=3, validation=0.2, callbacks=[log])
    run = runs(database)[0]
    assert metrics(database, run) == model.history.epochs
    assert (run.info.run_name, run.info.status) == ("by hand", "FINISHED")
    assert run.data.params["sizes"] == "[4, 5, 3]"
    assert database.active_run() is None


def test_a_training_of_an_estimator_is_a_run_that_partial_fit_goes_on_with(database: Any) -> None:
    if not hasattr(MLPClassifier, "set_callbacks"):
        pytest.skip("scikit-learn 1.9 and newer")
    est = MLPClassifier((5,), max_iter=3, alpha=0.5, random_state=0).set_callbacks(MLflow())
    est.fit(X, CLASSES).partial_fit(X, CLASSES)
    run = runs(database)[0]
    assert [row["loss"] for row in metrics(database, run)] == est.loss_curve_
    assert len(est.loss_curve_) == 4
    assert run.data.params["alpha"] == "0.5"
    assert run.info.status == "FINISHED"
    assert len(runs(database)) == 1


def test_the_active_run_is_used_and_stays_open_and_nested_ones_are_its_children(
    database: Any,
) -> None:
    with database.start_run() as parent:
        portable_bp.fit(NET, X, CLASSES, epochs=2, callbacks=[MLflow()])
        assert database.active_run().info.run_id == parent.info.run_id
        log = MLflow(nested=True)
        for l2 in (0.0, 0.1):
            net = portable_bp.MLP([4, 3], loss="softmax_cross_entropy", l2=l2)
            portable_bp.fit(net, X, CLASSES, epochs=1, callbacks=[log])
        assert database.active_run().info.run_id == parent.info.run_id
    found = {run.info.run_id: run for run in runs(database)}
    children = [
        run for run in found.values()
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]  # fmt: skip
    assert sorted(run.data.params["l2"] for run in children) == ["0.0", "0.1"]
    assert len(metrics(database, found[parent.info.run_id])) == 2


def test_a_training_that_diverges_is_a_run_that_failed(database: Any) -> None:
    net = portable_bp.MLP([4, 5, 1])
    with pytest.raises(DivergenceError):
        portable_bp.fit(
            net, X, 1e3 * X[:, 0], optimizer="sgd", learning_rate=0.1, callbacks=[MLflow()]
        )
    assert runs(database)[0].info.status == "FAILED"
    assert database.active_run() is None


def test_an_estimator_is_kept_as_a_model_of_scikit_learns(database: Any) -> None:
    """MLflow's own flavour for scikit-learn: nothing of ours is needed for it."""
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((5,), max_iter=3, random_state=0))
    pipeline.fit(X, np.array(["a", "b", "c"])[CLASSES])
    with database.start_run():
        logged = database.sklearn.log_model(
            pipeline,
            name="net",
            serialization_format="cloudpickle",
            signature=database.models.infer_signature(X, pipeline.predict(X)),
            pip_requirements=["portable-bp[sklearn]"],
        )
    again = database.sklearn.load_model(logged.model_uri)
    assert np.array_equal(again.predict_proba(X), pipeline.predict_proba(X))
    served = database.pyfunc.load_model(logged.model_uri)
    assert np.array_equal(served.predict(X), pipeline.predict(X))
