"""The pages for people who come from another library: line by line, both columns run and agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import portable_bp

DOCS = Path(__file__).parents[2] / "docs" / "coming-from"


def lines(name):
    """Their line, our line and how their values compare, from the table of that page."""
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    (table,) = re.findall(rf"<!-- lines: {name} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return [(theirs.strip("`"), ours.strip("`"), equal) for theirs, ours, equal in rows]


def run(line, names):
    """Run a line of Python; its value, if it is an expression."""
    (statement,) = ast.parse(line).body
    if isinstance(statement, ast.Expr):
        return eval(line, names)
    exec(line, names)
    return None


def compare(rows, theirs, ours):
    """Run both columns, line by line; numbers are float64 on both sides."""
    assert len(rows) >= 10
    assert any(equal for *_, equal in rows)
    for their_line, our_line, equal in rows:
        expected, value = run(their_line, theirs), run(our_line, ours)
        if equal == "same":
            assert np.array_equal(np.asarray(value), np.asarray(expected)), our_line
        elif equal == "close":
            # After some hundred steps of Adam the roundings of 1.1e-16 have grown, not to 1e-7.
            np.testing.assert_allclose(
                np.asarray(value), np.asarray(expected), rtol=1e-7, atol=1e-10, err_msg=our_line
            )
        else:
            assert equal == "", equal


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    y = (X[:, 0] > 0).astype(int)
    compare(lines("scikit-learn"), {"X": X, "y": y}, {"X": X, "y": y})


def test_pytorch():
    import torch

    torch.manual_seed(0)
    X, y = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 3
    page = (DOCS / "pytorch.md").read_text(encoding="utf-8")
    theirs = {"torch": torch, "X": X, "y": y}
    ours = {"portable_bp": portable_bp, "X": X, "y": y}
    (function,) = re.findall(
        r"^```python\n(def from_torch.*?)^```$", page, re.DOTALL | re.MULTILINE
    )
    exec(function, ours)
    first, *rows = lines("pytorch")
    run(first[0], theirs)
    run(first[1], ours)
    ours["model"] = theirs["model"]  # the start that both sides share
    compare(rows, theirs, ours)


def test_keras_lines_are_python_and_ours_run():
    rng = np.random.default_rng(0)
    ours = {
        "portable_bp": portable_bp,
        "X": rng.normal(size=(60, 4)),
        "y": rng.integers(0, 3, 60),
    }
    rows = lines("keras")
    assert len(rows) >= 10
    for their_line, our_line, equal in rows:
        ast.parse(their_line)
        run(our_line, ours)
        assert equal == ""
