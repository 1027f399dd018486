"""Tables of a record, as ``python -m benchmarks`` prints them and the pages of the documentation show
them: each is a head and rows of text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks import growth, targets
from benchmarks.ablation import ALL, DESCENT, FLOOR, NO_LOSS, NOT, SAME
from benchmarks.cases import Case
from benchmarks.race import Entry, best, median, ratio, spread

Record = dict[str, Any]
NOTHING = "–"


class Table(NamedTuple):
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        rule = ("---", *["---:"] * (len(self.head) - 1))
        lines = ("| " + " | ".join(line) + " |" for line in (self.head, rule, *self.rows))
        return "\n".join(lines)


def duration(us: float | None) -> str:
    """Microseconds in three digits.

    >>> duration(4.567), duration(1234.5), duration(157_234), duration(None)
    ('4.57 µs', '1.23 ms', '157 ms', '–')
    """
    if us is None:
        return NOTHING
    if us < 0:
        return f"-{duration(-us)}"
    for size, unit in ((1e6, "s"), (1e3, "ms"), (1, "µs")):
        if us >= size * 0.9995 or size == 1:
            return f"{_three(us / size)} {unit}"
    raise AssertionError


def times(factor: float | None) -> str:
    """A ratio in two or three digits.

    >>> times(0.0234), times(0.5), times(1.234), times(23.4)
    ('0.023', '0.50', '1.23', '23.4')
    """
    if factor is None:
        return NOTHING
    return (
        f"{factor:.3f}" if factor < 0.0995 else _three(factor) if factor >= 1 else f"{factor:.2f}"
    )


def size(nbytes: float | None) -> str:
    """
    >>> size(82_720), size(103_227_552)
    ('0.083 MB', '103 MB')
    """
    return NOTHING if nbytes is None else f"{_three(nbytes / 1e6)} MB"


def _three(x: float) -> str:
    digits = 0 if x >= 99.95 else 1 if x >= 9.995 else 2 if x >= 0.0995 else 3
    return f"{x:,.{digits}f}"


def shape(entry: Entry) -> str:
    return Case(**{**entry["case"], "sizes": tuple(entry["case"]["sizes"])}).shape


def of_optimizer(entries: Iterable[Entry], optimizer: str) -> list[Entry]:
    return [e for e in entries if e["case"]["optimizer"] == optimizer]


def _names(entries: Sequence[Entry]) -> list[str]:
    """The candidates that were timed in some case."""
    known = dict.fromkeys(n for e in entries for n in e["candidates"])
    return [n for n in known if any(median(e, n) is not None for e in entries)]


# --- training and inference -----------------------------------------------------------------------


def speeds(entries: Sequence[Entry], names: Sequence[str] = ()) -> Table:
    """Medians; the fastest of a row is bold, the floor aside."""
    names = [n for n in _names(entries) if n in names or not names]
    rows = []
    for e in entries:
        first = best(e, [n for n in names if not n.startswith("floor")])
        cells = (
            f"**{duration(median(e, n))}**" if n == first else duration(median(e, n)) for n in names
        )
        rows.append((shape(e), *cells))
    return Table(("network, batch", *names), rows)


def spreads(entries: Sequence[Entry]) -> Table:
    """All there is to say about each candidate in each case."""
    head = (
        "case", "candidate", "minimum", "quartile", "median", "quartile", "rounds",
        "/ best peer", "/ floor", "off float64 by", "ready after",
    )  # fmt: skip
    rows = []
    for e in entries:
        peer = best(e, targets.PEERS)
        for name, found in e["candidates"].items():
            if "us" not in found:
                why = found.get("why_not") or f"REFUSED: {found['refused']}"
                rows.append((e["name"], name, why, *[""] * (len(head) - 3)))
                continue
            s = spread(found["us"])
            over = [ratio(e, name, other) if other else None for other in (peer, "floor")]
            rows.append((
                e["name"], name, *(duration(s[k]) for k in ("min", "q1", "median", "q3")),
                str(len(found["us"])), *(times(o[0]) if o else NOTHING for o in over),
                f"{found['error']:.0e}", f"{found['ready_s']:.2f} s",
            ))  # fmt: skip
    return Table(head, rows)


def ready(entries: Sequence[Entry]) -> Table:
    """Seconds until the first epoch is done: what compilation costs."""
    names = _names(entries)
    rows = [
        (n, *(f"{f(r):.2f} s" for f in (min, statistics.median, max)))
        for n in names
        if (
            r := [
                e["candidates"][n]["ready_s"] for e in entries if "us" in e["candidates"].get(n, {})
            ]
        )
    ]
    return Table(("candidate", "least", "median", "most"), rows)


# --- targets --------------------------------------------------------------------------------------


def verdict_table(entries: Sequence[Entry]) -> Table:
    """Each target, met or missed: by the median of the ratios within a round; minima in brackets."""
    rows = [
        (
            v.target.what, v.case, f"{v.target.ours} / {v.other}", f"≤ {times(v.limit)}",
            f"{times(v.measured)} ({times(v.least)})", "met" if v.met else "**missed**",
        )
        for v in targets.verdicts(entries)
    ]  # fmt: skip
    return Table(("target", "case", "ratio", "limit", "measured (of minima)", ""), rows)


def tally(entries: Sequence[Entry]) -> str:
    found = targets.verdicts(entries)
    return f"{sum(v.met for v in found)} of {len(found)} targets met"


# --- growth, ablation, memory ---------------------------------------------------------------------


def growths(axes: dict[str, list[Entry]], axis: str) -> Table:
    """Times along an axis, and under them the slopes in its first and its second half."""
    entries = axes[axis]
    names = _names(entries)

    def cell(e: Entry, n: str) -> str:
        s = growth.seconds(axis, e, n)
        return duration(None if s is None else s * 1e6)

    rows = [(f"{e['at']:,}", *(cell(e, n) for n in names)) for e in entries]
    found = [growth.slopes(axis, entries, n) for n in names]
    for k, half in enumerate(("first", "second")):
        cells = (NOTHING if s is None else f"{s[k]:.2f}" for s in found)
        rows.append((f"slope, {half} half", *cells))
    return Table((axis, *names), rows)


def anatomy(entries: Sequence[Entry]) -> Table:
    """What the parts of a step cost: medians, over the rounds, of the difference that each makes."""

    def less(e: Entry, name: str, other: str) -> float | None:
        pairs = (e["candidates"].get(n, {}).get("us") for n in (name, other))
        a, b = ([] if us is None else us for us in pairs)
        return statistics.median(x - y for x, y in zip(a, b, strict=True)) if a and b else None

    parts: dict[str, Callable[[Entry], float | None]] = {
        "matrix products (the floor)": lambda e: median(e, FLOOR),
        "Adam, beyond plain descent": lambda e: less(e, ALL, DESCENT),
        "gathering the mini-batch": lambda e: less(e, ALL, SAME),
        "the loss's value": lambda e: less(e, ALL, NO_LOSS),
    }
    rows = []
    for e in entries:
        whole = median(e, ALL)
        found = [part(e) for part in parts.values()]
        known = [f for f in found if f is not None]
        rest = None if whole is None or len(known) < len(parts) else whole - sum(known)
        rows.append((shape(e), *map(duration, (median(e, NOT), whole, *found, rest))))
    return Table(("network, batch", "eager", "compiled", *parts, "all the rest"), rows)


def ablations(entries: Sequence[Entry]) -> Table:
    """The time without an optimisation, over that with all of them."""
    names = [n for n in _names(entries) if n not in (ALL, FLOOR)]
    rows = [(ALL, *(duration(median(e, ALL)) for e in entries))]
    for n in names:
        found = (ratio(e, n, ALL) for e in entries)
        rows.append(
            (n, *(NOTHING if r is None else f"{times(r[0])} ({times(r[1])})" for r in found))
        )
    return Table(("left out or added", *map(shape, entries)), rows)


def memories(entries: Sequence[Entry]) -> Table:
    """What has to be held, what the NumPy plan owns, and how far each process grows."""
    names = list(entries[0]["process"]) if entries else []
    rows: list[tuple[str, ...]] = []
    lines: list[tuple[str, Callable[[Entry], Any]]] = [
        ("must be held", lambda e: sum(e["held"].values())),
        ("NumPy plan: state and workspace", lambda e: e["plan"]["state"] + e["plan"]["workspace"]),
        ("NumPy plan: peak, tracing included", lambda e: e["plan"]["peak"]),
        *((f"process: {n}", lambda e, n=n: e["process"][n]) for n in names),
    ]  # fmt: skip
    for what, of in lines:
        found = [of(e) for e in entries]
        rows.append((what, *(size(b) if isinstance(b, int) else NOTHING for b in found)))
    return Table(("bytes", *map(shape, entries)), rows)


# --- the machine ----------------------------------------------------------------------------------


def measured_on(record: Record, part: str = "training") -> str:
    """One paragraph: when and on what."""
    m, p = record["machine"], record[part]
    libraries = ", ".join(f"{n} {v}" for n, v in m["libraries"].items())
    pools: list[dict[str, Any]] = p["blas"].get("ours numpy") or next(iter(p["blas"].values()), [])
    kernels = ""
    if blas := [pool for pool in pools if pool["user_api"] == "blas"]:
        numpys = blas[0]  # the first that is loaded; SciPy brings one of its own
        kernels = (
            f"; {numpys['internal_api']} {numpys['version']}, {numpys['architecture']} kernels"
        )
    cores = f"{m['cores']} core{'s' * (m['cores'] > 1)}"
    return (
        f"Measured on {p['date']}: {m['processor']} ({', '.join(m['instructions'])}), {cores}, "
        f"{m['memory_gib']} GiB, {m['system']}, Python {m['python']}, {libraries}{kernels}; load "
        f"before the run {p['load']}. float32; medians."
    )
