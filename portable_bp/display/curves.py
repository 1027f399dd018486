"""What a training saw, epoch by epoch, as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from portable_bp.display._axes import axes_or_new, pyplot

Columns = Mapping[str, Sequence[float]]


class LossCurveDisplay:
    """The loss of each epoch, and the validation loss where there is one.

    Make it with :meth:`from_estimator` or :meth:`from_history`.

    Parameters
    ----------
    loss_curve : list of float
        The training loss of each epoch.
    validation_loss_curve : list of float, optional
        The loss on the held-out rows after each epoch.
    estimator_name : str, optional
        Shown in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the curves were drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.
    lines_ : list of matplotlib Line2D
        The training curve, then the validation curve if there is one.

    Examples
    --------
    >>> display = LossCurveDisplay([0.7, 0.4, 0.3], estimator_name="small net")
    >>> display.plot().ax_.get_ylabel()  # doctest: +SKIP
    'Loss'
    """

    def __init__(
        self,
        loss_curve: list[float],
        validation_loss_curve: list[float] | None = None,
        *,
        estimator_name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Plot the curves of a fitted estimator.

        Parameters
        ----------
        estimator : MLPClassifier or MLPRegressor
            Fitted with a stochastic solver.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        name : str, optional
            For the legend; by default the name of the class.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.plot``.

        Returns
        -------
        LossCurveDisplay
            With the curves drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            For an estimator that is not fitted.
        ValueError
            For an estimator without a loss curve (``solver="lbfgs"``).
        ImportError
            Without matplotlib.
        """
        columns = estimator_columns(estimator)
        display = cls(
            list(columns["loss"]),
            list(columns.get("validation_loss", ())) or None,
            estimator_name=name or type(estimator).__name__,
        )
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_history(
        cls, history: Columns, *, ax: Any = None, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Plot the curves of a history, such as ``model.history``.

        Parameters
        ----------
        history : mapping from str to list of float
            Has ``loss`` or ``validation_loss``, or both.
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        name : str, optional
            For the legend.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.plot``.

        Returns
        -------
        LossCurveDisplay
            With the curves drawn.
        """
        display = cls(
            list(history.get("loss", ())),
            list(history.get("validation_loss", ())) or None,
            estimator_name=name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.
        name : str, optional
            For the legend.
        **kwargs : dict
            Handed to ``matplotlib.pyplot.plot``.

        Returns
        -------
        LossCurveDisplay
            Itself.
        """
        ax = axes_or_new(ax)
        name = name or self.estimator_name
        suffix = f" ({name})" if name else ""
        self.lines_ = []
        for label, curve in (
            ("train", self.loss_curve),
            ("validation", self.validation_loss_curve),
        ):
            if curve:
                epochs = range(1, len(curve) + 1)
                self.lines_ += ax.plot(epochs, curve, label=label + suffix, **kwargs)
        ax.set(xlabel="Epoch", ylabel="Loss")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class HistoryDisplay:
    """A training at a glance: its loss, its scores, and its learning rate, side by side.

    Make it with :meth:`from_model` or :meth:`from_estimator`.

    Parameters
    ----------
    columns : mapping from str to list of float
        One list for each quantity, one entry for each epoch: ``loss``, ``validation_loss``,
        ``validation_accuracy``, ``learning_rate``, ... A quantity without a panel is left out.
    best_epoch : int, optional
        Marked in every panel.

    Attributes
    ----------
    axes_ : list of matplotlib Axes
        One for each panel.
    figure_ : matplotlib Figure
        The figure of the panels.
    """

    def __init__(self, columns: Columns, best_epoch: int | None = None) -> None:
        self.columns = columns
        self.best_epoch = best_epoch

    @classmethod
    def from_model(cls, model: Any, *, figure: Any = None) -> Self:
        """Plot the history of a model.

        Parameters
        ----------
        model : Model
            As :func:`portable_bp.fit` returns it.
        figure : matplotlib Figure, optional
            Where to draw; by default a new one.

        Returns
        -------
        HistoryDisplay
            With the panels drawn.
        """
        return cls(model.history, model.best_epoch).plot(figure)

    @classmethod
    def from_estimator(cls, estimator: Any, *, figure: Any = None) -> Self:
        """Plot the history of a fitted estimator.

        Parameters
        ----------
        estimator : MLPClassifier or MLPRegressor
            Fitted with a stochastic solver.
        figure : matplotlib Figure, optional
            Where to draw; by default a new one.

        Returns
        -------
        HistoryDisplay
            With the panels drawn.
        """
        return cls(estimator_columns(estimator)).plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            Where to draw; by default a new one.

        Returns
        -------
        HistoryDisplay
            Itself.
        """
        columns = self.columns
        panels = [n for n in ("loss", "validation_loss") if columns.get(n)][:1]
        panels += [n for n in columns if n.startswith("validation_") and n != "validation_loss"]
        rates = columns.get("learning_rate") or ()
        if len(set(rates)) > 1:  # a constant rate is one number, not a curve
            panels.append("learning_rate")
        if not panels:
            raise ValueError(
                "nothing to plot: the history has no loss; train with report_loss=True"
            )
        if figure is None:
            figure = pyplot().figure(figsize=(4 * len(panels) + 0.6, 3.2), layout="constrained")
        self.axes_ = list(figure.subplots(1, len(panels), squeeze=False)[0])
        for ax, name in zip(self.axes_, panels, strict=True):
            if name.endswith("loss"):
                LossCurveDisplay.from_history(columns, ax=ax)
            else:
                ax.plot(range(1, len(columns[name]) + 1), columns[name], color="tab:green")
                label = name.replace("_", " ").capitalize().replace("r2", "R$^2$")
                ax.set(xlabel="Epoch", ylabel=label)
            if self.best_epoch is not None:
                ax.axvline(self.best_epoch, color="gray", lw=1, ls=":", label="best epoch")
            if ax.get_legend_handles_labels()[1]:
                ax.legend()
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.grid(alpha=0.3)
        self.figure_ = figure
        return self


def estimator_columns(estimator: Any) -> dict[str, list[float]]:
    """The curves of a fitted estimator under the names that a model's history has."""
    if not hasattr(estimator, "coefs_"):
        from sklearn.exceptions import NotFittedError  # an estimator: scikit-learn is loaded

        raise NotFittedError(f"this {type(estimator).__name__} is not fitted yet: call fit first")
    columns = {
        "loss": list(getattr(estimator, "loss_curve_", None) or ()),
        "validation_loss": list(getattr(estimator, "validation_loss_curve_", None) or ()),
        "validation_score": list(getattr(estimator, "validation_scores_", None) or ()),
    }
    if not columns["loss"]:
        raise ValueError(
            f"this {type(estimator).__name__} has no loss curve: solver={estimator.solver!r} does "
            "not work in epochs; use 'adam' or 'sgd'"
        )
    return {name: column for name, column in columns.items() if column}
