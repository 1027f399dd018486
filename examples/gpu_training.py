"""
Train where the arrays live
===========================

On a GPU if there is one, else on the CPU, with the same lines::

    python examples/gpu_training.py                  # the first usable accelerator, else NumPy
    python examples/gpu_training.py --backend cupy:0
    python examples/gpu_training.py --rows 200000 --epochs 5
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import portable_bp
from portable_bp import schedules


def main() -> None:
    parser = argparse.ArgumentParser(description="Train where the arrays live.")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    backend = portable_bp.get_backend(options.backend)
    print(f"backend {backend.spec}")

    # Made on the host, moved once: from here on everything stays on the device.
    rng = np.random.default_rng(0)
    X_host = rng.standard_normal((options.rows, 100), dtype="float32")
    y_host = np.argmax(X_host @ rng.standard_normal((100, 10), dtype="float32"), axis=1)
    X, y = backend.asarray(X_host), backend.asarray(y_host, backend.index_dtype)

    net = portable_bp.MLP([100, 512, 512, 10], loss="softmax_cross_entropy")
    began = time.perf_counter()
    model = portable_bp.fit(
        net, X, y, batch_size=256, epochs=options.epochs,
        learning_rate=schedules.OneCycle(3e-3), validation=0.1,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    for epoch, row in enumerate(model.history.epochs, start=1):
        print(
            f"epoch {epoch}: loss {row['loss']:.4f}, validation accuracy "
            f"{row['validation_accuracy']:.4f}, {row['seconds']:.2f} s"
        )
    out = model.forward(X[:5, ...])
    print(f"outputs are {type(out).__module__}.{type(out).__name__} of shape {tuple(out.shape)}")
    print(f"{options.epochs * options.rows / seconds:,.0f} rows per second in all")

    # A model trained on a GPU goes on without one.
    print("on the host:", model.to("numpy").predict(X_host[:5]))


if __name__ == "__main__":
    main()
