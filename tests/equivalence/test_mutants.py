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
    ast.parse(mutant.text(ROOT))
    for tests in (*mutant.tests, *mutants.EVERYTHING):
        assert (ROOT / tests.split()[0]).exists()


def test_there_are_enough_and_each_is_another() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)


def test_a_text_that_is_not_there_is_an_error() -> None:
    file = "portable_bp/equations/affine.py"
    for old in ("no such text", "Array"):
        with pytest.raises(ValueError, match="not once"):
            Mutant("a bug", file, old, "x", ()).text(ROOT)


def test_a_bug_that_nothing_notices_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tool itself, on a package of one line."""
    (tmp_path / "sum.py").write_text("TWO = 1 + 1\n")
    (tmp_path / "test_sum.py").write_text(
        "import pathlib\n\n\ndef test_two():\n    names = {}\n"
        "    exec(pathlib.Path('sum.py').read_text(), names)\n    assert names['TWO'] > 1\n"
    )
    bugs = (
        Mutant("minus", "sum.py", "+", "-", ("test_sum.py",)),
        Mutant("times three", "sum.py", "+ 1", "* 3", ("test_sum.py",)),
    )
    for name, value in (
        ("ROOT", tmp_path),
        ("COPIED", ("sum.py", "test_sum.py")),
        ("EVERYTHING", ("test_sum.py",)),
        ("PACKAGES", ()),
        ("MUTANTS", bugs),
    ):
        monkeypatch.setattr(mutants, name, value)
    assert mutants.main(["minus"]) == 0
    assert "test_sum.py::test_two" in capsys.readouterr().out
    assert mutants.main([]) == 1
    assert "SURVIVES" in capsys.readouterr().out
