"""PyTorch: tensors on the CPU or a CUDA device, without autograd."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

from portable_bp._typing import Array, HostArray, Step, Tree
from portable_bp.backend import Backend, Runner, extend
from portable_bp_backends import _driver
from portable_bp_backends._host import native_copy


def _kernels(torch: Any) -> dict[str, Callable[..., Any]]:
    """What PyTorch computes in fewer passes over memory than the formula."""

    def adam(g: Any, m: Any, v: Any, p: Any, alpha: Any, eps: Any, beta1: Any, beta2: Any) -> Any:
        m = torch.lerp(m, g, 1 - beta1)
        if isinstance(beta2, float):
            v = torch.addcmul(beta2 * v, g, g, value=1 - beta2)
        else:  # one for each network
            v = beta2 * v + (1 - beta2) * (g * g)
        return torch.addcmul(p, alpha, m / (torch.sqrt(v) + eps), value=-1), m, v

    def d_relu(z: Any, a: Any) -> Any:
        return torch.sign(a)  # a = max(z, 0) is never negative

    return {"erfc": torch.special.erfc, "_adam": adam, "d_relu": d_relu}


def _sign(torch: Any, x: Any) -> Any:
    """The standard's sign, NaN for NaN: array_api_compat's writes in place, by a mask that a CUDA
    device has to send to the host."""
    return torch.where(torch.isnan(x), x, torch.sign(x))


class TorchBackend(Backend):
    """PyTorch on one device (``torch``, ``torch:cuda:0``).

    Parameters
    ----------
    device : str
        As ``torch.device`` takes it.
    inductor : bool
        On CUDA, pass the step through ``torch.compile`` before it goes into a graph: fewer kernels,
        the same numbers to rounding. ``fit(..., backend=TorchBackend("cuda:0", inductor=True))``.

    Notes
    -----
    Settings of the user's program (autocast, default device and dtype, precision of products, inference
    mode) do not change the numbers; ``torch_settings.py`` lists them one by one.
    """

    name = "torch"
    modules = ("torch",)
    priority = 20
    # CUDA's allocator, the CPU's, and cuBLAS or cuDNN for their workspaces.
    oom_messages = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    # PyTorch's unsigned 32-bit integers lack kernels on CUDA: the words are held in 64 bits.
    word_dtype = "int64"

    def __init__(self, device: str, *, inductor: bool = False) -> None:
        import array_api_compat.torch
        import torch

        from portable_bp_backends.torch_settings import neutral

        self._torch, self._inductor, self._neutral = torch, inductor, neutral
        kernels = _kernels(torch)
        self.xp = extend(
            array_api_compat.torch, lambda formula: kernels.get(formula.__name__), self._summed
        )
        self.xp.__dict__["sign"] = partial(_sign, torch)
        self.device = torch.device(device)
        self.spec = f"torch:{device}" if device != "cpu" else "torch"

    def _summed(self, flat: Any, *, ordered: bool = False) -> Any:
        from portable_bp_backends.torch_sum import sum_over_processes

        return sum_over_processes(flat, ordered)

    @classmethod
    def unavailable_reason(cls) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed: pip install torch"
        return None

    @classmethod
    def accelerators(cls) -> tuple[str, ...]:
        if cls.unavailable_reason() or not cls._may_have_gpu():
            return ()
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return tuple(f"torch:cuda:{i}" for i in range(count))

    @classmethod
    def _may_have_gpu(cls) -> bool:
        """Whether it is worth to import PyTorch for a look at its devices."""
        built_for_cpu = (cls.version() or "").endswith("+cpu")
        return "torch" in sys.modules or (_driver.is_there() and not built_for_cpu)

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        return () if cls.unavailable_reason() else (*cls.accelerators(), "torch")

    @classmethod
    def from_device(cls, device: str) -> Backend:
        import torch

        if device in ("", "cpu"):
            return cls("cpu")
        kind, _, number = device.partition(":")
        if kind == "cuda":
            if torch.version.cuda is None:
                raise ValueError(
                    "this PyTorch build has no CUDA (torch.version.cuda is None); "
                    "install a CUDA build from pytorch.org"
                )
            if not torch.cuda.is_available():
                raise ValueError(
                    f"PyTorch is built for CUDA {torch.version.cuda} but finds no usable GPU; "
                    "check nvidia-smi and the driver"
                )
            index = int(number) if number.isdigit() else 0 if not number else -1
            if not 0 <= index < torch.cuda.device_count():
                raise ValueError(
                    f"there is no device {device!r}; this machine has: {', '.join(cls.devices())}"
                )
            return cls(f"cuda:{index}")
        raise ValueError(f"device {device!r} is not one of: {', '.join(cls.devices())}")

    @classmethod
    def spec_of(cls, array: Any) -> str:
        from portable_bp_backends.torch_settings import refuse_unusual

        refuse_unusual(array)
        device = array.device
        if device.type == "cpu":
            return "torch"
        return f"torch:{device.type}:{device.index or 0}"

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        torch = self._torch
        target = None if dtype is None else getattr(torch, str(dtype))
        if isinstance(values, torch.Tensor):
            copied = values.detach().to(device=self.device, dtype=target, copy=True)
        else:
            # native_copy first: torch refuses negative strides and foreign byte orders.
            host = torch.from_numpy(native_copy(values, dtype))
            copied = host if self.device.type == "cpu" else host.to(self.device)
        array: Array = copied.contiguous()
        return array

    def to_numpy(self, array: Any) -> HostArray:
        return native_copy(array.detach().cpu().numpy())

    def copy(self, array: Any) -> Array:
        copy: Array = array.detach().clone()
        return copy

    def upload(self, values: HostArray, dtype: str) -> Array:
        if self.device.type != "cuda":
            return super().upload(values, dtype)
        from portable_bp_backends.torch_graph import upload

        host = self._torch.from_numpy(native_copy(values, dtype))
        sent: Array = upload(host, self.device, self._beside)
        return sent

    @cached_property
    def _beside(self) -> Any:
        """The stream of :meth:`upload`."""
        return self._torch.cuda.Stream(self.device)

    def free_memory(self) -> int | None:
        if self.device.type != "cuda":
            return None
        cuda = self._torch.cuda
        free: int = cuda.mem_get_info(self.device)[0]
        held: int = cuda.memory_reserved(self.device) - cuda.memory_allocated(self.device)
        return free + held

    def scope(self) -> AbstractContextManager[Any]:
        return self._neutral(self.device)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)

    def compile(self, step: Step, state: Tree) -> Runner:
        if self.device.type == "cuda":
            from portable_bp_backends.torch_graph import graph_runner

            return graph_runner(self, step, state, compiled=self._inductor)
        from portable_bp_backends.torch_plan import PlanRunner

        return PlanRunner(self, step, state)
