"""A program for ``mpiexec``: an ordered run that is saved, and killed after some epochs.

``python -m tests.processes.elastic ENGINE FOLDER KILL``: KILL is a number of epochs, 0 for none.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from typing import Any

import numpy as np

import portable_bp
from portable_bp import MLP
from portable_bp.processes import current
from tests.processes.runs import LABELS, X


def bits(folder: str, kill: int = 0) -> str:
    """Train to the end, or until the last process dies: a digest of the parameters."""

    def callback(end: Any) -> None:
        if end.epoch == kill and current().rank == current().size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    net = MLP([6, 16, 16, 3], "relu", loss="softmax_cross_entropy", dropout=0.3, l2=1e-3)
    model = portable_bp.fit(
        net, X, LABELS, parts=4, reduction="ordered", batch_size=30, epochs=8, clip_norm=0.5,
        validation=0.2, callbacks=[callback], checkpoint=folder, checkpoint_every=5, resume=True,
    )  # fmt: skip
    flat = np.concatenate([p.reshape(-1) for pair in model.params for p in pair])
    return hashlib.sha256(flat.tobytes()).hexdigest()[:16]


def main(engine: str, folder: str, kill: str) -> None:
    with portable_bp.distributed(engine, timeout=200) as processes:
        found = bits(folder, int(kill))
        if processes.rank == 0:
            print("bits", found, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
