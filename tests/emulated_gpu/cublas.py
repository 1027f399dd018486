"""cuBLAS as far as it is called: the functions behind the emulated ``libcublas``."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.emulated_gpu import device
from tests.emulated_gpu.device import CudaError, Work

_TYPES = {0: (np.dtype("f4"), (68, 75, 77)), 1: (np.dtype("f8"), (70,))}
_BITS = {77: 11, 75: 8}
"""Of a factor, where it is rounded."""
INVALID, EXECUTION, UNSUPPORTED, INTERNAL = 7, 13, 15, 14


@dataclass
class _Handle:
    device: int
    stream: int = 0
    workspace: int = 0
    size: int = 0


_handles: dict[int, _Handle] = {}


def _create(out: Any) -> int:
    out[0] = device.handle(_handles, _Handle(device.current()))
    return 0


def _destroy(handle: int) -> int:
    return 0 if _handles.pop(handle, None) else INVALID


def _set_stream(handle: int, stream: int | None) -> int:
    h = _handles[handle]
    h.stream, h.workspace, h.size = stream or 0, 0, 0  # the library's own workspace is back
    return 0


def _set_workspace(handle: int, workspace: int, size: int) -> int:
    h = _handles[handle]
    h.workspace, h.size = workspace, size
    return INVALID if workspace % 256 else 0


def _gemm(
    handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
    b: int, b_type: int, ldb: int, beta: int, c: int, c_type: int, ldc: int, compute: int, how: int,
) -> int:  # fmt: skip
    h = _handles[handle]
    if min(m, n, k) <= 0 or lda < (k if ta else m) or ldb < (n if tb else k) or ldc < m:
        return INVALID
    if not a_type == b_type == c_type or a_type not in _TYPES:
        return UNSUPPORTED
    dtype, allowed = _TYPES[a_type]
    if compute not in allowed or {ta, tb} - {0, 1}:
        return UNSUPPORTED
    stream = device.stream(h.stream)
    if h.device != stream.device:
        return EXECUTION
    x = _matrix(a, (k, m) if ta else (m, k), lda, dtype)
    y = _matrix(b, (n, k) if tb else (k, n), ldb, dtype)
    z = _matrix(c, (m, n), ldc, dtype)
    factor, kept = (_number(p, dtype) for p in (alpha, beta))
    accesses = [(*_bytes(x), False), (*_bytes(y), False), (*_bytes(z), True)]
    if h.workspace:
        accesses.append((h.workspace, h.workspace + h.size, True))
    elif stream.capture is not None:  # the library then allocates in the graph, at each launch
        device.issue(stream, Work("alloc", [], None, device.place()))

    def run() -> None:
        left, right = (x.T if ta else x), (y.T if tb else y)
        if compute in _BITS:
            left, right = (_rounded(m, _BITS[compute]) for m in (left, right))
        product = factor * np.matmul(left, right)
        z[...] = product if kept == 0 else product + kept * z

    device.counts["gemm"] += 1
    device.issue(stream, Work("gemm", accesses, run, device.place()))
    return 0


def _matrix(at: int, shape: tuple[int, int], leading: int, dtype: Any) -> Any:
    """Memory as BLAS counts it: by columns."""
    count = (shape[1] - 1) * leading + shape[0]
    flat = np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(at), dtype)
    strides = (dtype.itemsize, leading * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


def _bytes(matrix: Any) -> tuple[int, int]:
    start = matrix.ctypes.data
    reach = sum((n - 1) * s for n, s in zip(matrix.shape, matrix.strides, strict=True))
    return start, start + reach + matrix.itemsize


def _number(at: int, dtype: Any) -> Any:
    return np.frombuffer((ctypes.c_char * dtype.itemsize).from_address(at), dtype)[0]


def _rounded(factor: Any, kept: int) -> Any:
    """To ``kept`` bits: half of the last one is added, the rest cut off."""
    cut = 24 - kept
    bits = np.ascontiguousarray(factor).view(np.uint32)
    mask = np.uint32((1 << 32) - (1 << cut))
    return ((bits + np.uint32(1 << (cut - 1))) & mask).view(np.float32)


def _guarded(function: Any) -> Any:
    """An exception cannot pass through C: it is kept, and a status returned."""

    def call(*arguments: Any) -> int:
        try:
            with device.lock:
                return int(function(*arguments))
        except CudaError:
            return EXECUTION
        except device.EmulationError:
            return INTERNAL
        except Exception as error:
            device.wrong(f"cuBLAS: {type(error).__name__}: {error}")
            return INTERNAL

    return call


_INTS = [c_int] * 5
_SIGNATURES = (
    (_create, CFUNCTYPE(c_int, POINTER(c_size_t))),
    (_destroy, CFUNCTYPE(c_int, c_void_p)),
    (_set_stream, CFUNCTYPE(c_int, c_void_p, c_void_p)),
    (_set_workspace, CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)),
    (_gemm, CFUNCTYPE(c_int, c_void_p, *_INTS, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int,
                      c_int, c_void_p, c_void_p, c_int, c_int, c_int, c_int)),
)  # fmt: skip
_kept = [kind(_guarded(function)) for function, kind in _SIGNATURES]


def connect(library: Any) -> None:
    """Let the emulated ``libcublas`` ask these functions."""
    table = (c_void_p * len(_kept)).in_dll(library, "emulated_blas")
    for i, function in enumerate(_kept):
        table[i] = ctypes.cast(function, c_void_p).value
