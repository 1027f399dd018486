"""Switches of PyTorch and JAX that a user's program has set: the numbers stay the same."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import torch

import portable_bp
from portable_bp import MLP
from portable_bp._tree import leaves
from portable_bp.estimators import MLPClassifier, MLPRegressor

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def outcomes(array: Callable[[Any], Any]) -> list[Any]:
    """What ``fit``, ``predict`` and two estimators make of the arrays of a library."""
    x, y = array(X), array(Y)
    net = MLP([4, 8, 1], loss="log_loss", dropout=0.1)
    model = portable_bp.fit(net, x, y, epochs=2, batch_size=20, validation=0.2, seed=1)
    found = [*leaves(model.params), model.predict(x), model.forward(x)]
    classifier = MLPClassifier((4,), max_iter=2, random_state=0, batch_size=20)
    regressor = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0, solver="lbfgs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two iterations do not converge
        classifier.fit(x, y)
        regressor.fit(x, array(X[:, 0]))
    found += [*classifier.coefs_, classifier.predict_proba(x), regressor.predict(x)]
    return [
        *map(portable_bp.get_backend(model.backend.spec).to_numpy, found),
        *model.history["loss"],
    ]


@cache
def plain(library: str) -> list[Any]:
    return outcomes({"torch": torch.from_numpy, "jax": jax.numpy.asarray}[library])


def check(library: str, found: list[Any], tolerance: float = 0.0) -> None:
    for a, b in zip(found, plain(library), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@contextmanager
def set_to(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
        assert get() == value, "it must be as the user left it"
    finally:
        put(before)


class Stands(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """A mode of the user's that looks on."""

    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return f(*args, **(kwargs or {}))


def precision(name: str) -> AbstractContextManager[Any]:
    return set_to(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, name)


def attribute(place: Any, value: str) -> AbstractContextManager[Any]:
    def put(value: str) -> None:
        place.fp32_precision = value

    return set_to(lambda: place.fp32_precision, put, value)


@contextmanager
def flushed() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


OF_TORCH: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "another default device": lambda: torch.device("meta"),
    "set_default_device": lambda: set_to(
        torch.get_default_device, torch.set_default_device, torch.device("meta")
    ),
    "default dtype": lambda: set_to(
        torch.get_default_dtype, torch.set_default_dtype, torch.float64
    ),
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "autocast of CUDA": lambda: torch.autocast("cuda", enabled=torch.cuda.is_available()),
    "autocast, set": lambda: set_to(
        lambda: torch.is_autocast_enabled("cpu"),
        lambda on: torch.set_autocast_enabled("cpu", on), True,
    ),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
    "deterministic algorithms": lambda: set_to(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "products in medium precision": lambda: precision("medium"),
    "products in high precision": lambda: precision("high"),
    "TF32 by attribute": lambda: attribute(torch.backends.cuda.matmul, "tf32"),
    "bfloat16 by attribute": lambda: attribute(torch.backends.mkldnn.matmul, "bf16"),
    "no mkldnn": lambda: torch.backends.mkldnn.flags(enabled=False),
    "denormals flushed": flushed,
    "a function mode": Stands,
    "a seed": lambda: set_to(torch.initial_seed, torch.manual_seed, 7),
}  # fmt: skip


QUICK = {
    "another default device", "default dtype", "autocast to bfloat16", "inference mode",
    "deterministic algorithms", "products in medium precision", "TF32 by attribute",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.filterwarnings("ignore:Please use the new API")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OF_TORCH]
)
def test_switches_of_torch(name: str) -> None:
    plain("torch")
    with OF_TORCH[name]():
        # Without mkldnn another library multiplies, and rounds otherwise.
        check("torch", outcomes(torch.from_numpy), 1e-4 if name == "no mkldnn" else 0.0)


def test_gradients_that_a_user_wants() -> None:
    """Tensors that require gradients are data like any other."""
    check("torch", outcomes(lambda a: torch.from_numpy(a).requires_grad_(a.dtype.kind == "f")))


UNUSUAL: dict[str, Callable[[Any], Any]] = {
    "COO": lambda t: t.to_sparse(),
    "CSR": lambda t: t.to_sparse_csr(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t[:3], t[3:]], layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_that_are_no_plain_blocks(kind: str) -> None:
    t, y = torch.from_numpy(X), torch.from_numpy(Y)
    model = portable_bp.fit(MLP([4, 2], loss="softmax_cross_entropy"), t, y, epochs=1)
    fitted = MLPClassifier((2,), max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(t, y)
        odd = UNUSUAL[kind](t)
    for use in (
        lambda: portable_bp.fit(model.net, odd, y, epochs=1),
        lambda: model.predict(odd),
        lambda: MLPClassifier((2,)).fit(odd, y),
        lambda: fitted.predict(odd),
    ):
        with pytest.raises(TypeError, match=r"tensors are not supported|X is a sparse tensor"):
            use()


OF_JAX: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "transfer guard": lambda: jax.transfer_guard("disallow"),
    "transfer guard, explicit": lambda: jax.transfer_guard("disallow_explicit"),
    "transfer guard, one way": lambda: jax.transfer_guard_device_to_host("disallow_explicit"),
    "precision of products": lambda: jax.default_matmul_precision("bfloat16"),
    "nans": lambda: jax.debug_nans(True),
    "infinities": lambda: jax.debug_infs(True),
    "no jit": lambda: jax.disable_jit(),
    "leaks": lambda: jax.checking_leaks(),
    "default device": lambda: jax.default_device(jax.devices("cpu")[0]),
}


@contextmanager
def all_of_jax() -> Iterator[None]:
    with ExitStack() as stack:
        for name, setting in OF_JAX.items():
            if name != "leaks":
                stack.enter_context(setting())
        yield


SETTINGS = {"all at once": all_of_jax, **OF_JAX}


@pytest.mark.parametrize(
    "name",
    [n if n == "all at once" else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS],
)
def test_switches_of_jax(name: str) -> None:
    plain("jax")
    arrays = {a.tobytes(): jax.numpy.asarray(a) for a in (X, Y, X[:, 0])}
    with SETTINGS[name]():
        check("jax", outcomes(lambda a: arrays[a.tobytes()]))


TWO_DEVICES = """
import jax, numpy as np, portable_bp
X = np.random.default_rng(0).standard_normal((20, 4)).astype("float32")
net = portable_bp.MLP([4, 3, 1])
def loss():
    return portable_bp.fit(net, X, X[:, :1], epochs=2, backend="jax").history["loss"]
plain = loss()
with jax.default_device(jax.devices()[1]):
    assert loss() == plain
    model = portable_bp.fit(net, X, X[:, :1], epochs=2, backend="jax:cpu:1")
    assert {d.id for p in model.params[0] for d in p.devices()} == {1}
print(len(jax.devices()))
"""


@pytest.mark.slow
def test_another_default_device_of_jax() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES], env=environment(flags), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]


def environment(extra: dict[str, str]) -> dict[str, str]:
    import os

    return os.environ | extra
