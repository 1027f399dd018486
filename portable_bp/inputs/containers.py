"""Host containers of every library as NumPy arrays of what they hold: nothing is parsed or guessed.

Text stays text and a missing entry stays missing, so that :mod:`portable_bp.inputs.arrays` can judge
a list, a NumPy array and a column of pandas, polars or Arrow by the same rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Number
from typing import Any

import numpy as np

from portable_bp._scalars import shown
from portable_bp._typing import HostArray

NAMES_OF_FRAMES = {"pandas": "columns", "polars": "columns", "pyarrow": "column_names"}
"""By library, the attribute of a table that holds the names of its columns."""


_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")
"""By any of these NumPy takes an object as an array."""


def library_of(values: Any) -> str:
    """``"pandas"``, ``"polars"`` or ``"pyarrow"`` for their containers, else nothing."""
    for kind in type(values).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in NAMES_OF_FRAMES:
            return package
    return ""


def is_frame(values: Any) -> bool:
    """Whether ``values`` is a table of one of these libraries."""
    return bool(library_of(values)) and len(getattr(values, "shape", ())) == 2


def column_names(frame: Any) -> list[Any]:
    """The names of a table's columns."""
    return list(getattr(frame, NAMES_OF_FRAMES[library_of(frame)]))


def columns(frame: Any) -> list[Any]:
    """The columns of a table, in order."""
    if library_of(frame) == "pandas":
        return [frame.iloc[:, i] for i in range(frame.shape[1])]
    return list(frame.get_columns() if library_of(frame) == "polars" else frame.columns)


def to_array(name: str, values: Any) -> HostArray:
    """``values``, or one column of a table, as a NumPy array of its own kind.

    Raises
    ------
    TypeError
        For what holds no array of single values: nested columns, dates that are no NumPy dates,
        generators, data sets, paths.
    ValueError
        For masked values and rows of several lengths.
    """
    convert = {"pandas": _pandas, "polars": _polars, "pyarrow": _arrow}.get(library_of(values))
    return _array_like(name, values) if convert is None else convert(name, values)


def is_sparse(values: Any) -> bool:
    """Whether it is a sparse matrix of SciPy."""
    return hasattr(values, "tocsr") and type(values).__module__.startswith("scipy.sparse")


def refuse_sparse(name: str, values: Any) -> None:
    """Refuse sparse matrices, SciPy's and those of the device libraries."""
    kind = type(values).__name__
    if getattr(values, "is_sparse", False) or getattr(values, "is_sparse_csr", False):
        raise TypeError(f"{name} is a sparse tensor; call its to_dense() first")
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise TypeError(f"{name} is a sparse matrix ({kind}); call its toarray() first")
    if hasattr(values, "todense") and not isinstance(values, np.ndarray):
        raise TypeError(f"{name} is a sparse matrix ({kind}); call its todense() first")


def _no_numbers(name: str, dtype: Any) -> TypeError:
    return TypeError(f"{name} has the dtype {dtype}; convert it to numbers first")


def _objects(values: Sequence[Any]) -> HostArray:
    """A vector of Python objects."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


# --- pandas, polars, Arrow ------------------------------------------------------------------------


def _pandas(name: str, values: Any) -> HostArray:
    """A Series, an Index or an extension array."""
    dtype = getattr(values, "dtype", None)
    if dtype is None or isinstance(dtype, np.dtype):
        return np.asarray(values)
    kind = type(dtype).__name__
    if kind == "CategoricalDtype":
        categorical = getattr(values, "array", values)
        categories, codes = _pandas(name, dtype.categories), np.asarray(categorical.codes)
        if (codes >= 0).all():
            return np.asarray(categories[codes])
        return _objects([None if c < 0 else categories[c] for c in codes])
    if kind == "ArrowDtype":
        return _arrow(name, getattr(values, "array", values).__arrow_array__())
    if kind in ("DatetimeTZDtype", "PeriodDtype", "IntervalDtype"):
        raise _no_numbers(name, dtype)
    plain = getattr(dtype, "numpy_dtype", None)
    if isinstance(plain, np.dtype) and not np.asarray(values.isna()).any():
        return np.asarray(values.to_numpy(dtype=plain))
    return np.asarray(values) if kind == "SparseDtype" else np.asarray(values.to_numpy(object))


def _polars(name: str, values: Any) -> HostArray:
    """A Series."""
    dtype = getattr(values, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name} is a polars {type(values).__name__}; call its collect() first")
    kind = str(dtype.base_type())
    if dtype.is_nested() or dtype.is_temporal():
        raise _no_numbers(name, dtype)
    if (dtype.is_numeric() or kind == "Boolean") and kind != "Decimal" and not values.null_count():
        return np.asarray(values.to_numpy())
    return _objects(values.to_list())


def _arrow(name: str, values: Any) -> HostArray:
    """An Array, a ChunkedArray or a Scalar."""
    import pyarrow as pa

    kinds = pa.types
    if isinstance(values, pa.ChunkedArray):
        chunks = [_arrow(name, chunk) for chunk in values.chunks or [pa.array([], values.type)]]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    if not isinstance(values, pa.Array):
        raise TypeError(f"{name} is a pyarrow {type(values).__name__}; pass an array or a table")
    dtype = values.type
    if isinstance(dtype, pa.BaseExtensionType):
        return _arrow(name, values.storage)
    if kinds.is_dictionary(dtype):
        return _arrow(name, values.dictionary_decode())
    if kinds.is_run_end_encoded(dtype):
        import pyarrow.compute

        return _arrow(name, pyarrow.compute.run_end_decode(values))
    if kinds.is_temporal(dtype) or kinds.is_nested(dtype):
        raise _no_numbers(name, dtype)
    number = kinds.is_integer(dtype) or kinds.is_floating(dtype) or kinds.is_boolean(dtype)
    if number and not values.null_count:
        return np.asarray(values.to_numpy(zero_copy_only=False))
    return _objects(values.to_pylist())


# --- everything else ------------------------------------------------------------------------------


def _array_like(name: str, values: Any) -> HostArray:
    if values is None:
        raise ValueError(f"{name} is None; an array of numbers is needed")
    refuse_sparse(name, values)
    if isinstance(values, np.matrix):
        raise TypeError(f"{name} is a numpy.matrix; pass it through numpy.asarray first")
    rows = values if isinstance(values, list | tuple) else [values]
    if any(isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row) for row in rows):
        raise ValueError(f"{name} has masked values; fill or drop them first")
    if isinstance(values, np.ndarray):
        return np.asarray(values)
    refuse_no_array(name, values)
    if hasattr(values, "__dlpack__") and not any(hasattr(values, p) for p in _PROTOCOLS):
        return _from_dlpack(name, values)
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} cannot be made a regular array (are its rows of one length?): {error}"
        ) from None


def _from_dlpack(name: str, values: Any) -> HostArray:
    """An array that is known by the protocol of exchange alone; it is read where it lies."""
    try:
        return np.from_dlpack(values)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is a {type(values).__name__}, whose DLPack memory NumPy cannot read ({error}); "
            "pass an array of a library that can, for example torch.from_dlpack(...)"
        ) from None


def refuse_no_array(name: str, values: Any) -> None:
    """Say what to pass instead of a path, a data set, a generator and the like."""
    known = (
        *_PROTOCOLS,
        "__dlpack__",
        "toarray",
        "todense",
    )  # sparse ones have an error of their own
    if any(hasattr(values, p) for p in known) or library_of(values):
        return
    kind = type(values)
    modules = {k.__module__ for k in kind.__mro__}
    if isinstance(values, str | bytes | os.PathLike):
        instead = "read the file first, for example with portable_bp.datasets.load"
        if "weight" in name:
            instead = "pass one number per row"
        raise TypeError(f"{name} is {shown(values)}, not an array: {instead}")
    if any(m.startswith(("torch.utils.data", "tensorflow.python.data")) for m in modules):
        instead = (
            "collect its batches first, for example X, y = map(torch.cat, zip(*loader)) for a "
            "DataLoader, or X, y = map(numpy.stack, zip(*dataset)) for a data set of single rows"
        )
    elif isinstance(values, Mapping):
        instead = "pass the columns as one array, or as a data frame: pandas.DataFrame(...)"
    elif isinstance(values, Set):
        instead = "a set has no order: pass a list or an array"
    elif isinstance(values, Iterator):
        instead = "its rows can be read only once: pass an array, numpy.stack(list(...))"
    elif values is None or isinstance(values, Number | Sequence) or _has_buffer(values):
        return
    else:
        instead = "pass an array, a list of rows or a data frame"
    raise TypeError(f"{name} is a {kind.__name__}, not an array: {instead}")


def _has_buffer(values: Any) -> bool:
    try:
        memoryview(values)
    except TypeError:
        return False
    return True
