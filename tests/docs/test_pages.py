"""The code on the pages runs, page by page, top to bottom; ``make docs`` runs it in Jupyter's kernel."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def cells(page):
    """Its blocks of code that the site executes."""
    return re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


PAGES = sorted(
    path
    for path in [*DOCS.glob("*.md"), *DOCS.glob("guide/*.md")]
    if "{code-cell}" in path.read_text(encoding="utf-8")
)


def test_the_lines_of_the_derivation_run(capsys):
    page = (DOCS / "backpropagation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(compile(block, "backpropagation.md", "exec"), {})
    assert "0.6980754" in capsys.readouterr().out


def test_the_guide_is_executed():
    assert len(PAGES) > 12


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_cell_runs(path):
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    names: dict[str, object] = {}
    blocks = cells(path.read_text(encoding="utf-8"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for block in blocks:
            exec(compile(block, path.name, "exec"), names)
    plt.close("all")
    assert blocks
    assert [str(w.message) for w in seen] == []
