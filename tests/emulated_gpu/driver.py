"""What ``cupy_backends.cuda.api.driver`` answers: modules, functions and launches."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.emulated_gpu import device
from tests.emulated_gpu.device import CudaError, Work, wrong
from tests.emulated_gpu.runtime import Api

NUMBERS: dict[str, int] = {}

complaint: Any = None
"""What was wrong inside a block of threads, written by the library of ``threads.c``."""


def connect(library: ctypes.CDLL) -> None:
    global complaint
    complaint = (ctypes.c_char * 200).in_dll(library, "emulated_complaint")


cooperative = 0
"""Launches that need all blocks at once: CuPy's other way of fusing, which is not emulated."""


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA driver error {status}: emulated")
        self.status = status


def constants() -> dict[str, Any]:
    from cupy_backends.cuda.api import _driver_enum

    enums = {k: v for k, v in vars(_driver_enum).items() if not k.startswith("__")}
    return enums | {"CUDADriverError": CUDADriverError}


api = Api(CUDADriverError)


@dataclass
class Function:
    """A kernel: bytes of each argument, of an entry where it is an array, and which are only read."""

    name: str
    sizes: list[int]
    entries: list[int]
    only_read: list[bool]
    launch: Any

    def pointers(self, start: int) -> Any:
        """To the arguments, which lie one after the other from ``start`` on, each aligned."""
        return (ctypes.c_void_p * len(self.sizes))(*(start + o for o in self.offsets))

    def __post_init__(self) -> None:
        self.padded = [-(-size // 16) * 16 for size in self.sizes]
        self.offsets = [sum(self.padded[:i]) for i in range(len(self.sizes))]


_modules: dict[int, tuple[Any, Path]] = {}
_functions: dict[int, Function] = {}
_loaded: dict[bytes, int] = {}


@api.offer
def get_build_version() -> int:
    return 13000


@api.offer
def ctxGetCurrent() -> int:
    return 1 + device.current()


@api.offer
def ctxGetDevice() -> int:
    return device.current()


@api.offer
def ctxSetCurrent(context: int) -> None:
    return


@api.offer
def devicePrimaryCtxRelease(number: int) -> None:
    return


@api.offer
def streamGetCtx(stream: int) -> int:
    return 1 + device.stream(stream).device


@api.offer
def moduleLoadData(image: bytes) -> int:
    if image not in _loaded:
        library = ctypes.PyDLL(image.decode())  # kernels share one set of threads: the GIL stays
        _loaded[image] = device.handle(_modules, (library, Path(image.decode())))
    return _loaded[image]


@api.offer
def moduleUnload(module: int) -> None:
    return


@api.offer
def moduleGetFunction(module: int, name: str) -> int:
    library, path = _modules[module]
    sizes = getattr(library, f"emulated_sizes_{name}")
    sizes.restype = ctypes.POINTER(ctypes.c_size_t)
    found = sizes()
    n = found[0]
    numbers = found[1 : 1 + 2 * n]
    read = [c == "1" for c in path.with_suffix(f".{name}").read_text()]
    launch = getattr(library, f"emulated_launch_{name}")
    launch.restype = None
    return device.handle(_functions, Function(name, numbers[:n], numbers[n:], read, launch))


@api.offer
def funcGetAttribute(attribute: int, function: int) -> int:
    return 1024 if attribute == 0 else 0


@api.offer
def funcSetAttribute(function: int, attribute: int, value: int) -> None:
    return


@api.offer
def occupancyMaxActiveBlocksPerMultiprocessor(function: int, size: int, shared: int) -> int:
    return 4


@api.offer
def occupancyMaxPotentialBlockSize(function: int, shared: int, limit: int) -> tuple[int, int]:
    return 132, 128


@api.offer
def launchCooperativeKernel(*_: Any) -> None:
    global cooperative
    cooperative += 1
    raise NotImplementedError("emulated: a cooperative launch")


@api.offer
def launchKernel(
    number: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int,
    stream: int, parameters: int, extra: int,
) -> None:  # fmt: skip
    function = _functions[number]
    on = device.stream(stream)
    if on.device != device.current():
        raise CudaError(device.BAD_HANDLE)
    pointers = (ctypes.c_void_p * len(function.sizes)).from_address(parameters)
    arguments = [ctypes.string_at(p, s) for p, s in zip(pointers, function.sizes, strict=True)]
    accesses = [
        access
        for argument, entry, read in zip(
            arguments, function.entries, function.only_read, strict=True
        )
        if entry and (access := _extent(argument, entry, not read))
    ]
    held = ctypes.create_string_buffer(
        b"".join(a.ljust(n, b"\0") for a, n in zip(arguments, function.padded, strict=True))
    )
    given, sizes = (
        function.pointers(ctypes.addressof(held)),
        (ctypes.c_uint * 7)(gx, gy, gz, bx, by, bz, shared),
    )

    def run(held: Any = held) -> None:
        function.launch(sizes, given)
        if complaint is not None and complaint.value:
            said, complaint.value = complaint.value.decode(), b""
            raise wrong(f"{function.name}: {said}")

    device.counts["kernel"] += 1
    device.issue(on, Work(function.name, accesses, run, device.place()))


def _extent(argument: bytes, entry: int, writes: bool) -> device.Access | None:
    """The bytes from the first to the last entry of an array as CuPy hands it over."""
    words = struct.unpack(f"{len(argument) // 8}q", argument)
    start, n = words[0], (len(words) - 2) // 2
    if n < 0:  # a bare pointer: what is around it
        part = device.memory.part(start) or device.memory.block(start)
        return (part.start, part.start + part.size, writes) if part and part.size else None
    if not words[1]:
        return None
    first, end = start, start + entry
    for length, stride in zip(words[2 : 2 + n], words[2 + n :], strict=True):
        reach = (length - 1) * stride
        first, end = (first + reach, end) if reach < 0 else (first, end + reach)
    return first, end, writes
