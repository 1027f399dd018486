"""Starting several processes from a test: always with a time limit, and as root on few cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]

LIMIT = 300.0
"""Seconds: a job that takes longer hangs."""


def environment() -> dict[str, str]:
    """One BLAS thread each, MPI on a machine with fewer cores than processes, as any user."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",  # who waits lets the others work
        "PYTHONPATH": str(ROOT),
    }


def command(engine: str, size: int, *program: str) -> list[str]:
    """The command line that starts ``size`` processes of ``python PROGRAM``."""
    if engine == "-":
        return [sys.executable, *program]
    if engine == "mpi":
        return [str(BIN / "mpiexec"), "-n", str(size), sys.executable, *program]
    module = "torch.distributed.run"
    return [sys.executable, "-m", module, "--standalone", "--nproc-per-node", str(size), *program]


def start(
    engine: str, size: int, *program: str, more: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The job, in a session of its own."""
    return subprocess.Popen(
        command(engine, size, *program), env=environment() | dict(more or {}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
    )  # fmt: skip


def finish(job: subprocess.Popen[str], limit: float = LIMIT) -> tuple[int, str]:
    """Exit code and output; a job that does not end is ended, and fails the test."""
    try:
        output, _ = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        output, _ = job.communicate()
        raise AssertionError(f"the job hangs:\n{output[-4000:]}") from None
    return job.returncode, output


def run(engine: str, size: int, *program: str, more: Mapping[str, str] | None = None) -> str:
    """The output of a job that has to succeed."""
    code, output = finish(start(engine, size, *program, more=more))
    assert code == 0, output[-4000:]
    return output
