"""The curves of a training, as a picture in a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from portable_bp.display import HistoryDisplay
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


def draw(model: Model, path: Path) -> bytes:
    """The plots of a model's history, in the format that the suffix of ``path`` names."""
    figure = _figure(figsize=(9, 3.6), layout="constrained")
    HistoryDisplay.from_model(model, figure=figure)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lower().lstrip("."), dpi=120)
    return picture.getvalue()
