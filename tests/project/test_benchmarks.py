"""The benchmark's machinery: it runs, refuses wrong candidates, and the pages show what it found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import ablation, cases, cli, growth, memory, plots, race, tables, targets
from benchmarks.cases import Case
from benchmarks.peers import KINDS, TRAINING
from benchmarks.workers import Failed, Served, Worker
from tools import readme_tables

TINY = Case((8, 16, 2), 32, 256)


class Here:
    """A worker without a process of its own."""

    def __init__(self, kind: str, name: str) -> None:
        self.served = Served(kind, name)

    def begin_build(self, *task: Any) -> None:
        self.task = task

    def built(self) -> dict[str, Any]:
        try:
            return self.served.build(*self.task)
        except ValueError as error:
            raise Failed(str(error)) from error

    def time(self) -> float:
        return self.served.time()

    def close(self) -> None:
        return


def here(kind: str, names: list[str], case: Case, rounds: int = 2) -> dict[str, Any]:
    with race.Race(kind, names, Here) as together:
        return together.entry(case, rounds, 0.0)


def timed(us: list[float]) -> dict[str, Any]:
    return {"us": us, "error": 0.0, "tolerance": 1.0, "ready_s": 0.1}


def entry(case: Case, **us: list[float]) -> dict[str, Any]:
    found = {name.replace("_", " "): timed(u) for name, u in us.items()}
    made = {"sizes": case.sizes, "batch": case.batch, "rows": case.rows, "optimizer": "adam"}
    return {"name": case.name, "case": {**made, "loss": case.loss}, "candidates": found}


# --- the whole, once -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("results")
    arguments = ["--quick", "--rounds", "2", "--seconds", "0", "--save", str(directory)]
    result = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Targets: " in result.output
    for picture in ("cpu.png", "cpu_growth.png"):
        assert (directory / picture).read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads((directory / "cpu.json").read_text())
    return found


def test_quick_run_leaves_a_complete_record(record: dict[str, Any]) -> None:
    check_record(record)
    names = [c["name"] for c in record["training"]["cases"]]
    assert names == ["8-16-2 B1 adam", "8-16-2 B1 sgd"]
    assert set(record["training"]["cases"][0]["candidates"]) == {"ours numpy", "floor"}
    assert all(len(entries) == 1 for entries in record["growth"]["axes"].values())


def check_record(record: dict[str, Any]) -> None:
    """What every record has, and that its figures can be figures."""
    assert record["format"] == cli.FORMAT
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["libraries"]["numpy"]
    assert set(record) == {"format", "machine", *cli.PARTS}
    for part in cli.PARTS:
        assert {"date", "load", "sources"} < set(record[part])
    for e, name, found in cli.figures(record):
        where = f"{e['name']}, {name}"
        if "why_not" in found:
            continue
        assert "refused" not in found, where
        assert found["error"] <= found["tolerance"], where
        assert len(found["us"]) >= 2, where
        assert all(0 < us < 1e8 and math.isfinite(us) for us in found["us"]), where
    rounds = [
        {len(f["us"]) for f in e["candidates"].values() if "us" in f}
        for p in ("training", "inference", "ablation")
        for e in record[p]["cases"]
    ]
    assert all(len(counts) == 1 for counts in rounds), "every candidate runs in every round"
    for e in record["memory"]["cases"]:
        assert e["plan"]["state"] == e["held"]["parameters"] + e["held"]["moments"]
        assert e["plan"]["state"] + e["plan"]["workspace"] <= e["plan"]["peak"]
    text = json.dumps(record)
    assert "/home" not in text
    assert "/work" not in text


def test_a_second_run_keeps_the_other_parts(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(record))
    assert cli.kept(tmp_path) == record
    (tmp_path / "cpu.json").write_text(json.dumps({**record, "machine": {"cores": 999}}))
    assert set(cli.kept(tmp_path)) == {"format", "machine"}


# --- nothing is timed whose numbers are wrong ------------------------------------------------------


class HalfTheRate(KINDS["training"]["ours numpy"]):  # type: ignore[misc, name-defined]
    def epoch(self, order: Any) -> float:
        loss: float = super().epoch(order[: len(order) // 2])
        return loss


class Diverges(KINDS["training"]["ours numpy"]):  # type: ignore[misc, name-defined]
    def run(self, rounds: int) -> float:
        return math.nan


@pytest.mark.parametrize(("wrong", "why"), [(HalfTheRate, "from float64"), (Diverges, "nan")])
def test_wrong_candidate_is_refused(wrong: Any, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINING, "wrong", wrong)
    found = here("training", ["ours numpy", "wrong"], TINY)["candidates"]
    assert why in found["wrong"]["refused"]
    assert "us" not in found["wrong"]
    assert len(found["ours numpy"]["us"]) == 2


@pytest.mark.parametrize("name", [n for n in TRAINING if n not in ("torch.compile", "ours cupy")])
@pytest.mark.parametrize("optimizer", cases.RATES)
def test_every_candidate_computes_the_step(name: str, optimizer: str) -> None:
    case = Case((8, 16, 2), 32, 256, optimizer)
    found = here("training", [name], case)["candidates"][name]
    if name == "thinc" and "why_not" in found:
        pytest.skip(found["why_not"])
    assert "us" in found, found


@pytest.mark.parametrize("kind", ["inference", "ablation"])
def test_every_forward_pass_and_every_ablation(kind: str) -> None:
    found = here(kind, list(KINDS[kind]), TINY)["candidates"]
    assert {n: f for n, f in found.items() if "us" not in f} == {}


def test_reference_is_the_hand_made_step() -> None:
    """One step of plain gradient descent, written out: what all candidates are held against."""
    case = Case((3, 2), 4, 4, "sgd")
    d, ((W, b),) = cases.data(case), cases.start(case)
    z = d.x.astype("float64") @ W + b
    o = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    delta = (o - d.onehot) / 4
    one = -case.rate * np.concatenate([(d.x.T @ delta).ravel(), delta.sum(axis=0)])
    found = cases.reference(case)
    np.testing.assert_allclose(found, cases.PROOF_STEPS * one, rtol=0.05)


def test_worker_that_dies_is_a_failure() -> None:
    worker = Worker("training", "floor")
    with pytest.raises(Failed, match="ended with code 3"):
        worker.call("apply", __import__("os")._exit, 3)
    worker.close()


def test_scikit_learn_is_held_against_its_own_network() -> None:
    assert TRAINING["scikit-learn"].expects(TINY).sizes == (8, 16, 1)
    assert TRAINING["torch eager"].expects(TINY) is TINY


# --- figures -----------------------------------------------------------------------------------------


def test_ratios_are_taken_within_a_round() -> None:
    """A round slowed down by others slows both: the ratio stays."""
    e = entry(TINY, a=[1.0, 10.0, 3.0], b=[4.0, 40.0, 3.0])
    assert race.ratio(e, "a", "b") == (0.25, 1 / 3)
    assert race.ratio(e, "a", "c") is None
    assert race.best(e, ["a", "b", "c"]) == "a"
    assert race.spread([1.0, 2.0, 3.0]) == {"min": 1.0, "q1": 1.5, "median": 2.0, "q3": 2.5}


def test_interruptions_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of 40 ms in stretches of a millisecond, of which more than half take a second."""
    served = Served("training", "floor")
    served.candidate = TRAINING["floor"](TINY)
    rounds: list[int] = []

    def seconds(candidate: Any, n: int) -> float:
        rounds.append(n)
        return 1.0 if len(rounds) % 5 in (0, 2, 3) else n * 0.0008

    monkeypatch.setattr(served, "_seconds", seconds)
    assert served.time() == pytest.approx(0.0008 / TINY.steps)
    assert rounds == [1] + [2] * 25


def test_verdicts() -> None:
    shape = {s.shape: s for s in cases.SHAPES}["8-16-2 B32"]
    e = entry(shape, ours_numpy=[1.0, 1.0], jax_jit=[1.0, 1.0], scikit_learn=[6.1, 6.1])
    e["candidates"]["scikit-learn"] = e["candidates"].pop("scikit learn")
    e["candidates"]["jax.jit"] = e["candidates"].pop("jax jit")
    met = {v.other: v.met for v in targets.verdicts([e])}
    assert met == {"jax.jit": False, "scikit-learn": True}
    assert tables.tally([e]) == "1 of 2 targets met"


def test_every_target_names_candidates_and_cases() -> None:
    for target in targets.TARGETS:
        assert target.ours in TRAINING
        assert set(target.limits) - {targets.BEST} <= set(TRAINING)
        assert target.shapes


def test_slopes() -> None:
    def at(n: int) -> dict[str, Any]:
        return {"at": n, **entry(TINY, flat=[5.0, 5.0], square=[n**2.0, n**2.0])}

    entries = [at(n) for n in (1, 2, 4, 8)]
    np.testing.assert_allclose(growth.slopes("width", entries, "flat"), (0, 0), atol=1e-12)
    np.testing.assert_allclose(growth.slopes("width", entries, "square"), (2, 2))
    assert growth.slopes("width", entries[:2], "flat") is None
    # On the axis of rows it is an epoch that is counted: 8 steps of 5 microseconds.
    assert growth.seconds("rows", at(1), "flat") == pytest.approx(40e-6)


def test_memory_that_must_be_held() -> None:
    """784-100-10, B 200: 79,510 parameters; with Adam two moments and a gradient of that size."""
    held = memory.held(Case((784, 100, 10), 200, 2000))
    assert held["parameters"] == 4 * 79_510
    assert held["moments"] == 8 * 79_510
    assert held["activations"] == 4 * 200 * 110
    assert memory.held(Case((784, 100, 10), 200, 200, "sgd"))["moments"] == 0


def test_picture_without_a_peer(tmp_path: Path) -> None:
    """A part of the candidates is enough for a picture."""
    part = {"cases": [entry(TINY, ours_numpy=[1.0, 2.0])]}
    assert plots.draw({"training": part}, tmp_path) == [tmp_path / "cpu.png"]


# --- the pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_page_shows_the_committed_record(page: str) -> None:
    text = (readme_tables.ROOT / page).read_text()
    assert text == readme_tables.updated(page), "run: python -m tools.readme_tables"


def test_committed_record() -> None:
    record = readme_tables.cpu()
    check_record(record)
    assert [c["name"] for c in record["training"]["cases"]] == [c.name for c in cases.CASES]
    assert ablation.ALL in record["ablation"]["cases"][0]["candidates"]
