"""Candidates against each other: proved, then timed in rounds, each round in an order of its own.

Other people's work on the machine slows a whole round down rather than one candidate, so that the
*ratios within a round* stay what they are. They are what is reported and judged: the median over the
rounds, and beside it the ratio of the shortest times.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

from benchmarks.cases import Case, outputs, reference
from benchmarks.peers import KINDS
from benchmarks.workers import Failed, Worker

Entry = dict[str, Any]
"""A case with, for each candidate, what was measured or why nothing was: see :func:`entry`."""

LEAST = 5
"""Rounds that are run even when the time is up."""


class Race:
    """The workers of some candidates, for as many cases as wanted."""

    def __init__(self, kind: str, names: Iterable[str], worker: Any = Worker) -> None:
        self._kind = kind
        self._stack = ExitStack()
        self.workers = {n: self._stack.enter_context(closing(worker(kind, n))) for n in names}

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def entry(self, case: Case, rounds: int, seconds: float) -> Entry:
        """Prove every candidate, and time those that passed.

        Returns
        -------
        ``case``, its ``name``, and ``candidates``: for each name ``error`` (from float64),
        ``tolerance``, ``ready_s`` (seconds to the end of the first round: import, compilation) and
        ``us`` (microseconds per step, one for each round, the same rounds for all); or ``why_not``
        (it is not installed); or ``refused`` (it failed, or its numbers are not those of float64).
        """
        found = self._build(case)
        running = [n for n, result in found.items() if "error" in result]
        order = random.Random(case.name)
        start = time.perf_counter()
        for done in range(rounds):
            if done >= LEAST and time.perf_counter() - start > seconds:
                break
            for name in order.sample(running, len(running)):
                try:
                    found[name]["us"].append(float(f"{self.workers[name].time() * 1e6:.5g}"))
                except Failed as failed:
                    found[name] = failed.refused()
                    running.remove(name)
        return {"name": case.name, "case": asdict(case), "candidates": found}

    def _build(self, case: Case) -> dict[str, Any]:
        exact = outputs if self._kind == "inference" else reference
        like = {n: KINDS[self._kind][n].expects(case) for n in self.workers}
        expected = {c: exact(c) for c in set(like.values())}
        for name, worker in self.workers.items():
            worker.begin_build(case, expected[like[name]])
        found: dict[str, Any] = {}
        for name, worker in self.workers.items():
            try:
                found[name] = worker.built()
            except Failed as failed:
                found[name] = failed.refused()
            if "error" in found[name]:
                found[name] |= {
                    "error": float(f"{found[name]['error']:.2g}"),
                    "ready_s": round(found[name]["ready_s"], 2),
                    "us": [],
                }
        return found


def race(
    kind: str,
    cases: Sequence[Case],
    names: Iterable[str],
    rounds: int,
    seconds: float,
    say: Callable[[Entry], None],
) -> tuple[list[Entry], dict[str, Any]]:
    """An entry for each case; and what BLAS each candidate's process ran on at the end."""
    with Race(kind, names) as together:
        entries = []
        for case in cases:
            entries.append(together.entry(case, rounds, seconds))
            say(entries[-1])
        pools = {n: w.call("blas") for n, w in together.workers.items() if timed(entries, n)}
    return entries, pools


def timed(entries: Sequence[Entry], name: str) -> bool:
    """Whether a candidate was timed in any of the cases."""
    return any("us" in e["candidates"][name] for e in entries)


def spread(us: Sequence[float]) -> dict[str, float]:
    """Minimum, quartiles and median."""
    low, middle, high = statistics.quantiles(us, n=4, method="inclusive")
    return {"min": min(us), "q1": low, "median": middle, "q3": high}


def median(entry: Entry, name: str) -> float | None:
    us = entry["candidates"].get(name, {}).get("us")
    return statistics.median(us) if us else None


def ratio(entry: Entry, name: str, other: str) -> tuple[float, float] | None:
    """How long ``name`` takes per step, over ``other``: the median of the ratios within a round, and
    the ratio of the minima. None where one of them was not timed."""
    a, b = (entry["candidates"].get(n, {}).get("us") for n in (name, other))
    if not a or not b:
        return None
    return statistics.median(x / y for x, y in zip(a, b, strict=True)), min(a) / min(b)


def best(entry: Entry, names: Iterable[str]) -> str | None:
    """The fastest of some candidates, by the median."""
    found = {n: m for n in names if (m := median(entry, n)) is not None}
    return min(found, key=found.__getitem__) if found else None
