"""Runners: a training step bound to its state, and how it runs when nothing compiles it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from portable_bp._tree import map_leaves
from portable_bp._typing import Array, HostArray, Namespace, Step, Tree


def check_run(
    data: tuple[Array, ...],
    order: HostArray | None,
    table: tuple[HostArray, ...],
    *,
    ragged: bool = False,
) -> int:
    """The number of steps of a run; refuses one that would read past the rows.

    Libraries differ in what they do with an index that lies outside: NumPy and PyTorch count a
    negative one from the end, CuPy wraps, JAX gives NaN or clips.

    Parameters
    ----------
    data : tuple of arrays of n rows
        As :meth:`Runner.run` takes it.
    order : array of shape (steps, ..., batch), or None
        As :meth:`Runner.run` takes it.
    table : tuple of arrays of shape (steps, ...)
        As :meth:`Runner.run` takes it.
    ragged : bool
        Whether -1 may stand where a smaller mini-batch has no row.

    Returns
    -------
    int
        The length of the table.

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
    steps = {tuple(t.shape[:1]) for t in table} | (set() if order is None else {order.shape[:1]})
    if len(steps) != 1 or len(shape := steps.pop()) != 1 or shape[0] == 0:
        shapes = [tuple(t.shape) for t in table]
        raise ValueError(
            "every array of table needs the shape (steps, ...), with at least one step and one row of "
            f"order for each; got {shapes or 'none'}"
            + ("" if order is None else f" and {order.shape[0]} row(s) of order")
        )
    rows = {int(d.shape[0]) for d in data}
    if len(rows) != 1:
        raise ValueError(f"the arrays of data must have equally many rows; got {sorted(rows)}")
    if order is not None:
        if order.dtype.kind not in "iu":
            raise TypeError(f"order must hold integers, the rows of each step; got {order.dtype}")
        if order.ndim < 2 or not order.size:
            raise ValueError(f"order must have the shape (steps, batch); got {order.shape}")
        first, last = int(order.min()), int(order.max())
        n = rows.pop()
        if first < -ragged or last >= n:
            raise IndexError(f"order reads rows {first} to {last}, but the data have {n} rows")
    return int(shape[0])


class Runner(Protocol):
    """A training step bound to its state on one device.

    Attributes
    ----------
    ragged : bool
        Whether a row of ``order`` may end with -1: it lists a smaller mini-batch.
    """

    ragged: ClassVar[bool] = False

    @property
    def state(self) -> Tree:
        """A private copy of the present state: later steps do not change it."""

    def run(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> Tree:
        """Advance the state by one step for each row of the table's arrays.

        Parameters
        ----------
        data : tuple of arrays of n rows
            On the device.
        order : array of shape (steps, batch) or (steps, ..., batch), or None
            Integers on the host, each in [0, n). Step ``i`` sees the rows ``order[i]`` of every array
            in ``data``, of shape (..., batch, ...); with None, all rows.
        table : tuple of host arrays, each of shape (steps,) or (steps, ...)
            Step ``i`` gets their ``i``-th entries as arrays, 0-d where there is one number for all:
            what changes between steps (rate, bias corrections, the counter that keys random bits).

        Returns
        -------
        array of shape (steps, ...), or ()
            The losses of the steps, on the device; ``()`` from a step that does not report its loss.
        """


def gathered(xp: Namespace, source: Array, rows: Array) -> Array:
    """``source[rows]`` for integers of any shape; the standard's ``take`` is for one axis of them.

    Parameters
    ----------
    xp : namespace
        Of the arrays.
    source : array of shape (n, ...)
        What to take rows of.
    rows : array of shape (batch,) or (..., batch)
        Integers in [0, n).

    Returns
    -------
    array of shape (..., batch, ...)
        The rows.
    """
    if rows.ndim == 1:
        taken: Array = xp.take(source, rows, axis=0)
        return taken
    flat = xp.take(source, xp.reshape(rows, (-1,)), axis=0)
    stacked: Array = xp.reshape(flat, (*rows.shape, *source.shape[1:]))
    return stacked


class Device(Protocol):
    """What running a step asks of a :class:`portable_bp.backend.Backend`."""

    xp: Namespace
    index_dtype: str

    def asarray(self, values: Any, dtype: Any = None) -> Array: ...
    def copy(self, array: Array) -> Array: ...
    def scope(self) -> AbstractContextManager[Any]: ...


class EagerRunner(Runner):
    """Runs the step eagerly: one gather and one call per step.

    Parameters
    ----------
    backend : Backend
        Where it runs.
    step : function
        ``step(xp, state, batch) -> (state, loss)``, pure.
    state : tree of arrays
        Where it starts.
    """

    def __init__(self, backend: Device, step: Step, state: Tree) -> None:
        self._backend, self._step, self._state = backend, step, state

    @property
    def state(self) -> Tree:
        return map_leaves(self._backend.copy, self._state)

    def run(
        self, data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
    ) -> Tree:
        steps = check_run(data, order, table)
        backend, xp = self._backend, self._backend.xp
        losses = []
        with backend.scope():
            rows = None if order is None else backend.asarray(order, dtype=backend.index_dtype)
            numbers = tuple(backend.asarray(t, dtype=t.dtype) for t in table)
            for i in range(steps):
                batch = data
                if rows is not None:
                    index = rows[i, ...]
                    batch = tuple(gathered(xp, d, index) for d in data)
                step_inputs = tuple(t[i, ...] for t in numbers)
                self._state, loss = self._step(xp, self._state, (*batch, step_inputs))
                losses.append(loss)
            return () if isinstance(losses[0], tuple) else xp.stack(losses)
