"""What is shown while works are going on: one bar for all of them, one for each that has begun, a line for each that
ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.core.words import shown


class Bars:
    """One bar for all works, one for each that is going on."""

    def __init__(self, display: Progress, console: Console, title: str, names: Sequence[str]) -> None:
        self.display, self.console, self.names = display, console, [shown(name) for name in names]
        self.total = display.add_task(title, total=len(names))
        self.bars: dict[int, TaskID] = {}
        self.began = time.monotonic()
        self.done = 0

    def show(self, place: int, what: str, done: int, total: int) -> None:
        """How far the work at a place has come."""
        name = self.names[place]
        if place not in self.bars:
            self.bars[place] = self.display.add_task(name, total=total)
        self.display.update(self.bars[place], description=f"{name}: {shown(what)}", completed=done, total=total)

    def finish(self, place: int, well: bool) -> None:
        """The work at a place has ended."""
        self.done += 1
        self.display.advance(self.total)
        if place in self.bars:
            self.display.remove_task(self.bars.pop(place))
        elapsed = time.monotonic() - self.began
        outcome = "done" if well else "[red]failed[/red]"
        of = len(self.names)
        self.console.print(
            f"  {outcome}: {self.names[place]}  ({self.done} of {of}, {elapsed:,.0f} s)", highlight=False
        )

    def say(self, text: str) -> None:
        """A line about what went otherwise than planned."""
        self.console.print(f"  {text}", highlight=False)


@contextmanager
def bars(console: Console, title: str, names: Sequence[str]) -> Iterator[Bars]:
    """Bars on a console while the block is in."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as display:
        yield Bars(display, console, title, names)
