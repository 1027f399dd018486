"""What the estimators accept: host data by scikit-learn's own validation, device arrays by the same
rules where they live, and clear refusals where scikit-learn is silently wrong."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
from sklearn import get_config
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_X_y, column_or_1d, validate_data

from portable_bp._typing import HostArray
from portable_bp._warnings import warn
from portable_bp.backend import Backend
from portable_bp.inputs import arrays, checks, containers
from portable_bp.inputs.transfer import dtype_name, to_host

_FLOATS = (np.float64, np.float32)


def host_features(est: Any, X: Any, *, reset: bool) -> Any:
    """X from the host's memory: a float ndarray, or CSR when it is sparse."""
    array = _numbers("X", X)
    array = check_array(
        array, accept_sparse=["csr", "csc"], dtype=_FLOATS, estimator=est, input_name="X"
    )
    _check_names(est, X, array, reset=reset)
    return _as_csr(array)


def host_features_and_targets(
    est: Any, X: Any, y: Any, *, reset: bool, numeric: bool
) -> tuple[Any, HostArray]:
    """X and y from the host's memory, of the same length; y (n,) or (n, k)."""
    array = _numbers("X", X)
    y = targets(y, numeric=numeric)
    array, y = check_X_y(
        array, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=numeric, dtype=_FLOATS,
        estimator=est,
    )  # fmt: skip
    _check_names(est, X, array, reset=reset)
    return _as_csr(array), _one_column(y)


def _numbers(name: str, values: Any) -> Any:
    """Numbers through the gate; SciPy's sparse matrices, and tables of sparse columns, stay sparse."""
    if _all_sparse(values):
        values = values.sparse.to_coo()
    if scipy.sparse.issparse(values):
        return values
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise TypeError(
            f"{name} is a sparse matrix of a device library ({type(values).__name__}), which cannot "
            f"be trained on; pass {name}.toarray(), or {name}.get() to train from the host's CSR"
        )
    array = arrays.numbers(name, values)
    checks.warn_if_rounded(name, array, "float64")
    return array


def targets(y: Any, *, numeric: bool, name: str = "y") -> Any:
    """Targets of any library, on the host; sparse labels and None are left to scikit-learn."""
    y = to_host(y)
    if y is None or scipy.sparse.issparse(y):
        return y
    return _numbers(name, y) if numeric else arrays.labels(name, y)


def _all_sparse(values: Any) -> bool:
    """Whether this is a pandas table whose columns are all sparse."""
    if containers.library_of(values) != "pandas" or not containers.is_frame(values):
        return False
    kinds = [type(dtype).__name__ for dtype in values.dtypes]
    return bool(kinds) and set(kinds) == {"SparseDtype"}


def _as_csr(array: Any) -> Any:
    return array.tocsr() if scipy.sparse.issparse(array) else array


def _check_names(est: Any, X: Any, array: Any, *, reset: bool) -> None:
    """Learn, or compare, the number of features and the names of a table's columns."""
    named = X if containers.is_frame(X) else array
    validate_data(est, named, y="no_validation", reset=reset, skip_check_array=True)


def device_features(est: Any, X: Any, backend: Backend, *, reset: bool) -> Any:
    """X on its device: 2-D, real, finite (one read of the device), of the fitted width."""
    name = type(est).__name__
    checks.matrix("X", tuple(X.shape), None)
    width = X.shape[1]
    if reset:
        est.n_features_in_ = width
        vars(est).pop("feature_names_in_", None)
    else:
        if hasattr(est, "feature_names_in_"):
            warn(
                f"X does not have valid feature names, but {name} was fitted with feature names",
            )
        if width != getattr(est, "n_features_in_", width):
            raise ValueError(
                f"X has {width} features, but {name} is expecting {est.n_features_in_} features as "
                "input."
            )
        est.__dict__.setdefault("n_features_in_", width)
    _real(X, backend, "X")
    _finite(X, backend, "X")
    return X


def device_targets(y: Any, n: int, backend: Backend) -> Any:
    """Real-valued targets that live where X does: (n,) or (n, k), finite."""
    if y.ndim not in (1, 2):
        raise ValueError(f"y must have the shape ({n},) or ({n}, outputs), got {tuple(y.shape)}")
    checks.same_length("y", y.shape[0], n)
    _real(y, backend, "y")
    _finite(y, backend, "y")
    if y.ndim == 2 and y.shape[1] == 1:
        _column_warning()
        y = y[:, 0]
    return y


def host_targets(est: Any, y: Any, n: int, *, numeric: bool, name: str = "y") -> HostArray:
    """Targets from the host's memory for an X that is somewhere else; ``name``: what errors call y."""
    if y is None:
        raise ValueError(
            f"This {type(est).__name__} estimator requires y to be passed, but the target y is None."
        )
    y = targets(y, numeric=numeric, name=name)
    y = validate_data(est, y=y, multi_output=True, y_numeric=numeric, reset=False)
    checks.same_length(name, y.shape[0], n)
    return _one_column(y)


def float_dtype(X: Any, backend: Backend) -> str:
    """The name of the float dtype that X has, or is brought to: float64 where the device has it."""
    name = dtype_name(X)
    if name in ("float32", "float64"):
        return name
    if name in ("float16", "bfloat16"):
        return "float32"
    return backend.widest_float


def sample_weights(values: Any, n: int, name: str = "sample_weight") -> HostArray | None:
    """Weights as float64 on the host, shape (n,): finite, not negative, not all zero."""
    if values is None:
        return None
    if isinstance(values, numbers.Number):
        values = np.full(n, values)
    return checks.sample_weight(arrays.numbers(name, to_host(values)), n, name)


def classification_labels(y: HostArray) -> None:
    """Refuse what cannot be labels."""
    check_classification_targets(y)


def _one_column(y: HostArray) -> HostArray:
    if y.ndim == 2 and y.shape[1] == 1 and not scipy.sparse.issparse(y):
        y = column_or_1d(y, warn=True)
    return y


def _column_warning() -> None:
    warn(
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
        "(n_samples, ), for example using ravel().",
        DataConversionWarning,
    )


def _real(array: Any, backend: Backend, name: str) -> None:
    if backend.xp.isdtype(array.dtype, "complex floating"):
        raise ValueError(f"Complex data not supported: {name} has the dtype {dtype_name(array)}")


def _finite(array: Any, backend: Backend, name: str) -> None:
    if get_config()["assume_finite"] or not backend.xp.isdtype(array.dtype, "real floating"):
        return
    with backend.scope():
        if not bool(backend.to_numpy(backend.xp.all(backend.xp.isfinite(array)))):
            checks.finite(name, backend.to_numpy(array).astype(np.float64))


def layer_sizes(value: Any) -> list[int]:
    """``hidden_layer_sizes`` as a list of positive integers."""
    sizes = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, numbers.Integral):
            raise TypeError(f"hidden_layer_sizes must hold integers, got {size!r} in {value!r}")
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def batch_rows(batch_size: Any, n: int) -> int:
    """Rows of a mini-batch: at most all of them; ``"auto"`` is 200."""
    if batch_size == "auto":
        return min(200, n)
    if batch_size > n:
        warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
        )
    return min(int(batch_size), n)
