"""How the cost of a step grows with batch, width and depth, and that of an epoch with the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.race import Entry, Race, median

CANDIDATES = ("ours numpy", "ours jax", "torch eager", "scikit-learn", "floor")


def _batch(n: int) -> Case:
    return Case((64, 100, 10), n, max(512, 8 * n))


def _width(n: int) -> Case:
    return Case((64, n, n, 10), 128, 1024)


def _depth(n: int) -> Case:
    return Case((64, *[100] * n, 10), 128, 1024)


def _rows(n: int) -> Case:
    return Case((64, 100, 10), 200, n)


AXES: dict[str, tuple[Callable[[int], Case], tuple[int, ...]]] = {
    "batch": (_batch, (1, 4, 16, 64, 256, 1024, 4096)),
    "width": (_width, (16, 32, 64, 128, 256, 512, 1024, 2048)),
    "depth": (_depth, (1, 2, 4, 8, 16, 32)),
    "rows": (_rows, (1000, 4000, 16000, 64000, 256000)),
}

MEANS = {
    "batch": "64-100-10, a step of so many examples",
    "width": "64-w-w-10, a step of 128 examples",
    "depth": "64-(100 so many times)-10, a step of 128 examples",
    "rows": "64-100-10, an epoch of so many rows, 200 at a time",
}

POWERS = {"batch": 1, "width": 2, "depth": 1, "rows": 1}
"""How the number of multiplications grows: the slope that no step can avoid in the end."""


def grow(
    names: Sequence[str], points: int | None, rounds: int, seconds: float, say: Callable[..., None]
) -> dict[str, list[Entry]]:
    """Entries of a race with ``at``, the place on the axis; the first ``points`` of each axis."""
    found: dict[str, list[Entry]] = {axis: [] for axis in AXES}
    with Race("training", names) as race:
        for axis, (case, places) in AXES.items():
            for at in places[:points]:
                entry = race.entry(case(at), rounds, seconds)
                found[axis].append({"at": at, **entry})
                say(found[axis][-1])
    return found


def seconds(axis: str, entry: Entry, name: str) -> float | None:
    """Of a step; on the axis of rows, of an epoch."""
    us = median(entry, name)
    steps = entry["case"]["rows"] // entry["case"]["batch"] if axis == "rows" else 1
    return None if us is None else us * steps / 1e6


def curve(axis: str, entries: Sequence[Entry], name: str) -> tuple[Any, Any]:
    """Places and seconds of the points where the candidate was timed."""
    points = [(e["at"], s) for e in entries if (s := seconds(axis, e, name)) is not None]
    return tuple(np.array(points).reshape(-1, 2).T)  # type: ignore[return-value]


def slopes(axis: str, entries: Sequence[Entry], name: str) -> tuple[float, float] | None:
    """``d log(seconds) / d log(place)``, fitted to the first half of the points and to the second.

    The middle point belongs to both. 0: another cost hides it. 1: cost in proportion.
    """
    x, y = np.log(curve(axis, entries, name))
    if len(x) < 3:
        return None
    half = len(x) // 2
    first, second = slice(None, half + 1), slice((len(x) - 1) // 2, None)
    return float(np.polyfit(x[first], y[first], 1)[0]), float(
        np.polyfit(x[second], y[second], 1)[0]
    )
