"""The drawing of the house is that of its imports, and none of them runs in a circle."""

from __future__ import annotations

from pathlib import Path

from tools import house

GRAPH = house.imports(house.modules())


def test_no_import_runs_in_a_circle() -> None:
    assert len(GRAPH) > 100
    assert house.circles(GRAPH) == []
    assert house.circles(house.rooms(GRAPH)) == []


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """Also one that goes over an import for type checkers and one within a function."""
    package = tmp_path / "portable_bp"
    package.mkdir()
    (tmp_path / "backends").mkdir()
    (package / "a.py").write_text("from portable_bp import b\n", encoding="utf-8")
    (package / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import portable_bp.c\n",
        encoding="utf-8",
    )
    (package / "c.py").write_text("def f():\n    from portable_bp.a import x\n", encoding="utf-8")
    graph = house.imports(house.modules(tmp_path))
    assert house.circles(graph) == [["portable_bp.a", "portable_bp.b", "portable_bp.c"]]


def test_the_drawing_is_that_of_the_imports() -> None:
    page = house.PAGE.read_text(encoding="utf-8")
    assert house.page(page) == page, "run python -m tools.house"
    for name in house.rooms(GRAPH):
        assert f"`{name}`" in page, f"the table of the rooms leaves out {name}"


def test_every_room_stands_above_what_it_uses() -> None:
    rooms = house.rooms(GRAPH)
    floor = house.floors(rooms)
    assert all(floor[name] > floor[other] for name in rooms for other in rooms[name])


def test_the_page_names_files_that_are_there() -> None:
    import re

    page = house.PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:training|inputs|estimators)/\w+\.py)", page)
    assert len(named) > 10
    assert [name for name in named if not (house.ROOT / "portable_bp" / name).exists()] == []
