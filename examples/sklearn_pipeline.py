"""
Hyper-parameter search
======================

A grid search of scikit-learn's on the arrays you have: PyTorch's, and CuPy's where there is a
GPU.
"""

from __future__ import annotations

import os

# scikit-learn's own tools leave arrays where they are only when SciPy was told before its import.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portable_bp

# from sklearn.neural_network import MLPClassifier
from portable_bp.estimators import MLPClassifier


def search(spec: str) -> None:
    backend = portable_bp.get_backend(spec)
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

    # Only the features are moved; labels follow them.
    X_train, X_test = backend.asarray(X_train, "float32"), backend.asarray(X_test, "float32")
    pipeline = make_pipeline(
        StandardScaler(),
        MLPClassifier((64,), early_stopping=True, n_iter_no_change=3, tol=3e-3, random_state=0),
    )
    grid = {
        "mlpclassifier__learning_rate_init": [3e-3, 1e-2],
        "mlpclassifier__dropout": [0.0, 0.2],
    }
    with sklearn.config_context(array_api_dispatch=True):
        found = GridSearchCV(pipeline, grid, cv=3).fit(X_train, y_train)
        out = found.predict_proba(X_test[:5, ...])
        print(f"{backend.spec}: {len(found.cv_results_['params'])} settings, 3 folds each")
        print(f"  best: {found.best_params_}")
        print(f"  cross-validation accuracy {found.best_score_:.3f}")
        print(f"  test accuracy {found.score(X_test, y_test):.3f}")
    weights = found.best_estimator_[-1].coefs_[0]
    print(f"  predictions are {type(out).__module__}.{type(out).__name__} on {out.device}")
    print(f"  weights are {type(weights).__module__}.{type(weights).__name__} on {weights.device}")

    # A model trained on a GPU goes on without one, in scikit-learn itself if need be.
    scaler, net = found.best_estimator_
    with sklearn.config_context(array_api_dispatch=True):
        scaled = backend.to_numpy(scaler.transform(X_test))
    print(f"  the same in scikit-learn: {net.as_sklearn().score(scaled, y_test):.3f}")


def main() -> None:
    here = portable_bp.available_backends()
    gpus = [spec for spec in here if spec.startswith("cupy")][:1]
    for spec in ["torch", *gpus]:
        search(spec)
    if not gpus:
        print("CuPy has no GPU here: on a machine with one, the same lines run on it.")


if __name__ == "__main__":
    main()
