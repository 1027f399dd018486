"""The list of planted bugs keeps up with the code; ``make mutants`` plants them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools import mutants
from tools.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_it_can_be_planted(mutant: Mutant) -> None:
    """Its text occurs exactly once, and what becomes of it is a program."""
    _, text = mutant.planted(ROOT)
    ast.parse(text)
    for tests in (*mutant.tests, *mutants.EVERYTHING):
        assert (ROOT / mutants.located(ROOT, tests)[0]).exists()


def test_there_are_enough_and_each_is_another() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25
    assert len({(m.old, m.new) for m in MUTANTS}) == len(MUTANTS)


def test_a_text_that_is_not_there_is_an_error() -> None:
    for old in ("no such text", "Array"):
        with pytest.raises(ValueError, match="not once"):
            Mutant("a bug", old, "x", (), file="equations/affine.py").planted(ROOT)
    with pytest.raises(ValueError, match="0 paths"):
        mutants.located(ROOT, "test_of_nothing.py -k x")


def test_lines_are_found_at_any_indentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutants, "SOURCES", ("",))
    (tmp_path / "a.py").write_text("def f(x):\n    if x:\n        y = 1\n\n        return y\n")
    bug = Mutant("a bug", "y = 1\n\nreturn", "y = 2\nz = 3\n\nreturn", ())
    path, text = bug.planted(tmp_path)
    assert path.name == "a.py"
    assert text == "def f(x):\n    if x:\n        y = 2\n        z = 3\n\n        return y\n"


def test_a_bug_that_nothing_notices_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tool itself, on a package of one line."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "sum.py").write_text("TWO = 1 + 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_sum.py").write_text(
        "import pathlib\n\n\ndef test_two():\n    names = {}\n"
        "    exec(pathlib.Path('package/sum.py').read_text(), names)\n    assert names['TWO'] > 1\n"
    )
    bugs = (
        Mutant("minus", "+", "-", ("test_sum.py",)),
        Mutant("times three", "+ 1", "* 3", ("test_sum.py",)),
    )
    for name, value in (
        ("ROOT", tmp_path),
        ("COPIED", ("package", "tests")),
        ("SOURCES", ("package",)),
        ("EVERYTHING", ("test_sum.py",)),
        ("PACKAGES", ()),
        ("MUTANTS", bugs),
    ):
        monkeypatch.setattr(mutants, name, value)
    assert mutants.main(["minus"]) == 0
    assert "test_sum.py::test_two" in capsys.readouterr().out
    assert mutants.main([]) == 1
    assert "SURVIVES" in capsys.readouterr().out
