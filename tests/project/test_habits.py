"""What stands in two places agrees: versions, floors, the targets that the workflow calls."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

import portable_bp
from tools import docstrings

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
OF_NO_FLOOR = {"portable-bp", "setuptools"}


def floors(extra: str) -> dict[str, str]:
    """Name to lowest version of what an extra brings, and the extras that it names."""
    found: dict[str, str] = {}
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "portable-bp":
            for other in requirement.extras:
                found |= floors(other)
        (found[requirement.name],) = [s.version for s in requirement.specifier] or [""]
    return found


def test_the_floors_are_those_that_are_tested() -> None:
    lines = (ROOT / "constraints-floor.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    needed = floors("suite")
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        (needed[requirement.name],) = [s.version for s in requirement.specifier]
    for name, version in needed.items():
        if name not in OF_NO_FLOOR:
            assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pinned[name]), name


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == portable_bp.__version__
    assert f"## {portable_bp.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_workflow_calls_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    jobs = WORKFLOW["jobs"]
    assert set(jobs["other"]["strategy"]["matrix"]["target"]) <= targets
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert [run.split()[:2] for run in runs] == [["make", "test"], ["make", '"$TARGET"']]


def test_the_classifiers_are_the_versions_that_are_tested() -> None:
    python = "Programming Language :: Python :: 3."
    claimed = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(python)]
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == claimed
    assert PROJECT["requires-python"] == f">={claimed[0]}"


def test_a_docstring_without_its_parameters_is_found(monkeypatch: Any) -> None:
    """The tool itself; ``make lint`` runs it on everything."""

    def undocumented(x: int) -> int:
        """Give x back."""
        return x

    undocumented.__module__ = "portable_bp"
    monkeypatch.setattr(portable_bp, "undocumented", undocumented, raising=False)
    monkeypatch.setattr(docstrings, "public_objects",
                        lambda: iter([("portable_bp.undocumented", undocumented)]))  # fmt: skip
    found = list(docstrings.findings())
    assert [line.split(": ")[1][:4] for line in found] == ["PR01", "RT01"]
    assert docstrings.main() == 1
