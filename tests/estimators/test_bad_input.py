"""The catalogue of bad input at the level of the estimators.

Where scikit-learn is silently wrong there is a clear error here, unless its own checks demand
otherwise; whatever was handed in has the same bytes afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import DataConversionWarning, NotFittedError

from portable_bp import BackendError, OutOfMemoryError
from portable_bp.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
N = 40
X = RNG.normal(size=(N, 3))
Y = X[:, 0]
LABELS = np.arange(N) % 3
BIG = np.full(N, 1e300)


def put(array: Any, where: Any, value: Any) -> Any:
    changed = np.array(array)
    changed[where] = value
    return changed


def small(kind: Any, **settings: Any) -> Any:
    return kind(**{"hidden_layer_sizes": (4,), "max_iter": 3, "random_state": 0} | settings)


class Bad(NamedTuple):
    """A call of ``fit`` that has to raise this error."""

    what: str
    kind: Any
    error: Any
    says: str
    X: Any = X
    y: Any = None
    weights: Any = None
    settings: dict[str, Any] = {}  # noqa: RUF012

    @property
    def target(self) -> Any:
        return self.y if self.y is not None else LABELS if self.kind is C else Y


C, R = MLPClassifier, MLPRegressor
BAD = [
    Bad("X has NaN", C, ValueError, "Input X contains NaN", put(X, (2, 1), np.nan)),
    Bad("X has infinities", C, ValueError, "Input X contains infinity", put(X, (2, 1), -np.inf)),
    Bad("real targets that are not finite", R, ValueError, "y contains NaN", y=put(Y, 4, np.nan)),
    Bad("real targets that are not finite", R, ValueError,
        "y contains infinity", y=put(Y, 4, np.inf)),
    Bad("class labels with NaN", C, ValueError,
        "y contains NaN", y=put(LABELS.astype(float), 4, np.nan)),
    Bad("X is 1-D", C, ValueError, r"(?s)Expected 2D array, got 1D.*reshape\(-1, 1\)", X[:, 0]),
    Bad("X is a number", C, ValueError, "Expected 2D array", 3.0),
    Bad("X is 3-D", C, ValueError, "dim 3", X.reshape(N, 3, 1)),
    Bad("X has no rows", C, ValueError, r"0 sample\(s\)", X[:0], LABELS[:0]),
    Bad("X has no columns", C, ValueError, r"0 feature\(s\)", X[:, :0]),
    Bad("X and y of different lengths", C, ValueError,
        r"inconsistent numbers of samples: \[40, 5\]", y=LABELS[:5]),
    Bad("y is 3-D", R, ValueError, "dim 3", y=Y.reshape(N, 1, 1)),
    Bad("fractions as class labels", C, ValueError, "Unknown label type: continuous", y=Y),
    Bad("labels of text and numbers", C, ValueError,
        "y mixes labels of the types int, text", y=[0, "a"] * 20),
    Bad("labels of text and numbers", C, ValueError,
        "y mixes labels", y=np.array([0, "a"] * 20, object)),
    Bad("None among the labels", C, ValueError,
        r"y has missing labels \(None\)", y=["a", None] * 20),
    Bad("None among the labels", C, ValueError,
        "y has missing labels", y=np.array(["a", np.nan] * 20, object)),
    Bad("ragged lists", C, ValueError,
        "X cannot be made a regular array", [[1.0, 2.0], [1.0]] * 20),
    Bad("complex X", C, ValueError, "[Cc]omplex", X + 1j),
    Bad("complex X", R, ValueError, "[Cc]omplex", y=Y + 1j),
    Bad("objects that are no numbers", C, (ValueError,
        TypeError), "float|number", np.array([[object()] * 3] * N)),
    Bad("digits as text", C, ValueError,
        "X holds text .*convert it to numbers first", X.astype(str)),
    Bad("digits as text", C, ValueError, "X holds text such as '", X.astype(str).astype(object)),
    Bad("digits as text", R, ValueError, "y holds text", y=Y.astype(str)),
    Bad("dates", C, TypeError, "X has the dtype datetime64", np.zeros((N, 3), "datetime64[s]")),
    Bad("dates", R, TypeError, "y has the dtype timedelta64", y=np.zeros(N, "timedelta64[s]")),
    Bad("structured array", C, TypeError, r"X has the dtype \[\('a', '<f4'\)",
        np.zeros(N, [("a", "f4"), ("b", "f4")])),
    Bad("masked array", C, ValueError, "X has masked values", np.ma.masked_array(X, X > 1)),
    Bad("masked array", R, ValueError, "y has masked values", y=np.ma.masked_array(Y, Y > 1)),
    Bad("masked array", C, ValueError,
        "y has masked values", y=np.ma.masked_array(LABELS, LABELS > 1)),
    Bad("numpy.matrix", C, TypeError, r"numpy\.matrix", np.asmatrix(X)),
    Bad("X too large for the dtype", C, ValueError, "too large for float32", put(X, (1, 1), 1e300),
        settings={"dtype": "float32"}),
    Bad("y near the largest number", R, ValueError,
        r"y reaches 1e\+300: scale it", y=BIG, settings={"solver": "adam"}),
    Bad("y near the largest number", R, ValueError,
        "line search", y=BIG, settings={"solver": "lbfgs"}),
    *[Bad("batch_size 0, -1, 2.5", C, ValueError,
        "batch_size", settings={"batch_size": b}) for b in (0, -1, 2.5)],
    Bad("batch_size True", C, TypeError,
        "batch_size must be .* got True", settings={"batch_size": True}),
    *[Bad(f"learning rate {rate}", C, ValueError, "learning_rate_init",
          settings={"learning_rate_init": rate}) for rate in (0.0, -1.0, np.nan, np.inf)],
    Bad("learning rate too large", R, ValueError,
        r"Lower learning_rate_init \(now 1e\+06\), or set clip_norm",
        settings={"solver": "sgd", "learning_rate_init": 1e6, "max_iter": 50}),
    Bad("text as a number", C, ValueError,
        "learning_rate_init", settings={"learning_rate_init": "0.1"}),
    Bad("layer of 0 units", C, ValueError,
        "hidden_layer_sizes must be > 0", settings={"hidden_layer_sizes": (4, 0)}),
    Bad("layer of -1 or 2.5 units", C, ValueError,
        "hidden_layer_sizes must be > 0", settings={"hidden_layer_sizes": (-1,)}),
    Bad("layer of -1 or 2.5 units", C, TypeError, "hidden_layer_sizes must hold integers, got 2.5",
        settings={"hidden_layer_sizes": (2.5,)}),
    Bad("layer of 10^12 units", C, OutOfMemoryError,
        "bytes", settings={"hidden_layer_sizes": (10**12,)}),
    *[Bad("an unknown name", C, ValueError, name, settings={name: value})
      for name in ("activation", "solver", "learning_rate") for value in ("none such", None)],
    Bad("an unknown name", R, ValueError, "loss", settings={"loss": "none such"}),
    *[Bad("out of range", C, ValueError, name, settings={name: value}) for name, value in {
        "max_iter": 0, "alpha": -1.0, "momentum": 1.5, "validation_fraction": 1.0, "beta_1": 1.0,
        "dropout": 1.0, "clip_norm": 0.0, "max_time": 0.0, "weight_decay": -1.0, "tol": -1.0,
      }.items()],
    *[Bad("seed 'x', -1", C, ValueError,
        "random_state", settings={"random_state": s}) for s in ("x", -1)],
    Bad("a share that leaves no rows", C, ValueError, "too few", X[:2], ["a", "b"],
        settings={"early_stopping": True}),
    Bad("a share that leaves no rows", R, ValueError, "validation set is too small", X[:3], Y[:3],
        settings={"early_stopping": True}),
    Bad("sample_weight", C, ValueError,
        r"sample_weight must have the shape \(40,\)", weights=np.ones(5)),
    Bad("sample_weight", C, ValueError, "zero", weights=np.zeros(N)),
    Bad("sample_weight", C, ValueError,
        "sample_weight contains NaN", weights=put(np.ones(N), 3, np.nan)),
    Bad("negative sample_weight", R, ValueError, "sample_weight has a negative value, -1 at row 3",
        weights=put(np.ones(N), 3, -1)),
    Bad("no GPU", C, BackendError, "unknown backend 'gpx'", settings={"device": "gpx"}),
    Bad("no GPU", C, BackendError,
        "torch:cuda:99.*cannot be used", settings={"device": "torch:cuda:99"}),
]  # fmt: skip


def contents(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


@pytest.mark.parametrize("bad", BAD, ids=lambda b: f"{b.what}-{b.kind.__name__}")
def test_bad_input(bad: Bad) -> None:
    est = small(bad.kind, **bad.settings)
    before = [contents(a) for a in (bad.X, bad.target, bad.weights)]
    with pytest.raises(bad.error, match=bad.says):
        est.fit(bad.X, bad.target, bad.weights)
    assert [contents(a) for a in (bad.X, bad.target, bad.weights)] == before


ON_A_DEVICE = {
    "X and y of different lengths": r"y has 5 row\(s\), but X has 40",
    "X is 3-D": r"X must be 2-D.*\(40, 3, 1\)",
    "X has no rows": r"X has 0 row\(s\)",
    "y is 3-D": r"y must have the shape .*\(40, 1, 1\)",
}
"""Messages that are our own where scikit-learn's validation is not asked."""


def held(array: Any) -> bool:
    """Whether a tensor can hold it."""
    return type(array) is np.ndarray and array.dtype.kind in "biufc"


HELD_BY_TORCH = [
    b for b in BAD
    if isinstance(b.X, np.ndarray) and b.X.dtype.kind in "fc" and not b.settings
    and type(b.X) is np.ndarray and b.weights is None and held(b.target)
]  # fmt: skip


@pytest.mark.parametrize("bad", HELD_BY_TORCH, ids=lambda b: f"{b.what}-{b.kind.__name__}")
def test_bad_input_on_a_device(bad: Bad) -> None:
    says = ON_A_DEVICE.get(bad.what, bad.says)
    with pytest.raises(ValueError, match=says):
        small(bad.kind).fit(torch.tensor(bad.X), torch.tensor(bad.target))


def test_y_is_needed() -> None:
    for kind in (C, R):
        for given in (X, torch.tensor(X)):
            with pytest.raises(ValueError, match="requires y to be passed"):
                small(kind).fit(given, None)


# --- what is accepted, and what it means ----------------------------------------------------------


class Good(NamedTuple):
    """Input that trains to the same numbers as plain arrays."""

    what: str
    X: Any
    plain: Any = X


POSITIVE = np.abs(np.round(100 * X))
GOOD = [
    Good("lists", X.tolist()),
    Good("int64", POSITIVE.astype("int64"), POSITIVE),
    Good("uint8", (POSITIVE % 200).astype("uint8"), POSITIVE % 200),
    Good("booleans", X > 0, (X > 0).astype(float)),
    Good("long double", X.astype("longdouble")),
    Good("objects", X.astype(object)),
    Good("nothing masked", np.ma.masked_array(X)),
    Good("Fortran order", np.asfortranarray(X)),
    Good("rows reversed", X[::-1].copy()[::-1]),
    Good("columns reversed", X[:, ::-1].copy()[:, ::-1]),
    Good("big-endian", X.astype(">f8")),
]


@pytest.mark.parametrize("good", GOOD, ids=lambda g: g.what)
@pytest.mark.parametrize("kind", [C, R])
def test_the_same_numbers_in_another_form(good: Good, kind: Any) -> None:
    y = LABELS if kind is C else Y
    est, plain = small(kind).fit(good.X, y), small(kind).fit(good.plain, y)
    assert all(np.array_equal(a, b) for a, b in zip(est.coefs_, plain.coefs_, strict=True))
    # Bits but for negative strides, which NumPy before 2.3 multiplies without its BLAS.
    found, expected = est.predict(good.X), plain.predict(good.plain)
    np.testing.assert_allclose(found, expected, rtol=1e-13 if "reversed" in good.what else 0)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "coo_matrix", "csr_array"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse(form: str, solver: str) -> None:
    sparse = getattr(scipy.sparse, form)(np.where(X > 0, X, 0))
    est = small(C, solver=solver).fit(sparse, LABELS)
    dense = small(C, solver=solver).fit(sparse.toarray(), LABELS)
    for a, b in zip(est.coefs_, dense.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    np.testing.assert_allclose(est.predict_proba(sparse), dense.predict_proba(sparse), rtol=1e-9)


def test_one_row() -> None:
    assert small(R).fit(X[:1], Y[:1]).predict(X[:1]).shape == (1,)


def test_a_column_of_labels() -> None:
    with pytest.warns(DataConversionWarning, match="column-vector"):
        est = small(C).fit(X, LABELS[:, None])
    assert est.predict(X).shape == (N,)


def test_one_class() -> None:  # scikit-learn's checks want it; one column, not two
    est = small(C).fit(X, np.ones(N))
    assert np.array_equal(est.predict_proba(X), np.ones((N, 1)))
    assert (est.predict(X) == 1).all()


@pytest.mark.parametrize(
    "y",
    [
        np.array(["a", "bb", "c"])[LABELS],
        LABELS == 0,
        (LABELS - 1).astype("int8"),
        (LABELS * 127).astype("uint8"),
    ],
)
def test_kinds_of_labels(y: Any) -> None:
    est = small(C, max_iter=200, learning_rate_init=0.1).fit(np.eye(3)[LABELS], y)
    assert np.array_equal(est.predict(np.eye(3)[LABELS]), y)
    assert est.predict(X).dtype == y.dtype


def test_many_classes_in_a_small_type() -> None:
    y = np.repeat(np.arange(300, dtype="uint16"), 2)
    est = small(C, hidden_layer_sizes=()).fit(np.eye(300)[y], y)
    assert np.array_equal(est.classes_, np.arange(300))
    assert est.predict_proba(np.eye(300)[:2]).shape == (2, 300)


def test_integers_beyond_the_exact_ones() -> None:
    big = np.full((N, 1), 2**53 + 1)
    with pytest.warns(UserWarning, match=r"X has integers such as 9007199254740993 that float64"):
        small(R, learning_rate_init=1e-30).fit(big, Y)


def test_half_precision_is_computed_in_float32() -> None:
    est = small(C).fit(torch.tensor(X).half(), torch.tensor(LABELS))
    assert est.coefs_[0].dtype == torch.float32
    assert (
        small(C).fit(X.astype("float16"), LABELS).coefs_[0].dtype == np.float64
    )  # as scikit-learn


def test_views_and_read_only_arrays(tmp_path: Path) -> None:
    wide = np.broadcast_to(X[:, :1], (N, 3))
    assert np.isfinite(small(C).fit(wide, LABELS).loss_)
    np.save(tmp_path / "x.npy", X)
    for given in (X.copy(), np.load(tmp_path / "x.npy", mmap_mode="r")):
        given.flags.writeable = False
        small(C).fit(given, LABELS).predict(given)
        assert given.tobytes() == X.tobytes()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_constant_and_denormal_features(solver: str) -> None:
    for features in (np.ones((N, 3)), np.full((N, 3), 5e-324)):
        assert np.isfinite(small(C, solver=solver).fit(features, LABELS).predict_proba(X)).all()


def test_a_batch_beyond_the_rows() -> None:
    with pytest.warns(UserWarning, match="larger than sample size"):
        est = small(C, batch_size=N + 1).fit(X, LABELS)
    same = small(C, batch_size=N).fit(X, LABELS)
    assert np.array_equal(est.coefs_[0], same.coefs_[0])


def test_no_hidden_layer_is_a_linear_model() -> None:
    est = small(R, hidden_layer_sizes=(), solver="lbfgs", max_iter=200, alpha=0.0, tol=1e-10)
    est.fit(X, Y)
    np.testing.assert_allclose(est.coefs_[0][:, 0], [1, 0, 0], atol=1e-5)


# --- partial_fit, predict, warm_start -------------------------------------------------------------


def test_labels_of_partial_fit() -> None:
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        small(C).partial_fit(X, LABELS)
    est = small(C).partial_fit(X, LABELS, classes=[0, 1, 2])
    with pytest.raises(ValueError, match=r"classes not in.*\[0 1 2\]"):
        est.partial_fit(X, put(LABELS, 3, 7))
    with pytest.raises(ValueError, match="not the same as on last call"):
        est.partial_fit(X, LABELS, classes=[0, 1, 2, 3])


PREDICT: dict[str, tuple[Any, str]] = {
    "1-D": (X[:, 0], "Expected 2D array"),
    "another width": (X[:, :2], "X has 2 features, but MLPClassifier is expecting 3 features"),
    "no rows": (X[:0], r"0 (sample|row)\(s\)"),
    "NaN": (put(X, (1, 1), np.nan), "contains NaN"),
    "one row as 1-D": (X[0], r"reshape\(1, -1\)"),
}


@pytest.mark.parametrize(("given", "says"), PREDICT.values(), ids=PREDICT)
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "transform"])
def test_bad_input_to_predict(
    given: Any, says: str, convert: Callable[[Any], Any], method: str
) -> None:
    est = small(C).fit(convert(X), convert(LABELS))
    with pytest.raises(ValueError, match=says):
        getattr(est, method)(convert(given))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "transform", "to"])
def test_nothing_without_fit(method: str) -> None:
    for given in (X, torch.tensor(X)):
        with pytest.raises(NotFittedError):
            getattr(small(C), method)("numpy" if method == "to" else given)


def test_warm_start_with_other_layers() -> None:
    est = small(C, warm_start=True).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"layers of \[3, 4, 3\] units.*ask for \[3, 5, 3\]"):
        est.set_params(hidden_layer_sizes=(5,)).fit(X, LABELS)
    with pytest.raises(ValueError, match="same classes as in the previous call"):
        est.set_params(hidden_layer_sizes=(4,)).fit(X, LABELS % 2)
    reg = small(R, warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"2 output\(s\), but the network has 1"):
        reg.fit(X, X[:, :2])


def test_unknown_parameter() -> None:
    with pytest.raises(ValueError, match="Invalid parameter 'layers'"):
        small(C).set_params(layers=3)


# --- devices --------------------------------------------------------------------------------------


def test_labels_of_another_library_are_moved_and_features_are_not() -> None:
    est = small(C).fit(X, torch.tensor(LABELS))
    with pytest.raises(ValueError, match=r"model is on numpy, X on torch.*to\('torch'\)"):
        est.predict(torch.tensor(X))


def test_a_tensor_that_requires_a_gradient() -> None:
    given = torch.tensor(X, requires_grad=True)
    est = small(C).fit(given, LABELS)
    assert not est.predict_proba(given).requires_grad
    assert given.grad is None


def test_memory_runs_out_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from portable_bp import get_backend

    backend = type(get_backend("torch"))
    est = small(C, max_iter=20).fit(torch.tensor(X), LABELS)
    before, curve = est.n_iter_, list(est.loss_curve_)
    kept = [W.clone() for W in est.coefs_]

    def full(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(backend, "compile", full)
    with pytest.raises(OutOfMemoryError, match=r"batch_size|hidden_layer_sizes"):
        est.fit(torch.tensor(X), LABELS)
    assert all(torch.equal(a, b) for a, b in zip(est.coefs_, kept, strict=True))
    assert (est.n_iter_, est.loss_curve_) == (before, curve)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_iter": 1}, "Maximum iterations"),
        ({"max_iter": 1, "solver": "lbfgs"}, "lbfgs failed to converge"),
        ({"batch_size": 99}, "going to be clipped"),
    ],
)
def test_warnings_point_at_the_users_line(settings: dict[str, Any], says: str) -> None:
    est = small(C, **settings)
    with pytest.warns(UserWarning, match=says) as caught:
        est.fit(X, LABELS)
    assert [w.filename for w in caught if says in str(w.message)] == [__file__]


def test_an_exception_in_a_scorer_is_the_users() -> None:
    class OwnError(Exception):
        pass

    def scorer(*args: Any) -> float:
        raise OwnError

    with pytest.raises(OwnError):
        small(C, early_stopping=True, scoring=scorer).fit(X, LABELS % 2)


def test_predictions_in_several_threads() -> None:
    est = small(C).fit(X, LABELS)
    blocks = [RNG.normal(size=(N, 3)) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(est.predict_proba, blocks * 3))
    for block, p in zip(blocks * 3, found, strict=True):
        assert np.array_equal(p, est.predict_proba(block))


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", [C, R])
def test_seterr_raise_is_no_obstacle(solver: str, kind: Any) -> None:
    wild = 200 * X  # the logistic units underflow
    with np.errstate(all="raise"):
        est = small(kind, solver=solver, activation="logistic")
        est.fit(wild, LABELS if kind is C else Y).predict(wild)
        if kind is C:
            est.predict_log_proba(wild)


# --- data frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(library: str) -> None:
    frames = pytest.importorskip(library)
    names = ["a", "b", "c"]
    frame = frames.DataFrame(dict(zip(names, X.T, strict=True)))
    labels = frames.Series(np.array(["x", "y", "z"])[LABELS])
    est = small(C).fit(frame, labels)
    assert list(est.feature_names_in_) == names
    assert np.array_equal(est.coefs_[0], small(C).fit(X, LABELS).coefs_[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        est.predict(frame[["b", "a", "c"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        est.predict(X)


def test_data_frames_with_what_is_no_number() -> None:
    pandas = pytest.importorskip("pandas")
    kinds = pandas.DataFrame({"a": X[:, 0], "b": pandas.Categorical(["x", "y"] * 20)})
    with pytest.raises(ValueError, match=r"X\['b'\]"):
        small(C).fit(kinds, LABELS)
    missing = pandas.DataFrame({"a": pandas.array([1, None] * 20, dtype="Int64")})
    with pytest.raises(ValueError, match=r"NaN|missing"):
        small(C).fit(missing, LABELS)
    days = pandas.DataFrame({"day": pandas.date_range("2020", periods=N)})
    with pytest.raises(TypeError, match=r"X\['day'\] has the dtype datetime"):
        small(C).fit(days, LABELS)
