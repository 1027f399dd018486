"""Everything follows X: fitted arrays, results, labels and weights; the data stay where they are."""

from __future__ import annotations

import io
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn
from joblib import Parallel, delayed
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portable_bp
from portable_bp import Backend
from portable_bp.backend.registry import owner
from portable_bp.estimators import MLPClassifier, MLPRegressor
from portable_bp.estimators._place import home_of

GPU = pytest.param("cupy", marks=pytest.mark.gpu)
DEVICES = ("torch", "strict", "strict:device1", GPU)
N = 90

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(dtype: str = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 6)).astype(dtype)
    return X, (X @ rng.normal(size=(6, 3))).argmax(axis=1)


def small(kind: Any = MLPClassifier, **settings: Any) -> Any:
    return kind(hidden_layer_sizes=(8,), max_iter=8, random_state=0, **settings)


def arrays(est: Any) -> list[Any]:
    return [*est.coefs_, *est.intercepts_]


@pytest.fixture(params=[False, True], ids=["plain", "dispatch"])
def dispatch(request: pytest.FixtureRequest) -> Any:
    with sklearn.config_context(array_api_dispatch=request.param):
        yield request.param


# --- where things live ----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["jax", *DEVICES])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_fitted_arrays_and_results_live_where_x_does(
    where: Backend, solver: str, dispatch: bool
) -> None:
    X, y = table()
    host = small(solver=solver).fit(X, y)
    there = where.asarray(X)
    est = small(solver=solver).fit(there, where.asarray(y))
    for found, expected in zip(arrays(est), arrays(host), strict=True):
        assert home_of(found) is where
        assert_allclose(where.to_numpy(found), expected, rtol=1e-3, atol=1e-4)
    assert home_of(est.classes_) is where
    for method in ("predict", "predict_proba", "predict_log_proba", "transform"):
        result = getattr(est, method)(there)
        assert home_of(result) is where, method
        expected = getattr(host, method)(X)
        assert_allclose(where.to_numpy(result), expected, rtol=1e-3, atol=1e-3)
    assert isinstance(est.score(there, where.asarray(y)), float)
    assert all(isinstance(loss, float) for loss in [est.loss_, *getattr(est, "loss_curve_", [])])


@pytest.mark.parametrize("spec", ["jax", *DEVICES])
@pytest.mark.parametrize("outputs", [1, 2])
def test_regression_lives_where_x_does(where: Backend, outputs: int) -> None:
    X, _ = table()
    y = X[:, :outputs] if outputs > 1 else X[:, 0]
    host, there = small(MLPRegressor).fit(X, y), where.asarray(X)
    est = small(MLPRegressor).fit(there, where.asarray(y))
    predicted = est.predict(there)
    assert home_of(predicted) is where
    assert tuple(predicted.shape) == y.shape
    assert_allclose(where.to_numpy(predicted), host.predict(X), rtol=1e-3, atol=1e-4)
    assert_allclose(est.score(there, where.asarray(y)), host.score(X, y), rtol=1e-4)


@pytest.mark.parametrize("spec", DEVICES)
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_labels_and_weights_are_moved_to_x(where: Backend, kind: Any, usable: Any) -> None:
    X, y = table()
    weights = np.linspace(0.5, 2, N)
    elsewhere = usable("torch" if where.name == "strict" else "strict")
    there = where.asarray(X)
    est = small(kind).fit(there, elsewhere.asarray(y), elsewhere.asarray(weights))
    same = small(kind).fit(there, y.tolist(), weights.tolist())
    for a, b in zip(arrays(est), arrays(same), strict=True):
        assert np.array_equal(where.to_numpy(a), where.to_numpy(b))
    assert est.score(there, elsewhere.asarray(y), elsewhere.asarray(weights)) == same.score(
        there, y, weights
    )


@pytest.mark.parametrize("spec", DEVICES)
def test_text_labels_come_in_numpy(where: Backend) -> None:
    X, y = table()
    names = np.array(["ant", "bee", "cow"])[y]
    est = small().fit(where.asarray(X), names)
    assert isinstance(est.predict(where.asarray(X)), np.ndarray)
    assert set(est.predict(where.asarray(X))) <= {"ant", "bee", "cow"}
    assert home_of(est.predict_proba(where.asarray(X))) is where


@pytest.mark.parametrize("spec", DEVICES)
def test_the_same_seed_gives_the_same_start_everywhere(where: Backend) -> None:
    X, y = table()
    host = small(learning_rate_init=1e-30).fit(X, y)
    est = clone(host).fit(where.asarray(X), y)
    for a, b in zip(arrays(est), arrays(host), strict=True):
        assert np.array_equal(where.to_numpy(a), b)


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", DEVICES)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "transform"])
def test_elsewhere_is_an_error_with_a_recipe_that_works(where: Backend, method: str) -> None:
    X, y = table()
    est = small().fit(where.asarray(X), y)
    with pytest.raises(ValueError, match="must use the same namespace") as error:
        getattr(est, method)(X)
    assert f"MLPClassifier.{method}()" in str(error.value)
    assert "estimator.to('numpy')" in str(error.value)
    moved = est.to("numpy")
    assert isinstance(getattr(moved, method)(X), np.ndarray)
    assert_allclose(
        getattr(moved, method)(X),
        where.to_numpy(getattr(est, method)(where.asarray(X))),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("spec", DEVICES)
@pytest.mark.parametrize("call", ["warm_start", "partial_fit"])
def test_training_goes_on_only_where_it_began(where: Backend, call: str) -> None:
    X, y = table()
    est = small(warm_start=True).fit(where.asarray(X), y)
    with pytest.raises(ValueError, match=r"estimator\.to\('numpy'\)"):
        est.fit(X, y) if call == "warm_start" else est.partial_fit(X, y)
    moved = est.to("numpy")
    (moved.fit if call == "warm_start" else moved.partial_fit)(X, y)
    assert all(owner(a) is None for a in arrays(moved))


@pytest.mark.parametrize("spec", ["jax", *DEVICES])
def test_a_moved_model_goes_on_with_the_same_numbers(where: Backend) -> None:
    X, y = table()
    stays = small().partial_fit(X, y, classes=[0, 1, 2])
    moved = stays.to(where)
    assert all(home_of(a) is where for a in arrays(moved))
    assert all(owner(a) is None for a in arrays(stays))
    stays.partial_fit(X, y)
    moved.partial_fit(where.asarray(X), where.asarray(y))
    for a, b in zip(arrays(moved), arrays(stays), strict=True):
        assert_allclose(where.to_numpy(a), b, rtol=1e-4, atol=1e-5)


# --- the data stay --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["torch", "strict:device1"])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_nothing_of_x_is_read_by_the_host(
    where: Backend, solver: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = where.asarray(np.random.default_rng(0).normal(size=(400, 30)).astype("float32"))
    y = where.asarray(np.arange(400) % 3)
    read: list[int] = []
    plain = type(where).to_numpy

    def counted(self: Backend, array: Any) -> Any:
        read.append(int(np.prod(array.shape)))
        return plain(self, array)

    monkeypatch.setattr(type(where), "to_numpy", counted)
    est = small(kind, solver=solver, early_stopping=solver != "lbfgs").fit(X, y)
    # Labels (400), outputs of held-out rows, parameters (at most 30 x 8) and losses; X has 12,000.
    assert max(read) <= 400
    read.clear()
    est.predict(X)
    assert sum(read) <= 1  # whether all is finite
    assert sum(n == 400 for n in read) == 0


@pytest.mark.parametrize("spec", ["torch"])
def test_x_is_not_copied_on_its_device(where: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    X = where.asarray(np.random.default_rng(0).normal(size=(400, 30)).astype("float32"))
    copied: list[int] = []
    plain = type(where).asarray

    def counted(self: Backend, values: Any, dtype: Any = None) -> Any:
        copied.append(int(np.prod(np.shape(values))))
        return plain(self, values, dtype)

    monkeypatch.setattr(type(where), "asarray", counted)
    small().fit(X, np.arange(400) % 2).predict(X)
    assert max(copied) < 400 * 30


def test_x_is_left_as_it_was() -> None:
    X, y = table()
    X.setflags(write=False)
    before = X.tobytes()
    small().fit(X, y).predict(X)
    assert X.tobytes() == before


# --- inside scikit-learn --------------------------------------------------------------------------


def test_pipeline_and_search_on_torch(usable: Any) -> None:
    torch = usable("torch")
    X, y = table("float64")
    there, labels = torch.asarray(X), torch.asarray(y)
    with sklearn.config_context(array_api_dispatch=True):
        pipeline = make_pipeline(StandardScaler(), small())
        search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 10.0]}, cv=3)
        search.fit(there, labels)
        assert home_of(search.best_estimator_[-1].coefs_[0]) is torch
        assert home_of(search.predict(there)) is torch
        scores = cross_val_score(pipeline, there, labels, cv=3)
    host = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 10.0]}, cv=3).fit(X, y)
    name = "mean_test_score"
    assert_allclose(search.cv_results_[name], host.cv_results_[name], rtol=1e-12)
    assert_allclose(scores, cross_val_score(pipeline, X, y, cv=3), rtol=1e-12)


def test_cross_val_score_on_torch_without_dispatch(usable: Any) -> None:
    torch = usable("torch")
    X, y = table("float64")
    there = torch.asarray(X)
    assert_allclose(
        cross_val_score(small(), there, y, cv=3), cross_val_score(small(), X, y, cv=3), rtol=1e-12
    )


def test_stacking() -> None:
    X, y = table("float64")
    stack = StackingClassifier(
        [("net", small(solver="lbfgs")), ("linear", LogisticRegression())],
        final_estimator=MLPClassifier((4,), solver="lbfgs", random_state=0),
        cv=3,
    )
    assert stack.fit(X, y).score(X, y) > 0.9


# --- where it is computed -------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["torch", "strict"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_device_computes_elsewhere_and_answers_here(
    where: Backend, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = table()
    arrived: list[int] = []
    plain = type(where).asarray

    def counted(self: Backend, values: Any, dtype: Any = None) -> Any:
        arrived.append(int(np.prod(np.shape(values))))
        return plain(self, values, dtype)

    monkeypatch.setattr(type(where), "asarray", counted)
    est = small(device=where.spec, solver=solver).fit(X, y)
    assert X.size in arrived
    assert all(isinstance(a, np.ndarray) for a in [*arrays(est), est.predict(X), est.classes_])
    assert_allclose(est.coefs_[0], small(solver=solver).fit(X, y).coefs_[0], rtol=1e-3, atol=1e-4)


def test_host_data_follow_the_selection(monkeypatch: pytest.MonkeyPatch, usable: Any) -> None:
    torch = usable("torch")
    seen: list[Any] = []
    plain = type(torch).compile

    def compiled(self: Backend, *args: Any) -> Any:
        seen.append(self)
        return plain(self, *args)

    monkeypatch.setattr(type(torch), "compile", compiled)
    X, y = table()
    with portable_bp.use_backend("torch"):
        est = small().fit(X, y)
    monkeypatch.setenv("PORTABLE_BP_BACKEND", "torch")
    small().fit(X, y)
    assert seen == [torch, torch]
    assert isinstance(est.coefs_[0], np.ndarray)


@pytest.mark.parametrize("spec", ["numpy", "torch", "strict"])
@pytest.mark.parametrize("given", ["float32", "float64"])
@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_dtype_of_the_parameters(where: Backend, given: str, wanted: str) -> None:
    X, y = table(given)
    est = small(dtype=wanted).fit(where.asarray(X), y)
    assert {str(a.dtype).rpartition(".")[2] for a in arrays(est)} == {wanted}
    assert str(est.predict_proba(where.asarray(X)).dtype).endswith(wanted)


# --- keeping --------------------------------------------------------------------------------------


class _Modules(pickle.Unpickler):
    """Notes which modules a pickle needs."""

    seen: set[str]

    def find_class(self, module: str, name: str) -> Any:
        self.seen.add(module.partition(".")[0])
        return super().find_class(module, name)


@pytest.mark.parametrize("spec", DEVICES)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_pickle_holds_numpy_alone_and_comes_back_to_its_device(
    where: Backend, solver: str
) -> None:
    X, y = table()
    est = small(solver=solver).fit(where.asarray(X), y)
    kept = pickle.dumps(est)
    unpickler = _Modules(io.BytesIO(kept))
    unpickler.seen = set()
    again = unpickler.load()
    assert unpickler.seen <= {"numpy", "portable_bp", "sklearn", "builtins", "copyreg"}
    assert all(home_of(a) is where for a in [*arrays(again), again.classes_])
    there = where.asarray(X)
    assert np.array_equal(
        where.to_numpy(again.predict_proba(there)), where.to_numpy(est.predict_proba(there))
    )
    if solver == "adam":
        for model in (est, again):
            model.partial_fit(there, y)
        for a, b in zip(arrays(again), arrays(est), strict=True):
            assert np.array_equal(where.to_numpy(a), where.to_numpy(b))


def test_a_gpu_model_loads_where_there_is_none(usable: Any) -> None:
    torch = usable("torch")
    X, y = table()
    est = small().fit(torch.asarray(X), y)
    state = est.__getstate__()
    assert state["_saved_from"] == "torch"
    again = MLPClassifier.__new__(MLPClassifier)
    with pytest.warns(UserWarning, match=r"torch:cuda:99.*cannot be used here.*loaded to NumPy"):
        again.__setstate__({**state, "_saved_from": "torch:cuda:99"})
    assert all(isinstance(a, np.ndarray) for a in [*arrays(again), again.classes_])
    assert np.array_equal(again.predict(X), torch.to_numpy(est.predict(torch.asarray(X))))
    again.partial_fit(X, y)


def _fitted(est: Any, X: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return est.fit(X, y)


def test_joblib_with_two_processes(usable: Any) -> None:
    torch = usable("torch")
    X, y = table()
    there = torch.asarray(X)
    fitted = Parallel(n_jobs=2)(delayed(_fitted)(small(alpha=a), there, y) for a in (0.0, 1.0))
    for alpha, est in zip((0.0, 1.0), fitted, strict=True):
        assert home_of(est.coefs_[0]) is torch
        same = small(alpha=alpha).fit(there, y)
        assert np.array_equal(
            torch.to_numpy(est.predict_proba(there)), torch.to_numpy(same.predict_proba(there))
        )
