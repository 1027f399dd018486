"""Is everything public documented? numpydoc's validation of each public object.

``make lint`` runs it. The objects are the names in each public module's ``__all__`` and, of classes,
their public methods and properties. Exit code 1 where something is left to write.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from numpydoc.validate import validate

PUBLIC = (
    "portable_bp",
    "portable_bp.backend",
    "portable_bp.callbacks",
    "portable_bp.datasets",
    "portable_bp.estimators",
    "portable_bp.tabular",
    "portable_bp.testing",
    "portable_bp.equations.activations",
    "portable_bp.equations.initializers",
    "portable_bp.equations.losses",
    "portable_bp.equations.network",
    "portable_bp.equations.optimizers",
    "portable_bp.equations.schedules",
)

CHECKS = {
    "GL08": "no docstring",
    "SS01": "no summary",
    "SS03": "the summary ends without a period",
    "PR01": "parameters that are not documented",
    "PR02": "parameters that do not exist",
    "PR03": "another order of the parameters",
    "PR04": "a parameter without a type",
    "PR05": "a type that ends with a period",
    "PR07": "a parameter without a description",
    "PR10": "a parameter without a space before its colon",
    "RT01": "no Returns section",
    "YD01": "no Yields section",
}

RECORDS = ("Runner", ".EpochEnd", ".Parts")
"""What the library makes and nobody else: fields described in place, no constructor to document."""


def home(thing: Any) -> str:
    """The module in which an object is defined."""
    return str(getattr(thing, "__module__", ""))


def public_objects() -> Iterator[tuple[str, Any]]:
    """Every public function, class, method and property with the name that imports it."""
    seen: set[str] = set()
    for module in PUBLIC:
        contents = import_module(module)
        names = getattr(contents, "__all__", None) or [
            name
            for name, value in vars(contents).items()
            if not name.startswith("_") and callable(value) and home(value) == module
        ]
        for name in names:
            thing = getattr(contents, name)
            full = f"{home(thing)}.{name}"
            if inspect.ismodule(thing) or not callable(thing) or full in seen:
                continue
            seen.add(full)
            yield full, thing
            if inspect.isclass(thing):
                yield from methods(full, thing)


def methods(full: str, cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class defines itself."""
    for name, value in vars(cls).items():
        kinds = (property, classmethod, staticmethod)
        inherited = value.__doc__ is None and any(hasattr(base, name) for base in cls.__bases__)
        fields = getattr(cls, "__dataclass_fields__", {})  # described in the class
        # What the base says holds here as well.
        public = not name.startswith("_") and not inherited and name not in fields
        if public and (inspect.isfunction(value) or isinstance(value, kinds)):
            yield f"{full}.{name}", value


def one_line_formula(full: str) -> bool:
    """Whether it is an equation: those of one line say all with their formula."""
    return full.startswith("portable_bp.equations.")


def findings() -> Iterator[str]:
    """One line for each object that is not documented as it should be."""
    for full, _ in public_objects():
        checks = set(CHECKS)
        if one_line_formula(full):
            checks -= {"PR01", "RT01", "SS03"}
        if full.endswith(RECORDS):
            checks -= {"PR01"}
        errors = [(code, text) for code, text in validate(full)["errors"] if code in checks]
        for code, text in errors:
            yield f"{full}: {code} {text}"


def main() -> int:
    """Print the findings; 1 where there are some."""
    lines = list(findings())
    print(*lines, f"{len(lines)} findings in public docstrings", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
