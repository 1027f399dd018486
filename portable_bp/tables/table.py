"""A table: named columns of one length."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError as DataError
from portable_bp.tables.cells import NUMBER, advice
from portable_bp.tables.problems import MOST, listed


def plain_name(name: str) -> str:
    """A name in Unicode's composed form: accents that look the same are the same."""
    return unicodedata.normalize("NFC", name)


def _no_text(name: str) -> None:
    """The texts of a table that was not read from text."""


def _place_of(place: Callable[[int], str], rows: HostArray, row: int) -> str:
    return place(int(rows[row]))


def _text_of(
    text: Callable[[str], HostArray | None], rows: HostArray, name: str
) -> HostArray | None:
    whole = text(name)
    return None if whole is None else whole[rows]


@dataclass(frozen=True)
class Table:
    """Named columns of one length.

    Parameters
    ----------
    source : str
        What messages call the table.
    columns : mapping of str to array of shape (n,)
        Numbers, text (objects: str, or None where missing), moments (datetime64), or what cannot be
        learnt from.
    default_target : str or None
        The column that is learnt unless another is named.
    same_unit : bool
        Whether all features share one unit, as pixels do: they are then scaled by one number.
    note : str
        What the reader of the file assumed, for people to check.
    place : callable
        From a row, counted from 0, to the words that say where it is.
    text : callable
        From the name of a column to the text of its cells, array of shape (n,), where the file has
        text (CSV) and the column is none: numbers, booleans, dates; None elsewhere.

    Examples
    --------
    >>> kinds = np.asarray(["cat", "dog"], dtype=object)
    >>> table = Table("pets", {"weight": np.asarray([4.0, 30.0]), "kind": kinds})
    >>> table.rows, table.numbers(["weight"]).tolist()
    (2, [[4.0], [30.0]])
    >>> table.numbers(["kind"])
    Traceback (most recent call last):
    portable_bp.errors.DataError: pets, 2 problems: row 0: 'cat' in column 'kind' is not a number, ...
    """

    source: str
    columns: Mapping[str, HostArray]
    default_target: str | None = None
    same_unit: bool = False
    note: str = ""
    place: Callable[[int], str] = field(default="row {}".format, repr=False)
    text: Callable[[str], HostArray | None] = field(default=_no_text, repr=False)

    def __post_init__(self) -> None:
        columns = {
            plain_name(name) if isinstance(name, str) else name: _as_column(values)
            for name, values in self.columns.items()
        }
        object.__setattr__(self, "columns", columns)
        rows = None
        for name, values in columns.items():
            if not isinstance(name, str):
                raise DataError(
                    f"{self.source}: the name of a column must be text, not {shown(name)}"
                )
            if values.ndim != 1:
                raise DataError(
                    f"{self.source}: column {shown(name)} has the shape {values.shape}; it must have "
                    "one axis"
                )
            if rows is not None and len(values) != rows:
                raise DataError(
                    f"{self.source}: column {shown(name)} has {len(values):,} rows, the first has "
                    f"{rows:,}"
                )
            rows = len(values)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def take(self, rows: HostArray) -> Table:
        """Some of the rows, which messages still call by their places in the whole table.

        Parameters
        ----------
        rows : array of shape (k,)
            Their numbers.

        Returns
        -------
        Table
            The rows in that order.

        Examples
        --------
        >>> part = Table("pets", {"weight": [4.0, 30.0, 7.0]}).take(np.asarray([2]))
        >>> part.columns["weight"].tolist(), part.place(0)
        ([7.0], 'row 2')
        """
        columns = {name: values[rows] for name, values in self.columns.items()}
        place, text = partial(_place_of, self.place, rows), partial(_text_of, self.text, rows)
        return replace(self, columns=columns, place=place, text=text)

    def column(self, name: str) -> HostArray:
        """The column of that name, without missing values.

        Parameters
        ----------
        name : str
            The name of the column.

        Returns
        -------
        array of shape (n,)
            Numbers, or objects that are all str.

        Raises
        ------
        DataError
            There is no such column, a value is missing, or it holds neither numbers nor text.
        """
        name = plain_name(name)
        if name not in self.columns:
            raise DataError(
                f"{self.source} has no column {shown(name)}; it has {some(self.columns)}"
                f"{_did_you_mean(name, self.columns)}"
            )
        try:
            return _plain(name, self.columns[name])
        except _BadColumn as bad:
            raise self._error([bad], all_rows=False) from None

    def _error(self, columns: Sequence[_BadColumn], all_rows: bool = True) -> DataError:
        """What is wrong with some columns, in one error: the first cell of each, then the others."""
        problems = [(bad.rows[0] if len(bad.rows) else None, bad.words) for bad in columns]
        if all_rows:
            problems += [(row, bad.cell(row)) for bad in columns for row in bad.rows[1:MOST]]
        told = [
            words if row is None else f"{self.place(int(row))}: {words}"
            for row, words in problems[:MOST]
        ]
        if len(problems) == 1 and problems[0][0] is None:
            return DataError(f"{self.source}: {told[0]}")
        total = sum(max(len(bad.rows), 1) for bad in columns) if all_rows else 1
        return listed(self.source, told, total)

    def numbers(self, names: Sequence[str]) -> HostArray:
        """The columns side by side.

        Parameters
        ----------
        names : sequence of str
            The names of the columns.

        Returns
        -------
        array of shape (n, len(names))
            Finite numbers, float64.

        Raises
        ------
        DataError
            A column is not there, or holds anything but finite numbers.
        """
        names = [*map(plain_name, names)]
        check_present(self, names)
        matrix = np.empty((self.rows, len(names)))
        bad = []
        for j, name in enumerate(names):
            try:
                matrix[:, j] = _numeric(name, self.columns[name])
            except _BadColumn as column:
                bad.append(column)
        if bad:
            raise self._error(bad)
        return matrix


class _BadColumn(Exception):
    """A column that cannot be learnt from: what is wrong with its first bad cell, and where all are."""

    def __init__(self, name: str, words: str, is_bad: HostArray | None, values: HostArray) -> None:
        super().__init__(words)
        self.name, self.words, self.values = name, words, values
        self.rows: Sequence[int] = [] if is_bad is None else np.flatnonzero(is_bad).tolist()

    def cell(self, row: int) -> str:
        """Another bad cell."""
        return f"{shown(self.values[row])} in column {shown(self.name)}"


def _plain(name: str, values: HostArray) -> HostArray:
    """A column without missing values: numbers, or objects that are all text."""
    if values.dtype.kind not in "biufO":
        words = (
            f"column {shown(name)} holds neither numbers nor text (dates, lists, ...); turn it into "
            "numbers, or leave it out"
        )
        raise _BadColumn(name, words, None, values)
    missing = _missing(values)
    if missing.any():
        words = (
            f"column {shown(name)} has a missing value (empty, NA or NaN), {missing.sum():,} in all; "
            "fill or drop such rows"
        )
        raise _BadColumn(name, words, missing, values)
    return _of_one_kind(name, values) if values.dtype.kind == "O" else values


def _of_one_kind(name: str, values: HostArray) -> HostArray:
    """Objects that are all text, or numbers."""
    is_text = np.fromiter((isinstance(v, str) for v in values), bool, len(values))
    if is_text.all():
        return values
    if not is_text.any() and all(isinstance(value, Real) for value in values):
        numbers = np.asarray(values.tolist())
        return numbers if numbers.dtype.kind in "biuf" else values.astype(np.float64)
    other = is_text != is_text[0]
    words = (
        f"column {shown(name)} mixes values of different types, such as {shown(values[0])} and "
        f"{shown(values[int(np.argmax(other))])}; make them all numbers or all text"
    )
    raise _BadColumn(name, words, other, values)


def _numeric(name: str, values: HostArray) -> HostArray:
    """A column of finite numbers."""
    values = _plain(name, values)
    if values.dtype.kind == "O":
        bad = ~np.fromiter((bool(NUMBER.fullmatch(cell)) for cell in values), bool, len(values))
        if bad.any():
            cell = values[int(np.argmax(bad))]
            words = (
                f"{shown(cell)} in column {shown(name)} is not a number{advice(cell)}, and "
                f"{np.sum(~bad):,} of {len(values):,} cells are; turn the column into numbers, or "
                "leave it out"
            )
            raise _BadColumn(name, words, bad, values)
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        words = f"column {shown(name)} has an infinite value"
        raise _BadColumn(name, words, np.isinf(numbers), values)
    return numbers


def check_present(table: Table, names: Sequence[str]) -> None:
    """Raise unless a table has all of these columns."""
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise DataError(
            f"{table.source} lacks {len(absent)} of the {len(names)} columns needed: "
            f"{some(absent)}; it has {some(table.columns)}"
        )


def _as_column(values: Any) -> HostArray:
    """Values as an array; text as objects."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "UT" else array


def _missing(values: HostArray) -> HostArray:
    """Which cells are NaN, None or blank."""
    if values.dtype.kind == "O":
        return np.fromiter((is_missing(cell) for cell in values), bool, len(values))
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.zeros(len(values), dtype=bool)


def is_missing(cell: Any) -> bool:
    """Whether a Python object stands for no value: NaN, None, pandas' NA, blank text."""
    if isinstance(cell, str):
        return not cell or cell.isspace()
    if isinstance(cell, float | np.floating):
        return bool(cell != cell)
    return cell is None or type(cell).__name__ in ("NAType", "NaTType")  # those of pandas


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [*names][:1000], n=1)
    return f"; did you mean {shown(close[0])}?" if close else ""


def some(names: Iterable[str], most: int = 8) -> str:
    """The first names, in quotes, and how many more there are."""
    names = list(names)
    first = ", ".join(shown(name) for name in names[:most])
    return first + (f" and {len(names) - most:,} more" if len(names) > most else "")


def shown(value: Any, most: int = 100) -> str:
    """``repr(value)``, cut where it is long."""
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[:most]}..."


def first_line(error: Exception) -> str:
    """The first line of what an error says, cut where it quotes a long cell."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:200]} ..."
