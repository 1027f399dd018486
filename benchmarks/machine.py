"""The machine that figures belong to, described without a name or a path."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

LIBRARIES = (
    "numpy", "scipy", "torch", "jax", "jaxlib", "scikit-learn", "thinc", "blis", "array-api-compat",
)  # fmt: skip

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "amx_tile": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
}


def machine() -> dict[str, Any]:
    """Processor, memory, Python and libraries."""
    found = _lines("/proc/cpuinfo")
    flags = (found.get("flags") or found.get("Features") or "").split()
    memory = _lines("/proc/meminfo").get("MemTotal")
    return {
        "processor": found.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for flag, name in _INSTRUCTIONS.items() if flag in flags],
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(int(memory.split()[0]) / 2**20) if memory else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: v for name in LIBRARIES if (v := _version(name))},
    }


def sources() -> str:
    """A fingerprint of portable_bp's own code."""
    digest = hashlib.sha256()
    for path in sorted(p for d in ("portable_bp", "backends") for p in (ROOT / d).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load() -> float | None:
    """How many processes wanted to run during the last minute, where the system says so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _lines(path: str) -> dict[str, str]:
    """The first value of each key in a file of lines ``key : value``; empty where there is none."""
    found: dict[str, str] = {}
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
