"""Our estimators beside scikit-learn's: the same data, the same settings, fits in turn in one process.

    python -m benchmarks.estimators [--save] [--rounds 7] [--quick] [WORDS ...]

Both libraries fit the same table for the same number of epochs, from the same seed, once each in every
round, in an order that changes from round to round. What is reported is the median of the ratios within
a round, the first round by itself (there everything has to be got ready), and how far the loss curves
are apart: numbers that were not the same would not be worth timing.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import click
import numpy as np
import sklearn.neural_network as theirs
from sklearn.exceptions import ConvergenceWarning

import portable_bp.estimators as ours
from benchmarks.machine import ROOT, load, machine, sources

RESULTS = ROOT / "benchmarks" / "results" / "estimators.json"
FORMAT = 1

SAME = {"float64": 1e-6, "float32": 1e-2}
"""How far the losses may be apart, relatively: rounding, after as many steps as are made here."""


@dataclass(frozen=True)
class Case:
    """A table, a network and how it is trained.

    ``outputs``: classes for a classifier, 1 for a regressor. ``small``: a small table, the case in which
    what surrounds the arithmetic decides.
    """

    features: int
    hidden: tuple[int, ...]
    outputs: int
    rows: int
    epochs: int
    batch: int | str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    small: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Not float32 for L-BFGS: each line search amplifies the rounding of the one before."""
        return ("float64",) if self.settings.get("solver") == "lbfgs" else ("float64", "float32")

    @property
    def name(self) -> str:
        sizes = "-".join(map(str, (self.features, *self.hidden, self.outputs)))
        solver = self.settings.get("solver", "adam")
        batch = "all rows" if solver == "lbfgs" else f"B{self.batch}"
        return f"{sizes} {batch} {solver}"

    def data(self, dtype: str) -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        X = rng.standard_normal((self.rows, self.features)).astype(dtype)
        signal = X @ rng.standard_normal((self.features, self.outputs))
        return X, signal[:, 0] if self.outputs == 1 else signal.argmax(axis=1)

    def estimator(self, library: Any) -> Any:
        kind = library.MLPRegressor if self.outputs == 1 else library.MLPClassifier
        return kind(
            hidden_layer_sizes=self.hidden, batch_size=self.batch, max_iter=self.epochs,
            random_state=0, tol=0.0, n_iter_no_change=self.epochs, **self.settings,
        )  # fmt: skip


PLAIN = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "learning_rate_init": 0.01}
CASES = (
    Case(8, (16,), 2, 500, 5, 1, PLAIN, small=True),
    Case(8, (16,), 2, 500, 50, 32, small=True),
    Case(4, (100,), 3, 150, 200, small=True),
    Case(10, (50, 50), 1, 442, 100, small=True),
    Case(30, (64, 32), 2, 569, 50, 32, small=True),
    Case(30, (64, 32), 2, 569, 30, settings={"solver": "lbfgs"}, small=True),
    Case(64, (100,), 10, 1797, 50),
    Case(784, (100,), 10, 4000, 10),
    Case(784, (256, 128), 10, 4096, 4, 128),
    Case(784, (512, 512), 10, 4096, 2, 256),
    Case(784, (2048, 2048), 10, 2048, 1, 512),
)


def fitted(case: Case, library: Any, X: Any, y: Any) -> tuple[float, Any]:
    """Seconds that a fit takes, and the estimator."""
    est = case.estimator(library)
    gc.collect()
    start = time.perf_counter()
    est.fit(X, y)
    return time.perf_counter() - start, est


def losses(est: Any) -> Any:
    return np.array(getattr(est, "loss_curve_", [est.loss_]))


def measure(case: Case, dtype: str, rounds: int) -> dict[str, Any]:
    """Seconds of each round for both, and how far their losses are apart."""
    X, y = case.data(dtype)
    seconds: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    pair = [("ours", ours), ("scikit-learn", theirs)]
    models = {}
    for _ in range(rounds):
        pair.reverse()
        for name, library in pair:
            took, models[name] = fitted(case, library, X, y)
            seconds[name].append(float(f"{took:.4g}"))
    a, b = losses(models["ours"]), losses(models["scikit-learn"])
    difference = float(np.max(np.abs(a - b) / np.abs(b)))
    if not difference <= SAME[dtype]:
        raise click.ClickException(f"{case.name} {dtype}: the losses differ by {difference:.2g}")
    return {
        "name": case.name,
        "dtype": dtype,
        "case": asdict(case),
        "seconds": seconds,
        "difference": float(f"{difference:.2g}"),
        "loss": float(a[-1]),
    }


def ratios(entry: dict[str, Any]) -> list[float]:
    """How many times as long scikit-learn took, in each round."""
    seconds = entry["seconds"]
    return [t / o for t, o in zip(seconds["scikit-learn"], seconds["ours"], strict=True)]


def faster(entry: dict[str, Any]) -> float:
    """The median over the rounds after the first."""
    return statistics.median(ratios(entry)[1:])


HEAD = (
    "| network, batch, solver | rows x epochs | dtype | scikit-learn | portable_bp | times faster "
    "| first fit | losses differ by |\n|---|---|---|---|---|---|---|---|"
)


def row(entry: dict[str, Any]) -> str:
    """An entry as a row of the Markdown table."""
    case, seconds = entry["case"], entry["seconds"]
    slow, fast = (statistics.median(seconds[n][1:]) * 1e3 for n in ("scikit-learn", "ours"))
    return (
        f"| {entry['name']} | {case['rows']:,} x {case['epochs']} | {entry['dtype']} "
        f"| {slow:,.1f} ms | {fast:,.1f} ms | **{faster(entry):.1f}** "
        f"| {ratios(entry)[0]:.1f} | {entry['difference']:.0e} |"
    )


def summary(entries: Sequence[dict[str, Any]]) -> str:
    """A line about all of them."""
    every = [faster(e) for e in entries]
    small = [faster(e) for e in entries if e["case"]["small"]]
    found = f"Times faster: median {statistics.median(every):.1f}, least {min(every):.1f}"
    if small:
        found += f"; on small tables median {statistics.median(small):.1f}, least {min(small):.1f}"
    return f"\n{found}."


def table() -> str:
    """The committed record as Markdown."""
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = "\n".join(row(entry) for entry in record["entries"])
    m = record["machine"]
    libraries = ", ".join(f"{n} {m['libraries'][n]}" for n in ("numpy", "scipy", "scikit-learn"))
    return (
        f"{HEAD}\n{rows}\n{summary(record['entries'])} Measured on {record['date']}: "
        f"{m['processor']}, {m['cores']} cores, Python {m['python']}, {libraries}; medians of "
        f"{record['rounds'] - 1} fits after the first."
    )


@click.command()
@click.argument("words", nargs=-1)
@click.option("--rounds", default=7, help="Fits of each library, per case.", show_default=True)
@click.option("--quick", is_flag=True, help="Two rounds of the first case: does it run?")
@click.option("--save", is_flag=True, help=f"Keep the record in {RESULTS.relative_to(ROOT)}.")
def main(words: tuple[str, ...], rounds: int, quick: bool, save: bool) -> None:
    """Fit both libraries' estimators in turn; WORDS choose the cases whose names contain one."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    chosen = [c for c in CASES if not words or any(w in c.name for w in words)]
    if not chosen:
        raise click.UsageError(f"no case contains {' or '.join(words)}")
    work = [(case, dtype) for case in chosen for dtype in case.dtypes]
    if quick:
        work, rounds = work[:1], 2
    warm = CASES[1]
    for library in (ours, theirs):  # imports are not what is timed
        fitted(warm, library, *warm.data("float64"))
    before = load()
    entries = []
    print(HEAD)
    for case, dtype in work:
        entries.append(measure(case, dtype, max(2, rounds)))
        print(row(entries[-1]), flush=True)
    print(summary(entries))
    if save:
        record = {
            "format": FORMAT,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "sources": sources(),
            "load": {"before": before, "after": load()},
            "rounds": rounds,
            "entries": entries,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
