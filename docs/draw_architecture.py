"""Draw docs/architecture.svg from the tree: the rooms of harness/, environments/ and agents/, and which imports which.

    python docs/draw_architecture.py

Imports are read from the syntax trees, those inside functions too. An arrow goes from a room to one it imports; arrows
that follow from others are left out (the transitive reduction). Rooms stand directly below the lowest room that imports
them. What a room is for is the beginning of its package's docstring. The same tree gives the same bytes.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
TREES = ("harness", "environments", "agents")
WIDTH, MARGIN, TOP = 900, 26, 66
BOX, HEIGHT, LANE = 200, 76, 10
"""Width and height of a room; width of the lane of an arrow that passes a level."""
BETWEEN, RISE = 22, 30
"""Distance between neighbours of a level, and between levels."""
LINE, LINES = 30, 4
"""Characters in a line of a room's text, and lines at most."""
STIFF = 8.0
"""How much more a lane insists on its place than a room does."""
INK, SOFT, ARROW = "#1c2733", "#4a5a6a", "#7b8da0"
ENGINE, PLUG, CONTRACT = "#e6f0f9", "#fdefd6", "#e4f3e3"
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"

Edges = dict[str, set[str]]


# ---------------------------------------------------------------- reading


@cache
def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of the trees by dotted name, packages by their own name."""
    found = {}
    for file in sorted(path for tree in TREES for path in (root / tree).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def rooms(root: Path) -> dict[str, str]:
    """What each room is for, by its name: the packages in harness/, and the other trees."""
    known = modules(root)
    packages = [f"harness.{file.parent.name}" for file in sorted((root / "harness").glob("*/__init__.py"))]
    return {name: _purpose(known[name]) for name in (*packages, *TREES[1:])}


def _purpose(module: ast.Module) -> str:
    """As much of a docstring's first sentence as there is room for."""
    sentence = re.split(r"\.(?: |$)", " ".join((ast.get_docstring(module) or "").replace("`", "").split()))[0]
    ends = [len(sentence), *(mark.start() for mark in re.finditer(r"[:;,] ", sentence))]
    fitting = [sentence[:end] for end in ends if len(textwrap.wrap(sentence[:end], LINE)) <= LINES]
    return max(fitting, key=len, default="")


def imports(module: ast.Module) -> Iterator[str]:
    """The dotted names a module imports, anywhere in it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str, known: Mapping[str, str]) -> str | None:
    """The room of a dotted name; None where it is in none."""
    parts = name.split(".")
    return next((room for room in (".".join(parts[:2]), parts[0]) if room in known), None)


def arrows(root: Path) -> Edges:
    """The rooms each room imports; a module at the top of harness/ (harness.types, ...) counts as what it opens to."""
    known, all_modules = rooms(root), modules(root)
    doors = {name: imports(module) for name, module in all_modules.items() if name.count(".") == 1}
    opens = {name: {room_of(to, known) for to in given} for name, given in doors.items() if name not in known}
    found: Edges = {room: set() for room in known}
    for name, module in all_modules.items():
        here = room_of(name, known)
        if here is None:
            continue
        for imported in imports(module):
            targets = opens.get(imported, {room_of(imported, known)})
            found[here] |= {room for room in targets if room not in (None, here)}  # type: ignore[misc]
    return found


def reduced(edges: Edges) -> Edges:
    """Without the arrows that follow from two or more others. ValueError where rooms import each other in a circle."""

    def reach(room: str, path: tuple[str, ...] = ()) -> set[str]:
        if room in path:
            raise ValueError(f"rooms import each other in a circle: {' -> '.join((*path, room))}")
        return edges[room].union(*(reach(target, (*path, room)) for target in edges[room]))

    below = {room: reach(room) for room in edges}
    return {
        room: {target for target in targets if not any(target in below[other] for other in targets - {target})}
        for room, targets in edges.items()
    }


def levels(edges: Edges) -> dict[str, int]:
    """Rooms by level, 0 at the bottom: directly below the lowest room that imports them; where none does, above what
    they import."""

    def height(room: str) -> int:
        return 1 + max((height(target) for target in edges[room]), default=-1)

    above = {room: [other for other, targets in edges.items() if room in targets] for room in edges}

    def level(room: str) -> int:
        return min(level(other) for other in above[room]) - 1 if above[room] else height(room)

    return {room: level(room) for room in edges}


# ---------------------------------------------------------------- placing


@dataclass
class Place:
    """A room, or the lane of an arrow that passes a level."""

    name: str
    level: int
    room: bool
    x: float = 0.0
    """Of its middle."""
    up: list[Place] = field(default_factory=list)
    down: list[Place] = field(default_factory=list)

    @property
    def width(self) -> int:
        return BOX if self.room else LANE

    @property
    def beside(self) -> list[Place]:
        return self.up + self.down


def places(edges: Edges) -> list[list[Place]]:
    """The levels from below, each from left to right, with x assigned."""
    level = levels(edges)
    by_name = {room: Place(room, level[room], True) for room in sorted(edges)}
    rows: list[list[Place]] = [[] for _ in range(max(level.values()) + 1)]
    for place in by_name.values():
        rows[place.level].append(place)
    for room in sorted(edges):
        for target in sorted(edges[room]):
            upper = by_name[room]
            for passed in range(level[room] - 1, level[target], -1):
                lane = Place(f"{room} to {target}", passed, False)
                rows[passed].append(lane)
                _join(upper, lane)
                upper = lane
            _join(upper, by_name[target])
    _order(rows)
    for _ in range(60):
        for row in (*rows, *rows[::-1]):
            _spread(row)
    _centre([place for row in rows for place in row])
    return rows


def _join(upper: Place, lower: Place) -> None:
    upper.down.append(lower)
    lower.up.append(upper)


def crossings(rows: Sequence[Sequence[Place]]) -> int:
    """Pairs of arrows that cross between two levels."""
    total = 0
    for row in rows[1:]:
        below = {id(place): number for number, place in enumerate(rows[row[0].level - 1])}
        ends = [(number, below[id(lower)]) for number, place in enumerate(row) for lower in place.down]
        total += sum(a < c and b > d for a, b in ends for c, d in ends)
    return total


def _order(rows: list[list[Place]]) -> None:
    """Neighbours near neighbours, by sweeps of barycentres; then swaps of neighbours while they take crossings away."""
    best = (crossings(rows), [list(row) for row in rows])
    for sweep in range(24):
        for row in rows if sweep % 2 else rows[::-1]:
            number = {id(place): index / max(len(r) - 1, 1) for r in rows for index, place in enumerate(r)}
            sides = [place.down if sweep % 2 else place.up for place in row]
            middle = {
                id(place): sum(number[id(other)] for other in side) / len(side) if side else number[id(place)]
                for place, side in zip(row, sides, strict=True)
            }
            row.sort(key=lambda place: middle[id(place)])
        best = min(best, (crossings(rows), [list(row) for row in rows]), key=lambda known: known[0])
    rows[:] = best[1]
    for _ in range(10):
        for row in rows:
            for left in range(len(row) - 1):
                before = crossings(rows)
                row[left : left + 2] = row[left : left + 2][::-1]
                if crossings(rows) >= before:
                    row[left : left + 2] = row[left : left + 2][::-1]


def _spread(row: list[Place]) -> None:
    """Each place as near to the middle of its neighbours as order and distances allow (pool adjacent violators)."""
    offsets = _offsets(row)
    blocks: list[list[tuple[float, float]]] = []
    for place, offset in zip(row, offsets, strict=True):
        blocks.append([(_wanted(place) - offset, 1.0 if place.room else STIFF)])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    low, high = MARGIN + row[0].width / 2, WIDTH - MARGIN - row[-1].width / 2 - offsets[-1]
    if high < low:
        raise ValueError(f"a level is too wide for {WIDTH} pixels; widen the picture: {[place.name for place in row]}")
    settled = [min(max(_mean(block), low), high) for block in blocks for _ in block]
    for place, value, offset in zip(row, settled, offsets, strict=True):
        place.x = round(value + offset, 1)


def _centre(all_places: Sequence[Place]) -> None:
    left = min(place.x - place.width / 2 for place in all_places)
    right = max(place.x + place.width / 2 for place in all_places)
    for place in all_places:
        place.x += (WIDTH - left - right) / 2


def _offsets(row: Sequence[Place]) -> list[float]:
    """Distances from the first place's middle when the row stands as closely as it may."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + BETWEEN)
    return offsets


def _wanted(place: Place) -> float:
    """The middle of its neighbours; a lane goes straight where it can."""
    beside = [] if place.room else [other for other in place.beside if not other.room]
    beside = beside or place.beside
    return sum(other.x for other in beside) / len(beside) if beside else WIDTH / 2


def _mean(block: Sequence[tuple[float, float]]) -> float:
    return sum(value * weight for value, weight in block) / sum(weight for _, weight in block)


# ---------------------------------------------------------------- drawing


def draw(root: Path = ROOT) -> str:
    """The picture as SVG."""
    purposes, edges = rooms(root), reduced(arrows(root))
    rows = places(edges)
    bottom = TOP + len(rows) * HEIGHT + (len(rows) - 1) * RISE
    height = bottom + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="{FONT}">',
        "<title>The rooms of the project, and which imports which</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0,0.6 L7.4,4 L0,7.4 z" fill="{ARROW}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 30, "Rooms of the project", 17, INK, "bold"),
        _text(
            MARGIN,
            48,
            "An arrow: imports. Arrows that follow from others are left out; all of them point down.",
            12,
            SOFT,
        ),
    ]
    y = {place.level: bottom - HEIGHT - place.level * (HEIGHT + RISE) for row in rows for place in row}
    parts += [_arrows(place, y) for row in rows for place in row if place.room and place.down]
    parts += [_box(place, y[place.level], purposes[place.name]) for row in rows for place in row if place.room]
    parts += _legend(height - 28)
    return "\n".join([*parts, "</svg>", ""])


def _port(place: Place, other: Place, side: list[Place]) -> float:
    """Where on an edge of a box an arrow begins or ends: in the order of the other ends."""
    if not place.room:
        return place.x
    order = sorted(side, key=lambda end: (end.x, end.name))
    step = min(28.0, (BOX - 40) / max(len(order) - 1, 1))
    return place.x + (order.index(other) - (len(order) - 1) / 2) * step


def _arrows(place: Place, y: Mapping[int, float]) -> str:
    """All arrows out of a room."""
    drawn = []
    for first in sorted(place.down, key=lambda end: (end.x, end.name)):
        upper, lower = place, first
        x, top = _port(upper, lower, upper.down), y[upper.level] + HEIGHT
        path = f"M{x:.1f},{top:.1f}"
        while True:
            to, end = _port(lower, upper, lower.up), y[lower.level] - (2 if lower.room else 0)
            middle = (top + end) / 2
            path += f" C{x:.1f},{middle:.1f} {to:.1f},{middle:.1f} {to:.1f},{end:.1f}"
            if lower.room:
                break
            path += f" V{y[lower.level] + HEIGHT:.1f}"
            x, top = to, y[lower.level] + HEIGHT
            upper, lower = lower, lower.down[0]
        drawn.append(f'<path d="{path}" fill="none" stroke="{ARROW}" stroke-width="1.5" marker-end="url(#tip)"/>')
    return "\n".join(drawn)


def _box(place: Place, y: float, purpose: str) -> str:
    plug, contract = not place.name.startswith("harness."), place.name == "harness.protocols"
    fill = PLUG if plug else CONTRACT if contract else ENGINE
    left = place.x - BOX / 2
    lines = textwrap.wrap(purpose, LINE)
    first = y + (HEIGHT - 14 - 12 * len(lines)) / 2 + 11
    return "\n".join(
        [
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{BOX}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="{SOFT}"/>',
            _text(place.x, first, f"{place.name.replace('.', '/')}/", 13, INK, "bold", "middle"),
            *(
                _text(place.x, first + 14 + 12 * number, line, 10.5, SOFT, anchor="middle")
                for number, line in enumerate(lines)
            ),
        ]
    )


def _legend(y: float) -> list[str]:
    entries = (
        (ENGINE, "the engine, the same for every row of a table", 312),
        (CONTRACT, "the contracts", 130),
        (PLUG, "plugs, yours or ours: reached by name, imported by nothing", 0),
    )
    drawn, x = [], MARGIN
    for fill, words, step in entries:
        drawn.append(f'<rect x="{x}" y="{y - 11}" width="14" height="14" rx="3" fill="{fill}" stroke="{SOFT}"/>')
        drawn.append(_text(x + 21, y, words, 12, SOFT))
        x += step
    return drawn


def _text(x: float, y: float, words: str, size: float, fill: str, weight: str = "normal", anchor: str = "start") -> str:
    style = f'font-size="{size}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(draw(), encoding="utf-8")
