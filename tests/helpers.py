"""What several test files need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest

from portable_bp import MLP, Backend, optimizers
from portable_bp.backend import EagerRunner, leaves
from portable_bp.training.checkpointing import Checkpointing
from portable_bp.training.step import StepPlan, make_step


def jax_64_bits(on: bool) -> AbstractContextManager[Any]:
    """Within the block JAX has 64-bit numbers, or has none; by the name that this version has for it."""
    import jax
    import jax.experimental

    switch: Any = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    context: AbstractContextManager[Any] = switch(on)
    return context


class Killed(Exception):
    """Stands for whatever ends a process between two steps."""


@contextmanager
def killed_after(steps: int) -> Iterator[None]:
    """The run in the block ends there, once the checkpoint after so many steps is written."""
    save = Checkpointing.save

    def dying(self: Any, trainer: Any, final: bool = False) -> None:
        save(self, trainer, final)
        if trainer.steps == steps:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointing, "save", dying)
        with pytest.raises(Killed):
            yield


def same_bits(a: Any, b: Any) -> None:
    """Shape, dtype and every bit of two arrays; any NaN for any NaN."""
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    if a.dtype.kind == "f":
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        a, b = np.nan_to_num(a, nan=0.0), np.nan_to_num(b, nan=0.0)
    assert a.tobytes() == b.tobytes(), f"differs by {np.max(np.abs(a - b))}"


def agree(a: Any, b: Any, compare: Callable[[Any, Any], None] = same_bits) -> None:
    """Two trees of arrays agree, leaf by leaf."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        compare(x, y)


class StepProblem:
    """A training step with its state on a backend, and batches to run it on."""

    def __init__(
        self,
        backend: Backend,
        sizes: tuple[int, ...],
        batch: int,
        optimizer: str = "adam",
        dtype: str = "float32",
        *,
        hidden: str = "relu",
        loss: str = "softmax_cross_entropy",
        labels: bool = False,
        weighted: bool = False,
        **options: Any,
    ) -> None:
        of_net = {k: options.pop(k) for k in ("dropout", "l1", "l2") if k in options}
        net = MLP(sizes, hidden=hidden, loss=loss, **of_net)
        self.rng = rng = np.random.default_rng(0)
        self.backend, self.batch, self.n, self.done = backend, batch, 3 * batch + 1, 0
        y = rng.random((self.n, sizes[-1])).astype(dtype)
        if net.loss.target == "class":
            classes = max(2, sizes[-1])
            y = np.eye(classes, dtype=dtype)[rng.integers(0, classes, self.n), -sizes[-1] :]
        data = [rng.standard_normal((self.n, sizes[0])).astype(dtype), y]
        if labels:
            data[1] = y.argmax(1)
        if weighted:
            data.append(rng.random(self.n).astype(dtype))
        self.data: Any = tuple(backend.asarray(d) for d in data)
        self.optimizer, self.dtype = optimizers.get(optimizer), dtype
        params = net.init(0, backend, dtype)
        self.state = (params, optimizers.init(self.optimizer, params, xp=backend.xp))
        self.step = make_step(
            StepPlan(
                net.equations, self.optimizer, net.dropout, seed=3,
                counters=backend.asarray(np.arange(batch * max(sizes)), backend.word_dtype),
                classes=backend.asarray(np.arange(sizes[-1])), weighted=weighted, **options,
            )
        )  # fmt: skip

    def order(self, steps: int, size: int) -> Any:
        """Rows of some steps."""
        return np.stack([self.rng.permutation(self.n)[:size] for _ in range(steps)])

    def table(self, steps: int) -> Any:
        """The numbers of the next steps: counter, and the optimiser's coefficients."""
        t = np.arange(self.done, self.done + steps)
        self.done += steps
        found = self.optimizer.coefficients(t + 1.0, np.linspace(0.01, 0.02, steps))
        word = self.backend.word_dtype
        return t.astype(word), *(np.asarray(c).astype(self.dtype) for c in found)

    def eager(self) -> EagerRunner:
        """The step, run eagerly."""
        return EagerRunner(self.backend, self.step, self.state)
