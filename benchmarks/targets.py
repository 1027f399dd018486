"""What was asked for on a CPU of two cores, in float32, before the first line was written; and whether
it was reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import SHAPES, Case
from benchmarks.race import best, ratio

BEST = "best peer"
PEERS = ("scikit-learn", "torch eager", "torch.compile", "jax.jit", "jax scan", "thinc")


@dataclass(frozen=True)
class Target:
    """The time of a step of ours is at most ``limits[other]`` of that of each other."""

    what: str
    shapes: tuple[Case, ...]
    limits: dict[str, float]
    ours: str = "ours numpy"


def _shapes(*names: str) -> tuple[Case, ...]:
    found = tuple(s for s in SHAPES if s.shape in names)
    assert len(found) == len(names)
    return found


TARGETS = (
    Target("tiny nets", _shapes("8-16-2 B32", "30-64-32-2 B32"),
           {"jax.jit": 0.7, "torch eager": 1 / 10, "scikit-learn": 1 / 6}),
    Target("one example per step", _shapes("8-16-2 B1"),
           {"jax.jit": 0.5, "torch eager": 1 / 15, "scikit-learn": 1 / 8}),
    Target("digits", _shapes("64-100-10 B200", "64-100-10 full batch 1797"),
           {"jax.jit": 0.9, "torch eager": 0.4, "scikit-learn": 0.5}),
    Target("784-256-128-10", _shapes("784-256-128-10 B128"),
           {"floor": 1.3, "jax.jit": 0.85, "torch eager": 0.7, "scikit-learn": 0.5}),
    Target("wide and big nets", _shapes("784-512-512-10 B256", "784-2048-2048-10 B512"),
           {"floor": 1.25, BEST: 1.0}),
    Target("our JAX backend, every net", SHAPES, {"jax scan": 1.1}, "ours jax"),
    Target("our torch backend, every net", SHAPES, {"torch eager": 1.0}, "ours torch"),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """``measured``: the median of the ratios within a round; ``least``: the ratio of the minima.

    ``other`` names the peer where the target says the best one.
    """

    target: Target
    case: str
    other: str
    limit: float
    measured: float
    least: float

    @property
    def met(self) -> bool:
        """By the median."""
        return self.measured <= self.limit


def verdicts(entries: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Every limit of every target for every case that was timed."""
    found = []
    for target in TARGETS:
        sizes = [(list(s.sizes), s.batch) for s in target.shapes]
        for entry in entries:
            case = entry["case"]
            if (list(case["sizes"]), case["batch"]) not in sizes:
                continue
            for other, limit in target.limits.items():
                peer = best(entry, PEERS) if other == BEST else other
                measured = None if peer is None else ratio(entry, target.ours, peer)
                if peer is not None and measured is not None:
                    name = f"{other}, {peer}" if other == BEST else peer
                    found.append(Verdict(target, entry["name"], name, limit, *measured))
    return found
