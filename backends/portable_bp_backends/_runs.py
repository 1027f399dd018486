"""What the compiled runners share: the checks of a run."""

from __future__ import annotations

from portable_bp._typing import Array, HostArray


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
