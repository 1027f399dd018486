"""Every example runs as it stands, and shows what it is there to show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def quickstart(out, folder):
    assert float(re.search(r"test accuracy (\S+)", out)[1]) > 0.96
    assert "same predictions: True" in out
    assert list(folder.iterdir()) == []


def worked_example(out, folder):
    for number in ("0.671802813", "0.698075443", "0.298371109", "0.561370121", "0.291027774"):
        assert number in out
    assert {"numpy", "torch", "jax", "strict"} <= set(out.split())
    assert "the deltas shrink towards the input" in out


def gpu_training(out, folder):
    accuracies = [float(a) for a in re.findall(r"validation accuracy (\S+),", out)]
    assert len(accuracies) == 3
    assert 0.2 < accuracies[0] < accuracies[-1]
    assert "outputs are numpy.ndarray of shape (5, 10)" in out


def custom_activation(out, folder):
    assert float(re.search(r"worst relative error (\S+)", out)[1]) < 1e-7
    scores = dict(re.findall(r"(\w+): loss \S+, R\^2 (\S+)", out))
    assert set(scores) == {"numpy", "torch", "jax"}
    assert all(float(score) > 0.99 for score in scores.values())


def vanishing_gradients(out, folder):
    sigmoid, relu = (
        [float(size) for size in re.findall(r"hidden layers: (\S+)", part)]
        for part in out.split("relu:")
    )
    assert sigmoid == sorted(sigmoid, reverse=True)
    assert sigmoid[-1] < 1e-10
    assert min(relu) > 0.01
    assert (folder / "vanishing_gradients.png").read_bytes().startswith(b"\x89PNG")


def sklearn_pipeline(out, folder):
    assert "torch: 4 settings, 3 folds each" in out
    assert "predictions are torch.Tensor on cpu" in out
    assert "weights are torch.Tensor on cpu" in out
    ours = float(re.search(r"test accuracy (\S+)", out)[1])
    assert ours > 0.9
    assert float(re.search(r"the same in scikit-learn: (\S+)", out)[1]) == ours


SHOWN = {
    "quickstart.py": (quickstart, []),
    "worked_example.py": (worked_example, []),
    "gpu_training.py": (gpu_training, ["--backend", "numpy", "--rows", "2000"]),
    "custom_activation.py": (custom_activation, []),
    "sklearn_pipeline.py": (sklearn_pipeline, []),
    "vanishing_gradients.py": (vanishing_gradients, []),
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name, tmp_path):
    shows, arguments = SHOWN[name]
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    shows(done.stdout, tmp_path)


def test_every_example_that_is_promised_is_there():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN)
