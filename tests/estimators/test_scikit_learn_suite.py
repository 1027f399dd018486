"""scikit-learn's own tests of its multilayer perceptrons, run against ours.

They are read from the installed package when the tests are collected; nothing of them is kept here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import sklearn
import sklearn.neural_network.tests as theirs
from sklearn.utils.fixes import parse_version

SOURCE = Path(theirs.__file__).with_name("test_mlp.py")
THEIRS = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
OURS = "from portable_bp.estimators import MLPClassifier, MLPRegressor\n"

# Nothing is left of this one without the private method that it calls, of another signature.
# The second asks for 'True', scikit-learn's code of the label 1, where ours names the label.
PRIVATE = {"test_gradient", "test_early_stopping_stratified"}
if parse_version(sklearn.__version__) < parse_version("1.9"):
    PRIVATE.add("test_fit")  # it prepared the attributes of a fit by hand

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def global_random_seed() -> int:
    return 42


def suite() -> dict[str, object]:
    text = SOURCE.read_text(encoding="utf-8")
    assert THEIRS in text, "scikit-learn's tests import the estimators in another way now"
    names: dict[str, object] = {"__name__": __name__}
    exec(compile(text.replace(THEIRS, OURS), str(SOURCE), "exec"), names)
    return {k: f for k, f in names.items() if k.startswith("test_") and k not in PRIVATE}


SUITE = suite()
globals().update(SUITE)


def test_the_suite_is_ours() -> None:
    estimator = SUITE["test_alpha"].__globals__["MLPClassifier"]  # type: ignore[attr-defined]
    assert estimator.__module__.startswith("portable_bp.")
    assert len(SUITE) >= 40
