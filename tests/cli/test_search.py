"""``portable-bp search``: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portable_bp import cli, tabular
from portable_bp.cli import search


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORTABLE_BP_BACKEND", raising=False)
    monkeypatch.setattr(search, "EPOCHS", 3)
    monkeypatch.setattr(search, "TOGETHER", 3)
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 150))
    rows = "".join(f"{x},{z},{'yes' if x > z else 'no'}\n" for x, z in zip(a, b, strict=True))
    Path("t.csv").write_text("a,b,c\n" + rows, encoding="utf-8")


def test_the_best_is_refitted_tested_and_written(capsys: Any) -> None:
    code = cli.run(["search", "t.csv", "--target", "c", "--time", "1e-9", "--backend", "numpy"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "hidden" in out
    assert "test accuracy" in out
    model = tabular.load("model.safetensors")
    assert len(model.model.history.epochs) >= 1


def test_json_lists_the_candidates_best_first(capsys: Any) -> None:
    arguments = ["search", "t.csv", "--target", "a", "--time", "1e-9", "--json", "--seed", "3"]
    assert cli.run([*arguments, "--backend", "numpy"]) == 0
    first = json.loads(capsys.readouterr().out)
    losses = [candidate["loss"] for candidate in first["candidates"]]
    assert first["tried"] == len(losses) == 3
    assert losses == sorted(losses)
    assert first["layers"][1:-1] == first["candidates"][0]["hidden"]
    assert len({c["learning_rate"] for c in first["candidates"]}) == 3
    assert "test_r2" in first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "0"], "--time"),
        (["--target", "nothing"], "nothing"),
        (["--output", "t.csv"], "would be overwritten"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: Any) -> None:
    assert cli.run(["search", "t.csv", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_candidate_is_finite(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    judged = float("inf"), float("nan"), 1
    monkeypatch.setattr(search, "_judged", lambda model: judged)
    assert cli.run(["search", "t.csv", "--target", "c", "--time", "1e-9"]) == 1
    assert "no candidate had a finite loss" in capsys.readouterr().err
