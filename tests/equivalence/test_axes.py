"""Backend x device x dtype x compiled or not x weights x batch size x depth x width, and whole runs.

The product of all of them has many thousands of cases. By default every *pair* of values of any two
axes occurs in some case: nearly all faults that depend on a combination depend on two things. The
whole product of the sizes is marked slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest

from portable_bp import MLP, Backend, schedules
from portable_bp.equations import initializers, losses, optimizers
from portable_bp.testing import equivalence, tolerances
from portable_bp.testing.capabilities import missing
from portable_bp.testing.problems import Problem, make_problem

Case = dict[str, Any]
Axes = Mapping[str, Sequence[Any]]

DEVICES = ("strict:device1", "strict:no_float64", "strict:no_x64")
"""Besides the backends of the command line: where strict is among them."""

PLACES: Axes = {"dtype": equivalence.DTYPES, "mode": ("eager", "compiled")}

NETWORKS: Axes = {
    "rows": (1, 2, 7, 128),
    "depth": tuple(range(9)),
    "width": (1, 3, 32, 1024),
    "weighted": (False, True),
}

RUNS: Axes = {
    "optimizer": sorted(optimizers.OPTIMIZERS),
    "schedule": sorted(schedules.SCHEDULES),
    "batch_size": (1, 2, 7, 128, 1000),
    "initializer": sorted(initializers.INITIALIZERS),
    "depth": (0, 1, 2),
    "weighted": (False, True),
    "penalties": ({}, {"l1": 1e-4}, {"l2": 1e-2}, {"l1": 1e-4, "l2": 1e-2}),
    "dropout": (0.0, 0.3),
    "clipping": ({}, {"clip_value": 0.1}, {"clip_norm": 0.5}),
}
"""On 45 rows, for batches of 128 on 150: 2, 7 and 128 leave a smaller last one, 1000 is too many."""

EPOCHS = {1: 1, 2: 1, 7: 3, 128: 10, 1000: 20}
SMOOTH = ("tanh", "gelu", "sigmoid", "silu", "softplus", "mish", "gelu_tanh")
MONOTONE = ("tanh", "sigmoid", "softplus")
KINKED = ("relu", "leaky_relu", "elu", "selu")


def possible(case: Case) -> bool:
    """Whether the backend has what a (perhaps still incomplete) case asks for."""
    spec = case.get("spec", "numpy")
    if case.get("dtype") == "float64" and missing(spec, "float64"):
        return False
    return not (case.get("mode") == "compiled" and missing(spec, "compiled"))


def pairs(case: Case) -> Iterator[tuple[Any, ...]]:
    """Every two values of a case, by axis and position so that any value will do."""
    for (a, x), (b, y) in combinations(sorted(case.items()), 2):
        yield a, repr(x), b, repr(y)


def covering(axes: Axes) -> list[Case]:
    """Cases in which every possible pair of values of two axes occurs at least once.

    Greedy: begin with a pair that is still missing, and give each other axis the value that brings
    the most missing pairs; where several do, the one that was used least.
    """
    wanted = {}
    for a, b in combinations(sorted(axes), 2):
        for x, y in product(axes[a], axes[b]):
            if possible({a: x, b: y}):
                wanted[a, repr(x), b, repr(y)] = {a: x, b: y}
    used: dict[tuple[str, str], int] = {}
    cases = []
    while wanted:
        case = dict(next(iter(wanted.values())))
        for axis in sorted(set(axes) - set(case), key=lambda a: (-len(axes[a]), a)):

            def merit(x: Any, axis: str = axis, case: Case = case) -> tuple[int, int]:
                new = sum(p in wanted for p in pairs({**case, axis: x}))
                return new, -used.get((axis, repr(x)), 0)

            case[axis] = max((x for x in axes[axis] if possible({**case, axis: x})), key=merit)
        for pair in pairs(case):
            wanted.pop(pair, None)
        for axis, x in case.items():
            used[axis, repr(x)] = used.get((axis, repr(x)), 0) + 1
        cases.append(case)
    return cases


def name(case: Case) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in case.items())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, axes in (("network", NETWORKS), ("run", RUNS)):
        if argument in metafunc.fixturenames:
            backends = tuple(metafunc.config.getoption("--backends").split(","))
            specs = backends + (DEVICES if "strict" in backends else ())
            cases = covering({"spec": specs, **PLACES, **axes})
            metafunc.parametrize(argument, cases, ids=map(name, cases))


def test_a_covering_has_every_pair() -> None:
    axes = {"spec": ("numpy", "torch", *DEVICES), **PLACES, **NETWORKS}
    cases = covering(axes)
    found = {pair for case in cases for pair in pairs(case)}
    assert all(possible(case) and set(case) == set(axes) for case in cases)
    for a, b in combinations(sorted(axes), 2):
        for x, y in product(axes[a], axes[b]):
            assert ((a, repr(x), b, repr(y)) in found) == possible({a: x, b: y})
    everything = sum(
        possible(dict(zip(axes, values, strict=True))) for values in product(*axes.values())
    )
    assert len(cases) < 0.05 * everything


@cache
def problem(dtype: str, rows: int, depth: int, width: int, weighted: bool) -> Problem:
    # Among a million units one is so near its kink that rounding decides: not with the widest. A
    # chain of single units is as exact as the worst of its slopes: none that passes through 0.
    names = SMOOTH + KINKED if width * rows * depth < 10_000 else SMOOTH
    names = MONOTONE if width == 1 else names
    hidden = names[(rows + depth + width) % len(names)]
    loss = sorted(losses.LOSSES)[(rows + 2 * depth + width + weighted) % len(losses.LOSSES)]
    net = MLP((5, *[width] * depth, 4), hidden, loss, l1=1e-4 * weighted, l2=1e-3)
    return make_problem(net, rows, dtype, weighted=weighted)


def check(where: Backend, dtype: str, mode: str, **sizes: Any) -> None:
    if mode not in equivalence.modes(where):
        pytest.skip(f"{where.spec} runs each step eagerly")
    given = {"": problem(dtype, **sizes)}
    # Of a handful of numbers (the four deltas of one example) one may be a small difference of large
    # ones by chance.
    few = sizes["rows"] == 1 or sizes["rows"] * sizes["width"] < 32
    tolerance = tolerances.TRAINED if few else None
    rows = list(equivalence.network_rows(where, given, mode, tolerance=tolerance))
    assert len(rows) == 5
    assert [str(row) for row in rows if not row.agrees] == []


def test_networks(entered: Callable[[str, str], Backend], network: Case) -> None:
    """Loss, outputs, deltas and gradients of every size, at parameters as they are drawn."""
    sizes = dict(network)
    where = entered(sizes.pop("spec"), sizes["dtype"])
    check(where, **sizes)


def test_runs(entered: Callable[[str, str], Backend], run: Case) -> None:
    """Whole training runs: every optimiser, schedule, initialiser, penalty and size of batch."""
    options = dict(run)
    dtype, mode = options.pop("dtype"), options.pop("mode")
    where = entered(options.pop("spec"), dtype)
    if mode not in equivalence.modes(where):
        pytest.skip(f"{where.spec} runs each step eagerly")
    # The others move each weight by about the rate, however little of its gradient is certain.
    rate = 0.05 if options["optimizer"] in ("sgd", "momentum", "nesterov") else 0.001
    options |= {
        "rows": 150 if options["batch_size"] == 128 else 45,
        "epochs": EPOCHS[options["batch_size"]],
        "learning_rate": equivalence.schedule(options.pop("schedule"), rate),
        **options.pop("penalties"),
        **options.pop("clipping"),
    }
    rows = list(equivalence.training_rows(where, dtype, mode, {"": options}))
    assert len(rows) == 2
    assert [str(row) for row in rows if not row.agrees] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", PLACES["mode"])
@pytest.mark.parametrize("depth", NETWORKS["depth"])
@pytest.mark.parametrize("width", NETWORKS["width"])
@pytest.mark.parametrize("dtype", PLACES["dtype"])
def test_the_whole_product(where: Backend, dtype: str, width: int, depth: int, mode: str) -> None:
    for rows, weighted in product(NETWORKS["rows"], NETWORKS["weighted"]):
        check(where, dtype, mode, rows=rows, depth=depth, width=width, weighted=weighted)
