"""Ctrl-C, once or twice, at every seam of a run that is saved, struck there and not by the clock.

A run is made of calls: before each of them, and after it, SIGINT comes by ``signal.raise_signal``, as
Python runs a handler between two instructions. Whatever became of the run, its directory must be free
and whole, the handlers of signals must be those of before, and ``resume=True`` must lead to the bits of
a run that nobody disturbed.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

import numpy as np
import pytest

import portable_bp
from portable_bp import EarlyStopping
from portable_bp.backend import leaves
from portable_bp.equations import network, optimizers
from portable_bp.estimators import MLPRegressor
from portable_bp.estimators._policy import ScikitPolicy
from portable_bp.persistence.checkpoints import CheckpointDirectory
from portable_bp.training.checkpointing import Checkpointing
from portable_bp.training.data import DeviceData
from portable_bp.training.policy import FitPolicy
from portable_bp.training.recovery import Signals

pytest.importorskip("safetensors.numpy", reason="needs the extra [io]")

X = np.random.default_rng(3).normal(size=(20, 3))
Y = np.sin(X[:, 0])
NET = portable_bp.MLP([3, 4, 1], "tanh", dropout=0.1)
LISTENED = [getattr(signal, name) for name in Signals.NAMES if hasattr(signal, name)]

SEAMS = [
    (signal, "signal"), (os, "replace"), (os, "unlink"), (os, "fsync"), (os, "listdir"),
    (network, "loss_and_gradients"), (optimizers, "apply"), (DeviceData, "chunks"),
    *((CheckpointDirectory, name) for name in ("save", "latest", "close")),
    *((Checkpointing, name) for name in ("watch", "look", "epoch_ended", "run_ended", "go_on")),
    *((EarlyStopping, name) for name in ("on_train_begin", "__call__", "state", "restore")),
    *((policy, name) for policy in (FitPolicy, ScikitPolicy)
      for name in ("order", "rates", "after_epoch", "saved", "restore", "lookahead")),
]  # fmt: skip


def by_fit(directory, resume):
    model = portable_bp.fit(
        NET, X, Y, epochs=2, batch_size=8, validation=(X, Y), early_stopping=EarlyStopping(5),
        backend="numpy", compile=False, checkpoint=directory, checkpoint_every=1, resume=resume,
    )  # fmt: skip
    history = {name: [*model.history[name]] for name in model.history if name != "seconds"}
    return model.stopped, [p.tobytes() for p in leaves(model.params)], history


def by_estimator(directory, resume):
    # Fewer steps than are worth compiling.
    est = MLPRegressor(hidden_layer_sizes=(4,), dropout=0.1, batch_size=8, max_iter=2, random_state=1,
                       early_stopping=True, validation_fraction=0.2)  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        est.fit(X, Y, checkpoint=directory, checkpoint_every=1, resume=resume)
    cut = any("interrupted" in str(w.message) for w in caught)
    history = est.loss_curve_, est.validation_scores_, est.n_iter_, est.t_
    bits = [p.tobytes() for p in est.coefs_ + est.intercepts_]
    return "interrupted" if cut else "finished", bits, history


class Strikes:
    """Counts the moments at the seams; at one of them Ctrl-C comes ``times``."""

    def __init__(self, monkeypatch, at=None, times=1):
        self._at, self._times = at, times
        self.moments = []
        monkeypatch.setattr(os, "fsync", lambda file: None)  # the disk is not what is tried here
        for owner, name in SEAMS:
            monkeypatch.setattr(owner, name, self._seam(owner, name))

    def _seam(self, owner, name) -> Callable:
        call = getattr(owner, name)

        def seam(*args, **kwargs):
            self._moment(f"before {name}")
            result = call(*args, **kwargs)
            self._moment(f"after {name}")
            return result

        return seam

    def _moment(self, words):
        self.moments.append(words)
        if len(self.moments) - 1 == self._at:
            for _ in range(self._times):
                signal.raise_signal(signal.SIGINT)


def handlers():
    return [signal.getsignal(number) for number in LISTENED]


@pytest.fixture
def put_back():
    before = handlers()
    yield
    for number, handler in zip(LISTENED, before, strict=True):
        signal.signal(number, handler)


def check(train, tmp_path, monkeypatch, times, first, stride):
    """A strike at every ``stride``-th moment from the ``first`` on."""
    train(tmp_path / "imports", resume=False)
    tracebacks = []  # a notebook keeps them, and all that was alive
    with monkeypatch.context() as patch:
        moments = Strikes(patch).moments
        whole = train(tmp_path / "whole", resume=False)
    before = handlers()
    assert whole[0] == "finished"
    assert len(moments) > 100
    for at in range(first, len(moments), stride):
        directory, words = tmp_path / str(at), f"moment {at}: {moments[at]}"
        with monkeypatch.context() as patch:
            strikes = Strikes(patch, at, times)
            try:
                stopped = train(directory, resume=False)[0]
            except KeyboardInterrupt as error:
                tracebacks.append(error)
                stopped = "interrupted"
        assert strikes.moments[: at + 1] == moments[: at + 1], words
        assert handlers() == before, words
        # A Ctrl-C in the last instant may come too late; one before the first does not.
        assert stopped == "interrupted" or at > len(moments) // 2, words
        if directory.exists():
            assert not [*directory.glob("*.tmp")], words
        assert train(directory, resume=True) == whole, words


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("train", [by_fit, by_estimator])
def test_ctrl_c_at_every_seam_of_a_run_that_is_saved(train, tmp_path, monkeypatch, times):
    check(train, tmp_path, monkeypatch, times, first=times, stride=7)


@pytest.mark.slow
@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("train", [by_fit, by_estimator])
def test_ctrl_c_at_all_seams_of_a_run_that_is_saved(train, tmp_path, monkeypatch, times):
    check(train, tmp_path, monkeypatch, times, first=0, stride=1)
