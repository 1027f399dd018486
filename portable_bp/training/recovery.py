"""What a run needs to go on where it stopped: its state as a file holds it, and signals."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np

from portable_bp._scalars import shown
from portable_bp._tree import leaves, map_leaves, paths
from portable_bp._typing import HostArray, Tree
from portable_bp.backend import Backend
from portable_bp.backend.registry import owner
from portable_bp.equations import optimizers, schedules
from portable_bp.errors import CheckpointError
from portable_bp.inputs.transfer import dtype_name


def flatten(backend: Backend, name: str, tree: Tree) -> dict[str, HostArray]:
    """A nested tuple as named host arrays: ``name/0/1/...``.

    >>> import numpy as np
    >>> from portable_bp import get_backend
    >>> sorted(flatten(get_backend("numpy"), "p", ((np.zeros(1), np.ones(1)),)))
    ['p/0/0', 'p/0/1']
    """
    return dict(zip(leaves(paths(tree, name)), map(backend.to_numpy, leaves(tree)), strict=True))  # type: ignore[arg-type]


def unflatten(backend: Backend, name: str, form: Tree, arrays: Mapping[str, HostArray]) -> Tree:
    """The inverse of :func:`flatten`, onto ``backend``, for a tree of the form of ``form``."""

    def placed(path: str, leaf: Any) -> Any:
        if path not in arrays:
            raise CheckpointError(f"the checkpoint has no array {path!r}: it is of another network")
        array, shape, dtype = arrays[path], tuple(leaf.shape), dtype_name(leaf)
        if array.shape != shape or array.dtype.name != dtype:
            raise CheckpointError(
                f"the checkpoint's {path!r} is {array.dtype} of shape {array.shape}, this run needs "
                f"{dtype} of shape {shape}"
            )
        return backend.asarray(array)

    return map_leaves(placed, paths(form, name), form)


def number(value: float) -> float | None:
    """A float as JSON holds it: infinity as null."""
    return value if math.isfinite(value) else None


def from_number(value: float | None) -> float:
    """The inverse of :func:`number`."""
    return math.inf if value is None else float(value)


def fingerprint(backend: Backend, dtype: str, *sets: Sequence[Any]) -> str:
    """A digest of some rows spread over the data: tells another data set, not every other one.

    Parameters
    ----------
    sets : ``(X, y, weights)`` of the rows to learn from, and of the held-out ones; X may live on
        ``backend`` in ``dtype`` or on the host in any other, the rest on the host
    """
    digest = hashlib.sha256()
    for X, *others in (s for s in sets if s):
        for array in (X, *(a for a in others if a is not None)):
            n = array.shape[0]
            rows = np.unique(np.linspace(0, n - 1, 64).astype(np.int64))
            if hasattr(array, "tocsr"):
                some = array[rows].toarray()
            elif owner(array) is None:
                some = array[rows]
            else:
                index = backend.asarray(rows, backend.index_dtype)
                some = backend.to_numpy(backend.xp.take(array, index, axis=0))
            digest.update(repr((n, some.shape)).encode())
            digest.update(some.astype(dtype if array is X else np.float64).tobytes())
    return digest.hexdigest()


def agree(saved: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Raise unless a checkpoint is of the same run: network, data, optimiser, seed, ..."""
    modern = {"optimizer": optimizers.modern, "learning_rate": schedules.modern}
    saved = {
        k: modern[k](v) if k in modern and isinstance(v, dict) else v for k, v in saved.items()
    }
    for name, value in run.items():
        if saved.get(name) != value:
            raise CheckpointError(
                f"the checkpoint is of another run: its {name} is {shown(saved.get(name))}, here "
                f"it is {shown(value)}. Pass the arguments of that run, or another directory"
            )


class Signals:
    """Within the block, SIGINT, SIGTERM and SIGUSR1 ask for a stop instead of forcing one.

    ``received`` is the name of the first one. A second SIGINT interrupts at once. A signal that the
    process ignores (a shell sets SIGINT so for what runs in its background) stays ignored. In a
    thread that is not the main one Python lets nobody listen, and nothing is changed.
    """

    NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in self.NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is None:
                    continue
                handler = signal.getsignal(number)
                # None: a handler that is not Python's, which nobody could put back.
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = handler  # first: from the next line on a signal may come
                    signal.signal(number, self._listen)
        return self

    def _listen(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            # Here, as what we raise may end __enter__ or __exit__ themselves.
            self._put_back()
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def __exit__(self, *exception: object) -> None:
        self._put_back()

    def _put_back(self) -> None:
        """The handlers of before; that of SIGINT, which may raise at once, comes last."""
        for number, handler in reversed(self._before.items()):
            signal.signal(number, handler)
