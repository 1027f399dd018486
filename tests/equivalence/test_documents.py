"""What the docs and the tables of capabilities and tolerances say is so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, Backend, fit
from portable_bp.backend import leaves
from portable_bp.equations import activations, losses
from portable_bp.testing import equivalence, tolerances
from portable_bp.testing.capabilities import CAPABILITIES, SPECS, missing, table
from tools import measure_constants, readme_tables

EACH = pytest.mark.parametrize("spec", SPECS)


def test_the_page_is_up_to_date() -> None:
    """``python -m tools.readme_tables`` brings it there."""
    page = readme_tables.ROOT / "docs" / "equivalence.md"
    assert page.read_text() == readme_tables.updated("docs/equivalence.md")
    assert table() in page.read_text()


def test_every_capability_has_a_test_below() -> None:
    assert set(CAPABILITIES) == {"float64", "compiled", "same bits", "labels", "accelerator"}
    with pytest.raises(KeyError, match="no capability 'telepathy'; known are float64"):
        missing("numpy", "telepathy")


@EACH
def test_double_precision(usable: Callable[[str], Backend], spec: str) -> None:
    where = usable(spec)
    if missing(spec, "float64"):
        with pytest.raises((TypeError, ValueError), match="float64"):
            fit(MLP([1, 1]), [[1.0]], [1.0], epochs=1, backend=where, dtype="float64")
    else:
        model = fit(MLP([1, 1]), [[1.0]], [1.0], epochs=1, backend=where, dtype="float64")
        assert model.params[0][0].dtype == where.dtype("float64")


@EACH
def test_compiled(usable: Callable[[str], Backend], spec: str) -> None:
    assert ("compiled" in equivalence.modes(usable(spec))) == (not missing(spec, "compiled"))


@EACH
@pytest.mark.needs("compiled")
def test_same_bits(entered: Callable[[str, str], Backend], spec: str) -> None:
    """Of two short runs, compiled and eager."""
    where = entered(spec, "float64")
    differ = False
    for case in list(equivalence.RUNS)[:2]:
        options = equivalence.RUNS[case]
        ends = [
            equivalence.train(where, options, "float64", mode, rounded="float64")[0]
            for mode in ("eager", "compiled")
        ]
        with where.scope():
            one, other = ([where.to_numpy(p).tobytes() for p in leaves(end)] for end in ends)
        differ |= one != other
    assert differ == bool(missing(spec, "same bits"))


@EACH
def test_class_labels(usable: Callable[[str], Backend], spec: str) -> None:
    where = usable(spec)
    net = MLP([2, 3], loss="softmax_cross_entropy")
    with where.scope():
        params = net.init(0, where)
        x = where.asarray(np.ones((4, 2)), "float32")
        if missing(spec, "labels"):
            with pytest.raises(Exception, match="int64"):
                net.predict(params, x)
        else:
            assert where.to_numpy(net.predict(params, x)).shape == (4,)


@EACH
def test_accelerators(usable: Callable[[str], Backend], spec: str) -> None:
    where = usable(spec)
    listed = where.spec in type(where).accelerators()
    assert listed == (not missing(where.spec, "accelerator"))


def test_there_is_a_line_for_every_device_of_the_cpu() -> None:
    assert {s for s in portable_bp.available_backends() if not s[-1].isdigit()} <= set(SPECS)


# --- tolerances ---------------------------------------------------------------------------------


def test_the_constants_were_measured_and_stand_below_the_tolerances() -> None:
    """``python -m tools.measure_constants`` measures them again."""
    record = json.loads(measure_constants.RECORD.read_text())
    assert record["activations"] == sorted(activations.ACTIVATIONS)
    assert record["losses"] == sorted(losses.LOSSES)
    found = {what.partition(":")[0]: row for what, row in record["rows"].items()}
    assert {
        "activation and derivative": tolerances.ELEMENTWISE,
        "five updates": tolerances.UPDATE,
        "gradient, partly trained": tolerances.TRAINED,
        "loss": tolerances.LOSS,
        "drift / sqrt(k + 1), float32": tolerances.trajectory(0),
        "drift / sqrt(k + 1), float64": tolerances.trajectory(0),
    }.items() <= {what: row["allowed"] for what, row in found.items()}.items()
    for what, row in record["rows"].items():
        assert 0 < row["error"] <= row["allowed"] / 1.5, what
        if "layers" in what:
            layers = int(what.split(": ")[1].split()[0])
            assert row["allowed"] == tolerances.generic(layers)


def test_relu_runs_part_where_a_gate_flips() -> None:
    """Why no run with relu is compared: before the first flip it keeps to the law, after it not."""
    flip = json.loads(measure_constants.RECORD.read_text())["first gate flip"]
    assert flip["before"] < flip["law"]
    assert flip["after"] > 5 * flip["before"]


def test_the_drift_of_a_run_measured_here() -> None:
    """The law on this machine and today: 100 steps, far below what is allowed."""
    found, exact = (
        measure_constants.path(equivalence.get_backend("numpy"), dtype, "tanh", "sgd", 0.1, 100)
        for dtype in equivalence.DTYPES
    )
    last = measure_constants.drift(found, exact)[-1] / tolerances.ROUNDOFF["float32"]
    assert 0.1 < last / math.sqrt(101) < 1.0


def test_what_the_tolerances_would_catch() -> None:
    """A relative error of 1e-5 in float32, and of 1e-14 in float64, where a run is short."""
    for u, error in ((2.0**-24, 1e-5), (2.0**-53, 1e-14)):
        assert error / u > tolerances.GRADIENT
        assert error / u > tolerances.UPDATE
        assert error / u > tolerances.trajectory(100)
