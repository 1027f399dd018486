"""``portable-bp train --distributed``: one model, one report, whichever launcher started it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import portable_bp
from portable_bp import tabular
from tests.processes.launch import finish, run, start

TRAIN = ("-m", "portable_bp", "train", "digits", "--epochs", "1", "--dropout", "0", "--dtype", "float64",
         "--backend", "numpy", "--json")  # fmt: skip


@pytest.mark.parametrize("engine", ["mpi", pytest.param("torch", marks=pytest.mark.slow)])
def test_one_model_and_one_report(engine: str, tmp_path: Path) -> None:
    together, alone = tmp_path / "together.safetensors", tmp_path / "alone.safetensors"
    output = run(engine, 2, *TRAIN, "--output", str(together), "--distributed", engine)
    reports = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(reports) == 1, output
    run("-", 1, *TRAIN, "--output", str(alone))
    one, two = (tabular.load(path).model.params for path in (alone, together))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b[0], a[0], 0, 1e-13)  # 40 steps of rounding


@pytest.mark.slow
def test_an_error_is_one_line_for_each_process(tmp_path: Path) -> None:
    code, output = finish(
        start(
            "mpi",
            2,
            "-m",
            "portable_bp",
            "train",
            str(tmp_path / "none.csv"),
            "--distributed",
            "mpi",
        )
    )
    assert code == 2
    assert "Traceback" not in output
    assert "none.csv" in output


def test_an_unknown_engine_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown engine 'horovod': choose one of 'mpi', 'torch'"):
        portable_bp.distributed("horovod").__enter__()
