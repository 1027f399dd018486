"""Tables as people have them: each fault of real files in one of them at least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 80


@dataclass(frozen=True)
class Messy:
    """A table in a file.

    Attributes
    ----------
    target : the column to learn
    kinds : what its columns are, the target included
    columns : their cells, as text
    separator : what stands between them in the file
    words : what the command has to say of it
    task : what is learnt
    encoding : that of the file
    write : how it is written, unless as text
    """

    target: str
    kinds: dict[str, str]
    columns: dict[str, Sequence[Any]]
    separator: str = ","
    words: tuple[str, ...] = ()
    task: str = "classification"
    encoding: str = "utf-8"
    write: Callable[[Path, dict[str, Sequence[Any]]], Path] | None = field(default=None)

    def save(self, folder: Path, columns: dict[str, Sequence[Any]], name: str) -> Path:
        """Write some columns."""
        if self.write is not None:
            return self.write(folder / name, columns)
        path = folder / f"{name}.csv"
        lines = [[*columns], *zip(*columns.values(), strict=True)]
        quoted = [
            [f'"{c}"' if self.separator in str(c) else str(c) for c in line] for line in lines
        ]
        path.write_text("\n".join(map(self.separator.join, quoted)) + "\n", encoding=self.encoding)
        return path


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _gaps(cells: Sequence[Any], mark: str, every: int, start: int = 3) -> list[Any]:
    return [mark if i % every == start else cell for i, cell in enumerate(cells)]


def _kinds(i: int) -> str:
    return ("Adelie", "Gentoo", "Chinstrap")[i % 3]


def _measures(seed: int, digits: int = 1) -> list[str]:
    noise = _rng(seed).normal(size=ROWS)
    return [f"{40 + 4 * (i % 3) + noise[i]:.{digits}f}" for i in range(ROWS)]


def _dates(form: str) -> list[str]:
    days = np.arange("2020-01-01", "2023-12-31", 17, dtype="M8[D]")[:ROWS]
    return [day.item().strftime(form) for day in days]


def _parquet(path: Path, columns: dict[str, Sequence[Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    path = path.with_suffix(".parquet")
    parquet.write_table(pa.table(dict(columns)), path)
    return path


SPECIES = [_kinds(i) for i in range(ROWS)]
AMOUNTS = (1000 + 250 * _rng(1).normal(size=ROWS) ** 2).round(2)
ISLANDS = [("Biscoe", "Dream", "Torgersen", "Dream")[i % 4] for i in range(ROWS)]

TABLES: dict[str, Messy] = {
    "text and NA": Messy(
        "species",
        {"species": "target", "island": "category", "bill": "number", "sex": "boolean"},
        {"species": SPECIES, "island": ISLANDS, "bill": _gaps(_measures(2), "NA", 9),
         "sex": _gaps([("yes", "no")[i % 2] for i in range(ROWS)], "NA", 11)},
        words=("missing: median", "3 values, one input each"),
    ),
    "question marks": Messy(
        "power",
        {"power": "target", "weight": "number", "origin": "category"},
        {"power": _gaps([f"{90 + i % 37}" for i in range(ROWS)], "?", 20),
         "weight": _gaps(_measures(3), "?", 13), "origin": ISLANDS},
        words=("4 rows without it left out",), task="regression",
    ),
    "dashes": Messy(
        "grade",
        {"grade": "target", "points": "number", "level": "category"},
        {"grade": _gaps([f"{i % 4}" for i in range(ROWS)], "-", 16),
         "points": _gaps(_measures(4), "-", 7), "level": _gaps(ISLANDS, "–", 10)},
        words=("5 rows without it left out", "4 classes"),
    ),
    "money": Messy(
        "price",
        {"price": "target", "cost": "number", "shop": "category"},
        {"price": [f"${a:,.2f}" for a in AMOUNTS], "cost": [f"€ {a / 3:,.0f}" for a in AMOUNTS],
         "shop": ISLANDS},
        words=("currency $", "currency €", "separators of thousands"), task="regression",
    ),
    "percent": Messy(
        "share",
        {"share": "target", "rate": "number", "kind": "category"},
        {"share": [f"{a / 50:.1f}%" for a in AMOUNTS], "rate": [f"{i % 23}%" for i in range(ROWS)],
         "kind": SPECIES},
        words=("percent signs",), task="regression",
    ),
    "decimal comma": Messy(
        "y",
        {"y": "target", "temp": "number", "sum": "number"},
        {"y": [f"{a / 7:.2f}".replace(".", ",") for a in AMOUNTS],
         "temp": [m.replace(".", ",") for m in _measures(5)],
         "sum": [f"{a:,.2f}".translate(str.maketrans(",.", ".,")) for a in AMOUNTS]},
        separator=";", words=("decimal comma",), task="regression",
    ),
    "index of pandas": Messy(
        "species",
        {"species": "target", "n": "identifier", "bill": "number", "big": "boolean"},
        {"": range(ROWS), "n": range(1, ROWS + 1), "bill": _measures(6),
         "big": [("True", "False")[i % 2] for i in range(ROWS)], "species": SPECIES},
        words=("an index without a name, is left out", "counts the rows"),
    ),
    "missing targets": Messy(
        "survived",
        {"survived": "target", "age": "number", "name": "text", "ticket": "category"},
        {"survived": _gaps([("true", "false")[i // 2 % 2] for i in range(ROWS)], "", 10),
         "age": _gaps(_measures(7), "", 6), "name": [f"Person {i}, the" for i in range(ROWS)],
         "ticket": [f"T{i % 9}" for i in range(ROWS)]},
        words=("8 rows without it left out", "left out: another text in each row"),
    ),
    "codes, constants, identifiers": Messy(
        "class",
        {"class": "target", "zip": "category", "customer_id": "identifier", "unit": "constant",
         "many": "category", "x": "number"},
        {"class": SPECIES, "zip": [f"{10 + i % 3:05d}" for i in range(ROWS)],
         "customer_id": [9000 + 7 * (i * 37 % ROWS) for i in range(ROWS)], "unit": ["cm"] * ROWS,
         "many": [f"v{i % 35}" for i in range(ROWS)], "x": _measures(8)},
        words=("leading zeros: codes", "every row has 'cm'", "rare ones together"),
    ),
    "dates": Messy(
        "weather",
        {"weather": "target", "date": "date", "seen": "date", "wind": "number", "Straße": "category"},
        {"weather": [("sun", "rain")[i // 5 % 2] for i in range(ROWS)], "date": _dates("%Y-%m-%d"),
         "seen": _gaps(_dates("%d/%m/%Y 10:30"), "", 15), "wind": _measures(9),
         "Straße": [("Süd", "Nord", "Öst")[i % 3] for i in range(ROWS)]},
        words=("day first", "cycle", "Latin-1"), encoding="latin-1",
    ),
    "one bad cell": Messy(
        "y",
        {"y": "target", "x": "number", "when": "date"},
        {"y": [f"{a:.1f}" for a in AMOUNTS], "x": _gaps(_measures(10), "n. d.", 50),
         "when": _gaps(_dates("%B %d, %Y"), "unknown", 60)},
        words=("'n. d.', line 5", "'unknown', line 5"), task="regression",
    ),
    "types of Parquet": Messy(
        "label",
        {"label": "target", "time": "date", "flag": "number", "amount": "number", "list": "unusable",
         "word": "category"},
        {"label": _gaps(SPECIES, None, 20),
         "time": [np.datetime64("2021-03-01T05:00:00") + 58620 * i for i in range(ROWS)],
         "flag": _gaps([i % 3 == 0 for i in range(ROWS)], None, 8),
         "amount": _gaps(AMOUNTS.tolist(), None, 12), "list": [[i] for i in range(ROWS)],
         "word": _gaps(ISLANDS, None, 9)},
        write=_parquet, words=("4 rows without it left out", "neither numbers nor text nor dates"),
    ),
}  # fmt: skip
