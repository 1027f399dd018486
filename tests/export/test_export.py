"""Networks as ONNX, NumPy and C files: the numbers of the model, computed by other programs."""

from __future__ import annotations

import ctypes
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import portable_bp
from portable_bp import Activation, Model, activations, cli, datasets, export, tabular
from portable_bp.export import c_source, tape

# Name of the loss, outputs.
KINDS = (
    ("softmax_cross_entropy", 3), ("log_loss", 1), ("log_loss", 2), ("squared_error", 1),
    ("poisson", 2),
)  # fmt: skip

STRICT_C = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror",
            "-ffp-contract=off", "-shared", "-fPIC")  # fmt: skip


def untrained(loss: str, outputs: int, dtype: str, hidden: Any = "relu") -> Model:
    """A model with the parameters that training starts from, and biases."""
    net = portable_bp.MLP([5, 7, 6, outputs], hidden=hidden, loss=loss)
    start = net.init(1, dtype=dtype)
    params = tuple((W, b + np.linspace(-0.5, 0.5, len(b), dtype=dtype)) for W, b in start)
    return Model(net, params, portable_bp.get_backend("numpy"))


def rows(dtype: str) -> Any:
    return np.random.default_rng(0).normal(size=(40, 5)).astype(dtype)


def onnx_outputs(path: Path, X: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(path)
    return dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"X": X}), strict=True)
    )


def compiled_c(path: Path) -> ctypes.CDLL:
    library = path.with_suffix(".so")
    subprocess.run(["cc", *STRICT_C, str(path), "-lm", "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def c_forward(library: ctypes.CDLL, name: str, X: Any, outputs: int, dtype: str) -> Any:
    out = np.zeros((len(X), outputs), dtype)
    for x, o in zip(X, out, strict=True):
        getattr(library, f"{name}_forward")(
            x.ctypes.data_as(ctypes.c_void_p), o.ctypes.data_as(ctypes.c_void_p)
        )
    return out


def close(a: Any, b: Any, dtype: str) -> None:
    """To 20 roundings of the largest number: three products of at most 7 terms, and their functions."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=20 * np.finfo(dtype).eps * np.max(np.abs(b)))


def expected(model: Model, X: Any) -> dict[str, Any]:
    if model.net.loss.classes:
        return {"label": model.predict(X), "probabilities": model.predict_proba(X)}
    return {"prediction": model.predict(X)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", activations.ACTIVATIONS)
def test_every_activation_and_output_in_onnx_and_numpy(
    hidden: str, dtype: str, tmp_path: Path
) -> None:
    X = rows(dtype) * np.asarray(
        0.2 if hidden == "exp" else 1, dtype
    )  # e^e^x magnifies what is rounded
    for loss, outputs in KINDS:
        model = untrained(loss, outputs, dtype, hidden)
        want = expected(model, X)
        model.to_onnx(tmp_path / "m.onnx")
        got = onnx_outputs(tmp_path / "m.onnx", X)
        assert set(got) == set(want)
        export.to_numpy(model, tmp_path / "m.py")
        module = runpy.run_path(str(tmp_path / "m.py"))
        close(module["forward"](X), model.forward(X), dtype)
        for name, values in want.items():
            compare = np.testing.assert_array_equal if name == "label" else close
            compare(got[name], values, *([dtype] if compare is close else []))
            python = module["predict_proba" if name == "probabilities" else "predict"]
            compare(python(X), values, *([dtype] if compare is close else []))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_file_has_the_bits_of_an_eager_forward_pass(dtype: str, tmp_path: Path) -> None:
    """Where SciPy has no part in it, as it has in GELU's erfc."""
    X = rows(dtype) * np.asarray(0.2, dtype)
    for hidden in set(activations.ACTIVATIONS) - {"gelu"}:
        model = untrained("softmax_cross_entropy", 3, dtype, hidden)
        export.to_numpy(model, tmp_path / "m.py")
        got = runpy.run_path(str(tmp_path / "m.py"))["forward"](X)
        np.testing.assert_array_equal(got, model.net.forward(model.params, X))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", activations.ACTIVATIONS)
def test_every_activation_in_c(hidden: str, dtype: str, tmp_path: Path) -> None:
    X = rows(dtype) * np.asarray(0.2 if hidden == "exp" else 1, dtype)
    model = untrained("softmax_cross_entropy", 3, dtype, hidden)
    export.to_c(model, tmp_path / "net.c")
    library = compiled_c(tmp_path / "net.c")
    close(c_forward(library, "net", X, 3, dtype), model.forward(X), dtype)
    codes = [library.net_predict(x.ctypes.data_as(ctypes.c_void_p)) for x in X]
    np.testing.assert_array_equal(codes, model.predict(X))


@pytest.mark.parametrize(("loss", "outputs"), KINDS)
def test_every_kind_of_output_in_c(loss: str, outputs: int, tmp_path: Path) -> None:
    X = rows("float32")
    model = untrained(loss, outputs, "float32")
    export.to_c(model, tmp_path / "net.c")
    library = compiled_c(tmp_path / "net.c")
    close(c_forward(library, "net", X, outputs, "float32"), model.forward(X), "float32")
    if outputs == 1:
        library.net_predict.restype = ctypes.c_int if model.net.loss.classes else ctypes.c_double
        got = [library.net_predict(x.ctypes.data_as(ctypes.c_void_p)) for x in X]
        close(np.asarray(got, "float64"), np.asarray(model.predict(X), "float64"), "float32")


def test_tails_keep_their_accuracy_where_onnx_has_no_operator(tmp_path: Path) -> None:
    """ln(1 + x) and e^x - 1 of tiny x, relative to the value: ONNX has neither."""
    softplus = portable_bp.MLP([1, 1], output="softplus")
    elu = portable_bp.MLP([1, 1], output="elu")
    X = -np.logspace(-300, 1.5, 50)[:, None]
    for net, x in ((softplus, X - 20), (elu, X)):
        model = Model(net, ((np.eye(1), np.zeros(1)),), portable_bp.get_backend("numpy"))
        model.to_onnx(tmp_path / "m.onnx")
        got = onnx_outputs(tmp_path / "m.onnx", x)["prediction"]
        np.testing.assert_allclose(got, model.predict(x), rtol=20 * np.finfo(float).eps)


def test_an_activation_of_the_users_own(tmp_path: Path) -> None:
    sine = Activation(lambda z, xp: xp.sin(z) + 0.1 * z, lambda z, a, xp: xp.cos(z) + 0.1, "sine")
    model = untrained("squared_error", 2, "float64", sine)
    X = rows("float64")
    model.to_onnx(tmp_path / "m.onnx")
    close(onnx_outputs(tmp_path / "m.onnx", X)["prediction"], model.predict(X), "float64")
    export.to_c(model, tmp_path / "m.c")
    close(
        c_forward(compiled_c(tmp_path / "m.c"), "m", X, 2, "float64"), model.predict(X), "float64"
    )


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda z, xp: xp.cumulative_sum(z, axis=1), "it uses xp.cumulative_sum"),
        (lambda z, xp: xp.max(z, axis=0, keepdims=True), "go over a row and keep its axis"),
        (lambda z, xp: z if z > 0 else -z, "use xp.where"),
        (lambda z, xp: np.tanh(np.ones(3)), "its output does not come from its input"),
    ],
)
@pytest.mark.parametrize("write", [export.to_onnx, export.to_numpy, export.to_c])
def test_what_cannot_be_exported_says_so_and_writes_nothing(
    f: Any, says: str, write: Any, tmp_path: Path
) -> None:
    own = Activation(f, lambda z, a, xp: z, "own")
    with pytest.raises((TypeError, ValueError), match=says):
        write(untrained("squared_error", 2, "float64", own), tmp_path / "m.c")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="a Model or a TabularModel can be exported, not MLP"):
        export.to_c(portable_bp.MLP([2, 1]), tmp_path / "m.c")
    with pytest.raises(ValueError, match=r"path must end with \.c"):
        export.to_c(untrained("log_loss", 1, "float32"), tmp_path / "m.h")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'portable-bp\[onnx\]'"):
        untrained("log_loss", 1, "float32").to_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def trained_on(table: datasets.Table, target: str) -> tabular.TabularModel:
    ready = tabular.prepare(table, target)
    part = ready.part(ready.parts.train)
    return tabular.TabularModel(
        ready.preparation, portable_bp.fit(ready.network([6]), *part, epochs=3)
    )


def table(y: Any) -> datasets.Table:
    rng = np.random.default_rng(0)
    return datasets.Table("t", {"a": rng.normal(50, 20, 60), "b": rng.normal(0, 1e-3, 60), "y": y})


TARGETS = {
    "text": np.asarray(['o"ne', "zwei\u00e4", "3?"] * 20, object),
    "integers": np.asarray([7, 9, 12] * 20),
    "booleans": np.asarray([True, False, True] * 20),
    "quantity": np.random.default_rng(1).normal(1000, 50, 60),
}


@pytest.mark.parametrize("name", TARGETS)
def test_models_of_tables_take_raw_columns_and_give_labels(name: str, tmp_path: Path) -> None:
    data = table(TARGETS[name])
    model = trained_on(data, "y")
    X = np.stack([data.columns["a"], data.columns["b"]], axis=1)
    model.to_onnx(tmp_path / "m.onnx")
    got = onnx_outputs(tmp_path / "m.onnx", X)
    export.to_numpy(model, tmp_path / "m.py")
    python = runpy.run_path(str(tmp_path / "m.py"))
    assert python["FEATURES"] == ["a", "b"]
    export.to_c(model, tmp_path / "m.c")
    library = compiled_c(tmp_path / "m.c")
    if name == "quantity":
        library.m_predict.restype = ctypes.c_double
        in_c = [library.m_predict(x.ctypes.data_as(ctypes.c_void_p)) for x in X]
        for values in (got["prediction"], python["predict"](X), in_c):
            close(values, model.predict(data), "float32")
        return
    labels = (ctypes.c_char_p * len(model.preparation.classes)).in_dll(library, "m_labels")
    in_c = [labels[library.m_predict(x.ctypes.data_as(ctypes.c_void_p))].decode() for x in X]
    assert got["label"].tolist() == python["predict"](X).tolist() == model.predict(data)
    assert in_c == [str(label) for label in model.predict(data)]
    close(got["probabilities"], model.probabilities(data), "float32")


def test_labels_of_fit(tmp_path: Path) -> None:
    X = rows("float64")
    y = np.where(X[:, 0] > 0, "up", "down")
    net = portable_bp.MLP([5, 4, 1], loss="log_loss")
    model = portable_bp.fit(net, X, y, epochs=20, learning_rate=0.05, dtype="float64")
    model.to_onnx(tmp_path / "m.onnx")
    assert onnx_outputs(tmp_path / "m.onnx", X)["label"].tolist() == model.predict(X).tolist()


def test_numpy_file_is_a_program(tmp_path: Path) -> None:
    data = table(TARGETS["text"])
    model = trained_on(data, "y")
    export.to_numpy(model, tmp_path / "m.py")
    lines = "".join(
        f"{a!r},{b!r}\n" for a, b in zip(*(data.columns[c].tolist() for c in "ab"), strict=True)
    )
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "m.py")], input=lines, capture_output=True, text=True,
        encoding="utf-8", env={"PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == model.predict(data)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = table(TARGETS["text"])
    model = trained_on(data, "y")
    path = tmp_path / "net.safetensors"
    model.save(path)
    for language, names in {
        "onnx": ["net.onnx"],
        "numpy": ["net.py"],
        "c": ["net.c", "net.h"],
    }.items():
        assert cli.run(["export", str(path), "--to", language]) == 0
        assert all((tmp_path / name).exists() for name in names)
        assert f"wrote {tmp_path / names[0]}" in capsys.readouterr().out
    assert cli.run(["export", str(path), "--to", "numpy", "--output", str(path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert cli.run(["export", str(tmp_path / "none"), "--to", "c"]) == 2
    assert tabular.load(path).predict(data) == model.predict(data)


def test_header_is_c_plus_plus_too(tmp_path: Path) -> None:
    export.to_c(trained_on(table(TARGETS["text"]), "y"), tmp_path / "1 net.c")
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "1 net.h"\nint main() { double x[2] = {1, 2}; return net_1_net_predict(x) > 2; }\n'
    )
    subprocess.run(
        "cc -std=c99 -Werror -c '1 net.c' -o net.o && c++ -Werror main.cpp net.o -lm -o main && ./main",
        shell=True, cwd=tmp_path, check=True,
    )  # fmt: skip


def test_nan_passes_through(tmp_path: Path) -> None:
    """A NaN in a row is a NaN in its outputs, in every language; no maximum hides it."""
    model = untrained("softmax_cross_entropy", 3, "float32")
    X = rows("float32")
    X[3, 2] = np.nan
    export.to_c(model, tmp_path / "m.c")
    in_c = c_forward(compiled_c(tmp_path / "m.c"), "m", X, 3, "float32")
    export.to_numpy(model, tmp_path / "m.py")
    in_numpy = runpy.run_path(str(tmp_path / "m.py"))["forward"](X)
    for out in (in_c, in_numpy):
        assert np.isnan(out[3]).all()
        assert np.isfinite(np.delete(out, 3, axis=0)).all()


def test_c_text_is_escaped() -> None:
    assert c_source._quoted('a"\\?\u00e49') == '"a\\042\\134\\077\\303\\2449"'


def test_a_tape_notes_each_result_once() -> None:
    t = tape.Tape(2, "float32")
    xp = tape.TapeNamespace(t)
    a, b = xp.exp(t.input), xp.exp(t.input)
    assert a is b
    t.output = a + 1
    assert [v.operation for v in t.values()] == ["input", "exp", "constant", "add"]


def test_columns_of_text_dates_and_gaps_in_c(tmp_path: Path) -> None:
    """A row has a number for each column: an index for a text, seconds for a date, NaN for a gap."""
    n = 60
    cells = {
        "size": [None if i % 9 == 4 else i % 7 + 0.5 for i in range(n)],
        "town": [("Bern", "Genf", None, "Ōsaka")[i % 4] for i in range(n)],
        "open": [i % 3 == 0 for i in range(n)],
        "kind": [("up", "down")[i % 2] for i in range(n)],
    }
    columns = {name: np.asarray(values, object) for name, values in cells.items()}
    days = np.datetime64("2021-01-01") + 6 * np.arange(n)
    table = datasets.Table("t", {**columns, "day": days})
    ready = tabular.prepare_inferred(table, "kind")
    fitted = portable_bp.fit(
        ready.network([5]), *ready.part(ready.parts.train), epochs=20, learning_rate=0.02
    )
    model = tabular.TabularModel(ready.preparation, fitted)
    export.to_c(model, tmp_path / "net.c")
    library = compiled_c(tmp_path / "net.c")
    row: list[Any] = []
    for column in ready.preparation.columns:
        values = column.read(table)
        if isinstance(column, tabular.CategoryColumn):
            index = {value: float(i) for i, value in enumerate(column.values)}
            values = np.asarray([np.nan if v is None else index[v] for v in values])
        row.append(values)
    X = np.ascontiguousarray(np.stack(row, axis=1))
    close(c_forward(library, "net", X, 2, "float32"), model.probabilities(table), "float32")
    X[:, 1] = -1  # a town that training had not
    unseen = datasets.Table("t", {**table.columns, "town": np.asarray(["Paris"] * n, object)})
    close(c_forward(library, "net", X, 2, "float32"), model.probabilities(unseen), "float32")
    assert '"Genf"' in (tmp_path / "net.c").read_text()
    assert "seconds since 1970" in (tmp_path / "net.h").read_text()
