"""Which backends the suite runs on, and which of them it may not do without.

    pytest --backends numpy,torch,jax,strict,cupy --require-backends numpy,torch

A test that takes the fixture ``where`` runs once on each of ``--backends``, or on each ``spec`` that
it is parametrised with. One that cannot be used here is skipped with the reason, unless it is
required: then the test fails. What a backend lacks stands in ``portable_bp.testing.capabilities``; a
test names what it needs with ``@pytest.mark.needs("float64")``.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytest

from portable_bp import Backend, BackendError, get_backend
from portable_bp.testing.capabilities import missing
from tests.helpers import jax_64_bits

# JAX reads it when it is imported. Tests with a ``dtype`` set what that dtype needs, see ``width``.
os.environ.setdefault("JAX_ENABLE_X64", "1")

BACKENDS = "numpy,torch,jax,strict,cupy"
REQUIRED = "numpy,torch,jax,strict"


@pytest.fixture(autouse=True)
def _print_options() -> Iterator[None]:
    """Pages and examples set how NumPy prints; the next test prints as it comes."""
    import numpy as np

    before = np.get_printoptions()
    yield
    np.set_printoptions(**before)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("portable_bp")
    group.addoption("--backends", default=BACKENDS, help=f"specs to test (default {BACKENDS})")
    group.addoption(
        "--require-backends",
        default=None,
        help="specs that must be usable here: a missing one fails instead of skipping "
        f"(default: those of {REQUIRED} that are in --backends)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(capability): the backend must have it, else skip")
    # For what runs in its background a shell has Ctrl-C ignored, here and in the processes we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    known = specs(config)
    for spec in required(config):
        if spec not in known:
            raise pytest.UsageError(f"--require-backends has {spec!r}, --backends has it not")


def specs(config: pytest.Config) -> list[str]:
    return [s.strip() for s in config.getoption("--backends").split(",") if s.strip()]


def required(config: pytest.Config) -> list[str]:
    given = config.getoption("--require-backends")
    if given is None:
        return [s for s in REQUIRED.split(",") if s in specs(config)]
    return [s.strip() for s in given.split(",") if s.strip()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = any(m.args[0] == "spec" for m in metafunc.definition.iter_markers("parametrize"))
    if "where" in metafunc.fixturenames and not own:
        metafunc.parametrize("spec", specs(metafunc.config), scope="session")


def width(spec: str, dtype: str | None) -> AbstractContextManager[Any]:
    """float32 is tested in JAX as users have it, without 64-bit numbers; float64 with them."""
    if dtype is None or not spec.startswith("jax"):
        return nullcontext()
    return jax_64_bits(dtype == "float64")


@pytest.fixture
def usable(pytestconfig: pytest.Config) -> Callable[[str], Backend]:
    """``usable(spec)``: the backend, or a skip with the reason; a failure where it is required."""

    def get(spec: str) -> Backend:
        try:
            return get_backend(spec)
        except BackendError as error:
            # Who requires a library requires it on the CPU; a GPU has to be asked for.
            library = spec.partition(":")[0] if missing(spec, "accelerator") else spec
            if {spec, library} & set(required(pytestconfig)):
                pytest.fail(f"required: {error}", pytrace=False)
            pytest.skip(str(error))

    return get


@pytest.fixture
def entered(
    request: pytest.FixtureRequest, usable: Callable[[str], Backend]
) -> Iterator[Callable[[str, str | None], Backend]]:
    """``entered(spec, dtype)``: the backend, in JAX with 64-bit numbers if the dtype is float64."""
    with ExitStack() as stack:

        def enter(spec: str, dtype: str | None) -> Backend:
            backend = usable(spec)
            needed = [m.args[0] for m in request.node.iter_markers("needs")]
            for capability in needed + (["float64"] if dtype == "float64" else []):
                reason = missing(backend.spec, capability)
                if reason:
                    pytest.skip(f"{backend.spec} lacks {capability!r}: {reason}")
            stack.enter_context(width(spec, dtype))
            return backend

        yield enter


@pytest.fixture
def where(
    request: pytest.FixtureRequest, spec: str, entered: Callable[[str, str | None], Backend]
) -> Backend:
    """Each of ``--backends``, ready for the test's ``dtype``."""
    return entered(spec, request.node.callspec.params.get("dtype"))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, Iterable[str]], None]:
    """``report(fault, outcomes)``: count what became of each fault, and allow no wrong one.

    The figures are rows of the table in ``docs/reliability.md``.
    """

    def record(fault: str, outcomes: Iterable[str]) -> None:
        count = Counter(outcomes)
        request.node.user_properties.append(("figures", [fault, dict(count)]))
        assert count.total() > 0
        assert set(count) <= {"whole", "refused"}, count

    return record
