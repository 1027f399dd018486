"""Writes the golden file of the present version, once: released files never change.

Run it after raising ``portable_bp.files.VERSION``: ``python tests/data/ckpt/make_golden.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from portable_bp import files


def contents() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every dtype, no axis to three axes, no rows, an odd name; every kind of JSON."""
    arrays: dict[str, Any] = {
        f"layer 0/{dtype}": np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in files.DTYPES.values()
    }
    arrays |= {
        "scalar": np.asarray(-1.5, "float32"),
        "no rows": np.empty((0, 4), "float64"),
        "three axes": np.arange(24, dtype="uint16").reshape(2, 3, 4),
        "Gewichte θ": np.asarray([1 / 3, -0.0, 5e-324]),
    }
    metadata = {
        "step": 7,
        "big": 2**127 + 1,
        "rate": 1 / 3,
        "text": 'θ "quoted" \\ \n \x00',
        "flag": True,
        "nothing": None,
        "nested": {"history": [0.5, 0.25], "empty": {}, "list": [[], [1, "a"]]},
    }
    return arrays, metadata


def main() -> None:
    path = Path(__file__).with_name(f"v{files.VERSION}.safetensors")
    if path.exists():
        raise SystemExit(f"{path} exists: raise files.VERSION first")
    files.write(path, *contents())


if __name__ == "__main__":
    main()
