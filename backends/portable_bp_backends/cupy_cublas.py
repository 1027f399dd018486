"""Matrix products by cuBLAS that a CUDA graph can hold.

CuPy refuses its own ``matmul`` while a stream is captured (cupy/cupy#6290). cuBLAS itself has no
objection, as long as it is given a workspace that outlives the graph. So products go through a
handle of our own, in the library that CuPy itself uses (:func:`library`): the same call as it stands
and in a graph, and so the same bits.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from ctypes import byref, c_double, c_float, c_int, c_size_t, c_void_p
from typing import Any

from portable_bp._typing import Array

WORKSPACE_BYTES = 32 * 2**20
"""What cuBLAS asks for on Hopper; for each stream, since products on two may run side by side."""

# cudaDataType, cublasComputeType, and the C type of alpha and beta.
_TYPES = {"float32": (0, 68, c_float), "float64": (1, 70, c_double)}
_ROUNDED = {"tf32": 77, "bf16": 75}
_DEFAULT_ALGORITHM = -1
_LARGEST_INT = 2**31 - 1


class CublasError(RuntimeError):
    """cuBLAS says no; the message is its own name for the reason."""


def library() -> ctypes.CDLL:
    """The cuBLAS that CuPy's own extension is linked to.

    Libraries of two CUDA versions may lie side by side, or one of them be loaded already (by PyTorch).
    CuPy's extension names its library by the major version of CUDA; what is loaded under that name is
    what we get. A search for any cuBLAS would find the other one.
    """
    from cupy_backends.cuda.api import runtime
    from cupy_backends.cuda.libs import cublas  # noqa: F401 (loads it)

    major = runtime.runtimeGetVersion() // 1000
    windows = sys.platform == "win32"
    return ctypes.CDLL(f"cublas64_{major}.dll" if windows else f"libcublas.so.{major}")


def operand(shape: tuple[int, int], strides: tuple[int, int]) -> tuple[bool, int] | None:
    """How BLAS can read a matrix where it lies: ``(transposed, leading dimension)``.

    BLAS counts by columns: memory that holds the rows of ``a`` one after the other is to it the
    matrix ``a^T``. It is asked for ``c^T = b^T a^T``, so row-major operands stay as they are, and
    those that lie column by column are transposed.

    Parameters
    ----------
    shape : (rows, columns), both positive
    strides : in entries, not bytes

    Returns
    -------
    None when neither way fits: the matrix has to be copied first.

    Examples
    --------
    >>> operand((3, 4), (4, 1)), operand((3, 4), (1, 3)), operand((3, 4), (8, 1))
    ((False, 4), (True, 3), (False, 8))
    >>> operand((3, 4), (8, 2)) is None, operand((3, 4), (0, 1)) is None
    (True, True)
    """
    (rows, columns), (down, right) = shape, strides
    if (right == 1 or columns == 1) and (down >= columns or rows == 1):
        return False, down if rows > 1 else columns
    if (down == 1 or rows == 1) and (right >= rows or columns == 1):
        return True, right if columns > 1 else rows
    return None


def arguments(
    m: int, n: int, k: int, a: tuple[bool, int], b: tuple[bool, int]
) -> tuple[tuple[bool, bool, int, int, int], tuple[int, int, int]]:
    """What GemmEx is told for the product of row-major ``a`` (m, k) and ``b`` (k, n).

    ``a`` and ``b`` as :func:`operand` gives them. Returns the operations and sizes, and the leading
    dimensions; the first matrix of the call is ``b``, the second ``a``.
    """
    (a_transposed, a_leading), (b_transposed, b_leading) = a, b
    return (b_transposed, a_transposed, n, m, k), (b_leading, a_leading, n)


class Gemm:
    """``a b`` for two matrices of float32 or float64 on the current device and stream.

    ``out``, where it is given, is of the right shape and dtype, and its rows lie one after the other.

    Parameters
    ----------
    factors : "float32", "tf32" or "bf16"
        To what the factors of float32 products are rounded: to 24, 11 or 8 bits. Sums and results
        are float32.
    """

    def __init__(self, factors: str = "float32") -> None:
        import cupy

        self._cupy, self._factors_of_float32 = cupy, factors
        self._blas = blas = library()
        blas.cublasCreate_v2.argtypes = [c_void_p]
        blas.cublasDestroy_v2.argtypes = [c_void_p]
        blas.cublasSetStream_v2.argtypes = [c_void_p, c_void_p]
        blas.cublasSetWorkspace_v2.argtypes = [c_void_p, c_void_p, c_size_t]
        matrix: list[Any] = [c_void_p, c_int, c_int]  # pointer, type, leading dimension
        blas.cublasGemmEx.argtypes = [
            c_void_p, c_int, c_int, c_int, c_int, c_int,
            c_void_p, *matrix, *matrix, c_void_p, *matrix, c_int, c_int,
        ]  # fmt: skip
        blas.cublasGetStatusName.argtypes = [c_int]
        blas.cublasGetStatusName.restype = ctypes.c_char_p
        self._handle = handle = c_void_p()
        self._check(blas.cublasCreate_v2(byref(handle)))
        weakref.finalize(self, blas.cublasDestroy_v2, handle).atexit = False
        self._factors = {name: (c(1), c(0)) for name, (_, _, c) in _TYPES.items()}
        # A stream, its workspace and the product are told to the handle in separate calls.
        self._lock = threading.Lock()
        self._workspaces: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def __call__(self, a: Any, b: Any, out: Any = None) -> Array:
        if not self._takes(a, b):
            other: Array = self._cupy.matmul(a, b, out=out)
            return other
        name = a.dtype.name
        kind, precision, _ = _TYPES[name]
        if name == "float32":
            precision = _ROUNDED.get(self._factors_of_float32, precision)
        alpha, beta = self._factors[name]
        (m, k), n = a.shape, b.shape[1]
        (a, how_a), (b, how_b) = self._readable(a), self._readable(b)
        operations, (b_leading, a_leading, c_leading) = arguments(m, n, k, how_a, how_b)
        c = self._cupy.empty((m, n), a.dtype) if out is None else out
        stream = self._cupy.cuda.get_current_stream()
        with self._lock:
            if stream not in self._workspaces:
                self._workspaces[stream] = self._workspace()
            workspace = self._workspaces[stream].ptr
            self._check(self._blas.cublasSetStream_v2(self._handle, stream.ptr))
            # After SetStream, which puts the library's own workspace back.
            self._check(self._blas.cublasSetWorkspace_v2(self._handle, workspace, WORKSPACE_BYTES))
            self._check(
                self._blas.cublasGemmEx(
                    self._handle, *operations,
                    byref(alpha), b.data.ptr, kind, b_leading, a.data.ptr, kind, a_leading,
                    byref(beta), c.data.ptr, kind, c_leading, precision, _DEFAULT_ALGORITHM,
                )
            )  # fmt: skip
        product: Array = c
        return product

    def _workspace(self) -> Any:
        try:
            return self._cupy.cuda.Memory(WORKSPACE_BYTES)
        except self._cupy.cuda.runtime.CUDARuntimeError:  # CuPy's pool may keep memory unused
            self._cupy.get_default_memory_pool().free_all_blocks()
            return self._cupy.cuda.Memory(WORKSPACE_BYTES)

    def _takes(self, a: Any, b: Any) -> bool:
        """Whether this is a product for GemmEx; anything else is CuPy's own matter."""
        return (
            a.ndim == b.ndim == 2
            and a.shape[1] == b.shape[0]
            and a.dtype == b.dtype
            and a.dtype.name in _TYPES
            and a.size > 0
            and b.size > 0
            and max(*a.shape, *b.shape) <= _LARGEST_INT
        )

    def _readable(self, a: Any) -> tuple[Any, tuple[bool, int]]:
        """The matrix, copied if it must be, and how BLAS reads it."""
        down, right = (s // a.itemsize for s in a.strides)
        how = operand(a.shape, (down, right))
        if how is None or how[1] > _LARGEST_INT:
            return self._cupy.ascontiguousarray(a), (False, a.shape[1])
        return a, how

    def _check(self, status: int) -> None:
        if status:
            raise CublasError(self._blas.cublasGetStatusName(status).decode())
