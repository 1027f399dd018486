"""A training and what came of it, as a picture in a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from portable_bp.display import ConfusionDisplay, HistoryDisplay, PredictionDisplay
from portable_bp.tables.large import PreparedSource
from portable_bp.tabular import Prepared
from portable_bp.training.model import Model


def _figure(**options: Any) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'portable-bp[plot]'") from error
    return Figure(**options)  # needs no display


def check(path: Path) -> None:
    """Raise unless the suffix of ``path`` names a format that matplotlib writes."""
    known = _figure().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(f"{path}: unknown image format; use one of .{', .'.join(known)}")


def draw(model: Model, ready: Prepared | PreparedSource, path: Path) -> bytes:
    """History and test rows of a model, in the format that the suffix of ``path`` names.

    Below the history stands what was predicted for the test rows beside what is true.
    """
    figure = _figure(figsize=(9, 7.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[3, 4])
    HistoryDisplay.from_model(model, figure=above)
    y, predicted = ready.tested(model)
    ax = below.subplots()
    facts = ready.preparation
    if facts.task == "classification":
        codes = range(len(facts.classes))
        ConfusionDisplay.from_predictions(
            y, predicted, labels=codes, display_labels=facts.classes, ax=ax
        )
    else:
        true, values = facts.quantities(y), facts.quantities(predicted)
        PredictionDisplay.from_predictions(true, values, ax=ax)
    ax.set_title("test rows")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lower().lstrip("."), dpi=120)
    return picture.getvalue()
