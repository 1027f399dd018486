"""Which runs can share their steps, and the step that they share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from portable_bp._typing import HostArray, Namespace, Step, Tree
from portable_bp.backend import Backend, map_leaves
from portable_bp.backend.cache import cached_plan
from portable_bp.equations import optimizers
from portable_bp.equations.regularizers import Rates, rate_of
from portable_bp.training.data import DeviceData, DeviceRows
from portable_bp.training.step import StepPlan, constants_of, make_step, with_constants
from portable_bp.training.trainer import NoRecorder, Trainer

_WORD = 0xFFFFFFFF

LARGEST = {"numpy": 3_000_000, "torch": 3_000_000, "jax": 3_000_000}
"""Multiplications of a forward pass from which on a batch is no quicker than one network after the
other, on a processor: from there on the products fill it, and the caches hold one network's arrays."""

FEWEST = {"numpy": 5_000, "torch": 1_000, "jax": 5_000}
"""Steps of all networks together below which a compiled batch does not earn what it takes to compile
it."""

MOST = 2**28
"""Bytes that the parameters, gradients, slots and activations of a batch may take."""


class Job(NamedTuple):
    """A run that may share its steps with others."""

    trainer: Trainer
    plan: StepPlan
    """Of its step, without constants."""
    sizes: tuple[int, ...]
    """Units of each layer."""


@dataclass(frozen=True)
class Group:
    """Runs that share a step.

    Attributes
    ----------
    jobs : sequence of Job
    names : tuple of str
        The numbers that are not the same in all of them: ``"l2"``, ``"optimizer.beta1"``, ...
    step : function
        ``step(xp, state, batch)`` with ``state = (params, slots, settings)``.
    """

    jobs: Sequence[Job]
    names: tuple[str, ...]
    step: Step

    @property
    def data(self) -> list[DeviceData | DeviceRows]:
        """The rows of each."""
        return [_device_data(job) for job in self.jobs]

    def settings(self, backend: Backend, dtype: str) -> Tree:
        """The numbers called ``names`` of all networks, as the step takes them."""
        columns = [[_numbers(job.plan)[name] for job in self.jobs] for name in self.names]
        return tuple(
            tuple(
                backend.asarray(array, backend.word_dtype if array.dtype.kind in "iu" else dtype)
                for array in _arrays(name, values)
            )
            for name, values in zip(self.names, columns, strict=True)
        )


def groups(jobs: Sequence[Job]) -> Iterator[Group]:
    """The jobs in groups that share a step; one that shares its step with no other by itself."""
    alike: dict[Any, list[Job]] = {}
    for i, job in enumerate(jobs):
        alike.setdefault(_kind(job) or i, []).append(job)
    for same in alike.values():
        together = _most(same[0])
        if len(same) == 1 or together < 2 or _is_short(same):
            yield from (Group([job], (), job.trainer.step) for job in same)
            continue
        names, step = _shared_step(same)
        for part in np.array_split(np.arange(len(same)), -(-len(same) // together)):
            yield Group([same[i] for i in part], names, step)


def _kind(job: Job) -> Any:
    """Equal for jobs that can share their steps; None for one that cannot share them at all."""
    trainer, plan = job.trainer, job.plan
    if not isinstance(trainer.data, DeviceData | DeviceRows):
        return None
    if not isinstance(trainer.recorder, NoRecorder) or trainer.steps or plan.parts is not None:
        return None
    loss, layers = plan.equations.loss, plan.equations.activations
    of_rows = (loss.value, loss.gradient, loss.from_logits, *(a.pullback for a in layers))
    if not all(map(_takes_axes, of_rows)):
        return None
    numbers, rule = _numbers(plan), plan.optimizer
    kind = (
        trainer.backend, trainer.dtype, trainer.batch_size, trainer.compile, job.sizes,
        plan.equations.activations, plan.equations.loss, type(rule),
        tuple(v for f, v in vars(rule).items() if f"optimizer.{f}" not in numbers),
        tuple(name for name in numbers), plan.weighted, plan.report, plan.l2_each_step,
        tuple((a.shape[1:], str(a.dtype)) for a in trainer.data.arrays),
    )  # fmt: skip
    try:
        hash(kind)
    except TypeError:
        return None
    return kind


def _device_data(job: Job) -> DeviceData | DeviceRows:
    """The rows of a job that can share its steps."""
    data = job.trainer.data
    assert isinstance(data, DeviceData | DeviceRows)
    return data


def _takes_axes(function: Any) -> bool:
    """Whether axes may lead the arrays of a function: a user's that is not element-wise may count on
    two."""
    function = getattr(function, "function", function)  # of a Bound
    return function is None or str(function.__module__).startswith("portable_bp.")


def _most(job: Job) -> int:
    """How many of these are best trained in one step."""
    sizes, batch = job.sizes, job.trainer.batch_size
    work = batch * sum(i * o for i, o in pairwise(sizes))
    backend = job.trainer.backend
    on_processor = backend.spec not in type(backend).accelerators()
    if on_processor and work >= LARGEST.get(backend.name, math.inf):
        return 1
    slots = 3 + job.plan.optimizer.slots
    numbers = slots * sum((i + 1) * o for i, o in pairwise(sizes))
    width = np.dtype(job.trainer.dtype).itemsize
    return max(1, MOST // (width * (numbers + 3 * batch * sum(sizes))))


def _is_short(jobs: Sequence[Job]) -> bool:
    """Whether these runs are over before a batch of them would be compiled."""
    first = jobs[0].trainer
    steps = sum(job.trainer.per_epoch * job.trainer.policy.epochs for job in jobs)
    return first.compile and steps < FEWEST.get(first.backend.name, 0)


def _numbers(plan: StepPlan) -> dict[str, Any]:
    """What may differ among networks that share a step."""
    equations, rule = plan.equations, plan.optimizer
    numbers: dict[str, Any] = {"l1": equations.l1, "l2": equations.l2}
    numbers |= {
        name: value
        for name in ("clip_value", "clip_norm")
        if (value := getattr(plan, name)) is not None
    }
    numbers |= {
        f"optimizer.{f.name}": value
        for f in fields(rule)
        if isinstance(value := getattr(rule, f.name), float)
    }
    numbers |= {f"dropout.{l}": rate for l, rate in enumerate(plan.dropout) if rate}
    if any(plan.dropout):
        numbers["seed"] = plan.seed
    return numbers


def _arrays(name: str, values: Sequence[Any]) -> list[HostArray]:
    """The numbers of one name as arrays with one entry for each network."""
    if name == "seed":
        halves = [[s & _WORD for s in values], [s >> 32 for s in values]]
        return [np.array(half, np.int64) for half in halves]
    if name.startswith("dropout."):
        thresholds, scales = zip(*map(rate_of, values), strict=True)
        return [np.array(thresholds, np.int64), np.array(scales, np.float64)]
    return [np.array(values, np.float64)]


def _shared_step(jobs: Sequence[Job]) -> tuple[tuple[str, ...], Step]:
    """The names of what differs, and the step of all: the same function for equal jobs."""
    first, all_numbers = jobs[0], [_numbers(job.plan) for job in jobs]
    names = tuple(
        name for name in all_numbers[0] if len({numbers[name] for numbers in all_numbers}) > 1
    )
    plan = first.plan
    if "seed" in names:
        plan = replace(plan, seed=0)
    trainer = first.trainer
    counts = constants_of(plan, first.sizes, trainer.batch_size, labels=trainer.data.labels)

    def made() -> Step:
        return step_of(with_constants(trainer.backend, plan, counts), names)

    return names, cached_plan(trainer.backend, (_shared_step, plan, names, counts), made)


def step_of(plan: StepPlan, names: tuple[str, ...]) -> Step:
    """``step(xp, state, batch) -> (state, losses)`` for networks side by side.

    ``state = (params, slots, settings)``, all with the axis of the networks in front; ``settings`` are
    the arrays of each of ``names``. A step that some of the networks sit out has rows for the others
    only, and three numbers more than those of :func:`portable_bp.training.step.make_step`: the places
    of those that take part; for each network its place among them; and 1 where it takes part, else 0.
    """

    def whole(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        params, slots, settings = state
        own = _with_settings(plan, dict(zip(names, settings, strict=True)))
        (params, slots), loss = make_step(own)(xp, (params, slots), batch)
        return (params, slots, settings), loss

    def step(xp: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        count = state[0][0][0].shape[0]
        if batch[0].shape[0] == count:
            return whole(xp, state, batch)
        *rows, (*numbers, members, places, included) = batch

        def put(old: Any, new: Any) -> Any:
            takes_part = xp.reshape(included, (count, *(1,) * (old.ndim - 1))) > 0
            return xp.where(takes_part, xp.take(new, places, axis=0), old)

        some = map_leaves(lambda a: xp.take(a, members, axis=0), state)
        after, loss = whole(xp, some, (*rows, tuple(numbers)))
        moved = map_leaves(put, state[:2], after[:2])
        return (*moved, state[2]), map_leaves(lambda l: xp.take(l, places, axis=0), loss)

    return step


def _with_settings(plan: StepPlan, settings: Mapping[str, Any]) -> StepPlan:
    """The plan with arrays, one entry for each network, in the place of some of its numbers."""
    equations, rates = plan.equations, [*plan.dropout]
    of_rule: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, arrays in settings.items():
        kind, _, which = name.partition(".")
        if kind == "optimizer":
            of_rule[which] = arrays[0]
        elif kind == "dropout":
            rates[int(which)] = Rates(*arrays)
        elif kind in ("l1", "l2"):
            equations = replace(equations, **{kind: arrays[0]})
        else:
            others[kind] = arrays if kind == "seed" else arrays[0]
    rule = optimizers.with_numbers(plan.optimizer, of_rule)
    return replace(plan, equations=equations, optimizer=rule, dropout=tuple(rates), **others)
