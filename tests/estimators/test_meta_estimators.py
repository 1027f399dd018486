"""Inside searches, ensembles and pipelines our estimators give what scikit-learn's own give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network as theirs
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import portable_bp.estimators as ours

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4))
SIGNAL = X @ RNG.normal(size=(4, 3))
CLASSES = SIGNAL.argmax(axis=1)
WEIGHTS = RNG.uniform(0.1, 2, size=90)
SETTINGS: dict[str, Any] = {
    "hidden_layer_sizes": (5,), "max_iter": 15, "learning_rate_init": 0.02, "random_state": 0,
}  # fmt: skip


def classifier(library: Any) -> Any:
    return library.MLPClassifier(**SETTINGS)


def regressor(library: Any) -> Any:
    return library.MLPRegressor(**SETTINGS)


def searched(search: Any) -> dict[str, Any]:
    found = {"best": search.best_params_, "probabilities": search.predict_proba(X)}
    scores = {
        k: v for k, v in search.cv_results_.items() if "test_score" in k or k == "n_resources"
    }
    return found | scores


def grid_search(library: Any) -> Any:
    pipeline = make_pipeline(StandardScaler(), classifier(library))
    grid = {"mlpclassifier__alpha": [1e-4, 10.0], "mlpclassifier__activation": ["tanh", "relu"]}
    return searched(GridSearchCV(pipeline, grid, cv=3).fit(X, CLASSES))


def random_search(library: Any) -> Any:
    draws = {"alpha": [1e-4, 1.0, 100.0], "hidden_layer_sizes": [(3,), (5, 4)]}
    search = RandomizedSearchCV(classifier(library), draws, n_iter=3, cv=2, random_state=0)
    return searched(search.fit(X, CLASSES))


def halving(library: Any) -> Any:
    grid = {"alpha": [1e-4, 1.0, 100.0]}
    search = HalvingGridSearchCV(classifier(library), grid, cv=2, random_state=0, min_resources=20)
    return searched(search.fit(X, CLASSES))


def halving_of_epochs(library: Any) -> Any:
    search = HalvingGridSearchCV(
        classifier(library), {"alpha": [1e-4, 1.0, 100.0]}, cv=2, random_state=0,
        resource="max_iter", min_resources=3, max_resources=9,
    )  # fmt: skip
    return searched(search.fit(X, CLASSES))


def calibration(library: Any) -> Any:
    est = CalibratedClassifierCV(classifier(library), cv=3).fit(X, CLASSES, WEIGHTS)
    return {"probabilities": est.predict_proba(X)}


def stacked_classes(library: Any) -> Any:
    est = StackingClassifier(
        [("net", classifier(library)), ("line", LogisticRegression())], cv=3
    ).fit(X, CLASSES)
    return {"probabilities": est.predict_proba(X), "features": est.transform(X)}


def stacked_values(library: Any) -> Any:
    est = StackingRegressor([("net", regressor(library)), ("line", Ridge())], cv=3)
    return {"values": est.fit(X, SIGNAL[:, 0]).predict(X)}


def votes(library: Any) -> Any:
    est = VotingClassifier(
        [("net", classifier(library)), ("line", LogisticRegression())], voting="soft"
    )
    return {"probabilities": est.fit(X, CLASSES).predict_proba(X)}


def boosted(library: Any) -> Any:
    est = AdaBoostClassifier(classifier(library), n_estimators=3, random_state=0)
    return {"probabilities": est.fit(X, CLASSES).predict_proba(X)}


def bagged(library: Any) -> Any:
    est = BaggingRegressor(regressor(library), n_estimators=3, random_state=0)
    return {"values": est.fit(X, SIGNAL[:, 0]).predict(X)}


def an_estimator_for_each_output(library: Any) -> Any:
    return {"values": MultiOutputRegressor(regressor(library)).fit(X, SIGNAL).predict(X)}


AROUND = [
    grid_search, random_search, halving, halving_of_epochs, calibration, stacked_classes,
    stacked_values, votes, boosted, bagged, an_estimator_for_each_output,
]  # fmt: skip


@pytest.mark.parametrize("around", AROUND, ids=lambda f: f.__name__)
def test_what_stands_around_a_network_gives_the_same_as_around_scikit_learns(around: Any) -> None:
    mine, expected = around(ours), around(theirs)
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        if name == "best":
            assert mine[name] == value
        else:
            # The networks agree to rounding of float64 through 15 epochs; what stands around them is
            # a solver that stops at 1e-4 or so, at worst.
            assert_allclose(mine[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


# --- data frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [ours, theirs])
def test_a_pipeline_of_data_frames_gives_the_network_its_names(library: Any) -> None:
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    pipeline = make_pipeline(StandardScaler(), classifier(library)).set_output(transform="pandas")
    pipeline.fit(frame, CLASSES)
    assert list(pipeline[-1].feature_names_in_) == ["a", "b", "c", "d"]
    assert_allclose(
        pipeline.predict_proba(frame),
        make_pipeline(StandardScaler(), classifier(theirs)).fit(X, CLASSES).predict_proba(X),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="feature names"):
        pipeline.predict(frame.rename(columns={"a": "z"}))


def test_the_last_hidden_layer_as_a_data_frame() -> None:
    est = classifier(ours).set_output(transform="pandas").fit(X, CLASSES)
    hidden = est.transform(X)
    assert list(hidden.columns) == list(est.get_feature_names_out())
    assert_allclose(hidden.to_numpy(), classifier(ours).fit(X, CLASSES).transform(X))
    again = make_pipeline(est, LogisticRegression()).fit(X, CLASSES)
    assert list(again[-1].feature_names_in_) == [f"mlpclassifier{i}" for i in range(5)]


# --- metadata routing -----------------------------------------------------------------------------


@pytest.fixture
def routing() -> Iterator[None]:
    with config_context(enable_metadata_routing=True):
        yield


def weighted_pipeline(library: Any) -> Pipeline:
    """Whose weights go to the network alone."""
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    net = classifier(library).set_fit_request(sample_weight=True)
    return make_pipeline(scaler, net.set_score_request(sample_weight=True))


@pytest.mark.usefixtures("routing")
def test_weights_reach_the_network_in_a_pipeline() -> None:
    scaled = StandardScaler().fit_transform(X)
    expected = classifier(theirs).fit(scaled, CLASSES, WEIGHTS)
    for library in (ours, theirs):
        pipeline = weighted_pipeline(library).fit(X, CLASSES, sample_weight=WEIGHTS)
        assert_allclose(pipeline[-1].coefs_[0], expected.coefs_[0], rtol=1e-9)
        assert pipeline.score(X, CLASSES, sample_weight=WEIGHTS) == pytest.approx(
            expected.score(scaled, CLASSES, WEIGHTS)
        )


@pytest.mark.usefixtures("routing")
def test_weights_reach_the_network_through_a_search_and_a_cross_validation() -> None:
    found = []
    for library in (ours, theirs):
        search = GridSearchCV(
            weighted_pipeline(library), {"mlpclassifier__alpha": [1e-4, 1.0]}, cv=2
        )
        search.fit(X, CLASSES, sample_weight=WEIGHTS)
        crossed = cross_validate(
            weighted_pipeline(library), X, CLASSES, params={"sample_weight": WEIGHTS}, cv=2
        )
        found.append([*search.cv_results_["mean_test_score"], *crossed["test_score"]])
    assert_allclose(found[0], found[1], rtol=1e-9)
    unweighted = GridSearchCV(
        make_pipeline(StandardScaler(), classifier(ours)),
        {"mlpclassifier__alpha": [1e-4, 1.0]},
        cv=2,
    ).fit(X, CLASSES)
    assert not np.allclose(found[0][:2], unweighted.cv_results_["mean_test_score"])


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("library", [ours, theirs])
def test_weights_that_nobody_asked_for_are_an_error(library: Any) -> None:
    pipeline = make_pipeline(
        StandardScaler().set_fit_request(sample_weight=False), classifier(library)
    )
    with pytest.raises(UnsetMetadataPassedError, match=r"set_fit_request|sample_weight"):
        pipeline.fit(X, CLASSES, sample_weight=WEIGHTS)


@pytest.mark.usefixtures("routing")
def test_what_only_our_fit_takes_is_routed_as_well(tmp_path: Any) -> None:
    net = classifier(ours).set_fit_request(
        validation_data=True, checkpoint=True, sample_weight=False
    )
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    held = (scaler.fit(X).transform(X[:20]), CLASSES[:20])  # no step of the pipeline scales these
    pipeline = make_pipeline(scaler, net)
    pipeline.fit(X, CLASSES, validation_data=held, checkpoint=tmp_path / "run")
    direct = classifier(ours).fit(scaler.transform(X), CLASSES, validation_data=held)
    assert pipeline[-1].validation_loss_curve_ == direct.validation_loss_curve_
    assert any((tmp_path / "run").iterdir())


def test_without_routing_a_step_is_named(tmp_path: Any) -> None:
    pipeline = make_pipeline(StandardScaler(), classifier(ours))
    pipeline.fit(X, CLASSES, mlpclassifier__sample_weight=WEIGHTS)
    direct = classifier(ours).fit(StandardScaler().fit_transform(X), CLASSES, WEIGHTS)
    assert np.array_equal(pipeline[-1].coefs_[0], direct.coefs_[0])
