"""The emulated devices: memory, streams, events, captures and graphs, as strict as CUDA may be.

A stream is a queue that runs as late as what waits for it allows. Every piece of work names the
memory that it reads and writes; a vector clock for each stream says what has certainly been done when
work is handed over, and two pieces of work that touch the same bytes, one of them writing, without an
event or a wait of the host between them are an error that names both.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.emulated_gpu.memory import (
    POISON,
    TOTAL,
    Access,
    CudaError,
    EmulationError,
    Graph,
    Memory,
    Work,
    memory,
    place,
    problems,
    said,
    wrong,
)

__all__ = ["TOTAL", "CudaError", "EmulationError", "Work", "memory", "place", "problems", "wrong"]

OK, INVALID, NO_MEMORY, INITIALIZATION, BAD_DEVICE, BAD_HANDLE = 0, 1, 2, 3, 101, 400
NOT_READY, UNSUPPORTED, INVALIDATED, UNMATCHED, UNJOINED = 600, 900, 901, 903, 904
ISOLATION, IMPLICIT = 905, 906

DEVICES = 2

lock = threading.RLock()
"""A device does one thing at a time, whatever thread asks."""
counts: Counter[str] = Counter()


@dataclass(eq=False, repr=False)
class Stream:
    number: int
    device: int
    blocking: bool  # whether it waits for the legacy default stream, and that for it
    queue: deque[tuple[int, Work]] = field(default_factory=deque)
    issued: int = 0
    done: int = 0
    clock: dict[int, int] = field(default_factory=dict)
    capture: Graph | None = None
    recorded: dict[int, int] = field(default_factory=dict)  # the clock of what it captures
    invalid: bool = False


@dataclass(eq=False, repr=False)
class Event:
    device: int
    stream: Stream | None = None
    ticket: int = 0
    clock: dict[int, int] = field(default_factory=dict)
    captured: Graph | None = None


# --- streams ------------------------------------------------------------------------------------------

_process = os.getpid()
_thread = threading.local()
_numbers = iter(range(1 << 16))
_streams: dict[int, Stream] = {}  # by handle
_events: dict[int, Event] = {}
_graphs: dict[int, Graph] = {}
_handles = iter(range(0x1000, 1 << 40, 0x10))
_host: dict[int, int] = {}
"""The clock of the host: what it has waited for."""
_defaults: dict[Any, Stream] = {}


def check_process() -> None:
    if os.getpid() != _process:  # a fork does not inherit a device
        raise CudaError(INITIALIZATION)


def current() -> int:
    check_process()
    return int(getattr(_thread, "device", 0))


def select(device: int) -> None:
    check_process()
    if not 0 <= device < DEVICES:
        raise CudaError(BAD_DEVICE)
    _thread.device = device


def stream(handle: int) -> Stream:
    check_process()
    if handle in (0, 1, 2):
        key = (current(), threading.get_ident() if handle == 2 else 0)
        if key not in _defaults:
            _defaults[key] = Stream(next(_numbers), key[0], True)
        return _defaults[key]
    if handle not in _streams:
        raise CudaError(BAD_HANDLE)
    return _streams[handle]


def _legacy(device: int) -> Stream | None:
    return _defaults.get((device, 0))


def _all() -> Iterator[Stream]:
    yield from _defaults.values()
    yield from list(_streams.values())
    yield from _destroyed


_destroyed: list[Stream] = []


def handle(table: dict[int, Any], thing: Any) -> int:
    number = next(_handles)
    table[number] = thing
    return number


def new_stream(blocking: bool) -> int:
    return handle(_streams, Stream(next(_numbers), current(), blocking))


def destroy_stream(number: int) -> None:
    s = stream(number)
    del _streams[number]
    if s.queue:
        _destroyed.append(s)  # what it was given is still done


def _join(clock: dict[int, int], other: dict[int, int]) -> None:
    for number, ticket in other.items():
        if clock.get(number, 0) < ticket:
            clock[number] = ticket


def advance(s: Stream, ticket: int) -> None:
    """Run the work of a stream up to a ticket, and before each piece what it waits for."""
    while s.done < ticket:
        number, work = s.queue[0]
        for other, upto in work.waits:
            advance(other, upto)
        if s.done >= number:
            continue
        s.queue.popleft()
        s.done = number
        if work.run is not None:
            work.run()
            work.run = None  # and what it held


def finish(s: Stream) -> None:
    advance(s, s.issued)
    _join(_host, {**s.clock, s.number: s.issued})


def check_memory(work: Work, s: Stream) -> None:
    """Every access lies in memory that is there."""
    for begin, end, _ in work.accesses:
        part = memory.parts.get(begin)
        if part is not None and end <= begin + part.size and part.block.device == s.device:
            continue
        block = memory.block(begin)
        if block is None or end > block.start + block.size:
            raise wrong(f"{said(work)} touches memory that is not there")
        if block.device not in (None, s.device) and work.name != "copy":
            raise wrong(f"{said(work)} on device {s.device} touches memory of {block.device}")
        part = memory.part(begin)
        if block.pooled and part is None:
            raise wrong(f"{said(work)} touches memory that was given back")
        if part is not None and end > part.start + part.size:
            raise wrong(f"{said(work)} goes {end - part.start - part.size} bytes beyond an array")


def issue(s: Stream, work: Work) -> None:
    """Hand a piece of work over; while the stream captures it is recorded."""
    check_process()
    if _idle:
        work.run = None
    if s.capture is not None:
        check_memory(work, s)
        for access in work.accesses:
            block, part = memory.block(access[0]), memory.part(access[0])
            assert block is not None
            own = part is not None and part.graph is s.capture
            held = None if own else (part.number if part else 0)
            work.parts.append((access, block.number, held))
        s.recorded[s.number] = s.recorded.get(s.number, 0) + 1
        work.branch, work.clock = s.number, dict(s.recorded)
        s.capture.nodes.append(work)
        for access in work.accesses:
            s.capture.history.touch(access, s.recorded, (s.number, s.recorded[s.number], work))
        return
    legacy = _legacy(s.device)
    if s is legacy:
        others = [o for o in _all() if o.blocking and o.device == s.device and o is not s]
        for other in others:
            if other.capture is not None:
                other.invalid = True
                raise CudaError(IMPLICIT)
    else:
        others = [legacy] if s.blocking and legacy is not None else []
    for other in others:
        if other.done < other.issued:
            work.waits.append((other, other.issued))
        _join(s.clock, {**other.clock, other.number: other.issued})
    _join(s.clock, _host)
    check_memory(work, s)
    s.issued += 1
    s.clock[s.number] = s.issued
    s.queue.append((s.issued, work))
    for access in work.accesses:
        memory.touch(access, s.clock, (s.number, s.issued, work))


def synchronize(s: Stream) -> None:
    if s.capture is not None:
        s.invalid = True
        raise CudaError(UNSUPPORTED)
    legacy = _legacy(s.device)
    if s is legacy:
        for other in list(_all()):
            if other.blocking and other.device == s.device:
                finish(other)
    finish(s)


def synchronize_device(device: int | None = None) -> None:
    there = [s for s in list(_all()) if device in (None, s.device)]
    for s in there:
        if s.capture is not None and device is not None:
            s.invalid = True
            raise CudaError(UNSUPPORTED)
    for s in there:
        finish(s)


# --- events -------------------------------------------------------------------------------------------


def record(event: Event, s: Stream) -> None:
    if event.device != s.device:
        raise CudaError(BAD_HANDLE)
    if s.capture is not None:
        event.captured, event.clock = s.capture, dict(s.recorded)
        return
    counts["event"] += 1
    issue(s, Work("event", [], None, place()))
    event.captured = None
    event.stream, event.ticket, event.clock = s, s.issued, dict(s.clock)


def wait(s: Stream, event: Event) -> None:
    if s.capture is not None or event.captured is not None:
        under_way = any(o.capture is event.captured for o in _all())
        if s.capture is None and under_way and s is not _legacy(s.device):  # it joins the capture
            s.capture, s.recorded, s.invalid = event.captured, {}, False
        if s.capture is event.captured:
            _join(s.recorded, event.clock)
            return
        s.invalid = True
        raise CudaError(ISOLATION)
    if event.stream is not None:
        issue(s, Work("wait", [], None, place(), [(event.stream, event.ticket)]))
        _join(s.clock, event.clock)


def event_done(event: Event, wait_for_it: bool) -> bool:
    if event.captured is not None:
        raise CudaError(UNSUPPORTED)
    if event.stream is None:
        return True
    if wait_for_it:
        advance(event.stream, event.ticket)
        _join(_host, event.clock)
    return event.stream.done >= event.ticket


# --- graphs -------------------------------------------------------------------------------------------


def begin_capture(s: Stream) -> None:
    if s is _legacy(s.device) or s.capture is not None:
        raise CudaError(UNSUPPORTED)
    s.capture, s.recorded, s.invalid = Graph(s.device), {}, False
    s.capture.history, s.capture.origin = Memory(), s.number


def end_capture(s: Stream) -> Graph:
    graph = s.capture
    if graph is None:
        raise CudaError(INVALID)
    if graph.origin != s.number:
        raise CudaError(UNMATCHED)
    others = [o for o in _all() if o.capture is graph and o is not s]
    joined = all(s.recorded.get(n, 0) >= t for o in others for n, t in o.recorded.items())
    invalid = s.invalid or any(o.invalid for o in others)
    for stream in (s, *others):
        stream.capture = None
    if invalid:
        raise CudaError(INVALIDATED)
    if not joined:
        raise CudaError(UNJOINED)
    return graph


def launch(graph: Graph, s: Stream) -> None:
    counts["graph"] += 1
    if s.capture is not None:
        raise CudaError(UNSUPPORTED)
    touched: dict[Access, None] = {}
    for node in graph.nodes:
        for access, block, number in node.parts:
            if access not in touched:
                _still_there(node, access, block, number, graph)
                touched[access] = None

    def run() -> None:
        for node in graph.in_order():
            if node.run is not None:
                node.run()

    work = Work("graph", [], run, place())
    issue(s, work)
    for access in touched:
        memory.touch(access, s.clock, (s.number, s.issued, work))


def _still_there(node: Work, access: Access, block: int, number: int | None, own: Graph) -> None:
    now, part = memory.block(access[0]), memory.part(access[0])
    if now is None or now.number != block:
        raise wrong(f"a graph's {said(node)} touches memory that the device has taken back")
    if number is None:
        if part is not None and part.graph is None:
            raise wrong(f"a graph's {said(node)} touches memory that has been given to others")
    elif number != (part.number if part else 0):
        raise wrong(f"a graph's {said(node)} touches memory that was given back")


# --- memory of pools, told by CuPy's hooks ------------------------------------------------------------


def handed_out(start: int, size: int, s: Stream) -> None:
    """A pool gave memory: what was in it is gone."""
    memory.hand_out(start, size, s.capture)
    if size:
        access = (start, start + size, True)
        run = _filler(start, POISON, size)
        issue(s, Work("poison", [access], run, place()))


def _filler(start: int, value: int, size: int) -> Callable[[], None]:
    def run() -> None:
        ctypes.memset(start, value, size)

    return run


def fill(start: int, value: int, size: int, s: Stream) -> None:
    counts["memset"] += 1
    work = Work("memset", [(start, start + size, True)] if size else [], None, place())
    work.run = _filler(start, value, size)
    issue(s, work)


def copy(to: int, source: int, size: int, s: Stream) -> None:
    """As cudaMemcpyAsync: pageable memory is read before the call returns, and written too."""
    counts["copy"] += 1
    pinned = [(memory.block(a) is not None) for a in (source, to)]
    if s.capture is not None and not all(pinned):
        s.invalid = True
        raise CudaError(UNSUPPORTED)
    accesses = [
        (a, a + size, w) for a, w, p in ((source, False, pinned[0]), (to, True, pinned[1])) if p
    ]
    kept = None if pinned[0] else ctypes.create_string_buffer(ctypes.string_at(source, size), size)

    def run() -> None:
        ctypes.memmove(to, source if kept is None else kept, size)

    issue(s, Work("copy", accesses if size else [], run, place()))
    if not pinned[1]:
        finish(s)


_idle: list[None] = []


@contextmanager
def idle() -> Iterator[None]:
    """Work is handed over and recorded, and not done: for those who count it."""
    _idle.append(None)
    try:
        yield
    finally:
        _idle.pop()


def graph_of(graph: Any) -> Graph:
    """What a graph of CuPy's holds."""
    return _graphs[graph.graph]


@contextmanager
def exhausted(after: int, count: int = 1 << 30) -> Iterator[None]:
    """Allocations fail from the ``after``-th on, ``count`` of them."""
    memory.failing = (after, count)
    try:
        yield
    finally:
        memory.failing = (-1, 0)
