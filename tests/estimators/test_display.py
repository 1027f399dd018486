"""The loss curve as a plot, and the layers in the HTML representation."""

from __future__ import annotations

import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from portable_bp import Activation
from portable_bp.estimators import LossCurveDisplay, MLPClassifier, MLPRegressor

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = np.arange(40) % 2


def fitted(**data: Any) -> MLPClassifier:
    return MLPClassifier((4,), max_iter=5, random_state=0).fit(X, Y, **data)


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def test_both_curves_are_drawn(tmp_path: Any) -> None:
    est = fitted(validation_data=(X[:9], Y[:9]))
    display = LossCurveDisplay.from_estimator(est, linewidth=3)
    train, validation = display.lines_
    assert list(train.get_ydata()) == est.loss_curve_
    assert list(validation.get_ydata()) == est.validation_loss_curve_
    assert list(train.get_xdata()) == [1, 2, 3, 4, 5]
    assert train.get_linewidth() == 3
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("Epoch", "Loss")
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["train (MLPClassifier)", "validation (MLPClassifier)"]
    display.figure_.savefig(tmp_path / "curve.png")
    pixels = plt.imread(tmp_path / "curve.png")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10  # something is there


def test_the_axes_and_the_name_may_be_given() -> None:
    _, ax = plt.subplots()
    first = LossCurveDisplay.from_estimator(fitted(), ax=ax, name="a")
    second = LossCurveDisplay.from_estimator(fitted(), ax=ax, name="b")
    assert first.ax_ is second.ax_ is ax
    assert len(ax.get_lines()) == 2
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train (a)", "train (b)"]
    assert LossCurveDisplay([1.0, 0.5]).plot().lines_[0].get_label() == "train"


def test_without_a_curve() -> None:
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(MLPClassifier())
    lbfgs = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs").fit(X, X[:, 0])
    with pytest.raises(ValueError, match=r"no loss curve: solver='lbfgs'.*use 'adam' or 'sgd'"):
        LossCurveDisplay.from_estimator(lbfgs)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install 'portable-bp\\[plot\\]'"):
        LossCurveDisplay.from_estimator(fitted())


def layers(est: Any) -> list[list[str]]:
    html = est._repr_html_()
    start = html.index("<table", html.index("portable-bp"))
    table = ElementTree.fromstring(html[start : html.index("</table>", start) + len("</table>")])
    return [[cell.text or "" for cell in row] for row in table.iter("tr")]


def test_the_layers_in_html() -> None:
    est = MLPClassifier((4, 3), ["tanh", "relu"], max_iter=5, random_state=0)
    head = ["layer", "units", "activation", "parameters"]
    assert layers(est) == [
        head,
        ["input", "?", "", ""],
        ["hidden 1", "4", "tanh", "?"],
        ["hidden 2", "3", "relu", "?"],
        ["output", "?", "?", "?"],
    ]
    assert layers(est.fit(X, Y % 2)) == [
        head,
        ["input", "3", "", ""],
        ["hidden 1", "4", "tanh", "16"],
        ["hidden 2", "3", "relu", "15"],
        ["output", "1", "logistic", "4"],
    ]
    wide = MLPRegressor(hidden_layer_sizes=(1000,), max_iter=1).fit(X, X[:, 0])
    assert layers(wide)[2] == ["hidden 1", "1000", "relu", "4,000"]
    assert "<details" in make_pipeline(StandardScaler(), wide)._repr_html_()


def test_the_html_is_escaped_and_survives_wrong_parameters() -> None:
    own = Activation(lambda z, xp: z, lambda z, a, xp: 0 * z + 1, "<script>")
    html = MLPClassifier((4,), own)._repr_html_()
    assert "<td>&lt;script&gt;</td>" in html
    assert "class='portable-bp'" not in MLPClassifier((-4,))._repr_html_()
    assert "MLPClassifier" in MLPClassifier((-4,))._repr_html_()
