"""``xp.sum_over_processes``: the one new name of the adapters, and how a compiler tries it out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from portable_bp._typing import HostArray
from portable_bp.processes.launch import current

_this_thread = threading.local()


@contextmanager
def muted() -> Iterator[None]:
    """Within the block, on this thread, the sum over processes is that of this process alone.

    A step that is traced, or run to be compared with its recording, must send nothing: how often
    that happens differs from process to process.
    """
    before = is_muted()
    _this_thread.muted = True
    try:
        yield
    finally:
        _this_thread.muted = before


def is_muted() -> bool:
    """Whether this thread sends nothing."""
    return getattr(_this_thread, "muted", False)


def sum_over_processes(flat: HostArray, *, ordered: bool = False) -> HostArray:
    """The sum over the processes of :func:`portable_bp.distributed`, for NumPy arrays.

    Parameters
    ----------
    flat : array of shape (n,)
        The last entry is written over: it carries wishes to stop.
    ordered : bool
        Add along a binary tree.

    Returns
    -------
    array of shape (n,)
        A new one.
    """
    return flat.copy() if is_muted() else current().sum(flat, ordered=ordered)
