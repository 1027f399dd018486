"""A program for ``mpiexec``: the case "ordered" as a run that is saved, and killed after some steps.

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
from tests.processes.runs import LABELS, X


def main(engine: str, folder: str, kill: str) -> None:
    def callback(end: Any) -> None:
        if end.epoch == int(kill) and processes.rank == processes.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    net = MLP([6, 16, 16, 3], "relu", loss="softmax_cross_entropy", dropout=0.3, l2=1e-3)
    with portable_bp.distributed(engine, timeout=200) as processes:
        model = portable_bp.fit(
            net, X, LABELS, parts=4, reduction="ordered", batch_size=30, epochs=8, clip_norm=0.5,
            validation=0.2, callbacks=[callback], checkpoint=folder,
            checkpoint_every=5, resume=True,
        )  # fmt: skip
        if processes.rank == 0:
            flat = np.concatenate([p.reshape(-1) for pair in model.params for p in pair])
            print("bits", hashlib.sha256(flat.tobytes()).hexdigest()[:16], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
