"""How long a table takes to read, by columns and by rows, beside pandas and NumPy.

``python -m benchmarks.reading`` shows it; ``--save`` writes ``benchmarks/results/reading.json``. Every
time is that of the process (so that other programs count little) and the least of some rounds, files
being in the page cache and libraries loaded. Twice the cells should take twice the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.machine import machine
from portable_bp import datasets

RECORD = Path(__file__).with_name("results") / "reading.json"

AXES = {
    "columns": [(20, 5000), (20, 10_000), (20, 20_000)],
    "rows": [(25_000, 20), (50_000, 20), (100_000, 20)],
}
"""Shapes (rows, columns) along which a table grows."""

QUICK = {"columns": [(3, 20), (3, 40)], "rows": [(20, 3), (40, 3)]}


def write(folder: Path, rows: int, columns: int) -> dict[str, Path]:
    """The same numbers in every format."""
    matrix = np.random.default_rng(0).normal(size=(rows, columns)).round(4)
    names = [f"gene_{i:06d}" for i in range(columns)]
    frame = pd.DataFrame(matrix, columns=names)
    paths = {kind: folder / f"{rows}x{columns}.{kind}" for kind in READERS}
    frame.to_csv(paths["csv"], index=False)
    frame.to_csv(paths["tsv"], index=False, sep="\t")
    frame.to_parquet(paths["parquet"])
    np.save(paths["npy"], matrix)
    np.savez(paths["npz"], **dict(zip(names, matrix.T, strict=True)))
    return paths


def _members(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(archive)


READERS: dict[str, Callable[[Path], Any]] = {
    "csv": pd.read_csv,
    "tsv": lambda path: pd.read_csv(path, sep="\t"),
    "parquet": pd.read_parquet,
    "npy": np.load,
    "npz": _members,
}
"""How others read each format."""


def ours(path: Path) -> Any:
    """Read a table and bring it to one matrix, as a training does."""
    table = datasets.load(path)
    return table.numbers([*table.columns])


def least(read: Callable[[Path], Any], path: Path, rounds: int) -> float:
    """Seconds of the processor, the least of some rounds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        read(path)
        times.append(time.process_time() - began)
    return min(times)


def measure(axes: dict[str, list[tuple[int, int]]], rounds: int) -> dict[str, Any]:
    """Seconds for every axis, shape and format."""
    times: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:  # what is loaded at first use is not counted
        for kind, path in write(Path(folder), 3, 3).items():
            ours(path), READERS[kind](path)
    for axis, shapes in axes.items():
        times[axis] = []
        for rows, columns in shapes:
            with tempfile.TemporaryDirectory() as folder:
                for kind, path in write(Path(folder), rows, columns).items():
                    entry = {"rows": rows, "columns": columns, "format": kind}
                    entry["seconds"] = least(ours, path, rounds)
                    entry["theirs"] = least(READERS[kind], path, rounds)
                    times[axis].append(entry)
    return times


def table(record: dict[str, Any]) -> str:
    """The record as text: seconds of ours / theirs for every shape."""
    lines = []
    for axis, entries in record["reading"].items():
        for kind in READERS:
            cells = [
                f"{e['rows']} x {e['columns']}: {e['seconds']:.3f} / {e['theirs']:.3f}"
                for e in entries
                if e["format"] == kind
            ]
            lines.append(f"{axis:8} {kind:8} " + "   ".join(cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, and save if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--save", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--quick", action="store_true", help="tiny tables, one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    axes = QUICK if options.quick else AXES
    reading = measure(axes, 1 if options.quick else options.rounds)
    record = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "reading": reading}
    print(table(record))
    if options.save:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
