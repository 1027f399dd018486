"""The emulated devices: memory, streams, events, captures and graphs, as strict as CUDA may be.

A stream is a queue that runs as late as what waits for it allows. Every piece of work names the
memory that it reads and writes; a vector clock for each stream says what has certainly been done when
work is handed over, and two pieces of work that touch the same bytes, one of them writing, without an
event or a wait of the host between them are an error that names both.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

OK, INVALID, NO_MEMORY, INITIALIZATION, BAD_DEVICE, BAD_HANDLE = 0, 1, 2, 3, 101, 400
NOT_READY, UNSUPPORTED, INVALIDATED, ISOLATION, IMPLICIT = 600, 900, 901, 905, 906

GUARD = 512
"""Bytes on both sides of a block that nobody may write."""
POISON = 0xFF
"""What memory holds before it is written: NaN in every float."""
TOTAL = 8 << 30
DEVICES = 2

Access = tuple[int, int, bool]
"""First byte, end, and whether it is written."""


class CudaError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class EmulationError(Exception):
    """What hardware may forgive, or what the emulation does not know."""


lock = threading.RLock()
"""A device does one thing at a time, whatever thread asks."""
problems: list[str] = []
"""Every EmulationError so far: a library may have caught it."""
counts: Counter[str] = Counter()


def wrong(message: str) -> EmulationError:
    problems.append(message)
    return EmulationError(message)


@dataclass(eq=False, repr=False)
class Block:
    """Memory that cudaMalloc or cudaHostAlloc gave."""

    start: int
    size: int
    device: int | None  # None: pinned memory of the host
    raw: int
    number: int
    pooled: bool = False  # whether a pool hands out parts of it


@dataclass(eq=False, repr=False)
class Part:
    """Memory that a pool gave, and in which capture."""

    start: int
    size: int
    number: int
    graph: Graph | None
    block: Block


@dataclass(eq=False, repr=False)
class Work:
    name: str
    accesses: list[Access]
    run: Callable[[], None] | None
    place: tuple[CodeType, int] | None
    waits: list[tuple[Stream, int]] = field(default_factory=list)
    parts: list[tuple[Access, int, int | None]] = field(default_factory=list)  # see Graph


@dataclass(eq=False, repr=False)
class Graph:
    """Recorded work; what it touches was there before (with its number) or is the graph's own."""

    device: int
    nodes: list[Work] = field(default_factory=list)
    hidden: int = 0

    @property
    def visible(self) -> list[str]:
        return [n.name for n in self.nodes if n.name != "poison"]


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
    invalid: bool = False


@dataclass(eq=False, repr=False)
class Event:
    device: int
    stream: Stream | None = None
    ticket: int = 0
    clock: dict[int, int] = field(default_factory=dict)
    captured: Graph | None = None


@dataclass(eq=False, repr=False)
class Segment:
    """Who wrote these bytes last, and who has read them since, by stream."""

    end: int
    write: tuple[int, int, Work] | None = None
    reads: dict[int, tuple[int, int, Work]] = field(default_factory=dict)


# --- where a call comes from --------------------------------------------------------------------------

_OF_LIBRARIES: dict[CodeType, bool] = {}
_LIBRARIES = ("/cupy/", "/cupyx/", "/array_api_compat/", "/emulated_gpu/", "/contextlib.py")


def place() -> tuple[CodeType, int] | None:
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code not in _OF_LIBRARIES:
            own = code.co_filename.endswith(
                ("/device.py", "/runtime.py", "/driver.py", "/cublas.py")
            )
            named = any(l in code.co_filename for l in _LIBRARIES[:3] + _LIBRARIES[4:])
            _OF_LIBRARIES[code] = named or (own and _LIBRARIES[3] in code.co_filename)
        if not _OF_LIBRARIES[code]:
            return code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def said(work: Work, stream: int | None = None) -> str:
    where = "?"
    if work.place:
        code, line = work.place
        where = f"{'/'.join(code.co_filename.split('/')[-2:])}:{line} in {code.co_name}"
    return f"{work.name}{'' if stream is None else f' on stream {stream}'} ({where})"


# --- memory -------------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None)
_libc.aligned_alloc.restype = ctypes.c_void_p
_libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]


class Memory:
    """Blocks, the parts of them that pools hand out, and who touched which bytes."""

    def __init__(self) -> None:
        self.blocks: dict[int, Block] = {}
        self.starts: list[int] = []
        self.parts: dict[int, Part] = {}
        self.part_starts: list[int] = []
        self.used = 0
        self.number = 0
        self.free: dict[int, list[int]] = {}
        self.history: dict[int, Segment] = {}
        self.history_starts: list[int] = []
        self.failing: tuple[int, int] = (-1, 0)  # allocations until failures begin, how many fail
        self.allocations = 0

    def _fails(self) -> bool:
        self.allocations += 1
        left, count = self.failing
        if left > 0:
            self.failing = (left - 1, count)
        elif left == 0 and count:
            self.failing = (0, count - 1)
            return True
        return False

    def allocate(self, size: int, device: int | None) -> int:
        whole = -(-max(size, 1) // GUARD) * GUARD + 2 * GUARD
        if self._fails() or (device is not None and self.used + size > TOTAL):
            raise CudaError(NO_MEMORY)
        again = self.free.get(whole)
        raw = again.pop() if again else _libc.aligned_alloc(GUARD, whole)
        ctypes.memset(raw, POISON, whole)
        self.number += 1
        block = Block(raw + GUARD, size, device, raw, self.number)
        self.blocks[block.start] = block
        self.starts.insert(bisect_left(self.starts, block.start), block.start)
        self.used += size if device is not None else 0
        return block.start

    def release(self, start: int) -> None:
        block = self.blocks.pop(start, None)
        if block is None:
            raise CudaError(INVALID)
        self.starts.remove(start)
        end = -(-block.size // GUARD) * GUARD
        before = ctypes.string_at(block.raw, GUARD)
        after = ctypes.string_at(start + end, GUARD)
        if {*before, *after} != {POISON}:
            raise wrong(f"memory beside a block of {block.size} bytes was written")
        ctypes.memset(start, 0xDD, block.size)
        inside = slice(*(bisect_left(self.part_starts, at) for at in (start, start + end)))
        for part in self.part_starts[inside]:
            del self.parts[part]
        del self.part_starts[inside]
        self.overwrite(start, start + block.size, None)
        self.free.setdefault(end + 2 * GUARD, []).append(block.raw)
        self.used -= block.size if block.device is not None else 0

    def block(self, address: int) -> Block | None:
        i = bisect_right(self.starts, address) - 1
        if i < 0:
            return None
        block = self.blocks[self.starts[i]]
        return block if address < block.start + max(block.size, 1) else None

    def part(self, address: int) -> Part | None:
        i = bisect_right(self.part_starts, address) - 1
        if i < 0:
            return None
        part = self.parts[self.part_starts[i]]
        return part if address < part.start + max(part.size, 1) else None

    def hand_out(self, start: int, size: int, graph: Graph | None) -> None:
        block = self.block(start)
        assert block is not None
        block.pooled = True
        self.number += 1
        if start not in self.parts:
            self.part_starts.insert(bisect_left(self.part_starts, start), start)
        self.parts[start] = Part(start, size, self.number, graph, block)

    def take_back(self, start: int) -> None:
        if self.parts.pop(start, None) is not None:
            self.part_starts.remove(start)

    # who touched what

    def _cut(self, at: int) -> None:
        i = bisect_right(self.history_starts, at) - 1
        if i >= 0:
            start = self.history_starts[i]
            segment = self.history[start]
            if start < at < segment.end:
                self.history[at] = Segment(segment.end, segment.write, dict(segment.reads))
                segment.end = at
                self.history_starts.insert(i + 1, at)

    def _between(self, begin: int, end: int) -> list[int]:
        same = self.history.get(begin)
        if same is not None and same.end == end:
            return [begin]
        self._cut(begin)
        self._cut(end)
        starts = self.history_starts
        return starts[bisect_left(starts, begin) : bisect_left(starts, end)]

    def overwrite(self, begin: int, end: int, write: tuple[int, int, Work] | None) -> None:
        same = self.history.get(begin)
        if write is not None and same is not None and same.end == end:
            same.write, same.reads = write, {}
            return
        for start in self._between(begin, end):
            del self.history[start]
        i = bisect_left(self.history_starts, begin)
        self.history_starts[i : bisect_left(self.history_starts, end)] = [begin] if write else []
        if write:
            self.history[begin] = Segment(end, write)

    def touch(self, access: Access, clock: dict[int, int], who: tuple[int, int, Work]) -> None:
        begin, end, writes = access
        at = begin
        for start in self._between(begin, end):
            if not writes and start > at:
                self._fill(at, start, who)
            segment = self.history[start]
            at = segment.end
            before = [segment.write] if segment.write else []
            for other in before + (list(segment.reads.values()) if writes else []):
                if clock.get(other[0], 0) < other[1]:
                    raise wrong(
                        f"race: {said(who[2], who[0])} {'writes' if writes else 'reads'} memory that "
                        f"{said(other[2], other[0])} {'writes' if other in before else 'reads'}, and "
                        "nothing makes one wait for the other"
                    )
            segment.reads[who[0]] = who
        if writes:
            self.overwrite(begin, end, who)
        elif at < end:
            self._fill(at, end, who)

    def _fill(self, begin: int, end: int, who: tuple[int, int, Work]) -> None:
        self.history[begin] = Segment(end, None, {who[0]: who})
        self.history_starts.insert(bisect_left(self.history_starts, begin), begin)


memory = Memory()


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
    if s.capture is not None:
        check_memory(work, s)
        for access in work.accesses:
            block, part = memory.block(access[0]), memory.part(access[0])
            assert block is not None
            own = part is not None and part.graph is s.capture
            held = None if own else (part.number if part else 0)
            work.parts.append((access, block.number, held))
        s.capture.nodes.append(work)
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
        event.captured = s.capture
        return
    counts["event"] += 1
    issue(s, Work("event", [], None, place()))
    event.captured = None
    event.stream, event.ticket, event.clock = s, s.issued, dict(s.clock)


def wait(s: Stream, event: Event) -> None:
    if s.capture is not None or event.captured is not None:
        if s.capture is event.captured:
            return
        if s.capture is None:
            raise wrong("a second stream joins a capture: that is not emulated")
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
    s.capture, s.invalid = Graph(s.device), False


def end_capture(s: Stream) -> Graph:
    graph, s.capture = s.capture, None
    if graph is None:
        raise CudaError(INVALID)
    if s.invalid:
        raise CudaError(INVALIDATED)
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
        for node in graph.nodes:
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


@contextmanager
def exhausted(after: int, count: int = 1 << 30) -> Iterator[None]:
    """Allocations fail from the ``after``-th on, ``count`` of them."""
    memory.failing = (after, count)
    try:
        yield
    finally:
        memory.failing = (-1, 0)
