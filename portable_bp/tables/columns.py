"""What was learnt of the columns of a table: how the cells of each become inputs of the network.

There are two forms. A :class:`NumberColumn` takes a number (a date is its seconds since 1970, a truth
value 0 or 1); a :class:`CategoryColumn` looks text up in a table. Both are plain data, for a file.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.tables import spellings
from portable_bp.tables.kinds import WIDE, Survey, odd_words
from portable_bp.tables.raw import Cells, cells_of
from portable_bp.tables.spellings import Notation
from portable_bp.tables.table import Table, check_present, plain_name, shown

NumberKind: TypeAlias = Literal["number", "boolean", "date"]
NUMBER_KINDS: tuple[NumberKind, ...] = get_args(NumberKind)

RARE = 5
"""Values with fewer training rows (in a table of under 100, fewer than a twentieth) share one input."""

MOST_VALUES = 10_000
"""The shares of so many values are kept, those of the most common ones."""

DAY = 86400.0
YEAR = 365.2425 * DAY
PERIODS = {"day": DAY, "week": 7 * DAY, "month": YEAR / 12, "year": YEAR}
"""The cycles of a date, in seconds."""


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, dates or truth values.

    Parameters
    ----------
    name : str
        The column.
    kind : str
        ``"number"``, ``"boolean"`` or ``"date"``.
    notation : str
        How its text is written, see :mod:`portable_bp.tables.spellings`.
    fill : float
        What stands for a missing value: the median of the training rows.
    is_marked : bool
        Whether one more input says that the value is missing.
    periods : tuple of float
        The lengths of cycles, each of which becomes a sine and a cosine.

    Examples
    --------
    >>> column = NumberColumn("age", "number", "point", 30.0, True)
    >>> column.encode(np.asarray([4.0, np.nan])).tolist()
    [[4.0, 0.0], [30.0, 1.0]]
    """

    name: str
    kind: NumberKind
    notation: Notation
    fill: float
    is_marked: bool
    periods: tuple[float, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The names of its inputs."""
        words = {seconds: name for name, seconds in PERIODS.items()}
        cycles = [
            f"{self.name}: {part} of the {words.get(period, f'{period:g} s')}"
            for period in self.periods
            for part in ("sine", "cosine")
        ]
        return (self.name, *cycles, *([f"{self.name}: missing"] if self.is_marked else []))

    @property
    def absent(self) -> tuple[str, ...]:
        """Text that stands for no value."""
        return tuple(sorted(spellings.ABSENT))

    @property
    def is_scaled(self) -> list[bool]:
        """Which inputs are brought to the deviation 1: not the cycles, and not the mark."""
        return [True, *[False] * (len(self.features) - 1)]

    def read(self, table: Table) -> HostArray:
        """The numbers of its column in a table.

        Parameters
        ----------
        table : Table
            The rows.

        Returns
        -------
        array of shape (n,)
            NaN where missing.

        Raises
        ------
        DataError
            It holds something else than in training.
        """
        cells = cells_of(table, self.name)
        if cells.is_written and (cells.type != "number" or self.notation == "comma"):
            return self._written(table, cells)
        fits = cells.type == self.kind or {cells.type, self.kind} == {"number", "boolean"}
        numbers = cells.numbers()
        if not fits and not np.isnan(numbers).all():
            raise DataError(
                f"{table.source}: column {shown(self.name)} holds {cells.type}s, and was a "
                f"{self.kind} in training"
            )
        return numbers

    def _written(self, table: Table, cells: Cells) -> HostArray:
        """Text in the notation that was learnt, or in another in which all of it can be read."""
        counts = cells.counts
        reading = self._reading(counts, self.notation)
        if reading is None or spellings.share_read(reading, counts) < 1:
            other = self._reading(counts, None)
            if other is not None and spellings.share_read(other, counts) == 1:
                reading = other
        if reading is None or (counts and not spellings.share_read(reading, counts)):
            raise DataError(
                f"{table.source}: column {shown(self.name)} has text such as {shown(next(iter(counts)))}"
                f", and was a {self.kind} in training"
            )
        for words in odd_words(table, cells, reading):
            place = f"{table.source}: column {shown(self.name)}, a {self.kind} in training, has "
            warnings.warn(place + words, UserWarning, stacklevel=2)
        return spellings.mapped(cells.text(), reading.values)

    def _reading(
        self, counts: Mapping[str, int], notation: Notation | None
    ) -> spellings.Reading | None:
        if self.kind == "number":
            return spellings.read_numbers(counts, notation)
        if self.kind == "date":
            return spellings.read_dates(counts, notation)
        truths = spellings.truths_of(counts)
        return None if truths is None else spellings.Reading(truths, "")

    def encode(self, values: HostArray) -> HostArray:
        """Its inputs.

        Parameters
        ----------
        values : array of shape (n,)
            What :meth:`read` gives.

        Returns
        -------
        array of shape (n, inputs)
            Finite numbers, float64.
        """
        missing = np.isnan(values)
        x = np.where(missing, self.fill, values)
        inputs = [x]
        for period in self.periods:
            angle = x * (2 * math.pi / period)
            inputs += [np.sin(angle), np.cos(angle)]
        return np.column_stack([*inputs, *([missing.astype(np.float64)] if self.is_marked else [])])


@dataclass(frozen=True, eq=False)
class CategoryColumn:
    """A column of categories: each value has a row of numbers.

    Parameters
    ----------
    name : str
        The column.
    values : tuple of str
        The values that have a row of their own.
    codes : array of shape (len(values) + 2, inputs)
        Their rows, then that of a missing value, then that of all others.
    features : tuple of str
        The names of the inputs.

    Examples
    --------
    >>> column = CategoryColumn("pet", ("cat", "dog"), np.eye(4)[:, :2], ("pet=cat", "pet=dog"))
    >>> column.encode(np.asarray(["dog", "bird", None], dtype=object)).tolist()
    [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    """

    name: str
    values: tuple[str, ...]
    codes: HostArray
    features: tuple[str, ...]

    @property
    def kind(self) -> str:
        """``"category"``."""
        return "category"

    @property
    def absent(self) -> tuple[str, ...]:
        """Text that stands for no value."""
        return tuple(sorted(spellings.ABSENT - {*self.values}))

    @property
    def is_scaled(self) -> list[bool]:
        """Which inputs are brought to the deviation 1; the others are codes of 0 and 1."""
        return [not np.isin(column, (0, 1)).all() for column in self.codes.T]

    @property
    def is_share(self) -> bool:
        """Whether its first input is the share of the rows with that value."""
        return bool(self.is_scaled[0])

    def read(self, table: Table) -> HostArray:
        """The text of its column in a table.

        Parameters
        ----------
        table : Table
            The rows.

        Returns
        -------
        array of shape (n,)
            None where missing.
        """
        return cells_of(table, self.name).text()

    def encode(self, values: HostArray) -> HostArray:
        """Its inputs.

        Parameters
        ----------
        values : array of shape (n,)
            What :meth:`read` gives.

        Returns
        -------
        array of shape (n, inputs)
            Finite numbers, float64.
        """
        rows: dict[str | None, int] = {value: row for row, value in enumerate(self.values)}
        missing, other = len(self.values), len(self.values) + 1
        rows.setdefault(None, missing)
        found: HostArray = self.codes[
            np.fromiter((rows.get(value, other) for value in values), np.intp, len(values))
        ]
        return found


Column: TypeAlias = NumberColumn | CategoryColumn


def learn(survey: Survey, rows: HostArray) -> Column:
    """What the training rows say of a column.

    Parameters
    ----------
    survey : Survey
        What the column is.
    rows : array of shape (k,)
        The training rows.

    Returns
    -------
    NumberColumn or CategoryColumn
        How it becomes inputs.
    """
    values = survey.values[rows]
    if survey.kind == "category":
        return _category(survey.name, values)
    known = values[~np.isnan(values)]
    fill = float(np.median(known)) if len(known) else 0.0
    if survey.kind == "boolean":
        fill = float(np.rint(fill))
    kind = next(kind for kind in NUMBER_KINDS if kind == survey.kind)
    periods = _cycles(known) if kind == "date" else ()
    return NumberColumn(survey.name, kind, survey.notation, fill, len(known) < len(values), periods)


def _cycles(seconds: HostArray) -> tuple[float, ...]:
    """The cycles that dates run through: longer than two of their steps, shorter than their span."""
    distinct = np.unique(seconds)
    if len(distinct) < 3:
        return ()
    if distinct[0] >= 0 and distinct[-1] < DAY:
        return (DAY,)  # times of the day
    step, span = np.min(np.diff(distinct)), distinct[-1] - distinct[0]
    return tuple(period for period in PERIODS.values() if 2 * step <= period <= span)


def _category(name: str, values: HostArray) -> CategoryColumn:
    counts = Counter(value for value in values if value is not None)
    has_missing = sum(counts.values()) < len(values)
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    rare = max(2, min(RARE, len(values) // 20))
    common = [value for value in ordered if counts[value] >= rare]
    if not 0 < len(common) <= WIDE:
        return _shares(name, ordered[:MOST_VALUES], counts, has_missing)
    has_other = len(common) < len(ordered)
    features = [f"{name}={value}" for value in common]
    features += [f"{name}: other"] * has_other + [f"{name}: missing"] * has_missing
    codes = np.zeros((len(common) + 2, len(features)))
    codes[: len(common), : len(common)] = np.eye(len(common))
    if has_other:
        codes[-2:, len(common)] = 1
    if has_missing:
        codes[-2] = 0
        codes[-2, -1] = 1
    return CategoryColumn(name, tuple(common), codes, tuple(features))


def _shares(
    name: str, values: Sequence[str], counts: Mapping[str, int], has_missing: bool
) -> CategoryColumn:
    """Too many values for an input each: the share of the rows, which needs no target."""
    codes = np.zeros((len(values) + 2, 1 + has_missing))
    codes[: len(values), 0] = [counts[value] for value in values]
    codes[:, 0] /= max(sum(counts.values()), 1)
    if has_missing:
        codes[-2, 1] = 1
    marks = [f"{name}: missing"] * has_missing
    return CategoryColumn(name, tuple(values), codes, (f"{name}: share", *marks))


def encode(columns: Sequence[Column], table: Table) -> HostArray:
    """The inputs of all columns side by side.

    Parameters
    ----------
    columns : sequence of Column
        What was learnt.
    table : Table
        The rows; it has these columns, in any order.

    Returns
    -------
    array of shape (n, inputs)
        Finite numbers, float64.

    Raises
    ------
    DataError
        A column is not there, holds what it did not in training, or an infinite value.
    """
    check_present(table, [column.name for column in columns])
    parts = []
    for column in columns:
        values = column.read(table)
        if isinstance(column, NumberColumn) and not column.is_marked and np.isnan(values).any():
            row = int(np.argmax(np.isnan(values)))
            warnings.warn(
                f"{table.source}, {table.place(row)}: column {shown(column.name)} has a missing value, "
                f"{np.isnan(values).sum():,} in all, and had none in training: {column.fill:g} is taken",
                UserWarning,
                stacklevel=2,
            )
        parts.append(column.encode(values))
    return np.concatenate(parts, axis=1)


def to_data(columns: Sequence[Column]) -> tuple[list[dict[str, Any]], dict[str, HostArray]]:
    """Columns as JSON and arrays, for a file."""
    entries: list[dict[str, Any]] = []
    arrays = {}
    for i, column in enumerate(columns):
        entry: dict[str, Any] = {"name": column.name, "kind": column.kind}
        if isinstance(column, CategoryColumn):
            entry |= {"values": list(column.values), "features": list(column.features)}
            arrays[f"codes{i}"] = column.codes
        else:
            entry |= {
                "notation": column.notation,
                "fill": column.fill,
                "is_marked": column.is_marked,
                "periods": list(column.periods),
            }
        entries.append(entry)
    return entries, arrays


def from_data(
    entries: Sequence[Mapping[str, Any]], arrays: Mapping[str, HostArray]
) -> tuple[Column, ...]:
    """Columns from a file whose contents have been checked."""
    columns: list[Column] = []
    for i, entry in enumerate(entries):
        name = plain_name(entry["name"])
        if entry["kind"] == "category":
            features = tuple(entry["features"])
            columns.append(
                CategoryColumn(name, tuple(entry["values"]), arrays[f"codes{i}"], features)
            )
        else:
            periods = tuple(map(float, entry["periods"]))
            columns.append(
                NumberColumn(
                    name, entry["kind"], entry["notation"], float(entry["fill"]),
                    entry["is_marked"], periods,
                )
            )  # fmt: skip
    return tuple(columns)
