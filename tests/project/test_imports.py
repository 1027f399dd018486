"""What an import loads, who imports whom, and that the public names are what they say."""

from __future__ import annotations

import subprocess
import sys

import portable_bp

LIBRARIES = ("numpy", "cupy", "torch", "jax", "array_api_strict", "sklearn", "scipy", "click", "rich",
             "pyarrow", "matplotlib", "safetensors")  # fmt: skip


def loaded(code):
    probe = f"{code}\nimport sys\nprint(*(m for m in {LIBRARIES!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_library():
    assert loaded("import portable_bp") == set()
    assert loaded("import portable_bp.equations.network") == set()


def test_training_on_numpy_loads_no_other_array_library():
    code = """
import numpy as np, portable_bp
net = portable_bp.MLP([2, 3, 1])
portable_bp.fit(net, np.zeros((4, 2)), np.zeros(4), epochs=1)
"""
    assert loaded(code) <= {"numpy", "scipy"}


def test_the_estimators_are_loaded_when_they_are_asked_for():
    """dir() and ``import *`` name and load nothing of scikit-learn's."""
    assert loaded("from portable_bp import *; import portable_bp; dir(portable_bp)") <= {"numpy"}
    assert loaded("import portable_bp; portable_bp.fit; portable_bp.MLP") <= {"numpy"}
    assert "sklearn" in loaded("from portable_bp import MLPClassifier, MLPRegressor")
    from portable_bp import MLPClassifier, estimators

    assert MLPClassifier is estimators.MLPClassifier
    assert {"MLPClassifier", "MLPRegressor"} <= set(dir(portable_bp))


def test_without_scikit_learn_the_estimators_say_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
from portable_bp import *
try:
    from portable_bp import MLPClassifier
except ImportError as error:
    assert "portable-bp[sklearn]" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_naming_the_adapters_loads_no_library_of_theirs():
    assert loaded("from portable_bp.backend.registry import adapters; adapters()") <= {"numpy"}


def test_every_public_name_is_there_and_documented():
    assert sorted(portable_bp.__all__) == sorted(portable_bp._HOME)
    for name in portable_bp.__all__:
        assert getattr(portable_bp, name).__doc__, f"{name} has no docstring"
    assert set(portable_bp.__all__) <= set(dir(portable_bp))
