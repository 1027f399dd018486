"""How much memory there is, and what is said when it runs out, whichever library ran out."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from portable_bp.backend import Backend
from portable_bp.errors import OutOfMemoryError

Result = TypeVar("Result")


def physical_memory() -> int | None:
    """Bytes that this process may use: the machine's memory, or its container's where that is less.

    Returns
    -------
    int or None
        None where the system does not say (Windows).
    """
    return _least(_system("SC_PHYS_PAGES"), *(limit for limit, _, _ in control_groups()))


def available_memory() -> int | None:
    """Bytes that are free now, on the machine and in this process's container.

    Returns
    -------
    int or None
        None where the system does not say (Windows).
    """
    room = []
    for limit, usage, statistics in control_groups():
        used = _number(usage)
        if used is not None:
            room.append(max(0, limit - used + _cached_files(statistics)))
    return _least(_system("SC_AVPHYS_PAGES"), *room)


def _least(*values: int | None) -> int | None:
    return min((v for v in values if v is not None), default=None)


def _system(pages: str) -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)
    except (AttributeError, ValueError, OSError):
        return None


@cache
def control_groups(root: Path = Path("/")) -> tuple[tuple[int, Path, Path], ...]:
    """The limits on this process's memory set by Linux control groups, as containers set them.

    A limit holds for a group and all groups within it, so those around the process count too.
    They are looked up once: a running process is hardly ever moved.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    tuple of (limit, usage, statistics)
        Bytes, and the files that hold the usage and its parts.
    """
    groups = []
    for folder, names in _group_folders(root):
        limit = _number(folder / names[0])
        if limit is not None:
            groups.append((limit, folder / names[1], folder / "memory.stat"))
    return tuple(groups)


def _group_folders(root: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The folders of the process's group and of those around it, with the names of their files."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2: one tree
            tree, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):  # version 1: one tree for each controller
            tree = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = PurePosixPath(path).relative_to("/")
        if ".." in group.parts:  # outside of what this container sees
            group = PurePosixPath()
        for part in (group, *group.parents):
            yield tree / part, names


def _number(path: Path) -> int | None:
    """The number in a file; None where it is missing or says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached_files(statistics: Path) -> int:
    """Bytes of cached files that the system would give up: they count as usage, but are free."""
    try:
        entries = dict(line.split() for line in statistics.read_text().splitlines())
        return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def translate_oom(
    backend: Backend, work: Callable[[], Result], task: Callable[[], str], lower: str
) -> Result:
    """``work()``; an :class:`~portable_bp.errors.OutOfMemoryError` where the memory does not suffice.

    Parameters
    ----------
    backend : Backend
        Where the work is done.
    work : callable
        A function without arguments.
    task : callable
        Says what was asked for, in words with numbers.
    lower : str
        What to ask less of.

    Returns
    -------
    object
        The result of ``work``.

    Raises
    ------
    OutOfMemoryError
        The device or the host ran out of memory.

    Notes
    -----
    An error holds, through its traceback, every array of the functions it passed. So the library's
    own error is let go before ours is raised: whoever catches that has the memory back.
    """
    try:
        return work()
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not backend.out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .")
    gc.collect()
    free = backend.free_memory()
    if free is None:
        free = available_memory()
    room = "" if free is None else f" {free:,} bytes are free now."
    raise OutOfMemoryError(
        f"{backend.spec} ran out of memory {task()}: {reason}.{room} Lower {lower}"
    )
