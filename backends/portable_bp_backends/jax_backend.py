"""JAX: immutable arrays, compiled by XLA."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, Runner, extend
from portable_bp.processes import sum_over_processes
from portable_bp_backends._host import native_copy

_WIDE = ("float64", "int64", "uint64", "complex128")


def _switched(jax: Any, device: Any) -> Iterator[AbstractContextManager[Any]]:
    """What undoes the switches that have been set."""
    config = jax.config
    if config.jax_numpy_dtype_promotion != "standard":
        yield jax.numpy_dtype_promotion("standard")
    if config.jax_numpy_rank_promotion != "allow":
        yield jax.numpy_rank_promotion("allow")
    for way in ("host_to_device", "device_to_device", "device_to_host"):
        if getattr(config, f"jax_transfer_guard_{way}") not in (None, "allow"):
            yield getattr(jax, f"transfer_guard_{way}")("allow")
    if config.jax_default_device not in (None, device):
        yield jax.default_device(device)
    if config.jax_debug_nans:
        yield jax.debug_nans(False)
    if config.jax_debug_infs:
        yield jax.debug_infs(False)
    if config.jax_disable_jit:
        yield jax.disable_jit(False)


@contextmanager
def _entered(others: list[AbstractContextManager[Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for other in others:
            stack.enter_context(other)
        yield


class JaxBackend(Backend):
    """JAX on one device (``jax``, ``jax:gpu``, ``jax:gpu:1``).

    Notes
    -----
    What the user's program has set does not change our numbers. While we compute,

    - ``jax_default_matmul_precision`` is "highest";
    - ``jax_numpy_dtype_promotion`` is "standard", ``jax_numpy_rank_promotion`` is "allow";
    - ``jax_transfer_guard`` and its parts are "allow": data have to go to the device and back;
    - ``jax_default_device`` is our own device;
    - ``jax_debug_nans``, ``jax_debug_infs`` and ``jax_disable_jit`` are off: a branch that is not
      taken may be NaN, and a run that diverges ends with an error of ours.

    ``jax_enable_x64`` stays: without it there is no float64, and an error says so. Random seeds and
    ``jax_default_prng_impl`` are not used: all random bits are our own.
    """

    name = "jax"
    modules = ("jax", "jaxlib")
    priority = 10
    index_dtype = "int32"
    oom_messages = ("RESOURCE_EXHAUSTED",)

    def __init__(self, device: Any, spec: str) -> None:
        import jax
        import jax.experimental
        from jax.scipy.special import erfc

        self._jax = jax
        kernels: dict[str, Callable[..., Any]] = {"erfc": erfc}
        self.xp = extend(jax.numpy, lambda formula: kernels.get(formula.__name__), self._summed)
        self.device = device
        self.spec = spec

    def _summed(self, flat: Any, *, ordered: bool = False) -> Any:
        if not self.traced(flat):
            return self.asarray(sum_over_processes(self.to_numpy(flat), ordered=ordered))
        form = self._jax.ShapeDtypeStruct(flat.shape, flat.dtype)

        def on_host(flat: Any) -> HostArray:
            return sum_over_processes(np.array(flat), ordered=ordered)

        return self._jax.experimental.io_callback(on_host, form, flat, ordered=True)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        if importlib.util.find_spec("jax") is None:
            return "JAX is not installed: pip install jax (CPU) or 'jax[cuda13]' (NVIDIA GPU)"
        return None

    @classmethod
    def _local_devices(cls, platform: str) -> tuple[Any, ...]:
        import jax

        try:
            return tuple(jax.local_devices(backend=platform))
        except RuntimeError:  # JAX's answer for a platform it has no plug-in or no device for
            return ()

    @classmethod
    def accelerators(cls) -> tuple[str, ...]:
        if cls.unavailable_reason() or not cls._may_have_gpu():
            return ()
        return tuple(f"jax:gpu:{i}" for i, _ in enumerate(cls._local_devices("gpu")))

    @classmethod
    def _may_have_gpu(cls) -> bool:
        """Whether it is worth to import JAX for a look at its devices: GPUs come by a plug-in."""
        plugins = importlib.util.find_spec("jax_plugins") or entry_points(group="jax_plugins")
        return "jax" in sys.modules or bool(plugins)

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        return () if cls.unavailable_reason() else (*cls.accelerators(), "jax")

    @classmethod
    def from_device(cls, device: str) -> Backend:
        platform, _, number = (device or "cpu").partition(":")
        platform = {"cuda": "gpu"}.get(platform, platform)
        if platform not in ("cpu", "gpu", "tpu"):
            raise ValueError(f"device {device!r} is not one of: {', '.join(cls.devices())}")
        devices = cls._local_devices(platform)
        index = int(number) if number.isdigit() else 0 if not number else -1
        if not devices and platform == "gpu":
            raise ValueError("this JAX finds no GPU; pip install 'jax[cuda13]' or 'jax[cuda12]'")
        if not 0 <= index < len(devices):
            raise ValueError(
                f"there is no device {device!r}; this machine has: {', '.join(cls.devices())}"
            )
        plain = platform == "cpu" and index == 0
        return cls(devices[index], "jax" if plain else f"jax:{platform}:{index}")

    @classmethod
    def spec_of(cls, array: Any) -> str:
        # A value inside jax.jit has no device of its own.
        device = next(iter(array.devices()), None) if hasattr(array, "devices") else None
        if device is None or (device.platform == "cpu" and device.id == 0):
            return "jax"
        platform = {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)
        return f"jax:{platform}:{device.local_hardware_id or 0}"

    def traced(self, array: Any) -> bool:
        return isinstance(array, self._jax.core.Tracer)

    def dtype(self, name: str) -> Any:
        if str(name) in _WIDE and not self._jax.config.jax_enable_x64:
            raise TypeError(
                f"JAX would silently turn {name} into {str(name).replace('64', '32')}: enable it "
                "with jax.config.update('jax_enable_x64', True) before any computation, or ask "
                "for the 32-bit type"
            )
        return super().dtype(name)

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        if isinstance(values, self._jax.Array):
            dtype = dtype or str(values.dtype)
            converted = self.xp.astype(values, self.dtype(dtype), copy=True)
            on_device: Array = self._jax.device_put(converted, self.device)
            return on_device
        # The copy becomes JAX's own memory: it may read the buffer after this call returned.
        host = native_copy(values, dtype)
        self.dtype(host.dtype.name)
        array: Array = self._jax.device_put(host, self.device)
        return array

    def to_numpy(self, array: Any) -> HostArray:
        return np.array(array, copy=True)

    def copy(self, array: Any) -> Array:
        copy: Array = self.xp.array(array, copy=True)
        return copy

    def free_memory(self) -> int | None:
        stats = self.device.memory_stats()  # None on the CPU
        return stats["bytes_limit"] - stats["bytes_in_use"] if stats else None

    def scope(self) -> AbstractContextManager[Any]:
        # JAX's own default for float32 is TF32 or bfloat16 on accelerators.
        precise: AbstractContextManager[Any] = self._jax.default_matmul_precision("highest")
        others = [*_switched(self._jax, self.device)]
        return _entered([*others, precise]) if others else precise

    def synchronize(self) -> None:
        self._jax.effects_barrier()

    def compile(self, step: Step, state: Tree) -> Runner:
        from portable_bp_backends.jax_scan import ScanRunner

        return ScanRunner(self, step, state)

    def compile_function(self, f: Callable[..., Tree]) -> Callable[..., Tree]:
        from portable_bp_backends.jax_scan import compile_function

        return compile_function(self.xp, f)
