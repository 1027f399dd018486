"""Checkpoints with a right checksum that claim what no run has done: refused, and in few steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import portable_bp
from portable_bp import CheckpointError, EarlyStopping, schedules
from portable_bp.estimators import MLPRegressor
from portable_bp.persistence import container

X = np.random.default_rng(1).normal(size=(20, 3))
Y = np.sin(X[:, 0])
NET = portable_bp.MLP([3, 4, 1], "tanh")

CALLS = [0]


@dataclass(frozen=True)
class Counted(schedules.Schedule):
    """Constant, and counts how often it is asked: the loops of a resumed run over its steps."""

    name: ClassVar[str] = "counted"

    def __call__(self, step: int, total: int) -> float:
        CALLS[0] += 1
        return self.rate


def run(directory, epochs=3, **options):
    """Three epochs of five steps, the checkpoint after step 7 among those that stay."""
    return portable_bp.fit(
        NET, X, Y, epochs=epochs, batch_size=4, validation=(X, Y), checkpoint=directory,
        learning_rate=Counted(0.1), early_stopping=EarlyStopping(9), compile=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    run(directory, checkpoint_every=7, checkpoint_keep=9)
    return container.read(directory / "ckpt-0000000007.safetensors")


def resume(directory: Path, arrays, metadata, **options):
    container.write(directory / "ckpt-0000000007.safetensors", arrays, metadata)
    CALLS[0] = 0
    return run(directory, resume=True, **options)


def changed(metadata, place, value):
    metadata = copy.deepcopy(metadata)
    part = metadata
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return metadata


PLACES = [
    ("epochs",), ("epoch",), ("in_epoch",), ("steps",), ("plateau", 0), ("plateau", 1),
    ("plateau", 2), ("best", 0), ("best", 1), ("history", 0, "loss"), ("history", 0, "seconds"),
    ("watchers", 0, "best"), ("watchers", 0, "waited"),
]  # fmt: skip
NOT_REFUSED = {
    # what a run could have written: other sums and scores, and any number of planned epochs
    (("plateau", 0), 10**12), (("plateau", 1), 10**12), (("plateau", 1), -1),
    (("plateau", 0), 1.5), (("plateau", 1), 1.5), (("plateau", 2), 10**9), (("epochs",), 10**9),
    (("best", 0), 10**12), (("best", 0), -1), (("best", 0), 1.5), (("best", 0), 10**9),
    (("plateau", 0), 10**9), (("plateau", 1), 10**9), (("history", 0, "seconds"), 10**9),
    (("history", 0, "loss"), 10**12), (("history", 0, "loss"), -1), (("history", 0, "loss"), 1.5),
    (("history", 0, "loss"), 10**9), (("history", 0, "seconds"), 10**12),
    (("history", 0, "seconds"), -1), (("history", 0, "seconds"), 1.5),
    (("watchers", 0, "best"), 10**12), (("watchers", 0, "best"), -1),
    (("watchers", 0, "best"), 1.5), (("watchers", 0, "best"), 10**9),
    (("watchers", 0, "waited"), 10**9), (("watchers", 0, "waited"), 10**12),
    (("watchers", 0, "waited"), 10**400),  # only compared
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_claims_are_checked_before_anything_is_counted(middle, place, tmp_path):
    for i, value in enumerate((10**9, 10**12, 10**400, -1, True, 1.5, float("nan"), "9", [9])):
        directory = tmp_path / str(i)
        directory.mkdir()
        arrays, metadata = middle
        contents = (arrays, changed(metadata, place, value))
        if not isinstance(value, list) and (place, value) in NOT_REFUSED:
            resume(directory, *contents)
        else:
            with pytest.raises(CheckpointError, match=r"does not hold"):
                resume(directory, *contents)
        # Twice for each step done, by the check of the rates, and once for each step of the run.
        assert CALLS[0] <= 3 * 15 + 15


def test_claims_that_agree_with_each_other_are_measured_by_the_run(middle, tmp_path):
    """60,000 epochs of five steps, with a history of as many: nobody counts them all."""
    arrays, metadata = middle
    epochs = 60_000
    metadata = metadata | {
        "epochs": epochs,
        "epoch": epochs,
        "in_epoch": 2,
        "steps": 5 * epochs + 2,
    }
    metadata["history"] = [{"loss": 0, "validation_loss": 0, "validation_r2": 0, "learning_rate": 0,
                            "seconds": 0}] * epochs  # fmt: skip
    model = resume(tmp_path, arrays, metadata)
    assert len(model.history.epochs) == epochs  # a longer run, which has nothing left to do
    assert CALLS[0] <= 60


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, m: a.update({"state/0/0/0": a["state/0/0/0"].astype("int8")}), "is int8"),
        (lambda a, m: a.update({"state/0/0/0": a["state/0/0/0"].astype("f8")}), "is float64"),
        (lambda a, m: a.update({"state/0/0/0": a["state/0/0/0"].T}), "of shape"),
        (lambda a, m: a.update({"state/9": np.zeros(3)}), "unknown"),
        (lambda a, m: a.update(surprise=np.zeros(3)), "unknown array 'surprise'"),
        (lambda a, m: a.pop("state/0/0/0"), "no array"),
        (lambda a, m: a.update(losses=np.zeros(3)), "losses of 2 steps"),
        (lambda a, m: a.update(losses=np.zeros(0)), "losses of 0 steps after 2"),
        (lambda a, m: a.update(losses=np.zeros(2, "f4")), "in float64"),
        (lambda a, m: a.update(losses=np.zeros((2, 1))), "in float64"),
        (lambda a, m: a.pop("losses"), "losses"),
        (lambda a, m: m.update(best=None), "do not belong together"),
        (lambda a, m: m.update(surprise=1), "unknown key 'surprise'"),
        (lambda a, m: m.pop("plateau"), "lacks 'plateau'"),
        (lambda a, m: m["run"].pop("dtype"), "lacks 'dtype'"),
        (lambda a, m: m["run"].update(seed=10**400), r"its seed is 10+\.\.\.0+, here it is 0"),
        (lambda a, m: m["run"].update(seed="x" * 10**6), r"its seed is 'x+\.\.\.x+', here it is 0"),
        (lambda a, m: m.update(watchers=[]), "0 callback"),
        (lambda a, m: m.update(watchers=[{}]), "the state of EarlyStopping"),
        (lambda a, m: m.update(watchers=[{"best": "low", "waited": 0}]), "the state of"),
        (
            lambda a, m: m.update(epochs=10**9, epoch=10**9, in_epoch=2, steps=5 * 10**9 + 2),
            "the history has 1 epochs, after 1000000000",
        ),
        (lambda a, m: m["history"].append(m["history"][0]), "2 epochs, after 1"),
        (lambda a, m: m["history"][0].pop("validation_loss"), "columns"),
        (lambda a, m: m["history"][0].update(surprise=1.0), "columns"),
    ],
)
def test_what_is_wrong_is_said(middle, change, words, tmp_path):
    arrays, metadata = copy.deepcopy(middle)
    change(arrays, metadata)
    with pytest.raises(CheckpointError, match=words) as caught:
        resume(tmp_path, arrays, metadata)
    assert len(str(caught.value)) < 1000


def estimator():
    return MLPRegressor(
        hidden_layer_sizes=(4,), max_iter=3, batch_size=4, random_state=0, tol=0.0,
        n_iter_no_change=9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("estimator")
    fit_estimator(directory)
    return container.read(directory / "ckpt-0000000007.safetensors")


def fit_estimator(directory, **options):
    with pytest.warns(Warning, match="Maximum iterations"):
        return estimator().fit(
            X, Y, checkpoint=directory, checkpoint_every=7, checkpoint_keep=9, **options
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.pop("progress"), "lacks 'progress'"),
        (lambda e: e.update(surprise=1), "unknown key"),
        (lambda e: e["progress"].update(loss_="low"), "loss_"),
        (lambda e: e["progress"].update(loss_curve_=[None]), "loss_curve_"),
        (lambda e: e["progress"].update(n_iter_=10**12), "n_iter_"),
        (lambda e: e["progress"].update(n_iter_=2), "progress of 1 epochs"),
        (lambda e: e["progress"].update(t_=-1), "t_"),
        (lambda e: e["progress"].update(_no_improvement_count=1.5), "_no_improvement_count"),
        (lambda e: e.update(learning_rate=10**400), "learning_rate"),
        (lambda e: e.update(random_state=None), "random_state"),
        (lambda e: e["random_state"].pop(), "random_state"),
        (lambda e: e["random_state"].__setitem__(0, [1] * 623), "at least 624"),
        (lambda e: e["random_state"].__setitem__(0, [1] * 625), "too many words"),
        (lambda e: e["random_state"].__setitem__(0, [2**32] * 624), "from 0 to 4294967295"),
        (lambda e: e["random_state"].__setitem__(1, 625), "from 0 to 624"),
    ],
)
def test_the_state_of_an_estimator(fitted, change, words, tmp_path):
    arrays, metadata = copy.deepcopy(fitted)
    container.write(tmp_path / "ckpt-0000000007.safetensors", arrays, metadata)
    assert fit_estimator(tmp_path, resume=True).n_iter_ == 3
    for path in tmp_path.glob("ckpt-*"):
        path.unlink()
    change(metadata["estimator"])
    container.write(tmp_path / "ckpt-0000000007.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match=words):
        estimator().fit(X, Y, checkpoint=tmp_path, resume=True)


class Generator:
    """A callback with a generator of its own, whose state has integers of 128 bits."""

    def __init__(self):
        self.rng = np.random.default_rng(5)
        self.drawn = []

    def __call__(self, end):
        self.drawn.append(int(self.rng.integers(1000)))

    def state(self):
        return {"rng": self.rng.bit_generator.state, "drawn": self.drawn}

    def restore(self, state):
        self.rng.bit_generator.state = state["rng"]
        self.drawn = state["drawn"]


def test_a_callback_may_keep_large_integers(tmp_path):
    whole, first, second = Generator(), Generator(), Generator()
    run(tmp_path / "whole", callbacks=[whole])
    run(tmp_path / "parts", epochs=1, callbacks=[first])
    run(tmp_path / "parts", callbacks=[second], resume=True)
    assert second.drawn == whole.drawn
    assert len(whole.drawn) == 3
