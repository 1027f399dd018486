"""The site: ``make docs`` builds it, and the pages then work from a folder without a network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("SCIPY_ARRAY_API", "1")

project = "portable_bp"
author = "the portable_bp developers"
project_copyright = author
release = importlib.metadata.version("portable-bp")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "computed",
]
exclude_patterns = [
    "_build",
    "_ext",
    "gallery/*.ipynb",
    "gallery/*.py",
    "**sg_execution_times.rst",
    "sg_execution_times.rst",
]
nitpicky = False
# A cell that was not run has no language yet: that is so in the smoke build alone.
suppress_warnings = ["config.cache", "myst-nb.lexer"]

# Formulas: MathJax with its fonts in one file, from the package sphinx-mathjax-offline.
_mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
_tex_svg = _mathjax / "static" / "mathjax" / "tex-svg.js"
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

myst_enable_extensions = [
    "amsmath",
    "colon_fence",
    "deflist",
    "dollarmath",
    "attrs_inline",
    "attrs_block",
]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "jupyter_cache")
nb_execution_timeout = 120
nb_merge_streams = True
nb_number_source_lines = False

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 3600,
    "plot_gallery": "True",
    "abort_on_example_error": True,
    "copyfile_regex": r"(?!)",
    "backreferences_dir": None,
}

html_context = {"default_mode": "auto"}
html_theme = "pydata_sphinx_theme"
html_title = "portable_bp"
html_sidebars = {
    name: []
    for name in (
        "index",
        "backpropagation",
        "explorer",
        "start",
        "faq",
        "how-to-choose",
        "glossary",
        "bibliography",
    )
}
html_static_path = ["_static", str(_tex_svg)]
html_css_files = ["site.css"]
html_extra_path = ["_generated/extra"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # it would be fetched, which a page from a folder may not
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
