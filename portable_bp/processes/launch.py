"""``distributed``: the block in which several processes train together, and who started them."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points

from portable_bp._scalars import shown
from portable_bp._warnings import warn
from portable_bp.processes import threads
from portable_bp.processes.engine import Engine
from portable_bp.processes.group import ALONE, Processes

GROUP = "portable_bp.processes"

MARK = "PORTABLE_BP_DISTRIBUTED"
"""The environment variable that names the process which is in the block, for its children."""

LAUNCHERS = {
    "OMPI_COMM_WORLD_SIZE": ("mpiexec", "mpi"),
    "PMI_SIZE": ("mpiexec", "mpi"),
    "SLURM_STEP_NUM_TASKS": ("srun", "mpi"),
    "WORLD_SIZE": ("torchrun", "torch"),
}
"""What launchers leave in the environment: the number of processes."""

_current = ALONE
_thread: int | None = None
_warned = False


@contextmanager
def distributed(engine: str, *, timeout: float = 600.0) -> Iterator[Processes]:
    """Within the block, ``fit`` and the estimators train together on all processes of a launcher.

    Every process runs the same program with the same arguments and data; each computes its share of
    every batch, and all end with the same bits. To rounding the numbers are those of one process.

    Parameters
    ----------
    engine : {"mpi", "torch"}
        ``"mpi"`` for what ``mpiexec`` and ``srun`` start (needs mpi4py), ``"torch"`` for ``torchrun``
        and what sets its environment (the process group of torch.distributed). Others register the
        entry-point group ``portable_bp.processes``.
    timeout : float, default 600
        Seconds to wait for another process; after that all end, with exit code 75.

    Yields
    ------
    Processes
        ``processes.rank`` is the number of this process, ``processes.size`` how many there are.

    Raises
    ------
    ValueError, TypeError
        For an unknown engine or a bad timeout.
    ImportError
        When the library of the engine is missing; the message says what to install.
    RuntimeError
        Within another such block, or in a thread or child process of one.

    Notes
    -----
    An exception that only one process has is printed, and ends all of them with exit code 1. An
    error that they agreed on (bad data, a full disk at process 0) is raised on all: its own where it
    happened, a :class:`~portable_bp.RemoteError` elsewhere.

    Examples
    --------
    >>> import portable_bp
    >>> with portable_bp.distributed("torch") as processes:  # started by torchrun: one of several
    ...     processes.rank, processes.size
    (0, 1)
    """
    global _current, _thread
    _check(engine, timeout)
    processes = Processes(_engine(engine)(timeout), float(timeout))
    _current, _thread = processes, threading.get_ident()
    os.environ[MARK] = str(os.getpid())
    error: BaseException | None = None
    try:
        with threads.shared(processes):
            yield processes
    except BaseException as e:
        error = e
        if processes.size > 1 and isinstance(e, Exception) and not processes.agreed_on(e):
            traceback.print_exc()
        raise
    finally:
        processes.end(error)
        _current, _thread = ALONE, None
        os.environ.pop(MARK, None)
        processes.close()


def current() -> Processes:
    """The processes of the block that this program is in; one, alone, outside of any."""
    return _current


def joined() -> Processes:
    """:func:`current`, for a training that begins: refuses a place from which none can take part."""
    global _warned
    if _current.size > 1 and threading.get_ident() != _thread:
        raise RuntimeError(
            "this thread is not the one that entered portable_bp.distributed: the processes train "
            "one network at a time. Inside it use n_jobs=1"
        )
    _refuse_children(
        "n_jobs > 1 inside it would start a training beside the one that its processes share. Use "
        "n_jobs=1 inside, or n_jobs outside without portable_bp.distributed"
    )
    launcher = launched()
    if _current is ALONE and launcher is not None and not _warned:
        _warned = True
        name, n, engine = launcher
        warn(
            f"{name} started {n} processes, and each of them trains alone: to train one network "
            f"together, use portable_bp.distributed({engine!r}), or --distributed {engine}"
        )
    return _current


def launched() -> tuple[str, int, str] | None:
    """Launcher, number of processes and engine, when a launcher started several; else None."""
    for variable, (name, engine) in LAUNCHERS.items():
        n = os.environ.get(variable, "")
        if n.isdigit() and int(n) > 1:
            return name, int(n), engine
    return None


def engines() -> dict[str, str]:
    """The names of the engines, and where each lives."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def _check(engine: str, timeout: float) -> None:
    if not isinstance(engine, str):
        raise TypeError(f"engine must be a name such as 'mpi' or 'torch', got {shown(engine)}")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, got {shown(timeout)}")
    if not timeout > 0:
        raise ValueError(f"timeout must be positive, got {timeout}")
    if engine not in engines():
        raise ValueError(
            f"unknown engine {engine!r}: choose one of {', '.join(map(repr, sorted(engines())))}"
        )
    if _current is not ALONE:
        raise RuntimeError(
            "this program is in portable_bp.distributed already: one block is enough"
        )
    _refuse_children("it has no part in its messages")


def _refuse_children(why: str) -> None:
    """Raise in a process that one within the block has started."""
    owner = os.environ.get(MARK)
    if owner is not None and owner != str(os.getpid()):
        raise RuntimeError(
            f"this process is a child of process {owner}, which is in portable_bp.distributed: {why}"
        )


def _engine(name: str) -> Callable[[float], Engine]:
    (entry,) = entry_points(group=GROUP, name=name)
    loaded: Callable[[float], Engine] = entry.load()
    return loaded
