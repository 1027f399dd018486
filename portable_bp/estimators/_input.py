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
from sklearn.utils.validation import column_or_1d, validate_data

from portable_bp._typing import HostArray
from portable_bp.backend import Backend
from portable_bp.estimators._place import has_dtype
from portable_bp.estimators._warn import warn
from portable_bp.inputs import checks
from portable_bp.inputs.transfer import dtype_name, to_host

EXACT = 2**53
"""Integers up to this are exact in float64."""


def host_features(est: Any, X: Any, *, reset: bool) -> Any:
    """X from the host's memory: a float ndarray, or CSR when it is sparse."""
    X = _no_surprises(X)
    X = validate_data(est, X, accept_sparse=["csr", "csc"], dtype=_FLOATS, reset=reset)
    return X.tocsr() if scipy.sparse.issparse(X) else X


def host_features_and_targets(
    est: Any, X: Any, y: Any, *, reset: bool, numeric: bool
) -> tuple[Any, HostArray]:
    """X and y from the host's memory, of the same length; y (n,) or (n, k)."""
    X = _no_surprises(X)
    y = _no_surprises(y, "y") if numeric else _plain_labels(y)
    X, y = validate_data(
        est, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=numeric,
        dtype=_FLOATS, reset=reset,
    )  # fmt: skip
    return (X.tocsr() if scipy.sparse.issparse(X) else X), _one_column(y)


_FLOATS = (np.float64, np.float32)


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


def host_targets(est: Any, y: Any, n: int, *, numeric: bool) -> HostArray:
    """Targets from the host's memory for an X that is somewhere else."""
    if y is None:
        raise ValueError(
            f"This {type(est).__name__} estimator requires y to be passed, but the target y is None."
        )
    y = _no_surprises(y, "y") if numeric else _plain_labels(y)
    y = validate_data(est, y=y, multi_output=True, y_numeric=numeric, reset=False)
    checks.same_length("y", y.shape[0], n)
    return _one_column(y)


def float_dtype(X: Any, backend: Backend) -> str:
    """The name of the float dtype that X has, or is brought to: float64 where the device has it."""
    name = dtype_name(X)
    if name in ("float32", "float64"):
        return name
    if name in ("float16", "bfloat16"):
        return "float32"
    return "float64" if has_dtype(backend, "float64") else "float32"


def sample_weights(values: Any, n: int) -> HostArray | None:
    """Weights as float64 on the host, shape (n,): finite, not negative, not all zero."""
    if values is None:
        return None
    if isinstance(values, numbers.Number):
        values = np.full(n, values)
    return checks.sample_weight(to_host(values), n)


def classification_labels(y: HostArray) -> None:
    """Refuse what cannot be labels."""
    check_classification_targets(y)


def _no_surprises(X: Any, name: str = "X") -> Any:
    """Refuse what scikit-learn takes without a word and gets wrong; X as it is, lists as arrays."""
    if isinstance(X, list | tuple):
        try:
            X = np.asarray(X)
        except ValueError as error:
            raise ValueError(
                f"{name} is not a regular array (are its rows of one length?): {error}"
            ) from None
    if hasattr(X, "toarray") and not scipy.sparse.issparse(X):
        raise TypeError(
            f"{name} is a sparse matrix of a device library ({type(X).__name__}), which cannot be "
            f"trained on; pass {name}.toarray(), or {name}.get() to train from the host's CSR"
        )
    if isinstance(X, np.ma.MaskedArray):
        if np.ma.is_masked(X):
            raise ValueError(f"{name} has masked values; fill or drop them first")
        X = X.data
    if isinstance(X, np.ndarray):
        _plain_numbers(name, X)
    elif hasattr(X, "columns") and hasattr(X, "dtypes"):
        for column, dtype in zip(X.columns, list(X.dtypes), strict=True):
            if str(dtype).lower().startswith(("object", "str", "utf8", "cat", "enum")):
                _plain_numbers(f"{name}[{column!r}]", np.asarray(X[column]))
            elif str(dtype).lower().startswith(("date", "time", "duration")):
                raise TypeError(f"{name}[{column!r}] holds {dtype}; convert it to numbers first")
    return X


def _plain_numbers(name: str, array: HostArray) -> None:
    if array.dtype.kind in "US":
        raise ValueError(f"{name} holds text ({array.dtype}); convert it to numbers first")
    if array.dtype.kind in "mM":
        raise TypeError(f"{name} has the dtype {array.dtype}; convert it to numbers first")
    if array.dtype.kind == "O":
        for value in array.flat:
            if isinstance(value, str | bytes):
                raise ValueError(
                    f"{name} holds text such as {value!r}; convert it to numbers first"
                )
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.size:
        largest = max(abs(int(array.max())), abs(int(array.min())))
        if largest > EXACT:
            warn(
                f"{name} has integers such as {largest} that float64 does not hold exactly; they "
                "were rounded",
            )


def _plain_labels(y: Any) -> Any:
    """Refuse labels that are missing or of kinds that cannot be sorted together."""
    if y is None or scipy.sparse.issparse(y):
        return y
    if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
        raise ValueError("y has masked values; fill or drop them first")
    array = y if isinstance(y, np.ndarray) else None
    if isinstance(y, list | tuple) and any(value is None or isinstance(value, str) for value in y):
        array = np.array(y, dtype=object)
    if array is None or array.dtype.kind != "O":
        return y
    kinds = set()
    for value in array.flat:
        if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
            raise ValueError(f"y has missing labels ({value!r}); fill or drop them first")
        kinds.add("text" if isinstance(value, str) else type(value).__name__)
    if "text" in kinds and len(kinds) > 1:
        raise ValueError(
            f"y mixes labels of the types {', '.join(sorted(kinds))}; use one type for all"
        )
    return y


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
        raise ValueError(f"{name} is complex; only real numbers can be learnt from")


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
