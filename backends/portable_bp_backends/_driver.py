"""Whether this machine can have a GPU at all: asked before a library of seconds is imported."""

from __future__ import annotations

import ctypes
import os
from functools import cache


@cache
def is_there() -> bool:
    """Whether a driver of NVIDIA's or AMD's is installed; no device is touched."""
    if os.path.exists("/dev/kfd"):  # AMD's
        return True
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
