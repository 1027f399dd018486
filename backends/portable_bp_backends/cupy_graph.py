"""CuPy: what CUDA graphs of training steps are recorded with, see ``_graph.py``."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from portable_bp._typing import Array, HostArray
from portable_bp_backends._runs import CannotReplayError


class CupyRecorder:
    """A stream and a memory pool of our own on the current device.

    The pool holds what a step needs between its kernels. CuPy knows nothing of graphs: memory that
    was free when the recording ended would be handed to somebody else, and overwritten by the next
    launch. So nothing but recording draws from the pool, and it lives as long as the graphs.
    """

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self._pool = cupy.cuda.MemoryPool()
        self.allocate: Callable[[int], Any] = self._pool.malloc
        # What is still under way when the last reference goes must not lose its memory.
        weakref.finalize(self, self.stream.synchronize).atexit = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        caller = self._cupy.cuda.get_current_stream()
        self.stream.wait_event(caller.record())
        try:
            with self.stream:
                yield
        finally:
            caller.wait_event(self.stream.record())

    @contextmanager
    def outside(self) -> Iterator[None]:
        caller = self._cupy.cuda.get_current_stream()
        caller.wait_event(self.stream.record())
        try:
            yield
        finally:
            self.stream.wait_event(caller.record())

    def synchronize(self) -> None:
        self.stream.synchronize()

    def send(self, values: HostArray) -> Array:
        # CuPy copies through pinned memory of its own, and keeps that until the copy is done.
        sent: Array = self._cupy.asarray(values)
        return sent

    def empty(self, shape: tuple[int, ...], like: Any) -> Array:
        memory: Array = self._cupy.empty(shape, like.dtype)
        return memory

    def assign(self, target: Any, source: Any) -> None:
        self._cupy.copyto(target, source)

    def gather(self, source: Any, rows: Any) -> Array:
        gathered: Array = source.take(rows, axis=0)
        return gathered

    def scatter(self, target: Any, rows: Any, source: Any) -> None:
        target[rows] = source

    def overlap(self, a: Any, b: Any) -> bool:
        return bool(self._cupy.may_share_memory(a, b))

    def same_bits(self, pairs: list[tuple[Any, Any]]) -> bool:
        return all(
            a.dtype == b.dtype and a.shape == b.shape and bool((_bits(a) == _bits(b)).all())
            for a, b in pairs
        )

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        with self._cupy.cuda.using_allocator(self.allocate):
            # Kernels are compiled, and the pool grows, while that is still allowed.
            body()
            self.stream.synchronize()
            graph = self._captured(body)
        return partial(graph.launch, self.stream)

    def _captured(self, body: Callable[[], None]) -> Any:
        collects = gc.isenabled()
        gc.disable()  # a collection may free device memory or destroy an event: not while capturing
        try:
            self.stream.begin_capture()
            try:
                body()
            except BaseException:
                with suppress(self._cupy.cuda.runtime.CUDARuntimeError):
                    self.stream.end_capture()
                raise
            return self.stream.end_capture()
        except MemoryError:
            raise
        except Exception as error:  # the same kernels have just run, so it is the capture's doing
            raise CannotReplayError(f"{type(error).__name__}: {error}") from error
        finally:
            if collects:
                gc.enable()


def _bits(array: Any) -> Any:
    return array.view(f"u{array.dtype.itemsize}")
