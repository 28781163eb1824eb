"""Charts as inline SVG whose colours are the page's own, so that they follow its theme.

Every chart has a title and a description for those who do not see it; the page sets its numbers beside it as a table.
Strips and bars are drawn in per cent of their width, so that they fit any column; panels have a fixed size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness.core.words import one_line

WIDTH, HEIGHT = 260, 150
"""Of a panel."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 8, 8, 22


@dataclass(frozen=True)
class Line:
    """A line of a panel: points, and a band about them where there is one."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    kind: str = "own"
    """own, or other: what the panel's line is held against."""


@dataclass(frozen=True)
class Scale:
    """Data to per cent of a strip."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Per cent, 0 to 100; what lies outside is set to the edge."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(100 * min(1.0, max(0.0, share)), 2)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from `low` to `high`, both ends within; one number where the range is empty."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(value: float) -> str:
    """`0.25`, `1,200`, `1.5e-05`"""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def panel(lines: Sequence[Line], ident: str, title: str, description: str, y_range: tuple[float, float]) -> Markup:
    """A small line chart with a band; its axes are labelled at their ends."""
    xs = [x for line in lines for x in line.x]
    x0, x1 = (min(xs), max(xs)) if xs else (0.0, 1.0)
    y0, y1 = y_range if y_range[1] > y_range[0] else (y_range[0] - 0.5, y_range[0] + 0.5)
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> str:
        across = _LEFT + wide * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)
        return f"{across:.1f} {_TOP + tall * (1 - (y - y0) / (y1 - y0)):.1f}"

    drawn = []
    for tick in nice_ticks(y0, y1, 3):
        height = place(x0, tick).split()[1]
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>')
        drawn.append(f'<text x="{_LEFT - 5}" y="{height}" dy="4" text-anchor="end">{tick_text(tick)}</text>')
    for x, anchor in ((x0, "start"), (x1, "end")):
        across = place(x, y0).split()[0]
        drawn.append(f'<text x="{across}" y="{HEIGHT - 5}" text-anchor="{anchor}">{tick_text(x)}</text>')
    for line in sorted(lines, key=lambda line: line.kind == "own"):
        if line.low and len(line.x) > 1:
            edge = [place(x, y) for x, y in zip(line.x, line.high, strict=True)]
            edge += reversed([place(x, y) for x, y in zip(line.x, line.low, strict=True)])
            drawn.append(f'<path class="band {line.kind}" d="M{"L".join(edge)}Z"/>')
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        drawn.append(f'<path class="line {line.kind}" d="M{"L".join(points)}"/>')
        if len(points) == 1:
            across, height = points[0].split()
            drawn.append(f'<circle class="dot {line.kind}" cx="{across}" cy="{height}" r="3"/>')
    return _svg(f'viewBox="0 0 {WIDTH} {HEIGHT}" class="panel"', ident, title, description, drawn)


def strip(
    mean: float, low: float, high: float, scale: Scale, word: str, ident: str, title: str, description: str,
    margin: float | None = None, inner: tuple[float, float] | None = None, zero: bool = True,
) -> Markup:  # fmt: skip
    """One row of a forest plot: the interval low..high, its mean, the line of no difference and the band of
    differences that do not matter. inner: a narrower interval, drawn thicker."""
    drawn = []
    if margin is not None:
        left, right = scale.at(-margin), scale.at(margin)
        drawn.append(f'<rect class="margin" x="{left}%" width="{right - left:.2f}%" y="0" height="28"/>')
    if zero:
        drawn.append(f'<line class="zero" x1="{scale.at(0.0)}%" x2="{scale.at(0.0)}%" y1="0" y2="28"/>')
    for name, ends in (("whisker", (low, high)), ("inner", inner)):
        if ends is not None and all(map(math.isfinite, ends)):
            left, right = map(scale.at, ends)
            drawn.append(f'<line class="{name} {word}" x1="{left}%" x2="{right}%" y1="14" y2="14"/>')
    beyond = "left" if mean < scale.low else "right" if mean > scale.high else ""
    drawn.append(_mark(scale.at(mean), word, beyond))
    return _svg('class="strip" width="100%" height="28"', ident, title, description, drawn)


def _mark(across: float, word: str, beyond: str) -> str:
    """The mean, by a shape for each verdict, so that colour is not needed to tell them apart; an arrow at the edge
    where it lies beyond the scale."""
    shapes = {
        "left": "M-2 0L8 -6V6Z",
        "right": "M2 0L-8 -6V6Z",
        "better": "M0 -6L6 5L-6 5Z",
        "worse": "M0 6L6 -5L-6 -5Z",
        "equivalent": "M-5 -5H5V5H-5Z",
        "control": "M0 -6L6 0L0 6L-6 0Z",
    }
    shape = shapes.get(beyond or word)
    if shape:  # a nested svg carries the place in per cent, which a path cannot
        return f'<svg x="{across}%" y="14" overflow="visible"><path class="mark {word}" d="{shape}"/></svg>'
    return f'<circle class="mark {word}" cx="{across}%" cy="14" r="5"/>'


def axis(scale: Scale, ticks: Sequence[float], ident: str, title: str, signed: bool = True) -> Markup:
    """The scale above strips."""
    drawn = []
    for tick in ticks:
        across = scale.at(tick)
        anchor = "start" if across < 6 else "end" if across > 94 else "middle"
        text = f"{tick:+.3g}" if signed and tick else tick_text(tick)
        drawn.append(f'<text x="{across}%" y="14" text-anchor="{anchor}">{text}</text>')
        drawn.append(f'<line class="tick" x1="{across}%" x2="{across}%" y1="18" y2="24"/>')
    return _svg('class="axis" width="100%" height="24"', ident, title, "The scale of the strips below.", drawn)


def bar(share: float, ident: str, title: str, description: str) -> Markup:
    """A bar of this share of its width."""
    width = round(100 * min(1.0, max(0.0, share)), 2)
    drawn = [
        '<rect class="rail" x="0" width="100%" y="5" height="8" rx="3"/>',
        f'<rect class="bar" x="0" width="{width}%" y="5" height="8" rx="3"/>',
    ]
    return _svg('class="bars" width="100%" height="18"', ident, title, description, drawn)


def _svg(attributes: str, ident: str, title: str, description: str, drawn: Sequence[str]) -> Markup:
    head = Markup('<svg {} role="img" aria-labelledby="{}-t {}-d"><title id="{}-t">{}</title><desc id="{}-d">{}</desc>')
    opened = head.format(
        Markup(attributes), ident, ident, ident, escape(one_line(title)), ident, escape(one_line(description))
    )
    return opened + Markup("".join(drawn)) + Markup("</svg>")
