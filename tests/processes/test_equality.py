"""Several processes give what one gives: to rounding, and to the bit where that is asked for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import runs
from tests.processes.launch import run

ROUNDING = 1e-14
"""Relative to the largest parameter: sums of some thousand float64 numbers in another order."""

CHAOTIC = {"divergence": 1e-9}
"""Where every step magnifies a difference of the last bit."""


@cache
def alone(name: str) -> dict[str, Any]:
    return runs.result(name, backend="numpy")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """From engine, number of processes, backend and cases to what came out: one job for all cases."""

    @cache
    def get(engine: str, size: int, backend: str, names: tuple[str, ...]) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(engine)
        run(engine, size, "-m", "tests.processes.runs", engine, str(folder), backend, *names)
        return {name: _read(folder, name) for name in names}

    return get


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name.replace(" ", "_")
    done: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return done | {"params": np.load(path.with_suffix(".npy"))}


def _check(name: str, together: dict[str, Any]) -> None:
    one = alone(name)
    assert together["same"], "the processes do not hold the same bits"
    assert (together["stopped"], together["best"]) == (one["stopped"], one["best"])
    assert together["error"] == one["error"]
    if name == "ordered":
        assert together["params"].tobytes() == one["params"].tobytes()
        return
    scale, tolerance = np.abs(one["params"]).max(), CHAOTIC.get(name, ROUNDING)
    np.testing.assert_allclose(together["params"], one["params"], 0, tolerance * scale)
    assert together["history"].keys() == one["history"].keys()
    for column, values in one["history"].items():
        np.testing.assert_allclose(together["history"][column], values, 100 * tolerance, 1e-15)


ALL = tuple(runs.CASES)
FEW = ("optimizer adam", "weights", "ragged", "empty shares", "dropout in parts", "ordered")


@pytest.mark.parametrize("name", ALL)
def test_two_with_mpi(results: Any, name: str) -> None:
    _check(name, results("mpi", 2, "numpy", ALL)[name])


@pytest.mark.parametrize("name", FEW)
def test_four_with_mpi(results: Any, name: str) -> None:
    _check(name, results("mpi", 4, "numpy", FEW)[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ALL if n != "ordered"])
@pytest.mark.parametrize("size", [3, 4])
def test_three_and_four_in_all_cases(results: Any, name: str, size: int) -> None:
    names = tuple(n for n in ALL if n != "ordered")
    _check(name, results("mpi", size, "numpy", names)[name])


@pytest.mark.parametrize("name", FEW)
def test_two_with_torch(results: Any, name: str) -> None:
    _check(name, results("torch", 2, "numpy", FEW)[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("backend", ["torch", "jax", "strict"])
def test_other_backends(results: Any, name: str, backend: str) -> None:
    together = results("mpi", 2, backend, FEW)[name]
    if name != "ordered":
        return _check(name, together)
    # The bits are those of one process of the same backend, which adds in another order than NumPy.
    assert together["same"]
    one = runs.result(name, backend=backend)
    if backend == "jax":  # XLA compiles another program for two parts than for four
        np.testing.assert_allclose(together["params"], one["params"], 0, 1e-6)
    else:
        assert together["params"].tobytes() == one["params"].tobytes()
    return None
