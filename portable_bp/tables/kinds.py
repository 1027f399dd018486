"""What kind each column of a table is: looked at as a whole, before anything is learnt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.errors import DataError
from portable_bp.tables import spellings
from portable_bp.tables.problems import listed
from portable_bp.tables.raw import Cells, cells_of
from portable_bp.tables.spellings import Notation
from portable_bp.tables.table import Table, shown
from portable_bp.tables.units import moments, rounding_of

Kind: TypeAlias = Literal["number", "category", "date", "boolean", "drop"]
KINDS: tuple[Kind, ...] = get_args(Kind)

AGREE = 0.95
"""A column of text is numbers, or dates, when at least this share of its cells are ..."""

FEW_ODD, MOST_ODD = 5, 0.5
"""... or all but fewer than five, which are fewer than half."""

WIDE = 32
"""Categories of at most so many values get one input each; more get the share of their rows."""

COUNTED = 10
"""So many whole numbers that count one by one are taken for an index rather than for a quantity."""

_IDENTIFIER = re.compile(
    r"(?i:unnamed: \d+|index|row ?(?:names?|num(?:ber)?|id)?|no\.?|nr\.?|#|id|uuid|guid|key|"
    r".*[_\s.-]id)|.*[a-z]I[dD]"
)
_CODE = re.compile(r"[-+]?0\d+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Survey:
    """What one column is.

    Attributes
    ----------
    name : str
    kind : str
        ``"number"``, ``"boolean"``, ``"date"`` or ``"category"``; or why it is left out:
        ``"constant"``, ``"identifier"``, ``"text"``, ``"drop"`` or ``"unusable"``.
    values : array of shape (n,)
        Numbers, NaN where missing; for a category text, None where missing.
    notation : str
        How its cells are written.
    words : str
        What people should know of it.
    """

    name: str
    kind: str
    values: HostArray
    notation: Notation = ""
    words: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether it is learnt from."""
        return self.kind in KINDS and self.kind != "drop"

    @property
    def missing(self) -> HostArray:
        """Which rows have no value."""
        if self.values.dtype.kind == "O":
            return np.fromiter((v is None for v in self.values), bool, len(self.values))
        return np.isnan(self.values)


def survey(table: Table, names: Sequence[str], kinds: Mapping[str, Kind]) -> list[Survey]:
    """What the columns of a table are.

    Parameters
    ----------
    table : Table
        The rows.
    names : sequence of str
        Its columns.
    kinds : mapping of str to str
        The kinds that are set, by the name of the column.

    Returns
    -------
    list of Survey
        One for each name.

    Raises
    ------
    DataError
        What is wrong with the columns, the first ten at once.
    """
    surveys, problems = [], []
    for name in names:
        try:
            surveys.append(_survey(table, name, kinds.get(name)))
        except DataError as error:
            problems.append(str(error).removeprefix(f"{table.source}, "))
    if problems:
        raise listed(table.source, problems)
    if not any(s.is_kept for s in surveys):  # an index alone may be the time
        surveys = [
            replace(s, kind="number", words="") if s.words == _COUNTS else s for s in surveys
        ]
    return surveys


_COUNTS = "counts the rows"


def _survey(table: Table, name: str, kind: Kind | None) -> Survey:
    cells = cells_of(table, name)
    if kind == "drop":
        return Survey(name, "drop", cells.text(), words="as asked")
    if cells.type == "other":
        if kind is not None:
            raise DataError(
                f"{table.source}, column {shown(name)} holds neither numbers nor text nor dates, and "
                f"cannot be learnt from as {kind}; leave it out"
            )
        return Survey(name, "unusable", cells.text(), words="neither numbers nor text nor dates")
    if kind is not None:
        return _forced(table, cells, kind)
    if cells.type == "number":
        return _number(table, cells)
    if cells.type == "text":
        return _text(table, cells)
    numbers = cells.numbers()
    if cells.type == "boolean":
        return _unless_constant(Survey(name, "boolean", numbers))
    if cells.is_written:
        return _unless_constant(_dates(table, cells))
    return _unless_constant(Survey(name, "date", numbers))


def _unless_constant(found: Survey) -> Survey:
    """The same, or that it says nothing: one value in every row, or none in any."""
    missing = found.missing
    known = found.values[~missing]
    if not len(known):
        return replace(found, kind="constant", words="no value in any row")
    if not missing.any() and (known == known[0]).all():
        return replace(found, kind="constant", words=f"every row has {shown(known.tolist()[0])}")
    return found


def _number(table: Table, cells: Cells) -> Survey:
    values = cells.numbers()
    found = _unless_constant(Survey(cells.name, "number", values, "point"))
    if not found.is_kept:
        return found
    column = table.columns[cells.name]
    if not found.missing.any():
        mean, scale = moments(values[:, None], 0, np.asarray([rounding_of(column)]))
        if scale[0] == 1 and np.allclose(values, mean[0], rtol=1e-6, atol=0):
            return replace(found, kind="constant", words="constant but for rounding")
    if (values[~found.missing] == np.rint(values[~found.missing])).all():
        if _has_codes(cells):
            return _category(cells, "leading zeros: codes")
        return _unless_index(found)
    return found


def _has_codes(cells: Cells) -> bool:
    """Whether whole numbers are written with zeros before them, as codes are."""
    return cells.is_written and any(
        _CODE.fullmatch(cell) for cell in {*cells.text()} if cell is not None
    )


def _unless_index(found: Survey) -> Survey:
    """The same, or that its whole numbers only tell the rows apart."""
    values = found.values
    if np.isnan(values).any() or len(np.unique(values)) < len(values):
        return found
    if _IDENTIFIER.fullmatch(found.name):
        return replace(found, kind="identifier", words="another number in each row")
    if len(values) >= COUNTED and (np.abs(np.diff(values)) == 1).all():
        return replace(found, kind="identifier", words=_COUNTS)
    return found


def _text(table: Table, cells: Cells) -> Survey:
    counts = cells.counts
    if len(counts) > 1:
        truths = spellings.truths_of(counts)
        if truths is not None:
            return Survey(cells.name, "boolean", spellings.mapped(cells.text(), truths))
        if not any(map(_CODE.fullmatch, counts)):
            reading = spellings.read_numbers(counts)
            if reading is not None and _agrees(reading, counts):
                found = _read(table, cells, "number", reading)
                return _unless_index(found) if not found.words else found
        if _agrees(spellings.read_dates(counts), counts):
            return _dates(table, cells)
    return _category(cells)


def _agrees(reading: spellings.Reading, counts: Counter[str]) -> bool:
    """Whether so many cells can be read that the others are taken for errors."""
    share = spellings.share_read(reading, counts)
    odd = round((1 - share) * sum(counts.values()))
    return share >= AGREE or (odd < FEW_ODD and 1 - share < MOST_ODD)


def _dates(table: Table, cells: Cells) -> Survey:
    return _read(table, cells, "date", spellings.read_dates(cells.counts))


def _read(table: Table, cells: Cells, kind: str, reading: spellings.Reading) -> Survey:
    """A column of text as numbers, with what is to be said about it."""
    words = [reading.words] if reading.words else []
    odd = odd_words(table, cells, reading)
    values = spellings.mapped(cells.text(), reading.values)
    return Survey(cells.name, kind, values, reading.notation, "; ".join([*words, *odd]))


def odd_words(table: Table, cells: Cells, reading: spellings.Reading) -> list[str]:
    """What to say about cells that a reading has no number for, if there are any."""
    rows = spellings.odd_cells(reading, cells.text().tolist())
    if not rows:
        return []
    first = f"{shown(cells.text()[rows[0]])}, {table.place(rows[0])}"
    if len(rows) == 1:
        return [f"1 cell that is not one ({first}) taken as missing"]
    return [f"{len(rows):,} cells that are not (the first {first}) taken as missing"]


def _category(cells: Cells, words: str = "") -> Survey:
    """Text as categories, unless nearly every row has another one."""
    found = _unless_constant(Survey(cells.name, "category", cells.text(), words=words))
    counts = cells.counts
    known = sum(counts.values())
    if found.is_kept and known > 2:
        if len(counts) == known:
            return replace(found, kind="text", words="another text in each row")
        if len(counts) > max(WIDE, known / 2):
            words = f"{len(counts):,} different texts in {known:,} rows"
            return replace(found, kind="text", words=words)
    return found


def _forced(table: Table, cells: Cells, kind: Kind) -> Survey:
    """A column as the kind that was set for it."""
    name = cells.name
    if kind == "category":
        return Survey(name, "category", cells.text())
    counts: Counter[str] = cells.counts if cells.is_written else Counter()
    reading: spellings.Reading | None = None
    if kind == cells.type and not cells.is_written:
        return Survey(name, kind, cells.numbers(), "point" if kind == "number" else "")
    if kind == "number":
        if cells.type in ("number", "boolean"):
            return Survey(name, kind, cells.numbers(), "point")
        reading = spellings.read_numbers(counts)
    elif kind == "date":
        reading = spellings.read_dates(counts)
    else:
        truths = spellings.truths_of(counts)
        if cells.type in ("number", "boolean") and {*np.unique(cells.known())} <= {0.0, 1.0}:
            return Survey(name, kind, cells.numbers())
        reading = None if truths is None else spellings.Reading(truths, "")
    if reading is None or not spellings.share_read(reading, counts):
        raise DataError(
            f"{table.source}, {table.place(0)}: column {shown(name)} cannot be read as {kind}: "
            f"{shown(table.columns[name].tolist()[0])} is none; choose another kind, or drop it"
        )
    return _read(table, cells, kind, reading)
