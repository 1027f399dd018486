"""PyTorch's global switches: what a user's program has set must not change our numbers.

===========================================  ======================================================
switch                                       what becomes of it while we compute
===========================================  ======================================================
gradients, ``inference_mode``                off; results are ordinary tensors without a graph
``autocast`` (CPU, CUDA)                     off: everything stays in the dtype that was asked for
default device (``with torch.device(...)``)  our own device
``set_float32_matmul_precision``, TF32,      "highest": products of float32 in float32
``fp32_precision``
default dtype                                stays; our equations name a dtype wherever they make an
                                             array
deterministic algorithms, number of          stay: they choose among kernels, the last bits may vary
threads, mkldnn
``set_flush_denormal``                       stays: a flag of the processor, NumPy obeys it as well;
                                             numbers below 1e-38 become 0
the random generator                         is not used: all random bits are our own
sparse, quantised and nested tensors         a TypeError that says how to make an ordinary one
===========================================  ======================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch


def neutral(device: Any) -> AbstractContextManager[Any]:
    """A scope without gradients, in which none of the switches changes a number."""
    others = list(_switched(device))
    # Not inference_mode: its tensors could not be saved for a later backward pass of the user.
    return _entered(others) if others else torch.no_grad()


def _switched(device: Any) -> Iterator[AbstractContextManager[Any]]:
    """What undoes the switches that have been set."""
    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(False)
    if torch.is_autocast_enabled(device.type):
        yield torch.autocast(device.type, enabled=False)
    default = torch.empty(0).device  # quicker than to ask, and it sees every way to set it
    if default.type != "cpu" and default != device:
        yield device
    if _matmul_precision() != "highest":
        yield _highest_precision()


def _matmul_precision() -> str:
    try:
        precision: str = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the attributes `fp32_precision`
        return "by attributes"
    return precision


@contextmanager
def _highest_precision() -> Iterator[None]:
    before = _matmul_precision()
    places = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    attributes = [getattr(place, "fp32_precision", None) for place in places]
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "by attributes":
            torch.set_float32_matmul_precision(before)
        else:
            for place, value in zip(places, attributes, strict=True):
                place.fp32_precision = value


@contextmanager
def _entered(others: list[AbstractContextManager[Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for other in others:
            stack.enter_context(other)
        stack.enter_context(torch.no_grad())
        yield


def refuse_unusual(tensor: Any) -> None:
    """Refuse a tensor that is not a plain block of numbers.

    Raises
    ------
    TypeError
        For a sparse, quantised or nested tensor.
    """
    if tensor.is_nested:
        raise TypeError(
            "nested tensors are not supported: pad it, torch.nested.to_padded_tensor(t, 0)"
        )
    if tensor.is_quantized:
        raise TypeError("quantised tensors are not supported: pass tensor.dequantize()")
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"sparse tensors are not supported (layout {tensor.layout}): pass tensor.to_dense(), or "
            "a SciPy sparse matrix"
        )
