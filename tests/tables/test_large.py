"""Files that ``portable-bp train`` leaves where they are: the units of a table, found by one pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from portable_bp import cli, datasets, tabular
from portable_bp.cli import large
from portable_bp.errors import DataError
from portable_bp.sources import Arrays
from portable_bp.sources.moments import moments
from portable_bp.sources.protocol import Described
from portable_bp.tables.large import prepare_source
from portable_bp.tables.units import moments as table_moments

N = 1200
X = np.random.default_rng(0).normal(50, 10, (N, 3))
WORDS = np.array(["low", "mid", "top"])[np.abs(X - 50).argmax(axis=1)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    columns = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2].astype("float32"), "same": np.full(N, 0.1)}
    for name, y in (("words", WORDS), ("numbers", 3 * X[:, 0] + 7), ("codes", X[:, 0] > 50)):
        table = pa.table({**columns, "y": y})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=25)
    np.save(tmp_path / "rows.npy", np.column_stack([X, WORDS == "low"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = cli.run(["train", *words, "--json", "--epochs", "8", "--hidden", "16", "--dropout", "0"])
    out, err = capsys.readouterr()
    assert code == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize("block", [7, 25, 2000])
def test_the_units_are_those_of_all_rows_at_once(block: int) -> None:
    x = np.column_stack([X, np.full(N, 0.1), np.arange(N) + 1e9])
    found = moments(Described.of(Arrays(x, X[:, 0], block)))
    mean, scale = table_moments(x, 0, np.finfo(np.float64).eps ** 0.8)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-9)
    assert found.scale[3] == 1.0
    np.testing.assert_allclose(
        [found.target_mean, found.target_scale], [X[:, 0].mean(), X[:, 0].std()], rtol=1e-12
    )
    one = moments(Described.of(Arrays(x[:, :3], X[:, 0], block)), same_unit=True)
    np.testing.assert_allclose(one.mean, [X.mean()] * 3)
    np.testing.assert_allclose(one.scale, [X.std()] * 3)


@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (1100, 2, np.nan, r"X, row 1100, column 2: nan is no number"),
        (3, 0, np.inf, r"X, row 3, column 0: inf is no number"),
        (3, 0, 1e200, r"X, row 3, column 0: 1e\+200 is too large"),
    ],
)
def test_a_value_that_has_no_unit_is_named(row: int, column: int, value: float, words: str) -> None:
    x = X.copy()
    x[row, column] = value
    with pytest.raises(DataError, match=words):
        moments(Described.of(Arrays(x, X[:, 0], 50)))


def test_rows_are_prepared_as_those_of_a_table(folder: Path) -> None:
    ready = prepare_source(str(folder / "words.parquet"), "y", drop=["b"])
    p = ready.preparation
    assert (p.features, p.task, p.classes) == (
        ("a", "c", "same"), "classification", ("low", "mid", "top")
    )  # fmt: skip
    assert [len(part) for part in ready.parts] == [38 * 25 - 4 * 25, 4 * 25, 10 * 25]
    rows = [ready.train.read(block) for block in range(len(ready.train.sizes))]
    x = np.concatenate([x for x, _ in rows])
    np.testing.assert_allclose(x[:, :2].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x[:, :2].std(axis=0), 1, rtol=1e-6)
    assert not x[:, 2].any(), "a constant is 0"
    table = datasets.load(str(folder / "words.parquet"))
    number = ready.test.source._source.source.numbers(0)  # type: ignore[attr-defined]
    np.testing.assert_allclose(ready.test.read(0)[0], p.inputs(table)[number], rtol=1e-6)
    y = prepare_source(str(folder / "numbers.parquet"), "y")
    assert y.preparation.task == "regression"
    np.testing.assert_allclose(
        y.preparation.quantities(y.test.read_targets(0)),
        (3 * X[:, 0] + 7)[y.test.source._source.source.numbers(0)],  # type: ignore[attr-defined]
    )


def test_train_leaves_a_large_file_where_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_memory = run(capsys, "words.parquet", "--target", "y", "--strict")
    assert in_memory["note"] == ""
    monkeypatch.setattr(large, "physical_memory", lambda: 5 * N * large.CELL_BYTES)
    report = run(capsys, "words.parquet", "--target", "y", "--plot", "words.png")
    assert report["note"] == "read in windows"
    assert report.keys() == in_memory.keys()
    assert report["test_accuracy"] > 0.8
    assert sum(row["support"] for row in report["per_class"]) == report["rows"]["test"]
    assert sum(report["rows"].values()) == N
    assert (folder / "words.png").stat().st_size > 10_000
    model = tabular.load("model.safetensors")
    labels = model.predict(datasets.load("words.parquet"))
    assert np.mean(np.asarray(labels) == WORDS) > 0.8
    codes = run(capsys, "codes.parquet", "--target", "y")
    assert codes["classes"] == [False, True]
    code = cli.run(["train", "words.parquet", "--target", "y", "--kind", "a=category"])
    assert code == 2
    assert "leave out --kind" in capsys.readouterr().err
    monkeypatch.setattr(large, "physical_memory", lambda: 10 * N * large.CELL_BYTES)
    assert run(capsys, "words.parquet", "--target", "y")["note"] == ""


def test_what_is_wrong_with_a_file_is_said_as_of_a_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(large, "physical_memory", lambda: 1)
    (folder / "empty.parquet").touch()
    (folder / "no.npy").write_bytes(b"nothing")
    promised = np.lib.format.header_data_from_array_1_0(X) | {"shape": (10**12, 3)}
    with open(folder / "promised.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, promised)
    for name, said in (
        ("empty.parquet", "is empty"),
        ("no.npy", "not a valid .npy"),
        ("promised.npy", "promised.npy"),
    ):
        assert cli.run(["train", name, "--target", "0"]) == 2
        assert said in capsys.readouterr().err
    (folder / "digits").mkdir()
    assert not large._stays("digits")


def test_train_takes_a_folder_and_a_pattern(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(capsys, "numb*.parquet", "--target", "y", "--learning-rate", "0.01")
    assert report["task"] == "regression"
    assert report["test_r2"] > 0.9
    (folder / "parts").mkdir()
    (folder / "rows.npy").rename(folder / "parts/rows.npy")
    report = run(capsys, "parts")
    assert report["target"] == "3"
    assert report["classes"] == [0, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wor*.parquet"], "name the column to learn"),
        (["wor*.parquet", "--target", "z"], "no column 'z'"),
        (["wor*.parquet", "--target", "y", "--drop", "z"], "no column 'z'"),
        (["wor*.parquet", "--target", "y", "--task", "regression"], "holds labels, no quantities"),
        (
            ["wor*.parquet", "--target", "same", "--drop", "y", "--task", "classification"],
            "every row has the class",
        ),
        (["wor*.parquet", "--target", "a"], "column 'y' holds string"),
        (["no*.parquet", "--target", "y"], "stands for no file"),
    ],
)
def test_what_is_refused(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", *words]) == 2
    assert said in capsys.readouterr().err
