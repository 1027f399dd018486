"""The race for the quickest backend: who takes part, how often each is timed, what is remembered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, optimizers
from portable_bp.backend.registry import adapters
from portable_bp.cli import bench, run
from portable_bp.errors import BackendError
from portable_bp.training import fastest as room
from portable_bp.training.fastest import ROUNDS, Timing, Work, entrants, fastest, race, starter

NET = MLP([4, 5, 3], loss="softmax_cross_entropy")
ADAM = optimizers.get("adam")


class Machine:
    """A clock that only the work of its backends moves on."""

    def __init__(self, seconds_of_a_step: dict[str, float], ready: float = 0.5) -> None:
        self.now, self.speed, self.ready = 0.0, seconds_of_a_step, ready
        self.calls: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    def start(self, spec: str, compile: bool) -> Any:
        self.now += self.ready
        if spec == "broken":
            raise RuntimeError("no such device\nat line 3")

        def run(steps: int) -> None:
            self.calls.append((spec, steps))
            self.now += steps * self.speed[spec]

        return run

    def race(self, seconds: float = 0.0) -> list[Timing]:
        specs = [(spec, True) for spec in self.speed]
        return race(specs, self.start, seconds, self.clock)


def test_the_quickest_comes_first_and_what_fails_last() -> None:
    machine = Machine({"slow": 0.1, "broken": 0.0, "quick": 0.05})
    results = machine.race()
    assert [r.spec for r in results] == ["quick", "slow", "broken"]
    assert results[0].step == pytest.approx(0.05)
    assert results[0].ready == pytest.approx(0.55)  # the first step is done
    assert results[2].failure == "no such device"


def test_what_is_hopeless_is_timed_once_and_the_others_in_turn() -> None:
    machine = Machine({"quick": 0.05, "near": 0.1, "hopeless": 0.16})
    machine.race()
    timed = machine.calls[6:]  # after the first step, and the look at how long one takes
    assert timed[:3] == [("quick", 1), ("near", 1), ("hopeless", 1)]
    assert Counter(spec for spec, _ in timed) == {"quick": ROUNDS, "near": ROUNDS, "hopeless": 1}


def test_rounds_go_on_until_the_seconds_are_over() -> None:
    machine = Machine({"a": 0.05, "b": 0.05})
    machine.race(seconds=1.05)
    assert len(machine.calls) == 2 * 2 + 2 * 11  # a round takes 0.1 s, and none begins after 1.05 s


def test_short_steps_are_timed_many_in_a_call() -> None:
    """A step of 1 ms: 32 make more than 20 ms. Of 1 microsecond: no more than 64."""
    for seconds, steps in ((1e-3, 32), (1e-6, 64), (0.0, 64), (0.03, 1)):
        machine = Machine({"a": seconds})
        (result,) = machine.race()
        assert machine.calls[-1] == ("a", steps)
        assert result.step == pytest.approx(seconds)
        assert len([c for c in machine.calls if c[1] > 1]) <= 2 + ROUNDS


def test_an_odd_call_does_not_decide() -> None:
    machine = Machine({"a": 0.05, "b": 0.06})
    slips = iter([0.0] * 4 + [5.0])  # of a in the first round
    start = machine.start

    def slipping(spec: str, compile: bool) -> Any:
        run = start(spec, compile)

        def slip(steps: int) -> None:
            run(steps)
            machine.now += next(slips, 0.0)

        return slip

    results = race([("a", True), ("b", True)], slipping, 0.0, machine.clock)
    assert [r.spec for r in results] == ["a", "b"]
    assert results[0].step == pytest.approx(0.05)


def test_every_backend_but_the_referee_takes_part() -> None:
    specs = {spec for spec, _ in entrants()}
    assert {"numpy", "torch", "jax"} <= specs
    assert not any(spec.startswith("strict") for spec in specs)
    assert Counter(compile for _, compile in entrants()) == {True: len(specs), False: len(specs)}
    assert {compile for _, compile in entrants(eager=False)} == {True}


def test_of_alike_accelerators_the_first_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = ("torch:cuda:0", "torch:cuda:1")
    adapter = adapters()["torch"]
    monkeypatch.setattr(adapter, "accelerators", classmethod(lambda cls: gpus))
    monkeypatch.setattr(adapter, "devices", classmethod(lambda cls: (*gpus, "torch")))
    specs = {spec for spec, _ in entrants() if spec.startswith("torch")}
    assert specs == {"torch:cuda:0", "torch"}


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "log_loss", "squared_error", "poisson"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_steps_that_are_timed_run(loss: str, dropout: float) -> None:
    for units in (1, 3) if loss != "softmax_cross_entropy" else (3,):
        net = MLP([4, 5, units], loss=loss, dropout=dropout)
        start = starter(Work(net, ADAM, 8, "float32"))
        for spec, compile in (("numpy", True), ("numpy", False), ("torch", True)):
            run = start(spec, compile)
            run(1)
            run(2)


# --- backend="fastest" ----------------------------------------------------------------------------


@pytest.fixture
def races(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The races that were run; torch wins each."""
    ran: list[Any] = []

    def instead(specs: Any, start: Any, seconds: float) -> list[Timing]:
        ran.append(specs)
        return [Timing("torch", True, 1.0, 1.0), Timing("numpy", True, 2.0, 1.0)]

    room.winners.clear()
    monkeypatch.setattr(room, "race", instead)
    yield ran
    room.winners.clear()


def test_fit_asks_once_for_each_shape(races: list[Any]) -> None:
    X, y = np.zeros((40, 4)), np.arange(40) % 3
    for _ in range(2):
        model = portable_bp.fit(NET, X, y, epochs=1, backend="Fastest", batch_size=8)
        assert model.backend.spec == "torch"
    assert len(races) == 1
    portable_bp.fit(MLP([4, 5, 3], loss="softmax_cross_entropy"), X, y, epochs=1, backend="fastest",
                    batch_size=8, learning_rate=0.1)  # fmt: skip
    assert len(races) == 1, "an equal network is no other shape"
    others: list[dict[str, Any]] = [
        {"batch_size": 16}, {"dtype": "float64"}, {"optimizer": "sgd"}, {"optimizer": "lbfgs"},
        {"batch_size": None}, {"compile": False},
    ]  # fmt: skip
    for number, settings in enumerate(others, start=2):
        settings = {"batch_size": 8} | settings
        portable_bp.fit(NET, X, y, epochs=1, backend="fastest", **settings)
        assert len(races) == number, settings
    assert {compile for _, compile in races[-1]} == {False}
    assert {compile for _, compile in races[0]} == {True}


def test_a_network_that_no_backend_runs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Timing("numpy", True, float("inf"), float("inf"), "no memory")
    monkeypatch.setattr(room, "race", lambda *args: [failed])
    with pytest.raises(BackendError, match="no backend here runs this network: numpy: 'no memory'"):
        fastest(MLP([7, 1]), ADAM, 8, "float32")


def test_elsewhere_the_name_says_where_it_belongs() -> None:
    with pytest.raises(BackendError, match=r"it is for portable_bp.fit.*portable-bp bench"):
        portable_bp.get_backend("fastest")


def test_several_processes_name_their_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "current", lambda: SimpleNamespace(size=2))
    with pytest.raises(ValueError, match="for one process"):
        fastest(NET, ADAM, 8, "float32")


# --- portable-bp bench ----------------------------------------------------------------------------


def test_the_command_prints_every_backend_and_a_recommendation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def instead(specs: Any, start: Any, seconds: float) -> list[Timing]:
        asked.append((specs, seconds))
        return [
            Timing("jax", True, 1e-5, 1.5),
            Timing("numpy", True, 2e-5, 0.5),
            Timing("numpy", False, 4e-5, 0.00166),
            Timing("cupy", True, float("inf"), float("inf"), "no driver"),
        ]

    monkeypatch.setattr(bench, "race", instead)
    assert run(["bench", "4", "3", "--seconds", "2", "--batch-size", "100"]) == 0
    out = capsys.readouterr().out
    assert asked == [(entrants(), 2.0)]
    lines = [line.split() for line in out.splitlines()]
    assert lines[3] == ["jax", "compiled", "10", "µs", "10,000,000", "1.5", "s"]
    assert lines[5] == ["numpy", "eager", "40", "µs", "2,500,000", "1.66", "ms"]
    assert "failed: no driver" in out
    # 1.49834 s later, and 30 microseconds a step quicker.
    assert "take backend='jax'; in a process that makes less than 49,945 steps, " in out
    assert out.rstrip().endswith("backend='numpy', compile=False")
    assert run(["bench", "4", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["timings"][0]["spec"] == "jax"


def test_the_command_refuses_one_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "4"]) == 2
    assert "name at least inputs and outputs" in capsys.readouterr().err


def test_the_command_fails_where_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Timing("numpy", True, float("inf"), float("inf"), "no memory")
    monkeypatch.setattr(bench, "race", lambda *args: [failed])
    assert run(["bench"]) == 1
    assert "no backend here runs this network" in capsys.readouterr().out
