"""Every example runs as it stands, and shows what it is there to show."""

from __future__ import annotations

import os
import re
import runpy
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


def search(out, folder):
    default, best = map(float, re.findall(r"cross-validation accuracy (\S+)", out))
    assert best > default
    assert float(re.search(r"test accuracy (\S+)", out)[1]) > 0.96


def sklearn_pipeline(out, folder):
    assert "torch: 4 settings, 3 folds each" in out
    assert "predictions are torch.Tensor on cpu" in out
    assert "weights are torch.Tensor on cpu" in out
    ours = float(re.search(r"test accuracy (\S+)", out)[1])
    assert ours > 0.9
    assert float(re.search(r"the same in scikit-learn: (\S+)", out)[1]) == ours


def table(out, folder):
    assert "classification into ('class_0', 'class_1', 'class_2')" in out
    assert float(re.search(r"test accuracy (\S+)", out)[1]) > 0.9
    assert "predicted ['class_0'" in out


def intervals(out, folder):
    assert 0.7 < float(re.search(r"interval: (\S+)", out)[1]) < 0.9
    assert "never crossing: True" in out


def learning_rate_schedules(out, folder):
    losses = re.findall(r"validation loss (\S+), last", out)
    assert len(losses) == 4
    assert all(float(loss) < 0.3 for loss in losses)


def equivalence(out, folder):
    lines = re.findall(r"(\w+): (.*) roundoffs", out)
    assert [name for name, _ in lines] == ["numpy", "torch", "jax"]
    # The most that docs/equivalence.md allows for nine layers is 108.
    assert all(0 < float(e) < 108 for _, errors in lines for e in errors.split(", "))
    losses = [float(loss) for loss in re.findall(r"20 epochs (\S+)", out)]
    assert len(losses) == 3
    assert max(losses) - min(losses) < 1e-5


def moving_models(out, folder):
    assert float(re.search(r"accuracy (\S+)", out)[1]) > 0.9
    differences = re.findall(r"probability (\S+)", out)
    assert len(differences) == 2
    # Sums of 32 terms in float32: some ten roundings of 6e-8.
    assert all(float(d) < 1e-5 for d in differences)
    assert "fitted in numpy, moved to torch" in out


def optuna_pruning(out, folder):
    ran, trials, whole = (int(n) for n in re.findall(r"\d+", out)[:3])
    assert trials == 15
    assert trials < ran < whole == 300
    assert float(re.search(r"validation loss (\S+)", out)[1]) < 0.2


def export(out, folder):
    onnx, numpy = (float(d) for d in re.findall(r"difference ([^\s,]+)", out))
    # Probabilities in float32 of sums of 64 terms: some ten roundings of 6e-8.
    assert max(onnx, numpy) < 5e-6
    assert "same labels: True" in out
    assert "int digits_predict(const float x[64]);" in out
    assert list(folder.iterdir()) == []


def data_frame(out, folder):
    kinds = dict(re.findall(r"^(\w+) +(text|number|category|date) ", out, re.MULTILINE))
    assert kinds == {
        "id": "text", "area": "number", "rooms": "number", "town": "category", "built": "date",
    }  # fmt: skip
    assert float(re.search(r"test accuracy (\S+)", out)[1]) > 0.8
    assert "new rows: ['fast', 'slow']" in out
    assert float(re.search(r"cross-validation (\S+)", out)[1]) > 0.8


SHOWN = {
    "quickstart.py": (quickstart, []),
    "table.py": (table, []),
    "intervals.py": (intervals, []),
    "worked_example.py": (worked_example, []),
    "gpu_training.py": (gpu_training, ["--backend", "numpy", "--rows", "2000"]),
    "custom_activation.py": (custom_activation, []),
    "search.py": (search, []),
    "sklearn_pipeline.py": (sklearn_pipeline, []),
    "vanishing_gradients.py": (vanishing_gradients, []),
    "learning_rate_schedules.py": (learning_rate_schedules, []),
    "equivalence.py": (equivalence, []),
    "moving_models.py": (moving_models, []),
    "optuna_pruning.py": (optuna_pruning, []),
    "export.py": (export, []),
    "data_frame.py": (data_frame, []),
}


def run_here(name, arguments, capsys, monkeypatch):
    """In this process: the libraries are loaded already."""
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    plt.close("all")
    return capsys.readouterr().out


def run_apart(name, arguments, folder):
    """In a process of its own: this one tells SciPy something before its import."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        capture_output=True, text=True, timeout=300, cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name, tmp_path, capsys, monkeypatch):
    shows, arguments = SHOWN[name]
    monkeypatch.chdir(tmp_path)
    if name == "sklearn_pipeline.py":
        out = run_apart(name, arguments, tmp_path)
    else:
        out = run_here(name, arguments, capsys, monkeypatch)
    shows(out, tmp_path)


def test_every_example_that_is_promised_is_there():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN)
