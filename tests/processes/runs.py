"""A program for ``mpiexec`` and ``torchrun``: many trainings, and what came out of each.

``python -m tests.processes.runs ENGINE FOLDER BACKEND CASE...`` trains the cases one after the other on
all processes, and process 0 leaves parameters and history of each in FOLDER.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import portable_bp
from portable_bp import MLP, DivergenceError, schedules
from portable_bp.processes import current

_rng = np.random.default_rng(5)
X = _rng.normal(size=(203, 6))
LABELS = (X[:, 0] > 0.3).astype(np.int64) + (X[:, 1] > 0)
Y = np.stack([X[:, 0] * X[:, 1], np.sin(X[:, 2])], axis=1)
WEIGHTS = _rng.uniform(size=203) ** 4 * (np.arange(203) % 3 > 0)
HELD = X[:31] + 0.1, LABELS[:31]
BASE = {"epochs": 3, "batch_size": 32, "learning_rate": 0.02, "dtype": "float64"}
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = (
    schedules.StepDecay(0.02, step_size=4, gamma=0.5),
    schedules.Exponential(0.02, gamma=0.9),
    schedules.InverseScaling(0.02),
    schedules.Cosine(0.02),
    schedules.LinearWarmup(0.02, warmup=5),
    schedules.OneCycle(0.02),
    schedules.ReduceOnPlateau(0.05, patience=0, threshold=0.1),
)


def _classes(**options: Any) -> MLP:
    return MLP([6, 8, 3], "tanh", loss="softmax_cross_entropy", **options)


def _cases() -> Iterator[tuple[str, Callable[..., Any]]]:
    def case(name: str, net: MLP, *data: Any, **options: Any) -> tuple[str, Callable[..., Any]]:
        return name, lambda **more: portable_bp.fit(net, *data, **BASE | options | more)

    for optimizer in OPTIMIZERS:
        yield case(f"optimizer {optimizer}", _classes(), X, LABELS, optimizer=optimizer)
    for schedule in SCHEDULES:
        yield case(
            f"schedule {schedule.name}", _classes(), X, LABELS, learning_rate=schedule, epochs=5
        )
    for loss in ("squared_error", "absolute_error", "huber", "quantile"):
        yield case(f"loss {loss}", MLP([6, 7, 2], "tanh", loss=loss), X, Y)
    yield case("loss log_loss", MLP([6, 1], loss="log_loss"), X, (LABELS > 0).astype(int))
    yield case("loss poisson", MLP([6, 7, 2], "tanh", loss="poisson"), X, np.abs(Y))
    yield case("penalties", _classes(l1=1e-3, l2=1e-2), X, LABELS)
    yield case("clip_value", _classes(), X, LABELS, clip_value=0.01)
    yield case("clip_norm", _classes(l2=1e-2), X, LABELS, clip_norm=0.05)
    yield case("weights", _classes(l2=1e-2), X, LABELS, sample_weight=WEIGHTS, clip_norm=0.05)
    yield case("weights of zero", _classes(l2=1e-2), X, LABELS, batch_size=8,
               sample_weight=np.where(np.arange(203) < 190, 0.0, 1.0), shuffle=False)  # fmt: skip
    yield case("ragged", _classes(), X, LABELS, batch_size=25)
    yield case("empty shares", _classes(), X, LABELS, batch_size=3, epochs=1)
    yield case("single rows", _classes(), X[:17], LABELS[:17], batch_size=1)
    yield case("full batch", _classes(), X, LABELS, batch_size=None, epochs=9)
    yield case("no loss", _classes(), X, LABELS, report_loss=False)
    yield case("eager", _classes(), X, LABELS, compile=False, epochs=2)
    yield case("early stopping", _classes(), X, LABELS, validation=HELD, early_stopping=2,
               epochs=40, learning_rate=0.2)  # fmt: skip
    yield case("held out", _classes(), X, LABELS, validation=0.2, sample_weight=WEIGHTS)
    yield case("regression held out", MLP([6, 7, 2], "tanh"), X, Y, validation=0.3)
    yield case("divergence", MLP([6, 7, 2], "relu"), X, Y * 1e3, optimizer="sgd",
               learning_rate=1e6)  # fmt: skip
    yield case("dropout in parts", _classes(dropout=0.3), X, LABELS, parts=12, batch_size=36)
    yield case("ordered", _classes(dropout=0.3), X, LABELS, parts=4, reduction="ordered",
               dtype="float32", batch_size=30)  # fmt: skip


def _shards(**options: Any) -> Any:
    """Each process hands in rows of its own, the first one few: all together they are X."""
    processes = current()
    edges = [
        0,
        *(40 + 163 * r // max(1, processes.size - 1) for r in range(processes.size - 1)),
        203,
    ]
    own = slice(*edges[processes.rank : processes.rank + 2])
    settings = BASE | {"batch_size": None, "epochs": 6} | options
    return portable_bp.fit(_classes(l2=1e-2), X[own], LABELS[own], shards=True, **settings)


CASES = dict(_cases()) | {
    "shards": _shards,
    "shards held out": lambda **more: _shards(
        validation=(X[current().rank :: current().size], LABELS[current().rank :: current().size]),
        early_stopping=9, **more,
    ),
}  # fmt: skip


def result(name: str, **options: Any) -> dict[str, Any]:
    """Parameters and history of a case, or its error."""
    try:
        model = CASES[name](**options)
    except DivergenceError as error:
        model, text = error.model, str(error)
    else:
        text = ""
    flat = [model.backend.to_numpy(p).reshape(-1) for pair in model.params for p in pair]
    history = {k: list(model.history[k]) for k in model.history if k != "seconds"}
    return {"params": np.concatenate(flat), "history": history, "error": text,
            "stopped": model.stopped, "best": model.best_epoch}  # fmt: skip


def main(engine: str, folder: str, backend: str, *names: str) -> None:
    with portable_bp.distributed(engine, timeout=200) as processes:
        for name in names:
            done = result(name, backend=backend)
            flat = done.pop("params")
            bits = hashlib.sha256(flat.tobytes()).hexdigest()
            done["same"] = len(set(processes.gather((bits, repr(done))))) == 1
            if processes.rank == 0:
                path = Path(folder) / name.replace(" ", "_")
                np.save(path.with_suffix(".npy"), flat)
                path.with_suffix(".json").write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
