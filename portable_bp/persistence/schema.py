"""Checks of JSON values against a declared form: small checks, put together.

A check is a function ``check(place, value)`` that raises a ValueError which names the place, what is
needed there and what stands there. The values come from :mod:`json`, so they are None, bool, int,
float, str, list and dict and nothing else; integers may have thousands of digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from portable_bp._scalars import shown

Check: TypeAlias = Callable[[str, Any], None]

MAX_COUNT = 10**10 - 1
"""The largest number of steps or epochs."""

MAX_TEXT = 100_000


def _fail(place: str, needed: str, value: Any) -> NoReturn:
    raise ValueError(f"{place} must be {needed}, got {shown(value)}")


def integer(low: int = 0, high: int = MAX_COUNT) -> Check:
    """A whole number from ``low`` to ``high``; True is none."""

    def check(place: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            _fail(place, f"an integer from {low} to {high}", value)

    return check


def number(low: float = -math.inf, high: float = math.inf, *, finite: bool = True) -> Check:
    """A number from ``low`` to ``high`` that a float can hold.

    ``finite``: whether infinities and NaN are refused.
    """
    interval = "" if low == -math.inf and high == math.inf else f" from {low:g} to {high:g}"

    def check(place: str, value: Any) -> None:
        if type(value) is float and not math.isfinite(value):
            if finite:
                _fail(place, f"a finite number{interval}", value)
        elif type(value) not in (int, float) or not -1.7e308 <= value <= 1.7e308:
            _fail(place, "a number that a float can hold", value)
        elif not low <= value <= high:
            _fail(place, f"a number{interval}", value)

    return check


def text(place: str, value: Any) -> None:
    """Text of up to :data:`MAX_TEXT` characters, without halves of characters (surrogates)."""
    if type(value) is not str or len(value) > MAX_TEXT:
        _fail(place, f"text of at most {MAX_TEXT} characters", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        _fail(place, "text that UTF-8 can hold", value)


def choice(*values: Any) -> Check:
    """One of a few values."""

    def check(place: str, value: Any) -> None:
        if not any(type(value) is type(v) and value == v for v in values):
            _fail(place, "one of " + ", ".join(repr(v) for v in values), value)

    return check


def nullable(item: Check) -> Check:
    """None, or what ``item`` takes."""

    def check(place: str, value: Any) -> None:
        if value is not None:
            item(place, value)

    return check


def listing(item: Check, minimum: int = 0) -> Check:
    """A list of at least ``minimum`` values, each of which ``item`` takes."""

    def check(place: str, value: Any) -> None:
        if type(value) is not list or len(value) < minimum:
            _fail(place, f"a list of at least {minimum} entries" if minimum else "a list", value)
        for i, entry in enumerate(value):
            item(f"{place}[{i}]", entry)

    return check


def row(*items: Check) -> Check:
    """A list with one value for each of ``items``."""

    def check(place: str, value: Any) -> None:
        if type(value) is not list or len(value) != len(items):
            _fail(place, f"a list of {len(items)} entries", value)
        for i, (item, entry) in enumerate(zip(items, value, strict=True)):
            item(f"{place}[{i}]", entry)

    return check


def mapping(item: Check, **named: Check) -> Check:
    """An object: the keys in ``named`` are needed and have checks of their own, others ``item``."""

    def check(place: str, value: Any) -> None:
        if type(value) is not dict:
            _fail(place, "an object with keys", value)
        _need(place, value, named)
        for key, entry in value.items():
            named.get(key, item)(f"{place}[{shown(key)}]", entry)

    return check


def record(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with exactly these keys; those of ``optional`` may be missing."""
    known = {**needed, **(optional or {})}

    def check(place: str, value: Any) -> None:
        if type(value) is not dict:
            _fail(place, "an object with keys", value)
        _need(place, value, needed)
        for key, entry in value.items():
            if key not in known:
                raise ValueError(f"{place} has an unknown key {shown(key)}")
            known[key](f"{place}[{shown(key)}]", entry)

    return check


def _need(place: str, value: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    missing = names.keys() - value.keys()
    if missing:
        raise ValueError(f"{place} lacks {', '.join(repr(name) for name in sorted(missing))}")


def anything(place: str, value: Any) -> None:
    """Any value of JSON: what a callback of the user's keeps, or what is only compared."""
