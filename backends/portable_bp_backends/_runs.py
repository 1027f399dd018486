"""What the compiled runners share: the checks of a run, and the way back to the step as written."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, EagerRunner


def check_run(
    data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
) -> int:
    """The number of steps of a run; refuses one that a compiled step would read past the end for.

    A device does not say when an index lies outside: CuPy wraps it, JAX gives NaN or clips.

    Raises
    ------
    IndexError
        When ``order`` names a row that ``data`` has not.
    TypeError, ValueError
        When the shapes do not fit together, or ``order`` holds no integers.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2), dtype=np.float32)
    >>> check_run((x,), np.array([[0, 1], [2, 3], [1, 1]]), (np.ones(3, dtype=np.float32),))
    3
    >>> check_run((x,), np.array([[0, 4]]), (np.ones(1, dtype=np.float32),))
    Traceback (most recent call last):
        ...
    IndexError: order reads rows 0 to 4, but the data have 4 rows
    """
    steps = {tuple(t.shape) for t in table} | (set() if order is None else {(order.shape[0],)})
    if len(steps) != 1 or len(shape := steps.pop()) != 1 or shape[0] == 0:
        found = [tuple(t.shape) for t in table]
        raise ValueError(
            "every array of table needs the shape (steps,), with at least one step and one row of "
            f"order for each; got {found or 'none'}"
            + ("" if order is None else f" and {order.shape[0]} row(s) of order")
        )
    rows = {int(d.shape[0]) for d in data}
    if len(rows) != 1:
        raise ValueError(f"the arrays of data must have equally many rows; got {sorted(rows)}")
    if order is not None:
        if order.dtype.kind not in "iu":
            raise TypeError(f"order must hold integers, the rows of each step; got {order.dtype}")
        if order.ndim != 2 or not order.size:
            raise ValueError(f"order must have the shape (steps, batch); got {order.shape}")
        first, last = int(order.min()), int(order.max())
        n = rows.pop()
        if first < 0 or last >= n:
            raise IndexError(f"order reads rows {first} to {last}, but the data have {n} rows")
    return int(shape[0])


class CannotReplayError(Exception):
    """The step must run as it is written; the message says why."""


class ReplayRunner(ABC):
    """Runs a step from a recording of it; one that has none as it is written, after a warning.

    See :class:`portable_bp.backend.Runner`.
    """

    recording: ClassVar[str]
    """What the step is replayed from, in a word."""

    def __init__(self, backend: Backend, step: Step) -> None:
        self._backend, self._step = backend, step
        self._eager: EagerRunner | None = None

    @property
    def state(self) -> Tree:
        return self._copied() if self._eager is None else self._eager.state

    @abstractmethod
    def _copied(self) -> Tree:
        """A private copy of the state that the recordings work on."""

    @abstractmethod
    def _replay(
        self,
        steps: int,
        data: tuple[Array, ...],
        order: HostArray | None,
        table: tuple[HostArray, ...],
    ) -> Tree:
        """A run, or a :class:`CannotReplayError` before its first step."""

    @abstractmethod
    def _forget(self) -> None:
        """Let all recordings go."""

    def run(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> Tree:
        steps = check_run(data, order, table)
        if self._eager is None:
            try:
                with self._backend.scope():
                    return self._replay(steps, data, order, table)
            except CannotReplayError as reason:
                warnings.warn(
                    f"{self._backend.spec} runs this step as it is written, not from a "
                    f"{self.recording}: {reason}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self._eager = EagerRunner(self._backend, self._step, self._copied())
                self._forget()
        return self._eager.run(data, order, table)
