"""Where array libraries and users are at their most awkward, and what must hold there all the same.

Each test of the last part is a trap that has caught somebody: what a library does, and that it does
not reach our users.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, Backend, fit, get_backend, schedules
from portable_bp._typing import Params
from portable_bp.backend import leaves, map_leaves
from portable_bp.equations import optimizers
from portable_bp.inputs import transfer
from portable_bp.testing import equivalence
from portable_bp.testing.compare import compare, kind_errors
from portable_bp.testing.problems import make_problem
from portable_bp.testing.tolerances import GRADIENT
from portable_bp.training import policy, trainer
from portable_bp.training.step import StepPlan, make_step

DTYPES = equivalence.DTYPES
DEVICES = pytest.mark.parametrize(
    "spec", ["strict:device1", "strict:device2", "strict:no_float64", "strict:no_x64"]
)
NET = MLP((4, 8, 3), "tanh", "softmax_cross_entropy", l2=1e-2)


def data(dtype: str = "float64") -> tuple[Params, Any, Any, Any]:
    problem = make_problem(NET, 24, dtype, weighted=True)
    return problem.params, problem.x, problem.y, problem.weights


def everything(where: Backend, params: Params, x: Any, y: Any, weights: Any) -> list[np.ndarray]:
    """What users compute, for these arrays, on the host: gradients, a trained model, predictions.

    Not compiled on JAX: a program would be compiled for each call, and says nothing about inputs.
    """
    with portable_bp.use_backend(where):
        loss, gradients = NET.loss_and_gradients(params, x, y, weights)
        found = [
            *leaves((loss, gradients, NET.deltas(params, x, y, weights))),
            NET.forward(params, x),
            NET.input_gradient(params, x, y, weights),
        ]
        model = fit(
            NET, x, y, sample_weight=weights, params=params, validation=(x, y, weights),
            batch_size=8, epochs=2, backend=where, compile=where.name != "jax",
        )  # fmt: skip
        found += [*leaves(model.params), model.forward(x)]
    numbers = [
        model.score(x, y, weights),
        *model.history["loss"],
        *model.history["validation_loss"],
    ]
    with where.scope():
        return [a if type(a) is np.ndarray else where.to_numpy(a) for a in found] + [
            np.asarray(numbers)
        ]


@cache
def as_ever(where: Backend) -> list[np.ndarray]:
    """The same for arrays as NumPy makes them."""
    return everything(where, *data("float64"))


# --- inputs of every kind -----------------------------------------------------------------------


def test_inputs_are_read_only(where: Backend) -> None:
    """Not one bit of what is handed in changes, on the host or on the device."""
    given = data("float32")
    before = [np.array(a) for a in leaves(given)]
    for array in leaves(given):
        array.setflags(write=False)
    everything(where, *given)
    with where.scope():
        placed = map_leaves(lambda a: where.asarray(a, str(a.dtype)), given)
        everything(where, *placed)
        after = [where.to_numpy(a) for a in leaves(placed)]
    for kept, host, device in zip(before, leaves(given), after, strict=True):
        np.testing.assert_array_equal(host, kept)
        np.testing.assert_array_equal(device, kept)


def spread(a: np.ndarray) -> np.ndarray:
    """The same numbers with gaps between them in memory, in both directions."""
    wide = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
    every_other = (slice(None, None, 2),) * a.ndim
    wide[every_other] = a
    return wide[every_other]


def reversed_in_memory(a: np.ndarray) -> np.ndarray:
    back = (slice(None, None, -1),) * a.ndim
    return a[back].copy()[back]


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Fortran order": np.asfortranarray,
    "gaps": spread,
    "negative strides": reversed_in_memory,
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "a masked array": np.ma.asarray,
    "nested lists": np.ndarray.tolist,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_makes_no_difference(where: Backend, layout: str) -> None:
    params, *rest = data("float64")
    change = LAYOUTS[layout]
    plain = as_ever(where)
    if layout == "nested lists":
        odd = everything(where, params, *map(change, rest))
    else:
        odd = everything(where, *map_leaves(change, (params, *rest)))
    for a, b in zip(odd, plain, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        # A product may be summed in another order where the memory is.
        np.testing.assert_allclose(a, b, rtol=0, atol=GRADIENT * 2**-53 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("kind", ["f4", "i4"])
def test_foreign_byte_orders(where: Backend, kind: str) -> None:
    """No library but NumPy takes them, and what leaves us is in the machine's own."""
    for order in "<>":
        values = np.arange(3).astype(f"{order}{kind}")
        with where.scope():
            back = where.to_numpy(where.asarray(values))
        assert back.dtype == np.dtype(kind)
        assert back.tolist() == [0, 1, 2]


def test_rows_that_are_one_row_in_memory(where: Backend) -> None:
    """Zero strides: a broadcast row, target and weight."""
    params, x, y, weights = data("float64")
    one = (x[:1], y[:1], weights[:1])
    views = [np.broadcast_to(a, (24, *a.shape[1:])) for a in one]
    assert all(view.strides[0] == 0 for view in views)
    plain = everything(where, params, *map(np.ascontiguousarray, views))
    for a, b in zip(everything(where, params, *views), plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=GRADIENT * 2**-53 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("kind", ["uint8", "int64", "bool", "float16"])
def test_whole_numbers_are_features_like_any_other(where: Backend, kind: str) -> None:
    """Pixels, counts and flags: the same numbers as from float32."""
    params, x, y, weights = data("float32")
    whole = np.abs(4 * x).astype(kind)
    plain = everything(where, params, whole.astype("float32"), y, weights)
    for a, b in zip(everything(where, params, whole, y, weights), plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_odd_tensors_of_torch() -> None:
    where = get_backend("torch")
    params, x, y, weights = data("float64")
    plain = as_ever(where)
    tensor = where.asarray(x)
    wide = where.xp.zeros((24, 8), dtype=tensor.dtype)
    wide[:, ::2] = tensor
    for odd in (where.asarray(x.T.copy()).T, wide[:, ::2]):
        assert not odd.is_contiguous()
        for a, b in zip(everything(where, params, odd, y, weights), plain, strict=True):
            scale = max(1, np.abs(b).max())
            np.testing.assert_allclose(a, b, rtol=0, atol=GRADIENT * 2**-53 * scale)


# --- native kernels -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["activations", "gradients", "optimizers"])
def test_without_native_kernels_the_equations_run_eager(
    where: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them is what every other test sees."""
    if not hasattr(where.xp, "portable_bp_kernel"):
        pytest.skip(f"{where.spec} has no native kernels")
    asked: list[str] = []
    monkeypatch.setattr(
        where.xp, "portable_bp_kernel", lambda formula: asked.append(formula.__name__)
    )
    rows = list(equivalence.CHECKS[name].rows(where, "float32", "eager"))
    assert asked
    assert rows
    assert [str(row) for row in rows if not row.agrees] == []


# --- the standard's referee ---------------------------------------------------------------------


@pytest.fixture(params=["2023.12", "2024.12", "2025.12"])
def strictest(request: pytest.FixtureRequest) -> Any:
    """A version of the standard, without boolean indexing and shapes that depend on values."""
    strict = pytest.importorskip("array_api_strict")
    flags = strict.ArrayAPIStrictFlags(
        api_version=request.param, boolean_indexing=False, data_dependent_shapes=False
    )
    with flags:
        x = strict.arange(3)
        with pytest.raises(RuntimeError, match="boolean"):
            x[x > 1]
        with pytest.raises(RuntimeError, match="data-dependent"):
            strict.nonzero(x)
        assert strict.get_array_api_strict_flags()["api_version"] == request.param
        yield
    assert strict.get_array_api_strict_flags()["boolean_indexing"]


@pytest.mark.parametrize("name", ["activations", "gradients", "optimizers", "steps", "random"])
def test_every_version_of_the_standard_without_its_loopholes(strictest: None, name: str) -> None:
    where = get_backend("strict:device1")
    rows = list(equivalence.CHECKS[name].rows(where, "float32", "eager"))
    assert rows
    assert [str(row) for row in rows if not row.agrees] == []


def test_whole_runs_in_every_version_of_the_standard(strictest: None) -> None:
    everything(get_backend("strict:device1"), *data("float32"))


@DEVICES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", [name for name, check in equivalence.CHECKS.items() if check.modes != "oracle"]
)
def test_devices_that_are_not_the_default(where: Backend, name: str, dtype: str) -> None:
    rows = list(equivalence.CHECKS[name].rows(where, dtype, "eager"))
    assert rows
    assert [str(row) for row in rows if not row.agrees] == []


@DEVICES
def test_arrays_stay_on_the_device_they_came_from(where: Backend) -> None:
    with where.scope():
        placed = map_leaves(lambda a: where.asarray(a, str(a.dtype)), data("float32")[:2])
        y, weights = data("float32")[2:]
        loss, gradients = NET.loss_and_gradients(*placed, y, weights)
        for got, shape in ((loss, ()), (gradients[0][0], (4, 8)), (gradients[1][1], (3,))):
            assert list(kind_errors(where, got, np.zeros(shape), "float32")) == []
        model = fit(NET, placed[1], y, epochs=1)
        assert model.backend is where
        out = model.forward(placed[1])
        assert list(kind_errors(where, out, np.zeros((24, 3)), "float32")) == []


# --- one trace, and no way over the host --------------------------------------------------------


def training_step(where: Backend, dtype: str) -> tuple[Any, Any, Any, Any]:
    """``(step, state, data, table)`` of Adam with dropout, weights and clipping; 5 steps."""
    params, x, y, weights = make_problem(NET, 24, dtype, weighted=True).on(where, dtype)
    plan = StepPlan(
        NET.equations, optimizers.Adam(), (0.2,), 3,
        where.asarray(np.arange(64), where.word_dtype), None, weighted=True, clip_norm=1.0,
    )  # fmt: skip
    state = (params, optimizers.init(plan.optimizer, params, xp=where.xp))
    numbers = np.arange(5).astype(where.word_dtype)
    rates = plan.optimizer.coefficients(np.arange(1.0, 6.0), np.linspace(0.1, 0.01, 5))
    table = (numbers, *(c.astype(dtype) for c in rates))
    return make_step(plan), state, (x, y, weights), table


def test_a_run_of_jax_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many epochs, whatever changes between steps; a smaller last batch is one more."""
    where = get_backend("jax")
    made: list[Any] = []
    compile_step = type(where).compile

    def compile(self: Backend, step: Any, state: Any) -> Any:
        made.append(compile_step(self, step, state))
        return made[-1]

    monkeypatch.setattr(type(where), "compile", compile)
    params, x, y, weights = data("float32")
    for size, traces in ((8, 1), (7, 2)):
        fit(
            NET, x, y, sample_weight=weights, params=params, optimizer="adamw",
            learning_rate=schedules.Cosine(0.1), batch_size=size, epochs=4, backend=where,
        )  # fmt: skip
        assert made[-1].traces == traces


def test_predictions_of_jax_are_traced_once() -> None:
    where = get_backend("jax")
    traces = []

    def f(z: Any, xp: Any) -> Any:
        traces.append(z)
        return xp.tanh(z)

    own = portable_bp.Activation(f, lambda z, a, xp: 1 - a * a, "own")
    model = fit(MLP([4, 5, 1], own), data()[1], np.ones(24), epochs=1, backend=where)
    before = len(traces)
    for _ in range(3):
        model.predict(data()[1])
    assert len(traces) == before + 1


def test_an_epoch_of_jax_moves_nothing_that_it_was_not_handed() -> None:
    """Everything is on the device: after that no transfer, in either direction, is allowed."""
    import jax

    where = get_backend("jax")
    step, state, batch, table = training_step(where, "float32")
    runner = where.compile(step, state)
    order = np.arange(20, dtype="int32").reshape(5, 4)
    placed = [where.asarray(a, str(a.dtype)) for a in (order, *table)]
    program = (
        runner._program.epoch
    )  # the compiled program itself: run() hands it the host's numbers
    kept, losses = program(runner.state, batch, placed[0], tuple(placed[1:]))
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="transfer"):
            losses * 2.0
        program(kept, batch, placed[0], tuple(placed[1:]))


def test_jax_multiplies_in_full_precision() -> None:
    """Its own default is TF32 or bfloat16 on accelerators: the compiled program must say otherwise."""
    import jax

    where = get_backend("jax")
    step, state, batch, table = training_step(where, "float32")
    seen = []

    def looking(xp: Any, state: Any, batch: Any) -> Any:
        seen.append(jax.config.jax_default_matmul_precision)
        return step(xp, state, batch)

    where.compile(looking, state).run(batch, None, table)
    with where.scope():
        NET.loss_and_gradients(*data("float32"))
        seen.append(jax.config.jax_default_matmul_precision)
    assert set(seen) == {"highest"}


def test_strict_devices_notice_a_way_over_the_host() -> None:
    """What the tests on strict:device1 stand on: NumPy cannot read its arrays by the way."""
    array = get_backend("strict:device1").asarray(np.ones(3))
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        np.asarray(array)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Backend, list[str]]:
    """strict:device1, and a list of each crossing between it and the host."""
    where = get_backend("strict:device1")
    crossings: list[str] = []
    kind = type(where)
    read, write = kind.to_numpy, kind.asarray
    inside: list[int] = []

    def to_numpy(self: Backend, array: Any) -> Any:
        crossings.append("read")
        return read(self, array)

    def asarray(self: Backend, values: Any, dtype: Any = None) -> Any:
        if type(values).__module__.startswith("array_api_strict"):  # a copy on the device
            inside.append(1)
            with monkeypatch.context() as m:
                m.setattr(kind, "to_numpy", read)
                return write(self, values, dtype)
        crossings.append("write")
        return write(self, values, dtype)

    monkeypatch.setattr(kind, "to_numpy", to_numpy)
    monkeypatch.setattr(kind, "asarray", asarray)
    return where, crossings


@pytest.mark.parametrize("lookahead", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_an_epoch_reads_the_device_once(
    counted: tuple[Backend, list[str]],
    batch_size: int | None,
    lookahead: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many steps it has; epochs that run in one call are read together."""
    where, crossings = counted
    monkeypatch.setattr(policy, "LOOKAHEAD", lookahead)
    monkeypatch.setattr(
        trainer, "SNAPSHOT_SECONDS", np.inf
    )  # a slow machine would take one at times
    params, x, y, weights = data("float32")
    reads, writes = [], []
    for epochs in (1, 3):
        crossings.clear()
        fit(
            NET, x, y, sample_weight=weights, params=params, batch_size=batch_size,
            epochs=epochs, backend=where,
        )  # fmt: skip
        reads.append(crossings.count("read"))
        writes.append(crossings.count("write"))
    more = 2 if lookahead == 1 else 0
    assert reads[1] - reads[0] == more
    # The order of the rows, their numbers and Adam's two coefficients, for all steps together.
    assert writes[1] - writes[0] == more * (3 if batch_size is None else 4)


def test_gradients_of_a_devices_arrays_cost_one_read(counted: tuple[Backend, list[str]]) -> None:
    """The look at the values that were handed in, all of them together."""
    where, crossings = counted
    given = map_leaves(lambda a: where.asarray(a, str(a.dtype)), data("float32"))
    crossings.clear()
    NET.loss_and_gradients(*given)
    assert crossings.count("read") == 1


# --- traps --------------------------------------------------------------------------------------


def test_a_buffer_may_be_used_again_at_once(where: Backend) -> None:
    """JAX reads NumPy's memory after the call returned: what was handed over must be a copy."""
    buffer = np.zeros(1_048_576 + 16, dtype="float32")
    start = -buffer.ctypes.data % 64 // 4
    aligned = buffer[start : start + 1_048_576]  # 64 bytes: JAX would take it as it is
    with where.scope():
        for i in range(10):
            aligned[...] = i
            array = where.asarray(aligned)
            aligned[...] = -1
            assert where.to_numpy(array).min() == i


def test_order_and_table_may_be_used_again_at_once(where: Backend) -> None:
    """The same, of what a compiled step is handed."""

    def step(xp: Any, state: Any, batch: Any) -> Any:
        rows, (number,) = batch
        total = xp.sum(rows, dtype=rows.dtype)
        return (state[0] + total + number,), total

    with where.scope():
        rows = where.asarray(np.arange(64.0), "float32")
        runner = where.compile(step, (where.asarray(np.zeros(()), "float32"),))
        order, table = np.zeros((64, 1), dtype=np.int64), np.zeros(64, dtype="float32")
        for i in range(20):
            order[...], table[...] = i, i
            losses = runner.run((rows,), order, (table,))
            order[...], table[...] = 63, 1e9
            assert where.to_numpy(losses).tolist() == [float(i)] * 64
        assert float(where.to_numpy(runner.state[0])) == 64 * 2 * sum(range(20))


@pytest.mark.parametrize(
    ("source", "target"), [*permutations(("numpy", "torch", "jax", "strict"), 2)]
)
def test_arrays_of_two_libraries_never_share_memory(source: str, target: str) -> None:
    """torch.asarray of a JAX array can be written to, and then changes an immutable array."""
    here, there = get_backend(source), get_backend(target)
    given = here.asarray(np.arange(4.0), "float32")
    moved = transfer.to_backend(there, given, "float32")
    copied = there.asarray(here.to_numpy(given), "float32")
    assert list(kind_errors(there, moved, np.zeros(4), "float32")) == []
    for array in (moved, copied):
        if target != "jax":
            array[...] = 7
    assert here.to_numpy(given).tolist() == [0, 1, 2, 3]
    host = here.to_numpy(given)
    host[...] = 7
    assert here.to_numpy(given).tolist() == [0, 1, 2, 3]


def test_parameters_that_want_gradients_leave_no_graph_behind() -> None:
    """Else each step would hang on the one before, and memory would grow until it is gone."""
    import torch

    where = get_backend("torch")
    params, x, y, weights = data("float32")
    wanting = map_leaves(lambda a: torch.tensor(a, requires_grad=True), (params, x))
    loss, gradients = NET.loss_and_gradients(*wanting, y, weights)
    model = fit(NET, wanting[1], y, params=wanting[0], epochs=2, backend=where)
    for array in leaves((loss, gradients, model.params, model.forward(wanting[1]))):
        assert array.grad_fn is None
        assert not array.requires_grad
    assert all(a.requires_grad and a.grad is None for a in leaves(wanting))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0, 2**40]])
def test_labels_outside_are_refused(where: Backend, labels: list[int]) -> None:
    """A gather by them would wrap on CuPy, clamp or give NaN on JAX."""
    with where.scope():
        x, y = where.asarray(np.ones((2, 4)), "float32"), np.asarray(labels)
        placed = where.asarray(np.asarray(labels) % 2**31, where.index_dtype)
        for given in (y, placed) if max(labels) < 2**31 and min(labels) >= 0 else (y,):
            with pytest.raises(ValueError, match=r"class labels 0 \.\. 2"):
                fit(NET, x, given, epochs=1)


def test_steps_stay_in_single_precision(where: Backend) -> None:
    """A 0-d float64 promotes float32 on NumPy, and does not on PyTorch."""
    with where.scope():
        step, state, batch, table = training_step(where, "float32")
        for compile in (True, False):
            runner = (
                where.compile(step, state)
                if compile
                else equivalence.runner(where, "eager", step, state)
            )
            losses = runner.run(batch, None, table)
            after = runner.state
            assert list(kind_errors(where, losses, np.zeros(5), "float32")) == []
            assert (
                list(kind_errors(where, after, map_leaves(where.to_numpy, state), "float32")) == []
            )


@pytest.mark.gpu
def test_a_second_gpu_gets_what_is_made_for_it(usable: Callable[[str], Backend]) -> None:
    """array_api_compat's functions for CuPy take device= and ignore it."""
    where = usable("cupy:1")
    rows = [
        compare("outputs", "", where, NET.forward(where_params, x), want, 32.0, dtype="float32")
        for where_params, x, want in [_on_second(where)]
    ]
    assert all(row.agrees for row in rows), rows


def _on_second(where: Backend) -> tuple[Params, Any, Any]:
    params, x, *_ = make_problem(NET, 24, "float32").on(where)
    want = NET.forward(*make_problem(NET, 24, "float32").on(get_backend("numpy"), "float64")[:2])
    return params, x, want
