"""The estimators and the sources train on several processes as on one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.processes import estimators
from tests.processes.launch import run


def test_two_give_what_one_gives(tmp_path: Path) -> None:
    together = tmp_path / "together"
    alone = tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    output = run("mpi", 2, "-m", "tests.processes.estimators", str(together))
    found = np.load(together / "found.npz")
    for name, case in estimators.CASES.items():
        one = case(str(alone))
        # Rounding, as in test_equality.py; scores of held-out rows are the same numbers.
        np.testing.assert_allclose(
            found[name], one, 0, 1e-14 * max(1, np.abs(one).max()), err_msg=name
        )
    for rank in (0, 1):
        assert f"process {rank} refuses lbfgs: solver='lbfgs' sees all rows in one" in output
        assert f"process {rank} refuses random_state: random_state must be an integer" in output
        assert f"process {rank} refuses n_jobs: " in output
    assert "n_jobs > 1 inside it" in output
