"""How people write cells: what stands for nothing, numbers, truth values, dates.

A column is read one way: the way in which its cells agree. What that way cannot read is counted.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.tables.cells import MISSING

Notation: TypeAlias = Literal["point", "comma", "day first", "month first", ""]
"""Which mark parts the fraction of a number; which comes first in a date with slashes."""

ABSENT = MISSING | {"?", "-", "--", "–", "—", "."}
"""Cells that stand for no value."""

TRUTHS: tuple[tuple[str, str], ...] = (
    ("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("off", "on"),
)  # fmt: skip
"""Words for false and true, in any case."""

_CURRENCIES = "$€£¥₹"
_GROUPS = {"point": ",", "comma": "."}
_MARKS = {"point": ".", "comma": ","}
_BLANKS = " '’_\u00a0\u202f\u2009"


def _number_pattern(notation: str) -> re.Pattern[str]:
    group, mark = re.escape(_GROUPS[notation] + _BLANKS), re.escape(_MARKS[notation])
    return re.compile(
        rf"(?P<open>\()?(?P<sign>[-+−])?\s?(?P<before>[{_CURRENCIES}]|[A-Z]{{3}}(?=\s))?\s?"
        rf"(?P<later>[-+−])?(?P<whole>[1-9]\d{{0,2}}(?:[{group}]\d{{3}})+|\d+)?"
        rf"(?:{mark}(?P<part>\d*))?(?P<power>[eE][-+]?\d+)?"
        rf"\s?(?P<after>[{_CURRENCIES}]|[A-Z]{{3}})?(?P<percent>%)?(?P<close>\))?",
        re.ASCII,
    )


_NUMBERS = {notation: _number_pattern(notation) for notation in _GROUPS}


class Reading(NamedTuple):
    """What the cells of a column stand for.

    Attributes
    ----------
    values : dict of str to float
        By cell; NaN for a cell that is written in another way.
    notation : str
        How they are written.
    words : str
        What is not plain about them.
    """

    values: dict[str, float]
    notation: Notation
    words: str = ""


class _Cell(NamedTuple):
    number: float
    currency: str
    is_percent: bool
    is_grouped: bool


def _read_cell(cell: str, notation: str) -> _Cell | None:
    match = _NUMBERS[notation].fullmatch(cell.strip())
    if match is None:
        return None
    whole, part = match["whole"] or "", match["part"]
    separators = {c for c in whole if not c.isdigit()}
    if not (whole or part) or len(separators) > 1 or bool(match["open"]) != bool(match["close"]):
        return None
    if (match["sign"] and match["later"]) or (match["before"] and match["after"]):
        return None
    digits = "".join(c for c in whole if c.isdigit())
    number = float(f"{digits or '0'}.{part or '0'}{match['power'] or ''}")
    negative = (match["sign"] or match["later"]) in ("-", "−") or bool(match["open"])
    currency = match["before"] or match["after"] or ""
    return _Cell(
        -number if negative else number, currency, bool(match["percent"]), bool(separators)
    )


def read_numbers(counts: Mapping[str, int], notation: Notation | None = None) -> Reading | None:
    """What cells stand for as numbers, in the notation in which most of them can be read.

    Parameters
    ----------
    counts : mapping of str to int
        The different cells, none of which stands for no value, and how often each is there.
    notation : {"point", "comma"} or None
        The notation that was learnt; None chooses.

    Returns
    -------
    Reading or None
        None where the cells do not agree: several currencies, or percent signs on some of them.

    Examples
    --------
    >>> read_numbers({"1,5": 1, "12,25": 2}).values
    {'1,5': 1.5, '12,25': 12.25}
    >>> read_numbers({"$5,100.00": 1, "$7": 1}).values
    {'$5,100.00': 5100.0, '$7': 7.0}
    """
    tried = [notation] if notation else ["point", "comma"]
    best: dict[str, _Cell | None] = {}
    chosen, most = "point", -1
    for name in tried:
        read = {cell: _read_cell(cell, name) for cell in counts}
        fit = sum(counts[cell] for cell, found in read.items() if found is not None)
        if fit > most:
            best, chosen, most = read, name, fit
    cells = [found for found in best.values() if found is not None]
    currencies = {cell.currency for cell in cells} - {""}
    percents = {cell.is_percent for cell in cells}
    if len(currencies) > 1 or len(percents) > 1:
        return None
    values = {
        cell: math.nan if found is None or math.isinf(found.number) else found.number
        for cell, found in best.items()
    }
    words = [
        *(["decimal comma"] if chosen == "comma" else []),
        *(["separators of thousands"] if any(cell.is_grouped for cell in cells) else []),
        *([f"currency {currencies.pop()}"] if currencies else []),
        *(["percent signs"] if True in percents else []),
    ]
    return Reading(values, "comma" if chosen == "comma" else "point", ", ".join(words))


def truths_of(cells: Iterable[str]) -> dict[str, float] | None:
    """0 and 1 for cells that are all words of one pair of :data:`TRUTHS`, else None."""
    lower = {cell: cell.strip().lower() for cell in cells}
    for no, yes in TRUTHS:
        if lower and {*lower.values()} <= {no, yes}:
            return {cell: float(word == yes) for cell, word in lower.items()}
    return None


_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d{1,9})?))?"
_LATER = rf"(?:(?:T|,?\s){_TIME}\s?(?P<zone>Z|UTC|[-+]\d\d:?\d\d)?)?"
_NAMED = r"(?P<name>[A-Za-z]{3,9})\.?"
_DATES = [
    rf"(?P<year>\d{{4}})(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark)(?P<day>\d{{1,2}}){_LATER}",
    rf"(?P<first>\d{{1,2}})(?P<mark>[-/.])(?P<then>\d{{1,2}})(?P=mark)(?P<year>\d{{4}}){_LATER}",
    rf"(?P<day>\d{{1,2}})[- ]{_NAMED}[- ](?P<year>\d{{4}}){_LATER}",
    rf"{_NAMED} (?P<day>\d{{1,2}}),? (?P<year>\d{{4}}){_LATER}",
    _TIME,
]
_PATTERNS = [re.compile(pattern, re.ASCII) for pattern in _DATES]
_NAMES_OF_MONTHS = {
    spelled: number
    for number, names in enumerate(
        ("january", "february", "march", "april", "may", "june", "july", "august", "september sept",
         "october", "november", "december"), start=1,
    )
    for name in names.split()
    for spelled in (name, name[:3])
}  # fmt: skip
_EPOCH = datetime.date(1970, 1, 1).toordinal()


def _seconds(cell: str, month_first: bool) -> float | None:
    """The seconds since 1970, UTC where no zone is named; a time alone counts from midnight."""
    for pattern in _PATTERNS:
        match = pattern.fullmatch(cell.strip())
        if match is not None:
            return _moment(match.groupdict(), month_first)
    return None


def _moment(parts: Mapping[str, str | None], month_first: bool) -> float | None:
    def whole(name: str) -> int:
        return int(parts.get(name) or 0)

    days = 0
    if parts.get("year"):
        month, day = whole("month"), whole("day")
        if parts.get("name"):
            month = _NAMES_OF_MONTHS.get(str(parts["name"]).lower(), 0)
        elif parts.get("first"):
            day, month = whole("first"), whole("then")
            if month_first and parts["mark"] != ".":
                month, day = day, month
        try:
            days = datetime.date(whole("year"), month, day).toordinal() - _EPOCH
        except ValueError:
            return None
    second = float(parts.get("second") or 0)
    if whole("hour") > 24 or whole("minute") > 59 or second >= 61:
        return None
    zone = str(parts.get("zone") or "").replace(":", "").replace("UTC", "").replace("Z", "")
    offset = int(zone[0] + "1") * (60 * int(zone[1:3]) + int(zone[3:])) if zone else 0
    return 86400.0 * days + 3600.0 * whole("hour") + 60.0 * (whole("minute") - offset) + second


def read_dates(counts: Mapping[str, int], notation: Notation | None = None) -> Reading:
    """What cells stand for as dates, in seconds since 1970.

    Parameters
    ----------
    counts : mapping of str to int
        The different cells, and how often each is there.
    notation : {"day first", "month first", ""} or None
        The order that was learnt; None chooses that in which most cells can be read. Where both are
        possible, dates with points are read day first and others month first.

    Returns
    -------
    Reading
        The seconds.

    Examples
    --------
    >>> read_dates({"1970-01-02": 1}).values, read_dates({"31/01/1970": 1, "01/02/1970": 1}).notation
    ({'1970-01-02': 86400.0}, 'day first')
    """
    orders = {
        name: {cell: _seconds(cell, name == "month first") for cell in counts}
        for name in ("month first", "day first")
    }
    if notation in orders:
        return _dated(orders[str(notation)], notation)
    month, day = (orders[name] for name in ("month first", "day first"))
    if month == day:
        return _dated(month, "")
    fit = {
        name: sum(counts[cell] for cell, value in order.items() if value is not None)
        for name, order in orders.items()
    }
    if fit["day first"] > fit["month first"]:
        return _dated(day, "day first", "day first")
    doubt = " (day first is possible as well)" if fit["day first"] == fit["month first"] else ""
    return _dated(month, "month first", f"month first{doubt}")


def _dated(
    values: Mapping[str, float | None], notation: Notation | None, words: str = ""
) -> Reading:
    numbers = {cell: math.nan if value is None else value for cell, value in values.items()}
    return Reading(numbers, notation or "", words)


def mapped(cells: HostArray, values: Mapping[str, float]) -> HostArray:
    """The numbers that cells stand for, NaN where a cell is None or unknown."""
    return np.fromiter((values.get(cell, math.nan) for cell in cells), np.float64, len(cells))


def share_read(reading: Reading, counts: Mapping[str, int]) -> float:
    """The share of the cells that a reading has numbers for."""
    fit = sum(count for cell, count in counts.items() if not math.isnan(reading.values[cell]))
    return fit / max(sum(counts.values()), 1)


def odd_cells(reading: Reading, cells: Sequence[str | None]) -> list[int]:
    """The rows whose cells a reading has no number for."""
    return [
        row
        for row, cell in enumerate(cells)
        if cell is not None and math.isnan(reading.values.get(cell, math.nan))
    ]
