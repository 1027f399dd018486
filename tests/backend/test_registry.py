"""Names, devices, the order of selection, and what each error says."""

from __future__ import annotations

import importlib.metadata
import sys
import threading

import array_api_strict
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import portable_bp
from portable_bp.backend import Backend, registry
from portable_bp.errors import (
    BackendError,
    BackendNotInstalledError,
    BackendUnavailableError,
    MixedBackendError,
)
from portable_bp_backends import cupy_backend


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv(registry.VARIABLE, raising=False)


def test_names():
    assert portable_bp.get_backend("numpy").spec == "numpy"
    assert portable_bp.get_backend("torch:cpu").spec == "torch"
    assert portable_bp.get_backend("jax").spec == "jax"
    assert portable_bp.get_backend("strict:device1").spec == "strict:device1"
    backend = portable_bp.get_backend("torch")
    assert portable_bp.get_backend(backend) is backend
    assert {"numpy", "torch", "jax", "strict"} <= set(portable_bp.available_backends())
    for spec in portable_bp.available_backends():
        assert portable_bp.get_backend(spec).spec == spec


def test_unknown_name_suggests_the_near_one():
    with pytest.raises(BackendError, match=r"unknown backend 'cuppy'; did you mean 'cupy'\?"):
        portable_bp.get_backend("cuppy")
    with pytest.raises(TypeError, match="backend must be a string"):
        portable_bp.get_backend(3)


@pytest.mark.parametrize("spec", ["cpu", "CPU", " cpu ", "cpu:0", "NumPy", "numpy "])
def test_the_cpu_is_numpy(spec, monkeypatch):
    assert portable_bp.get_backend(spec).spec == "numpy"
    with portable_bp.use_backend("torch"), portable_bp.use_backend(spec):
        assert registry.resolve(None).spec == "numpy"
    monkeypatch.setenv(registry.VARIABLE, spec)
    assert registry.resolve(None).spec == "numpy"
    assert portable_bp.get_backend("Torch: CPU").spec == "torch"


class Gpu(Backend):
    """A library with two GPUs, told by their names."""

    name = "other"
    modules = ("numpy",)
    priority = 5
    unavailable_reason = classmethod(lambda cls: None)
    devices = accelerators = classmethod(lambda cls: ("other:cuda:0", "other:cuda:1"))
    from_device = classmethod(lambda cls, device: cls(device))
    spec_of = asarray = to_numpy = None

    def __init__(self, device):
        self.spec = f"other:{device}"


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(adapters)``: the world has these adapters."""

    def set_(adapters):
        monkeypatch.setattr(registry, "adapters", lambda: adapters)
        registry._load.cache_clear()

    yield set_
    monkeypatch.undo()
    registry._load.cache_clear()


def test_cuda_and_gpu_are_the_first_usable_gpu(gpus):
    first = type("First", (Gpu,), {"name": "first", "priority": 9})
    first.accelerators = classmethod(lambda cls: ())
    gpus({"numpy": registry.adapters()["numpy"], "first": first, "other": Gpu})
    for spec in ("cuda", "CUDA", " gpu", "GPU:0", "cuda:0", "auto"):
        assert portable_bp.get_backend(spec).spec == "other:cuda:0"
    assert portable_bp.get_backend("cuda:1").spec == "other:cuda:1"
    with portable_bp.use_backend("gpu"):
        assert registry.resolve(None).spec == "other:cuda:0"
    with pytest.raises(BackendUnavailableError, match=r"'cuda:2'.*here are other:cuda:0"):
        portable_bp.get_backend("cuda:2")


def test_cuda_where_there_is_none_says_what_is_missing(gpus):
    """Which error is decided by what is installed, not by the words of the reason."""
    none = type("Gone", (Gpu,), {"name": "gone", "modules": ("no_such_library_at_all",)})
    none.accelerators = classmethod(lambda cls: ())
    none.unavailable_reason = classmethod(lambda cls: "get it from example")
    numpy = registry.adapters()["numpy"]
    gpus({"numpy": numpy, "gone": none})
    for spec in ("cuda", "gpu:1", "gone"):
        with pytest.raises(BackendNotInstalledError, match=r"get it from example\. Usable here"):
            portable_bp.get_backend(spec)
    broken = type("Broken", (none,), {"modules": ("numpy",)})
    broken.unavailable_reason = classmethod(lambda cls: "the driver is not installed")
    gpus({"numpy": numpy, "gone": none, "broken": broken})
    for spec in ("cuda", "broken"):
        with pytest.raises(BackendUnavailableError, match="the driver is not installed"):
            portable_bp.get_backend(spec)


def test_a_bad_name_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv(registry.VARIABLE, "pytorch")
    with pytest.raises(
        BackendError, match=r"PORTABLE_BP_BACKEND is 'pytorch'.*did you mean 'torch'"
    ):
        registry.resolve(None)
    monkeypatch.setenv(registry.VARIABLE, " ")
    assert registry.resolve(None).spec == "numpy"


def test_device_that_does_not_exist():
    with pytest.raises(BackendUnavailableError, match="NumPy has one device"):
        portable_bp.get_backend("numpy:1")
    with pytest.raises(BackendUnavailableError, match="this machine has"):
        portable_bp.get_backend("jax:cpu:99")
    with pytest.raises(BackendUnavailableError, match="is not one of"):
        portable_bp.get_backend("torch:nonsense")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
def test_torch_without_cuda_says_so():
    with pytest.raises(BackendUnavailableError, match="build has no CUDA"):
        portable_bp.get_backend("torch:cuda")


@pytest.mark.parametrize("name", ["cupy", "torch", "jax", "strict"])
def test_a_missing_library_says_what_to_install(name, monkeypatch):
    adapter = registry.adapters()[name]
    module = {"strict": "array_api_strict"}.get(name, name)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m, *a: None if m == module else find(m, *a)
    )
    registry._load.cache_clear()
    try:
        assert "pip install" in adapter.unavailable_reason()
        with pytest.raises(BackendNotInstalledError, match=r"pip install .* Usable here: .*numpy"):
            portable_bp.get_backend(name)
        assert name not in portable_bp.available_backends()
        assert issubclass(BackendNotInstalledError, ImportError)
    finally:
        registry._load.cache_clear()


def test_cupy_installed_without_a_driver(monkeypatch):
    """What CuPy answers on a machine without a driver, as CuPy 14.2 was seen to answer."""

    class Runtime:
        class CUDARuntimeError(RuntimeError):
            pass

        @classmethod
        def getDeviceCount(cls):
            raise cls.CUDARuntimeError(
                "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA "
                "runtime version"
            )

    class Cupy:
        __version__ = "14.2.0"
        __spec__ = importlib.machinery.ModuleSpec("cupy", None)

        class cuda:
            runtime = Runtime

    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    registry._load.cache_clear()
    with pytest.raises(
        BackendUnavailableError, match=r"finds no usable GPU .*insufficient.*check nvidia-smi"
    ):
        portable_bp.get_backend("cupy")
    monkeypatch.setattr(Runtime, "getDeviceCount", classmethod(lambda cls: 1))
    monkeypatch.setattr(cupy_backend, "_missing_library", lambda cupy: None)
    with pytest.raises(
        BackendUnavailableError, match=r"cupy:3 does not exist: this machine has 1 CUDA device"
    ):
        portable_bp.get_backend("cupy:3")


def test_order_explicit_arrays_context_variable_numpy(monkeypatch):
    t = torch.zeros(2)
    assert registry.resolve(None).spec == "numpy"
    monkeypatch.setenv(registry.VARIABLE, "jax")
    assert registry.resolve(None).spec == "jax"
    with portable_bp.use_backend("strict"):
        assert registry.resolve(None).spec == "strict"
        assert registry.resolve(None, np.zeros(2), [1.0]).spec == "strict"
        assert registry.resolve(None, t).spec == "torch"
        assert registry.resolve("numpy", t).spec == "numpy"
        with portable_bp.use_backend("numpy"):
            assert registry.resolve(None).spec == "numpy"
        assert registry.resolve(None).spec == "strict"
        found = []
        thread = threading.Thread(target=lambda: found.append(registry.resolve(None).spec))
        thread.start()
        thread.join()
        assert found == ["jax"]
    assert registry.resolve(None).spec == "jax"


def test_arrays_tell_their_backend():
    device1 = array_api_strict.Device("device1")
    cases = {
        "torch": torch.zeros(2),
        "jax": jnp.zeros(2),
        "strict": array_api_strict.zeros(2),
        "strict:device1": array_api_strict.zeros(2, device=device1),
    }
    for spec, array in cases.items():
        assert registry.backend_of(array).spec == spec
    assert registry.backend_of(np.zeros(2), [1, 2], None) is None


def test_mixed_libraries_are_an_error_that_says_what_to_do():
    with pytest.raises(MixedBackendError, match=r"torch, jax.*say backend='torch'"):
        registry.resolve(None, torch.zeros(2), jnp.zeros(2))
    assert issubclass(MixedBackendError, TypeError)


def test_a_foreign_array_names_the_entry_point_group():
    class Foreign:
        def __array_namespace__(self):
            raise NotImplementedError

    Foreign.__module__ = "somelib.arrays"
    with pytest.raises(BackendError, match=r"portable_bp\.backends"):
        registry.owner(Foreign())


def test_auto_takes_an_accelerator_and_says_why(monkeypatch, caplog):
    spec, why = registry.choose_auto()
    accelerators = [s for a in registry.adapters().values() for s in a.accelerators()]
    if not accelerators:
        assert spec == "numpy"
        assert "no usable accelerator" in why
        assert "CuPy" in why
    adapters = registry.adapters()
    monkeypatch.setattr(adapters["jax"], "accelerators", classmethod(lambda cls: ("jax:gpu:0",)))
    monkeypatch.setattr(adapters["cupy"], "accelerators", classmethod(lambda cls: ()))
    monkeypatch.setattr(adapters["torch"], "accelerators", classmethod(lambda cls: ()))
    assert registry.choose_auto()[0] == "jax:gpu:0"
    monkeypatch.setattr(adapters["cupy"], "accelerators", classmethod(lambda cls: ("cupy:0",)))
    assert registry.choose_auto()[0] == "cupy:0"
    monkeypatch.setattr(registry, "choose_auto", lambda: ("numpy", "because"))
    with caplog.at_level("INFO", logger="portable_bp"):
        assert portable_bp.get_backend("auto").spec == "numpy"
    assert "because" in caplog.text


def test_a_plug_in_registers_by_its_entry_point_and_a_broken_one_is_left_out(monkeypatch):
    entries = [
        importlib.metadata.EntryPoint(
            "good", "portable_bp_backends.numpy_backend:NumpyBackend", ""
        ),
        importlib.metadata.EntryPoint("bad", "no_such_module:Backend", ""),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    registry.adapters.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="plug-in 'bad' .* does not load"):
            assert list(registry.adapters()) == ["good"]
    finally:
        monkeypatch.undo()
        registry.adapters.cache_clear()


@pytest.mark.parametrize("spec", ["torch", "jax", "strict", "strict:device1"])
def test_results_follow_the_input(spec):
    backend = portable_bp.get_backend(spec)
    net = portable_bp.MLP([3, 4, 2])
    there, here = net.init(seed=1, backend=spec), net.init(seed=1)
    x = np.ones((5, 3), dtype="float32")
    out = net.forward(there, backend.asarray(x))
    assert registry.backend_of(out).spec == spec
    from_host = net.forward(there, x)
    assert type(from_host) is np.ndarray
    assert from_host.dtype == np.float32
    np.testing.assert_allclose(from_host, net.forward(here, x), rtol=1e-5)
    np.testing.assert_array_equal(backend.to_numpy(out), from_host)
    loss, grads = net.loss_and_gradients(there, x, np.zeros((5, 2)))
    assert registry.backend_of(loss, grads[0][0], grads[1][1]).spec == spec


def test_parameters_are_the_same_bits_everywhere():
    net = portable_bp.MLP([5, 4, 3])
    start = net.init(seed=11)
    for spec in ("torch", "jax", "strict"):
        backend = portable_bp.get_backend(spec)
        for pair, other in zip(start, net.init(seed=11, backend=spec), strict=True):
            for p, q in zip(pair, other, strict=True):
                np.testing.assert_array_equal(p, backend.to_numpy(q))
    assert not np.array_equal(start[0][0], net.init(seed=12)[0][0])


@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict"])
def test_asarray_and_to_numpy_are_private_copies(spec):
    backend = portable_bp.get_backend(spec)
    base = np.arange(12.0, dtype="float32").reshape(3, 4)
    read_only = base.copy()
    read_only.flags.writeable = False
    for given in (base, base[::-1], base.T, base[:, ::2], np.broadcast_to(base[0], (3, 4)),
                  base.astype(">f4"), np.asfortranarray(base), read_only, base[:0]):  # fmt: skip
        expected = np.array(given, dtype="float32")
        array = backend.asarray(given)
        if given is base:
            base += 100
            np.testing.assert_array_equal(backend.to_numpy(array), expected)
            base -= 100
        back = backend.to_numpy(array)
        np.testing.assert_array_equal(back, expected)
        assert back.flags.writeable
        assert back.dtype == np.float32
        back[...] = -1
        np.testing.assert_array_equal(backend.to_numpy(array), expected)


def test_the_estimators_take_the_same_names():
    from portable_bp.estimators import MLPRegressor

    X, y = np.eye(4, dtype="float32"), np.arange(4.0)
    model = MLPRegressor(hidden_layer_sizes=2, max_iter=20, device=" CPU", tol=1e9).fit(X, y)
    assert registry.backend_of(model.coefs_[0]) is None
    if not any(a.accelerators() for a in registry.adapters().values()):
        with pytest.raises(BackendError, match="'cuda' cannot be used"):
            MLPRegressor(device="cuda").fit(X, y)
