"""The curves of a fit as a plot."""

from __future__ import annotations

from typing import Any, Self

from sklearn.utils.validation import check_is_fitted


class LossCurveDisplay:
    """The loss of each epoch, and the validation loss where there is one.

    Make it with :meth:`from_estimator`.

    Parameters
    ----------
    loss_curve : list of float
        The training loss of each epoch.
    validation_loss_curve : list of float, optional
    estimator_name : str, optional
        Shown in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
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
        **kwargs
            Handed to ``matplotlib.pyplot.plot``.

        Raises
        ------
        ValueError
            For an estimator without a loss curve (``solver="lbfgs"``).
        ImportError
            Without matplotlib.
        """
        check_is_fitted(estimator)
        curve = getattr(estimator, "loss_curve_", None)
        if not curve:
            raise ValueError(
                f"this {type(estimator).__name__} has no loss curve: solver="
                f"{estimator.solver!r} does not work in epochs; use 'adam' or 'sgd'"
            )
        display = cls(
            list(curve),
            list(getattr(estimator, "validation_loss_curve_", None) or []) or None,
            estimator_name=name or type(estimator).__name__,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        name : str, optional
        **kwargs
            Handed to ``matplotlib.pyplot.plot``.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("a plot needs matplotlib: pip install 'portable-bp[plot]'") from error
        if ax is None:
            _, ax = plt.subplots()
        name = name or self.estimator_name
        suffix = f" ({name})" if name else ""
        self.lines_ = []
        for label, curve in (
            ("train", self.loss_curve),
            ("validation", self.validation_loss_curve),
        ):
            if curve is not None:
                epochs = range(1, len(curve) + 1)
                self.lines_ += ax.plot(epochs, curve, label=label + suffix, **kwargs)
        ax.set(xlabel="Epoch", ylabel="Loss")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
