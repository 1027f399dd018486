"""One cell of text: whether it is missing, a number, or a quantity written in another way."""

from __future__ import annotations

import re

NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
"""The spellings of finite numbers that are read."""

MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
     "<NA>", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"]
)  # fmt: skip
"""Cells of CSV files that stand for no value, as in pandas and Arrow."""

DATE = (
    r"^(?:\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[-+]\d\d:?\d\d)?)?"
    r"|(?:\d{1,2}[./-]\d{1,2}[./-]\d{4}|\d{4}[./]\d{1,2}[./]\d{1,2})(?: \d\d:\d\d(?::\d\d)?)?"
    r"|\d\d:\d\d(?::\d\d(?:\.\d+)?)?)$"
)
"""The spellings of dates and times, for Python's regular expressions and for Arrow's."""

_CURRENCY = "$€£¥₹"
_QUANTITY = re.compile(
    rf"[-+−<>~≤≥≈±(]{{0,2}}(?:[{_CURRENCY}]|[A-Z]{{3}}(?=\s))?\s*+[-+−]?"
    r"(\d{1,3}(?:[.,'’_\s]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?"
    r"\s*+[^\s\d.,]{0,6}"  # a unit, a percent sign, a currency
)


def amount(cell: str) -> float | None:
    """What a cell stands for as a quantity, roughly, or None; only for judging a column by it.

    >>> amount("1.5"), amount("12,5"), amount("40%"), amount("$1,234.50"), amount("7 kg"), amount("A1")
    (1.5, 12.5, 40.0, 1234.5, 7.0, None)
    """
    if NUMBER.fullmatch(cell):
        return float(cell)
    match = _QUANTITY.fullmatch(cell.strip())
    if match is None:
        return None
    groups = re.split(r"[.,'’_\s]", match[1])
    if len(groups) == 1:
        return float(groups[0])
    return float("".join(groups[:-1]) + "." + groups[-1])


def advice(cell: str) -> str:
    """How to write a quantity that is not read as it is, or nothing."""
    if NUMBER.fullmatch(cell) or not _QUANTITY.fullmatch(cell.strip()):
        return ""
    if "%" in cell or "‰" in cell:
        return " (percent signs are not read: write 12.5 rather than 12.5%)"
    if re.search(rf"[{_CURRENCY}]|EUR|USD|GBP|CHF|JPY", cell):
        return " (currencies are not read: write 12.5 rather than $12.50)"
    if re.search(r"[^\d\s.,'’_eE+-]|[^\d]$", cell.strip()):
        return " (units and other signs are not read: write 12.5 alone)"
    if "," in cell:
        return " (decimal commas and separators of thousands are not read: write 1234.5)"
    return " (separators of thousands are not read: write 1234.5)"
