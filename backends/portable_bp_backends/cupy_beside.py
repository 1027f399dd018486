"""A second stream in a recording: gradients beside the chain of deltas that they do not hold up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Beside:
    """What may run beside the chain while a thread records a graph; elsewhere it does nothing.

    In a graph each piece of work waits for what it needs, wherever it was written down. So that a
    gradient waits for its own delta and not for all of them, an event is recorded when an array is
    :meth:`ready`, and the second stream waits for that one.

    What is allocated :meth:`after` an array comes from the second stream's own part of the pool: the
    memory of another stream may be in use, by kernels that come before in the program and not in the
    graph.
    """

    def __init__(self) -> None:
        self._thread = threading.local()

    @contextmanager
    def recording(self, stream: Any, beside: Any) -> Iterator[None]:
        """While it lasts, work may go to the stream ``beside``; at the end it is joined."""
        self._thread.fork = fork = _Fork(stream, beside)
        try:
            yield
            fork.join()
        finally:
            self._thread.fork = None

    @property
    def _fork(self) -> _Fork | None:
        return getattr(self._thread, "fork", None)

    def ready(self, array: Any) -> None:
        """All work that ``array`` comes from has been handed over."""
        if self._fork is not None:
            self._fork.ready(array)

    @contextmanager
    def after(self, array: Any) -> Iterator[None]:
        """Work goes to the second stream, and waits for ``array`` alone."""
        if self._fork is None:
            yield
        else:
            with self._fork.after(array):
                yield

    def join(self) -> None:
        """What comes next waits for the second stream."""
        if self._fork is not None:
            self._fork.join()


class _Fork:
    def __init__(self, stream: Any, beside: Any) -> None:
        import cupy

        self._cupy, self._stream, self._beside = cupy, stream, beside
        self._ready: dict[int, tuple[Any, Any]] = {}
        self._events: list[Any] = []  # none is destroyed while the stream is captured
        self._open = False

    def _event(self, stream: Any) -> Any:
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        self._events.append(event)
        return event

    def ready(self, array: Any) -> None:
        self._ready[id(array)] = array, self._event(self._stream)

    @contextmanager
    def after(self, array: Any) -> Iterator[None]:
        _, event = self._ready.get(id(array)) or (array, self._event(self._stream))
        self._beside.wait_event(event)
        self._open = True
        with self._beside:
            yield

    def join(self) -> None:
        if self._open:
            self._stream.wait_event(self._event(self._beside))
        self._open = False
        self._ready.clear()
