"""A table: named columns of one length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from portable_bp._typing import HostArray


class DataError(ValueError):
    """A file or table cannot be learnt from; the message says what and where."""


@dataclass(frozen=True)
class Table:
    """Named columns of one length.

    Attributes
    ----------
    source : str
        What messages call it.
    columns : mapping from name to array of shape (n,)
        Numbers, text (objects: str, or None where missing), or what cannot be learnt from.
    default_target : str or None
        The column that is learnt unless another is named.
    same_unit : bool
        Whether all features share one unit, as pixels do: they are then scaled by one number.
    note : str
        What was found out about the file, for the reader.

    Examples
    --------
    >>> kinds = np.asarray(["cat", "dog"], dtype=object)
    >>> table = Table("pets", {"weight": np.asarray([4.0, 30.0]), "kind": kinds})
    >>> table.rows, table.numbers(["weight"]).tolist()
    (2, [[4.0], [30.0]])
    >>> table.numbers(["kind"])
    Traceback (most recent call last):
    portable_bp.tables.table.DataError: pets, row 0: 'cat' in column 'kind' is not a number; turn ...
    """

    source: str
    columns: Mapping[str, HostArray]
    default_target: str | None = None
    same_unit: bool = False
    note: str = ""
    place: Callable[[int], str] = field(default="row {}".format, repr=False)
    """From a row, counted from 0, to how a reader finds it."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> HostArray:
        """The column of that name, without missing values."""
        if name not in self.columns:
            raise DataError(f"{self.source} has no column {name!r}; it has {some(self.columns)}")
        values = self.columns[name]
        if values.dtype.kind in "mMV":
            raise DataError(
                f"{self.source}: column {name!r} holds neither numbers nor text (dates, lists, ...); "
                "turn it into numbers, or leave it out"
            )
        missing = _missing(values)
        if missing.any():
            raise DataError(
                f"{self.source}, {self.place(int(np.argmax(missing)))}: column {name!r} has a "
                f"missing value (NaN or empty), {missing.sum()} in all; fill or drop such rows"
            )
        return values

    def numbers(self, names: Sequence[str]) -> HostArray:
        """The columns side by side, float64 of shape (n, len(names)): finite numbers, or an error."""
        absent = [name for name in names if name not in self.columns]
        if absent:
            raise DataError(
                f"{self.source} lacks {len(absent)} of the {len(names)} columns needed: "
                f"{some(absent)}; it has {some(self.columns)}"
            )
        matrix = np.empty((self.rows, len(names)))
        for j, name in enumerate(names):
            matrix[:, j] = self._number(name)
        return matrix

    def _number(self, name: str) -> HostArray:
        values = self.column(name)
        if values.dtype.kind == "O":
            for row, cell in enumerate(values):
                if not NUMBER.fullmatch(cell):
                    raise DataError(
                        f"{self.source}, {self.place(row)}: {cell!r} in column {name!r} is not a "
                        "number; turn the column into numbers, or leave it out"
                    )
        with np.errstate(over="ignore"):
            numbers = values.astype(np.float64)
        if np.isinf(numbers).any():
            row = int(np.argmax(np.isinf(numbers)))
            raise DataError(
                f"{self.source}, {self.place(row)}: column {name!r} has an infinite value"
            )
        return numbers


def _missing(values: HostArray) -> HostArray:
    """Which cells are NaN, None or blank."""
    if values.dtype.kind == "O":
        return np.asarray([cell is None or not cell.strip() for cell in values], dtype=bool)
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.zeros(len(values), dtype=bool)


NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


def some(names: Iterable[str], most: int = 8) -> str:
    """The first names, in quotes, and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
