"""The README does what it says: its code runs as printed, and so do its commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest

import portable_bp
from portable_bp import cli
from portable_bp.testing import equivalence

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in README.splitlines() if line.startswith("    ")]
"""What stands in blocks that are set off by blanks: commands."""


def starting_with(word):
    found = [shlex.split(line, comments=True) for line in LINES if line.startswith(word + " ")]
    assert found, f"the README shows no {word}"
    return found


def test_every_indented_line_is_a_command_that_is_tested_here():
    assert {line.split()[0] for line in LINES} == {"make", "pip", "portable-bp"}


def test_the_code_runs_as_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == README.count("```python")
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    accuracy, labels, truth = re.search(
        r"validation accuracy (\S+)\n(\[.*?\]) (\[.*?\])", capsys.readouterr().out
    ).groups()
    assert float(accuracy) > 0.95
    assert labels == truth
    assert [tuple(W.shape) for W, _ in names["params"]] == [(2, 3), (3, 1)]
    assert len(names["deltas"]) == len(names["grads"]) == 2
    assert names["MLPClassifier"].__module__.startswith("portable_bp.")


def test_the_commands_run_as_printed(capsys, tmp_path, monkeypatch):
    """In order, in one directory, with a table that has a column ``price``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(equivalence, "CHECKS", {"transfers": equivalence.CHECKS["transfers"]})
    size, age = np.random.default_rng(0).normal(size=(2, 200))
    rows = np.column_stack([size, age, 100 + 10 * size - age])
    np.savetxt("table.csv", rows, delimiter=",", header="size,age,price", comments="")
    shown = starting_with("portable-bp")
    assert {words[1] for words in shown} == set(cli.commands.commands)
    for words in shown:
        code = cli.run(words[1:])
        out, err = capsys.readouterr()
        if words[2:] == ["--backend", "cupy"] and "cupy" not in portable_bp.available_backends():
            assert code == 2, "without CuPy this says what is missing"
            assert "cupy" in err
            continue
        assert (code, err) == (0, ""), words
        assert out
    assert {p.name for p in tmp_path.iterdir()} == {"table.csv", "model.safetensors", "loss.png"}


def test_the_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in starting_with("make"):
        for target in words[1:]:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_extras_of_pip_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"\[(\w+)\]", "\n".join(" ".join(w) for w in starting_with("pip"))))
    extras |= {
        e for line in LINES if line.startswith("pip") for e in re.findall(r"\[(\w+)\]", line)
    }
    assert extras
    assert extras <= set(project["optional-dependencies"])


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_the_links_lead_somewhere(link):
    assert (ROOT / link).exists()
