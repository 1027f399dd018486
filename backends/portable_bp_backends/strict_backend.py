"""array-api-strict: the standard's own referee. Slow on purpose; for tests."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray
from portable_bp.backend import Backend
from portable_bp.processes import sum_over_processes
from portable_bp_backends._host import native_copy

_DEVICES = ("CPU_DEVICE", "device1", "device2", "no_float64", "no_x64")


class StrictBackend(Backend):
    """array-api-strict on one of its pretended devices (``strict:device1``)."""

    name = "strict"
    modules = ("array_api_strict",)
    referee = True
    distributions = ("array-api-strict",)

    def __init__(self, device: str) -> None:
        import array_api_strict

        self.xp = ModuleType(array_api_strict.__name__)
        self.xp.__dict__.update(vars(array_api_strict), sum_over_processes=self._summed)
        self.device = array_api_strict.Device(device)
        self.spec = "strict" if device == "CPU_DEVICE" else f"strict:{device}"
        if device == "no_x64":
            self.index_dtype = "int32"

    def _summed(self, flat: Any, *, ordered: bool = False) -> Any:
        return self.asarray(sum_over_processes(self.to_numpy(flat), ordered=ordered))

    @classmethod
    def unavailable_reason(cls) -> str | None:
        if importlib.util.find_spec("array_api_strict") is None:
            return "array-api-strict is not installed: pip install array-api-strict"
        return None

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        if cls.unavailable_reason():
            return ()
        import array_api_strict

        usable = []
        for device in _DEVICES:
            with suppress(ValueError):  # which devices there are depends on the release
                array_api_strict.Device(device)
                usable.append("strict" if device == "CPU_DEVICE" else f"strict:{device}")
        return tuple(usable)

    @classmethod
    def from_device(cls, device: str) -> Backend:
        spec = f"strict:{device}" if device not in ("", "CPU_DEVICE") else "strict"
        if spec not in cls.devices():
            raise ValueError(f"array-api-strict has the devices {', '.join(cls.devices())}")
        return cls(device or "CPU_DEVICE")

    @classmethod
    def spec_of(cls, array: Any) -> str:
        device = str(array.device).rpartition("('")[2].rstrip("')") or "CPU_DEVICE"
        return "strict" if device == "CPU_DEVICE" else f"strict:{device}"

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        if getattr(values, "__array_namespace__", None) and not hasattr(values, "__array__"):
            values = self.to_numpy(values)
        if type(values).__module__.startswith("array_api_strict"):
            values = self.to_numpy(values)
        array: Array = self.xp.asarray(native_copy(values, dtype), device=self.device)
        return array

    def dtype(self, name: str) -> Any:
        known = self.xp.__array_namespace_info__().dtypes(device=self.device)  # type: ignore[attr-defined]
        if str(name) not in known:
            raise TypeError(f"{self.spec} has no {name}; it has {', '.join(known)}")
        return super().dtype(name)

    def scope(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")  # as the NumPy adapter: it computes with NumPy

    def to_numpy(self, array: Any) -> HostArray:
        import array_api_strict

        on_host = array.to_device(array_api_strict.Device("CPU_DEVICE"))
        return native_copy(on_host)
