"""CuPy: arrays on an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, cached_property, partial
from importlib.metadata import distributions
from typing import Any

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, Runner, extend
from portable_bp_backends import _driver
from portable_bp_backends._graph import GraphRunner
from portable_bp_backends._host import native_copy
from portable_bp_backends.cupy_beside import Beside
from portable_bp_backends.cupy_cublas import Gemm, library
from portable_bp_backends.cupy_fuse import fuser, philox, sign
from portable_bp_backends.cupy_graph import CupyRecorder
from portable_bp_backends.cupy_parts import Parts
from portable_bp_backends.cupy_persistent.runner import PersistentRunner, suits


class CupyBackend(Backend):
    """CuPy on one CUDA device (``cupy``, ``cupy:1``).

    Parameters
    ----------
    index : int
        The number of the device.
    tf32 : bool
        Compute products of float32 matrices with factors rounded to 11 bits (TF32): faster on large
        networks, and less exact. ``fit(..., backend=CupyBackend(0, tf32=True))``.
    bf16 : bool
        The same with factors rounded to 8 bits (bfloat16). Weights, the optimiser's state, sums and
        everything element-wise stay float32.
    fuse : bool
        Run each element-wise group of the equations as one kernel, and some parts of them in a form
        with fewer launches. With False each operation is a kernel of its own, as the equations are
        written.
    persistent : bool
        Run many steps of a network that fits into one multiprocessor's memory in one launch, equal
        to the eager steps to rounding. With False all steps run from graphs, which give their bits.
    """

    name = "cupy"
    modules = ("cupy",)
    distributions = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
    priority = 30
    # Besides CuPy's own MemoryError: the driver for pinned memory, and libraries for workspaces.
    oom_messages = ("cudaErrorMemoryAllocation", "ALLOC_FAILED")

    def __init__(
        self,
        index: int,
        *,
        tf32: bool = False,
        bf16: bool = False,
        fuse: bool = True,
        persistent: bool = True,
    ) -> None:
        if tf32 and bf16:
            raise ValueError("tf32 and bf16 round the same factors: choose one of them")
        import array_api_compat.cupy
        import cupy
        from cupyx.scipy.special import erfc

        self._cupy, self._thread = cupy, threading.local()
        self._factors = "tf32" if tf32 else "bf16" if bf16 else "float32"
        self._persistent = persistent
        native: dict[str, Callable[..., Any]] = {"erfc": erfc}
        if fuse:
            native["philox4x32"] = philox()
        self.xp = extend(
            array_api_compat.cupy,
            fuser(native, array_api_compat.cupy) if fuse else lambda f: native.get(f.__name__),
        )
        self._beside = Beside()
        self.xp.__dict__["matmul"] = self._matmul
        self.xp.__dict__["sign"] = partial(sign, cupy)
        if fuse:
            product = lambda a, b, out=None: self._gemm(a, b, out)  # noqa: E731
            self.xp.__dict__["portable_bp_part"] = Parts(
                native, array_api_compat.cupy, product, self._beside
            )
        self.device = cupy.cuda.Device(index)
        self.spec = f"cupy:{index}"

    @cached_property
    def _gemm(self) -> Gemm:
        return Gemm(self._factors)  # on the device that is current where products are computed

    def _matmul(self, a: Any, b: Any, /) -> Array:
        self._beside.ready(a)
        return self._gemm(a, b)

    @cached_property
    def _upload_stream(self) -> Any:
        """The stream of :meth:`upload`."""
        with self.device:
            return self._cupy.cuda.Stream(non_blocking=True)

    def _recorder_streams(self) -> tuple[Any, Any]:
        """The streams that this thread records on, kept with their workspaces from fit to fit."""
        if not hasattr(self._thread, "streams"):
            self._thread.streams = tuple(
                self._cupy.cuda.Stream(non_blocking=True) for _ in range(2)
            )
        streams: tuple[Any, Any] = self._thread.streams
        return streams

    @classmethod
    def unavailable_reason(cls) -> str | None:
        if importlib.util.find_spec("cupy") is None:
            return (
                "CuPy is not installed: pip install cupy-cuda13x[ctk] (CUDA 13) or "
                "cupy-cuda12x[ctk] (CUDA 12; also for GPUs older than Turing)"
            )
        if "cupy" not in sys.modules and not _driver.is_there():
            return (
                f"CuPy {cls.version()} is installed but finds no driver of a GPU; check nvidia-smi"
            )
        import cupy

        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if "InitializationError" in str(error):
                return (
                    "this process was forked from one that had used the GPU already, and CUDA does "
                    "not survive a fork; start it with multiprocessing.get_context('spawn')"
                )
            return (
                f"CuPy {cupy.__version__} is installed but finds no usable GPU ({error}); check "
                "nvidia-smi and that the driver is new enough for the CUDA version of the wheel"
            )
        if not count:
            return f"CuPy {cupy.__version__} is installed but finds no GPU"
        return _missing_library(cupy)

    @classmethod
    def accelerators(cls) -> tuple[str, ...]:
        return cls.devices()

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        if cls.unavailable_reason():
            return ()
        import cupy

        return tuple(f"cupy:{i}" for i in range(cupy.cuda.runtime.getDeviceCount()))

    @classmethod
    def from_device(cls, device: str) -> Backend:
        there = cls.devices()
        index = device or "0"
        if f"cupy:{index}" not in there:
            raise ValueError(
                f"cupy:{device} does not exist: this machine has {len(there)} CUDA device(s): "
                f"{', '.join(there)}"
            )
        return cls(int(index))

    @classmethod
    def spec_of(cls, array: Any) -> str:
        return f"cupy:{array.device.id}"

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        with self.device:
            if isinstance(values, self._cupy.ndarray):
                if values.device.id != self.device.id:
                    values.device.synchronize()  # streams of two devices do not wait for each other
                copied: Array = self._cupy.array(values, dtype=dtype, order="C", copy=True)
                if values.device.id != self.device.id:
                    self._cupy.cuda.get_current_stream().synchronize()
            else:
                copied = self._cupy.asarray(native_copy(values, dtype))
            return copied

    def to_numpy(self, array: Any) -> HostArray:
        return native_copy(self._cupy.asnumpy(array))

    def copy(self, array: Any) -> Array:
        with self.device:
            copy: Array = array.copy()
            return copy

    def upload(self, values: HostArray, dtype: str) -> Array:
        cupy, beside = self._cupy, self._upload_stream
        with self.device, beside:
            sent = cupy.asarray(native_copy(values, dtype))
            beside.synchronize()
            # Whoever reads it does so on another stream: the memory may be written again when that
            # stream has done what it was given until the array went.
            lease = _Lease(sent, beside)
            memory = cupy.cuda.UnownedMemory(sent.data.ptr, sent.nbytes, lease, self.device.id)
            shared: Array = cupy.ndarray(sent.shape, sent.dtype, cupy.cuda.MemoryPointer(memory, 0))
            return shared

    def free_memory(self) -> int | None:
        with self.device:
            free: int = self.device.mem_info[0]
            pooled: int = self._cupy.get_default_memory_pool().free_bytes()
        return free + pooled

    def scope(self) -> AbstractContextManager[Any]:
        # array-api-compat's CuPy functions ignore device=: the current device decides.
        device: AbstractContextManager[Any] = self._cupy.cuda.Device(self.device.id)
        return device

    def synchronize(self) -> None:
        self.device.synchronize()

    def compile(self, step: Step, state: Tree) -> Runner:
        with self.scope():
            recorder = CupyRecorder(*self._recorder_streams(), self._beside)
            if self._persistent and suits(step, state):
                return PersistentRunner(self, step, state, recorder)
            return GraphRunner(self, step, state, recorder)


@cache
def _missing_library(cupy: Any) -> str | None:
    """Why CuPy cannot compile a kernel or multiply matrices here, though there is a GPU."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
        library()
    except (ImportError, OSError, RuntimeError) as error:
        wheels = sorted(
            name
            for distribution in distributions()
            if (name := str(distribution.metadata["Name"])).startswith("cupy-cuda")
        )
        wheel = wheels[0] if wheels else "cupy-cuda13x"
        several = f"; {' and '.join(wheels)} overwrite each other: keep one" * (len(wheels) > 1)
        return (
            f"CuPy {cupy.__version__} finds a GPU, but not the CUDA libraries that it needs "
            f"({str(error).splitlines()[0]}): pip install '{wheel}[ctk]'{several}"
        )
    return None


class _Lease:
    """Memory of one stream that others read; returned once they are done with it."""

    def __init__(self, array: Any, stream: Any) -> None:
        import cupy

        self._cupy, self._array, self._stream = cupy, array, stream
        self._sender = threading.get_ident()

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        with self._array.device as device:
            if threading.get_ident() == self._sender:
                # Dropped by the thread that sent it, which is not the one that reads it: on what
                # stream that was done is not known here.
                device.synchronize()
            else:
                self._stream.wait_event(self._cupy.cuda.get_current_stream().record())
