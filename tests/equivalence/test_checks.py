"""Every backend against float64 NumPy: the checks that users run too, here one test each."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portable_bp import Activation, Backend, BackendError, available_backends, get_backend
from portable_bp.backend import leaves
from portable_bp.equations import activations
from portable_bp.testing import Report, Row, check_backend, equivalence
from portable_bp.testing.compare import compare, kind_errors, norm, same_bits

DTYPES = equivalence.DTYPES
ON_EACH = [name for name, check in equivalence.CHECKS.items() if check.modes != "oracle"]


def failures(rows: Iterator[Row]) -> list[str]:
    found = list(rows)
    assert found, "nothing was compared"
    return [str(row) for row in found if not row.agrees]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ON_EACH)
def test_agrees(where: Backend, name: str, dtype: str) -> None:
    check = equivalence.CHECKS[name]
    for mode in equivalence.chosen_modes(where, check):
        assert failures(check.rows(where, dtype, mode)) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ON_EACH)
def test_agrees_compiled_and_eager(where: Backend, name: str, dtype: str) -> None:
    check = equivalence.CHECKS[name]
    for mode in equivalence.chosen_modes(where, check, thorough=True):
        assert failures(check.rows(where, dtype, mode)) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_optimiser_with_every_schedule_and_option(where: Backend, dtype: str) -> None:
    for mode in equivalence.modes(where):
        runs = equivalence.ALL_RUNS
        assert failures(equivalence.training_rows(where, dtype, mode, runs)) == []


def test_the_oracle_against_central_differences() -> None:
    rows = equivalence.difference_rows(get_backend("numpy"), "float64", "")
    assert failures(rows) == []


@pytest.mark.needs("same bits")
@pytest.mark.needs("compiled")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", equivalence.RUNS)
def test_compiled_and_eager_runs_end_with_the_same_bits(
    where: Backend, case: str, dtype: str
) -> None:
    options = equivalence.RUNS[case]
    ends = [
        equivalence.train(where, options, dtype, mode, rounded=dtype)
        for mode in ("compiled", "eager")
    ]
    bits = [[where.to_numpy(p).tobytes() for p in leaves(params)] for params, _, _ in ends]
    assert bits[0] == bits[1]
    assert ends[0][1] == ends[1][1]


# --- a comparison that cannot fail proves nothing ---------------------------------------------


def test_a_comparison_notices_library_device_dtype_shape_and_value() -> None:
    numpy, strict = get_backend("numpy"), get_backend("strict")
    device1 = get_backend("strict:device1")
    want = np.asarray([[1.0, 2.0]])
    good = device1.asarray(want, "float32")

    def row(got: Any, where: Backend = device1, dtype: str = "float32") -> Row:
        return compare("x", "", where, got, want, 1.0, dtype=dtype)

    assert row(good).agrees
    assert row(good).error == 0
    for got, note in (
        (want.astype("float32"), "an array of numpy instead of strict"),
        (strict.asarray(want, "float32"), "on strict instead of strict:device1"),
        (device1.asarray(want, "float64"), "dtype .*float64 instead of float32"),
        (device1.asarray(want[0], "float32"), r"shape \(2,\) instead of \(1, 2\)"),
        ((good, good), "2 arrays instead of 1"),
        (device1.asarray(want * math.nan, "float32"), "not finite"),
    ):
        found = row(got)
        assert not found.agrees
        assert re.search(note, found.note), found.note
    off = row(device1.asarray(want * (1 + 4 * 2.0**-24), "float32"))
    assert not off.agrees
    assert off.error == pytest.approx(4.0)
    assert list(kind_errors(numpy, np.float32(1.0), np.float64(1.0), "float32")) == []


def test_bits_are_compared_as_bits() -> None:
    assert same_bits("x", "", [np.asarray([1, 2])], [np.asarray([1, 2])]).agrees
    row = same_bits("x", "", [np.asarray([1, 2, 3])], [np.asarray([1, 5, 7])])
    assert (row.agrees, row.error) == (False, 2.0)
    assert not same_bits("x", "", [np.zeros(3)], [np.zeros(2)]).agrees


def test_the_norm_survives_huge_and_tiny_numbers() -> None:
    assert norm([np.asarray([3e200, 4e200])]) == pytest.approx(5e200)
    assert norm([np.asarray([3e-200]), np.asarray([4e-200])]) == pytest.approx(5e-200)
    assert norm([np.zeros(3)]) == 0
    assert norm([np.asarray([math.inf])]) == math.inf


# --- the report -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> Report:
    return check_backend("numpy")


def test_the_report_of_numpy(report: Report) -> None:
    assert report.agrees
    assert {r.dtype for r in report.rows} == set(DTYPES)
    text = str(report)
    assert "all" in text.splitlines()[-1]
    assert "comparisons agree" in text.splitlines()[-1]
    assert report.versions["numpy"] == np.__version__
    for what in ("activation and derivative", "gradient", "five updates", "dropout masks"):
        assert what in text


def test_the_report_as_json(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    bad = Row("gradient", "tanh", "float32", "eager", math.inf, 32.0, "dtype float64")
    broken = Report("x", "now", {}, (*report.rows, bad), {"float64": "not there"})
    broken.save(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["agrees"] is False
    assert found["skipped"] == {"float64": "not there"}
    assert found["rows"][-1] == {
        "what": "gradient", "case": "tanh", "dtype": "float32", "mode": "eager",
        "error": None, "tolerance": 32.0, "note": "dtype float64", "agrees": False,
    }  # fmt: skip
    assert len(found["rows"]) == len(report.rows) + 1
    assert "DISAGREES" in str(broken)
    assert "not compared: float64: not there" in str(broken)


def test_an_empty_report_agrees_with_nothing() -> None:
    assert not Report("x", "now", {}, (), {}).agrees


def test_a_wrong_derivative_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the backend only, as a miscompiled kernel would be."""
    strict = get_backend("strict")
    right = activations.ACTIVATIONS["tanh"]()

    def df(z: Any, a: Any, xp: Any) -> Any:
        slope = right.df(z, a, xp)  # type: ignore[misc]
        return slope * 1.0001 if type(z).__module__.startswith("array_api_strict") else slope

    monkeypatch.setitem(activations.ACTIVATIONS, "tanh", lambda: Activation(right.f, df, "tanh"))
    bad = [r for r in check_backend(strict).rows if not r.agrees]
    assert {r.what for r in bad} >= {"activation and derivative", "gradient", "deltas"}
    assert all(r.error > r.tolerance for r in bad)


def test_an_error_of_the_library_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = get_backend("strict")

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no kernel for this device\nand a long trace")

    monkeypatch.setattr(equivalence, "CHECKS", {"shapes": equivalence.Check(broken)})
    report = check_backend(strict)
    assert not report.agrees
    assert [r.note for r in report.rows] == ["RuntimeError: no kernel for this device"] * 2


def test_a_backend_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BackendError, match="unknown backend 'nonesuch'"):
        check_backend("nonesuch")


NUMPY_ONLY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"scipy", "torch", "jax", "cupy", "array_api_strict", "sklearn",
                                      "click", "rich", "pandas", "hypothesis", "pytest"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from portable_bp.testing import check_backend
report = check_backend("numpy")
assert report.agrees, report
print(len(report.rows))
"""


def test_it_works_with_numpy_alone() -> None:
    """Without SciPy erfc is the package's own: the gelu rows still agree."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NUMPY_ONLY], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 400


JAX_DEFAULT = """
import jax, numpy as np
from portable_bp import get_backend
from portable_bp.testing import equivalence
assert not jax.config.jax_enable_x64
where = get_backend("jax")
reason = where.missing_dtype("float64")
assert "jax_enable_x64" in reason, reason
for call in (lambda: where.asarray(np.zeros(2)), lambda: where.asarray(np.asarray([2**40])),
             lambda: where.asarray(np.zeros(2, "float32"), "float64")):
    try:
        call()
    except TypeError as error:
        assert "jax_enable_x64" in str(error)
    else:
        raise SystemExit("64 bits were narrowed silently")
rows = [*equivalence.transfer_rows(where, "float32", ""),
        *equivalence.random_rows(where, "float32", "compiled")]
assert all(r.agrees for r in rows), [str(r) for r in rows if not r.agrees]
"""


def test_jax_without_64_bits_says_so_and_works_in_float32(
    usable: Callable[[str], Backend],
) -> None:
    usable("jax")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", JAX_DEFAULT], capture_output=True, text=True,
        env={**os.environ, "JAX_ENABLE_X64": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout


# --- which backends the suite may not do without ------------------------------------------------


def pytest_on(*options: str) -> subprocess.CompletedProcess[str]:
    """This file's test of transfers, in a pytest of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-x",
         f"{Path(__file__)}::test_agrees", "-k", "transfers and float32", *options],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_a_required_backend_that_is_missing_is_a_failure_not_a_skip() -> None:
    if "cupy" in {spec.partition(":")[0] for spec in available_backends()}:
        pytest.skip("CuPy can be used here")
    done = pytest_on("--backends", "cupy")
    assert done.returncode == 0
    assert "backend 'cupy' cannot be used" in done.stdout
    done = pytest_on("--backends", "cupy,numpy", "--require-backends", "cupy")
    assert done.returncode == 1
    assert "required: backend 'cupy' cannot be used" in done.stdout


def test_a_required_backend_that_is_not_tested_is_an_error() -> None:
    done = pytest_on("--backends", "numpy", "--require-backends", "torch")
    assert done.returncode == 4
    assert "--require-backends has 'torch', --backends has it not" in done.stderr
