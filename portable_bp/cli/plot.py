"""The curves of a training, as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from portable_bp.training.history import History


def _figure(**options: Any) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: pip install 'portable-bp[plot]'") from error
    return Figure(**options)  # drawn without a window, whatever the machine has


def check(path: Path) -> None:
    """Raise unless the format that the name of the file asks for can be drawn."""
    known = _figure().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise ValueError(
            f"{path}: no format of pictures; the name may end with .{', .'.join(known)}"
        )


def draw(history: History, path: Path) -> bytes:
    """Loss, and accuracy or R^2, epoch by epoch."""
    figure = _figure(figsize=(9, 3.6), layout="constrained")
    epochs = range(1, len(history.epochs) + 1)
    scores = [name for name in history if name in ("validation_accuracy", "validation_r2")]
    left, *right = figure.subplots(1, 1 + len(scores), squeeze=False)[0]
    for name in ("loss", "validation_loss"):
        if name in history:
            left.semilogy(epochs, history[name], label=name.replace("_", " "))
    left.set(xlabel="epoch", title="loss")
    left.legend()
    for ax, score in zip(right, scores, strict=True):
        ax.plot(epochs, history[score], color="tab:green")
        ax.set(xlabel="epoch", title=score.replace("_", " ").replace("r2", "R^2"))
    for ax in (left, *right):
        ax.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lower().lstrip("."), dpi=120)
    return picture.getvalue()
