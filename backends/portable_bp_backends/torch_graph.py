"""PyTorch on CUDA: what graphs of training steps are recorded with, see ``_graph.py``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from portable_bp._typing import Array, HostArray, Namespace, Step, Tree
from portable_bp.backend import Backend, map_leaves
from portable_bp_backends._graph import GraphRunner
from portable_bp_backends._host import native_copy
from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.torch_plan import same_bits


class TorchRecorder:
    """A stream of our own on one device; PyTorch itself keeps the memory of a graph apart."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        # What is still under way when the last reference goes must not lose its memory.
        weakref.finalize(self, self.stream.synchronize).atexit = False

    @contextmanager
    def inside(self) -> Iterator[None]:
        caller = torch.cuda.current_stream(self._device)
        self.stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            caller.wait_stream(self.stream)

    @contextmanager
    def outside(self) -> Iterator[None]:
        caller = torch.cuda.current_stream(self._device)
        caller.wait_stream(self.stream)
        try:
            yield
        finally:
            self.stream.wait_stream(caller)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def send(self, values: HostArray) -> Array:
        # PyTorch keeps the pinned memory until the copy is done.
        host = torch.from_numpy(native_copy(values)).pin_memory()
        sent: Array = host.to(self._device, non_blocking=True)
        return sent

    def empty(self, shape: tuple[int, ...], like: Any) -> Array:
        memory: Array = like.new_empty(shape)
        return memory

    def copied(self, tree: Tree) -> Tree:
        return map_leaves(torch.clone, tree)

    def assign(self, target: Any, source: Any) -> None:
        target.copy_(source)

    def assign_all(self, pairs: list[tuple[Any, Any]]) -> None:
        for target, source in pairs:
            target.copy_(source)

    def gather(self, source: Any, rows: Any) -> Array:
        flat = torch.index_select(source, 0, rows.reshape(-1))
        gathered: Array = flat.reshape(*rows.shape, *source.shape[1:])
        return gathered

    def scatter(self, target: Any, rows: Any, sources: list[Any]) -> None:
        target.index_copy_(0, rows, torch.stack(sources))

    def overlap(self, a: Any, b: Any) -> bool:
        same: bool = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        return same

    def same_bits(self, pairs: list[tuple[Any, Any]]) -> bool:
        return all(same_bits(a, b) for a, b in pairs)

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        body()  # libraries load and kernels are compiled while that is still allowed
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(
            graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
        )
        try:
            with capture:
                body()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the same kernels have just run, so it is the capture's doing
            raise CannotReplayError(f"{type(error).__name__}: {error}") from error
        replay: Callable[[], None] = graph.replay
        return replay


def inductor(step: Step, xp: Namespace) -> Step:
    """The step through ``torch.compile``: fewer kernels, equal to rounding, minutes to compile."""

    def bound(state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        return step(xp, state, batch)

    compiled = torch.compile(bound, fullgraph=True, dynamic=False)

    def call(_: Namespace, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        after: tuple[Tree, Tree] = compiled(state, batch)
        return after

    return call


def graph_runner(backend: Backend, step: Step, state: Tree, *, compiled: bool) -> GraphRunner:
    """The step in CUDA graphs; ``compiled``: through ``torch.compile`` first."""
    chosen = inductor(step, backend.xp) if compiled else step
    return GraphRunner(backend, chosen, state, TorchRecorder(backend.device))


def upload(values: Tensor, device: Any, stream: Any) -> Tensor:
    """A copy on the device by a stream beside the computation; there when this returns."""
    with torch.cuda.stream(stream):
        sent: Tensor = values.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    # The caller's stream reads it: its memory is not handed out again before that has been done.
    sent.record_stream(torch.cuda.current_stream(device))
    return sent
