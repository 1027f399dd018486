"""PyTorch's plan on the CPU: the bits of the eager step, from tensors that stay."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from portable_bp import Backend
from portable_bp.backend import EagerRunner, leaves, map_leaves
from portable_bp.equations import activations, losses, optimizers
from tests.helpers import StepProblem, agree

torch = pytest.importorskip("torch")
torch_plan = pytest.importorskip("portable_bp_backends.torch_plan")
PlanRunner = torch_plan.PlanRunner


@pytest.fixture
def backend(usable: Any) -> Iterator[Backend]:
    found: Backend = usable("torch")
    with found.scope():
        yield found


def poison(runner: Any) -> None:
    """Fill everything that the plans of a runner write with NaN, but for the state."""
    state = {torch_plan._memory(t) for t in leaves(runner._state)}
    for plan in runner._plans.entries():
        for _, _, keywords in plan.calls:
            for t in torch_plan._tensors(keywords["out"]):
                if torch_plan._memory(t) not in state:
                    t.fill_(float("nan") if t.is_floating_point() else 1)


def apart(runner: Any) -> None:
    """No product or reduction is written over what it reads: that may go well for small ones."""
    for plan in runner._plans.entries():
        for function, args, keywords in plan.calls:
            if function in (torch.mm, torch.sum, torch.amax):
                read = {torch_plan._memory(t) for t in torch_plan._tensors(args)}
                assert torch_plan._memory(keywords["out"]) not in read


class Problem(StepProblem):
    """The same, with a comparison of the plan."""

    def check(self) -> None:
        """Whole mini-batches, then a ragged one, then all rows at once, then mini-batches again."""
        written = self.eager()
        planned: Any = self.backend.compile(self.step, self.state)
        assert isinstance(planned, PlanRunner)
        for size in (self.batch, max(1, self.batch // 2), None, self.batch):
            order = None if size is None else self.order(3, size)
            table = self.table(3)
            agree(
                written.run(self.data, order, table),
                planned.run(self.data, order, table),
            )
            agree(written.state, planned.state)
            apart(planned)
            poison(planned)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "weights, l2": {"weighted": True, "l2": 0.1},
    "l1, l2, clipped": {"l1": 0.1, "l2": 0.1, "clip_value": 0.01},
    "labels, no loss": {"labels": True, "clip_norm": 0.1, "dropout": 0.2, "report": False},
}
NETS = {
    "one layer": ((5, 3), 4),
    "one row": ((8, 16, 2), 1),
    "square": ((6, 6, 6), 6),
    "deep": ((30, 64, 32, 2), 32),
}


@pytest.mark.parametrize("optimizer", sorted(optimizers.OPTIMIZERS))
def test_every_optimiser(backend: Backend, optimizer: str) -> None:
    for sizes, batch in NETS.values():
        Problem(backend, sizes, batch, optimizer).check()


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option(backend: Backend, options: str) -> None:
    for (sizes, batch), dtype in itertools.product(NETS.values(), ("float32", "float64")):
        Problem(backend, sizes, batch, "adam", dtype, **OPTIONS[options]).check()


def test_every_activation_and_every_loss(backend: Backend) -> None:
    for hidden in activations.ACTIVATIONS:
        Problem(backend, (4, 9, 3), 6, hidden=hidden).check()
    for loss in losses.LOSSES:
        Problem(backend, (4, 9, 1 if "log_loss" in loss else 3), 6, loss=loss).check()


@pytest.mark.parametrize(
    ("new", "wanted"),
    [
        (lambda a, b: (b, a), ([5, 6], [1, 2])),
        (lambda a, b: (a, a), ([1, 2], [1, 2])),
        (lambda a, b: (a + b, a), ([6, 8], [1, 2])),
        (lambda a, b: (torch.stack((a, b))[1], torch.stack((a, b))[0]), ([5, 6], [1, 2])),
        (lambda a, b: (torch.flip(a, (0,)), b), ([2, 1], [5, 6])),
        (lambda a, b: (b * 2, a - b), ([10, 12], [-4, -4])),
        (lambda a, b: (torch.tensor([7.0, 8.0]), b), ([7, 8], [5, 6])),
    ],
    ids=["swapped", "twice", "old one", "windows", "backwards", "crossed", "constant"],
)
def test_new_state_over_old(backend: Backend, new: Any, wanted: Any) -> None:
    state = (torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0]))
    whole = lambda xp, s, batch: (new(*s), s[0] + s[1])  # noqa: E731
    runner = PlanRunner(backend, whole, state)
    written = EagerRunner(backend, whole, state)
    for steps in (1, 3):
        table = (np.ones(steps, "float32"),)
        rows = (torch.ones(1),)
        agree(written.run(rows, None, table), runner.run(rows, None, table))
        agree(written.state, runner.state)
        poison(runner)
        if steps == 1:
            np.testing.assert_array_equal(runner.state, wanted)
    assert state[0][0] == 1  # the caller's own


def counted(step: Any) -> tuple[Any, list[int]]:
    """The step, and a list with an entry for each time that its Python has run."""
    calls: list[int] = []

    def counting(*args: Any) -> Any:
        calls.append(1)
        return step(*args)

    return counting, calls


def test_a_step_is_recorded_once_for_each_shape_and_few_plans_are_kept(backend: Backend) -> None:
    step, calls = counted(lambda xp, s, batch: ((s[0] + xp.sum(batch[0]) * batch[-1][0],), ()))
    runner = PlanRunner(backend, step, (torch.zeros(()),))
    x = torch.ones(64, 2)
    table = (np.ones(5, "float32"),)
    for _ in range(3):
        for size in (5, 6):
            runner.run((x,), np.zeros((5, size), int), table)
        runner.run((x,), None, table)
    assert len(calls) == 2 * 3, "recorded, and once more to compare"
    for size in range(1, 2 * torch_plan.KEPT):
        runner.run((x,), np.zeros((5, size), int), table)
    assert len(runner._plans) == torch_plan.KEPT


def test_other_data_without_an_order_are_read(backend: Backend) -> None:
    runner = PlanRunner(
        backend, lambda xp, s, batch: ((s[0] + xp.sum(batch[0]),), ()), (torch.zeros(()),)
    )
    for k in (1.0, 2.0, 3.0):
        runner.run((torch.full((3,), k),), None, (np.ones(2, "float32"),))
    assert runner.state[0] == 2 * 3 * (1 + 2 + 3)


def test_numbers_are_not_baked_and_those_nobody_reads_do_no_harm(backend: Backend) -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        number = batch[-1][1]
        return (state[0] + number,), number * 2

    runner = PlanRunner(backend, step, (torch.zeros(()),))
    for numbers in ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [5.0, 5.0, 6.0]):
        column = np.asarray(numbers, "float32")
        found = runner.run((torch.ones(1),), None, (np.arange(3), column))
        np.testing.assert_array_equal(found.numpy(), column * 2)
    assert runner.state[0] == 34


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda xp, s, batch: ((s[0] + torch.rand(2),), ()), "random numbers"),
        (lambda xp, s, batch: ((s[0] + float(s[0][0]),), ()), "on the host"),
        (lambda xp, s, batch: ((s[0] + torch.nonzero(s[0] + 1).sum(),), ()), "depends on values"),
        (lambda xp, s, batch: ((s[0].clone().add_(1),), ()), "in place"),
    ],
    ids=["random", "host read", "shape", "in place"],
)
def test_what_cannot_be_planned_runs_as_it_is_written(
    backend: Backend, step: Any, reason: str
) -> None:
    runner = PlanRunner(backend, step, (torch.zeros(2),))
    table = (np.ones(2, "float32"),)
    with pytest.warns(RuntimeWarning, match=f"not from a plan: .*{reason}"):
        runner.run((torch.ones(1),), None, table)
    before = runner.state
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough
        runner.run((torch.ones(1),), None, table)
    assert not torch.equal(before[0], runner.state[0]) or reason == "on the host"


def test_a_replay_with_other_bits_is_found_before_it_is_used(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(xp: Any, state: Any, batch: Any) -> Any:
        return (xp.exp(state[0]) - 1,), xp.sum(state[0])

    monkeypatch.setattr(torch_plan, "_ways", lambda kernel, args: iter(()))
    monkeypatch.setattr(torch_plan, "_call", lambda *args, out: [t.fill_(1) for t in out])
    runner = PlanRunner(backend, step, (torch.ones(2),))
    with pytest.warns(RuntimeWarning, match="other bits"):
        found = runner.run((torch.ones(1),), None, (np.ones(2, "float32"),))
    written = EagerRunner(backend, step, (torch.ones(2),))
    agree(found, written.run((torch.ones(1),), None, (np.ones(2, "float32"),)))
    agree(runner.state, written.state)


def test_nothing_handed_in_is_changed_and_nothing_handed_out_changes(backend: Backend) -> None:
    problem = Problem(backend, (6, 8, 3), 4, weighted=True)
    handed = (problem.state, problem.data)
    before = map_leaves(backend.copy, handed)
    runner = problem.backend.compile(problem.step, problem.state)
    found: Any = runner.run(problem.data, problem.order(5, 4), problem.table(5))
    first, kept = runner.state, found.clone()
    copied = map_leaves(backend.copy, first)
    runner.run(problem.data, problem.order(5, 4), problem.table(5))
    agree(before, handed)
    agree((copied, kept), (first, found))
    for leaf in leaves(first):
        leaf.fill_(float("nan"))  # the caller's own
    assert all(torch.isfinite(leaf).all() for leaf in leaves(runner.state))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_native_kernels_compute_the_formulas(backend: Backend, dtype: str) -> None:
    rng = np.random.default_rng(0)
    g, m, p = (backend.asarray(rng.standard_normal((7, 5)), dtype) for _ in range(3))
    v, (alpha, eps) = m * m, (backend.asarray(c, dtype) for c in (0.01, 1e-6))
    kernels = {
        f.__name__: backend.xp.portable_bp_kernel(f) for f in (optimizers._adam, activations.d_relu)
    }
    written = torch_plan.torch  # a namespace without kernels
    pairs = [
        (kernels["_adam"](g, m, v, p, alpha, eps, 0.9, 0.999),
         optimizers._adam.__wrapped__(g, m, v, p, alpha, eps, 0.9, 0.999, written)),
        (kernels["d_relu"](p, torch.relu(p)), activations.d_relu.__wrapped__(p, torch.relu(p), _astype)),
    ]  # fmt: skip
    for found, wanted in pairs:
        for x, y in zip(leaves(found), leaves(wanted), strict=True):
            torch.testing.assert_close(x, y, rtol=8 * torch.finfo(x.dtype).eps, atol=1e-12)


class _astype:
    """The one function of a namespace that PyTorch calls by another name."""

    @staticmethod
    def astype(x: Any, dtype: Any) -> Any:
        return x.to(dtype)
