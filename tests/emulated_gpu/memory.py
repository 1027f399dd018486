"""Emulated memory: blocks of the driver, parts that pools hand out, and who touched which bytes."""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

INVALID, NO_MEMORY = 1, 2

GUARD = 512
"""Bytes on both sides of a block that nobody may write."""
POISON = 0xFF
"""What memory holds before it is written: NaN in every float."""
TOTAL = 8 << 30

Access = tuple[int, int, bool]
"""First byte, end, and whether it is written."""


class CudaError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class EmulationError(Exception):
    """What hardware may forgive, or what the emulation does not know."""


problems: list[str] = []
"""Every EmulationError so far: a library may have caught it."""


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
    waits: list[tuple[Any, int]] = field(default_factory=list)
    parts: list[tuple[Access, int, int | None]] = field(default_factory=list)  # see Graph
    branch: int = 0  # in a graph: the stream that it was recorded on,
    clock: dict[int, int] = field(default_factory=dict)  # and what it waits for, by stream


@dataclass(eq=False, repr=False)
class Graph:
    """Recorded work; what it touches was there before (with its number) or is the graph's own."""

    device: int
    nodes: list[Work] = field(default_factory=list)
    history: Any = None
    """Who touched which bytes in the graph."""
    origin: int = 0
    """The stream that began the capture."""

    @property
    def visible(self) -> list[str]:
        return [n.name for n in self.nodes if n.name != "poison"]

    def in_order(self) -> Iterator[Work]:
        """The nodes of the first stream as they were recorded, all others as late as may be."""
        waiting: dict[int, list[Work]] = {}
        for node in self.nodes:
            waiting.setdefault(node.branch, []).append(node)
        done = dict.fromkeys(waiting, 0)

        def upto(branch: int, number: int) -> Iterator[Work]:
            while done.get(branch, number) < number:
                node = waiting[branch][done[branch]]
                for other, count in node.clock.items():
                    if other != branch:
                        yield from upto(other, count)
                done[branch] += 1
                yield node

        for branch in sorted(waiting, key=lambda b: b != self.origin):
            yield from upto(branch, len(waiting[branch]))


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
                ("/device.py", "/memory.py", "/runtime.py", "/driver.py", "/cublas.py")
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
