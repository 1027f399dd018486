"""What the compiled runners share: the checks of a run."""

from __future__ import annotations

from portable_bp._typing import Array, HostArray


def check_run(
    data: tuple[Array, ...], order: HostArray | None, table: tuple[HostArray, ...]
) -> int:
    """The number of steps of a run; refuses one that a compiled step would read past the end for.

    A device does not say when an index lies outside: CuPy wraps it, JAX gives NaN or clips.

    >>> import numpy as np
    >>> x = np.zeros((4, 2), dtype=np.float32)
    >>> check_run((x,), np.array([[0, 1], [2, 3], [1, 1]]), (np.ones(3, dtype=np.float32),))
    3
    >>> check_run((x,), np.array([[0, 4]]), (np.ones(1, dtype=np.float32),))
    Traceback (most recent call last):
        ...
    IndexError: order reads rows 0 to 4, but the data have 4 rows
    """
    steps = {int(t.shape[0]) for t in table} | (set() if order is None else {order.shape[0]})
    if len(steps) != 1 or 0 in steps:
        raise ValueError(
            "every array of table, and order, needs the same number of rows, one for each step and "
            f"at least one; got {sorted(steps) or 'none'}"
        )
    rows = {int(d.shape[0]) for d in data}
    if len(rows) > 1:
        raise ValueError(f"the arrays of data must have equally many rows; got {sorted(rows)}")
    if order is not None and order.size:
        first, last = int(order.min()), int(order.max())
        n = min(rows, default=0)
        if first < 0 or last >= n:
            raise IndexError(f"order reads rows {first} to {last}, but the data have {n} rows")
    return steps.pop()
