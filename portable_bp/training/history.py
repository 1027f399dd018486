"""What a training run has seen, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from portable_bp._summary import html_block, html_table

MAX_ROWS = 10
"""Epochs that a notebook shows, half of them from the beginning and half from the end."""


@dataclass
class History(Mapping[str, list[float]]):
    """One list per quantity, one entry per epoch: ``loss``, ``learning_rate``, ``seconds``, and with
    validation ``validation_loss`` and ``validation_<metric>``.

    Parameters
    ----------
    epochs : list of dict
        The same by epoch: one dictionary each.

    Examples
    --------
    >>> history = History()
    >>> history.append({"loss": 0.5})
    >>> history.append({"loss": 0.25})
    >>> history["loss"], len(history.epochs)
    ([0.5, 0.25], 2)
    """

    epochs: list[dict[str, float]] = field(default_factory=list)

    def append(self, row: Mapping[str, float]) -> None:
        """Add one epoch.

        Parameters
        ----------
        row : mapping of str to float
            Its numbers; they are copied.
        """
        self.epochs.append(dict(row))

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._names():
            raise KeyError(f"{name!r}; recorded are: {', '.join(self._names()) or 'nothing yet'}")
        return [row[name] for row in self.epochs]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> tuple[str, ...]:
        return tuple(self.epochs[0]) if self.epochs else ()

    def _repr_html_(self) -> str:
        names = self._names()
        shown = [*range(len(self.epochs))]
        if len(shown) > MAX_ROWS:  # the first and the last
            shown = shown[: MAX_ROWS // 2] + shown[-MAX_ROWS // 2 :]
        rows = [
            [str(i + 1), *(f"{self.epochs[i].get(name, float('nan')):.4g}" for name in names)]
            for i in shown
        ]
        if len(rows) < len(self.epochs):
            rows.insert(MAX_ROWS // 2, ["..."] * (len(names) + 1))
        table = html_table(["epoch", *(name.replace("_", " ") for name in names)], rows)
        return html_block(f"History, {len(self.epochs)} epochs", table)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, History) and self.epochs == other.epochs
