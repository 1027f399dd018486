"""Networks trained side by side have the numbers that ``fit`` alone gives for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, DivergenceError, EarlyStopping, Models, optimizers, schedules
from portable_bp.training import together, together_groups
from portable_bp.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _short_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one batch, however short they are."""
    monkeypatch.setattr(together_groups, "FEWEST", {})


_rng = np.random.default_rng(5)
X = _rng.normal(size=(61, 4))
Y = np.stack([X[:, 0] * X[:, 1], np.sin(X[:, 2])], axis=1) + 0.1 * _rng.normal(size=(61, 2))
LABELS = (X[:, 0] > 0.3).astype(np.int64) + (X[:, 1] > 0)
WEIGHTS = _rng.uniform(size=61) * (np.arange(61) % 5 > 0)
NET = MLP([4, 7, 2], "tanh")
CLASSES = MLP([4, 6, 5, 3], loss="softmax_cross_entropy")
SEEDS = [3, 2**40, 5]
FOLDS = [(np.arange(0, 40), np.arange(40, 61)), (np.arange(9, 61), np.arange(9)), np.arange(30)]
WRONG_TO_ROUNDING = {"rtol": 1e-8, "atol": 1e-9}
"""In float64 sums in another order differ by 1e-16; a dozen steps do not make 1e-9 of that."""

CASES: dict[str, tuple[MLP, Any, dict[str, Any]]] = {
    **{name: (NET, Y, {"optimizer": name}) for name in optimizers.OPTIMIZERS},
    "betas": (NET, Y, {"optimizer": [optimizers.Adam(b, b**0.1) for b in (0.9, 0.5, 0.8)]}),
    "rates": (NET, Y, {"learning_rate": [0.1, 0.02, 0.003], "seeds": None}),
    "schedules": (
        NET,
        Y,
        {
            "learning_rate": [
                schedules.Cosine(0.1),
                0.03,
                schedules.ReduceOnPlateau(0.3, patience=0),
            ]
        },
    ),
    "penalties": (NET, Y, {"l1": [0.1, 0.0, 0.3], "l2": [0.0, 0.5, 0.02]}),
    "dropout": (CLASSES, LABELS, {"dropout": [0.2, [0.5, 0.1], 0.3]}),
    "dropout, one seed": (CLASSES, LABELS, {"dropout": 0.3, "seeds": None, "l2": [0, 1, 2]}),
    "clipping": (NET, Y, {"clip_norm": [0.1, 0.5, 9.0], "clip_value": [0.01, 1.0, 0.2]}),
    "labels": (CLASSES, LABELS, {}),
    "all rows": (NET, Y, {"batch_size": None}),
    "unshuffled": (NET, Y, {"shuffle": False}),
    "weights": (NET, Y, {"sample_weight": WEIGHTS, "validation": 0.2}),
    "validation": (CLASSES, LABELS, {"validation": 0.2}),
    "validation data": (NET, Y, {"validation": (X[:9], Y[:9])}),
    "early stopping": (
        CLASSES,
        LABELS,
        {"validation": 0.3, "early_stopping": 2, "epochs": 30, "learning_rate": [0.3, 0.1, 0.02]},
    ),
    "folds": (NET, Y, {"folds": FOLDS, "dropout": 0.2}),
    "folds, weights": (NET, Y, {"folds": FOLDS[:2], "sample_weight": WEIGHTS + 1, "seeds": [1, 2]}),
    "folds, stop": (
        NET,
        Y,
        {
            "folds": FOLDS[:2] * 2,
            "seeds": [1, 2, 3, 4],
            "early_stopping": 1,
            "epochs": 9,
            "learning_rate": [0.5, 0.3, 0.4, 0.01],
        },
    ),
    "no loss": (NET, Y, {"report_loss": False}),
    "eager": (NET, Y, {"compile": False, "l2": [0.1, 0.2, 0.3]}),
}
ELSEWHERE = {
    "jax": ("adam",),
    "torch": ("adam", "dropout"),
    "strict": ("dropout", "folds, weights"),
}
"""For backends that take longer; all of them are slow tests."""


def _options(case: str, backend: str) -> tuple[MLP, Any, dict[str, Any]]:
    net, y, own = CASES[case]
    settings: dict[str, Any] = {
        "seeds": SEEDS, "epochs": 3, "batch_size": 16, "learning_rate": 0.02, "dtype": "float64",
        "backend": backend,
    }  # fmt: skip
    return net, y, settings | own


def _alone(net: MLP, y: Any, options: dict[str, Any], j: int) -> portable_bp.Model:
    """``fit`` with the settings of one network."""
    per_network = {"learning_rate", "optimizer", "l1", "l2", "dropout", "clip_value", "clip_norm"}
    one = {
        k: v[j] if k in per_network and isinstance(v, list) else v
        for k, v in options.items()
        if k not in ("seeds", "folds")
    }
    numbers = {k: one.pop(k, getattr(net, k)) for k in ("l1", "l2", "dropout")}
    net = MLP(net.sizes, net.hidden, net.loss, **numbers)
    one["seed"] = (options["seeds"] or [0] * 3)[j]
    rows: Any = slice(None)
    if "folds" in options:
        fold = options["folds"][j]
        rows, held = fold if isinstance(fold, tuple) else (fold, None)
        weight = one.get("sample_weight")
        if weight is not None:
            one["sample_weight"] = weight[rows]
        if held is not None:
            one["validation"] = (X[held], y[held], *([] if weight is None else [weight[held]]))
    return portable_bp.fit(net, X[rows], y[rows], **one)


def _params(model: portable_bp.Model) -> list[Any]:
    return [model.backend.to_numpy(p) for pair in model.params for p in pair]


def _agree(many: portable_bp.Model, one: portable_bp.Model, exact: bool) -> None:
    assert (many.stopped, many.best_epoch) == (one.stopped, one.best_epoch)
    assert list(many.history) == list(one.history)
    assert (many.net.l1, many.net.l2, many.net.dropout) == (one.net.l1, one.net.l2, one.net.dropout)
    columns = sorted({*one.history} - {"seconds"})
    numbers = [(many.history[name], one.history[name]) for name in columns]
    for found, expected in [*zip(_params(many), _params(one), strict=True), *numbers]:
        if exact:
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, expected, **WRONG_TO_ROUNDING)


EXACT = {*CASES} - {"betas", "weights", "clipping", "folds, weights"}
"""Elsewhere sums of vectors, or 1 - beta, are computed otherwise."""


@pytest.mark.parametrize("case", CASES)
def test_each_has_its_numbers_on_numpy(case: str) -> None:
    _compare(case, "numpy", exact=case in EXACT)


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, backend, marks=() if case in quick else pytest.mark.slow)
        for backend, quick in ELSEWHERE.items()
        for case in CASES
    ],
)
def test_each_has_its_numbers_elsewhere(case: str, backend: str) -> None:
    _compare(case, backend, exact=False)


def _compare(case: str, backend: str, exact: bool) -> None:
    net, y, options = _options(case, backend)
    with pytest.MonkeyPatch.context() as patch:  # as one batch, or fit were compared with itself
        patch.setattr(Trainer, "_run", None)
        models = portable_bp.fit_many(net, X, y, **options)
    assert len(models) == len(options["seeds"] or [0] * 3)
    for j, model in enumerate(models):
        _agree(model, _alone(net, y, options, j), exact)


def test_half_ended_they_move_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    start = together._Batch._start

    def noted(self: Any, state: Any) -> None:
        sizes.append(state[0][0][0].shape[0])
        start(self, state)

    monkeypatch.setattr(together._Batch, "_start", noted)
    patience = EarlyStopping(1, monitor="loss")
    rates = [1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 0.01, 0.02, 0.01]  # the first see no progress
    models = portable_bp.fit_many(
        NET, X, Y, learning_rate=rates, optimizer="sgd", early_stopping=patience, epochs=12,
        batch_size=None,
    )  # fmt: skip
    assert sizes[0] == 8
    assert sizes[1] <= 4
    assert [len(m.history.epochs) < 12 for m in models][5:] == [False] * 3


def test_one_that_diverges_leaves_the_others() -> None:
    rates = [0.02, 1e30, 0.01]
    options: dict[str, Any] = {"optimizer": "sgd", "epochs": 4, "batch_size": 16}
    models = portable_bp.fit_many(NET, X, Y, learning_rate=rates, **options)
    assert [m.stopped for m in models] == ["finished", "diverged", "finished"]
    with pytest.raises(DivergenceError) as alone:
        portable_bp.fit(NET, X, Y, learning_rate=1e30, **options)
    assert models.errors == {1: str(alone.value)}
    for found, expected in zip(_params(models[1]), _params(alone.value.model), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert models.rank() == [0, 2, 1]
    _agree(models[2], portable_bp.fit(NET, X, Y, learning_rate=0.01, **options), exact=True)


def test_interrupted_they_keep_their_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = together._Batch._turn

    def interrupted(self: Any) -> None:
        if self._trainers[0].epoch == 2:
            raise KeyboardInterrupt
        turn(self)

    monkeypatch.setattr(together._Batch, "_turn", interrupted)
    models = portable_bp.fit_many(NET, X, Y, seeds=SEEDS, epochs=9, validation=0.2)
    assert {(m.stopped, len(m.history.epochs)) for m in models} == {("interrupted", 2)}


def test_predict_rank_and_file(tmp_path: Path) -> None:
    models = portable_bp.fit_many(
        CLASSES, X, LABELS, learning_rate=[1e-4, 0.05], validation=(X[:9], LABELS[:9])
    )
    assert models.forward(X).shape == (2, 61, 3)
    np.testing.assert_array_equal(models.predict(X)[1], models[1].predict(X))
    assert models.rank() == models.rank("validation_accuracy") == [1, 0]
    assert models.best() is models[1]
    with pytest.raises(ValueError, match=r"by must be one of .*; got 'f1'"):
        models.best("f1")
    models.save(tmp_path / "nets.safetensors")
    again = portable_bp.load_many(tmp_path / "nets.safetensors", backend="torch")
    assert isinstance(again, Models)
    for a, b in zip(again, models, strict=True):
        assert a.history == b.history
        np.testing.assert_allclose(a.predict(X), b.predict(X))
    with pytest.raises(portable_bp.CheckpointError, match=r"several networks: .*load_many"):
        portable_bp.load(tmp_path / "nets.safetensors")


def test_lbfgs_and_sparse_rows_go_one_by_one() -> None:
    import scipy.sparse

    models = portable_bp.fit_many(NET, X, Y, seeds=[1, 2], optimizer="lbfgs", epochs=4)
    _agree(models[1], portable_bp.fit(NET, X, Y, seed=2, optimizer="lbfgs", epochs=4), exact=True)
    sparse = scipy.sparse.csr_array(np.where(X > 0, X, 0))
    models = portable_bp.fit_many(NET, sparse, Y, seeds=[1, 2], epochs=2, folds=FOLDS[:2])
    train, held = FOLDS[1]
    alone = portable_bp.fit(
        NET, sparse[train], Y[train], seed=2, epochs=2, validation=(sparse[held], Y[held])
    )
    _agree(models[1], alone, exact=True)


def test_functions_of_the_user() -> None:
    """Element-wise ones take part; others may count on two axes, and go alone."""
    sine = portable_bp.Activation(lambda z, xp: xp.sin(z), lambda z, a, xp: xp.cos(z), name="sine")
    net = MLP([4, 5, 2], sine)
    models = portable_bp.fit_many(net, X, Y, seeds=[1, 2], epochs=2)
    _agree(models[1], portable_bp.fit(net, X, Y, seed=2, epochs=2), exact=True)

    def gradient(o: Any, y: Any, xp: Any) -> Any:
        assert o.ndim == 2
        return o - y - xp.mean(o - y, axis=1, keepdims=True)

    loss = portable_bp.Loss(lambda o, y, xp: (o - y) ** 2, gradient)
    net = MLP([4, 5, 2], loss=loss)
    models = portable_bp.fit_many(net, X, Y, seeds=[1, 2], epochs=2)
    _agree(models[1], portable_bp.fit(net, X, Y, seed=2, epochs=2), exact=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": 16}, TypeError, r"seeds must be a sequence .* such as range\(16\); got 16"),
        ({"seeds": [1, 2], "l2": [0.1]}, ValueError, "seeds with 2, l2 with 1"),
        ({"seeds": []}, ValueError, "one entry for each network; got seeds with 0"),
        ({"l2": [0.1, -1.0]}, ValueError, "l2 must be"),
        ({"learning_rate": [0.1, "fast"]}, TypeError, "learning_rate must be"),
        ({"folds": [([0, 61], [1])]}, IndexError, r"folds\[0\] names rows 0 to 61 of 61"),
        ({"folds": [([0.5], [1])]}, ValueError, r"folds\[0\] must hold the numbers of rows"),
        ({"folds": FOLDS, "validation": 0.2}, ValueError, "pass one of them"),
        ({"seeds": [0, 1], "validation": 1.5}, ValueError, "validation must be"),
        ({"lr": [0.1]}, TypeError, "did you mean learning_rate"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        portable_bp.fit_many(NET, X, Y, **options)


def test_what_loses_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_Batch", None)
    monkeypatch.setitem(together_groups.LARGEST, "numpy", 100)
    models = portable_bp.fit_many(NET, X, Y, seeds=[1, 2], epochs=2)
    _agree(models[1], portable_bp.fit(NET, X, Y, seed=2, epochs=2), exact=True)


def test_short_runs_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_Batch", None)
    monkeypatch.setattr(together_groups, "FEWEST", {"numpy": 2 * 2 * 4 + 1})
    portable_bp.fit_many(NET, X, Y, seeds=[1, 2], epochs=2, batch_size=16)


def test_large_groups_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    made = together._Batch.__init__

    def noted(self: Any, group: Any) -> None:
        counts.append(len(group.jobs))
        made(self, group)

    monkeypatch.setattr(together._Batch, "__init__", noted)
    monkeypatch.setattr(together_groups, "MOST", 30_000)
    portable_bp.fit_many(NET, X, Y, seeds=range(10), epochs=1, batch_size=16)
    assert sum(counts) == 10
    assert len(counts) > 1
    assert max(counts) - min(counts) <= 1
