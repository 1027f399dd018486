"""NumPy: arrays in the host's own memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import array_api_compat.numpy
import numpy as np

from portable_bp._typing import HostArray, Step, Tree
from portable_bp.backend import Backend, Runner, extend
from portable_bp_backends._host import native_copy
from portable_bp_backends.numpy_plan import PlanFunction, PlanOptions, PlanRunner


@cache
def _kernels() -> dict[str, Callable[..., Any]]:
    try:
        from scipy.special import erfc
    except ImportError:
        return {}
    return {"erfc": erfc}


class NumpyBackend(Backend):
    """The reference: the CPU, with NumPy alone."""

    name = "numpy"
    modules = ("numpy",)
    spec = "numpy"
    device = "cpu"
    xp = extend(array_api_compat.numpy, lambda formula: _kernels().get(formula.__name__))

    @classmethod
    def unavailable_reason(cls) -> str | None:
        return None

    @classmethod
    def devices(cls) -> tuple[str, ...]:
        return ("numpy",)

    @classmethod
    def from_device(cls, device: str) -> Backend:
        if device not in ("", "cpu"):
            raise ValueError(f"NumPy has one device, 'cpu'; got {device!r}")
        return cls()

    @classmethod
    def spec_of(cls, array: Any) -> str:
        return "numpy"

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        return native_copy(values, dtype)

    def to_numpy(self, array: Any) -> HostArray:
        return native_copy(array)

    def copy(self, array: Any) -> Any:
        return native_copy(array)

    def scope(self) -> AbstractContextManager[Any]:
        # What is not finite is reported by the training loop, with its cause; a user's
        # np.seterr(all="raise") would stop at a harmless underflow.
        return np.errstate(all="ignore")

    def compile(self, step: Step, state: Tree) -> Runner:
        return PlanRunner(self, step, state, PlanOptions())

    def compile_function(self, f: Callable[..., Tree]) -> Callable[..., Tree]:
        return PlanFunction(self.xp, f)
