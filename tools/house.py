"""The house drawn from its imports: which room uses which, and whether any import runs in a circle.

``python -m tools.house`` rewrites the diagram in ``docs/architecture.md``. Imports for type checkers and
those within functions count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- house:begin -->\n", "<!-- house:end -->\n"
DOORS = frozenset({"datasets", "tabular"})
"""Public import paths of another room, which hold nothing of their own."""

Graph = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the two packages, by its dotted name."""
    named = {}
    for folder, package in ((root, "portable_bp"), (root / "backends", "portable_bp_backends")):
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imports(known: Mapping[str, Path]) -> Graph:
    """Which modules each module imports."""
    return {name: set(_imported(name, path, known)) - {name} for name, path in known.items()}


def _imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def circles(graph: Graph) -> list[list[str]]:
    """Groups of names that can all be reached from each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), [*graph[start]]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += graph.get(name, ())
        reach[start] = seen
    groups = {frozenset({b for b in reach[a] if a in reach[b]}) for a in graph if a in reach[a]}
    return sorted(sorted(group) for group in groups)


def room(module: str) -> str | None:
    """The room of a module: a folder, or one of the modules that users open first."""
    package, _, rest = module.partition(".")
    if package == "portable_bp_backends":
        return "backends"
    top = rest.partition(".")[0]
    private = top.startswith("_") or top in ("errors", "rng")
    return None if not top or private or top in DOORS else top


def rooms(graph: Graph) -> Graph:
    """The same between rooms; the small modules that everybody uses are left out."""
    drawn: Graph = {}
    for module, imported in graph.items():
        here = room(module)
        if here is not None:
            there = {r for r in map(room, imported) if r is not None and r != here}
            drawn.setdefault(here, set()).update(there)
    return drawn


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each room: one above the highest of those that it uses."""
    known: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in known:
            known[name] = 1 + max((floor(below) for below in graph[name]), default=0)
        return known[name]

    return {name: floor(name) for name in graph}


def diagram(graph: Graph) -> str:
    """The rooms by floors, the highest first, and what each of them uses."""
    by_floor = floors(graph)
    width = max(map(len, graph))
    lines = []
    for floor in range(max(by_floor.values()), 0, -1):
        for i, name in enumerate(sorted(n for n in graph if by_floor[n] == floor)):
            below = sorted(graph[name], key=lambda other: (-by_floor[other], other))
            uses = " ".join(["──▶", *below]) if below else ""
            lines.append(f"{'' if i else floor:>2}  {name:<{width}}  {uses}".rstrip())
    return "\n".join(["```text", *lines, "```", ""])


def page(text: str) -> str:
    """The page with the present diagram in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    drawn = diagram(rooms(imports(modules())))
    return f"{before}{BEGIN}{drawn}{END}{after}"


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
