"""What both doors can do, through both: ``portable_bp.fit`` and the estimators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import portable_bp
from portable_bp import DivergenceError, schedules
from portable_bp.backend import Runner
from portable_bp.estimators import MLPClassifier, MLPRegressor
from portable_bp.sources.npy import Matrix
from portable_bp.training import data, source_rows
from portable_bp_backends.numpy_backend import NumpyBackend
from tests.helpers import killed_after

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(3)
X = RNG.normal(size=(45, 4))
Y = np.sin(X[:, 0]) + X[:, 1]
HELD = (X[:9] + 0.1, Y[:9])


@dataclass
class Trained:
    """What a door gives back, in one form."""

    params: list[Any]
    losses: list[float]
    validation: list[float]
    predict: Callable[[Any], Any]
    stopped_after: int = field(default=0)


@dataclass
class Fit:
    """``portable_bp.fit``."""

    checkpoint_at = "fit"

    def __call__(self, x: Any = X, y: Any = Y, *, early: bool = False, **options: Any) -> Trained:
        net = portable_bp.MLP([4, 6, 1], "tanh", dropout=options.pop("dropout", 0.0))
        epochs, rate = options.pop("epochs", 4), options.pop("rate", 0.01)
        model = portable_bp.fit(
            net, x, y, epochs=epochs, learning_rate=rate, dtype="float64", seed=1,
            early_stopping=3 if early else None, **{"batch_size": 8} | options,
        )  # fmt: skip
        history = model.history
        return Trained(
            [model.backend.to_numpy(p) for pair in model.params for p in pair],
            history["loss"],
            history.get("validation_loss", []),
            model.predict,
        )


@dataclass
class Estimator:
    """``MLPRegressor``."""

    def __call__(self, x: Any = X, y: Any = Y, *, early: bool = False, **options: Any) -> Trained:
        renamed = {
            "epochs": "max_iter", "optimizer": "solver", "rate": "learning_rate_init",
            "backend": "device",
        }  # fmt: skip
        at_fit = {"checkpoint", "checkpoint_every", "checkpoint_keep", "resume", "validation"}
        extra = {k: options.pop(k) for k in at_fit & options.keys()}
        if "validation" in extra:
            extra["validation_data"] = extra.pop("validation")
        settings: dict[str, Any] = {"epochs": 4, "rate": 0.01, "batch_size": 8, **options}
        if isinstance(settings["rate"], schedules.Schedule):
            settings["learning_rate"] = settings.pop("rate")
        est = MLPRegressor(
            hidden_layer_sizes=(6,), activation="tanh", random_state=1, early_stopping=early,
            n_iter_no_change=3, **{renamed.get(k, k): v for k, v in settings.items()},
        )  # fmt: skip
        est.fit(x, y, **extra)
        curve = getattr(est, "validation_loss_curve_", None)
        losses = getattr(est, "loss_curve_", [est.loss_])
        return Trained([*est.coefs_, *est.intercepts_], losses, curve or [], est.predict)


DOORS = pytest.mark.parametrize("door", [Fit(), Estimator()], ids=["fit", "estimator"])


HELD_OUT = {Fit: {"validation": 0.2}}


def same(a: Trained, b: Trained) -> None:
    assert a.losses == b.losses
    assert a.validation == b.validation
    for p, q in zip(a.params, b.params, strict=True):
        np.testing.assert_array_equal(p, q)


@DOORS
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_lbfgs_fits_better_than_its_start_and_goes_on_to_a_minimum(door: Any, backend: str) -> None:
    one, many = (door(optimizer="lbfgs", epochs=e, backend=backend) for e in (1, 60))
    assert many.losses[-1] < 0.2 * one.losses[-1]
    assert np.mean((many.predict(X) - Y) ** 2) < 0.01


@DOORS
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_sparse_rows_give_what_dense_ones_give(door: Any, optimizer: str) -> None:
    thin = np.where(np.abs(X) > 0.7, X, 0.0)
    dense = door(thin, optimizer=optimizer)
    sparse = door(scipy.sparse.csr_array(thin), optimizer=optimizer)
    same(sparse, dense)
    np.testing.assert_array_equal(sparse.predict(scipy.sparse.coo_array(thin)), dense.predict(thin))


@DOORS
def test_a_sparse_value_that_is_no_number_is_refused(door: Any) -> None:
    with pytest.raises(ValueError, match="X contains NaN"):
        door(scipy.sparse.csr_array(np.where(X > 1, np.nan, X)))


@DOORS
@pytest.mark.parametrize("early", [False, True])
def test_a_memory_map_is_streamed_with_the_same_bits(
    door: Any, early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = door(X.astype("float32").astype("float64"), validation=HELD, early=early)
    np.save(tmp_path / "x.npy", X.astype("float32"))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(data, "CHUNK_BYTES", 8 * 3 * 40)
    sent: list[int] = []
    chunks = data.HostStream.chunks

    def noted(self: Any, order: Any, limit: int) -> Any:
        for chunk in chunks(self, order, limit):
            sent.append(chunk.arrays[0].shape[0])
            yield chunk

    monkeypatch.setattr(data.HostStream, "chunks", noted)
    settings = {"dtype": "float64"} if isinstance(door, Estimator) else {}
    same(door(mapped, validation=HELD, early=early, **settings), in_memory)
    assert sum(sent) == 45 * len(in_memory.losses)
    assert max(sent) <= 24, "three steps of eight rows at a time"


@DOORS
def test_a_memory_map_that_does_not_fit_in_memory_is_read_in_windows(
    door: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    read: list[int] = []
    fill = Matrix.read

    def noted(self: Any, start: int, out: Any) -> None:
        read.append(len(out))
        fill(self, start, out)

    monkeypatch.setattr(Matrix, "read", noted)
    monkeypatch.setattr(source_rows, "physical_memory", lambda: X.nbytes / source_rows.FILL - 1)
    in_order = door(X, shuffle=False)
    assert read == []
    same(door(mapped, shuffle=False), in_order)
    assert sum(read) == 4 * 45, "every row once an epoch"
    shuffled, in_memory = door(mapped), door(X)
    assert shuffled.losses != in_order.losses
    np.testing.assert_allclose(shuffled.losses, in_memory.losses, rtol=0.2)
    assert len(door(mapped, early=True, **HELD_OUT.get(type(door), {})).validation) == 4
    assert door(mapped, optimizer="lbfgs").losses == pytest.approx(
        door(X, optimizer="lbfgs").losses
    )
    monkeypatch.setattr(source_rows, "physical_memory", lambda: X.nbytes / source_rows.FILL)
    read.clear()
    same(door(mapped), in_memory)
    assert read == []


RUNS: dict[str, dict[str, Any]] = {
    "adam": {},
    "dropout": {"dropout": 0.3, "validation": HELD},
    "early stopping": {"validation": HELD, "early": True, "epochs": 9, "rate": 0.05},
    "plateau": {"rate": schedules.ReduceOnPlateau(0.3, patience=1), "epochs": 6},
    "cosine, torch": {"rate": schedules.Cosine(0.03), "backend": "torch"},
}


@DOORS
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("steps", [4, 12])
def test_a_killed_run_goes_on_to_the_same_bits(
    door: Any, name: str, steps: int, tmp_path: Path
) -> None:
    """In the middle of the first epoch of six steps, and at the end of the second."""
    whole = door(**RUNS[name])
    saved = {"checkpoint": tmp_path, "checkpoint_every": 4, **RUNS[name]}
    with killed_after(steps):
        door(**saved)
    with pytest.raises(portable_bp.CheckpointError, match="pass resume=True"):
        door(**saved)
    same(door(**saved, resume=True), whole)
    with pytest.raises(portable_bp.CheckpointError, match="another run"):
        door(**saved | {"batch_size": 9}, resume=True)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("rate", ["invscaling", "adaptive"])
@pytest.mark.parametrize("random_state", [0, None])
def test_what_is_scikit_learns_own_goes_on_too(
    solver: str, rate: str, random_state: int | None, tmp_path: Path
) -> None:
    """Its named rates, its fraction held out, and a generator without a seed."""
    labels = (Y > 0).astype(int)

    def make() -> MLPClassifier:
        return MLPClassifier(
            (5,), solver=solver, learning_rate=rate, learning_rate_init=0.1, batch_size=9,
            max_iter=7, random_state=random_state, early_stopping=True, n_iter_no_change=1,
            validation_fraction=0.3, tol=0.1, dropout=0.1,
        )  # fmt: skip

    with killed_after(8):  # two epochs of four steps
        make().fit(X, labels, checkpoint=tmp_path)
    np.random.seed(5)  # noqa: NPY002  # the generator that scikit-learn draws from without a seed
    again = make().fit(X, labels, checkpoint=tmp_path, resume=True)
    assert np.random.randint(10**9) == np.random.RandomState(5).randint(10**9)  # noqa: NPY002
    if random_state is not None:
        whole = make().fit(X, labels)
        assert again.loss_curve_ == whole.loss_curve_
        assert again.validation_scores_ == whole.validation_scores_
        for p, q in zip(again.coefs_, whole.coefs_, strict=True):
            np.testing.assert_array_equal(p, q)
    done = make().fit(X, labels, checkpoint=tmp_path, resume=True)
    assert done.loss_curve_ == again.loss_curve_
    np.testing.assert_array_equal(done.coefs_[0], again.coefs_[0])


def test_lbfgs_has_no_checkpoints(tmp_path: Path) -> None:
    for door in (Fit(), Estimator()):
        with pytest.raises(ValueError, match=r"checkpoint needs .* such as 'adam'"):
            door(optimizer="lbfgs", checkpoint=tmp_path)


@DOORS
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_run_that_diverges_names_step_and_layer(door: Any, backend: str) -> None:
    expected = r"diverged in epoch 1, step \d of 6 \(.*layer \d overflowed first\)"
    with pytest.raises(DivergenceError, match=expected) as error:
        door(X, Y * 1e3, optimizer="sgd", rate=1e100, shuffle=False, backend=backend)
    assert "y reaches" in str(error.value)
    assert error.value.model is not None
    backend_of = error.value.model.backend
    for pair in error.value.model.params:
        for p in pair:
            assert np.isfinite(backend_of.to_numpy(p)).all()


@DOORS
def test_a_validation_loss_that_is_no_number_is_said_and_never_the_best(door: Any) -> None:
    far = HELD[1].copy()
    far[4] = 1e200  # its square overflows
    with pytest.warns(UserWarning, match=r"validation (loss|score) is (not finite|nan) in epoch 1"):
        stopped = door(early=True, epochs=12, rate=0.05, validation=(HELD[0], far))
    assert len(stopped.losses) == 12
    last = door(epochs=12, rate=0.05, max_time=1e6)
    for p, q in zip(stopped.params, last.params, strict=True):
        np.testing.assert_array_equal(p, q)


@DOORS
def test_a_plateau_does_not_see_a_loss_that_is_no_number(door: Any) -> None:
    plateau = schedules.ReduceOnPlateau(0.01, patience=1)
    with pytest.warns(UserWarning, match="in epoch 1: that of validation row 0 is inf"):
        run = door(rate=plateau, epochs=9, validation=(HELD[0], HELD[1] * 1e200))
    constant = door(rate=schedules.Constant(0.01), epochs=9)
    assert run.losses == constant.losses


@DOORS
def test_tiny_networks_run_several_epochs_in_one_call(
    door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compiled = NumpyBackend.compile

    def counted(self: NumpyBackend, step: Any, state: Any) -> Runner:
        runner = compiled(self, step, state)
        run = runner.run

        def noted(rows: Any, order: Any, table: Any) -> Any:
            calls.append(len(table[0]))
            return run(rows, order, table)

        runner.run = noted  # type: ignore[method-assign]
        return runner

    monkeypatch.setattr(NumpyBackend, "compile", counted)
    together = door(epochs=40, batch_size=15)
    assert sum(calls) == 40 * 3
    assert len(calls) <= 10
    calls.clear()
    one_by_one = door(epochs=40, batch_size=15, max_time=1e6)
    assert len(calls) == 40
    same(together, one_by_one)
