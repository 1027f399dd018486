"""``portable-bp inspect``: what a file holds, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import portable_bp
from portable_bp import cli, tabular
from portable_bp.persistence import documents

OPTIONS = ("--epochs", "2", "--hidden", "8", "--backend", "numpy", "--quiet")


@pytest.fixture
def right(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert (code, err) == (0, ""), err
        return out

    return run


def test_a_model_that_train_wrote(right, tmp_path):
    rows = "".join(f"{i / 60},{'red' if i > 30 else 'blue'}\n" for i in range(60))
    (tmp_path / "flowers.csv").write_text(f"length,colour\n{rows}")
    report = json.loads(right("train", "flowers.csv", "--target", "colour", "--json", *OPTIONS))
    told = json.loads(right("inspect", "model.safetensors", "--json"))
    assert told["kind"] == "tabular"
    assert (told["target"], told["task"]) == ("colour", "classification")
    assert (told["classes"], told["features"]) == (["blue", "red"], ["length"])
    assert told["columns"] == [{"name": "length", "kind": "number"}]
    assert told["facts"]["source"] == "flowers.csv"
    assert told["facts"]["rows"] == report["rows"]
    assert told["facts"]["scores"] == {"test_accuracy": report["test_accuracy"]}
    assert told["trained_epochs"] == 2
    assert told["last_epoch"]["loss"] == report["history"][-1]["loss"]
    out = right("inspect", "model.safetensors")
    for words in ("a network with the preparation of its table", "'colour': classification",
                  "2: 'blue', 'red'", "1: 'length' (number)", "flowers.csv (rows: ", "accuracy",
                  "2 epochs on numpy, float32, finished", "hidden 1"):  # fmt: skip
        assert words in out


def test_a_model_by_itself_and_a_checkpoint(right):
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    net = portable_bp.MLP([2, 3, 2], loss="softmax_cross_entropy")
    model = portable_bp.fit(net, X / 40, y, epochs=3, checkpoint="run")
    model.save("net.safetensors")
    out = right("inspect", "net.safetensors")
    assert "a network by itself" in out
    assert "3 epochs on numpy" in out
    out = right("inspect", max(Path("run").glob("*.safetensors")))
    assert "the checkpoint of a run" in out
    assert "complete: epoch 3 of 3" in out


def test_files_of_before_have_no_facts(right):
    """A tabular file without them is read, inspected and saved."""
    right("train", "digits", *OPTIONS)
    arrays, metadata = documents.read("model.safetensors", "tabular")
    del metadata["facts"]
    documents.write("old.safetensors", arrays, metadata)
    assert tabular.load("old.safetensors").facts == {}
    assert "'digit': classification" in right("inspect", "old.safetensors")


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n", b"\x80\x04]."])
def test_what_is_no_model(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").write_bytes(content)
    for name in ("m", "missing"):
        assert cli.run(["inspect", name]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("portable-bp: error: ")
