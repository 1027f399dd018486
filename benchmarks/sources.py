"""How quickly ``fit`` trains on rows that stay in their files, with half of them in memory at most.

``python -m benchmarks.sources`` shows it; ``--save`` writes ``benchmarks/results/sources.json``. Every
run is a process of its own in a memory cgroup (Linux, as root; elsewhere without a limit, which the
record says), its files out of the page cache; rounds are interleaved. The memory map "before" is
trained by an earlier revision, in a worktree of this repository, for some seconds only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT, load, machine

RECORD = Path(__file__).with_name("results") / "sources.json"

BEFORE = "95de655"
"""The last revision that read a memory map row by row."""

WIDTH, CLASSES, BATCH, GROUP = 128, 10, 256, 32768

LIMITED = ("npy", "parquet columns", "parquet list", "memory map", "memory map before")
KINDS = ("memory", *LIMITED)

LEAST_LIMIT = 320 * 2**20
"""Two windows, the libraries, and a row group that is decoded."""

TARGETS = {
    "npy / memory": 0.95,
    "parquet columns / memory": 0.85,
    "parquet list / memory": 0.92,
    "memory map / memory map before": 500,
}
"""The least of each ratio of rows per second."""


def write(folder: Path, rows: int) -> None:
    """The same rows as ``.npy`` files, and as Parquet with a column each and with one of lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((WIDTH, CLASSES), dtype=np.float32)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, WIDTH))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (rows,))
    names = [f"f{j}" for j in range(WIDTH)]
    one = pa.schema([*((name, pa.float32()) for name in names), ("y", pa.int64())])
    lists = pa.schema([("x", pa.list_(pa.float32(), WIDTH)), ("y", pa.int64())])
    how: Any = {"compression": "none", "use_dictionary": False}
    with (
        pq.ParquetWriter(folder / "columns.parquet", one, **how) as columns,
        pq.ParquetWriter(folder / "list.parquet", lists, **how) as listed,
    ):
        for start in range(0, rows, GROUP):
            part = rng.standard_normal((min(GROUP, rows - start), WIDTH), dtype=np.float32)
            labels = (part @ teacher).argmax(axis=1)
            x[start : start + len(part)], y[start : start + len(part)] = part, labels
            arrays = [pa.array(np.ascontiguousarray(part[:, j])) for j in range(WIDTH)]
            columns.write_table(pa.table([*arrays, pa.array(labels)], schema=one))
            flat = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), WIDTH)
            listed.write_table(pa.table([flat, pa.array(labels)], schema=lists))
    x.flush()
    y.flush()


def work(kind: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Train for one epoch, or for some seconds; what :func:`run` asks a process for."""
    import portable_bp

    net = portable_bp.MLP([WIDTH, 256, CLASSES], loss="softmax_cross_entropy")
    settings: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, "backend": "numpy"}
    if kind == "memory map before":
        return _for_some_seconds(net, folder, seconds, settings)
    if kind == "memory":
        data: tuple[Any, ...] = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    elif kind == "memory map":
        data = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    else:
        from portable_bp import sources

        path = folder / f"{kind.rpartition(' ')[2]}.parquet"
        npy = kind == "npy"
        data = (
            sources.open(folder / "x.npy", folder / "y.npy") if npy else sources.open(path, "y"),
        )
    small = np.zeros((BATCH, WIDTH), np.float32), np.zeros(BATCH, np.int64)
    portable_bp.fit(net, *small, **settings)  # what is made once
    model = portable_bp.fit(net, *data, **settings)
    rows = len(np.load(folder / "y.npy", mmap_mode="r"))
    return {"rows": rows, "seconds": model.history["seconds"][0]}


def _for_some_seconds(
    net: Any, folder: Path, seconds: float, settings: dict[str, Any]
) -> dict[str, Any]:
    """The steps that are done in that time, by the looks of a run that is saved."""
    import portable_bp
    from portable_bp.training import checkpointing

    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    done: dict[str, float] = {}
    look: Callable[..., Any] = checkpointing.Checkpointing.look

    def noted(self: Any, trainer: Any) -> str | None:
        done.setdefault("first", time.perf_counter())
        done.setdefault("before", trainer.steps)
        done.update(steps=trainer.steps, last=time.perf_counter())
        if done["last"] - done["first"] > seconds:
            raise KeyboardInterrupt
        answer: str | None = look(self, trainer)
        return answer

    checkpointing.SIGNAL_STEPS = 2
    checkpointing.Checkpointing.look = noted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as saved:
        portable_bp.fit(net, x, y, checkpoint=saved, **settings)
    steps = done["steps"] - done["before"]
    return {"rows": steps * BATCH, "seconds": done["last"] - done["first"]}


@contextmanager
def memory_group(limit: int) -> Iterator[Path | None]:
    """A control group with a limit on memory, where one can be made."""
    tree = Path("/sys/fs/cgroup")
    first = (tree / "memory").exists()
    group = (tree / "memory" if first else tree) / f"portable-bp-{os.getpid()}"
    try:
        group.mkdir()
        name = "memory.limit_in_bytes" if first else "memory.max"
        (group / name).write_text(str(limit))
    except OSError:
        group = Path()
    try:
        yield group if group.name else None
    finally:
        if group.name:
            for _ in range(50):  # until the kernel has let the last process go
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


def run(kind: str, folder: Path, limit: int, seconds: float, before: Path) -> dict[str, Any]:
    """One process: rows per second, memory, and whether its limit was set."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    tree = before if kind == "memory map before" else ROOT
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (tree, tree / "backends", ROOT))),
    }  # fmt: skip
    # By its path: the earlier revision has no such benchmark.
    command = [sys.executable, "-P", __file__, "--work", kind, str(folder), str(seconds)]
    with memory_group(limit) as group:
        inside = group is not None and kind in LIMITED

        def enter() -> None:
            if inside and group is not None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, preexec_fn=enter, cwd=folder
        )
    if done.returncode:
        raise SystemExit(f"{kind} ended with {done.returncode}: {done.stderr[-2000:]}")
    return {"kind": kind, "limited": inside, **json.loads(done.stdout.splitlines()[-1])}


@contextmanager
def revision(name: str) -> Iterator[Path]:
    """The repository as it was at a revision, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), name], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measure(rows: int, rounds: int, seconds: float, before: str) -> dict[str, Any]:
    """All kinds, round by round, with a limit of half of the data."""
    limit = max(rows * WIDTH * 4 // 2, LEAST_LIMIT)
    runs = []
    with tempfile.TemporaryDirectory() as name, revision(before) as tree:
        folder = Path(name)
        write(folder, rows)
        for _ in range(rounds):
            for kind in KINDS:
                runs.append(run(kind, folder, limit, seconds, tree))
                print(json.dumps(runs[-1]), flush=True)
    return {
        "rows": rows, "columns": WIDTH, "bytes": rows * WIDTH * 4, "limit": limit, "before": before,
        "runs": runs, "ratios": ratios(runs),
    }  # fmt: skip


def ratios(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median over rounds of each ratio of rows per second."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for one in runs:
        rates[one["kind"]].append(one["rows"] / one["seconds"])
    return {
        name: statistics.median(
            a / b for a, b in zip(*(rates[kind] for kind in name.split(" / ")), strict=True)
        )
        for name in TARGETS
    }


def table(record: dict[str, Any]) -> str:
    """The record as text."""
    lines = []
    for kind in KINDS:
        of_kind = [r for r in record["runs"] if r["kind"] == kind]
        rate = statistics.median(r["rows"] / r["seconds"] for r in of_kind)
        peak = max(r["peak_bytes"] for r in of_kind) / 2**20
        lines.append(f"{kind:20} {rate:12,.0f} rows/s   at most {peak:6,.0f} MiB")
    for name, least in TARGETS.items():
        lines.append(f"{name:32} {record['ratios'][name]:8.2f}   target {least}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, show, and save if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--save", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--quick", action="store_true", help="fewer rows, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--before", default=BEFORE, help="the revision to compare with")
    parser.add_argument("--work", nargs=3, metavar=("KIND", "FOLDER", "SECONDS"), help="one run")
    o = parser.parse_args(arguments)
    if o.work:
        kind, folder, seconds = o.work
        found = work(kind, Path(folder), float(seconds))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**found, "peak_bytes": peak}))
        return
    rows, rounds = (1_000_000, 1) if o.quick else (o.rows, o.rounds)
    found = measure(rows, rounds, 5.0 if o.quick else 20.0, o.before)
    record = {
        "machine": machine(), "date": time.strftime("%Y-%m-%d"), "load": load(), "sources": found,
    }  # fmt: skip
    print(table(found))
    if o.save:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
