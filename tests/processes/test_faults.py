"""What goes wrong on one process: every job ends, with the right code and words; none hangs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.processes.launch import finish, start

PROGRAM = ("-m", "tests.processes.faulty")

ENDS = {
    "bad row": (1, ["ValueError: Input X contains NaN", "RemoteError: on process 1 of 2: ValueError"]),
    "bad argument": (1, ["ValueError: epochs must be", "RemoteError: on process 1 of 2: ValueError"]),
    "arguments": (1, ["process 1 has another batch_size than process 0: 32, not 16"]),
    "data": (1, ["process 1 has another data than process 0"]),
    "version": (1, ["process 1 has another version of portable_bp than process 0: '0.0.1'"]),
    "before": (1, ["RuntimeError on this process alone", "something broke"]),
    "callback": (1, ["RuntimeError on this process alone", "something broke"]),
    "in a step": (1, ["RuntimeError on this process alone", "something broke"]),
    "after": (1, ["RuntimeError on this process alone", "something broke"]),
    "nan": (1, ["DivergenceError: training diverged"]),
    "kill": (137, []),
    "exit": (1, []),
    "SIGTERM": (0, ["process 0: terminated after", "process 1: terminated after"]),
    "SIGUSR1": (0, ["process 0: terminated after", "process 1: terminated after"]),
    "SIGINT": (0, ["process 0: interrupted after", "process 1: interrupted after"]),
    "slow": (0, ["process 0: finished after 6 epochs", "process 1: finished after 6 epochs"]),
}  # fmt: skip
"""Fault on process 1 of 2: the exit code of mpiexec, and what is printed."""

QUICK = ("bad row", "arguments", "callback", "kill", "SIGTERM")
"""Those that the default suite runs: one of each kind."""


def _job(engine: str, fault: str, folder: Path, *options: str) -> tuple[int, str]:
    return finish(start(engine, 2, *PROGRAM, engine, fault, str(folder), *options))


@pytest.mark.parametrize(
    "fault", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in ENDS]
)
def test_mpi(fault: str, tmp_path: Path) -> None:
    code, output = _job("mpi", fault, tmp_path)
    expected, words = ENDS[fault]
    assert code == expected, output
    for text in words:
        assert text in output, output


@pytest.mark.slow
@pytest.mark.parametrize("fault", ENDS)
def test_torch(fault: str, tmp_path: Path) -> None:
    code, output = _job("torch", fault, tmp_path)
    expected, words = ENDS[fault]
    assert (code == 0) == (expected == 0), output
    for text in words:
        assert text in output, output


@pytest.mark.parametrize("engine", ["mpi", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_stopped_process_is_not_waited_for(engine: str, tmp_path: Path) -> None:
    code, output = _job(engine, "SIGSTOP", tmp_path, "timeout=3")
    assert code == (75 if engine == "mpi" else 1), output
    assert "another process has not answered for 3 s" in output
    assert "75" in output


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "torch"])
def test_process_0_is_killed(engine: str, tmp_path: Path) -> None:
    code, output = _job(engine, "kill", tmp_path, "rank=0")
    assert code != 0
    assert "finished after" not in output


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "torch"])
def test_ctrl_c_on_the_launcher(engine: str, tmp_path: Path) -> None:
    job = start(engine, 2, *PROGRAM, engine, "slow", str(tmp_path), "epochs=500")
    assert job.stdout is not None
    while "fault at" not in job.stdout.readline():
        assert job.poll() is None
    os.kill(job.pid, signal.SIGINT)
    code, output = finish(job)
    assert code != 0, output
    assert "finished after" not in output


def test_a_full_disk_at_process_0(tmp_path: Path) -> None:
    """An interim checkpoint is given up with a warning, the last one is an error of all."""
    code, output = _job("mpi", "disk full", tmp_path, "checkpoint=new")
    assert code == 1, output
    assert "CheckpointWarning" in output
    assert "No space left on device" in output
    assert "RemoteError: on process 0 of 2: OSError" in output


@pytest.mark.slow
def test_a_directory_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    code, output = _job("mpi", "none", tmp_path, "checkpoint=new")
    assert code == 1, output
    assert "RemoteError: on process 0 of 2" in output


@pytest.mark.slow
def test_a_directory_that_is_locked(tmp_path: Path) -> None:
    from portable_bp.persistence.checkpoints import CheckpointDirectory

    with CheckpointDirectory(tmp_path / "run", 3):
        code, output = _job("mpi", "none", tmp_path, "checkpoint=new")
    assert code == 1, output
    assert "RemoteError: on process 0 of 2: CheckpointError" in output
    assert "another run" in output


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_killed_in_a_save_and_resumed(size: int, tmp_path: Path) -> None:
    code, output = _job("mpi", "kill in a save", tmp_path, "checkpoint=new")
    assert code == 137, output
    job = start("mpi", size, *PROGRAM, "mpi", "none", str(tmp_path), "checkpoint=resume")
    code, output = finish(job)
    assert code == 0, output
    assert output.count("finished after 6 epochs") == size
