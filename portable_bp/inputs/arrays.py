"""The one gate for host data: numbers, or class labels, as a NumPy array.

Whatever the container: text is not parsed, dates are not counted, nothing missing is filled in, and a
large whole number stays whole.
"""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.inputs import checks, containers

_DATES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)


def sparse_rows(name: str, matrix: Any) -> Any:
    """A sparse matrix of SciPy as rows (CSR) of finite real numbers.

    Raises
    ------
    ValueError, TypeError
        For complex numbers, other objects, and values that are not finite.
    """
    csr = matrix.tocsr()
    if csr.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has the dtype {csr.dtype}")
    if csr.dtype.kind not in "biuf":
        raise TypeError(f"{name} has the dtype {csr.dtype}; convert it to numbers first")
    bad = np.flatnonzero(~np.isfinite(csr.data))
    if len(bad):
        kind = "NaN" if np.isnan(csr.data[bad[0]]) else "infinity"
        row = int(np.searchsorted(csr.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"Input {name} contains {kind}: {len(bad)} value(s) are not finite, the first at row "
            f"{row}, column {int(csr.indices[bad[0]])}; fill or drop them first"
        )
    return csr


def numbers(name: str, values: Any) -> HostArray:
    """``values`` as an array of real numbers; ``name``: what errors call them.

    Raises
    ------
    ValueError, TypeError
        For text, dates, missing or masked values, complex numbers, sparse matrices, nested columns
        and whatever is no array at all.
    """
    if not containers.is_frame(values):
        return _judged_numbers(name, containers.to_array(name, values))
    return _stacked(
        values, [_judged_numbers(n, containers.to_array(n, c)) for n, c in _named(name, values)]
    )


def labels(name: str, values: Any) -> HostArray:
    """``values`` as class labels: integers, floats, booleans, or text (in a list: ``str``).

    Raises
    ------
    ValueError, TypeError
        For missing labels, labels of several kinds, dates, bytes, and objects that are no labels.
    """
    if containers.is_frame(values):
        columns = [_judged_labels(n, containers.to_array(n, c)) for n, c in _named(name, values)]
        return _stacked(values, columns)
    array = containers.to_array(name, values)
    if isinstance(values, list | tuple) and array.dtype.kind in "biufSU":
        array = _as_they_were(array, values)
    return _judged_labels(name, array)


def _named(name: str, frame: Any) -> list[tuple[str, Any]]:
    names = containers.column_names(frame)
    columns = containers.columns(frame)
    return [(f"{name}[{n!r}]", column) for n, column in zip(names, columns, strict=True)]


def _stacked(frame: Any, columns: list[HostArray]) -> HostArray:
    """The columns of a table side by side, in the dtype that holds them all."""
    if not columns:
        return np.empty(tuple(frame.shape))
    dtype = np.result_type(*(c.dtype for c in columns))
    if dtype.kind == "f":
        names = containers.column_names(frame)
        for name, column in zip(names, columns, strict=True):
            checks.warn_if_rounded(f"column {name!r}", column, dtype.name)
    return np.stack([c.astype(dtype, copy=False) for c in columns], axis=1)


# --- numbers --------------------------------------------------------------------------------------


def _judged_numbers(name: str, array: HostArray) -> HostArray:
    if array.dtype.kind == "O":
        array = _numbers_of_objects(name, array)
    kind = array.dtype.kind
    if kind == "c":
        raise _complex(name, array.dtype)
    if kind in "mMV":
        raise TypeError(f"{name} has the dtype {array.dtype}; convert it to numbers first")
    if kind not in "biuf":
        raise ValueError(f"{name} holds text ({array.dtype}); convert it to numbers first")
    return array


def _numbers_of_objects(name: str, array: HostArray) -> HostArray:
    for value in array.flat:
        if is_missing(value):
            raise ValueError(f"{name} has missing values ({value!r}); fill or drop them first")
        if isinstance(value, str | bytes):
            raise ValueError(f"{name} holds text such as {value!r}; convert it to numbers first")
        if isinstance(value, complex | np.complexfloating):
            raise _complex(name, type(value).__name__)
        if isinstance(value, _DATES):
            raise TypeError(f"{name} holds dates such as {value!r}; convert it to numbers first")
    if array.size and all(isinstance(v, int | np.integer) for v in array.flat):
        for dtype in ("int64", "uint64"):
            if all(np.iinfo(dtype).min <= v <= np.iinfo(dtype).max for v in array.flat):
                return array.astype(dtype)
    try:
        return array.astype(np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in array.flat}))
        failure = ValueError if isinstance(error, OverflowError) else type(error)
        raise failure(
            f"{name} holds Python objects ({kinds}) that are not numbers ({error}); pass an array"
        ) from None


def _complex(name: str, dtype: Any) -> ValueError:
    return ValueError(f"Complex data not supported: {name} has the dtype {dtype}")


def is_missing(value: Any) -> bool:
    """Whether ``value`` stands for nothing: None, pandas' NA or NaT, NumPy's NaT.

    >>> is_missing(None), is_missing(np.datetime64("NaT")), is_missing(float("nan"))
    (True, True, False)
    """
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")


# --- labels ---------------------------------------------------------------------------------------


def _judged_labels(name: str, array: HostArray) -> HostArray:
    kind = array.dtype.kind
    if kind in "biufU":
        return array
    if kind == "c":
        raise _complex(name, array.dtype)
    if kind in "mMV":
        raise TypeError(
            f"{name} has the dtype {array.dtype}; as labels pass text, integers or booleans"
        )
    if kind == "S":
        raise TypeError(f"{name} holds bytes ({array.dtype}); decode them to text first")
    return _labels_of_objects(name, array.astype(object))


def _labels_of_objects(name: str, array: HostArray) -> HostArray:
    kinds = set()
    for value in array.flat:
        if is_missing(value) or (isinstance(value, float | np.floating) and np.isnan(value)):
            raise ValueError(f"{name} has missing labels ({value!r}); fill or drop them first")
        kinds.add(_kind_of_label(value))
    _refuse_several_kinds(name, kinds)
    if kinds == {"text"} or not kinds:
        return array
    if kinds == {"bool"}:
        return array.astype(bool)
    if kinds <= {"int", "float"}:
        return _judged_numbers(name, array)
    raise TypeError(
        f"{name} holds objects of the type {kinds.pop()}; as labels pass text, integers or booleans"
    )


def _as_they_were(array: HostArray, values: Any) -> HostArray:
    """NumPy makes one type of a list: where it had several, its entries as they are."""
    if array.ndim == 1 and len(set(map(type, values))) == 1:
        return array
    objects = np.array(values, dtype=object)
    kinds = {_kind_of_label(value) for value in objects.flat}
    return array if len(kinds) <= 1 or kinds == {"int", "float"} else objects


def _refuse_several_kinds(name: str, kinds: set[str]) -> None:
    if len(kinds) > 1 and kinds != {"int", "float"}:
        raise ValueError(
            f"{name} mixes labels of the types {', '.join(sorted(kinds))}; use one type for all"
        )


def _kind_of_label(value: Any) -> str:
    for kind, types in (
        ("text", str), ("bool", bool | np.bool_), ("int", int | np.integer),
        ("float", float | np.floating),
    ):  # fmt: skip
        if isinstance(value, types):
            return kind
    return type(value).__name__
