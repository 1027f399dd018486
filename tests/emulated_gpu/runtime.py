"""What ``cupy_backends.cuda.api.runtime`` answers, under the names that CuPy calls."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.emulated_gpu import device
from tests.emulated_gpu.device import CudaError

VERSION = 13000
NAME = "emulated"

NUMBERS = {
    "errorInvalidValue": 1, "errorMemoryAllocation": 2, "errorInvalidResourceHandle": 400,
    "errorPeerAccessAlreadyEnabled": 704, "errorContextIsDestroyed": 709,
    "deviceAttributeComputeCapabilityMajor": 75, "deviceAttributeComputeCapabilityMinor": 76,
    "_is_hip_environment": 0,
}  # fmt: skip
"""What compiled code reads by name."""

_ERRORS = {
    1: "cudaErrorInvalidValue", 2: "cudaErrorMemoryAllocation", 3: "cudaErrorInitializationError",
    101: "cudaErrorInvalidDevice", 400: "cudaErrorInvalidResourceHandle", 600: "cudaErrorNotReady",
    900: "cudaErrorStreamCaptureUnsupported", 901: "cudaErrorStreamCaptureInvalidated",
    903: "cudaErrorStreamCaptureUnmatched", 904: "cudaErrorStreamCaptureUnjoined",
    905: "cudaErrorStreamCaptureIsolation", 906: "cudaErrorStreamCaptureImplicit",
}  # fmt: skip


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"{_ERRORS.get(status, status)}: emulated")
        self.status = status

    def __reduce__(self) -> Any:
        return type(self), (self.status,)


def constants() -> dict[str, Any]:
    """The names of the module that are no functions."""
    from cupy_backends.cuda.api import _runtime_enum

    enums = {k: v for k, v in vars(_runtime_enum).items() if not k.startswith("__")}
    return enums | {
        "CUDARuntimeError": CUDARuntimeError, "is_hip": False, "streamDefault": 0,
        "streamNonBlocking": 1, "streamLegacy": 1, "streamPerThread": 2, "eventDefault": 0,
        "eventBlockingSync": 1, "eventDisableTiming": 2, "eventInterprocess": 4,
        "streamCaptureModeGlobal": 0, "streamCaptureModeThreadLocal": 1,
        "streamCaptureModeRelaxed": 2, "streamCaptureStatusNone": 0, "memcpyHostToHost": 0,
        "memcpyHostToDevice": 1, "memcpyDeviceToHost": 2, "memcpyDeviceToDevice": 3,
        "memcpyDefault": 4, "hostAllocDefault": 0, "hostAllocPortable": 1, "hostAllocMapped": 2,
        "hostAllocWriteCombined": 4, "memoryTypeUnregistered": 0, "memoryTypeHost": 1,
        "memoryTypeDevice": 2, "memoryTypeManaged": 3, "_getLocalRuntimeVersion": lambda: VERSION,
    }  # fmt: skip


class Api:
    """Functions by the names that CuPy calls them by; one that is not there says so when called."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def missing(*_: Any) -> Any:
            raise NotImplementedError(f"emulated: {name}")

        return missing

    def offer(self, function: Any, name: str | None = None) -> Any:
        """Its errors become those of CuPy; a thread's memory is watched from its first call on."""

        def call(*arguments: Any) -> Any:
            watch()
            try:
                with device.lock:
                    return function(*arguments)
            except CudaError as error:
                raise self._error(error.status) from None

        setattr(self, name or function.__name__, call)
        return function

    def close(self) -> None:
        """What CuPy still frees while the interpreter goes down is nobody's business."""
        for name in vars(self):
            setattr(self, name, lambda *_: 0)


api = Api(CUDARuntimeError)


# --- CuPy's memory hooks belong to a thread -----------------------------------------------------------

_watched = threading.local()
hook: Any = None


def watch() -> None:
    if hook is not None and not getattr(_watched, "on", False):
        _watched.on = True
        hook().__enter__()


def make_hook() -> Any:
    import cupy

    class Hook(cupy.cuda.MemoryHook):
        name = "emulated"

        def malloc_postprocess(self, **now: Any) -> None:
            if now["mem_ptr"]:
                with device.lock:
                    here = device.stream(cupy.cuda.get_current_stream().ptr)
                    device.handed_out(now["mem_ptr"], now["size"], here)

        def free_preprocess(self, **now: Any) -> None:
            with device.lock:
                device.memory.take_back(now["mem_ptr"])

    return Hook


# --- devices ------------------------------------------------------------------------------------------

for _name, _answer in {
    "driverGetVersion": lambda: VERSION, "runtimeGetVersion": lambda: VERSION,
    "_getCUDAMajorVersion": lambda: VERSION // 1000, "getDevice": device.current,
    "setDevice": device.select, "streamGetPriority": lambda s: 0, "graphUpload": lambda g, s: None,
    "eventElapsedTime": lambda a, b: 1.0, "profilerStart": lambda: None, "_ensure_context": lambda: None,
    "profilerStop": lambda: None, "deviceCanAccessPeer": lambda a, b: 0,
    "deviceEnablePeerAccess": lambda a: None, "_deviceEnsurePeerAccess": lambda a: None,
    "deviceGetPCIBusId": lambda d: f"0000:{d:02}:00.0",
}.items():  # fmt: skip
    api.offer(_answer, _name)


@api.offer
def check_status(status: int) -> None:
    if status:
        raise CudaError(status)


@api.offer
def getDeviceCount() -> int:
    device.check_process()
    return device.DEVICES


@api.offer
def deviceGetAttribute(attribute: int, number: int) -> int:
    return {75: 9, 76: 0, 1: 1024, 16: 132, 8: 49152, 97: 232448, 38: 50 << 20}.get(attribute, 0)


@api.offer
def getDeviceProperties(number: int) -> dict[str, Any]:
    return {
        "name": NAME.encode(), "totalGlobalMem": device.TOTAL, "multiProcessorCount": 132,
        "warpSize": 32, "major": 9, "minor": 0, "maxThreadsPerBlock": 1024, "clockRate": 0,
        "sharedMemPerBlock": 49152, "maxGridSize": (2**31 - 1, 65535, 65535),
    }  # fmt: skip


@api.offer
def deviceSynchronize() -> None:
    device.synchronize_device(device.current())


# --- memory -------------------------------------------------------------------------------------------


@api.offer
def malloc(size: int) -> int:
    return device.memory.allocate(size, device.current())


@api.offer
def hostAlloc(size: int, flags: int) -> int:
    device.check_process()
    return device.memory.allocate(size, None)


@api.offer
def free(address: int) -> None:
    if address:
        device.check_process()
        device.synchronize_device()  # as cudaFree does
        device.memory.release(address)


@api.offer
def freeHost(address: int) -> None:
    free(address)


@api.offer
def memGetInfo() -> tuple[int, int]:
    device.check_process()
    return device.TOTAL - device.memory.used, device.TOTAL


@api.offer
def pointerGetAttributes(address: int) -> Any:
    from cupy_backends.cuda.api.runtime import PointerAttributes

    block = device.memory.block(address)
    if block is None:
        return PointerAttributes(-2, 0, address, 0)
    kind = 1 if block.device is None else 2
    return PointerAttributes(block.device or 0, address, address, kind)


@api.offer
def pointerGetMemoryType(address: int) -> int:
    return int(pointerGetAttributes(address).type)


@api.offer
def memcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> None:
    device.copy(to, source, size, device.stream(stream))


@api.offer
def memcpyPeerAsync(to: int, _: int, source: int, __: int, size: int, stream: int) -> None:
    device.copy(to, source, size, device.stream(stream))


@api.offer
def memcpy(to: int, source: int, size: int, kind: int) -> None:
    device.copy(to, source, size, device.stream(0))
    device.synchronize(device.stream(0))


@api.offer
def memsetAsync(to: int, value: int, size: int, stream: int) -> None:
    device.fill(to, value, size, device.stream(stream))


@api.offer
def memset(to: int, value: int, size: int) -> None:
    device.fill(to, value, size, device.stream(0))
    device.synchronize(device.stream(0))


# --- streams and events -------------------------------------------------------------------------------


@api.offer
def streamCreate() -> int:
    return device.new_stream(True)


@api.offer
def streamCreateWithFlags(flags: int) -> int:
    return device.new_stream(not flags & 1)


@api.offer
def streamCreateWithPriority(flags: int, priority: int) -> int:
    return device.new_stream(not flags & 1)


@api.offer
def streamGetFlags(stream: int) -> int:
    return 0 if device.stream(stream).blocking else 1


@api.offer
def streamDestroy(stream: int) -> None:
    device.destroy_stream(stream)


@api.offer
def streamSynchronize(stream: int) -> None:
    device.synchronize(device.stream(stream))


@api.offer
def streamQuery(stream: int) -> int:
    s = device.stream(stream)
    return device.OK if s.done >= s.issued else device.NOT_READY


@api.offer
def streamWaitEvent(stream: int, event: int, flags: int) -> None:
    device.wait(device.stream(stream), device._events[event])


@api.offer
def eventCreate() -> int:
    return device.handle(device._events, device.Event(device.current()))


@api.offer
def eventCreateWithFlags(flags: int) -> int:
    return eventCreate()


@api.offer
def eventDestroy(event: int) -> None:
    del device._events[event]


@api.offer
def eventRecord(event: int, stream: int) -> None:
    device.record(device._events[event], device.stream(stream))


@api.offer
def eventQuery(event: int) -> int:
    done = device.event_done(device._events[event], False)
    return device.OK if done else device.NOT_READY


@api.offer
def eventSynchronize(event: int) -> None:
    device.event_done(device._events[event], True)


# --- captures and graphs ------------------------------------------------------------------------------


@api.offer
def streamIsCapturing(stream: int) -> bool:
    return device.stream(stream).capture is not None


@api.offer
def streamBeginCapture(stream: int, mode: int) -> None:
    device.begin_capture(device.stream(stream))


@api.offer
def streamEndCapture(stream: int) -> int:
    return device.handle(device._graphs, device.end_capture(device.stream(stream)))


@api.offer
def graphInstantiate(graph: int) -> int:
    device.counts["instantiate"] += 1
    return device.handle(device._graphs, device._graphs[graph])


@api.offer
def graphDestroy(graph: int) -> None:
    del device._graphs[graph]


@api.offer
def graphExecDestroy(graph: int) -> None:
    del device._graphs[graph]


@api.offer
def graphLaunch(graph: int, stream: int) -> None:
    device.launch(device._graphs[graph], device.stream(stream))


@api.offer
def graphDebugDotPrint(graph: int, path: str, flags: int) -> None:
    lines = [f"node {name}" for name in device._graphs[graph].visible]
    Path(path).write_text("\n".join(["digraph {", *lines, "}", ""]))
