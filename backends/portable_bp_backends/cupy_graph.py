"""CuPy: what CUDA graphs of training steps are recorded with, see ``_graph.py``."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any

from portable_bp._typing import Array, HostArray, Tree
from portable_bp_backends import cupy_flat
from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.cupy_beside import Beside


class CupyRecorder:
    """A memory pool of our own on the current device, and a stream that is not the caller's.

    The pool holds what a step needs between its kernels. CuPy knows nothing of graphs: memory that
    was free when the recording ended would be handed to somebody else, and overwritten by the next
    launch. So nothing but recording draws from the pool, and it lives as long as the graphs.
    """

    def __init__(self, stream: Any, second: Any, beside: Beside) -> None:
        import cupy

        self._cupy = cupy
        self.stream, self._second, self._beside = stream, second, beside
        self._pool = cupy.cuda.MemoryPool()
        self._event = cupy.cuda.Event(disable_timing=True)  # may be recorded again once waited for
        self.allocate: Callable[[int], Any] = self._malloc
        # What is still under way when the last reference goes must not lose its memory.
        weakref.finalize(self, self.stream.synchronize).atexit = False

    def _malloc(self, size: int) -> Any:
        """Memory of our pool; what CuPy's own pool only keeps is given up before we give up."""
        try:
            return self._pool.malloc(size)
        except self._cupy.cuda.memory.OutOfMemoryError:
            self._cupy.get_default_memory_pool().free_all_blocks()
            return self._pool.malloc(size)

    def _order(self, first: Any, then: Any) -> None:
        """``then`` waits for what ``first`` has been given so far."""
        self._event.record(first)
        then.wait_event(self._event)

    @contextmanager
    def inside(self) -> Iterator[None]:
        caller = self._cupy.cuda.get_current_stream()
        if caller.is_capturing():
            raise RuntimeError(
                "a training step cannot run while your current CUDA stream is being captured: its "
                "numbers come from the host; end the capture first"
            )
        self._order(caller, self.stream)
        try:
            with self.stream:
                yield
        finally:
            self._order(self.stream, caller)

    @contextmanager
    def outside(self) -> Iterator[None]:
        caller = self._cupy.cuda.get_current_stream()
        self._order(self.stream, caller)
        try:
            yield
        finally:
            self._order(caller, self.stream)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def send(self, values: HostArray) -> Array:
        # CuPy copies through pinned memory of its own, and keeps that until the copy is done.
        sent: Array = self._cupy.asarray(values)
        return sent

    def empty(self, shape: tuple[int, ...], like: Any) -> Array:
        memory: Array = self._cupy.empty(shape, like.dtype)
        return memory

    def copied(self, tree: Tree) -> Tree:
        return cupy_flat.copied(tree)

    def assign(self, target: Any, source: Any) -> None:
        self._cupy.copyto(target, source)

    def assign_all(self, pairs: list[tuple[Any, Any]]) -> None:
        cupy_flat.assign(pairs)

    def gather(self, source: Any, rows: Any) -> Array:
        gathered: Array = source.take(rows, axis=0)
        return gathered

    def scatter(self, target: Any, rows: Any, sources: list[Any]) -> None:
        if sources[0].ndim == 0:
            _scatter(len(sources))(
                rows, *(s.reshape(1) for s in sources), target, size=len(sources)
            )
            return
        for i, source in enumerate(sources):
            target[rows[i : i + 1]] = source[None, ...]

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
            before = self._pool.used_bytes()
            self._recorded(body)
            self.stream.synchronize()
            self._check_kept(before)
            for _ in range(8):  # each time it has more to hand out
                held = self._pool.total_bytes()
                graph = self._captured(body)
                # A pool that runs out gives its free memory back to the device and tries again:
                # memory that kernels use which this very graph has recorded.
                if self._pool.total_bytes() == held:
                    return partial(graph.launch, self.stream)
            raise MemoryError("the device's memory ran out while a graph was recorded")

    def _check_kept(self, before: int) -> None:
        """Refuse a step that has kept an array: a graph would go on reading that one."""
        if self._pool.used_bytes() > before:
            gc.collect()  # in a cycle, perhaps
            kept = self._pool.used_bytes() - before
            if kept > 0:
                raise CannotReplayError(
                    f"it keeps an array of its own from one call to the next ({kept:,} bytes)"
                )

    def _recorded(self, body: Callable[[], None]) -> None:
        with self._beside.recording(self.stream, self._second):
            body()

    def _captured(self, body: Callable[[], None]) -> Any:
        collects = gc.isenabled()
        gc.disable()  # a collection may free device memory or destroy an event: not while capturing
        try:
            self.stream.begin_capture()
            try:
                self._recorded(body)
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


@cache
def _scatter(n: int) -> Any:
    """A kernel that writes ``n`` numbers, each in memory of its own, to the given rows of a vector."""
    import cupy

    return cupy.ElementwiseKernel(
        "raw I rows, " + ", ".join(f"raw T s{i}" for i in range(n)),
        "raw T target",
        f"const T *all[] = {{{', '.join(f'&s{i}[0]' for i in range(n))}}}; target[rows[i]] = *all[i];",
        f"portable_bp_scatter_{n}",
    )


def _bits(array: Any) -> Any:
    return array.view(f"u{array.dtype.itemsize}")
