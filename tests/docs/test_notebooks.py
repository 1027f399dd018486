"""The three notebooks run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


def code(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def test_the_three_that_are_promised_are_there():
    assert [path.stem for path in BOOKS] == ["derivation_by_numbers", "gpu", "quickstart"]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path):
    assert [cell for cell in code(path) if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, capsys):
    # In this process, whose libraries are loaded; ``make docs`` runs them in Jupyter's kernel.
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    names: dict[str, object] = {}
    for cell in code(path):
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
    plt.close("all")
    out = capsys.readouterr().out
    shown = {
        "quickstart": "test accuracy 0.9",
        "derivation_by_numbers": "every number agrees: 0.6718 -> 0.6981",
        "gpu": "roundoffs",
    }
    assert shown[path.stem] in out
