"""The built site in a browser, from its folder and without a network."""

from __future__ import annotations

import re
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

PAGES = [
    "index.html",
    "backpropagation.html",
    "explorer.html",
    "explorer-page.html",
    "faq.html",
    "glossary.html",
    "performance.html",
    "guide/start.html",
    "guide/losses-and-activations.html",
    "gallery/index.html",
    "gallery/intervals.html",
    "notebooks/quickstart.html",
    "coming-from/pytorch.html",
    "api/portable_bp.html",
    "api/portable_bp.equations.losses.html",
]
LOOKS = [(1280, "light"), (390, "dark")]

FORMULAS = """() => [
    document.querySelectorAll(".math").length,
    document.querySelectorAll("mjx-container").length,
    document.querySelectorAll("[data-mml-node='merror'], .MathJax_Error").length,
    document.querySelectorAll(".math .math").length,
]"""


@pytest.mark.parametrize("name", PAGES)
def test_each_formula_stands_there_once_and_nothing_overflows(visit, site, name):
    for width, scheme in LOOKS:
        page = visit(site / name, width, scheme)
        page.wait_for_function(
            "!document.querySelector('.math') || !!document.querySelector('mjx-container')"
        )
        page.wait_for_function(
            "!window.MathJax?.startup || MathJax.startup.promise.then(() => true)"
        )
        expected, typeset, wrong, nested = page.evaluate(FORMULAS)
        assert (typeset, wrong, nested) == (expected, 0, 0), (name, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)


def test_the_derivation_has_its_formulas_figures_and_numbers(visit, site):
    page = visit(site / "backpropagation.html")
    page.wait_for_function("MathJax.startup.promise.then(() => true)")
    assert page.evaluate(FORMULAS)[0] > 200
    assert page.locator("figure.drawn svg").count() == 7
    text = page.locator("mjx-assistive-mml").all_text_contents()
    for number in ("0.6718", "0.6981"):
        assert any(number in formula for formula in text)
    assert "def affine_gradients" in page.locator("article").text_content()


def colour(page, selector, what):
    css = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")
    return sum(map(int, re.findall(r"\d+", css)[:3]))


def test_figures_take_the_colours_of_the_page(visit, site):
    for scheme in ("light", "dark"):
        page = visit(site / "backpropagation.html", scheme=scheme)
        text = colour(page, "figure.drawn svg text", "fill")
        paper = colour(page, "body", "backgroundColor")
        assert (text < paper) == (scheme == "light")


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ("delta rule", "Backpropagation, derived"),
        ("clip_norm", "When training diverges"),
        ("MLPClassifier", "portable_bp.estimators.MLPClassifier"),
        ("early stopping", "Train and stop"),
    ],
)
def test_the_search_finds(visit, site, words, target):
    page = visit(site / "search.html", query="?q=" + words.replace(" ", "+"))
    page.wait_for_selector("ul.search li")
    page.wait_for_function(
        "!/Searching/.test(document.querySelector('#search-results h2').innerText)"
    )
    found = page.locator("ul.search li").all_text_contents()
    assert any(target in entry for entry in found), found[:10]


def test_a_newcomer_gets_from_the_landing_page_to_a_step_that_is_explained(visit, site):
    page = visit(site / "index.html")
    page.locator(".sd-card", has_text="Install it, train something").click()
    page.wait_for_url("**/guide/start.html")
    article = page.locator("article")
    assert "accuracy on the test rows: 0.9" in article.text_content()
    article.get_by_role("link", name="the explorer").click()
    page.wait_for_url("**/explorer.html")
    frame = page.frame_locator("iframe.explorer")
    for _ in range(4):
        frame.locator("#next").click()
    assert "0.6718" in frame.locator("#stage").text_content()


def test_the_explorer_in_the_site_follows_its_light_and_dark(visit, site):
    page = visit(site / "explorer.html", scheme="light")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.frame_locator("iframe.explorer").locator(":root[data-theme='dark']").wait_for(
        state="attached"
    )


class Links(HTMLParser):
    """What a page points to, and what can be pointed to on it."""

    def __init__(self):
        super().__init__()
        self.targets, self.names, self.loaded = [], set(), []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.names |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.targets.append(attrs["href"])
        if tag in ("script", "img", "iframe") and attrs.get("src"):
            self.loaded.append(attrs["src"])
        if tag == "link" and attrs.get("rel") != "canonical" and attrs.get("href"):
            self.loaded.append(attrs["href"])


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {}
    for path in site.rglob("*.html"):
        if "_static" in path.parts:
            continue  # parts of the theme
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    assert len(pages) > 60
    dead, foreign = [], []
    for path, page in pages.items():
        foreign += [(path.name, url) for url in page.loaded if urlsplit(url).netloc]
        for url in [*page.targets, *page.loaded]:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists() or (
                parts.fragment and target in pages and parts.fragment not in pages[target].names
                and path.name not in ("genindex.html", "search.html")
            ):  # fmt: skip
                dead.append((str(path.relative_to(site)), url))
    assert foreign == []
    assert dead == []


def inventory(site):
    """All names that the site describes, from Sphinx's own inventory."""
    data = (site / "objects.inv").read_bytes()
    start = data.index(b"zlib.\n") + len(b"zlib.\n")
    lines = zlib.decompress(data[start:]).decode().splitlines()
    return {line.split(" ", 1)[0] for line in lines if " py:" in line}


def test_every_public_name_is_described(site, api):
    described = inventory(site)
    missing = [name for name in api.described() if name not in described]
    assert missing == []
