"""What all processes of a run have to agree on before its first step."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from portable_bp._tree import leaves
from portable_bp._typing import Params
from portable_bp._version import __version__
from portable_bp.backend import Backend
from portable_bp.inputs.containers import is_sparse
from portable_bp.training.judging import ValidationSet
from portable_bp.training.options import FitOptions
from portable_bp.training.prepare import PreparedRows

WHOLE = 2**28
"""Arrays of at most so many bytes are compared as a whole, larger ones by some of their rows."""


def follows_host(backend: Backend) -> bool:
    """Whether a compiled step of the backend can wait for a sum that the host computes."""
    return ":" not in backend.spec


def versions() -> dict[str, str]:
    """Those of what decides on the numbers."""
    return {
        "version of portable_bp": __version__,
        "version of Python": platform.python_version(),
        "version of NumPy": np.__version__,
    }


def all_settings(
    backend: Backend, options: FitOptions, rows: PreparedRows, begin: Params
) -> dict[str, Any]:
    """What is nothing to a checkpoint, but has to be the same on all processes.

    Parameters
    ----------
    backend : Backend
    options : FitOptions
    rows : PreparedRows
    begin : pairs (W, b)
        The parameters before the first step.
    """
    held = rows.held if isinstance(rows.held, ValidationSet) else ()
    sets = [*getattr(rows.data, "arrays", ()), *held[:2]]
    library = backend.modules[0].replace("_", "-")
    return versions() | {
        "backend": f"{backend.name} {version(library)}" if backend.name != "cupy" else "cupy",
        "epochs": options.epochs,
        "early_stopping": options.early and type(options.early).__name__,
        "number of callbacks": len(options.callbacks),
        "max_time": options.max_time is not None,
        "compile": options.compile,
        "report_loss": options.report_loss,
        "checkpoint": options.checkpoint is not None,
        "checkpoint_every": options.checkpoint_every,
        "resume": options.resume,
        "start parameters": digest(backend, *leaves(begin)),
        "data": rows.digest() + digest(backend, *sets),
    }


def digest(backend: Backend | None, *arrays: Any) -> str:
    """A digest of all numbers of some arrays; of large ones the form only.

    Parameters
    ----------
    backend : Backend or None
        Where they live; None for the host.
    *arrays : array or None
    """
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        if array is None:
            continue
        found.update(repr((array.shape, str(array.dtype))).encode())
        small = np.prod(array.shape) * 8 <= WHOLE
        if is_sparse(array):
            array = array.data
        if small and hasattr(array, "nbytes"):
            host = array if backend is None or _on_host(array) else backend.to_numpy(array)
            found.update(np.ascontiguousarray(host).tobytes())
    return found.hexdigest()


def _on_host(array: Any) -> bool:
    return isinstance(array, np.ndarray)
