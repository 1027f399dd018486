"""Tables that packages ship: our estimators for data frames beside others, in score and time.

``python -m benchmarks.tabular`` prints a Markdown table; ``--save`` writes
``benchmarks/results/tabular.json``. Every method sees the same rows of a cross-validation, fold by
fold in turn, and gets the table as it comes, as far as it takes it. Scores are accuracies and R² of the
rows left out; times are those of the process. ``--candidates`` compares settings of our own instead,
which the defaults of ``portable-bp train`` are held against. It needs
``pip install skrub statsmodels vega_datasets palmerpenguins pytabkit``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from benchmarks.machine import machine

RECORD = Path(__file__).with_name("results") / "tabular.json"

SEED = 0

Loaded = tuple[pd.DataFrame, str]


def _vega(name: str) -> pd.DataFrame:
    return getattr(import_module("vega_datasets").local_data, name)()


def _statsmodels(name: str) -> pd.DataFrame:
    return import_module(f"statsmodels.datasets.{name}").load_pandas().data


def _sklearn(name: str) -> Loaded:
    bunch = getattr(import_module("sklearn.datasets"), f"load_{name}")(as_frame=True)
    names = getattr(bunch, "target_names", None)
    frame = bunch.frame
    if names is not None and name != "diabetes":
        frame = frame.assign(target=[str(names[code]) for code in frame["target"]])
    return frame, "target"


def _star98() -> Loaded:
    frame = _statsmodels("star98")
    share = frame["NABOVE"] / (frame["NABOVE"] + frame["NBELOW"])
    return frame.drop(columns=["NABOVE", "NBELOW"]).assign(above=share), "above"


TABLES: dict[str, Callable[[], Loaded]] = {
    "penguins": lambda: (import_module("palmerpenguins").load_penguins(), "species"),
    "cars": lambda: (_vega("cars").dropna(subset=["Miles_per_Gallon"]), "Miles_per_Gallon"),
    "seattle-weather": lambda: (_vega("seattle_weather"), "weather"),
    "fair": lambda: (_statsmodels("fair"), "affairs"),
    "anes96": lambda: (_statsmodels("anes96").astype({"vote": str}), "vote"),
    "randhie": lambda: (_statsmodels("randhie"), "mdvis"),
    "star98": _star98,
    "breast_cancer": lambda: _sklearn("breast_cancer"),
    "wine": lambda: _sklearn("wine"),
    "diabetes": lambda: _sklearn("diabetes"),
    "digits": lambda: _sklearn("digits"),
}
"""A data frame and the name of its target."""

Make = Callable[[bool], Any]
"""From whether there are classes to an estimator."""


def _ours(**options: Any) -> Make:
    from portable_bp.tabular import TabularClassifier, TabularRegressor

    return lambda classes: (TabularClassifier if classes else TabularRegressor)(
        random_state=SEED, **options
    )


def _boosting(classes: bool) -> Any:
    from sklearn import ensemble

    name = f"HistGradientBoosting{'Classifier' if classes else 'Regressor'}"
    return getattr(ensemble, name)(categorical_features="from_dtype", random_state=SEED)


def _skrub(classes: bool) -> Any:
    from portable_bp.estimators import MLPClassifier, MLPRegressor

    skrub = import_module("skrub")
    network = MLPClassifier if classes else MLPRegressor
    return skrub.tabular_pipeline(network(random_state=SEED))


def _realmlp(classes: bool) -> Any:
    pytabkit = import_module("pytabkit")
    name = f"RealMLP_TD_{'Classifier' if classes else 'Regressor'}"
    return getattr(pytabkit, name)(device="cpu", random_state=SEED, verbosity=0, n_threads=1)


METHODS: dict[str, Make] = {
    "portable_bp": _ours(),
    "HistGradientBoosting": _boosting,
    "skrub + MLP": _skrub,
    "RealMLP-TD": _realmlp,
}

CANDIDATES: dict[str, Make] = {
    "30 epochs, rate 0.002": _ours(),
    "30 epochs, rate 0.005": _ours(learning_rate_init=5e-3),
    "100 epochs": _ours(max_iter=100),
    "100, stopped early": _ours(max_iter=100, early_stopping=True),
    "no dropout": _ours(dropout=0.0),
    "dropout 0.3, rate 0.005": _ours(dropout=0.3, learning_rate_init=5e-3),
}
"""Ours with the defaults, and with others."""


def _for_boosting(X: pd.DataFrame) -> pd.DataFrame:
    """Text as categories and dates as numbers: all that these estimators take."""
    X = X.copy()
    for name in X:
        if pd.api.types.is_datetime64_any_dtype(X[name]):
            X[name] = X[name].astype("int64")
        elif not pd.api.types.is_numeric_dtype(X[name]):
            X[name] = X[name].astype("category")
            if X[name].nunique() > 250:  # more than it takes
                X = X.drop(columns=name)
    return X


def _rows(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    return frame.sample(most, random_state=SEED) if len(frame) > most else frame


def compare(
    methods: Mapping[str, Make], loaded: Loaded, folds: int, most: int
) -> dict[str, dict[str, float]]:
    """Scores and times of all methods on one table."""
    frame, target = loaded
    frame = _rows(frame, most).reset_index(drop=True)
    X, y = frame.drop(columns=target), frame[target].to_numpy()
    classes = y.dtype.kind not in "iuf"
    kind = StratifiedKFold if classes else KFold
    splits = kind(folds, shuffle=True, random_state=SEED).split(X, y)
    results: dict[str, dict[str, list[float]]] = {
        name: {"score": [], "seconds": []} for name in methods
    }
    for train, test in splits:
        for name, make in methods.items():
            given = _for_boosting(X) if name in ("HistGradientBoosting", "RealMLP-TD") else X
            if name == "RealMLP-TD":  # it takes no missing numbers
                given = given.fillna(given.iloc[train].median(numeric_only=True))
            began = time.process_time()
            estimator = clone(make(classes)).fit(given.iloc[train], y[train])
            results[name]["seconds"].append(time.process_time() - began)
            predicted = np.asarray(estimator.predict(given.iloc[test])).ravel()
            results[name]["score"].append(_score(y[test], predicted, classes))
    return {
        name: {key: float(np.mean(values)) for key, values in lists.items()}
        for name, lists in results.items()
    }


def _score(y: Any, predicted: Any, classes: bool) -> float:
    if classes:
        return float(np.mean(y == predicted))
    return float(1 - np.sum((y - predicted) ** 2) / np.sum((y - np.mean(y)) ** 2))


def show(record: Mapping[str, Any]) -> str:
    """The record as a Markdown table: score, and seconds of the processor."""
    methods = [*next(iter(record["tables"].values()))["methods"]]
    lines = [f"| table | rows | {' | '.join(methods)} |", "|---" * (2 + len(methods)) + "|"]
    for name, row in record["tables"].items():
        cells = [f"{m['score']:.3f} ({m['seconds']:.2f} s)" for m in row["methods"].values()]
        lines.append(f"| {name} | {row['rows']:,} | {' | '.join(cells)} |")
    scores = np.array(
        [[m["score"] for m in row["methods"].values()] for row in record["tables"].values()]
    )
    cells = [f"{score:.3f}" for score in scores.mean(axis=0)]
    return "\n".join([*lines, f"| mean | | {' | '.join(cells)} |"])


def measure(
    methods: Mapping[str, Make], tables: list[str], folds: int, most: int
) -> dict[str, Any]:
    """The record."""
    rows: dict[str, Any] = {}
    for name in tables:
        loaded = TABLES[name]()
        compared = compare(methods, loaded, folds, most)
        rows[name] = {"rows": min(len(loaded[0]), most), "methods": compared}
        print(name, {m: f"{r['score']:.3f}" for m, r in compared.items()}, flush=True)
    return {"machine": machine(), "folds": folds, "most_rows": most, "tables": rows}


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write the record")
    parser.add_argument("--candidates", action="store_true", help="compare settings of our own")
    parser.add_argument("--tables", nargs="+", default=[*TABLES], choices=[*TABLES])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=5000, help="take at most so many rows")
    options = parser.parse_args(arguments)
    methods = CANDIDATES if options.candidates else {m: METHODS[m] for m in options.methods}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = measure(methods, options.tables, options.folds, options.rows)
    print(show(record))
    if options.save:
        path = RECORD.with_stem("tabular_candidates") if options.candidates else RECORD
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
