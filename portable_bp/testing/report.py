"""What a comparison of backends says: rows, and a report of them as a table or as JSON."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from portable_bp._version import __version__
from portable_bp.backend import Backend
from portable_bp.persistence import atomic


@dataclass(frozen=True)
class Row:
    """One comparison.

    Parameters
    ----------
    what : str
        What was compared: ``"gradient"``.
    case : str
        For which activation, loss, ...: ``"gelu"``.
    dtype : str
        ``"float32"`` or ``"float64"``.
    mode : str
        ``"eager"`` or ``"compiled"``; empty where that makes no difference.
    error : float
        In units of the roundoff u.
    tolerance : float
        In the same units; 0 asks for the same bits.
    note : str
        What else is wrong: library, device, dtype, shape, numbers that are not finite.
    """

    what: str
    case: str
    dtype: str
    mode: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the error is within its tolerance, and nothing else is wrong."""
        return self.error <= self.tolerance and not self.note

    def __str__(self) -> str:
        verdict = "agrees" if self.agrees else "DISAGREES"
        parts = " ".join(p for p in (self.what, self.case, self.dtype, self.mode) if p)
        note = f": {self.note}" if self.note else ""
        return (
            f"{parts}: error {self.error:.3g} u, tolerance {self.tolerance:.3g} u, {verdict}{note}"
        )


@dataclass(frozen=True)
class Report:
    """What :func:`check_backend` found.

    Parameters
    ----------
    backend : str
        Library and device.
    date : str
        When, in UTC.
    versions : mapping
        Name of a library to its version.
    rows : tuple of Row
        The comparisons.
    skipped : mapping
        What could not be compared, and why.
    """

    backend: str
    date: str
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]

    @property
    def agrees(self) -> bool:
        """Whether every comparison agrees (and there is one)."""
        return bool(self.rows) and all(row.agrees for row in self.rows)

    def worst(self) -> list[tuple[int, Row]]:
        """For each kind of comparison, how many there were and the one nearest its tolerance.

        Returns
        -------
        list of (int, Row)
            One pair for each kind.
        """
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.what, row.dtype, row.mode), []).append(row)
        return [(len(rows), max(rows, key=_badness)) for rows in groups.values()]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it.

        Returns
        -------
        dict
            An error that is not finite becomes None.
        """
        rows = [
            {**asdict(row), "error": row.error if math.isfinite(row.error) else None}
            | {"agrees": row.agrees}
            for row in self.rows
        ]
        return {**asdict(self), "agrees": self.agrees, "rows": rows}

    def save(self, path: str | Path) -> None:
        """Write the report as JSON.

        Parameters
        ----------
        path : str or Path
            The file; one that is there is replaced.
        """
        text = json.dumps(self.as_dict(), indent=1, allow_nan=False)
        atomic.write(path, (text + "\n").encode())

    def __str__(self) -> str:
        head = ("what", "type", "how", "cases", "error", "allowed", "verdict", "worst case")
        lines = [head]
        for count, row in self.worst():
            verdict = "agrees" if row.agrees else "DISAGREES"
            numbers = ("bits", "") if not row.tolerance and not row.error else (
                f"{row.error:.3g} u", f"{row.tolerance:.3g} u"
            )  # fmt: skip
            mode = row.mode or "-"
            lines.append(
                (row.what, row.dtype, mode, str(count), *numbers, verdict, row.note or row.case)
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
        table = "\n".join(
            "  ".join((*(c.ljust(w) for c, w in zip(l, widths, strict=False)), l[-1])).rstrip()
            for l in lines
        )
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        failed = sum(not row.agrees for row in self.rows)
        verdict = (
            f"{self.backend} computes what the equations say: all {len(self.rows)} comparisons agree."
            if self.agrees
            else f"{self.backend} DISAGREES in {failed} of {len(self.rows)} comparisons."
        )
        skipped = [f"not compared: {what}: {why}" for what, why in self.skipped.items()]
        legend = "u: the roundoff, 6.0e-8 in float32 and 1.1e-16 in float64; bits: identical"
        return "\n".join([versions, "", table, "", legend, *skipped, verdict])


def _badness(row: Row) -> float:
    if row.agrees:
        return row.error / row.tolerance if row.tolerance else 0.0
    return math.inf


def library_versions(backend: Backend) -> dict[str, str]:
    """Versions of what takes part."""
    versions = {"portable_bp": __version__, "Python": platform.python_version()}
    for module in dict.fromkeys(("numpy", "array_api_compat", *backend.modules)):
        number = getattr(sys.modules.get(module), "__version__", None)
        if number:
            versions[module] = str(number)
    return versions
