"""What was seen on a GPU: the record, whether it is of the code as it stands, and its tables."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.machine import ROOT
from portable_bp.testing.capabilities import CAPABILITIES, missing

PATH = ROOT / "benchmarks" / "results" / "gpu.json"

Record = dict[str, Any]

NEVER: Record = {"gpu": None}
"""The record of a package that no GPU has seen."""

DEVICES = {"cupy": "cupy:0", "torch:cuda": "torch:cuda:0", "jax:gpu": "jax:gpu:0"}
"""The lines of README's table to the specs that stand for them in the record."""

EMULATED = "*emulated* by `make test`; never run"
"""CuPy itself runs in the suite, on a device that is emulated."""

_MET = {True: "met", False: "MISSED", None: "not timed"}

_ADAPTERS = {
    "cupy": ("cupy_*", "cupy_persistent/*", "numpy_plan/*", "_graph", "_runs", "_host"),
    "torch": ("torch_backend", "torch_graph", "torch_plan", "_graph", "_runs", "_host"),
    "jax": ("jax_backend", "jax_scan", "_runs", "_host"),
}
"""The files of each, by pattern; the persistent kernel is written from what the NumPy plan traces."""


def sources() -> dict[str, str]:
    """Fingerprints of the equations, of the rest that they run through, and of each adapter."""
    package, adapters = ROOT / "portable_bp", ROOT / "backends" / "portable_bp_backends"
    core = [package / "backend" / "base.py", *(package / "training").glob("*.py")]
    return {
        "equations": _fingerprint((package / "equations").glob("*.py")),
        "training": _fingerprint(core),
        **{
            k: _fingerprint(path for n in names for path in adapters.glob(f"{n}.py"))
            for k, names in _ADAPTERS.items()
        },
    }


def _fingerprint(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def load(path: Path = PATH) -> Record:
    record: Record = json.loads(path.read_text())
    return record


def status(record: Record) -> str:
    """``"never run on a GPU"``, ``"current"`` or ``"older than the code"``.

    >>> status(NEVER)
    'never run on a GPU'
    >>> status({"gpu": "H100", "sources": sources()})
    'current'
    >>> status({"gpu": "H100", "sources": {**sources(), "equations": "0"}})
    'older than the code'
    """
    if record["gpu"] is None:
        return "never run on a GPU"
    return "current" if record["sources"] == sources() else "older than the code"


def verdict(record: Record, spec: str) -> str:
    """What the record says of a device, for README."""
    suites = [s for s in record.get("suite", []) if s["backend"] == spec]
    if not suites:
        return EMULATED if spec.startswith("cupy") else "never run"
    seen = "agrees" if all(s["agrees"] for s in suites) else "DISAGREES"
    count = sum(s["comparisons"] for s in suites)
    return f"{seen}: {count} comparisons on {record['gpu']}, {record['date']}"


def devices(record: Record) -> str:
    """README: each backend, what it can do, and whether it has been run."""
    here = {
        "numpy": "CPU",
        "torch": "CPU",
        "jax": "CPU",
        "strict": "CPU",
    }
    rows = []
    for spec in (*here, *DEVICES):
        can = ", ".join(
            name for name in CAPABILITIES if name != "accelerator" and not missing(spec, name)
        )
        proof = "`make test`" if spec in here else verdict(record, DEVICES[spec])
        rows.append((f"`{spec}`", here.get(spec, "NVIDIA GPU"), can, proof))
    table = tables.Table(("backend", "device", "can", "proved by"), rows).markdown()
    meanings = "; ".join(
        f"{name}: {c.meaning}" for name, c in CAPABILITIES.items() if name != "accelerator"
    )
    return (
        f"{table.replace('---:', '---')}\n\n{meanings}.\n\n"
        "*Emulated*: CuPy itself, from its wheel, runs on a CPU with CUDA's rules for streams, memory "
        "and graphs ([what that shows](tests/emulated_gpu/README.md)). It is not a GPU.\n\n"
        f"The GPU's record is **{status(record)}**; how to make one: [docs/gpu.md](docs/gpu.md)."
    )


def report(record: Record) -> str:
    """docs/gpu.md: what the record holds."""
    if record["gpu"] is None:
        return "This package has **never been run on a GPU**: every figure below is a prediction."
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    parts = [
        f"On {record['gpu']} ({record['devices']} of them, driver {record['driver']}, {versions}), "
        f"{record['date']}; the record is {status(record)}."
    ]
    if "suite" in record:
        rows = [
            (
                s["backend"] + (", TF32" if s["tf32"] else ""), str(s["comparisons"]),
                "agrees" if s["agrees"] else "DISAGREES", _worst(s),
            )
            for s in record["suite"]
        ]  # fmt: skip
        head = ("backend", "comparisons", "verdict", "nearest its tolerance")
        parts.append(tables.Table(head, rows).markdown())
    if "tests" in record:
        for t in record["tests"]:
            failed = f", failed: {', '.join(t['failures'])}" if t["failures"] else ""
            said = f"{t['passed']} passed, {t['skipped']} skipped{failed}"
            parts.append(f"Tests on {t['backend']}: {said}.")
    for name, ended in record.get("ended_badly", {}).items():
        parts.append(f"**{name} did not end well**: {ended.splitlines()[0]}")
    if "timings" in record:
        parts.append(tables.speeds(record["timings"]).markdown())
        rows = [
            (
                f"{t['candidate']} / {t['over']}", t["case"], tables.times(t["limit"]),
                tables.times(t["found"]), _MET[t["met"]],
            )
            for t in record["targets"]
        ]  # fmt: skip
        head = ("target", "network", "at most", "found", "")
        parts.append(tables.Table(head, rows).markdown())
    if "cpu" in record:
        parts.append(f"The processor of that machine, {record['cores']} cores:")
        parts.append(tables.speeds(record["cpu"]).markdown())
    return "\n\n".join(parts)


def _worst(suite: dict[str, Any]) -> str:
    rows = [r for r in suite["worst"] if r["tolerance"]]
    if not rows:
        return tables.NOTHING
    # An error that is not finite is null in the record.
    worst = max(rows, key=lambda r: math.inf if r["error"] is None else r["error"] / r["tolerance"])
    return f"{worst['what']}: {worst['error']} u of {worst['tolerance']} u"
