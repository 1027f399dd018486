"""The progress of a training in a Jupyter notebook: one line that is replaced, without a widget."""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING, Any

from portable_bp.training.callbacks import EpochEnd, shown_numbers
from portable_bp.training.pace import Pace

if TYPE_CHECKING:
    from portable_bp.mlp import MLP


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress:
    """A bar, the number of the epoch and its numbers, below the cell; it stays when the run has ended.

    Notebooks show it as HTML, anything else that reads the output as text. It needs no extension:
    ``ipywidgets``, which other bars ask for, leaves nothing in a notebook that is opened later.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._epochs = 0
        self._began = 0.0

    def on_train_begin(self, net: MLP, epochs: int) -> None:
        """Show the empty bar."""
        from IPython.display import display

        self._epochs, self._began, self._pace = epochs, time.perf_counter(), Pace(epochs)
        self._numbers = ""
        show: Any = display  # has no types
        self._handle = show(self._line(0, ""), raw=True, display_id=True)

    def on_rows(self, done: int, total: int) -> None:
        """Grow within an epoch."""
        shown = self._pace.within(done, total)
        if shown is not None:
            self._handle.update(self._line(shown[0], f"{self._numbers}  {shown[1]}"), raw=True)

    def __call__(self, end: EpochEnd, /) -> None:
        done, pace = self._pace.epoch_ended(end.epoch, end.rows)
        self._numbers = shown_numbers(end)
        self._handle.update(self._line(done, f"{self._numbers}  {pace}"), raw=True)

    def on_train_end(self) -> None:
        """Leave the last line standing."""

    def _line(self, done: float, numbers: str) -> dict[str, str]:
        seconds = time.perf_counter() - self._began
        text = f"training {int(done)}/{self._epochs}  {numbers}  {seconds:.1f} s"
        bar = f'<progress value="{done:g}" max="{self._epochs}" aria-label="epochs"></progress>'
        return {"text/plain": text, "text/html": f"{bar} <code>{html.escape(text)}</code>"}
