"""What a training step hands to a GPU: launches, bytes, and the time that follows if arithmetic holds.

``python -m benchmarks.launches`` writes ``results/launches.json`` (2 minutes; no GPU, and nothing is
timed): ours is recorded by CuPy itself on the emulated device of ``tests/emulated_gpu``, which counts
the nodes of the graph and what each reads and writes; the others are counted from their own traces.

The prediction: a node takes the longest of its start (``START``, ``START_OF_PRODUCT``), its bytes over
the memory's rate, and its multiplications over the rate of float32; a step takes the longest path
through the graph, and at least all bytes and all multiplications together. Never seen on a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT
from benchmarks.tables import Table

PATH = ROOT / "benchmarks" / "results" / "launches.json"

NETS = (
    ((8, 16, 2), 32), ((30, 64, 32, 2), 64), ((784, 256, 128, 10), 128),
    ((784, 2048, 2048, 10), 1024),
)  # fmt: skip
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
STEPS = 16
"""In one graph."""

START, START_OF_PRODUCT = 1.4, 3.5
"""Microseconds from one node of a graph to the next: a kernel, a small product of cuBLAS (published
figures, docs/gpu.md)."""

CARDS = {"H100": (3.0e12, 55e12), "H200": (4.3e12, 55e12)}
"""Bytes per second that a copy reaches, multiplications and additions in float32 that cuBLAS does."""


@dataclass(frozen=True)
class Node:
    """One node of a graph: what it moves, and after which node it can start."""

    name: str
    bytes: int
    flops: int
    after: tuple[int, ...]


def name_of(sizes: tuple[int, ...], batch: int) -> str:
    return f"{'-'.join(map(str, sizes))} B{batch}"


# --- ours, as CuPy records it -------------------------------------------------------------------------


def recorded(sizes: tuple[int, ...], batch: int, optimizer: str, **options: Any) -> list[Node]:
    """The nodes of a graph of 16 steps; the emulation has to be installed, and computes nothing."""
    import portable_bp
    from portable_bp.equations import optimizers
    from portable_bp.training.step import StepPlan, make_step
    from portable_bp_backends.cupy_backend import CupyBackend
    from tests.emulated_gpu import device

    backend, rule = CupyBackend(0, persistent=False), optimizers.OPTIMIZERS[optimizer]()
    net = portable_bp.MLP(sizes, "relu", "softmax_cross_entropy", **options)
    rows, t = 4 * batch, np.arange(1.0, STEPS + 1)
    numbers = np.arange(STEPS).astype(backend.word_dtype)
    found = rule.coefficients(t, np.full(STEPS, 1e-3))
    table = (numbers, *(np.asarray(c).astype("float32") for c in found))
    with device.idle(), backend.scope():
        params = net.init(0, backend)
        state = (params, optimizers.init(rule, params, xp=backend.xp))
        data = tuple(backend.asarray(np.zeros((rows, n)), "float32") for n in (sizes[0], sizes[-1]))
        runner: Any = backend.compile(make_step(StepPlan(net.equations, rule)), state)
        with runner._recorder.inside():
            order = np.zeros((STEPS, batch), "int64")
            program = runner._program(STEPS, data, order, table)
            launch = runner._recorder.record(runner._body(program, STEPS))
        graph = device.graph_of(launch.func.__self__)
        return list(_nodes(graph, batch, sizes[-1]))


def _nodes(graph: Any, batch: int, classes: int) -> Iterator[Node]:
    """The nodes of an emulated graph, without what only the emulation records."""
    last: dict[tuple[int, int], int] = {}  # branch and how many of it: the latest visible node
    n = 0
    for work in graph.nodes:
        after = {last[key] for key in work.clock.items() if key in last}
        here = (work.branch, work.clock[work.branch])
        before = (work.branch, work.clock[work.branch] - 1)
        after |= {last[before]} if before in last else set()
        if work.name == "poison":
            if before in last:
                last[here] = last[before]
            continue
        last[here] = n
        n += 1
        moved, flops = _work(work, batch, classes)
        yield Node(work.name, moved, flops, tuple(sorted(after)))


def _work(work: Any, batch: int, classes: int) -> tuple[int, int]:
    """Bytes and float operations of a node."""
    sizes = [end - begin for begin, end, _ in work.accesses]
    if work.name == "gemm":
        a, b, c = (s // 4 for s in sizes[:3])  # m k, k n, m n
        return 4 * (a + b + c), 2 * round((a * b * c) ** 0.5)
    written = sum(s for s, (_, _, w) in zip(sizes, work.accesses, strict=True) if w)
    if "take" in work.name:  # of the rows that it takes, not of all there are
        return 2 * written, 0
    if work.name.startswith("portable_bp_softmax"):  # pointers do not say how much they are to
        return 4 * (2 if "loss" in work.name else 3) * batch * classes, 0
    return sum(sizes), 0


def summary(nodes: list[Node]) -> dict[str, Any]:
    """Of one step: nodes, those on the longest path, bytes, and microseconds by card."""
    return {
        "nodes": round(len(nodes) / STEPS, 1),
        "path": round(longest(nodes, lambda _: 1.0) / STEPS, 1),
        "MB": round(sum(n.bytes for n in nodes) / STEPS / 1e6, 3),
        "us": {card: predicted(nodes, *rates) for card, rates in CARDS.items()},
    }


def longest(nodes: list[Node], weight: Callable[[Node], float]) -> float:
    """The heaviest path through a graph."""
    ends: list[float] = []
    for node in nodes:
        ends.append(weight(node) + max((ends[i] for i in node.after), default=0.0))
    return max(ends)


def predicted(nodes: list[Node], rate: float, speed: float) -> float:
    """Microseconds for each step, by the formula above."""

    def alone(node: Node) -> float:
        start = START_OF_PRODUCT if node.name == "gemm" else START
        return max(start, node.bytes / rate * 1e6, node.flops / speed * 1e6)

    moved = sum(n.bytes for n in nodes) / rate
    computed = sum(n.flops for n in nodes) / speed
    return round(max(longest(nodes, alone), 1e6 * moved, 1e6 * computed) / STEPS, 1)


# --- others, from their own traces --------------------------------------------------------------------


def torch_step(sizes: tuple[int, ...], batch: int, *, fused: bool) -> int:
    """Operations of a step of PyTorch that compute something: views and allocations left out.

    Counted by its dispatcher on the CPU. On a GPU each is one kernel, or more.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counted(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = f.name()
            self.count += not (
                f.is_view or name.startswith(("aten::empty", "aten::detach", "aten::_unsafe_view"))
            )
            return f(*args, **(kwargs or {}))

    layers: list[Any] = []
    for i, o in pairwise(sizes):
        layers += [torch.nn.Linear(i, o), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    how = {"fused": True} if fused else {"foreach": True}
    adam = torch.optim.Adam(model.parameters(), **how)
    X, y = torch.zeros(2 * batch, sizes[0]), torch.zeros(2 * batch, dtype=torch.int64)

    def step() -> None:
        rows = torch.arange(batch)
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(X[rows]), y[rows])
        loss.backward()
        adam.step()

    step()
    with Counted() as counter:
        step()
    return int(counter.count) - 1  # arange stands for an order that lies on the device


def jax_step(sizes: tuple[int, ...], batch: int) -> int:
    """Kernels in the body of ``lax.scan`` over a step: what XLA's compiler for the CPU leaves."""
    import jax
    import jax.numpy as jnp

    def loss(params: Any, x: Any, y: Any) -> Any:
        *hidden, (W, b) = params
        for V, c in hidden:
            x = jax.nn.relu(x @ V + c)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ W + b), y[:, None], axis=1))

    def step(state: Any, rows: Any) -> Any:
        params, m, v, t = state
        value, g = jax.value_and_grad(loss)(params, X[rows], y[rows])
        over = partial(jax.tree_util.tree_map)
        m = over(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = over(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        params = over(
            lambda p, m, v: p - 1e-3 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8),
            params, m, v,
        )  # fmt: skip
        return (params, m, v, t + 1), value

    f = "float32"
    X, y = jnp.zeros((2 * batch, sizes[0]), f), jnp.zeros(2 * batch, "int32")
    params = [(jnp.zeros(s, f), jnp.zeros(s[1], f)) for s in pairwise(sizes)]
    state = (params, params, params, jnp.ones((), f))
    order = jnp.zeros((STEPS, batch), "int32")
    scan = jax.jit(lambda s, o: jax.lax.scan(step, s, o))
    text = scan.lower(state, order).compile().as_text()
    return kernels_of_loop(text)


def kernels_of_loop(text: str) -> int:
    """Instructions of the body of the only loop of an HLO text that become kernels.

    >>> kernels_of_loop('''
    ... body.1 (p: f32[2]) -> f32[2] {
    ...   %p = f32[2] parameter(0)
    ...   %f = f32[2] fusion(%p), kind=kLoop
    ...   ROOT %d = f32[2] dot(%f, %p)
    ... }
    ... ENTRY main () -> f32[2] {
    ...   %w = f32[2] while(%t), condition=%c, body=%body.1
    ... }''')
    2
    """
    found = re.search(r"body=%?([\w.-]+)", text)
    assert found is not None
    body = re.search(rf"^%?{re.escape(found[1])} .*?\{{\n(.*?)^\}}", text, re.M | re.S)
    assert body is not None
    kinds = re.findall(r"= \S.*? ([a-z][\w-]*)\(", body[1])
    free = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant")
    return sum(kind not in free for kind in kinds)


# --- the record and its tables ------------------------------------------------------------------------


def record() -> dict[str, Any]:
    from tests.emulated_gpu.install import install

    install()
    ours, others = [], []
    for sizes, batch in NETS:
        for optimizer in OPTIMIZERS:
            found = summary(recorded(sizes, batch, optimizer))
            ours.append({"net": name_of(sizes, batch), "optimizer": optimizer, **found})
            print(ours[-1], flush=True)
        others.append({
            "net": name_of(sizes, batch),
            "torch eager": torch_step(sizes, batch, fused=False),
            "torch graph, fused Adam": torch_step(sizes, batch, fused=True),
            "jax scan": jax_step(sizes, batch),
        })  # fmt: skip
        print(others[-1], flush=True)
    return {"seen on a GPU": False, "steps in a graph": STEPS, "ours": ours, "others": others}


def load(path: Path = PATH) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def ours_table() -> str:
    """Nodes, bytes and predictions of our graphs."""
    rows = [
        (e["net"], e["optimizer"], str(e["nodes"]), str(e["path"]), f"{e['MB']:g}",
         *(f"{e['us'][card]:g}" for card in CARDS))
        for e in load()["ours"]
    ]  # fmt: skip
    head = ("network", "optimiser", "nodes a step", "on the longest path", "MB a step",
            *(f"predicted, {card} [µs]" for card in CARDS))  # fmt: skip
    return Table(head, rows).markdown()


def others_table() -> str:
    """Launches beside PyTorch's and JAX's, with Adam."""
    found = load()
    adam = {e["net"]: e for e in found["ours"] if e["optimizer"] == "adam"}
    kinds = ("torch eager", "torch graph, fused Adam", "jax scan")
    rows = [
        (e["net"], str(adam[e["net"]]["nodes"]), *(str(e[k]) for k in kinds))
        for e in found["others"]
    ]
    return Table(("network, Adam", "ours", *kinds), rows).markdown()


if __name__ == "__main__":
    PATH.write_text(json.dumps(record(), indent=1) + "\n")
