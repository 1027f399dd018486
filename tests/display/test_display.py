"""The plots hold the numbers that they are said to hold, and draw them."""

from __future__ import annotations

import numpy as np
import pytest

import portable_bp
from portable_bp.display import (
    ConfusionDisplay,
    DeltaDisplay,
    HistoryDisplay,
    LossCurveDisplay,
    PredictionDisplay,
)
from portable_bp.estimators import MLPClassifier, MLPRegressor

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model():
    net = portable_bp.MLP([3, 8, 8, 3], hidden="sigmoid", loss="softmax_cross_entropy")
    rate = portable_bp.schedules.Cosine(0.05)
    return portable_bp.fit(
        net, X, Y, epochs=4, validation=0.25, learning_rate=rate, early_stopping=3
    )


def lines(ax):
    """The data of an axes' lines by their labels."""
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def test_history_has_a_panel_for_the_loss_the_score_and_a_rate_that_changes(model):
    display = model.plot_history()
    loss, score, rate = display.axes_
    assert lines(loss)["train"] == model.history["loss"]
    assert lines(loss)["validation"] == model.history["validation_loss"]
    assert lines(loss)["best epoch"] == [0, 1]
    assert list(loss.get_lines()[-1].get_xdata()) == [model.best_epoch] * 2
    assert list(score.get_lines()[0].get_ydata()) == model.history["validation_accuracy"]
    assert score.get_ylabel() == "Validation accuracy"
    assert list(rate.get_lines()[0].get_ydata()) == model.history["learning_rate"]


def test_history_without_a_curve_for_a_constant_rate_and_on_the_users_figure():
    figure = matplotlib.figure.Figure()
    columns = {"loss": [2.0, 1.0], "learning_rate": [0.1, 0.1], "seconds": [1.0, 1.0]}
    display = HistoryDisplay(columns).plot(figure)
    assert display.figure_ is figure
    assert [ax.get_ylabel() for ax in figure.axes] == ["Loss"]


def test_history_of_held_out_rows_alone():
    display = HistoryDisplay({"validation_loss": [2.0, 1.0], "validation_r2": [0.1, 0.2]}).plot()
    assert lines(display.axes_[0]) == {"validation": [2.0, 1.0]}
    assert display.axes_[1].get_ylabel() == "Validation R$^2$"


def test_history_of_nothing():
    with pytest.raises(ValueError, match="report_loss=True"):
        HistoryDisplay({"seconds": [1.0]}).plot()


def test_history_of_an_estimator():
    est = MLPClassifier((4,), max_iter=3, early_stopping=True, random_state=0).fit(X, Y)
    loss, score = HistoryDisplay.from_estimator(est).axes_
    assert lines(loss)["train"] == est.loss_curve_
    assert list(score.get_lines()[0].get_ydata()) == est.validation_scores_


def test_loss_curve_of_a_history(model):
    train, validation = LossCurveDisplay.from_history(model.history, name="net").lines_
    assert list(train.get_ydata()) == model.history["loss"]
    assert validation.get_label() == "validation (net)"


def test_deltas_are_root_mean_squares_relative_to_the_last_layer(model):
    display = model.plot_deltas(X, Y)
    deltas = model.net.deltas(model.params, X, Y)
    # The same float32 numbers, squared and averaged in float64 on both sides.
    sizes = [np.sqrt(np.mean(np.asarray(d, "float64") ** 2)) for d in deltas]
    np.testing.assert_allclose(display.sizes, sizes, rtol=1e-12)
    np.testing.assert_allclose(display.line_.get_ydata(), np.divide(sizes, sizes[-1]), rtol=1e-12)
    assert display.activations == ["sigmoid", "sigmoid", "softmax"]
    assert display.ax_.get_yscale() == "log"
    assert display.sizes[0] < display.sizes[1] < display.sizes[2]


def test_deltas_that_are_all_zero():
    assert list(DeltaDisplay([0.0, 0.0], ["relu", "identity"]).plot().line_.get_ydata()) == [0, 0]


def test_confusion_counts_true_rows_and_predicted_columns(model):
    matrix = model.plot_confusion(X, Y).confusion_matrix
    predicted = model.predict(X)
    for t in range(3):
        for p in range(3):
            assert matrix[t, p] == np.sum((t == Y) & (p == predicted))
    one_hot = np.eye(3)[Y]
    np.testing.assert_array_equal(model.plot_confusion(X, one_hot).confusion_matrix, matrix)


def test_confusion_shows_names_and_counts(model):
    display = model.plot_confusion(X, Y, labels=["low", "middle", "high"])
    assert [t.get_text() for t in display.ax_.get_yticklabels()] == ["low", "middle", "high"]
    shown = [text.get_text() for text in display.ax_.texts]
    assert shown == [str(n) for n in display.confusion_matrix.ravel()]


def test_confusion_of_an_estimator_with_text_labels():
    names = np.asarray(["a", "b", "c"])[Y]
    est = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, names)
    display = ConfusionDisplay.from_estimator(est, X, names)
    assert display.display_labels == ["a", "b", "c"]
    assert display.confusion_matrix.trace() == sum(est.predict(X) == names)


@pytest.mark.parametrize(
    ("true", "predicted", "labels", "words"),
    [
        ([0, 1], [0], None, "one class per row"),
        ([[0], [1]], [[0], [1]], None, "one class per row"),
        ([0, 5], [0, 1], [0, 1], "not in labels"),
    ],
)
def test_confusion_refuses(true, predicted, labels, words):
    with pytest.raises(ValueError, match=words):
        ConfusionDisplay.from_predictions(true, predicted, labels=labels)


def test_confusion_needs_classes():
    model = portable_bp.fit(portable_bp.MLP([3, 1]), X, X[:, 0], epochs=1)
    with pytest.raises(ValueError, match="one class per row; the loss is 'squared_error'"):
        model.plot_confusion(X, X[:, 0])


def test_predictions_of_a_regressor():
    y = X[:, 0]
    est = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(X, y)
    display = PredictionDisplay.from_estimator(est, X, y, s=3)
    points = np.asarray(display.scatter_.get_offsets())
    np.testing.assert_array_equal(points, np.column_stack([y, est.predict(X)]))
    (diagonal,) = display.ax_.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
