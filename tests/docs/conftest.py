"""A headless Chromium for the pages, and the built site.

Both are optional in ``make test`` and required in ``make docs-test``, which builds the site and sets
``PORTABLE_BP_DOCS=required``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "_build" / "html"
REQUIRED = os.environ.get("PORTABLE_BP_DOCS") == "required"

# Without these Chromium looks for updates and hosts of its vendor when it starts.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def unavailable(reason: str) -> None:
    """Fail where the browser is required, else skip."""
    (pytest.fail if REQUIRED else pytest.skip)(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        unavailable("no chromium here: apt-get install chromium, or set CHROMIUM to its path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("no playwright here: pip install playwright")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").exists():
        unavailable("the site is not built: make docs")
    return SITE


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """``visit(file, width, scheme)``: the page, loaded; an error on the console fails the test."""
    contexts, said = [], []

    def visit(file: Path, width: int = 1280, scheme: str = "light", query: str = "") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(f"{file.name}: {error}"))
        page.on(
            "console",
            lambda m: said.append(f"{file.name}: {m.text}") if m.type == "error" else None,
        )
        page.goto(file.as_uri() + query)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture(scope="session")
def api() -> Any:
    """The module that writes the API pages."""
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "_ext" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
