"""The narrow door: what a backend offers.

A backend decides where and how fast a step runs, never what it computes. An adapter subclasses
:class:`Backend` in a file of its own and registers under the entry-point group
``portable_bp.backends``; it never imports an equation.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as metadata_version
from types import ModuleType
from typing import Any, ClassVar

from portable_bp._tree import leaves
from portable_bp._typing import Array, HostArray, Namespace, Step, Tree
from portable_bp.backend.runner import EagerRunner, Runner
from portable_bp.processes import sum_over_processes


def extend(
    module: ModuleType,
    kernel: Callable[[Callable[..., Any]], Any],
    summed: Callable[..., Any] = sum_over_processes,
) -> Namespace:
    """A namespace with the names of a module, a hook for native kernels, and the sum over processes.

    Parameters
    ----------
    module : module
        The namespace of a library.
    kernel : function
        ``kernel(formula)`` is asked with each element-wise function of the equations and answers
        with a function of the same arrays (without ``xp``), or with None to let the equation run.
    summed : function
        What ``sum_over_processes`` is for arrays of the library; by default that for NumPy's.

    Returns
    -------
    namespace
        At the same cost as the module.
    """
    namespace = ModuleType(module.__name__)
    namespace.__dict__.update(vars(module))
    namespace.__dict__["portable_bp_kernel"] = kernel
    namespace.__dict__["sum_over_processes"] = summed
    return namespace


class Backend(ABC):
    """One array library on one device.

    Attributes
    ----------
    name : str
        The library: ``"torch"``.
    spec : str
        Library and device, as :func:`portable_bp.get_backend` takes it: ``"torch:cuda:0"``.
    xp : namespace
        The Array API namespace that is handed to the equations.
    device : object
        The library's own name for the device, as ``xp.zeros(..., device=...)`` takes it.
    index_dtype, word_dtype : str
        The integers that this device gathers with, and those that hold 32-bit random words.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    """Top-level packages whose arrays belong to this backend."""
    priority: ClassVar[int] = 0
    """``auto`` takes the usable accelerator of the highest priority."""
    referee: ClassVar[bool] = False
    """For tests, and slow on purpose: never looked at when it is about speed."""
    distributions: ClassVar[tuple[str, ...]] = ()
    """Names under which package indexes have the library, where they are not ``modules[0]``."""
    oom_messages: ClassVar[tuple[str, ...]] = ()
    """Words in a RuntimeError of the library's by which it says that memory ran out."""

    spec: str
    xp: Namespace
    device: Any
    index_dtype: str = "int64"
    word_dtype: str = "uint32"

    @classmethod
    def installed(cls) -> bool:
        """Whether the library can be imported here, usable or not; imports nothing."""
        return importlib.util.find_spec(cls.modules[0]) is not None

    @classmethod
    def version(cls) -> str | None:
        """The library's version, from the metadata of its package; imports nothing."""
        for name in cls.distributions or cls.modules[:1]:
            with suppress(PackageNotFoundError):
                return metadata_version(name)
        return None

    @classmethod
    @abstractmethod
    def unavailable_reason(cls) -> str | None:
        """None when the library can be used here, else what is missing and what to install."""

    @classmethod
    @abstractmethod
    def devices(cls) -> tuple[str, ...]:
        """The usable specs here, accelerators first; empty when there is an unavailable reason."""

    @classmethod
    def accelerators(cls) -> tuple[str, ...]:
        """Those of :meth:`devices` that are accelerators."""
        return ()

    @classmethod
    @abstractmethod
    def from_device(cls, device: str) -> Backend:
        """The backend for what stands after the colon of a spec.

        Parameters
        ----------
        device : str
            Empty for the library's default.

        Returns
        -------
        Backend
            Raises a ValueError for a device that is not there.
        """

    @classmethod
    @abstractmethod
    def spec_of(cls, array: Any) -> str:
        """The spec of the device that an array lives on.

        Parameters
        ----------
        array : array of this library
            Of any shape.

        Returns
        -------
        str
            Such as ``"torch:cuda:0"``.
        """

    @abstractmethod
    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """A private copy on this device: later changes to ``values`` never show.

        Parameters
        ----------
        values : array or nested lists
            Of this library or of NumPy.
        dtype : str, optional
            A name such as ``"float32"``; None keeps that of ``values``.

        Returns
        -------
        array
            Of this library, on this device.
        """

    @abstractmethod
    def to_numpy(self, array: Array) -> HostArray:
        """A private, writable NumPy copy.

        Parameters
        ----------
        array : array of this library
            Of any shape.

        Returns
        -------
        numpy.ndarray
            Of the same shape and dtype.
        """

    def traced(self, array: Any) -> bool:
        """Whether an array is a stand-in inside a compiler, without values to look at.

        Parameters
        ----------
        array : object
            Any array.

        Returns
        -------
        bool
            False for an array with values.
        """
        return False

    def dtype(self, name: str) -> Any:
        """This library's dtype object; refuses one that the device would silently narrow.

        Parameters
        ----------
        name : str
            Such as ``"float64"``.

        Returns
        -------
        object
            As the library's functions take it.
        """
        return getattr(self.xp, str(name))

    def has_dtype(self, name: str) -> bool:
        """Whether arrays of this dtype can be made on the device.

        Parameters
        ----------
        name : str
            Such as ``"float64"``.

        Returns
        -------
        bool
            Whether :meth:`missing_dtype` has no reason.
        """
        return self.missing_dtype(name) is None

    def missing_dtype(self, name: str) -> str | None:
        """Why the device has no arrays of this dtype.

        Parameters
        ----------
        name : str
            Such as ``"float64"``.

        Returns
        -------
        str or None
            None when it has them.
        """
        try:
            with self.scope():
                made = self.asarray([0], name)
                if made.dtype != self.dtype(name):
                    return f"{self.spec} makes {made.dtype} of {name}"
        except Exception as error:  # each library has its own
            return (str(error).splitlines() or [type(error).__name__])[0]
        return None

    @property
    def widest_float(self) -> str:
        """``"float64"``; ``"float32"`` where the device has no 64-bit numbers."""
        return "float64" if self.has_dtype("float64") else "float32"

    def copy(self, array: Array) -> Array:
        """A copy on the same device.

        Parameters
        ----------
        array : array of this library
            Of any shape.

        Returns
        -------
        array
            With memory of its own.
        """
        return self.xp.asarray(array, copy=True)

    def upload(self, values: HostArray, dtype: str) -> Array:
        """The same as :meth:`asarray`, for a thread beside the computation.

        Parameters
        ----------
        values : numpy.ndarray
            What to copy.
        dtype : str
            A name such as ``"float32"``.

        Returns
        -------
        array
            When the copy has arrived.
        """
        return self.asarray(values, dtype)

    def free_memory(self) -> int | None:
        """Bytes that could be allocated on the device now; None where that is the host's memory."""
        return None

    @classmethod
    def out_of_memory(cls, error: Exception) -> bool:
        """Whether the library says with this error that the device has no memory left.

        Parameters
        ----------
        error : Exception
            What the library raised.

        Returns
        -------
        bool
            Whether it is a MemoryError or one of :attr:`oom_messages`.

        Examples
        --------
        >>> Backend.out_of_memory(MemoryError()), Backend.out_of_memory(RuntimeError("CUDA error"))
        (True, False)
        """
        said = isinstance(error, RuntimeError) and any(w in str(error) for w in cls.oom_messages)
        return said or isinstance(error, MemoryError)

    def scope(self) -> AbstractContextManager[Any]:
        """Entered around every computation: device, precision and autograd settings.

        Returns
        -------
        context manager
            By default one that does nothing.
        """
        return nullcontext()

    def all_finite(self, tree: Tree) -> bool:
        """Whether every entry of every array of a tree is finite; one read of the device.

        Parameters
        ----------
        tree : tree of arrays
            Of this library, on this device.

        Returns
        -------
        bool
            True for an empty tree.
        """
        xp = self.xp
        flags = [xp.all(xp.isfinite(array)) for array in leaves(tree)]
        return not flags or bool(self.to_numpy(xp.all(xp.stack(flags))))

    def synchronize(self) -> None:
        """Return when all work handed to the device is done."""
        return

    def compile(self, step: Step, state: Tree) -> Runner:
        """The fastest way this backend knows to run a step, with the same numbers.

        Parameters
        ----------
        step : function
            ``step(xp, state, batch) -> (state, loss)``, pure.
        state : tree of arrays
            Where it starts; it is not changed.

        Returns
        -------
        Runner
            Bound to a private copy of the state.
        """
        return EagerRunner(self, step, state)

    def compile_function(self, f: Callable[..., Tree]) -> Callable[..., Tree]:
        """A pure function without its namespace: compiled where that pays.

        Parameters
        ----------
        f : function
            ``f(xp, *trees) -> tree``, pure as a step is.

        Returns
        -------
        function
            ``trees -> tree``, with the same numbers.
        """
        return partial(f, self.xp)

    def __repr__(self) -> str:
        return f"<portable_bp backend {self.spec}>"
