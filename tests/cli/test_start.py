"""How the command line starts: help on one screen, completion in a shell, and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from benchmarks import start
from portable_bp import cli

HEAVY = ("numpy", "scipy", "sklearn", "pyarrow", "pandas", "rich", "torch", "jax", "cupy", "matplotlib",
         "array_api_strict", "array_api_compat", "safetensors", "openpyxl", "onnx")  # fmt: skip


FIRST_EPOCH = """
from portable_bp.cli import train
def fit(net, X, y, callbacks, **options):
    callbacks[0].on_train_begin(net, 1)  # prints the setup and the bar
    raise SystemExit
train.fit = fit
"""


def started(*arguments, until_fit=False):
    """The heavy libraries that a command imports, how many modules in all, and what it prints."""
    code = (
        f"import sys\n{FIRST_EPOCH if until_fit else ''}\n"
        "from portable_bp.cli import run\n"
        "try:\n"
        "    run(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(len(sys.modules), *heavy, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    count, *heavy = done.stderr.split()
    return set(heavy), int(count), done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], []])
def test_help_and_version_import_no_library(arguments):
    """Fewer than 300 modules: Python and click bring some 150, NumPy alone would add 120."""
    heavy, count, out = started(*arguments)
    assert heavy == set()
    assert count < 300
    assert "portable-bp" in out


@pytest.mark.parametrize("command", ["train", "predict", "export", "inspect"])
def test_the_help_of_a_command_imports_no_library_of_devices(command):
    heavy, _, _ = started(command, "--help")
    assert heavy.isdisjoint({"torch", "jax", "cupy", "sklearn", "pyarrow", "matplotlib", "onnx"})


def test_info_imports_a_library_only_for_its_devices():
    heavy, _, out = started("info", "--no-probe")
    assert heavy <= {"numpy", "array_api_compat"}
    assert "torch   2" in out
    heavy, _, out = started("info")
    if "cuda" not in out.partition("auto:")[0] and "gpu:" not in out:  # no driver, no import
        assert heavy.isdisjoint({"torch", "jax", "cupy"})


def test_training_on_digits_imports_little_before_the_first_epoch(tmp_path):
    arguments = (
        "train",
        "digits",
        "--epochs",
        "1",
        "--output",
        tmp_path / "m",
        "--backend",
        "numpy",
    )
    heavy, _, out = started(*map(str, arguments), until_fit=True)
    assert "test accuracy" not in out
    assert heavy.isdisjoint({"torch", "jax", "cupy", "pyarrow", "pandas", "matplotlib"})


def test_the_help_stands_on_one_screen(capsys):
    cli.run(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_each_command_is_where_its_name_says():
    context = click.Context(cli.commands)
    for name, line in cli.COMMANDS.items():
        command = cli.commands.get_command(context, name)
        assert command.name == name
        assert line.endswith(".")
    assert cli.commands.get_command(context, "fly") is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("portable-bp ins", {"inspect"}),
        ("portable-bp train --opt", {"--optimizer"}),
        ("portable-bp train --optimizer ada", {"adam", "adamw"}),
        ("portable-bp export model.safetensors --to o", {"onnx"}),
        ("portable-bp train dig", {"digits"}),
    ],
)
def test_completion(words, expected):
    _, _, offers = started_by_shell("bash_complete", words)
    assert expected <= offers


def started_by_shell(instruction, words=""):
    environment = {
        **os.environ,
        "_PORTABLE_BP_COMPLETE": instruction,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "portable_bp"], capture_output=True, text=True, env=environment
    )
    lines = done.stdout.splitlines()
    return done.returncode, lines, {line.partition(",")[2] for line in lines}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(shell):
    code, lines, _ = started_by_shell(f"{shell}_source")
    assert code == 0
    assert any("_PORTABLE_BP_COMPLETE" in line for line in lines)
    assert any("portable-bp" in line for line in lines)


def test_the_benchmark_of_starting():
    """It runs, and its committed record has every case."""
    names = ("python -c pass", "portable-bp --version")
    times = start.measure(1, names)
    assert [*times] == [*names]
    assert all(0 < case["wall"]["median"] < 60 for case in times.values())
    record = json.loads(start.RECORD.read_text())["start"]
    assert [*record] == [*start.CASES]
    assert {name: case["target"] for name, case in record.items()} == {
        name: target for name, (_, target) in start.CASES.items()
    }
