"""A scenario: an instruction, variants, the world's preparation, programs that solve and miss it, and the end state."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from environments.appworld.world.records import World

Values = dict[str, Any]
"""A variant's values: what its instruction, preparation and programmes speak of."""


@dataclass(frozen=True)
class Rows:
    """What a solved task has changed in one table, ``app.Model``.

    ``added`` holds the fields every new row must have, ``updated`` the new values of the named fields by row id,
    ``removed`` the ids gone. ``free`` names fields of updated rows that may change besides. Everything else in the
    table must be as before.
    """

    model: str
    what: str
    added: Sequence[Mapping[str, Any]] = ()
    updated: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    removed: Sequence[int] = ()
    free: Sequence[str] = ("updated_at",)


@dataclass(frozen=True)
class Truth:
    """What must hold at the end of a task: rows changed, the answer, and tables that follow by themselves
    (``echoes``)."""

    rows: Sequence[Rows] = ()
    answer: str | int | float | None = None
    echoes: Sequence[str] = ()


@dataclass(frozen=True)
class Scenario:
    """A family of tasks that differ in values only.

    ``name`` is lower-case letters and digits: with the variant's number it is the task's id. ``instruction`` is a
    `str.format` template and ``gold`` and ``wrong`` are programmes in which ``<<name>>`` stands for a value's literal,
    over the variant's values, which ``prepare`` may extend. Blocks of a programme are parted by a line of three dashes;
    `environments.appworld.world.programs` lists the macros. A variant may name its supervisor as ``me``; otherwise the
    four take turns.
    """

    name: str
    split: str
    difficulty: int
    instruction: str
    variants: Sequence[Values]
    prepare: Callable[[World, Values], Truth]
    gold: str
    wrong: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+", self.name):
            raise ValueError(f"a scenario's name is lower-case letters and digits, got {self.name!r}")
        if self.difficulty not in (1, 2, 3):
            raise ValueError(f"the difficulty of {self.name} is 1, 2 or 3, got {self.difficulty!r}")

    def ids(self) -> list[str]:
        """The ids of the scenario's tasks, one per variant."""
        return [f"{self.name}_{number}" for number in range(1, len(self.variants) + 1)]


def fill(program: str, values: Values) -> str:
    """The program with every ``<<name>>`` replaced by the literal of that value. KeyError for a name without a
    value."""
    return re.sub(r"<<(\w+)>>", lambda match: repr(values[match[1]]), program)
