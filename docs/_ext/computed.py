"""What the pages take from the program: numbers, figures, the API pages, the explorer.

A page whose first lines say ``computed: true`` is a Jinja template before it is Markdown, with
``<< name >>`` for a value and ``<% ... %>`` for a statement. :func:`names` is what it may use.
"""

from __future__ import annotations

import inspect
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import api
import figures
import jinja2
import numbers_of_the_example as numbers
from sphinx.application import Sphinx

from portable_bp import explorer

ROOT = Path(__file__).parents[2]

_jinja = jinja2.Environment(
    variable_start_string="<<",
    variable_end_string=">>",
    block_start_string="<%",
    block_end_string="%>",
    comment_start_string="<#",
    comment_end_string="#>",
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,
)


def devices() -> str:
    """The table of the README that says where the library runs, with its links as of ``docs/``."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("<!-- devices:begin -->")[1].split("<!-- devices:end -->")[0]
    table = table.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?!https?:)([^)]*/[^)]*)\)", outside, table)


@cache
def names() -> dict[str, Any]:
    """Everything that a computed page may name."""
    return {**numbers.names(), "figure": figures.as_markdown, "devices": devices()}


def outside(link: re.Match[str]) -> str:
    """A link to a file of the repository as words: the site is read without the repository."""
    text, path = link.groups()
    return text if path in text else f"{text} (`{path}` in the repository)"


def render(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in a computed page; name, rather than link, what lies outside of ``docs/``."""
    page = source[0]
    if re.match(r"---\n(?:.*\n)*?computed: true\n", page):
        page = _jinja.from_string(page).render(names())
    if "/" not in docname:  # a page right in docs/: what is above it is no part of the site
        page = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)]+)\)", outside, page)
    source[0] = page


def generate(app: Sphinx, config: Any) -> None:
    """Files that the build reads: one API page for each room, and the explorer."""
    folder = Path(app.srcdir) / "_generated"
    shutil.rmtree(folder, ignore_errors=True)
    api.write(Path(app.srcdir) / "api")
    extra = folder / "extra"
    extra.mkdir(parents=True)
    (extra / "explorer-page.html").write_text(explorer.page(), encoding="utf-8")


def skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn makes for metadata routing (it links into its own site), and
    defaults of fields that are functions of Python's."""
    routing = re.fullmatch(r"set_\w+_request|get_metadata_routing", name)
    return True if routing or inspect.isbuiltin(obj) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", generate)
    app.connect("source-read", render)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
