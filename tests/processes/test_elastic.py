"""A run that is killed goes on with any number of processes, and ends with the same bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import elastic
from tests.processes.launch import finish, start

PROGRAM = ("-m", "tests.processes.elastic")


def _part(engine: str, size: int, folder: Path, kill: int) -> str:
    code, output = finish(start(engine, size, *PROGRAM, engine, str(folder), str(kill)))
    assert (code != 0) == (kill > 0), output
    bits = re.search("bits (.*)", output)
    return bits[1] if bits else ""


def test_killed_twice_and_resumed_by_others(tmp_path: Path) -> None:
    undisturbed = elastic.bits(str(tmp_path / "whole"))
    assert not _part("mpi", 2, tmp_path / "killed", 3)
    assert not _part("mpi", 4, tmp_path / "killed", 6)
    assert elastic.bits(str(tmp_path / "killed")) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "torch"])
@pytest.mark.parametrize("size", [2, 4])
def test_the_bits_are_those_of_one_process(engine: str, size: int, tmp_path: Path) -> None:
    one = elastic.bits(str(tmp_path / "one"))
    assert _part(engine, size, tmp_path / "many", 0) == one
