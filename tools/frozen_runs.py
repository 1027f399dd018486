"""Small runs through both doors, and what they gave: the bits that a change of the house must keep.

``python -m tools.frozen_runs`` runs all of them and writes ``tests/training/data/frozen_runs.json``.
A test runs them again: on the machine of the record bit for bit, elsewhere to rounding.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

import portable_bp
from portable_bp import MLP, EarlyStopping, schedules
from portable_bp.equations.optimizers import RMSprop
from portable_bp.estimators import MLPClassifier, MLPRegressor
from portable_bp.training import data

RECORD = Path(__file__).parent.parent / "tests/training/data/frozen_runs.json"
BACKENDS = ("numpy", "torch")

_rng = np.random.default_rng(7)
X = _rng.normal(size=(61, 4))
Y = np.stack([X[:, 0] * X[:, 1], np.sin(X[:, 2])], axis=1) + 0.1 * _rng.normal(size=(61, 2))
LABELS = (X[:, 0] > 0.3).astype(np.int64) + (X[:, 1] > 0)
BINARY = (X[:, 0] + X[:, 1] > 0).astype(np.int64)
WEIGHTS = _rng.uniform(size=61) * (np.arange(61) % 5 > 0)
SOLVERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")

Result = tuple[list[Any], list[list[float]]]


def _fit(net: MLP, x: Any, y: Any, **options: Any) -> Callable[[str], Result]:
    def run(backend: str) -> Result:
        settings = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "dtype": "float64"}
        return _of_model(portable_bp.fit(net, x, y, backend=backend, **settings | options))

    return run


def _of_model(model: portable_bp.Model) -> Result:
    arrays = [model.backend.to_numpy(p) for pair in model.params for p in pair]
    names = sorted(set(model.history) - {"seconds"})
    columns = [[float(v) for v in model.history[name]] for name in names]
    return arrays, [*columns, [float(model.best_epoch or 0)]]


def _runs_of_fit() -> Iterator[tuple[str, Callable[[str], Result]]]:
    net = MLP([4, 7, 2], "tanh")
    classes, binary = MLP([4, 6, 5, 3], loss="softmax_cross_entropy"), MLP([4, 1], loss="log_loss")
    for solver in SOLVERS:
        yield f"fit {solver}", _fit(net, X, Y, optimizer=solver)
    yield "fit float32", _fit(net, X, Y, dtype="float32")
    yield "fit labels", _fit(classes, X, LABELS)
    yield "fit linear, all rows", _fit(binary, X, BINARY, batch_size=None, epochs=9)
    yield "fit one row", _fit(net, X, Y, batch_size=1, epochs=2, optimizer="sgd")
    yield "fit unshuffled, eager", _fit(net, X, Y, shuffle=False, compile=False)
    yield "fit cosine", _fit(net, X, Y, learning_rate=schedules.Cosine(0.03))
    yield "fit one cycle", _fit(net, X, Y, learning_rate=schedules.OneCycle(0.05))
    plateau = schedules.ReduceOnPlateau(0.3, patience=1)
    yield "fit plateau", _fit(net, X, Y, learning_rate=plateau, epochs=12, validation=0.2)
    yield "fit plateau on the loss", _fit(net, X, Y, learning_rate=plateau, epochs=12)
    yield (
        "fit early stopping",
        _fit(classes, X, LABELS, validation=0.3, early_stopping=2, epochs=30, learning_rate=0.1),
    )
    watched = EarlyStopping(2, monitor="validation_r2", restore_best=False)
    yield (
        "fit early stopping on r2",
        _fit(
            net, X, Y, validation=(X[:9], Y[:9], WEIGHTS[:9] + 1), early_stopping=watched, epochs=9
        ),
    )
    yield "fit weights", _fit(net, X, Y, sample_weight=WEIGHTS, validation=0.2)
    thin = MLP([4, 9, 8, 2], dropout=[0.2, 0.5], l1=1e-3, l2=1e-2)
    yield "fit dropout, penalties", _fit(thin, X, Y)
    yield "fit clipped", _fit(net, X, Y, clip_norm=0.3, clip_value=0.05)
    yield "fit no loss", _fit(net, X, Y, report_loss=False)
    yield "fit callback", _fit(net, X, Y, callbacks=[lambda end: end.epoch == 2])
    yield "fit given parameters", _fit(net, X, Y, params=net.init(3, "numpy", "float64"), seed=5)
    yield "fit tiny net, many epochs", _fit(MLP([4, 3, 2]), X, Y, epochs=40, batch_size=32)
    yield "fit streamed, float32", _streamed
    yield "fit resumed", _resumed


def _streamed(backend: str) -> Result:
    with tempfile.TemporaryDirectory() as folder, _small_chunks():
        path = Path(folder) / "x.npy"
        np.save(path, X)
        x = np.load(path, mmap_mode="r")
        run = _fit(MLP([4, 7, 2]), x, Y, dtype="float32", sample_weight=WEIGHTS, validation=0.2)
        found = run(backend)
        del x
        return found


@contextmanager
def _small_chunks() -> Iterator[None]:
    """Chunks of a few rows, for data that must be streamed."""
    before, data.CHUNK_BYTES = data.CHUNK_BYTES, 16 * 28 * 2
    try:
        yield
    finally:
        data.CHUNK_BYTES = before


class _Killed(Exception):
    pass


def _resumed(backend: str) -> Result:
    def die(end: portable_bp.EpochEnd) -> None:
        if end.epoch == 2 and not alive:
            raise _Killed

    alive: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        run = _fit(
            MLP([4, 7, 2], dropout=0.2), X, Y, callbacks=[die], checkpoint=folder, checkpoint_every=3,
            resume=True, validation=0.2, early_stopping=3,
        )  # fmt: skip
        with suppress(_Killed):
            run(backend)
        alive.append(True)
        return run(backend)


def _estimator(
    kind: Any, y: Any, *, x: Any = X, calls: int = 1, fit: Any = None, **settings: Any
) -> Callable[[str], Result]:
    def run(backend: str) -> Result:
        defaults = {"hidden_layer_sizes": (6,), "batch_size": 16, "max_iter": 4, "random_state": 1}
        est = kind(**defaults | settings, device=backend)
        for _ in range(calls):
            est.fit(x, y, **fit or {})
        return _of_estimator(est)

    return run


def _of_estimator(est: Any) -> Result:
    names = ("loss_curve_", "validation_scores_", "validation_loss_curve_")
    columns = [[float(v) for v in getattr(est, n, None) or []] for n in names]
    best = (est.loss_, getattr(est, "best_loss_", None), est.n_iter_, getattr(est, "t_", 0))
    return [*est.coefs_, *est.intercepts_], [*columns, [float(v or 0) for v in best]]


def _partly(kind: Any, y: Any, **settings: Any) -> Callable[[str], Result]:
    def run(backend: str) -> Result:
        est = kind(
            hidden_layer_sizes=(6,), batch_size=16, random_state=1, device=backend, **settings
        )
        extra = {"classes": np.unique(y)} if kind is MLPClassifier else {}
        for part in (slice(0, 40), slice(20, 61), slice(0, 61)):
            est.partial_fit(X[part], y[part], **extra)
        return _of_estimator(est)

    return run


def _runs_of_estimators() -> Iterator[tuple[str, Callable[[str], Result]]]:
    import scipy.sparse

    c, r, multi = MLPClassifier, MLPRegressor, np.stack([BINARY, LABELS > 1], axis=1).astype(int)
    sparse = scipy.sparse.csr_array(np.where(np.abs(X) > 0.5, X, 0.0))
    sgd: dict[str, Any] = {"solver": "sgd", "learning_rate_init": 0.05, "max_iter": 12}
    yield "adam, two classes", _estimator(c, BINARY)
    yield "adam, three classes", _estimator(c, LABELS, hidden_layer_sizes=(5, 4))
    yield "adam, labels", _estimator(c, multi)
    yield "adam, float32", _estimator(r, Y, x=X.astype(np.float32))
    yield "adam, all rows", _estimator(r, Y, batch_size=61, max_iter=9)
    yield "adam, many epochs", _estimator(r, Y, max_iter=60, tol=0.02, learning_rate_init=0.02)
    yield "adamw", _estimator(r, Y, solver="adamw")
    yield "rmsprop", _estimator(r, Y[:, 0], solver=RMSprop())
    yield "sgd, nesterov", _estimator(r, Y, **sgd)
    yield (
        "sgd, momentum, unshuffled",
        _estimator(r, Y, **sgd, nesterovs_momentum=False, shuffle=False),
    )
    yield "sgd, invscaling", _estimator(r, Y, **sgd, learning_rate="invscaling")
    adaptive = sgd | {
        "learning_rate": "adaptive",
        "max_iter": 40,
        "tol": 0.05,
        "n_iter_no_change": 2,
    }
    yield "sgd, adaptive", _estimator(r, Y, **adaptive)
    yield "lbfgs, classes", _estimator(c, LABELS, solver="lbfgs", max_iter=15)
    yield (
        "lbfgs, weights",
        _estimator(r, Y, solver="lbfgs", max_iter=15, fit={"sample_weight": WEIGHTS}),
    )
    yield "lbfgs, sparse", _estimator(c, BINARY, x=sparse, solver="lbfgs", max_iter=15)
    yield "cosine", _estimator(r, Y, learning_rate=schedules.Cosine(0.03))
    plateau = schedules.ReduceOnPlateau(0.3, patience=1)
    yield "plateau", _estimator(r, Y, learning_rate=plateau, max_iter=9)
    early: dict[str, Any] = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 30}
    yield (
        "early stopping",
        _estimator(c, BINARY, **early, n_iter_no_change=3, learning_rate_init=0.05),
    )
    yield "scoring", _estimator(c, BINARY, **early, n_iter_no_change=3, scoring="roc_auc")
    held = (X[:9], Y[:9], WEIGHTS[:9] + 1)
    yield "validation data", _estimator(r, Y, fit={"validation_data": held})
    yield "warm start", _estimator(r, Y, calls=3, warm_start=True)
    yield "warm start, sgd", _estimator(r, Y, calls=2, warm_start=True, **adaptive)
    yield "weights", _estimator(c, LABELS, fit={"sample_weight": WEIGHTS})
    yield "class weight", _estimator(c, LABELS, class_weight="balanced")
    yield "sparse", _estimator(c, LABELS, x=sparse)
    yield "sparse, early stopping", _estimator(c, BINARY, x=sparse, **early)
    yield "dropout", _estimator(r, Y, dropout=0.3, hidden_layer_sizes=(9, 8))
    yield "clipped", _estimator(r, Y, clip_norm=0.3, clip_value=0.05)
    yield "quantiles", _estimator(r, Y, loss="quantile", quantile=[0.1, 0.9])
    yield "poisson", _estimator(r, np.abs(Y), loss="poisson")
    yield "partial_fit", _partly(c, LABELS)
    yield "partial_fit, invscaling", _partly(r, Y, solver="sgd", learning_rate="invscaling")


def runs() -> dict[str, Callable[[str], Result]]:
    """Every run by name: a function of the backend."""
    return dict([*_runs_of_fit(), *_runs_of_estimators()])


def measured(name: str, backend: str) -> dict[str, Any]:
    """What a run gives: digests of its parameters and of its history, and some numbers of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arrays, columns = runs()[name](backend)
    parameters, history = hashlib.sha256(), hashlib.sha256()
    for array in arrays:
        parameters.update(repr((array.shape, array.dtype.name)).encode() + array.tobytes())
    for column in columns:
        history.update(np.asarray(column, np.float64).tobytes())
    bits = [parameters.hexdigest(), history.hexdigest()]
    numbers = [[*map(float, (a.sum(), np.abs(a).sum(), a.flat[0], a.flat[-1]))] for a in arrays]
    ends = [[float(len(c)), *([c[0], sum(c), c[-1]] if c else [])] for c in columns]
    return {"bits": bits, "numbers": [*numbers, *ends]}


def machine() -> dict[str, str]:
    """What the last bits depend on beside this library: the versions, and the kernels they choose."""
    import threadpoolctl
    import torch

    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    blas = {
        f"{b['internal_api']} {b['version']} {b.get('architecture', '')}"
        for b in threadpoolctl.threadpool_info()
        if b["user_api"] == "blas"
    }
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "cpu": cpu, "blas": ", ".join(sorted(blas)), "numpy": np.__version__,
        "torch": f"{torch.__version__} {capability}",
    }  # fmt: skip


def main() -> None:
    """Run everything and write the record."""
    found = {f"{name}, {b}": measured(name, b) for name in runs() for b in BACKENDS}
    lines = (f"{json.dumps(name)}: {json.dumps(run)}" for name, run in found.items())
    text = f'{{"machine": {json.dumps(machine())},\n"runs": {{\n{{}}\n}}}}\n'
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(text.replace("{}", ",\n".join(lines)), encoding="utf-8")
    print(f"{len(found)} runs written to {RECORD}")


if __name__ == "__main__":
    main()
