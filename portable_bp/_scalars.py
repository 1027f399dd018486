"""Checks of single values that users hand in: numbers, counts, switches. Needs no NumPy."""

from __future__ import annotations

import math
import numbers
import reprlib
from dataclasses import field, fields
from functools import partial
from typing import Any

_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = 80


def shown(value: Any) -> str:
    """``value`` as an error message shows it: short, on one line.

    >>> shown("0.1"), shown([0.0] * 1000)
    ("'0.1'", '[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ...]')
    """
    return " ".join(_repr.repr(value).split())


def positive_int(name: str, value: Any, *, least: int = 1) -> int:
    """``value`` as an int that is at least ``least``.

    >>> positive_int("epochs", 2.5)
    Traceback (most recent call last):
    TypeError: epochs must be an integer, got 2.5
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def real(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """``value`` as a finite float in the interval from ``low`` to ``high``.

    >>> real("dropout", 1.0, low=0, high=1, open_high=True)
    Traceback (most recent call last):
    ValueError: dropout must be a number in [0, 1), got 1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if not math.isfinite(number) or below or above:
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise ValueError(
            f"{name} must be a number in {left}{low:g}, {high:g}{right}, got {shown(value)}"
        )
    return number


def boolean(name: str, value: Any) -> bool:
    """``value``, which must be True or False: the text "False" would count as true.

    >>> boolean("shuffle", "False")
    Traceback (most recent call last):
    TypeError: shuffle must be True or False, got 'False'
    """
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def hyperparameter(
    default: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    name: str | None = None,
) -> Any:
    """A field of a dataclass that holds a finite number of the interval from ``low`` to ``high``.

    :func:`check_hyperparameters` checks it; ``name`` is what messages call it, if not the field's.
    """
    check = partial(real, low=low, high=high, open_low=open_low, open_high=open_high)
    return field(default=default, metadata={"check": check, "name": name})


def count(default: int | None, *, least: int) -> Any:
    """A field that holds an integer of at least ``least``; with None as its default, or None."""
    return field(default=default, metadata={"check": partial(positive_int, least=least)})


def check_hyperparameters(settings: Any) -> None:
    """Check each field of a dataclass by its own rule; one without a rule by its default's type.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Settings:
    ...     rate: float = hyperparameter(0.1, low=0)
    ...     momentum: float = 0.9
    >>> check_hyperparameters(Settings(momentum=math.nan))
    Traceback (most recent call last):
    ValueError: momentum must be a number in (-inf, inf), got nan
    """
    for f in fields(settings):
        value, check = getattr(settings, f.name), f.metadata.get("check")
        if check is None and isinstance(f.default, float):
            check = real
        if check is not None and not (value is None and f.default is None):
            check(f.metadata.get("name") or f.name, value)
