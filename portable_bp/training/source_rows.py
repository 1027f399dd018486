"""A source as ``fit`` takes it: what it holds, the rows that are held out, and what judges them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from portable_bp._typing import HostArray, Params
from portable_bp.backend import Backend
from portable_bp.backend.memory import physical_memory
from portable_bp.backend.registry import get_backend
from portable_bp.equations.network import Equations
from portable_bp.errors import DataError
from portable_bp.inputs import checks, labels
from portable_bp.inputs.examples import Rows
from portable_bp.inputs.spec import NetSpec
from portable_bp.processes import ALONE, Processes
from portable_bp.sources.mapped import file_of, mapped
from portable_bp.sources.protocol import Described
from portable_bp.sources.views import View, split
from portable_bp.training import blocks, recovery
from portable_bp.training.data import FILL
from portable_bp.training.judging import Held, Judged, ValidationSet, validation_loss_message
from portable_bp.training.metrics import Score
from portable_bp.training.source_blocks import BlockReader
from portable_bp.training.windows import WINDOW_BYTES, Plan, WindowData, features_in_order

SAMPLED_BLOCKS = 4
"""So many blocks are looked at to tell one source from another."""


def learn(spec: NetSpec, source: Described) -> NetSpec:
    """``spec`` with the labels and the names of features of a source."""
    classes = source.classes
    if classes is not None:
        if not labels.takes_labels(spec):
            if classes.dtype.kind != "b":
                raise DataError(
                    f"the target holds text such as {str(classes[0])!r}; loss={spec.loss!r} learns "
                    "numbers"
                )
            classes = None
        elif len(classes) != max(2, spec.outputs) and classes.dtype.kind != "b":
            raise DataError(
                f"the target has {len(classes)} classes ({labels.some(classes)}), but a network with "
                f"{spec.outputs} output(s) and loss={spec.loss!r} learns {max(2, spec.outputs)}"
            )
    return replace(spec, classes=classes, features=source.feature_names)


def check(spec: NetSpec, source: Described, name: str = "source") -> None:
    """Compare the columns of a source with a network; nothing is read but the targets of a block."""
    checks.matrix(name, (source.n, source.width), spec.inputs)
    if source.target_shape == (0,):
        raise ValueError(
            f"{name} has no target to learn: pass target to portable_bp.sources.open, or give the "
            "source a target_shape"
        )
    shape = (source.n, *source.target_shape)
    checks.target_shape(f"y of {name}", shape, source.n, spec.outputs, spec.target == "class")


def too_large(X: Any) -> bool:
    """Whether X is a memory map that does not fit in memory: it is read in windows."""
    if file_of(X) is None:
        return False
    memory = physical_memory()
    return memory is not None and X.size * X.dtype.itemsize > FILL * memory


def of_map(X: Any, y: HostArray) -> Described:
    """A memory map and its checked targets as a source."""
    return Described.of(mapped(X, y), "X")


def window_rows(source: Described, spec: NetSpec, dtype: str) -> int:
    """How many rows are mixed with each other."""
    asked = getattr(source.source, "window_rows", None)
    if asked is not None:
        return checks.positive_int("window_rows", asked)
    columns = source.width + math.prod(source.target_shape)
    return max(1, WINDOW_BYTES // (np.dtype(dtype).itemsize * columns))


def whole(source: Described, spec: NetSpec, weights: Any) -> Rows:
    """All rows of a source that fits into one window, as arrays."""
    x, y = source.empty(source.n)
    reader = BlockReader(source, spec, source.dtype.name, "int64")
    for block, (start, stop) in enumerate(zip(source.starts, source.starts[1:], strict=False)):
        reader.check(block, x[start:stop], y[start:stop])
    if spec.classes is not None and source.classes is not None:
        y = spec.classes[y]
    return Rows(x, y, weights)


def held_out(
    source: Described, weights: HostArray | None, share: float, seed: int, name: str = "validation"
) -> tuple[tuple[Described, HostArray | None], tuple[Described, HostArray | None]]:
    """The rows to train on and those that are held out, each with its weights."""
    parts = []
    for view, which in zip(
        split(source, share, seed, name), ("rows that are left", "held-out rows"), strict=True
    ):
        part = None if weights is None else weights[_numbers(view)]
        checks.some_weight(part, which, f"{name}={share}")
        parts.append((Described.of(view), part))
    return parts[0], parts[1]


def _numbers(view: View) -> HostArray:
    return np.concatenate([view.numbers(block) for block in range(len(view.blocks))])


def windows(
    backend: Backend,
    spec: NetSpec,
    dtype: str,
    source: Described,
    weights: HostArray | None,
    *,
    batch_size: int | None,
    seed: int,
    shuffle: bool,
    watch: Callable[[int, int], None] | None = None,
) -> WindowData:
    """The rows of a source in windows.

    Parameters
    ----------
    backend : Backend
    spec : NetSpec
    dtype : str
        Of the equations.
    source : Described
    weights : array of shape (n,), optional
    batch_size : int or None
        None where no steps are made (L-BFGS).
    seed : int
    shuffle : bool
    watch : function of two ints, optional
        Told how many rows of the epoch have been handed out, and of how many.
    """
    batch = 1 if batch_size is None else min(batch_size, source.n)
    rows = max(window_rows(source, spec, dtype), batch)
    reader = BlockReader(source, spec, dtype, backend.index_dtype, weighted=weights is not None)
    plan = Plan(source.sizes, source.starts, rows, seed, shuffle)
    return WindowData(backend, reader, weights, plan, batch, watch)


def features(source: Described, spec: NetSpec, dtype: str) -> Iterator[HostArray]:
    """X alone, in the order of its rows, one window at a time."""
    reader = BlockReader(source, spec, dtype, "int64")
    rows = window_rows(source, spec, dtype)
    return features_in_order(reader, Plan(source.sizes, source.starts, rows, 0, False))


def refuse_whole_batch(source: Described, batch_size: int | None) -> None:
    """Refuse steps over all rows of what is not all in memory."""
    if batch_size is None:
        raise ValueError(
            f"batch_size=None takes all {source.n:,} rows in each step, but they are read in windows: "
            "pass a number of rows, or optimizer='lbfgs', which adds up over windows"
        )


def digest(source: Described, weights: HostArray | None) -> str:
    """Tells another source, or other weights; not every other one: some blocks are looked at."""
    found = hashlib.sha256(repr((source.n, source.width, source.target_shape)).encode())
    found.update(source.sizes.tobytes())
    last = len(source.sizes) - 1
    for block in np.unique(np.linspace(0, last, SAMPLED_BLOCKS).astype(np.int64)).tolist():
        for array in source.read(block):
            found.update(array[:: max(1, len(array) // 8)].astype(np.float64).tobytes())
    if weights is not None:
        found.update(weights.tobytes())
    return found.hexdigest()


def fingerprint(backend: Backend, dtype: str, rows: tuple[Any, ...], held: Held | None) -> str:
    """Tells another data set, not every other one.

    Parameters
    ----------
    backend : Backend
    dtype : str
    rows : (X, y, weights), or (source, weights)
        To learn from, as :func:`recovery.fingerprint` takes arrays.
    held : Held, optional
        Rows to judge by.
    """
    arrays = held if isinstance(held, ValidationSet) else ()
    if isinstance(rows[0], Described):
        found = digest(*rows) + recovery.fingerprint(backend, dtype, arrays)
    else:
        found = recovery.fingerprint(backend, dtype, rows, arrays)
    return found + held.digest() if isinstance(held, HeldSource) else found


def check_labels(spec: NetSpec, source: Described) -> None:
    """Refuse rows to judge by whose labels are not those that are learnt."""
    ours = [None if c is None else c.tolist() for c in (spec.classes, source.classes)]
    if ours[0] != ours[1]:
        raise DataError(
            f"validation has the labels {ours[1]}, the rows to learn from have {ours[0]}: both need "
            "the same ones"
        )


@dataclass(frozen=True)
class HeldSource:
    """Rows of a source to judge epochs by; they are read anew each time.

    Attributes
    ----------
    data : WindowData
        On the host.
    """

    data: WindowData
    source: Described
    weights: HostArray | None

    @classmethod
    def of(
        cls, spec: NetSpec, dtype: str, source: Described, weights: HostArray | None
    ) -> HeldSource:
        """All rows of a source."""
        host = get_backend("numpy")
        data = windows(host, spec, dtype, source, weights, batch_size=None, seed=0, shuffle=False)
        return cls(data, source, weights)

    def digest(self) -> str:
        """Tells other rows, not all other ones."""
        return digest(self.source, self.weights)

    def judged(
        self,
        backend: Backend,
        equations: Equations,
        params: Params,
        epoch: int,
        processes: Processes = ALONE,
    ) -> Judged:
        """The loss and the score on all rows, added up window by window."""
        loss = weight = 0.0
        score, doubt, first = Score(equations.loss), None, 0
        for x, y, *w in self.data.in_order():
            weights = w[0].astype(np.float64) if w else None
            by_row, outputs = blocks.losses_and_outputs(backend, equations, params, x, y)
            share = float(len(x) if weights is None else weights.sum())
            if share:
                part = blocks.mean_loss(by_row, weights)
                if doubt is None and not math.isfinite(part):
                    doubt = validation_loss_message(by_row, weights, epoch, first)
                loss += part * share
                weight += share
                t = y if y.ndim == 2 else y[:, None] == np.arange(outputs.shape[1])
                score.add(outputs, t, weights)
            first += len(x)
        return Judged(loss / weight, score.value(), doubt)
