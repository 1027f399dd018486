"""Learning-rate schedules: from the number of a step to its rate, plain numbers on the host.

Steps are counted in parameter updates from 0. ``total`` is the number of updates that the run plans
to make; a schedule that has a length takes that of the run unless it is given one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, ClassVar

from portable_bp._names import canonical
from portable_bp._scalars import check_hyperparameters, count, hyperparameter, shown


@dataclass(frozen=True)
class Schedule:
    """A constant rate, and the base of all others.

    >>> Constant(0.1)(step=5, total=10)
    0.1
    """

    rate: float = hyperparameter(1e-3, low=0, open_low=True, name="learning_rate")
    name: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def __call__(self, step: int, total: int) -> float:
        """The rate of update ``step``, 0 <= step."""
        return self.rate


class Constant(Schedule):
    """``eta_t = rate``."""


@dataclass(frozen=True)
class StepDecay(Schedule):
    """``eta_t = rate gamma^floor(t / step_size)``; ``step_size`` in updates.

    >>> StepDecay(1.0, step_size=10, gamma=0.5)(step=25, total=100)
    0.25
    """

    name: ClassVar[str] = "step"
    step_size: int = count(1000, least=1)
    gamma: float = hyperparameter(0.1, low=0, open_low=True)

    def __call__(self, step: int, total: int) -> float:
        return float(self.rate * self.gamma ** (step // self.step_size))


@dataclass(frozen=True)
class Exponential(Schedule):
    """``eta_t = rate gamma^t``."""

    name: ClassVar[str] = "exponential"
    gamma: float = hyperparameter(0.999, low=0, open_low=True)

    def __call__(self, step: int, total: int) -> float:
        return float(self.rate * self.gamma**step)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """``eta_t = rate / (t + 1)^power``."""

    name: ClassVar[str] = "inverse_scaling"
    power: float = hyperparameter(0.5, low=0)

    def __call__(self, step: int, total: int) -> float:
        return float(self.rate / (step + 1) ** self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """``eta_t = eta_min + (rate - eta_min) (1 + cos(pi t / T)) / 2`` up to T, then ``eta_min``
    (Loshchilov and Hutter, ICLR 2017).

    ``T = total_steps``, by default the length of the run.

    >>> Cosine(1.0)(step=50, total=100)
    0.5
    """

    name: ClassVar[str] = "cosine"
    eta_min: float = hyperparameter(0.0, low=0)
    total_steps: int | None = count(None, least=1)

    def __call__(self, step: int, total: int) -> float:
        progress = min(step / (self.total_steps or total), 1.0)
        return self.eta_min + (self.rate - self.eta_min) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class LinearWarmup(Schedule):
    """``eta_t = rate min(1, (t + 1) / warmup)``."""

    name: ClassVar[str] = "linear_warmup"
    warmup: int = count(100, least=1)

    def __call__(self, step: int, total: int) -> float:
        return self.rate * min(1.0, (step + 1) / self.warmup)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Cosine from ``rate / div_factor`` up to ``rate`` over the fraction ``pct_start`` of the run,
    then cosine down to ``rate / (div_factor final_div_factor)`` (Smith and Topin, 2018; names and
    defaults of PyTorch's ``OneCycleLR``, whose ``max_lr`` is ``rate``).

    The peak is at step ``pct_start T - 1`` and the end at ``T - 1``, with T as in :class:`Cosine`.
    """

    name: ClassVar[str] = "one_cycle"
    pct_start: float = hyperparameter(0.3, low=0, high=1, open_low=True, open_high=True)
    div_factor: float = hyperparameter(25.0, low=0, open_low=True)
    final_div_factor: float = hyperparameter(1e4, low=0, open_low=True)
    total_steps: int | None = count(None, least=1)

    def __call__(self, step: int, total: int) -> float:
        length = self.total_steps or total
        low = self.rate / self.div_factor
        least = self.rate / (self.div_factor * self.final_div_factor)
        peak, last = self.pct_start * length - 1, length - 1
        if step <= peak:
            return _ease(low, self.rate, step / peak if peak > 0 else 1.0)
        return _ease(self.rate, least, min((step - peak) / (last - peak), 1.0))


def _ease(a: float, b: float, progress: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """The rate times ``factor`` whenever the watched loss has not improved for ``patience`` epochs.

    An improvement is a fall by more than ``threshold`` (relative). The watched number is the
    validation loss, or the training loss when there is no validation; an epoch in which it is not
    finite is not counted. The training loop keeps the state; see :meth:`observe`.
    """

    name: ClassVar[str] = "reduce_on_plateau"
    factor: float = hyperparameter(0.1, low=0, high=1, open_low=True, open_high=True)
    patience: int = count(10, least=0)
    threshold: float = hyperparameter(1e-4, low=0)
    min_lr: float = hyperparameter(0.0, low=0)

    def observe(self, state: tuple[float, float, int], loss: float) -> tuple[float, float, int]:
        """``(rate, best, waited)`` after an epoch with this loss.

        >>> plateau = ReduceOnPlateau(1.0, factor=0.5, patience=1)
        >>> plateau.observe(plateau.observe((1.0, 0.7, 0), 0.9), 0.9)
        (0.5, 0.7, 0)
        """
        rate, best, waited = state
        if not math.isfinite(loss):
            return state  # it says nothing about progress
        if loss < best * (1 - self.threshold) or best == math.inf:
            return rate, loss, 0
        if waited + 1 > self.patience:
            return max(rate * self.factor, self.min_lr), best, 0
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
            f"portable_bp.schedules.Cosine(1e-3); got {shown(learning_rate)}{_meant(learning_rate)}"
        )
    return Constant(float(learning_rate))


_TYPED_ELSEWHERE = {
    "cosine_annealing": "cosine",
    "cosine_annealing_lr": "cosine",
    "cosine_decay": "cosine",
    "invscaling": "inverse_scaling",
    "adaptive": "reduce_on_plateau",
    "plateau": "reduce_on_plateau",
    "reduce_lr_on_plateau": "reduce_on_plateau",
    "step_lr": "step",
    "step_decay": "step",
    "exponential_lr": "exponential",
    "exponential_decay": "exponential",
    "warmup": "linear_warmup",
    "linear_lr": "linear_warmup",
    "one_cycle_lr": "one_cycle",
    "constant_lr": "constant",
}


def _meant(value: Any) -> str:
    """For a name or a class in place of a schedule: how the schedule is made."""
    word = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    name = canonical(word, SCHEDULES, _TYPED_ELSEWHERE)
    if name is None:
        return ""
    return f". Did you mean portable_bp.schedules.{SCHEDULES[name].__name__}(1e-3)?"


_RENAMED = {
    "step": {"every": "step_size"},
    "cosine": {"final": "eta_min"},
    "one_cycle": {"rise": "pct_start", "start": "div_factor", "end": "final_div_factor"},
    "reduce_on_plateau": {"minimum": "min_lr"},
}
"""Names in the checkpoints of earlier versions, by schedule."""


def modern(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description from a file with the names of today.

    >>> modern({"name": "cosine", "rate": 0.1, "final": 0.01})
    {'name': 'cosine', 'rate': 0.1, 'eta_min': 0.01}
    """
    names = _RENAMED.get(str(description.get("name")), {})
    return {names.get(key, key): value for key, value in description.items()}


def describe(schedule: Schedule) -> dict[str, Any]:
    """Name and parameters, as a file keeps them."""
    return {"name": schedule.name, **asdict(schedule)}
