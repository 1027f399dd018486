"""NVIDIA's own compiler, which needs no device, on every text that CuPy made of our groups."""

import ctypes
import importlib.util
import re
from pathlib import Path

import cupy
import numpy as np
import pytest

from portable_bp_backends.cupy_backend import CupyBackend
from tests.emulated_gpu import build
from tests.emulated_gpu.install import nvrtc
from tests.gpu.test_groups import GROUPS, TRACED, operands

ARCHITECTURES = (75, 80, 90, 100, 120)


def test_the_few_are_there():
    assert set(FEW) <= TRACED.keys()


@pytest.fixture(scope="module")
def library():
    places = importlib.util.find_spec("nvidia").submodule_search_locations
    found = sorted(p for place in places for p in Path(place).glob("*/lib/libnvrtc.so.13*"))
    return ctypes.CDLL(str(found[0]))


def ptx(library, text, architecture):
    """The text compiled; an error has the compiler's words."""
    text = re.sub(r"#include .cupy/b?float16.cuh.", "", text)  # CUDA's own headers are not here
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    options = [*build.includes(), f"-arch=compute_{architecture}", "-ftz=true", "--std=c++17",
               "--device-as-default-execution-space"]  # fmt: skip
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = library.nvrtcCompileProgram(program, len(options), given)
    what = "PTX" if status == 0 else "ProgramLog"
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    out = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, out)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, out.value.decode()[:2000]
    return out.value.decode()


def text_of(name, dtype):
    """The CUDA text of one group."""
    backend = CupyBackend(0)  # its own kernels; CuPy may know their text already
    formula = TRACED[name]
    given = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in operands(formula, dtype)]
    backend.xp.portable_bp_kernel(formula)(*given)
    own = [t for t in nvrtc.texts.values() if f"portable_bp_{formula.__name__}(" in t]
    return [t for t in own if ("CArray<double" in t) == (dtype == "float64")]


FEW = ("relu", "_d_leaky_relu", "exp_shifted", "_cross_entropy", "_adam", "_add_l2")
"""The default run takes these; all of them, for every architecture, are slow."""


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in TRACED]
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_every_group_compiles_and_stays_in_its_dtype(library, name, dtype):
    texts = text_of(name, dtype)
    assert texts
    for text in texts:
        assert (".f64" in ptx(library, text, 90)) == (dtype == "float64")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_group_compiles_for(library, architecture):
    for name in TRACED:
        for dtype in ("float32", "float64"):
            for text in text_of(name, dtype):
                ptx(library, text, architecture)


def test_the_random_words_compile(library):
    backend = CupyBackend(0)
    backend.xp.portable_bp_kernel(GROUPS["philox4x32"])(
        *(cupy.zeros(4, "uint32") for _ in range(6))
    )
    # More than one where tests before this one drew words for arrays of other forms.
    texts = [t for t in nvrtc.texts.values() if "portable_bp_philox4x32(" in t]
    assert texts
    for text in texts:
        assert ".f64" not in ptx(library, text, 75)
