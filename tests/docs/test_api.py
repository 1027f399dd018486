"""The API reference has every public name: none is forgotten when a module or a name is added."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module

import portable_bp

# Rooms that are no part of the public interface, each for a reason.
INTERNAL = {
    "portable_bp.cli": "commands, not functions: docs/cli.md",
    "portable_bp.inputs": "checks of what users hand in",
    "portable_bp.persistence": "how files are written; Model.save and load are the doors",
    "portable_bp.tables": "its doors are portable_bp.datasets and portable_bp.tabular",
    "portable_bp.training": "its names are portable_bp's own",
    "portable_bp.model_file": "how a model is kept; Model.save and load are the doors",
    "portable_bp.rng": "seeded draws of the start parameters",
    "portable_bp.mlp": "its names are portable_bp's own",
    "portable_bp.model": "its names are portable_bp's own",
    "portable_bp.equations": "one page for each of its modules",
}


def modules():
    """Modules and packages at the top, and the files of the equations."""
    for folder, prefix in (
        (portable_bp.__path__, "portable_bp."),
        (portable_bp.equations.__path__ if hasattr(portable_bp, "equations") else
         import_module("portable_bp.equations").__path__, "portable_bp.equations."),
    ):  # fmt: skip
        for info in pkgutil.iter_modules(folder, prefix):
            if not info.name.rpartition(".")[2].startswith("_"):
                yield info.name


def test_every_module_has_a_page_or_a_reason(api):
    known = {*api.ROOMS, *INTERNAL}
    quiet = {"portable_bp.equations.random", "portable_bp.equations.special"}
    assert [name for name in modules() if name not in known | quiet] == []


def test_every_public_name_is_on_a_page(api, tmp_path):
    api.write(tmp_path)
    text = "\n".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.rst"))
    for name in portable_bp.__all__:
        assert re.search(rf"^\.\. auto\w+:: {name}$|``{name}``|automodule:: portable_bp.*\.{name}$",
                         text, re.MULTILINE), name  # fmt: skip


def test_the_reference_names_nothing_that_is_not_there(api):
    for name in api.described():
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
