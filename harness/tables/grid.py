"""A block of a table as text cells: what every rendering takes."""

from __future__ import annotations

from dataclasses import dataclass

NOTHING = "-"
"""The cell of a number that does not exist."""


@dataclass(frozen=True)
class Grid:
    """A block of text cells under a caption; the first column names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Footnotes, a line each."""
    left: int = 1
    """Columns of words, set flush left; the others are numbers."""
    wrapped: frozenset[int] = frozenset()
    """Further columns of words: their cells may be broken into lines."""


Printed = str | Grid
"""What a command prints of a table: a line, or a block."""
