"""Stand-ins for arrays and their namespace, which report each call to a trace."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NoReturn, Protocol

import numpy as np

from portable_bp._typing import Namespace
from portable_bp_backends.numpy_plan.graph import Node


class Trace(Protocol):
    """What the stand-ins report to."""

    namespace: TracingNamespace

    def record(self, name: str, call: Any, /, *args: Any, **kwargs: Any) -> Any:
        """``call(*args, **kwargs)``, noted."""

    def refuse(self, reason: str) -> NoReturn:
        """End the trace, even where the function catches the error."""


_T, _MT = operator.attrgetter("T"), operator.attrgetter("mT")


class Traced:
    """An array whose numbers are not there yet, with a shape and a dtype; nobody writes into it."""

    __slots__ = ("_trace", "fixed", "node", "value")
    __hash__ = None  # type: ignore[assignment]
    __iter__ = None

    def __init__(self, trace: Trace, node: Node, value: Any, *, fixed: bool = False) -> None:
        self._trace, self.node, self.value = trace, node, value
        self.fixed = fixed  # a NumPy scalar: an operator in place makes another one of it

    shape = property(lambda self: self.node.shape)
    dtype = property(lambda self: self.node.dtype)
    ndim = property(lambda self: len(self.node.shape))
    size = property(lambda self: self.node.size)
    device = property(lambda self: "cpu")
    T = property(lambda self: self._trace.record("T", _T, self))
    mT = property(lambda self: self._trace.record("mT", _MT, self))

    def __len__(self) -> int:
        return int(self.node.shape[0])

    def __array_namespace__(self, api_version: str | None = None) -> TracingNamespace:
        return self._trace.namespace

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """What NumPy asks when one of its own functions meets a traced array."""
        if method == "__call__":
            return self._trace.record(ufunc.__name__, ufunc, *args, **kwargs)
        name = f"{ufunc.__name__}.{method}"
        return self._trace.record(name, getattr(ufunc, method), *args, **kwargs)

    def __array_function__(self, f: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._trace.record(f.__name__, f, *args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._trace.record("getitem", operator.getitem, self, key)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._trace.refuse("it looks at the numbers of an array")

    __bool__ = __int__ = __float__ = __complex__ = __index__ = __array__ = _refuse
    item = tolist = __reduce_ex__ = _refuse

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self._trace.refuse("it writes into an array")

    def __copy__(self, *memo: Any) -> Traced:
        return self

    __deepcopy__ = __copy__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # NumPy and others ask for protocols
            raise AttributeError(name)
        self._trace.refuse(f"it uses the attribute {name!r} of NumPy's arrays")

    def __repr__(self) -> str:
        return f"Traced({self.node})"


def _add_operators() -> None:
    binary = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
        "floordiv": np.floor_divide, "mod": np.remainder, "pow": operator.pow, "matmul": np.matmul,
        "lshift": np.left_shift, "rshift": np.right_shift,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }  # fmt: skip
    compared = {
        "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal,
        "eq": np.equal, "ne": np.not_equal,
    }  # fmt: skip
    unary = {"neg": np.negative, "abs": np.absolute, "invert": np.invert, "pos": np.positive}
    for name, f in {**binary, **compared, **unary}.items():

        def direct(self: Traced, *other: Any, f: Any = f) -> Any:
            return self._trace.record(f.__name__, f, self, *other)

        def reflected(self: Traced, other: Any, f: Any = f) -> Any:
            return self._trace.record(f.__name__, f, other, self)

        def in_place(self: Traced, other: Any, f: Any = f) -> Any:
            if not self.fixed:
                self._trace.refuse("it writes into an array")
            return self._trace.record(f.__name__, f, self, other)

        setattr(Traced, f"__{name}__", direct)
        if name in binary:
            setattr(Traced, f"__r{name}__", reflected)
            setattr(Traced, f"__i{name}__", in_place)


_add_operators()


class TracingNamespace:
    """The names of an Array API namespace, with functions that note their calls."""

    def __init__(self, xp: Namespace, trace: Trace) -> None:
        self._xp, self._trace = xp, trace

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._xp, name)
        if name == "portable_bp_kernel":
            return partial(self._kernel, member)
        if isinstance(member, ModuleType):  # xp.linalg
            return TracingNamespace(member, self._trace)
        if callable(member) and not isinstance(member, type):
            # np.add.reduce and the like: NumPy itself asks the traced arrays among the arguments.
            return member if isinstance(member, np.ufunc) else self._noted(name, member)
        return member

    def _noted(self, name: str, function: Any) -> Any:
        return partial(self._trace.record, name, function)

    def _kernel(self, kernels: Callable[..., Any], group: Callable[..., Any]) -> Any:
        """A native kernel for an element-wise group is noted as one call."""
        kernel = kernels(group)
        return None if kernel is None else self._noted(f"kernel {group.__name__}", kernel)
