"""JAX: an epoch as one compiled program, traced once for each shape, on a state of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from portable_bp import MLP, Backend
from portable_bp.backend import EagerRunner, leaves, map_leaves
from portable_bp.equations import optimizers
from portable_bp.training.step import StepPlan, make_step

pytest.importorskip("jax")

ROWS, BATCH = 23, 5


class Problem:
    """A training step with its state, and batches to run it on."""

    def __init__(self, backend: Backend, optimizer: str, *, report: bool = True) -> None:
        net = MLP((6, 8, 3), "tanh", dropout=0.2, l2=0.01)
        self.rng = rng = np.random.default_rng(0)
        x = rng.standard_normal((ROWS, 6)).astype("float32")
        y = np.eye(3, dtype="float32")[rng.integers(0, 3, ROWS)]
        self.data: Any = (backend.asarray(x), backend.asarray(y))
        self.backend, self.done, self.optimizer = backend, 0, optimizers.get(optimizer)
        params = net.init(0, backend)
        self.state = (params, optimizers.init(self.optimizer, params, xp=backend.xp))
        counters = backend.asarray(np.arange(BATCH * 8), backend.word_dtype)
        self.step = make_step(
            StepPlan(net.equations, self.optimizer, net.dropout, counters=counters, report=report)
        )

    def epoch(self, *runners: Any) -> list[Any]:
        """All rows once, the last ones in a smaller batch; the losses that each runner answers with."""
        rows, whole = self.rng.permutation(ROWS), ROWS // BATCH * BATCH
        found: list[Any] = [[] for _ in runners]
        for order in (rows[:whole].reshape(-1, BATCH), rows[whole:][None, :]):
            t = np.arange(self.done, self.done + len(order))
            self.done += len(order)
            numbers = self.optimizer.coefficients(t + 1.0, np.full(len(t), 0.01))
            table = (t.astype("uint32"), *(np.asarray(c).astype("float32") for c in numbers))
            for runner, losses in zip(runners, found, strict=True):
                losses.append(runner.run(self.data, order, table))
        return found


def close(a: Any, b: Any, rtol: float) -> None:
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=rtol)


@pytest.fixture
def backend(usable: Any) -> Backend:
    found: Backend = usable("jax")
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_numbers_of_the_step_eager_traced_once_for_each_shape(
    backend: Backend, optimizer: str
) -> None:
    problem = Problem(backend, optimizer)
    compiled: Any = backend.compile(problem.step, problem.state)
    written = EagerRunner(backend, problem.step, problem.state)
    for _ in range(2):
        ours, wanted = problem.epoch(compiled, written)
        assert [a.shape for a in ours] == [(ROWS // BATCH,), (1,)]
        close(tuple(ours), tuple(wanted), 1e-5)  # XLA adds in another order than the kernels do
    close(compiled.state, written.state, 1e-5)
    for _ in range(10):
        problem.epoch(compiled)
    assert compiled.traces == 2, "one for whole batches, one for the ragged last one"


def test_all_rows_at_once_and_no_loss(backend: Backend) -> None:
    problem = Problem(backend, "sgd", report=False)
    compiled: Any = backend.compile(problem.step, problem.state)
    written = EagerRunner(backend, problem.step, problem.state)
    # Dropout needs a counter for four entries: as many as a batch's; all rows are cut to that.
    data = tuple(d[:BATCH] for d in problem.data)
    for steps in (1, 3, 3):
        table = (np.arange(steps, dtype="uint32"), np.full(steps, 0.01, "float32"))
        assert compiled.run(data, None, table) == written.run(data, None, table) == ()
    close(compiled.state, written.state, 1e-5)
    assert compiled.traces == 2, "one step, and three"


def test_the_state_that_is_given_away_is_nobody_elses(backend: Backend) -> None:
    """A donated array is deleted: neither the caller's nor one handed out may be among them."""
    problem = Problem(backend, "adam")
    handed = (problem.state, problem.data)
    before = map_leaves(np.asarray, map_leaves(backend.copy, handed))
    compiled: Any = backend.compile(problem.step, problem.state)
    problem.epoch(compiled)
    first = compiled.state
    kept = map_leaves(backend.to_numpy, first)
    problem.epoch(compiled)
    assert not any(leaf.is_deleted() for leaf in leaves((handed, first)))
    close(handed, before, 0)
    close(first, kept, 0)
    assert any((a != b).any() for a, b in zip(leaves(kept), leaves(compiled.state), strict=True))


def test_host_arrays_may_change_as_soon_as_run_returns(backend: Backend) -> None:
    """JAX may read a host array after the call: order and table must have been copied."""

    def step(xp: Any, state: Any, batch: Any) -> Any:
        x, (number,) = batch
        return (state[0] + number * xp.sum(x),), xp.sum(x)

    runner: Any = backend.compile(step, (backend.asarray(0.0, "float32"),))
    x = backend.asarray(np.arange(4, dtype="float32"))
    for k in range(20):
        order, table = np.full((50, 1), k % 4, "int32"), (np.ones(50, "float32"),)
        found = runner.run((x,), order, table)
        order[...], table[0][...] = 0, np.nan
        np.testing.assert_array_equal(np.asarray(found), k % 4)
    assert float(runner.state[0]) == 50 * 5 * (0 + 1 + 2 + 3)


def test_an_order_beyond_the_rows_is_refused(backend: Backend) -> None:
    problem = Problem(backend, "sgd")
    compiled: Any = backend.compile(problem.step, problem.state)
    table = (np.zeros(1, "uint32"), np.ones(1, "float32"))
    with pytest.raises(IndexError, match="rows 0 to 23, but the data have 23"):
        compiled.run(problem.data, np.asarray([[0, ROWS]]), table)
    assert compiled.traces == 0
