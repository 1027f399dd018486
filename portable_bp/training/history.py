"""What a training run has seen, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History(Mapping[str, list[float]]):
    """One list per quantity, one entry per epoch: ``loss``, ``learning_rate``, ``seconds``, and with
    validation ``validation_loss`` and ``validation_<metric>``.

    >>> history = History()
    >>> history.append({"loss": 0.5})
    >>> history.append({"loss": 0.25})
    >>> history["loss"], len(history.epochs)
    ([0.5, 0.25], 2)
    """

    epochs: list[dict[str, float]] = field(default_factory=list)

    def append(self, row: Mapping[str, float]) -> None:
        """Add one epoch."""
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

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, History) and self.epochs == other.epochs
