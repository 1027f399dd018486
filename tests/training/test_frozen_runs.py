"""What runs through both doors gave before: the same bits on the machine of the record."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tools import frozen_runs

RECORD: dict[str, Any] = json.loads(frozen_runs.RECORD.read_text(encoding="utf-8"))


def test_the_record_has_every_run() -> None:
    names = {
        f"{name}, {backend}" for name in frozen_runs.runs() for backend in frozen_runs.BACKENDS
    }
    assert names == set(RECORD["runs"])
    assert len({run["bits"][0] for run in RECORD["runs"].values()}) > 0.9 * len(names)


@pytest.mark.parametrize("backend", frozen_runs.BACKENDS)
@pytest.mark.parametrize("name", frozen_runs.runs())
def test_a_run_gives_what_it_gave(name: str, backend: str) -> None:
    expected = RECORD["runs"][f"{name}, {backend}"]
    found = frozen_runs.measured(name, backend)
    if frozen_runs.machine() == RECORD["machine"]:
        assert found["bits"] == expected["bits"]
    # Elsewhere sums are taken in another order: a rounding error (6e-8 in float32) grows over the
    # steps, most in a line search and where a parameter is near 0; a wrong step shows at once.
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if "float32" in name else {"rtol": 1e-5, "atol": 1e-6}
    assert [len(row) for row in found["numbers"]] == [len(row) for row in expected["numbers"]]
    for row, right in zip(found["numbers"], expected["numbers"], strict=True):
        np.testing.assert_allclose(row, right, **tolerance)
