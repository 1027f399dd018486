"""When does one more process pay? Latency and bytes over bandwidth, in a ring or a tree.

``python -m tools.cost_model`` prints the tables of ``docs/guide/processes.md``. Nothing in them was
measured: all rates are stated assumptions, to be replaced by what nccl-tests or the OSU benchmarks
say of a site.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Sizes = Sequence[int]


def parameters(sizes: Sizes) -> int:
    """Weights and biases of a network with these layers."""
    return sum((i + 1) * o for i, o in pairwise(sizes))


@dataclass(frozen=True)
class Link:
    """What connects two processes: seconds for a message, and bytes per second of each of them."""

    latency: float
    bandwidth: float

    def sum_seconds(self, nbytes: float, p: int) -> float:
        """A sum over ``p`` processes whose result all of them get: the quicker of ring and tree."""
        if p == 1:
            return 0.0
        ring = 2 * (p - 1) * self.latency + 2 * (p - 1) / p * nbytes / self.bandwidth
        tree = 2 * math.log2(p) * self.latency + 2 * nbytes / self.bandwidth
        return min(ring, tree)


@dataclass(frozen=True)
class Site:
    """Some processes, and what they compute and send with.

    Attributes
    ----------
    name : str
    processes : int
        The most there are.
    flops : float
        Of one process, in products as large as ours.
    floor : float
        Seconds that a step takes at least.
    within : Link
        Between the processes of a node.
    per_node : int
    between : Link, optional
        Between nodes, for each process of a node.
    jitter : float
        The deviation of the seconds that a process computes, as a share; all wait for the slowest.
    """

    name: str
    processes: int
    flops: float
    floor: float
    within: Link
    per_node: int
    between: Link | None = None
    jitter: float = field(default=0.02)

    def sum_seconds(self, nbytes: float, p: int) -> float:
        """Within the nodes, then between them (each process a part of the bytes), then within again."""
        if self.between is None or p <= self.per_node:
            return self.within.sum_seconds(nbytes, p)
        k = self.per_node
        inside = 2 * math.log2(k) * self.within.latency
        inside += 2 * (k - 1) / k * nbytes / self.within.bandwidth
        return inside + self.between.sum_seconds(nbytes / k, p // k)

    def compute_seconds(self, sizes: Sizes, rows: float) -> float:
        """A step on so many rows: a product forth and two back, 2 flops for each weight and row."""
        return max(self.floor, 6 * parameters(sizes) * rows / self.flops)

    def step_seconds(self, sizes: Sizes, rows: float, p: int) -> float:
        """A step of ``p`` processes on so many rows each, float32."""
        slowest = 1 + self.jitter * math.sqrt(2 * math.log(p)) if p > 1 else 1.0
        computed = self.compute_seconds(sizes, rows) * slowest
        return computed + self.sum_seconds(4 * (parameters(sizes) + 2), p)

    def efficiency(self, sizes: Sizes, rows: float, p: int) -> float:
        """Rows per second of ``p`` processes, as a share of ``p`` times those of one (weak scaling)."""
        return self.step_seconds(sizes, rows, 1) / self.step_seconds(sizes, rows, p)

    def best(self, sizes: Sizes, batch: int) -> tuple[int, float]:
        """For a batch of fixed size (strong scaling): the best number of processes, and its gain."""
        one = self.step_seconds(sizes, batch, 1)
        counts = [2**k for k in range(20) if 2**k <= min(self.processes, batch)]
        gain, p = max((one / self.step_seconds(sizes, batch / p, p), p) for p in counts)
        return p, gain

    def rows_needed(self, sizes: Sizes, share: float) -> int | None:
        """Rows that each process needs for this efficiency; None where the floor alone suffices."""
        sending = self.sum_seconds(4 * (parameters(sizes) + 2), self.processes)
        computing = sending * share / (1 - share)
        if computing <= self.floor:
            return None
        return math.ceil(computing * self.flops / (6 * parameters(sizes)))


NVLINK, NDR, ETHERNET = Link(4e-6, 370e9), Link(6e-6, 45e9), Link(25e-6, 2.9e9)

SITES = (
    Site("8 GPUs, NVLink", 8, 40e12, 60e-6, NVLINK, 8),
    Site("64 GPUs, 8 a node, NVLink and NDR", 64, 40e12, 60e-6, NVLINK, 8, NDR),
    Site("16 CPU nodes, 25 GbE", 16, 1e12, 20e-6, ETHERNET, 1),
    Site("1000 CPU nodes, 25 GbE", 1000, 1e12, 20e-6, ETHERNET, 1),
)

NETWORKS: dict[str, Sizes] = {
    "64-100-10": (64, 100, 10),
    "784-512-512-10": (784, 512, 512, 10),
    "four layers of 4096": (4096,) * 5,
}


def table(
    heads: Sequence[str], cell: Callable[[Site, Sizes, int], str], sizes: Sequence[int]
) -> str:
    """A table with a row for each site and network."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for site in SITES:
        for name, network in NETWORKS.items():
            cells = [site.name, name, *(cell(site, network, n) for n in sizes)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def weak() -> str:
    """The efficiency of all processes of a site, by rows for each of them."""

    def cell(site: Site, sizes: Sizes, rows: int) -> str:
        return f"{site.efficiency(sizes, rows, site.processes):.0%}"

    rows = (128, 1024, 8192)
    return table(("site", "network", *(f"{n:,} rows each" for n in rows)), cell, rows)


def strong() -> str:
    """The best number of processes for a batch, and what is gained by it."""

    def cell(site: Site, sizes: Sizes, batch: int) -> str:
        p, gain = site.best(sizes, batch)
        return "one is best" if p == 1 else f"{gain:.1f}x with {p}"

    batches = (1024, 8192, 65536)
    return table(("site", "network", *(f"batch {n:,}" for n in batches)), cell, batches)


def main() -> None:
    """Print the tables."""
    print(weak(), strong(), sep="\n\n")


if __name__ == "__main__":
    main()
