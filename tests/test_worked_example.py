"""The numbers that people check with paper and pencil, on every backend."""

from __future__ import annotations

import numpy as np
import pytest

from portable_bp import worked_example
from portable_bp.worked_example import MAZUR, YEHOSHUA, report, trace


def close(dtype):
    """Printed digits in float64; float32 cannot hold them all."""
    return {"atol": 5e-9 if dtype == "float64" else 2e-7, "rtol": 0}


def test_the_step_by_step_derivation(where):
    run = trace(YEHOSHUA, where)
    assert run.backend == where.spec
    assert f"{run.output_before[0, 0]:.4f} {run.output_after[0, 0]:.4f}" == "0.6718 0.6981"
    assert run.deltas[-1][0, 0] == pytest.approx(run.output_before[0, 0] - 1, rel=1e-6)
    sizes = run.delta_sizes
    assert sizes[0] < sizes[1] / 2 < sizes[2] / 4


def test_the_step_by_step_example(where):
    run = trace(MAZUR, where)
    kept = close(run.dtype)
    np.testing.assert_allclose(run.loss_before, 0.298371109, **kept)
    np.testing.assert_allclose(run.loss_after, 0.291027774, **kept)
    first = [0.149780716, 0.19956143, 0.24975114, 0.29950229]
    second = [0.35891648, 0.408666186, 0.51130127, 0.561370121]
    for (W, _), printed in zip(run.updated, (first, second), strict=True):
        np.testing.assert_allclose(W.T.ravel(), printed, **kept)
    np.testing.assert_allclose(run.output_before, [[0.75136507, 0.772928465]], **kept)


def test_each_number_is_what_the_equations_say():
    """By hand, layer by layer: the columns of the report are these numbers and no others."""
    run = trace(YEHOSHUA)
    a = [YEHOSHUA.x, *run.a]
    for l, (W, b) in enumerate(YEHOSHUA.params):
        np.testing.assert_allclose(run.z[l], a[l] @ W + b, rtol=1e-14)
        np.testing.assert_allclose(run.a[l], 1 / (1 + np.exp(-run.z[l])), rtol=1e-14)
        np.testing.assert_allclose(run.gradients[l][0], a[l].T @ run.deltas[l], rtol=1e-14)
        np.testing.assert_allclose(run.updated[l][0], W - 0.5 * run.gradients[l][0], rtol=1e-14)
        assert np.array_equal(run.updated[l][1], b)
    for l in (0, 1):
        back = run.deltas[l + 1] @ YEHOSHUA.params[l + 1][0].T
        np.testing.assert_allclose(run.deltas[l], back * a[l + 1] * (1 - a[l + 1]), rtol=1e-14)
    assert run.loss_before == pytest.approx(-np.log(run.output_before[0, 0]))


def test_the_report_has_every_number_of_every_backend_side_by_side(usable):
    specs = ["numpy", "torch", "strict"]
    traces = [trace(MAZUR, usable(spec)) for spec in specs]
    text = report(traces)
    lines = text.splitlines()
    assert lines[2].split() == specs
    items = [[item for _, items in run.rows() for item in items] for run in traces]
    expected = [
        [column[0][0], *(f"{value:.9f}" for _, value in column)]
        for column in zip(*items, strict=True)
    ]
    assert len(expected) == 4 * 2 + 1 + 4 + 8 + 8 + 3
    names = {row[0] for row in expected}
    assert [
        line.split() for line in lines if line.split()[:1] and line.split()[0] in names
    ] == expected
    for heading, _ in traces[0].rows():
        assert heading in lines


def test_numbers_as_json_are_those_of_the_report():
    run = trace(YEHOSHUA)
    told = run.as_dict()
    assert told["deltas"] == [d[0].tolist() for d in run.deltas]
    assert told["updated"][0] == run.updated[0][0].tolist()
    assert told["output_after"] == run.output_after[0].tolist()


def test_one_column_for_each_library_that_works_here():
    specs = worked_example.usable_backends()
    assert specs[0] == "numpy"
    libraries = [spec.partition(":")[0] for spec in specs]
    assert len(set(libraries)) == len(libraries)
    assert {"torch", "jax", "strict"} <= set(libraries)
