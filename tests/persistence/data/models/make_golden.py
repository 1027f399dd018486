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


def untidy_table() -> Table:
    """Text, dates, truth values and missing numbers."""
    n = 80
    cells = {
        "price": [None if i % 9 == 4 else f"{i % 7},{i % 10}" for i in range(n)],
        "town": [("Bern", "Ōsaka", None, "Bern")[i % 4] for i in range(n)],
        "open": [("yes", "no")[i // 3 % 2] for i in range(n)],
        "kind": [("above θ", "below")[i % 7 > 3] for i in range(n)],
    }
    days = np.datetime64("2020-01-01") + 5 * np.arange(n)
    return Table("golden", {**{k: np.asarray(v, object) for k, v in cells.items()}, "day": days})


def columns_model() -> tabular.TabularModel:
    """A model whose columns were inferred."""
    ready = tabular.prepare_inferred(untidy_table(), "kind", seed=1)
    model = portable_bp.fit(
        ready.network([4]), *ready.part(ready.parts.train), epochs=60, learning_rate=0.05, seed=1
    )
    return tabular.TabularModel(ready.preparation, model)


def main() -> None:
    folder = Path(__file__).parent
    kinds = ("model", "tabular", "columns")
    names = [f"{kind}-v{container.VERSION}.safetensors" for kind in kinds]
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
    columns_model().save(folder / names[2])


if __name__ == "__main__":
    main()
