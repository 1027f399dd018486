"""The command line as people use it: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import portable_bp
from portable_bp import cli, datasets, tabular, testing
from portable_bp.cli import check
from portable_bp.persistence import atomic, container
from portable_bp.persistence.checkpoints import CheckpointDirectory
from portable_bp.testing import Report, Row, equivalence
from portable_bp.training.callbacks import ProgressBar

RNG = np.random.default_rng(0)
N = 120
QUICK = ("--epochs", "3", "--hidden", "8", "--backend", "numpy")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test works in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORTABLE_BP_BACKEND", raising=False)
    return tmp_path


@pytest.fixture
def call(capsys):
    """``call(*arguments)``: exit code, stdout, stderr."""

    def run(*arguments):
        code = cli.run([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def right(call):
    """``right(*arguments)``: stdout of a command that has to succeed without a word on stderr."""

    def run(*arguments):
        code, out, err = call(*arguments)
        assert (code, err) == (0, ""), err
        return out

    return run


def columns():
    size, age = RNG.normal(size=(2, N))
    return {"size": size, "age": age, "price": 1000 + 100 * (2 * size - age)}


COLUMNS = columns()
KINDS = np.where(COLUMNS["size"] > COLUMNS["age"], "Ärger, groß", "klein")


def write_csv(name="table.csv", **changes):
    table = {name: values for name, values in {**COLUMNS, **changes}.items() if values is not None}
    with open(name, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(v.tolist() for v in table.values()), strict=True))
    return name


def arrays(path):
    return {name: a.tobytes() for name, a in container.read(path)[0].items()}


# ------------------------------------------------------------------------------ the main job


@pytest.mark.parametrize("seed", range(5))
def test_digits_reach_97_percent(right, seed):
    told = json.loads(right("train", "digits", "--backend", "numpy", "--seed", seed, "--json"))
    assert told["test_accuracy"] >= 0.97
    assert told["rows"] == {"train": 1294, "validation": 144, "test": 359}
    # The same number again, from the file and the rows that were kept apart.
    table = datasets.digits()
    test = tabular.prepare(table, seed=seed).parts.test
    predicted = json.loads(right("predict", "model.safetensors", "digits", "--json"))["predictions"]
    hits = np.asarray(predicted)[test] == table.columns["digit"][test]
    assert told["test_accuracy"] == hits.mean()
    assert sum(row["support"] for row in told["per_class"]) == len(test)


def test_train_shows_what_it_does(right):
    out = right("train", "digits", "--plot", "loss.png", "--epochs", "8")
    lines = out.splitlines()
    assert "digits: 1,797 rows, 64 features" in lines[0]
    assert "'digit': classification, 10 classes (target has 10 distinct integers)" in lines[1]
    assert lines[3].startswith("backend  numpy: no usable accelerator: ")
    assert any(line.split() == ["hidden", "1", "128", "relu", "8,320"] for line in lines)
    assert "17,226 parameters, loss softmax_cross_entropy" in lines
    assert any("8/8" in line and "loss" in line and "accuracy" in line for line in lines)
    head = next(i for i, line in enumerate(lines) if line.split()[:2] == ["class", "precision"])
    assert [line.split()[0] for line in lines[head + 1 : head + 11]] == [*map(str, range(10))]
    assert lines[head + 11].startswith("test accuracy 9")
    assert lines[-1] == "wrote model.safetensors and loss.png"
    assert Path("loss.png").read_bytes().startswith(b"\x89PNG")
    assert portable_bp.tabular.load("model.safetensors").preparation.target == "digit"


def save(kind, kinds):
    import pyarrow as pa
    from pyarrow import parquet

    features = {name: COLUMNS[name] for name in ("size", "age")}
    path = f"table.{kind}"
    if kind == "csv":
        write_csv(path, price=None, kind=kinds)
    elif kind == "parquet":
        parquet.write_table(pa.table({**features, "kind": kinds}), path)
    elif kind == "npz":
        np.savez(path, X=np.column_stack([*features.values()]), y=kinds)
    else:
        codes = (kinds == "klein").astype(float)
        np.save(path, np.column_stack([*features.values(), codes]))
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "npy"])
def test_every_format_gives_the_same_model(right, kind):
    reference = save("csv", KINDS)
    right("train", reference, "--target", "kind", "--output", "reference", *QUICK)
    target = ["--target", "kind"] if kind in ("csv", "parquet") else []
    path = save(kind, KINDS)
    told = json.loads(right("train", path, *target, "--output", "model", "--json", *QUICK))
    assert told["classes"] == ([0, 1] if kind == "npy" else ["klein", "Ärger, groß"])
    if kind != "npy":  # its classes are the other way round
        assert arrays("model") == arrays("reference")
    found = json.loads(right("predict", "model", path, "--json"))["predictions"]
    model = tabular.load("model")
    assert found == model.predict(datasets.load(path))


def test_labels_and_probabilities_as_csv(right):
    path = save("csv", KINDS)
    right("train", path, "--target", "kind", *QUICK)
    rows = [
        *csv.reader(io.StringIO(right("predict", "model.safetensors", path, "--probabilities")))
    ]
    assert rows[0] == ["kind", "probability of klein", "probability of Ärger, groß"]
    model = tabular.load("model.safetensors")
    assert [row[0] for row in rows[1:]] == model.predict(datasets.load(path))
    shares = np.asarray([row[1:] for row in rows[1:]], dtype=float)
    np.testing.assert_array_equal(shares, model.probabilities(datasets.load(path)))
    out = right("predict", "model.safetensors", path, "--probabilities", "--output", "p.csv")
    assert out == "wrote p.csv\n"
    assert [*csv.reader(io.StringIO(Path("p.csv").read_text("utf-8")))] == rows


def test_quantities_in_their_unit(right):
    path = write_csv()
    told = json.loads(
        right("train", path, "--target", "price", "--json", "--backend", "numpy", "--dropout", "0",
              "--epochs", "100", "--learning-rate", "0.01", "--hidden", "16")
    )  # fmt: skip
    assert (told["task"], told["classes"], told["why"]) == ("regression", [], "target has numbers")
    assert told["test_r2"] > 0.98
    assert told["test_mae"] <= told["test_rmse"] < 40
    rows = [*csv.reader(io.StringIO(right("predict", "model.safetensors", path)))]
    assert rows[0] == ["price"]
    found = np.asarray([row[0] for row in rows[1:]], dtype=float)
    assert np.corrcoef(found, COLUMNS["price"])[0, 1] > 0.99
    assert abs(found.mean() - COLUMNS["price"].mean()) < 10
    test = tabular.prepare(datasets.load(path), "price").parts.test
    error = found[test] - COLUMNS["price"][test]
    assert told["test_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


def test_options_reach_the_training(right):
    path = write_csv(kind=KINDS, grade=RNG.integers(0, 3, N))
    options = (
        "--drop", "price", "--drop", "kind", "--target", "grade", "--task", "regression", "--hidden",
        "7,5", "--activation", "tanh", "--epochs", "2", "--batch-size", "11", "--learning-rate", "0.5",
        "--optimizer", "sgd", "--dropout", "0.25", "--l2", "0.125", "--seed", "9", "--dtype", "float64",
        "--backend", "strict", "--test-share", "0.5", "--output", "m", "--json",
    )  # fmt: skip
    told = json.loads(right("train", path, *options))
    assert told["layers"] == [2, 7, 5, 1]
    assert (told["task"], told["why"], told["backend"], told["epochs"]) == (
        "regression", "as asked", "strict", 2,
    )  # fmt: skip
    assert told["rows"]["test"] == 60
    model = tabular.load("m").model
    assert [a.name for a in model.net.activations] == ["tanh", "tanh", "identity"]
    assert (model.net.dropout, model.net.l2) == ((0.25, 0.25), 0.125)
    ready = tabular.prepare(
        datasets.load(path), "grade", "regression", drop=["price", "kind"], test_share=0.5, seed=9
    )
    again = portable_bp.fit(
        model.net, *ready.part(ready.parts.train), validation=ready.part(ready.parts.validation),
        optimizer="sgd", learning_rate=0.5, batch_size=11, epochs=2, dtype="float64", seed=9,
    )  # fmt: skip
    for (W, b), (V, c) in zip(model.params, again.params, strict=True):
        np.testing.assert_allclose(W, V, rtol=1e-12)
        np.testing.assert_allclose(b, c, rtol=1e-10, atol=1e-15)


def test_early_stopping_keeps_the_best_model(right):
    options = ("--early-stopping", "2", "--learning-rate", "0.1", "--epochs", "200", "--json")
    told = json.loads(right("train", "digits", *QUICK[2:], *options))
    losses = [row["validation_loss"] for row in told["history"]]
    assert told["stopped"] == "callback"
    assert told["epochs"] < 200
    assert told["best_epoch"] == 1 + int(np.argmin(losses)) == told["epochs"] - 2


def test_the_variable_chooses_the_backend_and_the_option_overrides_it(right, monkeypatch):
    path = write_csv()
    monkeypatch.setenv("PORTABLE_BP_BACKEND", "strict")
    told = json.loads(right("train", path, "--target", "price", "--json", *QUICK[:4]))
    assert (told["backend"], told["backend_why"]) == ("strict", "from PORTABLE_BP_BACKEND")
    told = json.loads(right("train", path, "--target", "price", "--json", *QUICK))
    assert (told["backend"], told["backend_why"]) == ("numpy", "as asked")


def test_quiet_says_nothing(right):
    path = write_csv()
    assert right("train", path, "--target", "price", "--quiet", *QUICK) == ""
    assert right("predict", "model.safetensors", path, "--quiet", "--output", "p.csv") == ""
    assert len(Path("p.csv").read_text().splitlines()) == N + 1


def test_what_a_terminal_would_obey_is_shown_escaped(right):
    kinds = np.where(COLUMNS["size"] > 0, "\x1b[2Jred", "[bold]blue")
    out = right("train", write_csv(kind=kinds), "--target", "kind", *QUICK)
    assert "\x1b" not in out
    assert "\\x1b[2Jred" in out
    assert "[bold]blue" in out


@pytest.mark.parametrize("name", ["loss.png", "loss.svg", "loss.PDF"])
def test_pictures(right, name):
    right("train", write_csv(), "--target", "price", "--plot", name, *QUICK)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[name[-3:].lower()]
    assert Path(name).read_bytes().startswith(start)


def test_a_table_that_is_too_small_to_watch_is_trained_on_all_the_same(right):
    Path("t.csv").write_text("x,y\n" + "".join(f"{i},{i}.5\n" for i in range(4)))
    out = right("train", "t.csv", "--target", "y", "--plot", "loss.png", *QUICK)
    assert "3 training, 0 validation, 1 test" in out


# --------------------------------------------------------------------------------- bad input


def fitted(right, name="model.safetensors", *options):
    right("train", write_csv(), "--target", "price", "--output", name, *options, *QUICK)
    return name


def refused(call, *arguments, words=()):
    """The command ends with 2, one line on stderr, nothing on stdout and no file written."""
    before = snapshot()
    code, out, err = call(*arguments)
    assert code == 2, err
    assert out == ""
    assert err.startswith("portable-bp: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    for word in words:
        assert word in err, err
    assert snapshot() == before
    return err


def snapshot():
    return {p: p.read_bytes() for p in Path().rglob("*") if p.is_file() and p.name != ".lock"}


BAD_TABLES = {
    "ragged": ("size,price\n1,2\n3\n", ["line 3", "1 cells"]),
    "missing value": ("size,price\n1,2\n,3\n3,4\n", ["line 3", "'size'"]),
    "NaN target": ("size,price\n1,NaN\n2,3\n3,4\n", ["line 2", "'price'"]),
    "infinity": ("size,price\n1,2\ninf,3\n3,4\n", ["line 3", "'size'", "infinite"]),
    "text feature": ("size,price\n1,2\nbig,3\n3,4\n", ["line 3", "'big'", "'size'"]),
    "no such column": ("size,cost\n1,2\n2,3\n", ["'price'", "'size', 'cost'"]),
    "one class": ("size,price\n1,a\n2,a\n3,a\n", ["'a'", "two classes"]),
    "a class each": ("size,price\n1,a\n2,b\n3,c\n", ["different class"]),
    "too few rows": ("size,price\n1,2.5\n", ["none to test on"]),
    "only the target": ("price\n1\n2\n", ["beside 'price'"]),
    "empty": ("", ["empty"]),
    "only a header": ("size,price\n", ["no rows"]),
    "hostile cell": ("size,price\n\x1b[31mred,2.5\n" + "2,3\n" * 9, ["line 2", "red"]),
}

READ_BY_DEFAULT = {
    "missing value": ["2.3 %", "median 3, marked"],
    "NaN target": ["1 row without it left out"],
    "text feature": ["1 cell that is not one ('big', line 3) taken as missing"],
    "hostile cell": ["1 cell that is not one ('\\x1b[31mred', line 2) taken as missing"],
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(call, case):
    content, words = BAD_TABLES[case]
    Path("bad.csv").write_text(content)
    arguments = ("train", "bad.csv", "--target", "price", *QUICK)
    refused(call, *arguments, "--strict", words=["bad.csv", *words])
    if case not in READ_BY_DEFAULT:
        refused(call, *arguments, words=["bad.csv", *words])


@pytest.mark.parametrize("case", READ_BY_DEFAULT)
def test_what_is_read_all_the_same_is_told(right, case):
    """Each table is repeated, so that there are rows enough."""
    content, _ = BAD_TABLES[case]
    header, *rows = content.splitlines()
    Path("bad.csv").write_text("\n".join([header, *rows, *[rows[-1]] * 40]))
    out = right("train", "bad.csv", "--target", "price", *QUICK)
    for word in READ_BY_DEFAULT[case]:
        assert word in out, out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.csv"], ["missing.csv", "no such file"]),
        (["../x"], ["../x"]),
        (["a\0b"], ["a"]),
        (["a\0b.csv"], ["a"]),
        (["-rf"], ["-r"]),
        (["--", "-rf"], ["-rf", "digits"]),
        (["\x1b]0;title\x07.csv"], ["title"]),
        (["two\nlines.csv"], ["lines.csv"]),
        (["digit"], ["'digits'"]),
        ([""], ["digits"]),
        (["folder.csv"], ["folder.csv is a folder without"]),
        ([], ["SOURCE"]),
        (["digits", "more"], ["more"]),
        (["digits", "--backend", "numby"], ["numby", "did you mean 'numpy'"]),
        (["digits", "--backend", "quda"], ["unknown backend"]),
        (["digits", "--backend", "torch:cuda:77"], ["torch:cuda:77"]),
        (["digits", "--backend", ""], ["backend"]),
        (["digits", "--target", "number"], ["'number'", "'pixel_0_0'"]),
        (["digits", "--drop", "number"], ["'number'"]),
        (["digits", "--task", "clustering"], ["clustering", "classification"]),
        (["digits", "--hidden", "0"], ["'0'", "128,64"]),
        (["digits", "--hidden", "12,-3"], ["12,-3"]),
        (["digits", "--hidden", "1.5"], ["1.5"]),
        (["digits", "--activation", "step"], ["step", "relu"]),
        (["digits", "--optimizer", "best"], ["best", "adam"]),
        (["digits", "--epochs", "0"], ["--epochs"]),
        (["digits", "--epochs", "two"], ["--epochs"]),
        (["digits", "--batch-size", "-1"], ["--batch-size"]),
        (["digits", "--learning-rate", "0"], ["learning_rate"]),
        (["digits", "--learning-rate", "-1"], ["learning_rate"]),
        (["digits", "--learning-rate", "nan"], ["learning_rate"]),
        (["digits", "--learning-rate", "inf"], ["learning_rate"]),
        (["digits", "--dropout", "1"], ["--dropout"]),
        (["digits", "--l2", "-1"], ["--l2"]),
        (["digits", "--l2", "nan"], ["l2"]),
        (["digits", "--seed", "-1"], ["--seed"]),
        (["digits", "--seed", str(2**64)], ["--seed"]),
        (["digits", "--dtype", "float16"], ["float16"]),
        (["digits", "--test-share", "1"], ["--test-share"]),
        (["digits", "--test-share", "0.0001"], ["none to test on"]),
        (["digits", "--output", "folder.csv"], ["folder.csv", "directory"]),
        (["digits", "--output", "no/such/place"], ["no/such/place", "No such file"]),
        (["digits", "--output", "a\0b"], ["null"]),
        (["digits", "--plot", "folder.csv"], ["directory"]),
        (["digits", "--plot", "loss.doc"], ["loss.doc", ".png"]),
        (["digits", "--plot", "loss"], ["loss", ".png"]),
        (["digits", "--plot", "no/such/place.png"], ["No such file"]),
        (["digits", "--plot", "a.png", "--output", "a.png"], ["a.png", "overwritten"]),
        (["table.csv", "--target", "price", "--output", "./table.csv"], ["overwritten"]),
        (["digits", "--resume"], ["--checkpoint"]),
        (["digits", "--every", "3"], ["--checkpoint"]),
        (["digits", "--checkpoint", "no/such/place"], ["parent"]),
        (["digits", "--checkpoint", "table.csv"], ["directory"]),
        (["digits", "--surprise"], ["--surprise"]),
    ],
    ids=lambda v: " ".join(v).replace("\0", "NUL").replace("\x1b", "ESC").replace("\x07", "BEL")
    .replace("\n", "LF") or "nothing",
)  # fmt: skip
def test_bad_arguments_of_train(call, arguments, words):
    Path("folder.csv").mkdir()
    write_csv()
    Path("model.safetensors").write_text("an old file stays as it is")
    refused(call, "train", *QUICK, *arguments, words=words)


def test_bad_models(call, right, place):
    good = Path(fitted(right)).read_bytes()
    net = portable_bp.MLP([2, 3, 1])
    portable_bp.fit(net, [[0.0, 1.0]], [1.0], epochs=1).save("net")
    container.write("newer", {}, {})
    newer = Path("newer").read_bytes().replace(b'\\"version\\": 1', b'\\"version\\": 2')
    contents = {
        "empty": b"",
        "text": b"hello",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "pickle": pickle.dumps({"W": [1.0]}),
        "cut": good[:-1],
        "flipped": good[:-9] + bytes([good[-9] ^ 4]) + good[-8:],
        "newer": newer,
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
        refused(call, "predict", name, "table.csv", words=[name])
    refused(call, "predict", "net", "table.csv", words=["net", "portable_bp.load"])
    refused(call, "predict", "missing", "table.csv", words=["missing", "No such file"])
    refused(call, "predict", ".", "table.csv")
    refused(call, "predict", "a\0b", "table.csv")
    refused(call, "predict", "../x", "table.csv", words=["../x"])
    refused(call, "predict", "table.csv", "model.safetensors", words=["table.csv"])


def test_bad_arguments_of_predict(call, right):
    model = fitted(right)
    strict = fitted(right, "strict", "--strict")
    Path("other.csv").write_text("size,weight\n1,2\n")
    Path("nan.csv").write_text("size,age\n1,2\n3,\n")
    Path("folder").mkdir()
    for arguments, words in [
        ([], ["MODEL"]),
        ([model], ["FILE"]),
        ([model, "missing.csv"], ["missing.csv"]),
        ([model, "other.csv"], ["other.csv", "'age'"]),
        ([strict, "nan.csv"], ["line 3", "'age'"]),
        ([model, "digits"], ["digits", "'size'"]),
        ([model, "table.csv", "--probabilities"], ["probabilities"]),
        ([model, "table.csv", "--backend", "tpu"], ["tpu"]),
        ([model, "table.csv", "--output", "folder"], ["directory"]),
        ([model, "table.csv", "--output", model], ["overwritten"]),
        ([model, "table.csv", "--output", "table.csv"], ["overwritten"]),
        ([model, "table.csv", "--output", "no/such/place"], ["No such file"]),
    ]:
        refused(call, "predict", *arguments, words=words)


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["--fly"], ["info", "more"], ["explain", "--fly"], ["check", "--backend", "numby"],
     ["check", "--json", "no/such/place"], ["check", "--json", "."]],
    ids=" ".join,
)  # fmt: skip
def test_bad_arguments_of_the_rest(call, arguments):
    refused(call, *arguments)


def test_a_read_only_directory_is_found_before_the_training(call, monkeypatch):
    def full(directory):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomic, "check_writable", full)
    refused(call, "train", "digits", *QUICK, words=["model.safetensors", "Permission denied"])


@pytest.mark.parametrize(
    ("blocked", "arguments"),
    [
        ("click", ["info"]),
        ("rich", ["train", "digits"]),
        ("rich", ["check"]),
        ("safetensors", ["train", "digits"]),
        ("sklearn", ["train", "digits", "--backend", "numpy"]),
        ("pyarrow", ["train", "table.csv", "--target", "price", "--backend", "numpy"]),
        ("matplotlib", ["train", "digits", "--plot", "loss.png"]),
    ],
)
def test_a_missing_library_is_named_with_what_to_install(blocked, arguments):
    write_csv()
    code = (
        f"import sys; sys.modules[{blocked!r}] = None; sys.argv[0] = 'portable-bp'; "
        "from portable_bp.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "pip install 'portable-bp[" in done.stderr
    assert sorted(os.listdir()) == ["table.csv"]


# --------------------------------------------------------------------- tried, and failed: exit 1


def failed(call, *arguments, words=()):
    code, _, err = call(*arguments)
    assert code == 1, err
    assert err.startswith("portable-bp: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err, err


def test_divergence(call):
    Path("model.safetensors").write_text("old")
    options = ("--optimizer", "sgd", "--learning-rate", "1e30", *QUICK)
    failed(call, "train", "digits", *options, words=["diverged", "epoch 1", "learning_rate"])
    assert Path("model.safetensors").read_text() == "old"


def test_a_layer_that_fits_no_machine(call):
    failed(call, "train", "digits", "--hidden", str(10**12), words=["bytes", "smaller layers"])
    assert os.listdir() == []


def test_a_full_disk_leaves_the_old_model(call, monkeypatch):
    Path("model.safetensors").write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failed(call, "train", "digits", *QUICK, words=["model.safetensors", "No space left"])
    assert Path("model.safetensors").read_text() == "old"
    assert os.listdir() == ["model.safetensors"]


def test_a_full_disk_leaves_the_old_predictions(call, right, monkeypatch):
    model = fitted(right)
    Path("p.csv").write_text("old")

    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    failed(call, "predict", model, "table.csv", "--output", "p.csv", words=["p.csv", "No space"])
    assert Path("p.csv").read_text() == "old"
    assert len(os.listdir()) == 3


# ---------------------------------------------------------------------- checkpoints and signals

RUN = ("--backend", "numpy", "--hidden", "64", "--epochs", "25")
KEPT = (*RUN, "--checkpoint", "run", "--every", "7")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """The digits as a file that loads fast."""
    path = tmp_path_factory.mktemp("pixels") / "digits.npy"
    np.save(path, np.column_stack([*datasets.digits().columns.values()]))
    return str(path)


def process(*arguments):
    # Unbuffered, Python loses what a pipe does not take at once, without an error.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-m", "portable_bp", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def end(running):
    out, err = running.communicate(timeout=120)
    return running.returncode, out, err


def wait_for(running, found):
    while not found():
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pixels):
    """The arrays of the run that nothing interrupts."""
    path = tmp_path_factory.mktemp("whole") / "m"
    assert end(process("train", pixels, *RUN, "--quiet", "--output", str(path))) == (0, "", "")
    return arrays(path)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(name, code, pixels, whole):
    running = process("train", pixels, *KEPT)
    wait_for(running, lambda: len([*Path().glob("run/ckpt-*")]) > 1)
    running.send_signal(getattr(signal, name))
    found, _, err = end(running)
    assert (found, err.count("\n")) == (code, 1), err
    assert "continue with --resume" in err
    assert not Path("model.safetensors").exists()
    assert end(process("train", pixels, *KEPT, "--resume", "--quiet")) == (0, "", "")
    assert arrays("model.safetensors") == whole


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_without_checkpoints_only_ctrl_c_keeps_the_best_model_so_far(call, monkeypatch, name, code):
    show = ProgressBar.__call__

    def shown(bar, end):
        show(bar, end)
        if end.epoch == 3:
            signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(ProgressBar, "__call__", shown)
    found, out, err = call("train", "digits", *RUN, "--output", "m", "--plot", "loss.png")
    assert (found, err.count("\n")) == (code, 1), err
    if name == "SIGTERM":
        assert os.listdir() == []
        return
    assert err == "portable-bp: interrupted; m is the best model so far\n"
    assert "test accuracy" in out
    model = tabular.load("m").model
    losses = model.history["validation_loss"]
    assert (model.stopped, len(losses)) == ("interrupted", 3)
    assert model.best_epoch == 1 + int(np.argmin(losses))
    assert Path("loss.png").exists()


def test_an_end_before_the_training_writes_nothing(call, monkeypatch):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        monkeypatch.setattr(
            datasets, "load", lambda *arguments, n=number, **options: signal.raise_signal(n)
        )
        found, out, err = call("train", "digits", *QUICK)
        # On Ctrl-C click ends the line that a terminal began with ^C.
        assert (found, out, err.strip().count("\n")) == (code, "", 0)
        assert os.listdir() == []


def test_resume_starts_where_there_is_nothing_and_does_nothing_where_all_is_done(right):
    for _ in range(2):
        right("train", write_csv(), "--target", "price", "--checkpoint", "run", "--resume", *QUICK)
        found = arrays("model.safetensors")
        os.unlink("model.safetensors")
    right("train", "table.csv", "--target", "price", *QUICK)
    assert arrays("model.safetensors") == found


def test_a_checkpoint_directory_of_another_run(call, right):
    command = ("train", write_csv(), "--target", "price", "--checkpoint", "run", *QUICK)
    right(*command)
    refused(call, *command, words=["run", "resume"])
    refused(call, *command, "--resume", "--seed", "1", words=["another run"])
    with CheckpointDirectory("run"):
        refused(call, *command, "--resume", words=["another run", "process"])


# ------------------------------------------------------- terminals, JSON, headers, standard input


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_that_lacks_a_character_gets_it_escaped(monkeypatch, encoding):
    kinds = np.where(COLUMNS["size"] > COLUMNS["age"], "wei\u00df", "\u03b4elta")
    write_csv("t.csv", kind=kinds)
    for command in (
        ["train", "t.csv", "--target", "kind", *QUICK, "--drop", "price"],
        ["predict", "model.safetensors", "t.csv"],
        ["predict", "model.safetensors", "t.csv", "--output", "\u03b4.csv"],
        ["train", "no \u03b4.csv"],
        ["info"],
    ):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        code = cli.run(command)
        assert out.errors == err.errors == "strict", "as it was before"
        shown = [
            stream.buffer.getvalue().decode(encoding) for stream in (out, err) if not stream.flush()
        ]
        if command[0] == "info":
            assert (code, shown[1]) == (0, "")
            continue
        bad = command[1].startswith("no")
        assert code == (2 if bad else 0)
        delta = "\u03b4" if encoding == "utf-8" else "\\u03b4"
        assert delta in shown[bad]
    assert "\u03b4elta" in Path("\u03b4.csv").read_text("utf-8")  # a file is always UTF-8


def test_a_pipe_that_is_not_utf8():
    write_csv("t.csv", kind=np.where(COLUMNS["size"] > 0, "wei\u00df", "\u03b4elta"), price=None)
    done = subprocess.run(
        [sys.executable, "-m", "portable_bp", "train", "t.csv", "--target", "kind", *QUICK],
        capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\\u03b4elta" in done.stdout.decode("cp1252")


def strict_json(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_without_infinity(right):
    extreme = np.resize([1e200, -1e200, 3.5], N)
    write_csv("t.csv", price=extreme)
    options = ("--target", "price", "--task", "regression", "--json", *QUICK)
    report = strict_json(right("train", "t.csv", *options))
    assert 1e199 < report["test_mae"] <= report["test_rmse"] < 1e202
    model = tabular.load("model.safetensors")
    vast = dataclasses.replace(model.preparation, target_scale=1e308, target_mean=1e308)
    tabular.TabularModel(vast, model.model).save("vast")
    predictions = strict_json(right("predict", "vast", "t.csv", "--json"))["predictions"]
    assert None in predictions
    assert "inf" in right("predict", "vast", "t.csv")


def test_json_of_every_command(right, monkeypatch):
    monkeypatch.setattr(equivalence, "CHECKS", {"transfers": equivalence.CHECKS["transfers"]})
    strict_json(right("info", "--json"))
    right("check", "--backend", "numpy", "--quiet", "--json", "r.json")
    strict_json(Path("r.json").read_text())


def test_header_and_no_header(call, right):
    years = "".join(f"{i % 7},{i % 5},{i % 3},{i % 2}\n" for i in range(N))
    Path("t.csv").write_text("1990,1991,1992,1993\n" + years)
    words = ["t.csv", "line 1", "--header or --no-header"]
    refused(call, "train", "t.csv", "--target", "1993", *QUICK, words=words)
    told = json.loads(right("train", "t.csv", "--header", "--target", "1993", "--json", *QUICK))
    assert sum(told["rows"].values()) == N
    refused(call, "predict", "model.safetensors", "t.csv", words=words)
    lines = right("predict", "model.safetensors", "t.csv", "--header").splitlines()
    assert (lines[0], len(lines)) == ("1993", N + 1)
    told = json.loads(right("train", "t.csv", "--no-header", "--target", "2", "--json", *QUICK))
    assert sum(told["rows"].values()) == N + 1
    assert "no header" in told["note"]
    refused(call, "train", "digits", "--header", words=["CSV"])


def test_a_database(call, right):
    import sqlite3

    with sqlite3.connect("t.db") as connection:
        connection.execute("CREATE TABLE t (x REAL, y TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, "ab"[i > 30]) for i in range(N)])
    connection.close()
    query = ["sqlite:///t.db", "--query", "SELECT * FROM t"]
    right("train", *query, "--target", "y", *QUICK)
    assert right("predict", "model.safetensors", *query).splitlines()[:2] == ["y", "a"]
    refused(call, "train", "sqlite:///t.db", "--target", "y", words=["--query"])


def test_what_was_assumed_is_told(call, right):
    Path("t.csv").write_text("".join(f"{i % 7};{i % 2}\n" for i in range(N)))
    out = right("train", "t.csv", "--target", "1", *QUICK)
    assert "(no header: columns are called 0, 1, ...; cells are separated by ';')" in out
    code, out, err = call("predict", "model.safetensors", "t.csv")
    assert (code, out.count("\n")) == (0, N + 1)
    assert err.startswith("portable-bp: note: t.csv: no header")
    assert call("predict", "model.safetensors", "t.csv", "--quiet")[2] == ""


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_standard_input(right, monkeypatch, source):
    """As in ``zcat table.csv.gz | portable-bp train -``."""
    content = Path(write_csv()).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    report = json.loads(right("train", source, "--target", "price", "--json", *QUICK))
    assert report["source"] == "standard input"


# ------------------------------------------------------------------------ info, explain, check


def test_info(right):
    out = right("info")
    assert portable_bp.__version__ in out
    for row in (["numpy", np.__version__, "numpy"], ["cupy"], ["torch"], ["jax"], ["strict"]):
        assert any(line.split()[: len(row)] == row for line in out.splitlines())
    told = json.loads(right("info", "--json"))
    assert told["portable_bp"] == portable_bp.__version__
    assert told["auto"] in portable_bp.available_backends()
    found = {spec for row in told["backends"] for spec in row["devices"]}
    assert found == set(portable_bp.available_backends())
    for row in told["backends"]:
        assert bool(row["why_not"]) != bool(row["devices"])
    told = json.loads(right("info", "--no-probe", "--json"))
    assert {row["name"]: row["installed"] for row in told["backends"]}["torch"] is True
    assert told["auto"] is None
    assert "torch   2" in right("info", "--no-probe")


def test_explain(right):
    out = right("explain")
    for number in ("0.671802813", "0.698075443", "0.298371109", "0.561370121", "0.291027774"):
        assert number in out
    told = json.loads(right("explain", "--json"))["examples"]
    assert [traces[0]["backend"] for traces in told] == ["numpy", "numpy"]
    assert told[1][0]["loss_after"] == pytest.approx(0.29102777, abs=5e-9)


def test_check(right, monkeypatch):
    few = {name: equivalence.CHECKS[name] for name in ("transfers", "activations")}
    monkeypatch.setattr(equivalence, "CHECKS", few)
    out = right("check", "--backend", "numpy", "--backend", "strict", "--json", "report.json")
    assert "numpy computes what the equations say" in out
    assert "strict computes what the equations say" in out
    told = json.loads(Path("report.json").read_text())
    assert told["agrees"] is True
    assert [r["backend"] for r in told["reports"]] == ["numpy", "strict"]
    assert len(told["reports"][0]["rows"]) > 50
    assert right("check", "--backend", "numpy", "--quiet") == ""


def test_check_that_finds_something_ends_with_1(call, monkeypatch):
    good = Row("gradient", "relu", "float32", "eager", 1.0, 32.0)
    bad = Row("gradient", "gelu", "float32", "eager", 1e9, 32.0)
    seen = []

    def checked(spec):
        seen.append(spec)
        rows = (good, bad) if spec == "torch" else (good,)
        return Report(spec, "2000-01-01", {}, rows, {})

    monkeypatch.setattr(check, "check_backend", checked)
    code, out, err = call("check", "--json", "r.json")
    assert (code, err) == (1, "")
    assert "torch DISAGREES in 1 of 2" in out
    assert json.loads(Path("r.json").read_text())["agrees"] is False
    assert {spec.partition(":")[0] for spec in seen} >= {"numpy", "torch", "jax", "strict"}
    assert call("check", "--backend", "numpy")[0] == 0


def test_the_check_of_the_command_line_is_the_public_one():
    assert check.check_backend is testing.check_backend


# -------------------------------------------------------------------------------- the rest


def test_version_and_help(right):
    assert right("--version") == f"portable-bp {portable_bp.__version__}\n"
    everything = right()
    for name in ("train", "predict", "info", "explain", "bench", "check"):
        assert f"\n  {name} " in everything
        assert "--help" in right(name, "-h")
    for code in ("0 success", "1 the command failed", "2 bad", "130", "143"):
        assert code in everything


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "portable_bp", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"portable-bp {portable_bp.__version__}\n"


def test_a_reader_that_leaves_is_no_error(right):
    """As ``portable-bp predict ... | head -1`` does."""
    model = fitted(right)
    size = RNG.normal(size=50_000)
    write_csv("large.csv", size=size, age=size, price=None)
    with process("predict", model, "large.csv") as running:
        assert running.stdout.readline() == "price\n"
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


def test_warnings_are_one_line_on_stderr(call, monkeypatch, recwarn):
    import warnings

    def noisy(*arguments, **options):
        warnings.warn("look\nhere", UserWarning, stacklevel=1)
        return digits

    digits = datasets.digits()
    monkeypatch.setattr(datasets, "load", noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = call("train", "digits", *QUICK)
        assert (code, err) == (0, "portable-bp: warning: look here\n")
        code, _, err = call("train", "digits", "--quiet", *QUICK)
        assert (code, err) == (0, "")
