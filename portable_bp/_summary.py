"""What a network, a model or a history shows of itself: in a terminal as text, in a notebook as HTML.

The HTML sets no colour but that of the text around it, so that it can be read on light and on dark
pages, and it is a plain table, so that it may stand inside another object's representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

LAYER_HEAD = ("layer", "units", "activation", "parameters")

LayerRow = tuple[str, str, str, str]


class Summary(str):
    """Text that a prompt shows as it is, line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def layer_rows(
    units: Sequence[int | str], activations: Sequence[str], counts: Sequence[int | str]
) -> list[LayerRow]:
    """Name, units, activation and number of parameters of each layer, the input first.

    >>> layer_rows([4, 8, 1], ["relu", "identity"], [40, 9])[1]
    ('hidden 1', '8', 'relu', '40')
    """
    names = ["input", *(f"hidden {i}" for i in range(1, len(units) - 1)), "output"]
    numbers = [f"{c:,}" if isinstance(c, int) else c for c in counts]
    return list(zip(names, map(str, units), ["", *activations], ["", *numbers], strict=True))


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns side by side; the first is set flush left, the others flush right.

    >>> print(text_table(("layer", "units"), [("input", "4")]))
    layer  units
    input      4
    """
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(cells)).rstrip()
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as an HTML table, every cell escaped."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        "<table style='color: inherit; background: transparent'>"
        f"<thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
    )


def html_block(title: str, content: str, *, opened: bool = True) -> str:
    """A piece of a notebook: a title that opens and closes what is below it."""
    state = " open" if opened else ""
    return (
        f"<details class='portable-bp' style='color: inherit'{state}>"
        f"<summary>{escape(title)}</summary>{content}</details>"
    )
