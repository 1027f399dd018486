"""The training loop: modes, stopping, validation, interruption, and that inputs stay untouched."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

import portable_bp
from portable_bp import DivergenceError, EarlyStopping, schedules
from portable_bp.equations import optimizers

XP = portable_bp.get_backend("numpy").xp


def regression(n=200, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1] ** 2
    return X.astype(dtype), y.astype(dtype)


def same(a, b):
    for pair, other in zip(a, b, strict=True):
        for p, q in zip(pair, other, strict=True):
            np.testing.assert_array_equal(p, q)


NET = portable_bp.MLP([3, 16, 1], hidden="tanh")


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("batch_size", [1, 7, 64, None, 1000])
def test_the_three_modes_are_gradient_descent_written_out(batch_size, compile):
    """Batch, stochastic and mini-batch against the textbook loop over the public gradients."""
    X, y = regression(50, dtype="float64")
    model = portable_bp.fit(
        NET, X, y, optimizer="sgd", learning_rate=0.05, batch_size=batch_size, epochs=3,
        shuffle=False, dtype="float64", compile=compile,
    )  # fmt: skip
    params = NET.init(0, dtype="float64")
    size = min(batch_size or 50, 50)
    for _ in range(3):
        for start in range(0, 50, size):
            rows = slice(start, start + size)
            _, grads = NET.loss_and_gradients(params, X[rows], y[rows])
            params = tuple(
                (W - 0.05 * dW, b - 0.05 * db)
                for (W, b), (dW, db) in zip(params, grads, strict=True)
            )
    for pair, other in zip(model.params, params, strict=True):
        for p, q in zip(pair, other, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-10, atol=1e-13)


def test_history_says_what_happened():
    X, y = regression()
    model = portable_bp.fit(NET, X, y, epochs=4, validation=0.2, batch_size=32)
    assert list(model.history) == [
        "loss", "validation_loss", "validation_r2", "learning_rate", "seconds",
    ]  # fmt: skip
    assert [len(v) for v in model.history.values()] == [4] * 5
    assert model.history["loss"][-1] < model.history["loss"][0]
    with pytest.raises(KeyError, match="recorded are: loss"):
        model.history["nonsense"]


def test_recorded_loss_is_the_mean_over_the_rows_seen():
    """With a rate too small to move, each epoch's loss is the loss of the start parameters."""
    X, y = regression(50)
    w = np.linspace(0, 1, 50)
    for weights in (None, w):
        model = portable_bp.fit(
            NET, X, y, optimizer="sgd", learning_rate=1e-12, batch_size=8, epochs=1,
            sample_weight=weights,
        )  # fmt: skip
        loss, _ = NET.loss_and_gradients(NET.init(0), X, y, sample_weight=weights)
        assert model.history["loss"][0] == pytest.approx(float(loss), rel=1e-5)


def test_validation_numbers_are_those_of_the_model_at_that_epoch():
    X, y = regression()
    Xv, yv = regression(40, seed=1)
    model = portable_bp.fit(NET, X, y, epochs=2, validation=(Xv, yv))
    loss, score = model.evaluate(Xv, yv)
    assert model.history["validation_loss"][-1] == pytest.approx(loss, rel=1e-6)
    assert model.history["validation_r2"][-1] == pytest.approx(score, rel=1e-6)
    out = model.predict(Xv)
    assert loss == pytest.approx(0.5 * np.mean((out - yv) ** 2), rel=1e-5)
    assert score == pytest.approx(1 - np.sum((out - yv) ** 2) / np.sum((yv - yv.mean()) ** 2), 1e-5)


def test_held_out_rows_are_not_trained_on():
    X, y = regression(20)
    held = portable_bp.rng.permutation(20, 0, portable_bp.rng.SPLIT)[:5]
    marked = y.copy()
    marked[held] = 1e6
    a = portable_bp.fit(NET, X, y, epochs=3, validation=0.25)
    b = portable_bp.fit(NET, X, marked, epochs=3, validation=0.25)
    same(a.params, b.params)


def test_early_stopping_gives_back_the_best_parameters():
    X, y = regression(60)
    Xv, yv = regression(40, seed=3)
    seen = {}

    def remember(end):
        seen[end.epoch] = end.params()

    model = portable_bp.fit(
        NET, X, y, epochs=200, learning_rate=0.05, validation=(Xv, yv), batch_size=10,
        early_stopping=5, callbacks=[remember],
    )  # fmt: skip
    losses = model.history["validation_loss"]
    assert model.stopped == "callback"
    assert len(losses) < 200
    assert model.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 5
    same(model.params, seen[model.best_epoch])
    last = portable_bp.fit(
        NET, X, y, epochs=200, learning_rate=0.05, validation=(Xv, yv), batch_size=10,
        early_stopping=EarlyStopping(5, restore_best=False),
    )  # fmt: skip
    same(last.params, seen[len(losses)])
    grown = portable_bp.fit(
        NET, X, y, epochs=30, validation=(Xv, yv), early_stopping=EarlyStopping(
            3, monitor="validation_r2", min_delta=0.5),
    )  # fmt: skip
    assert len(grown.history["loss"]) < 30


def test_a_callback_that_returns_true_stops():
    X, y = regression(20)
    model = portable_bp.fit(NET, X, y, epochs=50, callbacks=[lambda end: end.epoch == 3])
    assert len(model.history["loss"]) == 3
    assert model.stopped == "callback"


def test_a_callback_cannot_change_the_run_through_its_copy():
    X, y = regression(20)

    def spoil(end):
        end.params()[0][0][...] = 1e9

    a = portable_bp.fit(NET, X, y, epochs=3)
    b = portable_bp.fit(NET, X, y, epochs=3, callbacks=[spoil])
    same(a.params, b.params)


def test_max_time_stops_between_epochs():
    X, y = regression(20)
    model = portable_bp.fit(NET, X, y, epochs=10**6, max_time=0.2)
    assert model.stopped == "time"


def test_ctrl_c_stops_cleanly_and_keeps_the_best_model_so_far():
    X, y = regression(60)
    Xv, yv = regression(40, seed=3)
    seen = {}

    def interrupt(end):
        seen[end.epoch] = end.params()
        if end.epoch == 40:
            os.kill(os.getpid(), signal.SIGINT)

    model = portable_bp.fit(
        NET, X, y, epochs=10**6, learning_rate=0.05, batch_size=10, validation=(Xv, yv),
        callbacks=[interrupt],
    )  # fmt: skip
    assert model.stopped == "interrupted"
    assert model.best_epoch == int(np.argmin(model.history["validation_loss"])) + 1
    same(model.params, seen[model.best_epoch])


def test_divergence_is_an_error_that_keeps_the_last_finite_parameters():
    X, y = regression(64)
    with pytest.raises(DivergenceError) as caught:
        portable_bp.fit(
            NET.__class__([3, 8, 1], hidden="relu"), X, y, optimizer="sgd", learning_rate=1e6,
            epochs=20, batch_size=8,
        )  # fmt: skip
    assert "epoch 1" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    for pair in caught.value.model.params:
        for p in pair:
            assert np.isfinite(p).all()


def test_inputs_are_not_changed_and_may_be_read_only():
    X, y = regression(40)
    w = np.ones(40)
    for array in (X, y, w):
        array.flags.writeable = False
    given = NET.init(3)
    kept = [[p.copy() for p in pair] for pair in given]
    portable_bp.fit(NET, X, y, sample_weight=w, params=given, epochs=2, validation=0.2)
    same(given, kept)


@pytest.mark.parametrize("spec", ["torch", "jax", "strict"])
def test_training_follows_its_input(spec):
    backend = portable_bp.get_backend(spec)
    X, y = regression(40)
    model = portable_bp.fit(NET, backend.asarray(X), backend.asarray(y), epochs=2, validation=0.25)
    assert model.backend.spec == spec
    out = model.predict(backend.asarray(X))
    assert portable_bp.backend.registry.backend_of(out, model.params[0][0]).spec == spec
    here = portable_bp.fit(NET, X, y, epochs=2, validation=0.25)
    np.testing.assert_allclose(backend.to_numpy(out), here.predict(X), rtol=2e-4, atol=2e-5)
    assert type(model.predict(X)) is np.ndarray
    assert model.to("numpy").backend.spec == "numpy"
    other = torch.zeros((1, 3)) if spec != "torch" else portable_bp.get_backend("jax").asarray(X)
    with pytest.raises(ValueError, match=r"model\.to\("):
        model.predict(other)


def test_a_requires_grad_tensor_is_detached():
    X, y = (torch.tensor(a, requires_grad=True) for a in regression(20))
    model = portable_bp.fit(NET, X, y, epochs=1)
    assert not model.params[0][0].requires_grad
    assert X.grad is None


def test_same_seed_same_bits_and_another_seed_another_run():
    X, y = regression(40)
    runs = [
        portable_bp.fit(
            portable_bp.MLP([3, 8, 1], dropout=0.3), X, y, epochs=3, seed=s, batch_size=8
        )
        for s in (1, 1, 2)
    ]
    same(runs[0].params, runs[1].params)
    assert not np.array_equal(runs[0].params[0][0], runs[2].params[0][0])


def test_dropout_masks_change_from_step_to_step():
    """Full batch, zero rate: only the mask can change the loss."""
    X, y = regression(40)
    net = portable_bp.MLP([3, 32, 1], dropout=0.5)
    model = portable_bp.fit(
        net, X, y, optimizer="sgd", learning_rate=1e-12, epochs=5, batch_size=None
    )
    assert len(set(model.history["loss"])) == 5


def test_schedules_and_clipping_reach_the_step():
    X, y = regression(40)
    model = portable_bp.fit(
        NET,
        X,
        y,
        epochs=4,
        batch_size=10,
        learning_rate=schedules.StepDecay(0.1, step_size=4, gamma=0.5),
    )
    assert model.history["learning_rate"] == [0.1, 0.05, 0.025, 0.0125]
    plateau = portable_bp.fit(
        NET, X, y, epochs=6, optimizer="sgd",
        learning_rate=schedules.ReduceOnPlateau(1e-9, factor=0.5, patience=1, threshold=0.1),
    )  # fmt: skip
    assert plateau.history["learning_rate"] == [1e-9, 1e-9, 1e-9, 5e-10, 5e-10, 2.5e-10]
    start = NET.init(0)
    for options in ({"clip_norm": 1e-3}, {"clip_value": 1e-4}):
        clipped = portable_bp.fit(
            NET, X, y, epochs=1, batch_size=None, optimizer="sgd", learning_rate=1.0, **options
        )
        moved = tuple((W - V, b - c) for (W, b), (V, c) in zip(start, clipped.params, strict=True))
        if "clip_norm" in options:
            assert float(optimizers.global_norm(moved, xp=XP)) == pytest.approx(1e-3, rel=1e-2)
        else:
            assert max(abs(p).max() for pair in moved for p in pair) == pytest.approx(
                1e-4, rel=1e-2
            )


def test_labels_beyond_the_one_hot_limit_are_expanded_batch_by_batch(monkeypatch):
    from portable_bp.training import prepare

    X = regression(60)[0]
    y = np.arange(60) % 4
    net = portable_bp.MLP([3, 8, 4], loss="softmax_cross_entropy")
    a = portable_bp.fit(net, X, y, epochs=2, validation=0.2)
    monkeypatch.setattr(prepare, "ONE_HOT_ENTRIES", 0)
    b = portable_bp.fit(net, X, y, epochs=2, validation=0.2)
    same(a.params, b.params)
    assert a.history["loss"] == b.history["loss"]


def test_weights_of_zero_are_rows_that_are_not_there():
    X, y = regression(40, dtype="float64")
    w = np.array([1.0, 0.0] * 20)
    a = portable_bp.fit(NET, X, y, sample_weight=w, epochs=5, batch_size=None, dtype="float64")
    b = portable_bp.fit(
        NET, X[::2], y[::2], epochs=5, batch_size=None, shuffle=False, dtype="float64"
    )
    for pair, other in zip(a.params, b.params, strict=True):
        for p, q in zip(pair, other, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-8, atol=1e-11)


def test_a_batch_of_zero_weights_moves_nothing():
    X, y = regression(4)
    w = [0.0, 0.0, 1.0, 1.0]
    model = portable_bp.fit(
        NET, X, y, sample_weight=w, batch_size=2, epochs=1, shuffle=False, optimizer="sgd"
    )
    only = portable_bp.fit(
        NET, X[2:], y[2:], batch_size=2, epochs=1, shuffle=False, optimizer="sgd"
    )
    same(model.params, only.params)
    assert np.isfinite(model.history["loss"][0])


def test_prediction_in_blocks_equals_prediction_at_once(monkeypatch):
    from portable_bp.training import blocks

    X, y = regression(50)
    model = portable_bp.fit(NET, X, y, epochs=1)
    whole = model.forward(X)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * sum(NET.sizes) * 7)
    np.testing.assert_allclose(model.forward(X), whole, rtol=1e-6, atol=1e-6)
    assert model.score(X, y) == pytest.approx(model.evaluate(X, y)[1])


def test_multilabel_and_single_output_shapes():
    X = regression(30)[0]
    net = portable_bp.MLP([3, 8, 2], loss="log_loss")
    y = np.stack([X[:, 0] > 0, X[:, 1] > 0], axis=1)
    model = portable_bp.fit(net, X, y, epochs=60, learning_rate=0.05, validation=0.2)
    assert model.predict(X).shape == (30, 2)
    assert set(np.unique(model.predict(X))) <= {0, 1}
    assert model.score(X, y) > 0.9
    single = portable_bp.fit(portable_bp.MLP([3, 1], loss="log_loss"), X, y[:, 0], epochs=1)
    assert single.predict(X).shape == (30,)


BAD = [
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"batch_size": 2.5}, TypeError, "batch_size"),
    ({"batch_size": True}, TypeError, "batch_size"),
    ({"epochs": 0}, ValueError, "epochs"),
    ({"learning_rate": 0}, ValueError, "learning_rate"),
    ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
    ({"learning_rate": "0.1"}, TypeError, "learning_rate"),
    ({"optimizer": "adamm"}, ValueError, "optimizer must be one of"),
    ({"validation": 1.0}, ValueError, "validation"),
    ({"validation": (1, 2, 3, 4)}, ValueError, "validation"),
    ({"clip_norm": -1}, ValueError, "clip_norm"),
    ({"max_time": 0}, ValueError, "max_time"),
    ({"seed": -1}, ValueError, "seed"),
    ({"seed": "x"}, TypeError, "seed"),
    ({"dtype": "float16"}, ValueError, "dtype"),
    ({"early_stopping": "yes"}, TypeError, "early_stopping"),
    ({"sample_weight": [1.0]}, ValueError, "sample_weight"),
    ({"sample_weight": -np.ones(20)}, ValueError, "negative"),
    ({"sample_weight": np.zeros(20)}, ValueError, "zero for every row"),
    ({"params": ((np.ones((2, 2)), np.ones(2)),)}, ValueError, "shapes"),
    ({"backend": "nope"}, portable_bp.BackendError, "unknown backend"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD, ids=lambda v: str(v)[:30])
def test_bad_arguments(options, error, match):
    X, y = regression(20)
    with pytest.raises(error, match=match):
        portable_bp.fit(NET, X, y, **options)


def test_the_network_refuses_what_makes_no_sense():
    for arguments, match in [
        (([3],), "at least inputs and outputs"),
        (([3, 0],), r"sizes\[1\]"),
        (([3, 2.5],), r"sizes\[1\]"),
        (([3, 4, 1], ["relu", "relu"]), "hidden has 2 entries"),
        (([3, 4, 1], "relo"), "hidden must be one of"),
        (([3, 1], "relu", "mse"), "loss must be one of"),
        (([3, 1], "relu", "softmax_cross_entropy"), "one output per class"),
    ]:
        with pytest.raises((ValueError, TypeError), match=match):
            portable_bp.MLP(*arguments)
    with pytest.raises(ValueError, match="dropout"):
        portable_bp.MLP([3, 4, 1], dropout=1.0)
    with pytest.raises(MemoryError, match="bytes"):
        portable_bp.MLP([10**6, 10**12, 1]).init()
    with pytest.raises(ValueError, match="not one of portable_bp's own"):
        portable_bp.MLP(
            [1, 1, 1], portable_bp.Activation(lambda z, xp: z, lambda z, a, xp: 1 + 0 * z, "mine")
        ).describe()


@pytest.mark.parametrize("answer", [[1], 1, 0, "stop", 0.0, np.array(True)])
def test_only_true_stops_and_anything_else_but_none_is_an_error(answer):
    X, y = regression(20)
    with pytest.raises(
        TypeError, match=r"return True to stop the training, or None to go on; .* returned"
    ):
        portable_bp.fit(NET, X, y, epochs=3, callbacks=[lambda end: answer])


@pytest.mark.parametrize(
    ("answer", "epochs"), [(True, 1), (np.True_, 1), (None, 3), (False, 3), (np.False_, 3)]
)
def test_what_a_callback_may_answer(answer, epochs):
    X, y = regression(20)
    model = portable_bp.fit(NET, X, y, epochs=3, callbacks=[lambda end: answer])
    assert len(model.history.epochs) == epochs


def test_a_callback_sees_copies_of_the_history_and_of_the_row():
    X, y = regression(20)

    def spoil(end):
        end.history.epochs.clear()
        end.row.clear()

    model = portable_bp.fit(NET, X, y, epochs=3, callbacks=[spoil], early_stopping=2)
    assert len(model.history["loss"]) == 3


def test_early_stopping_by_mode():
    X, y = regression(60)
    up = portable_bp.EarlyStopping(2, monitor="validation_loss", mode="max", restore_best=False)
    model = portable_bp.fit(NET, X, y, epochs=50, validation=0.3, early_stopping=up)
    losses = model.history["validation_loss"]
    assert len(losses) == int(np.argmax(losses)) + 3
    for monitor, mode, error in (
        ("learning_rate", "auto", "whether 'learning_rate' is to fall or to grow: pass mode='min'"),
        (
            "validation_f1",
            "max",
            "monitor must be one of loss, validation_loss, validation_r2, lear",
        ),
    ):
        early = portable_bp.EarlyStopping(monitor=monitor, mode=mode)
        for options in ({"early_stopping": early}, {"callbacks": [early]}):
            with pytest.raises(ValueError, match=error):
                portable_bp.fit(NET, X, y, validation=0.3, **options)
    with pytest.raises(ValueError, match="mode must be 'auto', 'min' or 'max', got 'up'"):
        portable_bp.EarlyStopping(mode="up")
