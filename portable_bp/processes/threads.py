"""The processes of one machine share its cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from portable_bp.processes.group import Processes

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""What a user sets who wants a number of threads of their own."""


@contextmanager
def shared(processes: Processes) -> Iterator[None]:
    """Within the block BLAS has cores / local processes threads, unless a variable says otherwise.

    It needs the library threadpoolctl, which scikit-learn brings.
    """
    if processes.size == 1 or any(os.environ.get(name) for name in VARIABLES):
        yield
        return
    limit = max(1, len(_cores(processes)) // processes.local_size)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(limit):
        yield


def _cores(processes: Processes) -> set[int]:
    """Those that the processes of this machine may run on: a launcher may have dealt them out."""
    affinity = getattr(os, "sched_getaffinity", None)
    mine = set(range(os.cpu_count() or 1)) if affinity is None else affinity(0)
    everywhere = processes.gather((os.uname().nodename if hasattr(os, "uname") else "", mine))
    here = everywhere[processes.rank][0]
    return set().union(*(cores for name, cores in everywhere if name == here))
