"""Trained networks in other programs: as an ONNX file, as one Python file that needs NumPy alone, as
C99 without allocation.

The equations are not written again: the forward pass runs once on a tape (:mod:`.tape`), and each
writer turns the operations on it into its own language. So everything exports that the equations
can express, an activation of the user's own included.
"""

from portable_bp.export.c_source import to_c
from portable_bp.export.numpy_source import to_numpy
from portable_bp.export.onnx_file import OPSET, to_onnx

__all__ = ["OPSET", "to_c", "to_numpy", "to_onnx"]
