"""NVIDIA's own compiler, which needs no device, on every text that CuPy made of our groups."""

import ctypes
import importlib.util
import re
from pathlib import Path

import cupy
import numpy as np
import pytest

import portable_bp
from portable_bp.equations import activations, losses, network, optimizers
from portable_bp.equations.activations import ACTIVATIONS
from portable_bp.equations.losses import LOSSES
from portable_bp.training.step import StepPlan, make_step
from portable_bp_backends.cupy_backend import CupyBackend
from portable_bp_backends.cupy_graph import _scatter
from portable_bp_backends.cupy_persistent.runner import OPTIONS, _xp
from portable_bp_backends.cupy_persistent.source import kernel
from portable_bp_backends.numpy_plan.trace import trace_step
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


def ptx(library, text, architecture, *more):
    """The text compiled; an error has the compiler's words."""
    text = re.sub(r"#include .cupy/b?float16.cuh.", "", text)  # CUDA's own headers are not here
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    options = [*build.includes(), f"-arch=compute_{architecture}", "-ftz=true", "--std=c++17",
               "--device-as-default-execution-space", *more]  # fmt: skip
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


def texts_of_parts(names, dtype):
    """The CUDA text of parts with these activations and losses."""
    backend = CupyBackend(0, persistent=False)
    a, W, b, y = (cupy.ones(s, dtype) for s in ((3, 4), (4, 5), 5, (3, 5)))
    for name in names:
        if name in ACTIVATIONS:
            f = ACTIVATIONS[name]()
            z, out = network.layer(a, W, b, f, xp=backend.xp)
            f.vjp(y, z, out, backend.xp)
        else:
            loss = LOSSES[name]()
            for f in (ACTIVATIONS[loss.output](), ACTIVATIONS["sigmoid"]()):
                losses.shared_loss(loss, f, y, y, y, 0.5, xp=backend.xp)
    stems = ("layer", "scaled", "logits", "loss", "softmax")
    number = {"float32": "float", "float64": "double"}[dtype]
    texts = [
        t for t in nvrtc.texts.values()
        if re.search(rf"portable_bp_({'|'.join(stems)})_\w+\(", t)
        and (f"CArray<{number}" in t or f"typedef {number} T;" in t)
    ]  # fmt: skip
    assert len(texts) >= len(names)
    return texts


def test_parts_compile_and_stay_in_their_dtype(library):
    for text in texts_of_parts(("relu", "softmax", "softmax_cross_entropy"), "float32"):
        assert ".f64" not in ptx(library, text, 90)


def test_the_kernel_that_writes_the_losses_compiles(library):
    rows, losses = cupy.arange(16), [cupy.zeros(1, "float32") for _ in range(16)]
    _scatter(16)(rows, *losses, cupy.zeros(16, "float32"), size=16)
    (text,) = (t for t in nvrtc.texts.values() if "portable_bp_scatter_16(" in t)
    for architecture in ARCHITECTURES:
        assert ".f64" not in ptx(library, text, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_part_compiles_for_every_architecture(library, dtype):
    for text in texts_of_parts((*ACTIVATIONS, *LOSSES), dtype):
        for architecture in ARCHITECTURES:
            compiled = ptx(library, text, architecture)
            assert dtype == "float64" or ".f64" not in compiled


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


def persistent(hidden, loss, optimizer, dtype, labels=False, **options):
    """The text of a kernel of many steps; dropout, weights, penalties and clipping are in it."""
    backend = portable_bp.get_backend("numpy")
    rule = optimizers.get(optimizer)
    net = portable_bp.MLP([5, 7, 3], hidden, loss, dropout=0.2, l1=0.01, l2=0.1)
    params = net.init(0, backend, dtype=dtype)
    constants = {"counters": np.arange(20, dtype="uint32"), "classes": np.arange(3)}
    plan = StepPlan(net.equations, rule, net.dropout, 3, **constants, weighted=True, **options)
    state = params, optimizers.init(rule, params, xp=backend.xp)
    x, y, w = np.ones((8, 5), dtype), np.ones((8, 3), dtype), np.ones(8, dtype)
    numbers = [np.asarray(c, dtype) for c in rule.coefficients(1, 0.1)]
    rows = (x, np.arange(8) % 3 if labels else y, w)
    numbers = (np.asarray(1, "uint32"), *numbers)
    graphs = [
        trace_step(_xp, make_step(plan), state, tuple(r[:n] for r in rows), numbers) for n in (8, 5)
    ]
    return kernel(graphs, width=8).text


PERSISTENT = [
    (
        "gelu",
        "softmax_cross_entropy",
        "adam",
        {"labels": True, "clip_norm": 0.1, "clip_value": 1.0},
    ),
    *(
        pytest.param(a, "log_loss", "sgd", {}, marks=pytest.mark.slow)
        for a in activations.ACTIVATIONS
    ),
    *(
        pytest.param("tanh", "poisson", o, {}, marks=pytest.mark.slow)
        for o in optimizers.OPTIMIZERS
    ),
    *(pytest.param("selu", l, "adamw", {}, marks=pytest.mark.slow) for l in losses.LOSSES),
]


@pytest.mark.parametrize(("hidden", "loss", "optimizer", "options"), PERSISTENT)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_persistent_kernels_compile_and_stay_in_their_dtype(
    library, hidden, loss, optimizer, options, dtype
):
    text = persistent(hidden, loss, optimizer, dtype, **options)
    for architecture in ARCHITECTURES:
        found = ptx(library, text, architecture, *OPTIONS)
        assert (".f64" in found) == (dtype == "float64")
        assert found.count("bar.sync") == text.count("__syncthreads")
