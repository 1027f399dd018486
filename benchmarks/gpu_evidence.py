"""The whole proof on a machine with a GPU, in one call: ``python -m benchmarks.gpu_evidence``.

Runs the tests of ``tests/gpu``, the equivalence suite with TF32 off and on, and the benchmark, on every
GPU backend there is; prints short tables and writes the record that README and docs/gpu.md show.

Each part runs on each backend in a process of its own, under a time limit: one that crashes or hangs is
written down, and the rest goes on. What has been done is not done again while GPU, versions and code
stay the same, so a call that ran out of time is simply made again. The package need not be installed.
Without a GPU, and on an emulated one, nothing is written.
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
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

# JAX would take most of the memory at its first use, and float64 away.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("JAX_ENABLE_X64", "1")

from benchmarks import gpu_bench, tables
from benchmarks.cases import Case
from benchmarks.gpu_record import DEVICES, PATH, Record, report, sources
from benchmarks.machine import ROOT, machine
from portable_bp import Backend, available_backends, get_backend
from portable_bp.backend.registry import GROUP, adapters
from portable_bp.mlp import MLP
from portable_bp.testing import Report, Row, check_backend, equivalence, tolerances
from portable_bp.testing.problems import make_problem
from portable_bp.testing.report import library_versions

PARTS = ("device", "tests", "suite", "bench")

WHEN_ASKED = ("cpu",)
"""Parts that ``--part`` alone runs: the processor of this machine."""

LIMITS = {"device": 120, "tests": 240, "suite": 240, "bench": 240, "cpu": 240}
"""Seconds that a part may take on one backend."""

LIBRARIES = (
    "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "jaxlib", "numpy", "array-api-compat",
)  # fmt: skip

REHEARSED = ("optimizers", "steps")
"""The checks that a dry run makes: enough to see that the script runs."""


def gpus() -> list[tuple[str, str]]:
    """Name and driver of each GPU, by nvidia-smi or else by the libraries that are here."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        out = ""
    lines = [line.partition(", ") for line in out.splitlines() if line.strip()]
    return [(name, driver) for name, _, driver in lines] or _by_libraries()


def _by_libraries() -> list[tuple[str, str]]:
    """In processes of their own: a device that fails there fails nobody else."""
    asked = (
        "import cupy; r = cupy.cuda.runtime; print(*(r.getDeviceProperties(i)['name'].decode()"
        " for i in range(r.getDeviceCount())), sep='\\n')",
        "import torch; print(*(torch.cuda.get_device_name(i)"
        " for i in range(torch.cuda.device_count())), sep='\\n')",
    )
    for code in asked:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        names = [line for line in done.stdout.splitlines() if line.strip()]
        if done.returncode == 0 and names:
            return [(name, "unknown") for name in names]
    return []


def registered() -> None:
    """Make the adapters known where the package is not installed, here and in what is started."""
    if any(entry.value.startswith("portable_bp_backends") for entry in entry_points(group=GROUP)):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = Path(tempfile.mkdtemp(prefix="portable_bp-"))
    info = folder / "portable_bp-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: portable-bp\nVersion: 0\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"][GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    added = [str(folder), str(ROOT), str(ROOT / "backends")]
    sys.path[:0] = added
    before = [p for p in (os.environ.get("PYTHONPATH"),) if p]
    os.environ["PYTHONPATH"] = os.pathsep.join(added + before)
    adapters.cache_clear()


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


def facts(spec: str) -> dict[str, Any]:
    """What a library says of its first device, and which libraries it has loaded; one product."""
    backend, found = get_backend(spec), {}
    with backend.scope():
        a = backend.asarray([[1.0, 2.0], [3.0, 4.0]], "float32")
        found["product"] = backend.to_numpy(backend.xp.matmul(a, a)).tolist()
    if backend.name == "cupy":
        import cupy

        known = cupy.cuda.runtime.getDeviceProperties(0)
        kept = ("major", "minor", "multiProcessorCount", "totalGlobalMem", "clockRate")
        found |= {k: known[k] for k in kept if k in known}
        found["runtime"] = cupy.cuda.runtime.runtimeGetVersion()
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = {line.split()[-1] for line in lines if "libcublas" in line or "libnvrtc" in line}
    print(f"{spec}: {found}", flush=True)
    return {"backend": spec, **found, "libraries": sorted(paths)}


def tests(spec: str, dry: bool, emulated: bool) -> dict[str, Any]:
    """The tests that are marked ``gpu``, in pytest; a dry run takes few."""
    given = {"torch:cuda:0": "torch:cuda"}.get(spec, spec.removesuffix(":0"))
    what = ["tests/gpu/test_on_gpu.py", "--backends", given, "--require-backends", given]
    if dry:
        what = ["tests/gpu/test_gemm_arguments.py"]
    if emulated:
        what = ["-p", "tests.emulated_gpu.plugin", "tests/gpu/test_on_gpu.py", "--backends", given,
                "-k", "allocates_nothing and cupy"]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "tests.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default",
            f"--junitxml={results}", *what,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout[-6000:] if done.returncode else done.stdout.splitlines()[-1], flush=True)
        if not results.exists():
            said = f"pytest: {(done.stderr or done.stdout)[-500:]}"
            return {"backend": spec, "passed": 0, "skipped": 0, "failures": [said]}
        cases = list(ElementTree.parse(results).iter("testcase"))
    failures = [c.get("name", "") for c in cases if {e.tag for e in c} & {"failure", "error"}]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return {
        "backend": spec, "passed": len(cases) - skipped - len(failures), "skipped": skipped,
        "failures": failures,
    }  # fmt: skip


def bench(makers: dict[str, gpu_bench.Make], dry: bool, rounds: int) -> Iterator[dict[str, Any]]:
    """An entry for each network, with these candidates."""
    cases = (Case((8, 16, 2), 32, 256),) if dry else gpu_bench.CASES
    for case in cases:
        entry = gpu_bench.compare(case, makers, 1 if dry else rounds, 0.001 if dry else 0.05)
        print(tables.speeds([entry]).markdown(), flush=True)
        for name, found in entry["candidates"].items():
            if "refused" in found:
                print(f"REFUSED {name}: {found['refused']}", flush=True)
        yield entry


def job(part: str, spec: str, chosen: argparse.Namespace) -> None:
    """One part on one backend, in this process; what it finds is written as it grows."""
    grown: list[dict[str, Any]] = []
    dry = chosen.dry_run
    if part == "device":
        write({"device": [facts(spec)]}, chosen.output)
    elif part == "tests":
        write({"tests": [tests(spec, dry, chosen.emulated)]}, chosen.output)
    elif part == "suite":
        for summary in suite([spec], dry):
            grown.append(summary)
            write({"suite": grown}, chosen.output)
    else:
        name, makers = "timings", gpu_bench.rehearsal if dry else gpu_bench.candidates
        if part == "cpu":
            name, makers = "cpu", lambda _: gpu_bench.on_cpu()
        for entry in bench(makers(spec), dry, chosen.rounds):
            grown.append(entry)
            write({name: grown}, chosen.output)


# --- the record -----------------------------------------------------------------------------------


def started(path: Path, cards: list[tuple[str, str]]) -> Record:
    """A new record, or the one that is there if it is of this GPU and this code."""
    fresh: Record = {
        "gpu": cards[0][0] if cards else None,
        "driver": cards[0][1] if cards else None,
        "devices": len(cards),
        "cores": machine()["cores"],
        "versions": versions(),
        "sources": sources(),
    }
    old = read(path)
    if old and all(old.get(key) == value for key, value in fresh.items()):
        return old
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", **fresh}


def read(path: Path) -> Record:
    """What is there; nothing where it cannot be read."""
    try:
        found: Record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def write(record: Record, path: Path) -> None:
    """The whole record or the one before, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


def merged(record: Record, found: Record) -> Record:
    """The record with what a job has found: on one backend, again or for the first time."""
    out = dict(record)
    for part in ("device", "tests", "suite"):
        names = {entry["backend"] for entry in found.get(part, [])}
        kept = [entry for entry in out.get(part, []) if entry["backend"] not in names]
        if part in found:
            out[part] = kept + found[part]
    if "cpu" in found:
        out["cpu"] = found["cpu"]
    for entry in found.get("timings", []):
        entries = {e["name"]: e for e in out.get("timings", [])}
        before = entries.get(entry["name"], entry)
        entries[entry["name"]] = {**entry, "candidates": before["candidates"] | entry["candidates"]}
        out["timings"] = list(entries.values())
        out["targets"] = gpu_bench.targets(out["timings"])
    return out


def attempt(part: str, spec: str, chosen: argparse.Namespace, limit: float) -> tuple[Record, str]:
    """What a job found in a process of its own, and how that ended: empty when well."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.gpu_evidence", "--job", part, spec,
                   "--output", str(results), "--rounds", str(chosen.rounds),
                   *(["--dry-run"] if chosen.dry_run else []),
                   *(["--emulated"] if chosen.emulated else [])]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=ROOT, timeout=limit, stderr=subprocess.PIPE, text=True
            )
            ended = "" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr[-800:]}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        return read(results), ended


def jobs(specs: Iterable[str], parts: Iterable[str]) -> list[tuple[str, str]]:
    """Parts on backends, CuPy first; what compiles for minutes comes last."""
    ordered = [s for name in DEVICES.values() for s in specs if s == name] or list(specs)
    found = [(part, spec) for spec in ordered for part in parts if part in PARTS]
    late = [("bench", f"{s}+inductor") for s in ordered if s.startswith("torch:cuda")]
    of_host = [(part, "numpy") for part in parts if part in WHEN_ASKED]
    return found + (late if "bench" in parts else []) + of_host


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_evidence", description=__doc__)
    parser.add_argument(
        "--part", choices=(*PARTS, *WHEN_ASKED), action="append", help="only this (repeatable)"
    )
    parser.add_argument("--rounds", type=int, default=gpu_bench.ROUNDS, help="of each timing")
    parser.add_argument(
        "--seconds", type=float, default=570, help="for all; call again for the rest"
    )
    parser.add_argument("--output", type=Path, default=PATH, help=f"by default {PATH.name}")
    parser.add_argument("--dry-run", action="store_true", help="all parts, shortened, on the CPU")
    parser.add_argument("--emulated", action="store_true", help="a dry run on an emulated GPU")
    parser.add_argument("--job", nargs=2, metavar=("PART", "SPEC"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    registered()
    if chosen.emulated and chosen.job:  # before CuPy is imported, and in this process alone
        from tests.emulated_gpu.install import install

        install()
    if chosen.job:
        job(*chosen.job, chosen)
        return 0
    if chosen.emulated:
        if not chosen.dry_run:
            parser.error("an emulated GPU makes no record: --emulated goes with --dry-run")
        return collect(["cupy:0"], [], chosen)
    there, cards = available_backends(), gpus()
    specs = [s for s in there if s.startswith(tuple(DEVICES))]
    if chosen.dry_run:
        cards, specs = [], [s for s in ("numpy", "torch") if s in there]
    elif any("emulated" in name for name, _ in cards):
        print("an emulated GPU: no record is written")
        return 2
    elif not cards or not specs:
        print("no usable GPU here: nothing is run, and no record is written")
        for adapter in adapters().values():
            print(f"  {adapter.name}: {adapter.unavailable_reason() or 'no accelerator'}")
        return 2
    return collect(specs, cards, chosen)


def collect(specs: list[str], cards: list[tuple[str, str]], chosen: argparse.Namespace) -> int:
    """Run what has not been run, one job after the other; the exit code."""
    record, began = started(chosen.output, cards), time.monotonic()
    lines = []
    for part, spec in jobs(specs, chosen.part or PARTS):
        name = f"{part} {spec}"
        if name in record.get("done", []):
            lines.append(f"{name}: done before")
            continue
        left = chosen.seconds - (time.monotonic() - began)
        if left < 5:
            lines.append(f"{name}: no time left; call again")
            continue
        print(f"--- {name}", flush=True)
        found, ended = attempt(part, spec, chosen, min(left, LIMITS[part]))
        record = merged(record, found)
        troubles = {k: v for k, v in record.get("ended_badly", {}).items() if k != name}
        record["ended_badly"] = troubles | ({name: ended} if ended else {})
        record["done"] = record.get("done", []) + ([] if ended else [name])
        lines.append(f"{name}: {ended.splitlines()[0] if ended else 'done'}")
        if not chosen.dry_run:
            write(record, chosen.output)
    print("---\n" + report({**record, "gpu": record["gpu"] or "dry run"}))
    print("---\n" + "\n".join(lines))
    good = (
        all(s["agrees"] for s in record.get("suite", []))
        and not any(t["failures"] for t in record.get("tests", []))
        and all(line.endswith(("done", "done before")) for line in lines)
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
