"""The conda recipe and the container file: their form, and that they say what pyproject.toml says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import rattler_build

import portable_bp

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "deploy" / "recipe.yaml"
CONTAINER = ROOT / "deploy" / "Containerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "cupy-cuda13x": "cupy"}
"""Names that differ from those of the Python package index."""


def floors(requirements):
    """From names, as conda has them, to the lowest versions."""
    found = {}
    for line in requirements:
        name, _, floor = re.sub(r"\[.*?\]", "", line).partition(">=")
        if name != "portable-bp":
            found[CONDA.get(name.strip(), name.strip())] = floor.strip()
    return found


def hadolint(path):
    command = Path(sys.executable).with_name("hadolint")
    return subprocess.run([command, path], capture_output=True, text=True)


def test_the_recipe_renders_and_says_what_the_project_says():
    """rattler-build's own parser, which knows every key; nothing is downloaded."""
    recipe = rattler_build.Stage0Recipe.from_file(RECIPE)
    variants = recipe.render()
    assert [v.recipe.package.name for v in variants] == ["portable-bp"]
    told = recipe.to_dict()
    assert told["context"]["version"] == portable_bp.__version__
    run, extras = told["requirements"]["run"], PROJECT["optional-dependencies"]
    asked = floors([*PROJECT["dependencies"], *extras["io"], *extras["cli"]])
    assert floors(run) == {"python": PROJECT["requires-python"].removeprefix(">="), **asked}
    others = [
        name
        for extra in ("cupy13", "torch", "jax", "plot", "excel", "onnx")
        for name in extras[extra]
    ]
    assert floors(told["requirements"]["run_constraints"]) == floors(others)
    (entry,) = PROJECT["scripts"].items()
    assert told["build"]["python"]["entry_points"] == [" = ".join(entry)]


def test_an_unknown_key_of_a_recipe_is_noticed():
    text = RECIPE.read_text().replace("noarch:", "no_arch:")
    with pytest.raises(rattler_build.RecipeParseError, match="no_arch"):
        rattler_build.Stage0Recipe.from_yaml(text)


def test_the_container_file_is_clean(tmp_path):
    done = hadolint(CONTAINER)
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "Containerfile"
    bad.write_text(CONTAINER.read_text().replace("python:3.13-slim AS cpu", "python AS cpu"))
    assert "DL3006" in hadolint(bad).stdout


def test_what_the_container_copies_is_there_and_what_it_installs_exists():
    text = CONTAINER.read_text()
    copied = [name for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE)
              for name in line.split()[:-1]]  # fmt: skip
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
    extras = {name for group in re.findall(r"\$1\[(.*?)\]", text) for name in group.split(",")}
    assert {"cli", "cupy13"} <= extras <= set(PROJECT["optional-dependencies"])
    assert text.count(" AS cpu") == text.count(" AS cuda") == 1
