"""Learning-rate schedules: from the number of a step to its rate, plain numbers on the host.

Steps are counted in parameter updates from 0. ``total`` is the number of updates that the run plans
to make; a schedule that has a length takes that of the run unless it is given one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any, ClassVar

from portable_bp._scalars import positive_int, real, shown


@dataclass(frozen=True)
class Schedule:
    """A constant rate, and the base of all others.

    >>> Constant(0.1)(step=5, total=10)
    0.1
    """

    rate: float = 1e-3
    name: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        for f in fields(self):
            name, value = f.name, getattr(self, f.name)
            if name == "rate":
                real("learning_rate", value, low=0, open_low=True)
            elif name in ("gamma", "start", "end"):
                real(name, value, low=0, open_low=True)
            elif name in ("power", "final", "minimum", "threshold"):
                real(name, value, low=0)
            elif name in ("rise", "factor"):
                real(name, value, low=0, high=1, open_low=True, open_high=True)
            elif name in ("every", "warmup") or (name == "total_steps" and value is not None):
                positive_int(name, value)
            elif name == "patience":
                positive_int(name, value, least=0)

    def __call__(self, step: int, total: int) -> float:
        """The rate of update ``step``, 0 <= step."""
        return self.rate


class Constant(Schedule):
    """``eta_t = rate``."""


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``eta_t = rate gamma^floor(t / every)``; ``every`` in updates.

    >>> StepDecay(1.0, every=10, gamma=0.5)(step=25, total=100)
    0.25
    """

    name: ClassVar[str] = "step"
    every: int = 1000
    gamma: float = 0.1

    def __call__(self, step: int, total: int) -> float:
        return float(self.rate * self.gamma ** (step // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """``eta_t = rate gamma^t``."""

    name: ClassVar[str] = "exponential"
    gamma: float = 0.999

    def __call__(self, step: int, total: int) -> float:
        return float(self.rate * self.gamma**step)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """``eta_t = rate / (t + 1)^power``."""

    name: ClassVar[str] = "inverse_scaling"
    power: float = 0.5

    def __call__(self, step: int, total: int) -> float:
        return float(self.rate / (step + 1) ** self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """``eta_t = final + (rate - final) (1 + cos(pi t / T)) / 2`` up to T, then ``final``
    (Loshchilov and Hutter, ICLR 2017).

    ``T = total_steps``, by default the length of the run.

    >>> Cosine(1.0)(step=50, total=100)
    0.5
    """

    name: ClassVar[str] = "cosine"
    final: float = 0.0
    total_steps: int | None = None

    def __call__(self, step: int, total: int) -> float:
        progress = min(step / (self.total_steps or total), 1.0)
        return self.final + (self.rate - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """``eta_t = rate min(1, (t + 1) / warmup)``."""

    name: ClassVar[str] = "linear_warmup"
    warmup: int = 100

    def __call__(self, step: int, total: int) -> float:
        return self.rate * min(1.0, (step + 1) / self.warmup)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Cosine from ``rate / start`` up to ``rate`` over the share ``rise`` of the run, then cosine
    down to ``rate / (start * end)`` (Smith and Topin, 2018; the defaults of PyTorch).

    The peak is at step ``rise T - 1`` and the end at ``T - 1``, with T as in :class:`Cosine`.
    """

    name: ClassVar[str] = "one_cycle"
    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4
    total_steps: int | None = None

    def __call__(self, step: int, total: int) -> float:
        length = self.total_steps or total
        low, least = self.rate / self.start, self.rate / (self.start * self.end)
        peak, last = self.rise * length - 1, length - 1
        if step <= peak:
            return _ease(low, self.rate, step / peak if peak > 0 else 1.0)
        return _ease(self.rate, least, min((step - peak) / (last - peak), 1.0))


def _ease(a: float, b: float, progress: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """The rate times ``factor`` whenever the watched loss has not improved for ``patience`` epochs.

    An improvement is a fall by more than ``threshold`` (relative). The watched number is the
    validation loss, or the training loss when there is no validation. The training loop keeps the
    state; see :meth:`observe`.
    """

    name: ClassVar[str] = "reduce_on_plateau"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    minimum: float = 0.0

    def observe(self, state: tuple[float, float, int], loss: float) -> tuple[float, float, int]:
        """``(rate, best, waited)`` after an epoch with this loss.

        >>> plateau = ReduceOnPlateau(1.0, factor=0.5, patience=1)
        >>> plateau.observe(plateau.observe((1.0, 0.7, 0), 0.9), 0.9)
        (0.5, 0.7, 0)
        """
        rate, best, waited = state
        if loss < best * (1 - self.threshold) or best == math.inf:
            return rate, loss, 0
        if waited + 1 > self.patience:
            return max(rate * self.factor, self.minimum), best, 0
        return rate, best, waited + 1


SCHEDULES: Mapping[str, type[Schedule]] = {
    s.name: s
    for s in (
        Constant, StepDecay, Exponential, InverseScaling, Cosine, LinearWarmup, OneCycle,
        ReduceOnPlateau,
    )
}  # fmt: skip


def get(learning_rate: float | Schedule) -> Schedule:
    """A number becomes :class:`Constant`; a schedule is returned as it is."""
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, Real):
        raise TypeError(
            "learning_rate must be a positive number or a Schedule such as "
            f"portable_bp.schedules.Cosine(1e-3); got {shown(learning_rate)}"
        )
    return Constant(float(learning_rate))


def describe(schedule: Schedule) -> dict[str, Any]:
    """Name and parameters, as a file keeps them."""
    return {"name": schedule.name, **asdict(schedule)}
