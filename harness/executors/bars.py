"""What is shown while works are going on: how many are done and how fast it goes, one bar for each that has begun, a
line for each that ends; where nobody watches a terminal, a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.core.words import shown

if TYPE_CHECKING:
    from harness.executors.work import Work

TRAINING = "training"
"""What a run calls its steps when it reports them."""
ASKED_EVERY_S = 5.0
"""Between two looks at what has come of a work."""
LINE_EVERY_S = 15.0
"""Between two plain lines."""


class Bars:
    """One bar for all works, one for each that is going on."""

    def __init__(self, display: Progress, console: Console, title: str, works: Sequence[Work]) -> None:
        self.display, self.console, self.works, self.title = display, console, works, title
        self.names = [shown(work.name) for work in works]
        self.total = display.add_task(title, total=len(works))
        self.bars: dict[int, TaskID] = {}
        self.began = self.last_line = time.monotonic()
        self.done = 0
        self.share: dict[int, tuple[float, float]] = {}
        """By place, how much of a running work was done when it was first heard of, and is done now."""
        self.steps: dict[int, tuple[int, int]] = {}
        """The same in training steps, of those that have ended too."""
        self.heard: dict[int, tuple[float, str]] = {}
        """By place, when it was last asked what had come of a work, and the answer."""

    def show(self, place: int, what: str, done: int, total: int) -> None:
        """How far the work at a place has come."""
        name = self.names[place]
        if place not in self.bars:
            self.bars[place] = self.display.add_task(name, total=total)
        training = what == TRAINING
        if training:
            self.steps[place] = self.steps.get(place, (done, done))[0], done
        now = done / max(total, 1) if training or place not in self.steps else 1.0
        self.share[place] = self.share.get(place, (now, now))[0], now
        words = f"{name}: {shown(what)}{self._so_far(place)}"
        self.display.update(self.bars[place], description=words, completed=done, total=total)
        self._tell()

    def finish(self, place: int, well: bool) -> None:
        """The work at a place has ended."""
        self.done += 1
        self.share.pop(place, None)
        if place in self.bars:
            self.display.remove_task(self.bars.pop(place))
        outcome = "done" if well else "[red]failed[/red]"
        self.heard.pop(place, None)
        found = self._so_far(place) if well else ""
        elapsed = time.monotonic() - self.began
        self.say(f"{outcome}: {self.names[place]}{found}  ({self.done} of {len(self.names)}, {elapsed:,.0f} s)")
        self._tell()

    def say(self, text: str) -> None:
        """A line about what went otherwise than planned."""
        self.console.print(f"  {text}", highlight=False)

    def summary(self) -> str:
        """How it stands, in a line."""
        running = len(self.bars)
        words = [f"{self.title}: {self.done} of {len(self.names)} done, {running} running"]
        elapsed = time.monotonic() - self.began
        steps = sum(now - first for first, now in self.steps.values())
        if steps:
            words.append(f"{steps / max(elapsed, 1e-9):,.1f} steps/s")
        left = self.left(elapsed)
        if left is not None:
            words.append(f"about {left:,.0f} s left" if left < 120 else f"about {left / 60:,.0f} min left")
        return ", ".join(words)

    def left(self, elapsed: float) -> float | None:
        """Seconds until all is done, if it goes on as it went; None before anything was done."""
        advanced = self.done + sum(now - first for first, now in self.share.values())
        open_ = len(self.names) - self.done - sum(now for _, now in self.share.values())
        return elapsed * max(open_, 0.0) / advanced if advanced > 0 else None

    def _tell(self) -> None:
        done = self.done + sum(now for _, now in self.share.values())
        self.display.update(self.total, description=self.summary(), completed=done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            self.say(self.summary())

    def _so_far(self, place: int) -> str:
        so_far = self.works[place].so_far
        if so_far is None:
            return ""
        now = time.monotonic()
        if place not in self.heard or now - self.heard[place][0] >= ASKED_EVERY_S:
            self.heard[place] = now, so_far()
        found = self.heard[place][1]
        return f"  {shown(found)}" if found else ""


@contextmanager
def bars(console: Console, title: str, works: Sequence[Work]) -> Iterator[Bars]:
    """Bars on a console while the block is in."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        yield Bars(display, console, title, works)
