"""Several processes against one: weak scaling, against DDP, what an order of addition costs, faults.

``python -m benchmarks.processes`` shows it; ``--save`` writes ``benchmarks/results/processes.json``.
Each round starts one job of each kind after the other, so that a slow minute of the machine is
everybody's; a job's number is the least time of a step over its epochs, a kind's the least over the
rounds. The machine has to be quiet: who waits in MPI keeps a core. ``--before FOLDER`` adds another
checkout of this repository, to compare training in one process with.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).with_name("results") / "processes.json"
ROOT = Path(__file__).parents[1]

NETWORKS = {"64-100-10": ((64, 100, 10), 200), "784-512-512-10": ((784, 512, 512, 10), 256)}
"""Layers, and rows of a batch for each process."""

KINDS = {
    "one process": ("-", 1),
    "two, MPI": ("mpi", 2),
    "two, MPI, 8 parts": ("mpi", 2),
    "two, MPI, 8 parts, ordered": ("mpi", 2),
    "two, gloo": ("torch", 2),
    "two, DDP": ("torch", 2),
}
"""Engine and processes of each kind of job."""

RATIOS = (
    ("weak scaling, MPI", "one process", "two, MPI", ">= 0.85"),
    ("weak scaling, gloo", "one process", "two, gloo", ""),
    ("ordered / fast", "two, MPI, 8 parts, ordered", "two, MPI, 8 parts", "<= 1.3"),
    ("MPI / DDP", "two, MPI", "two, DDP", "<= 0.3 and <= 0.9"),
)
"""Name, numerator, denominator, and the target: of 64-100-10, then of 784-512-512-10."""

FAULTS = ("callback", "in a step", "kill", "exit", "SIGTERM")


def data(sizes: tuple[int, ...], rows: int) -> tuple[Any, Any]:
    """Rows to learn, the same on all processes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], rows)


def train(kind: str, name: str, steps: int, epochs: int) -> float:
    """Microseconds of a step."""
    import portable_bp

    engine, size = KINDS[kind]
    sizes, each = NETWORKS[name]
    X, y = data(sizes, steps * each * size)
    net = portable_bp.MLP(sizes, loss="softmax_cross_entropy")
    options: dict[str, Any] = {"batch_size": each * size, "epochs": epochs, "backend": "numpy"}
    if "parts" in kind:
        options |= {"parts": 8, "reduction": "ordered" if "ordered" in kind else "fast"}
    with nullcontext() if engine == "-" else portable_bp.distributed(engine, timeout=100):
        # A callback has the epochs timed one by one.
        model = portable_bp.fit(net, X, y, callbacks=[lambda end: None], **options)
    return 1e6 * min(model.history["seconds"]) / steps


def train_ddp(name: str, steps: int, epochs: int) -> float:
    """The same step by PyTorch's DistributedDataParallel."""
    import torch
    import torch.distributed as dist
    from torch import nn

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    sizes, each = NETWORKS[name]
    rows, rank, size = steps * each * 2, dist.get_rank(), dist.get_world_size()
    X, y = map(torch.from_numpy, data(sizes, rows))
    layers: list[Any] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers[:-1]))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    best = float("inf")
    for epoch in range(epochs):
        began = time.perf_counter()
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch)).reshape(
            steps, -1
        )
        for batch in order:
            own = batch[rank * each : (rank + 1) * each]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[own]), y[own]).backward()
            optimizer.step()
        best = min(best, time.perf_counter() - began)
    assert size == 2
    dist.destroy_process_group()
    return 1e6 * best / steps


def job(kind: str, name: str, steps: int, epochs: int, checkout: Path = ROOT) -> float:
    """Start the processes of a kind; the slowest of them counts."""
    from tests.processes.launch import command, environment

    engine, size = KINDS[kind]
    program = (str(Path(__file__)), "--job", kind, name, str(steps), str(epochs))
    paths = os.pathsep.join([str(checkout), str(checkout / "backends")])
    settings = {"PYTHONPATH": paths, "OMPI_MCA_mpi_yield_when_idle": "0"}
    done = subprocess.run(
        command(engine, size, *program), env=environment() | settings, text=True,
        capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    found = re.findall(r"us ([\d.]+)", done.stdout)
    if len(found) != size:
        raise RuntimeError(f"{kind}, {name}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return max(map(float, found))


def measure(rounds: int, steps: int, epochs: int, before: Path | None) -> dict[str, Any]:
    """For each network the least microseconds of each kind, and the ratios."""
    found: dict[str, Any] = {}
    for name in NETWORKS:
        times: dict[str, float] = {}
        for _ in range(rounds):
            for kind in KINDS:
                us = job(kind, name, steps, epochs)
                times[kind] = min(us, times.get(kind, us))
            if before is not None:
                us = job("one process", name, steps, epochs, before)
                times["before"] = min(us, times.get("before", us))
        ratios = {label: times[a] / times[b] for label, a, b, _ in RATIOS}
        if before is not None:
            ratios["one process / before"] = times["one process"] / times["before"]
        found[name] = {"us": times, "ratios": ratios}
    return found


def faults() -> dict[str, Any]:
    """From a fault on process 1 of 2 to the end of the job, and its exit code."""
    from tests.processes.launch import finish, start

    found = {}
    for engine in ("mpi", "torch"):
        for fault in FAULTS:
            if fault == "in a step":  # its moment is that of the print of the traceback
                continue
            with tempfile.TemporaryDirectory() as folder:
                program = ("-m", "tests.processes.faulty", engine, fault, folder)
                code, output = finish(start(engine, 2, *program))
            began = min(map(float, re.findall(r"fault at ([\d.]+)", output)))
            found[f"{engine}: {fault}"] = {"code": code, "seconds": time.time() - began}
    return found


def equality() -> dict[str, float]:
    """Two processes against one, float64: the largest difference, by the largest parameter."""
    from tests.processes import runs
    from tests.processes.launch import run

    names = [name for name in runs.CASES if name not in ("ordered", "divergence")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run("mpi", 2, "-m", "tests.processes.runs", "mpi", folder, "numpy", *names)
        for name in names:
            one = runs.result(name, backend="numpy")["params"]
            two = np.load(Path(folder) / f"{name.replace(' ', '_')}.npy")
            found[name] = float(np.abs(two - one).max() / np.abs(one).max())
    return found


def show(record: dict[str, Any]) -> None:
    """Print a record."""
    targets = {label: target for label, _, _, target in RATIOS}
    for name, entry in record["networks"].items():
        print(f"\n{name}")
        for kind, us in entry["us"].items():
            print(f"  {kind:28} {us:10.1f} us a step")
        for label, ratio in entry["ratios"].items():
            print(f"  {label:28} {ratio:10.3f}    {targets.get(label, '<= 1.01')}")
    for title in ("faults", "equality"):
        print(f"\n{title}")
        for name, value in record.get(title, {}).items():
            print(f"  {name:28} {value}")


def main() -> None:
    """Measure, show, and save if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--quick", action="store_true", help="a round of few steps, and no faults")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        kind, name, steps, epochs = options.job
        if kind == "two, DDP":
            us = train_ddp(name, int(steps), int(epochs))
        else:
            us = train(kind, name, int(steps), int(epochs))
        print(f"us {us:.3f}", flush=True)
        return
    from benchmarks.machine import machine

    if options.quick:
        options.rounds, options.steps, options.epochs = 1, 8, 2
    networks = measure(options.rounds, options.steps, options.epochs, options.before)
    record = {"machine": machine(), "networks": networks}
    if not options.quick:
        record |= {"faults": faults(), "equality": equality()}
    show(record)
    if options.save:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
