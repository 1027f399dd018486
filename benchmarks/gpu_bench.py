"""Training on one GPU, ours and others', in one process: proved against float64, then timed in turn.

``python -m benchmarks.gpu_evidence --part bench`` runs it and keeps the record.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import numpy as np

from benchmarks.candidates import GemmFloor, Ours, Training, ours
from benchmarks.cases import Case, HostArray, distance, reference
from benchmarks.peers import JaxScan, _sequential
from benchmarks.race import Entry, ratio
from portable_bp.backend import Backend
from portable_bp.backend.registry import available_backends

CASES = (
    Case((8, 16, 2), 32, 8192),
    Case((64, 100, 10), 200, 51200),
    Case((784, 256, 128, 10), 128, 32768),
    Case((784, 2048, 2048, 10), 1024, 65536),
)

ROUNDS = 7

ROUGH = 0.3
"""What the error of a candidate with TF32 may be: see ``TOLERANCES``; Adam turns the signs of the
smallest gradients into whole steps."""

Make = Callable[[Case], Training]


class OnDevice(Ours):
    """Ours on a backend object, with whatever it was asked for."""

    tolerated: ClassVar[float | None] = None
    unroll: ClassVar[int | None] = None
    around: ClassVar[Callable[[], AbstractContextManager[Any]]] = nullcontext

    def __init__(self, case: Case) -> None:
        with type(self).around():
            super().__init__(case)
        self.tolerance = self.tolerated or self.tolerance
        if self.unroll is not None:
            self.runner.unroll = self.unroll

    def epoch(self, order: HostArray) -> float:
        with type(self).around():
            return super().epoch(order)


def on(backend: Backend, *, compiled: bool = True, **options: Any) -> type[OnDevice]:
    return type("OnDevice", (OnDevice,), {"spec": backend, "compiled": compiled, **options})


class TorchModule(Training):
    """``nn.Sequential``, autograd and the fused optimiser on the GPU; the order lies there too."""

    device: ClassVar[str] = "cuda"
    options: ClassVar[Mapping[str, bool]] = {"fused": True}
    of_adam: ClassVar[Mapping[str, bool]] = {"capturable": True}

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import torch

        self.torch = torch
        self.model = _sequential(case).to(self.device)
        self.entropy = torch.nn.CrossEntropyLoss()
        make = {"adam": partial(torch.optim.Adam, **self.of_adam), "sgd": torch.optim.SGD}
        parameters = self.model.parameters()
        self.optimizer = make[case.optimizer](parameters, lr=case.rate, **self.options)
        self.x = torch.from_numpy(self.data.x).to(self.device)
        self.y = torch.from_numpy(self.data.labels).to(self.device)
        integers = {"dtype": torch.int64, "device": self.device}
        self.order = torch.zeros((case.steps, case.batch), **integers)
        self.at = torch.zeros(1, **integers)
        self.loss = torch.zeros((), device=self.device)

    def value(self, x: Any, y: Any) -> Any:
        return self.entropy(self.model(x), y)

    def step(self) -> None:
        rows = self.order.index_select(0, self.at)[0]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.value(self.x.index_select(0, rows), self.y.index_select(0, rows))
        loss.backward()
        self.optimizer.step()
        self.loss.copy_(loss.detach())
        self.at.add_(1)

    def advance(self, n: int) -> None:
        for _ in range(n):
            self.step()

    def epoch(self, order: HostArray) -> float:
        self.order[: len(order)].copy_(self.torch.from_numpy(order))
        self.at.zero_()
        self.advance(len(order))
        return float(self.loss)

    def params(self) -> Any:
        layers = [m for m in self.model if hasattr(m, "weight")]
        return [(m.weight.detach().cpu().numpy().T, m.bias.detach().cpu().numpy()) for m in layers]


class TorchModuleGraph(TorchModule):
    """The same step in a CUDA graph, as PyTorch's documentation captures a whole network."""

    unroll: ClassVar[int] = 1

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        torch = self.torch
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.warm_up()
        self.replays = {n: self.captured(n) for n in sorted({1, self.unroll})}
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(before[name])
            for slots in self.optimizer.state.values():
                for value in slots.values():
                    value.zero_()

    def warm_up(self) -> None:
        torch = self.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
                self.at.zero_()
        torch.cuda.current_stream().wait_stream(side)

    def captured(self, n: int) -> Callable[[], None]:
        """What launches a graph of ``n`` steps."""
        graph = self.torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with self.torch.cuda.graph(graph):
            for _ in range(n):
                self.step()
        replay: Callable[[], None] = graph.replay
        return replay

    def advance(self, n: int) -> None:
        whole, rest = divmod(n, self.unroll)
        for _ in range(whole):
            self.replays[self.unroll]()
        for _ in range(rest):
            self.replays[1]()


class TorchModuleGraphs(TorchModuleGraph):
    """Sixteen steps in a graph, as ours."""

    unroll = 16


class TorchCompiledGraphs(TorchModuleGraphs):
    """The same with network, loss and their way back through ``torch.compile``; minutes to compile."""

    def __init__(self, case: Case) -> None:
        self.compiled: Callable[..., Any] | None = None
        super().__init__(case)

    def value(self, x: Any, y: Any) -> Any:
        if self.compiled is None:
            self.compiled = self.torch.compile(super().value, fullgraph=True, dynamic=False)
        return self.compiled(x, y)


class JaxScanHere(JaxScan):
    """``lax.scan`` over the epoch with float32 products, not JAX's own default on a GPU."""

    def epoch(self, order: HostArray) -> float:
        with self.jax.default_matmul_precision("highest"):
            return super().epoch(order)


class GpuFloor(Training):
    """The products of matrices alone, in a CUDA graph: z, dW, and the deltas of hidden layers."""

    backend: ClassVar[Any]
    rough: ClassVar[bool] = False

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from portable_bp_backends.cupy_graph import CupyRecorder

        self.tolerance = 1e-2 if self.rough else 1e-5
        rng, backend = np.random.default_rng(1), self.backend

        def random(*shape: int) -> Any:
            return backend.asarray(rng.standard_normal(shape, dtype=np.float32))

        self.pairs = []
        for l, (i, o) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
            a, W, delta = random(case.batch, i), random(i, o), random(case.batch, o)
            self.pairs += [(a, W), (a.T, delta)] + [(delta, W.T)] * (l > 0)
        with backend.scope():
            self.recorder = CupyRecorder(*backend._recorder_streams(), backend._beside)
            with self.recorder.inside():
                self.launch = self.recorder.record(self.products)

    def products(self) -> None:
        for a, b in self.pairs:
            self.backend.xp.matmul(a, b)

    def error(self, expected: HostArray) -> float:
        worst = 0.0
        with self.backend.scope():
            for a, b in self.pairs:
                exact = np.dot(*(self.backend.to_numpy(m).astype("float64") for m in (a, b)))
                found = self.backend.to_numpy(self.backend.xp.matmul(a, b))
                worst = max(worst, distance(found, exact))
        return worst

    def epoch(self, order: HostArray) -> float:
        launch = self.launch
        for _ in order:
            launch()
        self.recorder.synchronize()
        return 0.0

    def params(self) -> Any:
        raise NotImplementedError("the floor trains nothing")


def candidates(spec: str) -> dict[str, Make]:
    """Those of one library, on its first GPU; ``torch:cuda:0+inductor``: what compiles for minutes."""
    if spec == "cupy:0":
        from portable_bp_backends.cupy_backend import CupyBackend

        fused, rough = CupyBackend(0), CupyBackend(0, tf32=True)
        bf16 = CupyBackend(0, bf16=True)
        graphs = CupyBackend(0, persistent=False)
        return {
            "ours cupy, eager": on(CupyBackend(0, fuse=False), compiled=False),
            "ours cupy, fused": on(fused, compiled=False),
            "ours cupy, step by step": on(graphs, unroll=1),
            "ours cupy, graphs": on(graphs),
            "ours cupy": on(fused),
            "ours cupy, TF32": on(rough, tolerated=ROUGH),
            "ours cupy, bf16": on(bf16, tolerated=ROUGH),
            "floor": type("Floor", (GpuFloor,), {"backend": fused}),
            "floor, TF32": type("Floor", (GpuFloor,), {"backend": rough, "rough": True}),
        }
    if spec.startswith("torch:cuda:0"):
        from portable_bp_backends.torch_backend import TorchBackend

        if spec.endswith("+inductor"):
            return {
                "ours torch, inductor": on(TorchBackend("cuda:0", inductor=True)),
                "torch compiled, 16-step graphs": TorchCompiledGraphs,
            }
        plain = TorchBackend("cuda:0")
        return {
            "ours torch, eager": on(plain, compiled=False),
            "ours torch": on(plain),
            "ours torch, TF32": on(plain, tolerated=ROUGH, around=torch_tf32),
            "torch eager": TorchModule,
            "torch graph": TorchModuleGraph,
            "torch 16-step graphs": TorchModuleGraphs,
        }
    return {"ours jax": ours("jax:gpu"), "jax scan": JaxScanHere}


def on_cpu() -> dict[str, Make]:
    """The processor of the machine that the GPU is in: ours, a module of PyTorch's, the products."""
    found: dict[str, Make] = {"ours numpy": ours("numpy"), "floor": GemmFloor}
    if "torch" in available_backends():
        host: dict[str, Any] = {"device": "cpu", "of_adam": {}}
        found["ours torch"] = ours("torch")
        found["torch eager"] = type("OnCpu", (TorchModule,), host)
    return found


def rehearsal(spec: str = "numpy") -> dict[str, Make]:
    """Few candidates on any device, to see that everything runs."""
    return {f"ours {spec}, eager": ours(spec, eager=True), f"ours {spec}": ours(spec)}


@contextmanager
def torch_tf32() -> Iterator[None]:
    """PyTorch's own switch, for as long as this lasts."""
    import torch

    switch = torch.backends.cuda.matmul
    before, switch.allow_tf32 = switch.allow_tf32, True
    try:
        yield
    finally:
        switch.allow_tf32 = before


def compare(
    case: Case, makers: Mapping[str, Make], rounds: int = ROUNDS, seconds: float = 0.05
) -> Entry:
    """An entry as :mod:`benchmarks.race` has it: each candidate proved, then timed in turn."""
    expected = reference(case)
    found: dict[str, Any] = {}
    ready: dict[str, Training] = {}
    for name, make in makers.items():
        began = time.perf_counter()
        try:
            candidate = make(case)
            error = candidate.error(expected)
            if not error <= candidate.tolerance:
                raise ValueError(f"{error:.2g} away from float64, over {candidate.tolerance:g}")
            candidate.run(1)
        except Exception as failure:  # one that cannot run must not end the others
            found[name] = {"refused": f"{type(failure).__name__}: {failure}"[:2000]}
            _free()
            continue
        ready[name] = candidate
        found[name] = {
            "error": float(f"{error:.2g}"),
            "tolerance": candidate.tolerance,
            "ready_s": round(time.perf_counter() - began, 2),
            "us": [],
        }
    for turn in range(rounds):
        names = list(ready)
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else ():
            try:
                took = _per_step(ready[name], seconds)
            except Exception as failure:  # nor one that fails while it is timed
                found[name] = {"refused": f"{type(failure).__name__}: {failure}"[:2000]}
                del ready[name]
            else:
                found[name]["us"].append(float(f"{took * 1e6:.5g}"))
    ready.clear()
    _free()
    return {"name": case.name, "case": asdict(case), "candidates": found}


def _per_step(candidate: Training, seconds: float) -> float:
    """Wall-clock time, which is what the host's part is in: every run ends with a read."""
    once = _timed(candidate, 1)  # caches and clocks, after the others
    rounds = max(1, math.ceil(seconds / once))
    return _timed(candidate, rounds) / (rounds * candidate.steps)


def _timed(candidate: Training, rounds: int) -> float:
    began = time.perf_counter()
    last = candidate.run(rounds)
    took = time.perf_counter() - began
    if not math.isfinite(last):
        raise ValueError(f"the last number is {last}")
    return took


def _free() -> None:
    """What the last candidate held goes back to the device."""
    gc.collect()
    if "cupy" in sys.modules and "cupy:0" in available_backends():
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


MIDDLE, LARGE = "784-256-128-10 B128", "784-2048-2048-10 B1024"

TARGETS = (
    # (network, candidate, other): the candidate's time over the other's is at most the limit.
    (MIDDLE, "ours cupy", "ours cupy, eager", 1 / 20),
    (MIDDLE, "ours cupy", "torch eager", 1 / 5),
    ("", "ours cupy", "torch graph", 1.3),
    ("", "ours cupy", "torch 16-step graphs", 1.3),
    (LARGE, "ours cupy", "floor", 1.3),
    (LARGE, "ours cupy, TF32", "ours cupy", 1 / 2.5),
)


def targets(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Each target with the ratio that was found; None where one of the two was not timed."""
    rows = []
    for network, name, other, limit in TARGETS:
        for entry in entries:
            if network in entry["name"]:
                found = ratio(entry, name, other)
                value = None if found is None else float(f"{found[0]:.3g}")
                rows.append({
                    "case": entry["name"], "candidate": name, "over": other,
                    "limit": limit, "found": value, "met": None if value is None else value <= limit,
                })  # fmt: skip
    return rows
