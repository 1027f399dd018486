"""Devices are required by their own name alone: ``--require-backends torch`` does not ask for a GPU."""

import pytest

from portable_bp import BackendError, get_backend


@pytest.fixture
def where(spec, pytestconfig):
    """The backend, or a skip with the reason; a failure where ``--require-backends`` names the spec.

    CuPy runs all steps from graphs: persistent kernels have tests of their own.
    """
    required = (pytestconfig.getoption("--require-backends") or "").split(",")
    try:
        backend = get_backend(spec)
    except BackendError as error:
        if spec in required:
            pytest.fail(f"required: {error}", pytrace=False)
        pytest.skip(str(error))
    if backend.name == "cupy":
        return type(backend)(backend.device.id, persistent=False)
    return backend
