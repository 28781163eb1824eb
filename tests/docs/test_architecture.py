"""The page on the architecture: its picture is drawn from the tree as it is, and what it names exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from harness import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", DOCS / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_architecture"] = module  # its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_the_tree_of_today(drawing: ModuleType) -> None:
    committed = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert committed == drawing.draw(), "draw it again: python docs/draw_architecture.py"


def test_every_import_between_rooms_is_in_the_picture(drawing: ModuleType) -> None:
    """An import is an arrow, or a way along arrows; and each arrow is an import."""
    edges = drawing.arrows(ROOT)
    reduced = drawing.reduced(edges)

    def reach(room: str) -> set[str]:
        return reduced[room].union(*(reach(target) for target in reduced[room]))

    assert all(targets <= reach(room) for room, targets in edges.items())
    assert all(reduced[room] <= edges[room] for room in edges)
    assert reduced["harness.core"] == set()
    assert "harness.cli" in edges


def test_an_arrow_that_follows_is_left_out(drawing: ModuleType) -> None:
    chain = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert drawing.reduced(chain) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert drawing.levels(drawing.reduced(chain)) == {"a": 2, "b": 1, "c": 0}
    with pytest.raises(ValueError, match="a -> b -> a"):
        drawing.reduced({"a": {"b"}, "b": {"a"}})


def test_boxes_do_not_overlap_and_all_is_inside(drawing: ModuleType) -> None:
    root = ElementTree.fromstring((DOCS / "architecture.svg").read_text(encoding="utf-8"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    rooms = [e.attrib for e in root.iter() if e.tag.endswith("rect") and float(e.attrib["width"]) == drawing.BOX]
    assert len(rooms) == len(drawing.rooms(ROOT))
    boxes = [tuple(float(r[key]) for key in ("x", "y", "width", "height")) for r in rooms]
    for x, y, w, h in boxes:
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    for (x, y, w, h), (x2, y2, _, _) in combinations(boxes, 2):
        assert abs(x - x2) >= w or abs(y - y2) >= h


def page() -> str:
    return (DOCS / "architecture.md").read_text(encoding="utf-8")


def test_each_room_has_its_line(drawing: ModuleType) -> None:
    for room in drawing.rooms(ROOT):
        assert f"| `{room.removeprefix('harness.')}/` |" in page(), room


def test_who_imports_whom_is_true(drawing: ModuleType) -> None:
    """The third column of the table of rooms."""
    edges = drawing.arrows(ROOT)
    lines = re.findall(r"^\| `([\w]+)/` \|[^|]*\| ([^|]*) \|$", page(), re.MULTILINE)
    assert len(lines) == len(edges)
    for room, named in lines:
        name = room if room in edges else f"harness.{room}"
        assert set(re.findall(r"\w+", named)) == {target.removeprefix("harness.") for target in edges[name]}, room


def names_in(file: Path) -> set[str]:
    """Functions, classes, their members and the assigned names of a module, "Class.member" for those inside."""
    found: set[str] = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

    walk(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return found


GUIDES = sorted(file.name for file in DOCS.glob("*.md"))


@pytest.mark.parametrize("name", [*GUIDES, "../README.md", "../CONTRIBUTING.md"])
def test_files_that_are_named_exist_and_hold_what_is_named_in_them(name: str) -> None:
    """`path/file.py: name, Class.name` and `path/file.py`, from the root or one of the trees."""
    text = (DOCS / name).read_text(encoding="utf-8")
    found = re.findall(r"`((?:harness|environments|agents|tests|results|docs)/[\w./-]+)(?:: ([\w., ]+))?`", text)
    for path, names in found:
        file = ROOT / path.rstrip(".")
        assert file.exists(), f"{name} names {path}"
        for entry in filter(None, (entry.strip().removesuffix("()") for entry in names.split(","))):
            assert entry in names_in(file), f"{name}: {path} has no {entry}"


def test_methods_that_the_papers_page_names_exist() -> None:
    """`file.py: name` without a folder means agents/methods."""
    found = re.findall(r"`(\w+\.py): ([\w., ()=]+)`", (DOCS / "papers.md").read_text(encoding="utf-8"))
    assert found
    for file, names in found:
        for entry in re.findall(r"[A-Za-z_][\w.]*", re.sub(r"\(.*?\)", "", names)):
            assert entry in names_in(ROOT / "agents" / "methods" / file), f"{file} has no {entry}"


@pytest.mark.parametrize("name", [*GUIDES, "../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    file = (DOCS / name).resolve()
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        linked = (file.parent / place).resolve() if place else file
        assert linked.exists(), f"{name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_guide_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [guide for guide in GUIDES if f"(docs/{guide})" not in readme] == []
