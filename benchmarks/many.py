"""Many networks side by side, beside one after the other and beside what others would write.

    python -m benchmarks.many [--save] [--rounds 5] [--quick] [WORDS ...]

Each case is timed in rounds: in every round each way runs once, in an order that changes, in one
process. What is reported is the median over the rounds of the ratio within a round (ours over the
other), after a round that gets everything ready. Run it with one thread of BLAS for the first cases
(OMP_NUM_THREADS=1), as the command line of a search with several processes would be.
"""

from __future__ import annotations

import json
import random
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import click
import numpy as np

import portable_bp
from benchmarks.machine import ROOT, load, machine, sources

RESULTS = ROOT / "benchmarks" / "results" / "many.json"
RATE = 1e-3
Way = Callable[[], Any]


@dataclass(frozen=True)
class Networks:
    """Networks of one shape that differ in their seed."""

    sizes: tuple[int, ...]
    batch: int
    count: int
    rows: int
    epochs: int

    def data(self) -> tuple[Any, Any]:
        """A table with class labels."""
        draw = np.random.default_rng(0)
        X = draw.normal(size=(self.rows, self.sizes[0])).astype(np.float32)
        return X, draw.integers(0, self.sizes[-1], self.rows)

    def many(self, backend: str) -> Way:
        """All at once."""
        X, y = self.data()
        return lambda: portable_bp.fit_many(
            self._net(), X, y, seeds=range(self.count), epochs=self.epochs, batch_size=self.batch,
            learning_rate=RATE, backend=backend,
        )  # fmt: skip

    def each(self, backend: str) -> Way:
        """One after the other."""
        X, y = self.data()
        options: dict[str, Any] = {
            "epochs": self.epochs, "batch_size": self.batch, "learning_rate": RATE,
            "backend": backend,
        }  # fmt: skip

        def run() -> None:
            for seed in range(self.count):
                portable_bp.fit(self._net(), X, y, seed=seed, **options)

        return run

    def _net(self) -> Any:
        return portable_bp.MLP(self.sizes, loss="softmax_cross_entropy")

    def vmap_torch(self) -> Way:
        """``torch.func``: stacked parameters, ``vmap`` over ``grad``, Adam as arithmetic."""
        import torch
        from torch.func import functional_call, grad, stack_module_state, vmap

        X, y = map(torch.asarray, self.data())

        def module() -> Any:
            layers: list[Any] = []
            for i, o in pairwise(self.sizes):
                layers += [torch.nn.Linear(i, o), torch.nn.ReLU()]
            return torch.nn.Sequential(*layers[:-1])

        def loss(params: Any, x: Any, t: Any) -> Any:
            return torch.nn.functional.cross_entropy(functional_call(base, params, (x,)), t)

        base, gradients = module(), vmap(grad(loss))

        def run() -> None:
            params, _ = stack_module_state([module() for _ in range(self.count)])
            params = {k: p.detach() for k, p in params.items()}
            m = {k: torch.zeros_like(p) for k, p in params.items()}
            v = {k: torch.zeros_like(p) for k, p in params.items()}
            t = 0
            for _ in range(self.epochs):
                orders = torch.stack([torch.randperm(self.rows) for _ in range(self.count)])
                for start in range(0, self.rows - self.batch + 1, self.batch):
                    rows = orders[:, start : start + self.batch]
                    g, t = gradients(params, X[rows], y[rows]), t + 1
                    rate = RATE * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
                    for k, p in params.items():
                        m[k] = 0.9 * m[k] + 0.1 * g[k]
                        v[k] = 0.999 * v[k] + 0.001 * g[k] * g[k]
                        params[k] = p - rate * m[k] / (v[k].sqrt() + 1e-8)

        return run

    def vmap_jax(self) -> Way:
        """``jax.vmap`` over ``jax.grad`` inside one ``lax.scan`` for each epoch."""
        import jax
        import jax.numpy as jnp

        X, y = map(jnp.asarray, self.data())
        steps = self.rows // self.batch

        def loss(params: Any, x: Any, t: Any) -> Any:
            for W, b in params[:-1]:
                x = jax.nn.relu(x @ W + b)
            W, b = params[-1]
            logs = jax.nn.log_softmax(x @ W + b)
            return -jnp.take_along_axis(logs, t[:, None], 1).mean()

        gradients = jax.vmap(jax.grad(loss))

        @jax.jit  # type: ignore[untyped-decorator]
        def epoch(state: Any, orders: Any) -> Any:
            def step(state: Any, rows: Any) -> Any:
                params, m, v, t = state
                g, t = gradients(params, X[rows], y[rows]), t + 1
                rate = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
                m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
                v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
                params = jax.tree.map(
                    lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v
                )
                return (params, m, v, t), None

            return jax.lax.scan(step, state, orders)[0]

        def run() -> None:
            draw = np.random.default_rng(0)
            params = [
                (
                    jnp.asarray(draw.normal(size=(self.count, i, o)) / i**0.5, "float32"),
                    jnp.zeros((self.count, o), "float32"),
                )
                for i, o in pairwise(self.sizes)
            ]
            zeros = jax.tree.map(jnp.zeros_like, params)
            state = params, zeros, zeros, jnp.asarray(0.0)
            for _ in range(self.epochs):
                orders = np.stack([draw.permutation(self.rows) for _ in range(self.count)], 1)
                whole = orders[: steps * self.batch].reshape(steps, self.batch, self.count)
                state = epoch(state, whole.swapaxes(1, 2))
            jax.block_until_ready(state)

        return run


def searches(name: str, epochs: int) -> dict[str, Way]:
    """48 candidates on 5 folds: ours, and scikit-learn's grid search in two processes."""
    import sklearn.datasets
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier as Theirs
    from sklearn.preprocessing import StandardScaler

    from portable_bp.estimators import MLPClassifier, MLPSearchCV

    X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype(np.float32)
    grid = {
        "hidden_layer_sizes": [(16,), (32,)],
        "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        "learning_rate_init": [5e-4, 1e-3, 5e-3, 1e-2],
    }
    options: dict[str, Any] = {"max_iter": epochs, "batch_size": 32, "random_state": 0}
    ours, theirs = MLPClassifier(**options), Theirs(**options)
    scores: dict[str, Any] = {}

    def run(kind: str, search: Any) -> Any:
        scores[kind] = search.fit(X, y).cv_results_["mean_test_score"]
        if len(scores) == 2:
            apart = float(np.abs(scores["ours"] - scores["theirs"]).max())
            assert apart < 0.05, f"the scores are {apart} apart"

    return {
        "ours": lambda: run("ours", MLPSearchCV(ours, grid, cv=5, refit=False)),
        "theirs": lambda: run("theirs", GridSearchCV(theirs, grid, cv=5, refit=False, n_jobs=2)),
    }


def cases(quick: bool) -> dict[str, tuple[float, Callable[[], dict[str, Way]]]]:
    """Target (ours over theirs) and what makes both ways, by name."""
    count, epochs = (8, 1) if quick else (64, 8)
    small = Networks((8, 16, 2), 32, count, 1024, epochs)
    middle = Networks((30, 64, 32, 2), 32, count, 1024, epochs)
    wide = Networks((64, 100, 10), 200, count // 4, 1800, epochs)

    def beside(networks: Networks, backend: str) -> Callable[[], dict[str, Way]]:
        return lambda: {"ours": networks.many(backend), "theirs": networks.each(backend)}

    made: dict[str, tuple[float, Callable[[], dict[str, Way]]]] = {
        "8-16-2, numpy, one by one": (0.35, beside(small, "numpy")),
        "30-64-32-2, numpy, one by one": (0.8, beside(middle, "numpy")),
        "64-100-10 B 200, numpy, one by one": (1.0, beside(wide, "numpy")),
        "8-16-2, jax, one by one": (0.5, beside(small, "jax")),
        "30-64-32-2, jax, one by one": (0.5, beside(middle, "jax")),
        "8-16-2, torch, one by one": (1.0, beside(small, "torch")),
    }
    for name, networks in (("8-16-2", small), ("30-64-32-2", middle)):
        made[f"{name}, torch, vmap"] = (
            1.0, lambda n=networks: {"ours": n.many("torch"), "theirs": n.vmap_torch()},
        )  # fmt: skip
        made[f"{name}, numpy, torch vmap"] = (
            1.0, lambda n=networks: {"ours": n.many("numpy"), "theirs": n.vmap_torch()},
        )  # fmt: skip
        made[f"{name}, jax, vmap"] = (
            1.1, lambda n=networks: {"ours": n.many("jax"), "theirs": n.vmap_jax()},
        )  # fmt: skip
    for name in ("digits", "breast_cancer"):
        made[f"search, {name}"] = (0.25, lambda n=name: searches(n, 2 if quick else 30))
    return made


def measured(ways: dict[str, Way], rounds: int) -> dict[str, Any]:
    """Seconds of each way by round, and the ratio within the rounds."""
    order = random.Random(0)
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in order.sample([*ways], len(ways)):
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {"seconds": seconds, "ratio": statistics.median(ratios)}


@click.command()
@click.argument("words", nargs=-1)
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="Rounds of each case.")
@click.option("--quick", is_flag=True, help="Small cases, to see that they run.")
@click.option("--save", is_flag=True, help="Write the record to benchmarks/results/many.json.")
def main(words: Sequence[str], rounds: int, quick: bool, save: bool) -> None:
    """Time the cases whose names have all WORDS in them."""
    warnings.simplefilter("ignore")
    before, entries = load(), []
    for name, (target, make) in cases(quick).items():
        if all(word in name for word in words):
            entry = {"name": name, "target": target, **measured(make(), rounds)}
            entries.append(entry)
            click.echo(f"{name:40} {entry['ratio']:6.2f} (target {target})")
    if save:
        record = {
            "format": 1, "date": datetime.now(UTC).isoformat(timespec="seconds"), "quick": quick,
            "machine": machine(), "load": before, "sources": sources(), "cases": entries,
        }  # fmt: skip
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
