"""The catalogue of bad input: what each function and ``fit`` make of it.

An entry is a line of a table or a test of its own, and stands in no other place; what is tested in other
files is in :data:`ELSEWHERE`, and the estimators have a catalogue too.

Every error is of the class that is written here and says what is wrong with which argument and what
to do; whatever was handed in has the same bytes afterwards.
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse

import portable_bp
from portable_bp import MLP, BackendError, DivergenceError, MixedBackendError, OutOfMemoryError
from portable_bp.backend import Backend, leaves
from portable_bp.equations import activations, losses, optimizers, schedules
from tests.helpers import jax_64_bits

ELSEWHERE = {
    "partial_fit with an unseen label": "estimators/test_bad_input.py::test_labels_of_partial_fit",
    "partial_fit without classes": "estimators/test_bad_input.py::test_labels_of_partial_fit",
    "data frame with names": "estimators/test_bad_input.py::test_data_frames",
    "data frame with categories or missing values": (
        "estimators/test_bad_input.py::test_data_frames_with_what_is_no_number"
    ),
    "predict before fit": "estimators/test_bad_input.py::test_nothing_without_fit",
    "array after a data frame": "estimators/test_bad_input.py::test_data_frames",
    "warm_start with other layers": (
        "estimators/test_bad_input.py::test_warm_start_with_other_layers"
    ),
    "tensor that requires a gradient": (
        "training/test_fit.py::test_a_requires_grad_tensor_is_detached"
    ),
    "no GPU": (
        "backend/test_registry.py::test_torch_without_cuda_says_so "
        "backend/test_registry.py::test_cupy_installed_without_a_driver"
    ),
    "memory of a device runs out": "backend/test_memory.py::test_a_device_without_memory_says_so",
    "Ctrl-C": (
        "training/test_fit.py::test_ctrl_c_stops_cleanly_and_keeps_the_best_model_so_far "
        "training/test_recovery.py::test_a_run_that_is_stopped_from_outside_goes_on_to_the_same_bits"
    ),
    "exception in a callback": (
        "training/test_recovery.py::test_an_exception_in_a_callback_loses_nothing"
    ),
    "NaN in the middle of training": (
        "training/test_recovery.py::test_divergence_is_told_everywhere"
    ),
    "disk full at a checkpoint": (
        "persistence/test_container.py::test_disk_full_at_any_byte "
        "training/test_recovery.py::test_a_full_disk_does_not_stop_the_training"
    ),
    "two processes on one directory": (
        "persistence/test_checkpoints.py::test_a_second_process_is_refused_until_the_first_is_gone "
        "training/test_recovery.py::test_two_runs_on_one_directory"
    ),
    "truncated, empty, foreign files": (
        "persistence/test_container.py::test_every_truncation "
        "persistence/test_container.py::test_foreign_and_hostile_files_are_refused"
    ),
    "a flipped bit": "persistence/test_container.py::test_every_single_bit_flip",
    "a pickle as a checkpoint": (
        "persistence/test_container.py::test_foreign_and_hostile_files_are_refused"
    ),
    "a newer version": "persistence/test_container.py::test_foreign_and_hostile_files_are_refused",
    "a checkpoint of another network": "training/test_recovery.py::test_another_run_is_refused",
    "a checkpoint with NaN": (
        "persistence/test_container.py::test_numbers_that_are_not_finite_are_refused_unless_allowed"
    ),
    "links, directories, read-only places": (
        "persistence/test_container.py::test_a_link_stays_a_link "
        "persistence/test_container.py::test_paths_that_are_no_files "
        "persistence/test_container.py::test_a_directory_that_may_not_be_written "
        "persistence/test_checkpoints.py::test_places_where_no_directory_can_be"
    ),
    "hostile names of data sets": (
        "cli/test_cli.py::test_bad_arguments_of_train "
        "tables/test_datasets.py::test_names_of_nothing"
    ),
    "unknown options": (
        "cli/test_cli.py::test_bad_arguments_of_train "
        "cli/test_cli.py::test_bad_arguments_of_the_rest"
    ),
    ".npy of objects, of impossible shapes": (
        "tables/test_datasets.py::test_a_npy_that_is_wrong "
        "tables/test_datasets.py::test_objects_are_never_unpickled"
    ),
    ".npz that inflates": "tables/test_datasets.py::test_npz_bomb",
    "ragged or empty CSV, text cells": (
        "tables/test_datasets.py::test_a_csv_that_is_wrong_says_where "
        "cli/test_cli.py::test_bad_tables"
    ),
    "pickled to other processes": "estimators/test_follows_x.py::test_joblib_with_two_processes",
    "NaN in the data of one process": (
        "processes/test_faults.py::test_mpi processes/test_faults.py::test_torch"
    ),
    "processes that disagree": (
        "processes/test_faults.py::test_mpi processes/test_faults.py::test_torch"
    ),
}
"""Bad input of another kind, and the tests of it."""


Report = Callable[[str, list[str]], None]
BAD = "a bad argument of a function, of `fit` or of a model"
"""The row of the table in ``docs/reliability.md``."""

RNG = np.random.default_rng(5)
N = 12
X = RNG.normal(size=(N, 3)).astype("float32")
Y = {"real": RNG.normal(size=N), "class": np.arange(N) % 3}
W = np.linspace(0.5, 1.5, N)
NETS = {
    "real": MLP([3, 4, 1], "tanh"),
    "class": MLP([3, 4, 3], "tanh", "softmax_cross_entropy"),
}


def put(array: Any, where: Any, value: Any) -> Any:
    """A copy of ``array`` with one entry changed."""
    changed = np.array(array)
    changed[where] = value
    return changed


class Bad(NamedTuple):
    """One bad argument, and the error it has to lead to."""

    what: str
    argument: str
    value: Any
    error: type[Exception]
    says: str
    """A pattern: the argument, what was given, what to do."""
    kind: str = "real"
    on_device: bool = False
    """Whether an array library could hold it too."""


FILL = "fill or drop them first"
NUMBERS = "convert it to numbers first"
ARRAYS = [
    Bad("X has NaN", "X", put(X, (2, 1), np.nan), ValueError,
        rf"X contains NaN: 1 value.*row 2, column 1; {FILL}", on_device=True),
    Bad("X has infinities", "X", put(X, (3, 0), np.inf), ValueError,
        rf"X contains infinity: 1 value.*row 3, column 0; {FILL}", on_device=True),
    Bad("X has infinities", "X", put(X, (3, 0), -np.inf), ValueError,
        "X contains infinity", on_device=True),
    Bad("real targets that are not finite", "y", put(Y["real"], 4, np.nan), ValueError,
        rf"y contains NaN.*row 4.*{FILL}",
        on_device=True),
    Bad("real targets that are not finite", "y", put(Y["real"], 4, np.inf), ValueError,
        rf"y contains infinity.*row 4.*{FILL}",
        on_device=True),
    Bad("class labels with NaN", "y", put(Y["class"].astype(float), 1, np.nan), ValueError,
        rf"y contains NaN.*row 1.*{FILL}", "class", True),
    Bad("X is 1-D", "X", X[:, 0], ValueError, r"2D array, got 1D.*got \(12,\).*reshape\(-1, 1\)",
        on_device=True),
    Bad("X is a number", "X", 3.0, ValueError,
        r"X must be 2-D, of shape \(rows, features\); got \(\)"),
    Bad("X is 3-D", "X", X.reshape(N, 3, 1), ValueError,
        r"X must be 2-D.*got \(12, 3, 1\)", on_device=True),
    Bad("X has no rows", "X", X[:0], ValueError,
        r"X has 0 row\(s\); at least 1 needed", on_device=True),
    Bad("X has no columns", "X", X[:, :0], ValueError, r"X has no columns", on_device=True),
    Bad("X and y of different lengths", "y", Y["real"][:5], ValueError,
        r"y has 5 row\(s\), but X has 12", on_device=True),
    Bad("X and y of different lengths", "y", Y["class"][:5], ValueError,
        r"y has 5 row\(s\), but X has 12", "class", True),
    Bad("y is None", "y", None, ValueError, "y is None; an array of numbers is needed"),
    Bad("y is a column", "y", Y["class"][:, None], ValueError,
        r"y has the shape \(12, 1\).*needs class labels \(12,\) or \(12, 3\)", "class", True),
    Bad("y is 3-D", "y", Y["real"].reshape(N, 1, 1), ValueError,
        r"y must have the shape \(12,\) or \(12, 1\); got \(12, 1, 1\)", on_device=True),
    Bad("fractions as class labels", "y", Y["class"] + 0.5, ValueError,
        r"y must hold class labels 0 \.\. 2, got the fraction.*regression loss", "class", True),
    Bad("text labels", "y", Y["class"].astype(str), ValueError, rf"y holds text.*{NUMBERS}"),
    Bad("labels of text and numbers", "y", np.array([1, "a"] * 6, object), ValueError,
        "y mixes labels of the types int, text; use one type for all", "class"),
    Bad("None among the labels", "y", [0, None] * 6, ValueError,
        rf"y has missing labels \(None\); {FILL}", "class"),
    Bad("None among the labels", "y", [0, None] * 6, ValueError,
        rf"y has missing values \(None\); {FILL}"),
    Bad("a label beyond the classes", "y", put(Y["class"], 7, 3), ValueError,
        r"y must hold class labels 0 \.\. 2 for a network with 3 outputs, got 3 at row 7", "class",
        True),
    Bad("a negative label", "y", put(Y["class"], 7, -1), ValueError,
        r"y must hold class labels.*got -1 at row 7",
        "class", True),
    Bad("ragged lists", "X", [[1.0, 2.0, 3.0], [1.0]], ValueError,
        r"X cannot be made a regular array.*one length"),
    Bad("complex X", "X", X + 1j, ValueError, "Complex data not supported: .*X has the dtype",
        on_device=True),
    Bad("complex X", "y", Y["real"] + 1j, ValueError,
        "Complex data not supported: .*y has the dtype",
        on_device=True),
    Bad("objects that are no numbers", "X", np.array([[object()] * 3] * N), TypeError,
        r"X holds Python objects \(object\) that are not numbers .*; pass an array"),
    Bad("objects that are no numbers", "X", [["a"] * 3] * N, ValueError,
        rf"X holds text.*{NUMBERS}"),
    Bad("digits as text", "X", X.astype(str), ValueError, rf"X holds text.*{NUMBERS}"),
    Bad("digits as text", "X", X.astype(str).astype(object), ValueError,
        rf"X holds text such as .*{NUMBERS}"),
    Bad("dates", "X", np.zeros((N, 3), "datetime64[s]"), TypeError,
        rf"X has the dtype datetime64.*{NUMBERS}"),
    Bad("structured array", "X", np.zeros(N, [("a", "f4")]), TypeError,
        rf"X has the dtype .*{NUMBERS}"),
    Bad("masked array", "X", np.ma.masked_array(X, X > 1), ValueError,
        rf"X has masked values; {FILL}"),
    Bad("sparse matrix", "y", scipy.sparse.csr_matrix(X), TypeError,
        r"y is a sparse matrix.*call its toarray\(\)"),
    Bad("sparse matrix", "y", scipy.sparse.coo_array(X), TypeError,
        r"y is a sparse matrix.*call its toarray\(\)"),
    Bad("numpy.matrix", "X", np.asmatrix(X), TypeError,
        r"X is a numpy\.matrix; pass it through numpy\.asarray"),
    Bad("X too large for the dtype", "X", put(X.astype(float), (1, 1), 1e300), ValueError,
        r"X has values too large for float32 \(up to 1e\+300\); scale it, or ask for dtype='float64'",
        on_device=True),
    Bad("y near the largest number", "y", put(Y["real"], 3, 1e300), ValueError,
        "y has values too large for float32",
        on_device=True),
    Bad("predict with another width", "X", X[:, :2], ValueError,
        "X has 2 features, but the network expects 3", on_device=True),
    Bad("sample_weight", "sample_weight", W[:5], ValueError,
        r"sample_weight must have the shape \(12,\), one per row of X; got \(5,\)", on_device=True),
    Bad("sample_weight", "sample_weight", W[:, None], ValueError,
        r"sample_weight must have the shape \(12,\)",
        on_device=True),
    Bad("sample_weight", "sample_weight", 0 * W, ValueError,
        "sample_weight is zero for every row", on_device=True),
    Bad("sample_weight", "sample_weight", put(W, 2, np.nan), ValueError,
        rf"sample_weight contains NaN.*row 2.*{FILL}", on_device=True),
    Bad("sample_weight", "sample_weight", ["a"] * N, ValueError,
        rf"sample_weight holds text.*{NUMBERS}"),
    Bad("negative sample_weight", "sample_weight", put(W, 2, -1), ValueError,
        "sample_weight has a negative value, -1 at row 2", on_device=True),
]  # fmt: skip


def _with_params(method: str) -> Callable[..., Any]:
    return lambda net, model, X, y, w: getattr(net, method)(model.params, X, y, w)


def _fit(net: MLP, model: Any, X: Any, y: Any, w: Any) -> Any:
    return portable_bp.fit(net, X, y, sample_weight=w, epochs=1, backend=model.backend)


def _validate(net: MLP, model: Any, x: Any, y: Any, w: Any) -> Any:
    good = Y["class" if net.loss.classes else "real"]
    return portable_bp.fit(net, X, good, validation=(x, y, w), epochs=1, backend=model.backend)


LEVELS: dict[str, Callable[..., Any]] = {
    "forward": lambda net, model, X, y, w: net.forward(model.params, X),
    "predict": lambda net, model, X, y, w: net.predict(model.params, X),
    "loss_and_gradients": _with_params("loss_and_gradients"),
    "deltas": _with_params("deltas"),
    "input_gradient": _with_params("input_gradient"),
    "fit": _fit,
    "validation": _validate,
    "Model.forward": lambda net, model, X, y, w: model.forward(X),
    "Model.predict": lambda net, model, X, y, w: model.predict(X),
    "Model.evaluate": lambda net, model, X, y, w: model.evaluate(X, y, w),
    "Model.score": lambda net, model, X, y, w: model.score(X, y, w),
}
ONLY_X = ("forward", "predict", "Model.forward", "Model.predict")


def model_on(spec: str, kind: str) -> Any:
    backend = portable_bp.get_backend(spec)
    return portable_bp.Model(NETS[kind], NETS[kind].init(0, backend), backend)


def contents(value: Any) -> Any:
    """What must not change, of anything that was handed in."""
    backend = portable_bp.backend.registry.owner(value)
    if backend is not None:
        value = portable_bp.backend.registry.resolve(None, value).to_numpy(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.tobytes(), value.dtype, value.shape, value.strides
    return repr(value)


def refused(bad: Bad, level: str, spec: str, value: Any) -> None:
    given = {"X": X, "y": Y[bad.kind], "sample_weight": W} | {bad.argument: value}
    before = [contents(v) for v in given.values()]
    model = model_on(spec, bad.kind)
    with pytest.raises(bad.error) as caught:
        LEVELS[level](NETS[bad.kind], model, *given.values())
    assert type(caught.value) is bad.error
    assert re.search(bad.says, str(caught.value), re.DOTALL), str(caught.value)
    if level == "validation":
        assert f"validation {bad.argument}" in str(caught.value)
    assert [contents(v) for v in given.values()] == before


def everywhere(bads: list[Bad], levels: Any) -> pytest.MarkDecorator:
    """Each at each level that takes such an argument."""
    pairs = [
        pytest.param(bad, level, id=f"{bad.what}-{level}")
        for bad in bads
        for level in levels
        if bad.argument == "X" or level not in ONLY_X
    ]
    return pytest.mark.parametrize(("bad", "level"), pairs)


@everywhere(ARRAYS, LEVELS)
def test_bad_arrays(bad: Bad, level: str, report: Report) -> None:
    refused(bad, level, "numpy", bad.value)
    report(BAD, ["refused"])


@everywhere(
    [b for b in ARRAYS if b.on_device],
    ["fit", "validation", "loss_and_gradients", "Model.predict", "Model.evaluate"],
)
@pytest.mark.parametrize("spec", ["torch", "jax", "strict"])
def test_bad_arrays_on_a_device(
    bad: Bad, level: str, spec: str, usable: Callable[[str], Backend], report: Report
) -> None:
    refused(bad, level, spec, usable(spec).asarray(bad.value))
    report(BAD, ["refused"])


# --------------------------------------------------------------------------- the order of checks


class Counted:
    """How often a backend was asked for what costs its device something, in order."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for name in ("asarray", "upload", "to_numpy", "copy", "compile", "compile_function"):
            true = getattr(type(backend), name)

            def counted(*a: Any, name: str = name, true: Any = true, **k: Any) -> Any:
                self.calls.append(name)
                return true(*a, **k)

            monkeypatch.setattr(type(backend), name, counted)


WRONG_TARGETS = [b for b in ARRAYS if b.argument in ("y", "sample_weight")]


@pytest.mark.parametrize("level", ["fit", "validation", "loss_and_gradients", "Model.evaluate"])
def test_wrong_targets_cost_no_work_on_the_device(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = portable_bp.get_backend("strict")
    on_device = {kind: model_on("strict", kind) for kind in NETS}
    counted = Counted(backend, monkeypatch)
    for bad in WRONG_TARGETS:
        given = {"X": X, "y": Y[bad.kind], "sample_weight": W} | {bad.argument: bad.value}
        with pytest.raises(bad.error):
            LEVELS[level](NETS[bad.kind], on_device[bad.kind], *given.values())
        assert counted.calls == [], bad


@pytest.mark.parametrize("level", ["fit", "validation", "loss_and_gradients", "Model.evaluate"])
def test_wrong_targets_on_the_device_cost_one_read(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = portable_bp.get_backend("strict")
    on_device = {kind: model_on("strict", kind) for kind in NETS}
    for bad in (b for b in WRONG_TARGETS if b.on_device):
        given = {"X": X, "y": Y[bad.kind], "sample_weight": W} | {bad.argument: bad.value}
        values = [backend.asarray(v) for v in given.values()]
        with monkeypatch.context() as patch:
            counted = Counted(backend, patch)
            with pytest.raises(bad.error):
                LEVELS[level](NETS[bad.kind], on_device[bad.kind], *values)
        assert set(counted.calls) <= {"to_numpy"}, bad
        assert len(counted.calls) <= 1, bad


@pytest.mark.parametrize("spec", ["torch", "strict"])
@pytest.mark.parametrize("kind", NETS)
def test_checking_costs_at_most_one_read_of_the_device(
    kind: str, spec: str, monkeypatch: pytest.MonkeyPatch, usable: Callable[[str], Backend]
) -> None:
    """All of X, y, sample_weight and the same for validation, before the first step."""
    backend = usable(spec)
    host = (X, Y[kind], W)
    device = tuple(backend.asarray(a) for a in host)
    for rows, reads in ((device, 1), (host, 0)):
        with monkeypatch.context() as patch:
            counted = Counted(backend, patch)
            portable_bp.fit(NETS[kind], *rows[:2], sample_weight=rows[2], validation=rows, epochs=1,
                            backend=spec)  # fmt: skip
        before = counted.calls[: counted.calls.index("compile")]
        assert before.count("to_numpy") == reads


# -------------------------------------------------------------------------------- good input


def unusual() -> dict[str, tuple[Any, Any]]:
    """X as it is handed in, and the same numbers as plain float32."""
    whole = np.round(3 * X)
    bytes_ = np.abs(whole)
    many = np.broadcast_to(X[:1], X.shape)
    read_only = X.copy()
    read_only.flags.writeable = False
    return {
        "list": (X.tolist(), X),
        "int64": (whole.astype("int64"), whole),
        "uint8": (bytes_.astype("uint8"), bytes_),
        "bool": (X > 0, (X > 0).astype("float32")),
        "float16": (X.astype("float16"), X.astype("float16").astype("float32")),
        "longdouble": (X.astype("longdouble"), X),
        "object": (X.astype(object), X),
        "nothing masked": (np.ma.masked_array(X, np.zeros_like(X, bool)), X),
        "Fortran": (np.asfortranarray(X), X),
        "transposed": (np.ascontiguousarray(X.T).T, X),
        "reversed": (np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1], X),
        "strided": (np.repeat(X, 2, axis=1)[:, ::2], X),
        "broadcast": (many, many.copy()),
        "read-only": (read_only, X),
        "big-endian": (X.astype(">f4"), X),
        "constant": (np.ones_like(X), np.ones_like(X)),
        "denormal": (np.full_like(X, 1e-40), np.full_like(X, 1e-40)),
    }


@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict"])
@pytest.mark.parametrize("what", unusual())
def test_unusual_arrays_are_taken_as_their_numbers(
    what: str, spec: str, usable: Callable[[str], Backend]
) -> None:
    given, plain = unusual()[what]
    backend, before = usable(spec), contents(given)
    net, model = NETS["real"], model_on(spec, "real")
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for features in (given, plain):
            trained = portable_bp.fit(
                net, features, Y["real"], epochs=2, batch_size=None, backend=spec, compile=False
            )
            results.append(
                [
                    model.predict(features),
                    net.forward(model.params, features),
                    *(backend.to_numpy(p) for p in leaves(trained.params)),
                ]
            )
    assert contents(given) == before
    for mine, other in zip(*results, strict=True):
        assert np.isfinite(mine).all()
        # The library may multiply another layout in another order.
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def test_a_memory_map_is_read_and_not_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    before = (tmp_path / "x.npy").read_bytes()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    model = portable_bp.fit(NETS["real"], mapped, Y["real"], epochs=2)
    np.testing.assert_array_equal(model.predict(mapped), model.predict(X))
    mapped.flush()
    assert (tmp_path / "x.npy").read_bytes() == before


@pytest.mark.parametrize("spec", ["torch", "jax", "strict", "numpy"])
def test_nothing_is_shared_with_the_user(spec: str, usable: Callable[[str], Backend]) -> None:
    """What the user changes after the call shows nowhere, and the other way round."""
    backend = usable(spec)
    given = X.copy()
    start = NETS["real"].init(0, dtype="float32")
    model = portable_bp.fit(
        NETS["real"], given, Y["real"], params=start, epochs=1, optimizer="sgd",
        learning_rate=1e-12, backend=spec,
    )  # fmt: skip
    wanted = model.predict(X)
    given[...] = 1e9
    for p in leaves(start):
        p[...] = 1e9
    np.testing.assert_array_equal(model.predict(X), wanted)
    out = model.predict(X)
    out[...] = 7
    np.testing.assert_array_equal(model.predict(X), wanted)
    assert all((backend.to_numpy(p) < 1e8).all() for p in leaves(model.params))


def test_one_row_trains() -> None:
    model = portable_bp.fit(NETS["real"], X[:1], [0.5], epochs=300, learning_rate=0.05)
    assert model.predict(X[:1])[0] == pytest.approx(0.5, abs=1e-3)


def test_a_column_is_a_vector() -> None:
    column = portable_bp.fit(NETS["real"], X, Y["real"][:, None], epochs=2)
    vector = portable_bp.fit(NETS["real"], X, Y["real"], epochs=2)
    for p, q in zip(leaves(column.params), leaves(vector.params), strict=True):
        np.testing.assert_array_equal(p, q)


def test_labels_of_any_integer_type() -> None:
    """One class only; booleans; more classes than the label's type has bits."""
    two = MLP([3, 4, 2], loss="softmax_cross_entropy")
    assert (
        portable_bp.fit(two, X, np.ones(N, int), epochs=50, learning_rate=0.1).predict(X) == 1
    ).all()
    booleans = portable_bp.fit(two, X, X[:, 0] > 0, epochs=2)
    numbers = portable_bp.fit(two, X, (X[:, 0] > 0).astype(int), epochs=2)
    np.testing.assert_array_equal(booleans.forward(X), numbers.forward(X))
    for dtype, k in (("uint8", 250), ("int8", 120), ("uint16", 300)):
        net = MLP([3, 2, k], loss="softmax_cross_entropy")
        labels = (k - 1 - np.arange(N)).astype(dtype)
        small = portable_bp.fit(net, X, labels, epochs=1)
        large = portable_bp.fit(net, X, labels.astype("int64"), epochs=1)
        np.testing.assert_array_equal(small.forward(X), large.forward(X))


@pytest.mark.parametrize("spec", ["numpy", "torch", "jax", "strict"])
def test_integers_that_are_rounded_are_told(spec: str, usable: Callable[[str], Backend]) -> None:
    """And they arrive as what they are, not as their lowest 32 bits."""
    backend, large = usable(spec), np.full((N, 3), 2**40 + 1)
    model = model_on(spec, "real")
    with pytest.warns(UserWarning, match=r"X has integers such as \d+ that float32 does not hold"):
        out = model.predict(large)
    np.testing.assert_allclose(out, model.predict(large.astype("float32")))
    if spec in ("torch", "strict"):
        with pytest.warns(
            UserWarning, match=r"X has integers such as \d+ that float32 does not hold"
        ):
            portable_bp.fit(NETS["real"], backend.asarray(large), Y["real"], epochs=1,
                            learning_rate=1e-30, optimizer="sgd")  # fmt: skip


def test_a_batch_beyond_the_rows_is_all_of_them() -> None:
    """Silently, since the default of 128 is beyond the rows of many a small data set."""
    large = portable_bp.fit(NETS["real"], X, Y["real"], batch_size=10**9, epochs=2)
    whole = portable_bp.fit(NETS["real"], X, Y["real"], batch_size=None, epochs=2)
    for p, q in zip(leaves(large.params), leaves(whole.params), strict=True):
        np.testing.assert_array_equal(p, q)


def test_no_hidden_layer_is_linear() -> None:
    net = MLP([3, 1])
    model = portable_bp.fit(net, X, X @ [1.0, -2.0, 0.5] + 3, epochs=800, learning_rate=0.05)
    np.testing.assert_allclose(model.params[0][0][:, 0], [1, -2, 0.5], atol=1e-3)


def test_prediction_in_two_threads() -> None:
    model = portable_bp.fit(NETS["real"], X, Y["real"], epochs=1)
    wanted, found = model.predict(X), []

    def predict() -> None:
        found.extend(model.predict(X) for _ in range(200))

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 400
    assert all(np.array_equal(f, wanted) for f in found)


@pytest.mark.parametrize("spec", ["numpy", "strict"])
def test_the_users_seterr_stops_nothing(spec: str, usable: Callable[[str], Backend]) -> None:
    """Large and tiny numbers on the way are no errors."""
    usable(spec)
    far = X * 200
    with np.errstate(all="raise"):
        for loss, kind in (("log_loss", "real"), ("softmax_cross_entropy", "class")):
            net = MLP([3, 4, 1 if kind == "real" else 3], "sigmoid", loss)
            y = Y[kind] if kind == "class" else (Y["real"] > 0)
            model = portable_bp.fit(net, far, y, epochs=2, backend=spec, validation=0.2)
            model.predict(far)
            model.evaluate(far, y)
            net.loss_and_gradients(model.params, far, y)


# ----------------------------------------------------------------------------------- options

NUMBER = "must be a number in"
OPTIONS = [
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": -1}, ValueError, "batch_size must be at least 1, got -1"),
    ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got 2.5"),
    ({"batch_size": True}, TypeError, "batch_size must be an integer, got True"),
    ({"learning_rate": 0}, ValueError, rf"learning_rate {NUMBER} \(0, inf\), got 0"),
    ({"learning_rate": -0.1}, ValueError, rf"learning_rate {NUMBER} \(0, inf\), got -0.1"),
    ({"learning_rate": np.nan}, ValueError, rf"learning_rate {NUMBER}.*got nan"),
    ({"learning_rate": np.inf}, ValueError, rf"learning_rate {NUMBER}.*got inf"),
    ({"learning_rate": "0.1"}, TypeError, r"learning_rate must be a positive number.*got '0\.1'"),
    ({"batch_size": "8"}, TypeError, "batch_size must be an integer, got '8'"),
    ({"clip_norm": "1"}, TypeError, "clip_norm must be a number, got '1'"),
    ({"epochs": "3"}, TypeError, "epochs must be an integer, got '3'"),
    ({"optimizer": "adamm"}, ValueError, "optimizer must be one of adagrad.*got 'adamm'"),
    ({"optimizer": None}, ValueError, "optimizer must be one of adagrad.*got None"),
    ({"optimizer": optimizers.Adam}, ValueError, "optimizer must be one of.*or an Optimizer"),
    ({"backend": "cuppy"}, BackendError, "unknown backend 'cuppy'; did you mean 'cupy'"),
    ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    ({"validation": 1.0}, ValueError, rf"validation {NUMBER} \(0, 1\), got 1.0"),
    ({"validation": X}, TypeError, r"validation must be a share.*\(X, y\).*got array"),
    ({"validation": (X,)}, ValueError, r"validation must be a share, \(X, y\).*got 1 entries"),
    ({"clip_norm": -1}, ValueError, rf"clip_norm {NUMBER} \(0, inf\), got -1"),
    ({"clip_value": 0}, ValueError, rf"clip_value {NUMBER} \(0, inf\), got 0"),
    ({"max_time": -1}, ValueError, rf"max_time {NUMBER} \(0, inf\), got -1"),
    ({"early_stopping": 0}, ValueError, "patience must be at least 1, got 0"),
    ({"early_stopping": "yes"}, TypeError, "early_stopping must be an EarlyStopping.*got 'yes'"),
    ({"early_stopping": portable_bp.EarlyStopping(3, "loos")}, ValueError,
     "monitor must be one of loss, learning_rate; got 'loos'"),
    ({"early_stopping": 3, "report_loss": False}, ValueError, "monitor must be one of"),
    ({"learning_rate": schedules.ReduceOnPlateau(), "report_loss": False}, ValueError,
     "ReduceOnPlateau needs validation data, or report_loss=True"),
    ({"dtype": "float16"}, ValueError, "dtype must be 'float32' or 'float64', got 'float16'"),
    ({"shuffle": "False"}, TypeError, "shuffle must be True or False, got 'False'"),
    ({"compile": 1}, TypeError, "compile must be True or False, got 1"),
    ({"progress": "x"}, TypeError, "progress must be True or False, got 'x'"),
    ({"report_loss": None}, TypeError, "report_loss must be True or False, got None"),
    ({"callbacks": None}, TypeError, "callbacks must be a sequence of functions, got None"),
    ({"callbacks": print}, TypeError, r"callbacks must be a sequence of functions; pass \["),
    ({"callbacks": [5]}, TypeError, "callbacks must be functions of an EpochEnd, got 5"),
    ({"checkpoint": 5}, TypeError, "checkpoint must be the path of a directory, got 5"),
    ({"checkpoint_keep": 0}, ValueError, "checkpoint_keep must be at least 1, got 0"),
    ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
    ({"checkpoint_every": 5}, ValueError, "resume and checkpoint_every need checkpoint"),
    ({"params": 5}, TypeError, r"params must be a pair \(W, b\) for each layer, got 5"),
    ({"params": ()}, ValueError, r"params has the shapes \[\], but MLP.*net\.init\(\)"),
    ({"params": (([[1.0]], [1.0]),)}, ValueError, r"params has the shapes .*needs \[\(\(3, 4\)"),
    ({"params": ((np.ones((3, 4)), np.full(4, np.nan)), (np.ones((4, 1)), [1.0]))}, ValueError,
     r"b\[0\] of params contains NaN"),
    ({"seed": "x"}, TypeError, "seed must be an integer, got 'x'"),
    ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
    ({"seed": 2**64}, ValueError, r"seed must be in \[0, 2\*\*64\)"),
    ({"validation": 0.99}, ValueError, r"validation=0.99 of 12 row\(s\) leaves none to train on"),
    ({"learning_rat": 0.1}, TypeError, "learning_rat"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [pytest.param(*row, id=",".join(row[0])) for row in OPTIONS],
)
def test_bad_options(
    options: dict[str, Any], error: type[Exception], says: str, report: Report
) -> None:
    with pytest.raises(error, match=says) as caught:
        portable_bp.fit(NETS["real"], X, Y["real"], **options)
    assert type(caught.value) is error
    report(BAD, ["refused"])


MADE = [
    (lambda: MLP([3, 0, 1]), ValueError, r"sizes\[1\] must be at least 1, got 0"),
    (lambda: MLP([3, -1, 1]), ValueError, r"sizes\[1\] must be at least 1, got -1"),
    (lambda: MLP([3, 2.5, 1]), TypeError, r"sizes\[1\] must be an integer, got 2.5"),
    (lambda: MLP([3]), ValueError, r"sizes needs at least inputs and outputs, got \[3\]"),
    (lambda: MLP(5), TypeError, "sizes must be a sequence of integers.*got 5"),
    (lambda: MLP("abc"), TypeError, "sizes must be a sequence of integers.*got 'abc'"),
    (lambda: MLP([3, 4, 1], "relo"), ValueError, "hidden must be one of elu.*got 'relo'"),
    (lambda: MLP([3, 4, 1], None), ValueError, "hidden must be one of elu.*got None"),
    (lambda: MLP([3, 4, 1], ["relu"] * 2), ValueError, "hidden has 2 entries.*1 hidden layer"),
    (lambda: MLP([3, 1], loss="mse"), ValueError, "loss must be one of absolute.*got 'mse'"),
    (lambda: MLP([3, 1], output="soft"), ValueError, "output must be one of elu.*got 'soft'"),
    (lambda: MLP([3, 1], initializer="he"), ValueError, "initializer must be one of auto.*got 'he'"),
    (lambda: MLP([3, 1], initializer=5), TypeError, r"initializer must be a pair \(W, b\)"),
    (lambda: portable_bp.Activation(5), TypeError, r"f must be a function f\(z, xp\).*got 5"),
    (lambda: portable_bp.Activation(abs), TypeError, "needs df"),
    (lambda: portable_bp.Loss(abs, 5), TypeError, "gradient must be a function.*got 5"),
    (lambda: portable_bp.Loss(abs, abs, target="x"), ValueError, "target must be one of real"),
    (lambda: portable_bp.Loss(abs, abs, output="x"), ValueError, "output must be one of"),
    (lambda: MLP([3, 1], loss="softmax_cross_entropy"), ValueError, "one output per class"),
    (lambda: MLP([3, 1], l2=-1), ValueError, rf"l2 {NUMBER} \[0, inf\), got -1"),
    (lambda: MLP([3, 1], l1="0"), TypeError, "l1 must be a number, got '0'"),
    (lambda: MLP([3, 4, 1], dropout=1.0), ValueError, rf"dropout {NUMBER} \[0, 1\), got 1.0"),
    (lambda: MLP([3, 4, 1], dropout=[0.1] * 2), ValueError, "dropout has 2 entries"),
    (lambda: optimizers.Momentum(1.5), ValueError, rf"mu {NUMBER} \[0, 1\), got 1.5"),
    (lambda: optimizers.Adam(beta1=1), ValueError, rf"beta1 {NUMBER} \[0, 1\), got 1"),
    (lambda: optimizers.RMSprop(eps=0), ValueError, rf"eps {NUMBER} \(0, inf\), got 0"),
    (lambda: optimizers.AdamW(weight_decay=-1), ValueError,
     rf"weight_decay {NUMBER} \[0, inf\), got -1"),
    (lambda: schedules.Cosine(-1), ValueError, rf"learning_rate {NUMBER} \(0, inf\), got -1"),
    (lambda: schedules.StepDecay(1, step_size=0), ValueError, "step_size must be at least 1, got 0"),
    (lambda: schedules.LinearWarmup(1, 2.5), TypeError, "warmup must be an integer, got 2.5"),
    (lambda: schedules.Exponential(1, np.nan), ValueError, rf"gamma {NUMBER}.*got nan"),
    (lambda: schedules.ReduceOnPlateau(1, factor=2), ValueError, rf"factor {NUMBER} \(0, 1\)"),
    (lambda: schedules.OneCycle(1, pct_start=1), ValueError, rf"pct_start {NUMBER} \(0, 1\), got 1"),
    (lambda: losses.huber(0), ValueError, rf"delta {NUMBER} \(0, inf\), got 0"),
    (lambda: losses.quantile("a"), TypeError, "q must be a number, got 'a'"),
    (lambda: activations.leaky_relu("a"), TypeError, "slope must be a number, got 'a'"),
    (lambda: portable_bp.EarlyStopping(3, min_delta=-1), ValueError, f"min_delta {NUMBER}"),
    (lambda: MLP([3, 10**12, 1]).init(), OutOfMemoryError,
     "5,000,000,000,001 parameters.*needs 40,000,000,000,008 bytes.*use smaller layers"),
    (lambda: portable_bp.fit(MLP([3, 10**12, 1]), X, Y["real"]), OutOfMemoryError,
     "needs 40,000,000,000,008 bytes"),
    (lambda: portable_bp.fit("net", X, Y["real"]), TypeError, "net must be a portable_bp.MLP"),
    (lambda: NETS["real"].forward(5, X), TypeError, r"params must be a pair \(W, b\).*got 5"),
    (lambda: NETS["real"].forward([[X.astype(int)[:3], X[0]]], X), ValueError, "params has the"),
    (lambda: MLP([3, 3]).forward([(np.eye(3, dtype=int), X[0])], X), ValueError,
     "params must be all float32 or all float64, got float32, int64"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "says"), [pytest.param(*row, id=row[2]) for row in MADE])
def test_what_cannot_be_made(
    make: Callable[[], Any], error: type[Exception], says: str, report: Report
) -> None:
    with pytest.raises(error, match=says) as caught:
        make()
    assert type(caught.value) is error
    report(BAD, ["refused"])


def test_every_optimizer_and_schedule_checks_its_coefficients() -> None:
    for kind in (*optimizers.OPTIMIZERS.values(), *schedules.SCHEDULES.values()):
        for name in kind.__dataclass_fields__:
            for wrong in ("a", float("nan"), -1.0, True):
                with pytest.raises((TypeError, ValueError), match=name.replace("rate", ".*rate")):
                    kind(**{name: wrong})


# ----------------------------------------------------------------------------------- devices


def test_arrays_of_two_places_are_refused(usable: Callable[[str], Backend]) -> None:
    """NumPy's belong to no place and go along."""
    torch, jax, strict, other = (
        usable(spec).asarray(X) for spec in ("torch", "jax", "strict", "strict:device1")
    )
    net, y = NETS["real"], Y["real"]
    for a, b, names in ((torch, jax, "torch, jax"), (strict, other, "strict, strict:device1")):
        with pytest.raises(
            MixedBackendError, match=rf"\({names}\); move them to one place, or say"
        ):
            portable_bp.fit(net, a, y, validation=(b, y))
        backend = portable_bp.backend.registry.resolve(None, a)
        with pytest.raises(MixedBackendError, match=names):
            net.forward(net.init(backend=backend), b)
    assert portable_bp.fit(net, torch, y, epochs=1).backend.spec == "torch"
    assert portable_bp.fit(net, torch, y, epochs=1, backend="jax").backend.spec == "jax"
    params = net.init(backend="torch")
    assert portable_bp.fit(net, X, y, epochs=1, params=params).backend.spec == "torch"
    with pytest.raises(ValueError, match=r"X lives on jax, the model on torch.*model\.to\('jax'\)"):
        portable_bp.fit(net, torch, y, epochs=1).predict(jax)


def test_sparse_tensors_are_refused() -> None:
    torch = pytest.importorskip("torch")
    jax_sparse = pytest.importorskip("jax.experimental.sparse")
    for value, do in (
        (torch.tensor(X).to_sparse(), "to_dense"),
        (jax_sparse.BCOO.fromdense(X), "todense"),
    ):
        with pytest.raises(TypeError, match=rf"X is a sparse .*call its {do}\(\) first"):
            portable_bp.fit(NETS["real"], value, Y["real"])


def test_jax_without_64_bits_says_so() -> None:
    with jax_64_bits(False):
        with pytest.raises(TypeError, match=r"float64.*jax_enable_x64.*or ask for"):
            portable_bp.fit(NETS["real"], X, Y["real"], backend="jax", dtype="float64")
        model = portable_bp.fit(NETS["real"], X.astype(float), Y["real"], backend="jax", epochs=1)
    assert str(model.params[0][0].dtype) == "float32"


# -------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize(
    ("features", "targets", "options", "says"),
    [
        (X * 1e37, Y["real"], {}, r"X reaches .*scale it"),
        (X, Y["real"] * 1e300, {"dtype": "float64"}, r"y reaches .*scale it"),
        (X, Y["real"], {"learning_rate": 1e30}, r"Lower learning_rate \(now 1e\+30\)"),
    ],
)
def test_numbers_that_overflow_on_the_way(
    features: Any, targets: Any, options: dict[str, Any], says: str
) -> None:
    net = MLP([3, 4, 1])
    with pytest.raises(DivergenceError, match=says) as caught:
        portable_bp.fit(net, features, targets, optimizer="sgd", epochs=50, **options)
    assert re.search(r"in epoch \d+, step \d+ of 1 \(the ", str(caught.value))
    assert all(np.isfinite(p).all() for p in leaves(caught.value.model.params))


# --------------------------------------------------------------------------------- the register


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_is_tested_elsewhere_is_there(what: str) -> None:
    for place in ELSEWHERE[what].split():
        file, _, test = place.partition("::")
        assert test in functions_of(Path(__file__).parents[1] / file), place
