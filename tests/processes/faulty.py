"""A program for ``mpiexec`` and ``torchrun``: a training in which something goes wrong on one process.

``python -m tests.processes.faulty ENGINE FAULT FOLDER [key=value ...]``
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import portable_bp
from portable_bp import MLP, Activation
from portable_bp.persistence import atomic
from portable_bp.training import agreement

EPOCH, STEP = 3, 12
"""Where it goes wrong: after an epoch, or in a step."""

_rng = np.random.default_rng(0)


def _data() -> tuple[Any, Any]:
    x = _rng.normal(size=(160, 5))
    return x, (x[:, 0] > 0).astype(np.int64)


class Counted:
    """An activation that something happens in, at a given call."""

    def __init__(self, mine: bool, happens: Callable[[Any], Any]) -> None:
        self.mine, self.happens, self.calls = mine, happens, 0

    def __call__(self, z: Any, xp: Any) -> Any:
        self.calls += 1
        return self.happens(z) if self.mine and self.calls == STEP else z * 0.5


def _raise(*args: Any) -> Any:
    raise RuntimeError("something broke")


def _signal(number: int) -> Callable[..., None]:
    return lambda *args: os.kill(os.getpid(), number)


AFTER_AN_EPOCH: dict[str, Callable[..., Any]] = {
    "callback": _raise,
    "kill": _signal(signal.SIGKILL),
    "exit": lambda end: os._exit(0),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGUSR1": _signal(signal.SIGUSR1),
    "SIGINT": _signal(signal.SIGINT),
    "SIGSTOP": _signal(signal.SIGSTOP),
    "slow": lambda end: time.sleep(0.2),
}
IN_A_STEP: dict[str, Callable[[Any], Any]] = {"in a step": _raise, "nan": lambda z: z * np.nan}


def _broken_disk(fault: str, write: Callable[..., None]) -> Callable[..., None]:
    """``atomic.write`` for a disk that is full, or a machine that dies, at the fourth checkpoint."""
    calls = 0

    def broken(path: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += str(path).endswith(".safetensors")
        if calls >= 4 and fault.startswith("disk"):
            raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))
        if calls == 4 and fault == "kill in a save":
            Path(path).with_suffix(".tmp").write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *args, **kwargs)

    return broken


def main(engine: str, fault: str, folder: str, *more: str) -> None:
    options = dict(pair.split("=") for pair in more)
    timeout, bad = float(options.get("timeout", 200)), int(options.get("rank", 1))
    arguments: dict[str, Any] = {"epochs": int(options.get("epochs", 6)), "batch_size": 16}
    X, y = _data()
    with portable_bp.distributed(engine, timeout=timeout) as processes:
        mine = processes.rank == bad
        hidden: Any = "tanh"
        if fault == "before":
            _ = mine and _raise()
        elif fault == "bad row" and mine:
            X[7, 3] = np.nan
        elif fault == "arguments" and mine:
            arguments["batch_size"] = 32
        elif fault == "data" and mine:
            X[7, 3] += 1e-5  # what float32 still sees
        elif fault == "version" and mine:
            agreement.__version__ = "0.0.1"
        elif fault == "bad argument" and mine:
            arguments["epochs"] = -1
        elif fault in IN_A_STEP:
            hidden = Activation(
                Counted(mine, IN_A_STEP[fault]), lambda z, a, xp: z * 0 + 0.5, name="counted"
            )
            arguments["compile"] = False
        if "checkpoint" in options:
            arguments |= {
                "checkpoint": Path(folder) / "run",
                "resume": options["checkpoint"] == "resume",
            }
        if fault in ("disk full", "kill in a save") and processes.rank == 0:
            atomic.write = _broken_disk(fault, atomic.write)
        if fault in AFTER_AN_EPOCH:
            happens = AFTER_AN_EPOCH[fault]

            def callback(end: Any) -> None:
                if fault == "slow" or end.epoch == EPOCH:
                    print(f"fault at {time.time():.3f}", file=sys.stderr, flush=True)
                    _ = mine and happens(end)

            arguments["callbacks"] = [callback]
        net = MLP([5, 4, 2], hidden, loss="softmax_cross_entropy")
        model = portable_bp.fit(net, X, y, **arguments)
        if fault == "after":
            _ = mine and _raise()
        print(f"process {processes.rank}: {model.stopped} after {len(model.history.epochs)} epochs",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
