"""Messy tables through the command line without an option: trained, predicted, exported."""

from __future__ import annotations

import json
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from portable_bp import cli, datasets, tabular
from tests.tables.messy import ROWS, TABLES


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = cli.run([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    return out


def raw_inputs(fitted: tabular.TabularModel, table: datasets.Table) -> dict[str, Any]:
    """The columns as ONNX takes them."""
    texts = {}
    for column in fitted.preparation.columns:
        values = column.read(table)
        if column.kind == "category":
            values = np.asarray(["" if v is None else v for v in values], dtype=object)
        texts[column.name] = values[:, None]
    return texts


@pytest.mark.parametrize("name", TABLES)
def test_a_messy_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    messy = TABLES[name]
    path = messy.save(tmp_path, messy.columns, "table")
    out = call(capsys, "train", path, "--target", messy.target, "--epochs", 2)
    for words in messy.words:
        assert words in out, out
    report = json.loads(call(capsys, "train", path, "--target", messy.target, "--json"))
    assert {c["name"]: c["kind"] for c in report["columns"]} == messy.kinds
    assert report["task"] == messy.task
    assert sum(report["rows"].values()) + report["left_out"] == ROWS
    fitted = tabular.load("model.safetensors", "numpy")
    # In another order and without the target.
    others = {
        key: messy.columns[key] for key in reversed(messy.columns) if key not in ("", messy.target)
    }
    new = messy.save(tmp_path, others, "new")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert cli.run(["predict", "model.safetensors", str(new), "--json"]) == 0
        predictions = json.loads(capsys.readouterr().out)["predictions"]
        columns = raw_inputs(fitted, datasets.load(new))
    assert {w.category for w in caught} == ({UserWarning} if name == "one bad cell" else set())
    assert len(predictions) == ROWS
    for language in ("onnx", "numpy", "c"):
        call(capsys, "export", "model.safetensors", "--to", language)
    check_exports(fitted, columns, predictions)


def check_exports(fitted: tabular.TabularModel, columns: dict[str, Any], want: list[Any]) -> None:
    """ONNX and NumPy give the same from raw columns; a quantity to roundings of float32."""
    session = onnxruntime.InferenceSession("model.onnx")
    names = [described.name for described in session.get_inputs()]
    feed = columns if names != ["X"] else {"X": np.concatenate([*columns.values()], axis=1)}
    got = session.run(None, feed)[0]
    cells = zip(*(v[:, 0].tolist() for v in columns.values()), strict=True)
    python = runpy.run_path("model.py")["predict"]([*cells])
    if fitted.preparation.task == "classification":
        assert got.tolist() == want == python.tolist()
    else:
        # Sums of up to 128 products in float32, in units of the target's deviation.
        size = 128 * np.finfo(np.float32).eps * max(1, fitted.preparation.target_scale)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=size)
        np.testing.assert_allclose(python, want, rtol=1e-5, atol=size)
