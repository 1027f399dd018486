"""Where a plot is drawn: on the axes that were handed in, or in a new figure."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """``matplotlib.pyplot``, or an ImportError that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'portable-bp[plot]'") from error
    return plt


def axes_or_new(ax: Any) -> Any:
    """``ax``, or the axes of a new figure."""
    return pyplot().subplots(layout="constrained")[1] if ax is None else ax
