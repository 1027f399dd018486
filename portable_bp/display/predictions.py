"""What was predicted beside what is true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.display._axes import axes_or_new
from portable_bp.inputs.transfer import to_host


class ConfusionDisplay:
    """How often each class was taken for each other.

    Parameters
    ----------
    confusion_matrix : array of shape (classes, classes)
        Counts: rows are the true class, columns the predicted one.
    display_labels : sequence
        The names of the classes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the matrix was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.
    im_ : matplotlib AxesImage
        The coloured matrix.
    """

    def __init__(self, confusion_matrix: HostArray, display_labels: Sequence[Any]) -> None:
        self.confusion_matrix = confusion_matrix
        self.display_labels = list(display_labels)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, y: Any, *, ax: Any = None) -> Self:
        """Predict with a fitted classifier, count and plot.

        Parameters
        ----------
        estimator : MLPClassifier
            Fitted, with one class per row.
        X : array of shape (n, inputs)
            The rows to predict.
        y : array of shape (n,)
            Their classes.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        ConfusionDisplay
            With the matrix drawn.
        """
        labels = to_host(estimator.classes_)
        return cls.from_predictions(to_host(y), to_host(estimator.predict(X)), labels=labels, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        labels: Sequence[Any] | None = None,
        display_labels: Sequence[Any] | None = None,
        ax: Any = None,
    ) -> Self:
        """Count and plot.

        Parameters
        ----------
        y_true : array of shape (n,)
            The classes, in the host's memory.
        y_pred : array of shape (n,)
            What was predicted for them.
        labels : sequence, optional
            All classes, in the order to show; by default those that occur, sorted.
        display_labels : sequence, optional
            Their names; by default the labels themselves.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        ConfusionDisplay
            With the matrix drawn.

        Raises
        ------
        ValueError
            When the shapes do not match, or a class is not among ``labels``.
        """
        true, predicted = np.asarray(y_true), np.asarray(y_pred)
        if true.shape != predicted.shape or true.ndim != 1:
            raise ValueError(
                f"y_true and y_pred must have one class per row each; got the shapes {true.shape} "
                f"and {predicted.shape}"
            )
        classes = list(np.unique(np.concatenate([true, predicted])) if labels is None else labels)
        matrix = np.asarray(
            [[np.sum((true == t) & (predicted == p)) for p in classes] for t in classes]
        )
        if matrix.sum() != len(true):
            raise ValueError(f"y_true or y_pred has a class that is not in labels: {classes}")
        return cls(matrix, classes if display_labels is None else display_labels).plot(ax)

    def plot(self, ax: Any = None, *, cmap: str = "Blues") -> Self:
        """Draw the matrix, with the counts in its cells when there are few enough to read.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        cmap : str, default "Blues"
            Matplotlib's name of the colours.

        Returns
        -------
        ConfusionDisplay
            Itself.
        """
        ax = axes_or_new(ax)
        matrix = self.confusion_matrix
        self.im_ = ax.imshow(matrix, cmap=cmap)
        if len(matrix) <= 20:
            half = matrix.max(initial=0) / 2
            for (i, j), count in np.ndenumerate(matrix):
                colour = "white" if count > half else "black"
                ax.text(j, i, f"{count}", ha="center", va="center", color=colour, fontsize=8)
            at, names = range(len(matrix)), [str(label) for label in self.display_labels]
            long = max(map(len, names), default=0) > 3
            ax.set_xticks(at, names, rotation=45 if long else 0, ha="right" if long else "center")
            ax.set_yticks(at, names)
        ax.set(xlabel="Predicted", ylabel="True")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class PredictionDisplay:
    """Predicted values against true ones; the dotted line is where they are equal.

    Parameters
    ----------
    y_true : array of shape (n,)
        The true values.
    y_pred : array of shape (n,)
        The predicted ones.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the points were drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.
    scatter_ : matplotlib PathCollection
        The points.
    """

    def __init__(self, y_true: HostArray, y_pred: HostArray) -> None:
        self.y_true = np.asarray(y_true)
        self.y_pred = np.asarray(y_pred)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **kwargs: Any
    ) -> Self:
        """Predict with a fitted regressor, and plot.

        Parameters
        ----------
        estimator : MLPRegressor
            Fitted.
        X : array of shape (n, inputs)
            The rows to predict.
        y : array of shape (n,)
            Their true values.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.scatter``.

        Returns
        -------
        PredictionDisplay
            With the points drawn.
        """
        return cls(to_host(y), to_host(estimator.predict(X))).plot(ax, **kwargs)

    @classmethod
    def from_predictions(cls, y_true: Any, y_pred: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Plot predictions.

        Parameters
        ----------
        y_true : array of shape (n,)
            The true values, in the host's memory.
        y_pred : array of shape (n,)
            What was predicted for them.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.scatter``.

        Returns
        -------
        PredictionDisplay
            With the points drawn.
        """
        return cls(y_true, y_pred).plot(ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.scatter``.

        Returns
        -------
        PredictionDisplay
            Itself.
        """
        ax = axes_or_new(ax)
        options = {"s": 12, "alpha": 0.6, **kwargs}
        self.scatter_ = ax.scatter(self.y_true, self.y_pred, **options)
        both = np.concatenate([self.y_true.ravel(), self.y_pred.ravel()])
        ends = [float(both.min()), float(both.max())]
        ax.plot(ends, ends, color="gray", ls=":", lw=1)
        ax.set(xlabel="True", ylabel="Predicted")
        ax.grid(alpha=0.3)
        self.ax_, self.figure_ = ax, ax.figure
        return self
