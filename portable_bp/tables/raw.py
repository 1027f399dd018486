"""The cells of a column as they were written or stored, before they are read one way or another."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from functools import cached_property
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.tables.spellings import ABSENT
from portable_bp.tables.table import Table, is_missing, shown

Type: TypeAlias = Literal["number", "boolean", "date", "text", "other"]


class Cells:
    """The cells of one column.

    Parameters
    ----------
    table : Table
        The rows.
    name : str
        A column of it.
    values : array of shape (n,)
        What stands there: numbers (NaN where missing), moments, or objects.
    type : str
        What these are.

    Attributes
    ----------
    is_written : bool
        Whether the text of the cells is known, as in a CSV file.
    """

    def __init__(self, table: Table, name: str, values: HostArray, type: Type) -> None:
        self.table, self.name, self.values, self.type = table, name, values, type

    @property
    def is_written(self) -> bool:
        return self.type == "text" or self._written is not None

    @cached_property
    def _written(self) -> HostArray | None:
        return self.values if self.type == "text" else self.table.text(self.name)

    @cached_property
    def _text(self) -> HostArray:
        if self._written is not None:
            return without_absent(self._written)
        if self.type == "other":
            return np.full(len(self.values), "", dtype=object)
        return _printed(self.values, self.type)

    def text(self) -> HostArray:
        """Text of the cells, shape (n,): None where a cell stands for no value."""
        return self._text

    @cached_property
    def counts(self) -> Counter[str]:
        """The different texts, and how often each is there."""
        return Counter(cell for cell in self._text if cell is not None)

    def numbers(self) -> HostArray:
        """Float64, shape (n,), NaN where missing: seconds since 1970 for moments.

        Raises
        ------
        DataError
            A number is infinite.
        """
        if self.type == "date":
            return _seconds(self.values)
        with np.errstate(over="ignore"):
            numbers = self.values.astype(np.float64)
        if np.isinf(numbers).any():
            row = int(np.argmax(np.isinf(numbers)))
            raise DataError(
                f"{self.table.source}, {self.table.place(row)}: column {shown(self.name)} has an "
                "infinite value"
            )
        return numbers

    def known(self) -> HostArray:
        """The numbers of the rows that have one."""
        numbers = self.numbers()
        return numbers[~np.isnan(numbers)]


def cells_of(table: Table, name: str) -> Cells:
    """The cells of a column that is there."""
    values = table.columns[name]
    kind = values.dtype.kind
    if kind == "O":
        return _of_objects(table, name, values)
    if kind == "V":
        return Cells(table, name, values, "other" if table.text(name) is None else "date")
    if kind == "m":
        seconds = values / np.timedelta64(1, "s")
        return Cells(table, name, seconds, "number")
    types: dict[str, Type] = {"b": "boolean", "i": "number", "u": "number", "f": "number"}
    types |= {"M": "date"}
    return Cells(table, name, values, types.get(kind, "other"))


def _of_objects(table: Table, name: str, values: HostArray) -> Cells:
    """Objects: all text, all numbers, all dates; numbers among text are text."""
    missing = np.fromiter((is_missing(cell) for cell in values), bool, len(values))
    known = values[~missing].tolist()
    if all(isinstance(cell, str) for cell in known):
        text = values.copy()
        text[missing] = None
        return Cells(table, name, text, "text")
    if all(isinstance(cell, bool | np.bool_) for cell in known):
        return Cells(table, name, _filled(values, missing), "boolean")
    if all(isinstance(cell, Real) or type(cell).__name__ == "Decimal" for cell in known):
        return Cells(table, name, _filled(values, missing), "number")
    if all(isinstance(cell, datetime.date | np.datetime64) for cell in known):
        moments = [
            np.datetime64("NaT") if m else _naive(v) for v, m in zip(values, missing, strict=True)
        ]
        return Cells(table, name, np.asarray(moments, "M8[us]"), "date")
    if all(isinstance(cell, str | Real) for cell in known):
        cells = [None if m else str(v) for v, m in zip(values, missing, strict=True)]
        return Cells(table, name, np.asarray(cells, dtype=object), "text")
    return Cells(table, name, values, "other")


def _naive(moment: Any) -> Any:
    """A moment without a zone, in UTC."""
    if getattr(moment, "tzinfo", None) is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")


def _filled(values: HostArray, missing: HostArray) -> HostArray:
    numbers = np.full(len(values), np.nan)
    numbers[~missing] = [_float(value) for value in values[~missing]]
    return numbers


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _seconds(values: HostArray) -> HostArray:
    """Moments as seconds since 1970."""
    if values.dtype.kind != "M":
        return np.full(len(values), np.nan)
    micros = values.astype("M8[us]")
    seconds: HostArray = micros.astype(np.int64) / 1e6
    return np.where(np.isnat(micros), np.nan, seconds)


def _printed(values: HostArray, type: Type) -> HostArray:
    """Numbers, truth values and moments as text; whole numbers as such."""
    text = np.empty(len(values), dtype=object)
    if values.dtype.kind == "M":
        dates = np.datetime_as_string(values)
        text[:] = [None if date == "NaT" else str(date) for date in dates]
        return text
    words = {0.0: "false", 1.0: "true"}
    for row, value in enumerate(values.tolist()):
        if value != value:
            continue
        if type == "boolean":
            text[row] = words[float(value)]
        else:
            whole = math.isfinite(value) and value == int(value)
            text[row] = str(int(value)) if whole else repr(value)
    return text


def without_absent(cells: HostArray) -> HostArray:
    """Cells without blanks around them, None where they stand for no value.

    A minus alone stands for none, unless there are pluses alone as well.
    """
    distinct = {cell: cell.strip() for cell in {*cells} if isinstance(cell, str)}
    absent = ABSENT - {"-"} if "+" in distinct.values() else ABSENT
    meaning = {cell: None if word in absent else word for cell, word in distinct.items()}
    text = np.empty(len(cells), dtype=object)
    text[:] = [meaning.get(cell) for cell in cells]
    return text
