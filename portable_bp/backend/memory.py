"""Running out of memory: told in one way, whichever library runs out, and nothing is left behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TypeVar

from portable_bp.backend import Backend
from portable_bp.errors import OutOfMemoryError

Result = TypeVar("Result")


def on_host(pages: str = "SC_PHYS_PAGES") -> int | None:
    """Bytes of this machine's memory (``SC_AVPHYS_PAGES``: of what is free); None if it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)
    except (AttributeError, ValueError, OSError):
        return None


def guarded(
    backend: Backend, work: Callable[[], Result], task: Callable[[], str], lower: str
) -> Result:
    """``work()``; an :class:`~portable_bp.errors.OutOfMemoryError` where the memory does not suffice.

    Parameters
    ----------
    backend : where the work is done
    work : a function without arguments
    task : what was asked for, in words with numbers
    lower : what to ask less of

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
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .")
    gc.collect()
    free = backend.free_memory()
    if free is None:
        free = on_host("SC_AVPHYS_PAGES")
    room = "" if free is None else f" {free:,} bytes are free now."
    raise OutOfMemoryError(
        f"{backend.spec} ran out of memory {task()}: {said}.{room} Lower {lower}"
    )
