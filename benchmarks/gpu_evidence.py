"""The whole proof on a machine with a GPU, in a call or a few: ``python -m benchmarks.gpu_evidence``.

Runs the equivalence suite on every GPU backend there is, with TF32 off and on, the tests in
``tests/gpu``, and the benchmark; prints short tables and writes the record that README and
docs/gpu.md show. Parts that are run apart are put together in the record while GPU and code stay
the same. Without a GPU nothing is written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# JAX would take most of the memory at its first use, and float64 away.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("JAX_ENABLE_X64", "1")

from benchmarks import gpu_bench, tables
from benchmarks.cases import Case
from benchmarks.gpu_record import DEVICES, PATH, Record, report, sources
from benchmarks.machine import ROOT
from portable_bp import Backend, available_backends, get_backend
from portable_bp.mlp import MLP
from portable_bp.testing import Report, Row, check_backend, equivalence, tolerances
from portable_bp.testing.problems import make_problem
from portable_bp.testing.report import library_versions

PARTS = ("suite", "tests", "bench")

LIBRARIES = (
    "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "jaxlib", "numpy", "array-api-compat",
)  # fmt: skip

REHEARSED = ("optimizers", "steps")
"""The checks that a dry run makes: enough to see that the script runs."""


def gpus() -> list[tuple[str, str]]:
    """Name and driver of each GPU."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = (line.partition(", ") for line in out.splitlines() if line.strip())
    return [(name, driver) for name, _, driver in lines]


def versions() -> dict[str, str]:
    found = {"Python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- the parts ------------------------------------------------------------------------------------


def suite(specs: Iterable[str], dry: bool) -> Iterator[dict[str, Any]]:
    """The equivalence suite on each backend, then what TF32 leaves of the gradients."""
    for spec in specs:
        began = time.perf_counter()
        checked = rehearsed(spec) if dry else check_backend(spec)
        yield _summary(checked, False, time.perf_counter() - began)
        for backend, around in rough(spec):
            began = time.perf_counter()
            try:
                with around:
                    rows = tuple(rough_rows(backend))
            except Exception as error:  # a finding, as in check_backend
                note = f"{type(error).__name__}: {error}".splitlines()[0]
                rows = (Row("TF32", "", "float32", "", math.inf, 0.0, note),)
            checked = Report(backend.spec, "", {}, rows, {})
            yield _summary(checked, True, time.perf_counter() - began)


def rehearsed(spec: str) -> Report:
    where = get_backend(spec)
    rows = [
        row
        for name in REHEARSED
        for row in equivalence.CHECKS[name].rows(where, "float32", equivalence.modes(where)[-1])
    ]
    return Report(where.spec, "", library_versions(where), tuple(rows), {})


def rough(spec: str) -> Iterator[tuple[Backend, AbstractContextManager[Any]]]:
    """The backend with TF32, where there is a switch for it."""
    if spec.startswith("cupy"):
        from portable_bp_backends.cupy_backend import CupyBackend

        yield CupyBackend(int(spec.partition(":")[2] or 0), tf32=True), nullcontext()
    elif spec.startswith("torch:cuda"):
        yield get_backend(spec), gpu_bench.torch_tf32()


def rough_rows(where: Backend) -> Iterator[Row]:
    """Gradients of smooth networks, in units of 2^-11."""
    problems = {
        f"{activation}, {loss}": make_problem(MLP((64, 256, 128, 10), activation, loss), 128, "float32")
        for activation in ("tanh", "sigmoid", "gelu")
        for loss in ("squared_error", "softmax_cross_entropy")
    }  # fmt: skip
    for mode in equivalence.modes(where):
        yield from equivalence.network_rows(
            where, problems, mode, tolerance=tolerances.TF32, unit="tf32"
        )


def _summary(checked: Report, tf32: bool, seconds: float) -> dict[str, Any]:
    data = checked.as_dict()
    failed = [row for row in data["rows"] if not row["agrees"]]
    worst = []
    for count, row in checked.worst():
        kept = {k: v for k, v in asdict(row).items() if v != ""}
        kept["error"] = float(f"{row.error:.3g}") if row.error < float("inf") else None
        worst.append({**kept, "cases": count})
    print(f"{checked}\n" if failed else _line(checked, tf32), flush=True)
    return {
        "backend": checked.backend, "tf32": tf32, "agrees": checked.agrees,
        "comparisons": len(checked.rows), "seconds": round(seconds, 1),
        "skipped": dict(checked.skipped), "worst": worst, "disagree": failed,
    }  # fmt: skip


def _line(checked: Report, tf32: bool) -> str:
    return f"{checked.backend}{', TF32' if tf32 else ''}: all {len(checked.rows)} comparisons agree"


def tests(specs: Iterable[str], dry: bool) -> dict[str, Any]:
    """``pytest tests/gpu`` in a process of its own; a dry run takes one file that needs no device."""
    named = ("cupy", "torch:cuda", "cupy:1")
    given = ",".join(n for n in named if any(f"{s}:".startswith(f"{n}:") for s in specs))
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "tests.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}",
            "tests/gpu/test_gemm_arguments.py" if dry else "tests/gpu",
            *([] if dry else ["--backends", given, "--require-backends", given]),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout[-6000:] if done.returncode else done.stdout.splitlines()[-1], flush=True)
        if not results.exists():
            return {"passed": 0, "skipped": 0, "failures": [f"pytest: {done.stderr[-500:]}"]}
        cases = list(ElementTree.parse(results).iter("testcase"))
    failures = [c.get("name", "") for c in cases if {e.tag for e in c} & {"failure", "error"}]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return {
        "passed": len(cases) - skipped - len(failures), "skipped": skipped, "failures": failures,
    }  # fmt: skip


def bench(dry: bool, rounds: int) -> Iterator[dict[str, Any]]:
    """An entry for each network."""
    makers = gpu_bench.rehearsal() if dry else gpu_bench.candidates()
    cases = (Case((8, 16, 2), 32, 256),) if dry else gpu_bench.CASES
    for case in cases:
        entry = gpu_bench.compare(case, makers, 1 if dry else rounds, 0.001 if dry else 0.05)
        print(tables.speeds([entry]).markdown(), flush=True)
        for name, found in entry["candidates"].items():
            if "refused" in found:
                print(f"REFUSED {name}: {found['refused']}", flush=True)
        yield entry


def measured(part: str, specs: list[str], dry: bool, rounds: int) -> Iterator[Record]:
    """What a part adds to the record, again and again as it grows."""
    grown: list[dict[str, Any]] = []
    if part == "tests":
        yield {"tests": tests(specs, dry)}
    elif part == "suite":
        for summary in suite(specs, dry):
            grown.append(summary)
            yield {"suite": grown}
    else:
        for entry in bench(dry, rounds):
            grown.append(entry)
            yield {"timings": grown, "targets": gpu_bench.targets(grown)}


# --- the record -----------------------------------------------------------------------------------


def started(path: Path, cards: list[tuple[str, str]]) -> Record:
    """A new record, or the one that is there if it is of this GPU and this code."""
    fresh: Record = {
        "gpu": cards[0][0] if cards else None,
        "driver": cards[0][1] if cards else None,
        "devices": len(cards),
        "versions": versions(),
        "sources": sources(),
    }
    if path.exists():
        old: Record = json.loads(path.read_text())
        if all(old.get(key) == value for key, value in fresh.items()):
            return old
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", **fresh}


def write(record: Record, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_evidence", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this (repeatable)")
    parser.add_argument("--rounds", type=int, default=gpu_bench.ROUNDS, help="of each timing")
    parser.add_argument("--output", type=Path, default=PATH, help=f"by default {PATH.name}")
    parser.add_argument("--dry-run", action="store_true", help="all parts, shortened, on the CPU")
    chosen = parser.parse_args(arguments)
    there, cards = available_backends(), gpus()
    specs = [s for s in there if s.startswith(tuple(DEVICES))]
    if chosen.dry_run:
        specs = [s for s in ("numpy", "torch") if s in there]
    elif not cards or not specs:
        print("no usable GPU here: nothing is run, and no record is written")
        return 2
    record = started(chosen.output, [] if chosen.dry_run else cards)
    for part in chosen.part or PARTS:
        print(f"--- {part}", flush=True)
        for found in measured(part, specs, chosen.dry_run, chosen.rounds):
            record |= found
            if not chosen.dry_run:  # what is there stays if the rest is cut off
                write(record, chosen.output)
    print("---\n" + report({**record, "gpu": record["gpu"] or "dry run"}))
    good = all(s["agrees"] for s in record.get("suite", [])) and not record.get("tests", {}).get(
        "failures"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
