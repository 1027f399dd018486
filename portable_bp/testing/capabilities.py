"""What each backend can do, as data: the marks of the tests and the table in the docs follow from it.

A test that needs a capability names it, and is skipped with the reason that stands here; another
test holds every line to the truth (what is missing fails, what is not works).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SPECS = (
    "numpy",
    "cupy",
    "torch",
    "torch:cuda",
    "jax",
    "jax:gpu",
    "strict",
    "strict:device1",
    "strict:device2",
    "strict:no_float64",
    "strict:no_x64",
)
"""The backends that this package brings, with the devices that differ in what they can do."""


@dataclass(frozen=True)
class Capability:
    """One thing a backend can do or not.

    Attributes
    ----------
    meaning : str
    without : library or spec to the reason why it cannot; what stands there for a spec goes before
        what stands there for its library
    condition : spec to what it takes
    """

    meaning: str
    without: Mapping[str, str] = field(default_factory=dict)
    condition: Mapping[str, str] = field(default_factory=dict)


CAPABILITIES: Mapping[str, Capability] = {
    "float64": Capability(
        "trains in double precision",
        {
            "strict:no_float64": "the device has no float64",
            "strict:no_x64": "the device has no 64-bit numbers",
        },
        {"jax": "with JAX_ENABLE_X64=1"},
    ),
    "compiled": Capability(
        "runs a compiled step, faster than an eager one",
        {"strict": "a referee, not a runner: each step runs eagerly"},
    ),
    "same bits": Capability(
        "a compiled step gives the bits of the eager step",
        {
            "numpy": "sums over rows or columns are products with ones: equal to rounding",
            "cupy": "small networks run as one kernel of many steps: equal to rounding",
            "jax": "XLA fuses and reorders operations: equal to rounding",
        },
    ),
    "labels": Capability(
        "predicts class labels",
        {"strict:no_x64": "argmax gives int64, which the device does not have"},
    ),
    "accelerator": Capability(
        "runs on a GPU",
        {
            "numpy": "the CPU only",
            "torch": "the CPU; the GPU is torch:cuda",
            "torch:cuda": "",
            "jax": "the CPU; the GPU is jax:gpu",
            "jax:gpu": "",
            "strict": "the CPU only",
        },
    ),
}


def _about(table: Mapping[str, str], spec: str) -> str:
    """The entry of the spec, else of the spec without its number, else of the library."""
    kind, _, number = spec.rpartition(":")
    names = (spec, kind if number.isdigit() else spec, spec.partition(":")[0])
    return next((table[name] for name in names if name in table), "")


def missing(spec: str, capability: str) -> str:
    """Why a backend lacks a capability; empty when it has it.

    >>> missing("strict:no_x64", "float64")
    'the device has no 64-bit numbers'
    >>> missing("torch:cuda:1", "float64"), missing("torch:cuda:1", "accelerator")
    ('', '')
    """
    if capability not in CAPABILITIES:
        raise KeyError(f"no capability {capability!r}; known are {', '.join(CAPABILITIES)}")
    return _about(CAPABILITIES[capability].without, spec)


def table() -> str:
    """The capabilities as a table in Markdown."""
    head = ["backend", *CAPABILITIES]
    lines = [head, ["---"] * len(head)]
    notes: list[str] = []
    for spec in SPECS:
        cells = [f"`{spec}`"]
        for name, capability in CAPABILITIES.items():
            reason = missing(spec, name)
            condition = _about(capability.condition, spec)
            note = reason or condition
            cell = "no" if reason else "yes"
            if note:
                if note not in notes:
                    notes.append(note)
                cell += f" ({notes.index(note) + 1})"
            cells.append(cell)
        lines.append(cells)
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    meanings = "\n".join(f"- **{name}**: {c.meaning}" for name, c in CAPABILITIES.items())
    numbered = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, start=1))
    return f"{rows}\n\n{meanings}\n\n{numbered}"
