"""The evidence script goes through all of its parts on an emulated GPU, and writes no record."""

import subprocess
import sys

import pytest

from benchmarks.machine import ROOT


@pytest.mark.parametrize(
    "parts",
    [("device", "suite"), pytest.param(("tests", "bench"), marks=pytest.mark.slow)],
)
def test_a_dry_run_on_an_emulated_gpu(parts, tmp_path):
    record = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu_evidence", "--dry-run", "--emulated",
               "--output", str(record), *(f"--part={part}" for part in parts)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    for part in parts:
        assert f"{part} cupy:0: done" in done.stdout
    assert ("cupy:0, TF32: all" in done.stdout) == ("suite" in parts)
    assert not record.exists()
