"""How long the command line takes to start, as whole processes beside ``python -c pass``.

``python -m benchmarks.start`` shows it; ``--save`` writes ``benchmarks/results/start.json``. Each round
runs every case once, one after the other, so that a busy machine is busy for all of them. Wall time is
what people wait for; processor time is what other programs disturb least. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import load, machine

RECORD = Path(__file__).with_name("results") / "start.json"

READY = """
import os, sys
from portable_bp.cli import run, train
train.IntroducedBar.on_train_begin = lambda *a: os._exit(0)  # all is checked and placed
sys.exit(run(["train", "digits"]))
"""

CLI = ("-m", "portable_bp")

CASES: dict[str, tuple[tuple[str, ...], float | None]] = {
    "python -c pass": (("-c", "pass"), None),
    "portable-bp --version": ((*CLI, "--version"), 0.15),
    "portable-bp --help": ((*CLI, "--help"), 0.15),
    "portable-bp info --no-probe": ((*CLI, "info", "--no-probe"), 1.0),
    "portable-bp info": ((*CLI, "info"), 1.0),
    "portable-bp train digits, to its first epoch": (("-c", READY), 1.2),
}
"""From the name of a case to what Python is given, and the seconds that it may take."""


def once(arguments: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor that one process takes."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def measure(rounds: int, names: tuple[str, ...] = tuple(CASES)) -> dict[str, Any]:
    """Medians and quartiles of every case."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds + 1):  # the first fills the page cache
            for name in names:
                taken = once(CASES[name][0], folder)
                times[name] += [taken] if i else []
    return {
        name: {
            "wall": _summary([wall for wall, _ in taken]),
            "processor": _summary([processor for _, processor in taken]),
            "target": CASES[name][1],
        }
        for name, taken in times.items()
    }


def _summary(seconds: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles([*seconds, *seconds], n=4)
    return {"lower": round(low, 4), "median": round(middle, 4), "upper": round(high, 4)}


def table(record: dict[str, Any]) -> str:
    """The record as text."""
    lines = [f"{'':<46}{'wall':>8}{'processor':>11}{'target':>8}"]
    for name, case in record["start"].items():
        target = "" if case["target"] is None else f"{case['target']:.2f}"
        lines.append(
            f"{name:<46}{case['wall']['median']:>8.3f}{case['processor']['median']:>11.3f}{target:>8}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, and save if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--save", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    record = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "load": load(),
        "rounds": options.rounds,
        "start": measure(options.rounds),
    }
    print(table(record))
    if options.save:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
