"""Writes the golden files of the present version, once: released files never change.

Run it after raising ``portable_bp.persistence.container.VERSION``:
``python tests/persistence/data/ckpt/make_golden.py``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import portable_bp
from portable_bp import schedules
from portable_bp.persistence import container


def contents() -> tuple[dict[str, Any], dict[str, Any]]:
    """Every dtype, no axis to three axes, no rows, an odd name; every kind of JSON."""
    arrays: dict[str, Any] = {
        f"layer 0/{dtype}": np.arange(6).reshape(2, 3).astype(dtype)
        for dtype in container.DTYPES.values()
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


def run(**options: Any) -> portable_bp.Model:
    """Twelve steps in three epochs, with whatever a checkpoint has to remember."""
    X = np.sin(np.arange(60.0)).reshape(20, 3)
    net = portable_bp.MLP([3, 4, 1], portable_bp.activations.leaky_relu(0.2), l2=0.01, dropout=0.1)
    return portable_bp.fit(
        net, X, X[:, 0] - X[:, 1], optimizer="adamw", batch_size=4, epochs=3, validation=0.2,
        learning_rate=schedules.ReduceOnPlateau(0.1, patience=0), early_stopping=3, seed=5,
        sample_weight=1 + X[:, 2], **options,
    )  # fmt: skip


def main() -> None:
    path = Path(__file__).with_name(f"v{container.VERSION}.safetensors")
    if path.exists():
        raise SystemExit(f"{path} exists: raise container.VERSION first")
    container.write(path, *contents())
    with tempfile.TemporaryDirectory() as folder:
        run(checkpoint=folder, checkpoint_every=1, checkpoint_keep=100)
        shutil.copy(f"{folder}/ckpt-{6:010d}.safetensors", path.with_name(f"run-{path.name}"))


if __name__ == "__main__":
    main()
