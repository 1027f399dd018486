"""Train on the handwritten digits, look at a few predictions, save the model and load it again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import portable_bp


def main() -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16  # pixels to [0, 1]
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:1400], order[1400:]

    net = portable_bp.MLP([64, 100, 10], hidden="relu", loss="softmax_cross_entropy")
    print(net, f"with {net.n_parameters:,} parameters")
    model = portable_bp.fit(
        net, X[train], y[train], epochs=40, batch_size=32, validation=0.15, early_stopping=8,
        backend="auto",
    )  # fmt: skip
    print(f"trained on {model.backend.spec} for {len(model.history['loss'])} epochs")
    print(f"test accuracy {model.score(X[test], y[test]):.4f}")
    print("predicted", model.predict(X[test[:10]]), "truth", y[test[:10]])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.safetensors"
        model.save(path)
        again = portable_bp.load(path)
        same = np.array_equal(again.predict(X[test]), model.predict(X[test]))
        print(f"saved and loaded: {path.stat().st_size:,} bytes, same predictions: {same}")


if __name__ == "__main__":
    main()
