"""The code in ``docs/estimators.md`` runs as it stands, and the tables name what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import sklearn.neural_network as theirs

import portable_bp.estimators as ours
from portable_bp import available_backends

PAGE = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text(encoding="utf-8")
GPU = any(spec.startswith("cupy") for spec in available_backends())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_code_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    for block in blocks:
        if "import cupy" not in block or GPU:
            exec(compile(block, "docs/estimators.md", "exec"), names)


def parameters(cls: Any) -> dict[str, Any]:
    return {k: p.default for k, p in inspect.signature(cls).parameters.items()}


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_parameters_are_scikit_learns_and_documented_extras(name: str) -> None:
    mine, known = parameters(getattr(ours, name)), parameters(getattr(theirs, name))
    assert mine | known == mine  # every default is scikit-learn's
    assert list(mine)[: len(known)] == list(known)  # in the same order
    for extra in set(mine) - set(known):
        assert f"`{extra}`" in PAGE, extra
        assert inspect.signature(getattr(ours, name)).parameters[extra].kind.name == "KEYWORD_ONLY"


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_public_methods_and_fitted_attributes_are_scikit_learns(name: str) -> None:
    def public(est: Any) -> set[str]:
        return {n for n in dir(est) if not n.startswith("_")}

    X, y = [[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]
    fitted = []
    for library in (theirs, ours):
        est = getattr(library, name)(max_iter=200, tol=1e9, n_iter_no_change=1, random_state=0)
        fitted.append(public(est.fit(X, y)))
    assert fitted[0] <= fitted[1]
