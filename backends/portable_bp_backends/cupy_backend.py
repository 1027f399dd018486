"""CuPy: arrays on an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend, extend
from portable_bp_backends._host import native_copy


class CupyBackend(Backend):
    """CuPy on one CUDA device (``cupy``, ``cupy:1``)."""

    name = "cupy"
    modules = ("cupy",)
    priority = 30
    # Besides CuPy's own MemoryError: the driver for pinned memory, and libraries for workspaces.
    exhausted = ("cudaErrorMemoryAllocation", "ALLOC_FAILED")

    def __init__(self, index: int) -> None:
        import array_api_compat.cupy
        import cupy
        from cupyx.scipy.special import erfc

        self._cupy = cupy
        kernels: dict[str, Callable[..., Any]] = {"erfc": erfc}
        self.xp = extend(array_api_compat.cupy, lambda group: kernels.get(group.__name__))
        self.device = cupy.cuda.Device(index)
        self.spec = f"cupy:{index}"

    @classmethod
    def why_not(cls) -> str | None:
        if importlib.util.find_spec("cupy") is None:
            return (
                "CuPy is not installed: pip install cupy-cuda13x (CUDA 13) or cupy-cuda12x "
                "(CUDA 12); add [ctk] when no CUDA toolkit is installed"
            )
        import cupy

        try:
            count = cupy.cuda.runtime.getDeviceCount()
            return None if count else f"CuPy {cupy.__version__} is installed but finds no GPU"
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return (
                f"CuPy {cupy.__version__} is installed but finds no usable GPU ({error}); check "
                "nvidia-smi and that the driver is new enough for the CUDA version of the wheel"
            )

    @classmethod
    def accelerators(cls) -> tuple[str, ...]:
        return cls.devices()

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        if cls.why_not():
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
    def of(cls, array: Any) -> str:
        return f"cupy:{array.device.id}"

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        with self.device:
            if isinstance(values, self._cupy.ndarray):
                copied: Array = self._cupy.array(values, dtype=dtype, order="C", copy=True)
            else:
                copied = self._cupy.asarray(native_copy(values, dtype))
            return copied

    def to_numpy(self, array: Any) -> HostArray:
        return native_copy(self._cupy.asnumpy(array))

    def copy(self, array: Any) -> Array:
        with self.device:
            copy: Array = array.copy()
            return copy

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
