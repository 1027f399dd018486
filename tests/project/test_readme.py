"""The README and the page on the command line: code and commands run as they are printed."""

from __future__ import annotations

import re
import shlex
import sqlite3
import tomllib
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest

import portable_bp
from portable_bp import cli
from portable_bp.cli import bench
from portable_bp.testing import equivalence
from portable_bp.training.fastest import race

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def indented(page):
    """What stands in blocks that are set off by blanks: commands."""
    return [line.strip() for line in page.splitlines() if line.startswith("    ")]


def commands(word, page=README):
    found = [shlex.split(line, comments=True) for line in indented(page) if line.startswith(word)]
    assert found, f"the page shows no {word}"
    return found


def run_code(page):
    """All its blocks of Python, one after the other; what they have named."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert blocks
    assert len(blocks) == page.count("```python")
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "a page", "exec"), names)
    return names


@pytest.fixture
def run_commands(capsys, tmp_path, monkeypatch):
    """``run_commands(page)``: in order, in one directory, with a table that has a column price."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(equivalence, "CHECKS", {"transfers": equivalence.CHECKS["transfers"]})
    short = partial(race, [("numpy", True)], seconds=0.0)
    monkeypatch.setattr(bench, "race", lambda specs, start, seconds: short(start=start))
    size, age = np.random.default_rng(0).normal(size=(2, 200))
    rows = np.column_stack([size, age, 100 + 10 * size - age])
    np.savetxt("table.csv", rows, delimiter=",", header="size,age,price", comments="")
    with sqlite3.connect("houses.db") as connection:
        connection.execute("CREATE TABLE house (size REAL, age REAL, price REAL)")
        connection.executemany("INSERT INTO house VALUES (?, ?, ?)", rows.tolist())
    connection.close()

    def run(page):
        for words in commands("portable-bp", page):
            code = cli.run(words[1:])
            out, err = capsys.readouterr()
            if "cupy" in words and "cupy" not in portable_bp.available_backends():
                assert code == 2, "without CuPy this says what is missing"
                assert "cupy" in err
                continue
            assert (code, err) == (0, ""), words
            assert out

    return run


def test_every_indented_line_is_a_command_that_is_tested_here():
    assert {line.split()[0] for line in indented(README)} == {"make", "pip", "portable-bp"}
    assert {line.split()[0] for line in indented(PAGE)} == {"portable-bp"}


def test_the_code_runs_as_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_code(README)
    accuracy, labels, truth = re.search(
        r"validation accuracy (\S+)\n(\[.*?\]) (\[.*?\])", capsys.readouterr().out
    ).groups()
    assert float(accuracy) > 0.95
    assert labels == truth
    assert [tuple(W.shape) for W, _ in names["params"]] == [(2, 3), (3, 1)]
    assert len(names["deltas"]) == len(names["grads"]) == 2
    assert names["MLPClassifier"].__module__.startswith("portable_bp.")


def test_the_commands_run_as_printed(run_commands, tmp_path):
    assert {words[1] for words in commands("portable-bp")} == set(cli.COMMANDS)
    run_commands(README)
    assert {p.name for p in tmp_path.iterdir()} == {
        "table.csv", "houses.db", "model.safetensors", "loss.png", "model.onnx",
    }  # fmt: skip


def test_the_page_on_the_command_line_runs_as_printed(run_commands, tmp_path):
    run_commands(PAGE)
    names = run_code(PAGE)
    printed = (tmp_path / "predictions.csv").read_text().splitlines()
    assert printed == ["price", *map(str, names["labels"])]
    assert isinstance(names["network"], portable_bp.Model)


def test_the_page_on_the_command_line_has_every_option_and_default():
    defaults = dict(re.findall(r"^\| `(--[\w-]+).*?` \| (.*?) \|", PAGE, re.MULTILINE))
    options = {
        (name, option.opts[0]): option.default
        for name in cli.COMMANDS
        for option in cli.commands.get_command(click.Context(cli.commands), name).params
        if isinstance(option, click.Option)
    }
    for (name, flag), default in options.items():
        assert f"`{flag}" in PAGE, f"{name} {flag}"
        if (
            name == "train"
            and isinstance(default, str | int | float | Path)
            and default is not False
        ):
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert defaults[flag].strip("`") == shown, flag
    named = set(re.findall(r"(?<!-)--[a-z][\w-]*", PAGE))
    assert named <= {flag for _, flag in options} | {"--help", "--no-header"}


def test_the_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in commands("make"):
        for target in words[1:]:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_extras_of_pip_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(re.findall(r"\[(\w+)\](?!\()", "\n".join(indented(README))))
    assert "cli" in extras
    assert extras <= set(project["optional-dependencies"])


@pytest.mark.parametrize("page", ["README.md", "docs/cli.md"])
def test_the_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []
