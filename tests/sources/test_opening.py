"""Files as sources: what is read, in which order, and what is said when it cannot be."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from portable_bp import sources
from portable_bp.errors import DataError
from portable_bp.sources.protocol import Described, Source

N = 103
X = np.random.default_rng(0).standard_normal((N, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, N)


def table(first: int = 0, last: int = N) -> pa.Table:
    return pa.table({**{f"f{j}": X[first:last, j] for j in range(4)}, "y": Y[first:last]})


def all_rows(source: Any) -> tuple[Any, Any]:
    described = Described.of(source)
    parts = [described.read(block) for block in range(len(described.sizes))]
    for block, (_, y) in enumerate(parts):
        np.testing.assert_array_equal(described.read_targets(block), y)
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "xy.npy", np.column_stack([X, Y]))
    pq.write_table(table(), tmp_path / "xy.parquet", row_group_size=40)
    return tmp_path


def test_the_same_rows_from_every_kind_of_file(folder: Path) -> None:
    (folder / "parts").mkdir()
    for number, first in enumerate(range(0, N, 50)):
        part = slice(first, first + 50)
        np.save(folder / f"x-{number}.npy", X[part])
        np.save(folder / f"y-{number}.npy", Y[part].astype(">i4")[:, None])
        pq.write_table(table(first, min(first + 50, N)), folder / f"parts/{number}.pq")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4)
    pq.write_table(pa.table({"x": lists, "y": Y}), folder / "fixed.parquet", row_group_size=40)
    ragged = pa.table({"x": pa.array(list(X)), "y": pa.array(Y).dictionary_encode()})
    pq.write_table(ragged, folder / "ragged.parquet")
    opened: dict[str, Any] = {
        "two files": sources.open(folder / "x.npy", folder / "y.npy", block_rows=40),
        "a column": sources.open(str(folder / "xy.npy"), -1),
        "columns": sources.open(folder / "xy.npy", target=4, columns=[0, 1, 2, 3]),
        "patterns": sources.open(f"{folder}/x-*.npy", f"{folder}/y-*.npy", block_rows=7),
        "parquet": sources.open(folder / "xy.parquet", "y"),
        "a folder": sources.open(folder / "parts", "y"),
        "a list": sources.open(
            [folder / "parts/0.pq", folder / "parts/1.pq", folder / "parts/2.pq"], "y"
        ),
        "lists": sources.open(folder / "fixed.parquet", "y"),
        "lists of any length": sources.open(folder / "ragged.parquet", "y"),
        "arrays": sources.Arrays(X, Y, 40),
        "items": sources.Dataset(list(zip(X, Y, strict=True)), 40),
    }
    for name, source in opened.items():
        x, y = all_rows(source)
        np.testing.assert_array_equal(x.astype("float32"), X, name)
        np.testing.assert_array_equal(y, Y, name)
        assert isinstance(source, Source), name
        assert source.n == N, name
        assert f"{N} rows of 4 columns" in repr(source)
    assert opened["parquet"].feature_names == ("f0", "f1", "f2", "f3")
    assert list(opened["parquet"].blocks) == [40, 40, 23]
    assert list(opened["patterns"].blocks) == [*[7] * 7, 1, *[7] * 7, 1, 3]


def test_columns_are_chosen_and_an_index_of_pandas_is_left_out(folder: Path) -> None:
    import pandas as pd

    frame = table().to_pandas().set_index(pd.Index(np.arange(N) * 7.0, name="id"))
    frame.to_parquet(folder / "frame.parquet")
    assert sources.open(folder / "frame.parquet", "y").row_shape == (4,)
    some = sources.open(folder / "frame.parquet", ["y", "f0"], ["f3", "f1"])
    x, y = all_rows(some)
    np.testing.assert_array_equal(x, X[:, [3, 1]])
    np.testing.assert_array_equal(y, np.column_stack([Y, X[:, 0]]))
    (x, y) = all_rows(sources.open(folder / "xy.npy", 1, [4, 0]))
    np.testing.assert_array_equal(x, np.column_stack([Y, X[:, 0]]))
    np.testing.assert_array_equal(y, X[:, 1].astype("float64"))


def test_text_and_booleans_become_classes(folder: Path) -> None:
    words = np.array(["b", "a", "c"])[Y]
    for kind in (pa.array(words), pa.array(words).dictionary_encode()):
        pq.write_table(table().set_column(4, "y", kind), folder / "t.parquet", row_group_size=40)
        source = sources.open(folder / "t.parquet", "y")
        assert source.classes is not None
        assert source.classes.tolist() == ["a", "b", "c"]
        np.testing.assert_array_equal(source.classes[all_rows(source)[1]], words)
    pq.write_table(table().set_column(4, "y", pa.array(Y == 1)), folder / "b.parquet")
    source = sources.open(folder / "b.parquet", "y")
    assert source.classes is not None
    assert source.classes.tolist() == [False, True]
    np.testing.assert_array_equal(all_rows(source)[1], Y == 1)


def test_a_source_goes_through_pickle_and_many_files_are_not_all_open(folder: Path) -> None:
    (folder / "many").mkdir()
    for number in range(40):
        pq.write_table(table(number, number + 2), folder / f"many/{number:02}.parquet")
    for source in (
        sources.open(folder / "x.npy", folder / "y.npy"),
        sources.open(folder / "many", "y"),
    ):
        x, y = all_rows(pickle.loads(pickle.dumps(source)))
        mine = all_rows(source)
        np.testing.assert_array_equal(x, mine[0])
        np.testing.assert_array_equal(y, mine[1])
    assert len(sources.open(folder / "many", "y")._files._open) <= 16  # type: ignore[union-attr]


def nulls(folder: Path, name: str, values: Any) -> Path:
    path = folder / f"{name}.parquet"
    pq.write_table(table().set_column(1, "f1", values), path, row_group_size=40)
    return path


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no file": (lambda f: sources.open(f / "z.npy"), DataError, r"z\.npy cannot be opened: no such"),
    "no match": (lambda f: sources.open(f / "z*.npy"), DataError, r"z\*\.npy stands for no file"),
    "another kind": (lambda f: sources.open(__file__), DataError, r"of \.npy or of \.parquet"),
    "no column": (lambda f: sources.open(f / "xy.parquet", "z"), DataError, "no column 'z'; it has"),
    "twice": (lambda f: sources.open(f / "xy.parquet", "y", ["y"]), ValueError, "'y' twice"),
    "number for parquet": (lambda f: sources.open(f / "xy.parquet", -1), TypeError, "name of a column"),
    "blocks": (
        lambda f: sources.open(f / "xy.parquet", "y", block_rows=5), ValueError, "for .npy files"
    ),
    "beyond": (lambda f: sources.open(f / "xy.npy", 5), ValueError, "a column from 0 to 4"),
    "target twice": (lambda f: sources.open(f / "xy.npy", 1, [1]), ValueError, "twice"),
    "lengths": (lambda f: sources.open(f / "x.npy", f / "short.npy"), DataError, "has 5 row"),
    "fortran": (lambda f: sources.open(f / "fortran.npy"), DataError, "Fortran order"),
    "objects": (lambda f: sources.open(f / "objects.npy"), DataError, "holds Python objects"),
    "cut short": (lambda f: sources.open(f / "cut.npy"), DataError, "ends after .* not complete"),
    "no parquet": (lambda f: sources.open(f / "no.parquet"), DataError, "not a valid Parquet file"),
    "text": (lambda f: sources.open(f / "text.parquet", "y"), DataError, "'f1' holds string"),
    "windows": (lambda f: sources.open(f / "x.npy", window_rows=0), ValueError, "window_rows must"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_opened(name: str, folder: Path) -> None:
    np.save(folder / "short.npy", Y[:5])
    np.save(folder / "fortran.npy", np.asfortranarray(X))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])
    (folder / "no.parquet").write_bytes(b"PAR1 nothing PAR1")
    nulls(folder, "text", pa.array(["a"] * N))
    work, error, words = BAD[name]
    with pytest.raises(error, match=words):
        work(folder)


def test_what_is_missing_in_a_row_is_named_with_file_row_and_column(folder: Path) -> None:
    cells: list[float | None] = X[:, 1].tolist()
    cells[57] = None
    path = nulls(folder, "hole", pa.array(cells, pa.float32()))
    with pytest.raises(DataError, match=r"hole\.parquet, row 57: column 'f1' has a missing value"):
        all_rows(sources.open(path, "y"))
    lists: list[list[float]] = X.tolist()
    lists[41] = lists[41][:3]
    pq.write_table(pa.table({"x": lists, "y": Y}), folder / "ragged.parquet", row_group_size=40)
    with pytest.raises(DataError, match=r"row 41: the list in column 'x' has 3 numbers.* has 4"):
        all_rows(sources.open(folder / "ragged.parquet", "y"))
    labels: list[str | None] = ["a"] * N
    labels[99] = None
    pq.write_table(table().set_column(4, "y", pa.array(labels)), folder / "l.parquet")
    with pytest.raises(DataError, match=r"l\.parquet, row 99: column 'y' has a missing value"):
        sources.open(folder / "l.parquet", "y")


def test_files_of_other_columns_are_refused(folder: Path) -> None:
    for name, other, words in (
        (
            "type",
            table().set_column(0, "f0", pa.array(X[:, 0].astype("float64"))),
            "'f0' is double",
        ),
        ("lacks", table().drop_columns(["f2"]), "it lacks 'f2'"),
        ("more", table().append_column("z", pa.array(Y)), "it has 'z' as well"),
    ):
        pq.write_table(other, folder / f"{name}.parquet")
        with pytest.raises(DataError, match=f"has other columns than .*xy.parquet: {words}"):
            sources.open([folder / "xy.parquet", folder / f"{name}.parquet"], "y")
    np.save(folder / "wide.npy", np.zeros((3, 5), "float32"))
    with pytest.raises(DataError, match=r"wide\.npy holds float32 of shape \(3, 5\)"):
        sources.open([folder / "x.npy", folder / "wide.npy"])


def test_a_file_that_shrinks_or_is_replaced_is_an_error_and_no_crash(folder: Path) -> None:
    source = sources.open(folder / "x.npy", folder / "y.npy", block_rows=40)
    with open(folder / "x.npy", "r+b") as file:
        file.truncate(128 + 50 * 16 + 3)
    with pytest.raises(DataError, match=r"x\.npy ends after 931 bytes, in row 50 of 103"):
        all_rows(source)
    source = sources.open(folder / "xy.parquet", "y")
    for meanwhile, words in (
        (lambda p: pq.write_table(table(0, 60), p), "was replaced while it was read"),
        (lambda p: pq.write_table(table().drop_columns(["f0"]), p), "it lacks 'f0'"),
        (lambda p: p.write_bytes(b"PAR1"), "not a valid Parquet file"),
        (Path.unlink, "cannot be opened: no such file"),
    ):
        meanwhile(folder / "xy.parquet")
        source._files._open.clear()  # type: ignore[union-attr]  # as one of many files
        with pytest.raises(DataError, match=words):
            all_rows(source)


class Contradicting:
    n, row_shape, dtype = 10, (3,), "float32"
    blocks: Any = (5, 4)

    def read(self, block: int, out_x: Any, out_y: Any) -> None:
        out_x[...] = out_y[...] = 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("blocks", (5, 4), "n=10 rows, but its blocks have 9"),
        ("blocks", (5, 0, 5), "each at least 1"),
        ("row_shape", (3, 2), r"of the shape \(columns,\)"),
        ("dtype", "U3", "dtype must be one of numbers"),
        ("target_shape", (2, 2), r"target_shape must be \(\) or"),
    ],
)
def test_a_source_that_contradicts_itself(name: str, value: Any, words: str) -> None:
    source = Contradicting()
    source.blocks = (5, 5)
    setattr(source, name, value)
    with pytest.raises((TypeError, ValueError), match=words):
        Described.of(source)


def test_items_that_are_unlike_the_first() -> None:
    import torch
    from torch.utils.data import TensorDataset

    dataset = TensorDataset(torch.as_tensor(X), torch.as_tensor(Y))
    x, y = all_rows(sources.Dataset(dataset, 10))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    items: list[Any] = [(x, 1) for x in X[:5]]
    with pytest.raises(DataError, match=r"dataset\[3\] has 2 numbers in x"):
        all_rows(sources.Dataset([*items[:3], ([1.0, 2.0], 1), *items[3:]]))
    with pytest.raises(DataError, match=r"dataset\[0\] must be a pair"):
        sources.Dataset(X[:5])
    with pytest.raises(TypeError, match="iterable data set has no rows to choose from"):
        sources.Dataset(iter(items))
