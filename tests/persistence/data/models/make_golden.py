"""Writes a saved model of each kind in the present version, once: released files never change.

Run it after raising ``portable_bp.persistence.container.VERSION``:
``python tests/persistence/data/models/make_golden.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import portable_bp
from portable_bp import activations, tabular
from portable_bp.datasets import Table
from portable_bp.persistence import container


def table() -> Table:
    """Two classes that a line parts."""
    x, y = np.sin(np.arange(80.0)).reshape(2, 40)
    kinds = np.where(x > y, "above θ", "below").astype(object)
    return Table("golden", {"x": 3 + 10 * x, "y": y, "kind": kinds})


def main() -> None:
    folder = Path(__file__).parent
    names = [f"{kind}-v{container.VERSION}.safetensors" for kind in ("model", "tabular")]
    for name in names:
        if (folder / name).exists():
            raise SystemExit(f"{name} exists: raise container.VERSION first")
    ready = tabular.prepare(table(), "kind", seed=1)
    net = ready.network([4], hidden=activations.leaky_relu(0.2), dropout=0.1, l2=0.001)
    model = portable_bp.fit(
        net, *ready.part(ready.parts.train), epochs=40, learning_rate=0.05, seed=1
    )
    model.save(folder / names[0])
    tabular.TabularModel(ready.preparation, model).save(folder / names[1])


if __name__ == "__main__":
    main()
