"""
A search with all candidates side by side
=========================================

Random search over the digits: candidates of equal layers, on all folds, are trained in one step. What
it finds is better than the default, and drawn to a picture where a path is given::

    python examples/search.py search.png
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from scipy.stats import loguniform
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from portable_bp.estimators import MLPClassifier, MLPSearchCV, cross_val

SPACE = {
    "hidden_layer_sizes": [(64,), (96,)],
    "learning_rate_init": loguniform(1e-3, 2e-2),
    "alpha": loguniform(1e-4, 1.0),
    "dropout": [0.1, 0.3],
}


warnings.simplefilter("ignore", ConvergenceWarning)  # all train for twenty epochs


def main(path: str | None = None) -> None:
    digits = load_digits()
    X, y = (digits.data / 16).astype(np.float32), digits.target
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

    default = MLPClassifier(max_iter=20, tol=0, random_state=0)
    before = cross_val(default, X_train, y_train, cv=3)["test_score"].mean()
    print(f"default: cross-validation accuracy {before:.4f}")

    began = time.perf_counter()
    base = MLPClassifier(max_iter=20, tol=0, batch_size=64, random_state=0)
    search = MLPSearchCV(base, param_distributions=SPACE, n_iter=8, cv=3, random_state=0)
    search.fit(X_train, y_train)
    print(f"search: {len(search.cv_results_['params'])} candidates on 3 folds")
    print(f"  {time.perf_counter() - began:.0f} s, refit included")
    print(f"  best: {search.best_params_}")
    print(f"  cross-validation accuracy {search.best_score_:.4f}")
    print(f"  test accuracy {search.score(X_test, y_test):.4f}")
    if path is not None:
        draw(search, path)


def draw(search: MLPSearchCV, path: str) -> None:
    """Learning rate and penalty of each candidate, coloured by its score."""
    from matplotlib.figure import Figure

    results = search.cv_results_
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    points = axes.scatter(
        np.array(results["param_learning_rate_init"], float),
        np.array(results["param_alpha"], float),
        c=results["mean_test_score"],
        s=[len(h) * h[0] for h in results["param_hidden_layer_sizes"]],
    )
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="alpha")
    axes.set_title("Eight candidates; size by hidden units")
    figure.colorbar(points, label="cross-validation accuracy")
    figure.savefig(path)


if __name__ == "__main__":
    main(*sys.argv[1:2])
