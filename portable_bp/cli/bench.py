"""``portable-bp bench``: which backend trains a network quickest on this machine."""

from __future__ import annotations

import math
from dataclasses import asdict

import click

from portable_bp.cli import shell
from portable_bp.equations import optimizers
from portable_bp.equations.losses import LOSSES
from portable_bp.equations.optimizers import OPTIMIZERS
from portable_bp.mlp import MLP
from portable_bp.training.fastest import Timing, Work, entrants, race, starter

DIGITS = (64, 128, 64, 10)
"""The network that ``portable-bp train digits`` trains."""


@click.command()
@click.argument("sizes", type=click.IntRange(min=1), nargs=-1)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Examples per step.")
@click.option("--loss", type=click.Choice(sorted(LOSSES)), default="softmax_cross_entropy")
@click.option("--optimizer", type=click.Choice(sorted(OPTIMIZERS)), default="adam")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--seconds", type=click.FloatRange(min=0), default=10.0,
              help="How long to time, beside getting each backend ready.")  # fmt: skip
@shell.json_option
def bench(
    sizes: tuple[int, ...], batch_size: int, loss: str, optimizer: str, dtype: str, seconds: float,
    as_json: bool,
) -> int:  # fmt: skip
    """Time a network on every backend here, and recommend one.

    SIZES are the units of each layer, inputs first, as 784 256 10; those of the digits by default.
    Training steps of every usable backend and device are timed, compiled and eager. The same race
    decides what fit(backend="fastest") takes.
    """
    if len(sizes) == 1:
        raise click.BadParameter(
            "name at least inputs and outputs, as 784 256 10", param_hint="SIZES"
        )
    net = MLP(sizes or DIGITS, loss=loss)
    work = Work(net, optimizers.get(optimizer), batch_size, dtype)
    timings = race(entrants(), starter(work), seconds)
    if as_json:
        rows = [asdict(timing) for timing in timings]
        shell.print_json({"sizes": [*net.sizes], "batch_size": batch_size, "timings": rows})
    else:
        print(f"{net!r}, {batch_size} rows a step, {optimizer}, {dtype}\n")
        print("\n".join(shell.printable(line) for line in table(timings, batch_size)))
        print("\n" + recommendation(timings))
    return 0 if timings and not timings[0].failure else shell.FAILED


def table(timings: list[Timing], rows: int) -> list[str]:
    """A line for each backend, the fastest first."""
    lines = [f"{'backend':<14}{'':<10}{'a step':>10}{'rows a second':>16}{'ready in':>11}"]
    for timing in timings:
        name = f"{timing.spec:<14}{'compiled' if timing.compile else 'eager':<10}"
        if timing.failure:
            lines.append(f"{name}failed: {timing.failure}")
        else:
            rate = f"{rows / timing.step:,.0f}"
            lines.append(f"{name}{duration(timing.step):>10}{rate:>16}{duration(timing.ready):>11}")
    return lines


def recommendation(timings: list[Timing]) -> str:
    """Which backend to take, and from how many steps on it pays to wait for it."""
    if not timings or timings[0].failure:
        return "no backend here runs this network"
    best = timings[0]
    text = f"take {_call(best)}"
    # One that is ready sooner is ahead in a short training.
    sooner = min(
        (t for t in timings if not t.failure and t.ready < best.ready),
        key=lambda t: t.ready, default=None,
    )  # fmt: skip
    if sooner is not None and sooner.step > best.step:
        steps = math.ceil((best.ready - sooner.ready) / (sooner.step - best.step))
        text += f"; in a process that makes less than {steps:,} steps, {_call(sooner)}"
    return text


def _call(timing: Timing) -> str:
    return f"backend={timing.spec!r}" + ("" if timing.compile else ", compile=False")


def duration(seconds: float) -> str:
    """Seconds in a unit that suits.

    >>> duration(0.0000123), duration(0.0123), duration(1.23)
    ('12.3 µs', '12.3 ms', '1.23 s')
    """
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1, "s")):
        if seconds * factor < 999.5 or unit == "s":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError
