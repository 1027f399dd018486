"""``pytest -p tests.emulated_gpu.plugin``: CuPy on emulated devices, for this process alone."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator

import pytest

from tests.emulated_gpu.install import install

install()

from tests.emulated_gpu import device  # noqa: E402 (CuPy's modules are replaced first)

LIMIT = 900
"""Seconds after which a test that waits for ever ends the process, with what each thread was doing."""

_stderr = os.dup(2)  # the true one: pytest has not taken it yet


def pytest_report_header() -> str:
    return "CuPy runs on emulated devices: on the CPU, with CUDA's rules (tests/emulated_gpu)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What was wrong on the device fails the test even if somebody caught the exception."""
    del device.problems[:]
    yield
    expected = item.get_closest_marker("device_errors") is not None
    if device.problems and not expected:
        pytest.fail("on the emulated device: " + "\n".join(device.problems), pytrace=False)
    if expected and not device.problems:
        pytest.fail("nothing was wrong on the emulated device", pytrace=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    large = [item for item in items if item.get_closest_marker("large")]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "device_errors: the emulated device has to find something")
