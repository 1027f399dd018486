"""The API reference: one page for each room, found by what the room makes public."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

ROOMS = {
    "portable_bp": "Networks, training and models",
    "portable_bp.estimators": "Estimators",
    "portable_bp.callbacks": "Callbacks",
    "portable_bp.equations.network": "The equations of a network",
    "portable_bp.equations.affine": "The affine map of a layer",
    "portable_bp.equations.activations": "Activation functions",
    "portable_bp.equations.losses": "Loss functions",
    "portable_bp.equations.regularizers": "Penalties and dropout",
    "portable_bp.equations.parallel": "Parts of a batch",
    "portable_bp.equations.optimizers": "Optimisers",
    "portable_bp.equations.schedules": "Learning-rate schedules",
    "portable_bp.equations.initializers": "Initialisers",
    "portable_bp.backend": "Backends",
    "portable_bp.processes": "Several processes",
    "portable_bp.sources": "Data larger than memory",
    "portable_bp.datasets": "Tables from files",
    "portable_bp.tabular": "From a table to a model",
    "portable_bp.export": "Models in other languages",
    "portable_bp.display": "Plots",
    "portable_bp.explorer": "The explorer",
    "portable_bp.worked_example": "The worked example",
    "portable_bp.testing": "Checks that you can run",
    "portable_bp.errors": "Errors and warnings",
}
"""Module to the title of its page, in the order of the reference."""

_GROUPS = (("Classes", "autoclass"), ("Exceptions", "autoexception"), ("Functions", "autofunction"))


def public(module: ModuleType) -> dict[str, Any]:
    """Public names: ``__all__``, or the classes and functions that the module itself defines."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


def _group(value: Any) -> str | None:
    if inspect.isclass(value):
        return "Exceptions" if issubclass(value, Exception) else "Classes"
    return "Functions" if inspect.isroutine(value) else None


def _page(name: str, module: ModuleType, title: str, seen: dict[int, str]) -> str:
    """The page of a room; what an earlier page describes (``seen``) is named with a link."""
    found = public(module)
    elsewhere = {n: seen[id(v)] for n, v in found.items() if _group(v) and id(v) in seen}
    found = {n: v for n, v in found.items() if n not in elsewhere}
    seen.update((id(v), f"{name}.{n}") for n, v in found.items() if _group(v))
    lines = [
        title,
        "=" * len(title),
        "",
        f".. automodule:: {name}",
        "   :no-members:",
        "",
        f".. currentmodule:: {name}",
        "",
    ]
    for heading, directive in _GROUPS:
        entries = [n for n, value in found.items() if _group(value) == heading]
        if not entries:
            continue
        lines += [heading, "-" * len(heading), ""]
        lines += [".. autosummary::", "", *(f"   {n}" for n in entries), ""]
        lines += [f".. {directive}:: {n}\n" for n in entries]
    if elsewhere:
        links = (f"* ``{n}``: see :obj:`{full}`" for n, full in elsewhere.items())
        lines += ["Described elsewhere", "-------------------", "", *links, ""]
    tables = [
        n
        for n, v in vars(module).items()
        if n.isupper() and not n.startswith("_") and isinstance(v, dict)
    ]
    if tables:
        lines += ["Tables", "------", "", *(f".. autodata:: {n}\n   :no-value:\n" for n in tables)]
    return "\n".join(lines) + "\n"


def described() -> list[str]:
    """The full name of every class and function that the reference describes, each once."""
    seen: dict[int, str] = {}
    for name in ROOMS:
        for n, value in public(import_module(name)).items():
            if _group(value):
                seen.setdefault(id(value), f"{name}.{n}")
    return list(seen.values())


def write(folder: Path) -> None:
    """Write the pages; what is unchanged keeps its time, so that Sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    pages: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name, title in ROOMS.items():
        pages[name] = _page(name, import_module(name), title, seen)
    rows = "\n".join(f"   {name}" for name in pages)
    pages["index"] = (
        "API reference\n=============\n\nOne page for each room of the package. The names of the first "
        "page are what ``import portable_bp``\ngives; every docstring here is also what ``help()`` "
        f"shows.\n\n.. toctree::\n   :maxdepth: 1\n\n{rows}\n"
    )
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
