"""Two pictures of a record: who is how fast, and how the cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.race import best, ratio
from benchmarks.tables import of_optimizer, shape
from benchmarks.targets import PEERS

STYLE = {
    "ours numpy": ("tab:blue", "o"),
    "ours jax": ("tab:green", "o"),
    "ours torch": ("tab:red", "o"),
    "scikit-learn": ("tab:orange", "s"),
    "torch eager": ("tab:red", "s"),
    "torch.compile": ("tab:red", "^"),
    "jax.jit": ("tab:green", "s"),
    "jax scan": ("tab:green", "^"),
    "thinc": ("tab:purple", "s"),
    "floor": ("black", "|"),
}
"""Colour by library; a circle is ours."""


def draw(record: dict[str, Any], directory: Path) -> list[Path]:
    """``cpu.png`` and ``cpu_growth.png``, as far as the record has the parts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn = []
    for part, name, picture in (
        ("training", "cpu.png", _race),
        ("growth", "cpu_growth.png", _growth),
    ):
        if part in record:
            figure = picture(plt, record[part])
            figure.savefig(
                directory / name, dpi=110, bbox_inches="tight", metadata={"Software": ""}
            )
            plt.close(figure)
            drawn.append(directory / name)
    return drawn


def _race(plt: Any, part: dict[str, Any]) -> Any:
    """For each network the time per step, as a multiple of that of ``ours numpy``."""
    entries = of_optimizer(part["cases"], "adam") or part["cases"]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(entries) + 1.5))
    for name, (colour, mark) in STYLE.items():
        found = [(r[0], -i) for i, e in enumerate(entries) if (r := ratio(e, name, "ours numpy"))]
        if found:
            axes.plot(
                *zip(*found, strict=True),
                mark,
                color=colour,
                label=name,
                markersize=8 if mark != "|" else 16,
            )
    peers = [best(e, PEERS) for e in entries]
    labels = [f"{shape(e)}\nbest peer: {p}" for e, p in zip(entries, peers, strict=True)]
    axes.set_yticks([-i for i in range(len(entries))], labels, fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="tab:blue", linewidth=0.8)
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.set_xlabel(
        "time per training step, as a multiple of portable_bp on NumPy (left is faster)"
    )
    axes.legend(ncols=5, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _growth(plt: Any, part: dict[str, Any]) -> Any:
    """Four axes in double logarithms; the dotted line is growth in proportion to the work."""
    figure, places = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    for panel, (axis, entries) in zip(places.flat, part["axes"].items(), strict=True):
        for name, (colour, mark) in STYLE.items():
            x, seconds = growth.curve(axis, entries, name)
            if len(x):
                panel.loglog(x, seconds * 1e6, marker=mark, color=colour, label=name)
                if name == "floor":
                    power = growth.POWERS[axis]
                    panel.loglog(x, seconds[-1] * 1e6 * (x / x[-1]) ** power, ":", color="gray")
        panel.set_xlabel(axis)
        panel.set_ylabel("µs")
        panel.set_title(growth.MEANS[axis], fontsize=9)
        panel.grid(which="both", alpha=0.2)
    places.flat[0].legend(fontsize=8)
    return figure
