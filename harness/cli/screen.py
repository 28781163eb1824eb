"""What commands print on: one console, and bars with the time left."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

console = Console()


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows (what, done, total) as bars with the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as display:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = display.add_task(what, total=total)
            display.update(bars[what], completed=done, total=total)

        yield report


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """Where JSON is wanted, everything said for people goes to standard error meanwhile."""
    before, console.stderr = console.stderr, wanted or console.stderr
    try:
        yield
    finally:
        console.stderr = before


def line(text: str) -> None:
    """A line with markup, as it is: no number or path coloured, none broken."""
    console.print(text, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """A value as JSON, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: null in their place."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
