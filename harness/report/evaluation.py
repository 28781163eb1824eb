"""The summary of an evaluation on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from harness.core.words import one_line, shown
from harness.evaluation.evaluate import Evaluated


def print_evaluated(done: Evaluated, name: str, console: Console) -> None:
    """Everything a reader wants of an evaluation; `name` heads it where the environment names no protocol."""
    print_summary(name, done.summary, console)
    print_counts("spent by this call", done.spent, console)
    if done.lost:
        reasons = done.reasons or "in an earlier call"
        lost = f"[yellow]{done.lost} episodes lost[/yellow] (the same command tries them again): {shown(reasons)}"
        console.print(lost, highlight=False, soft_wrap=True)
    where = one_line(f"episodes: {done.file}   (look at one: harness show {done.file} 0)")
    console.print(where, highlight=False, soft_wrap=True, markup=False)


def print_summary(name: str, summary: Mapping[str, Any], console: Console) -> None:
    """The summary, for a reader; `name` heads it where the environment names no protocol."""
    cut = any(row.get("truncated") for row in summary["tasks"])
    grid = Grid("task", "success", "reward", "doing nothing", "turns", *["truncated"] * cut, "ending", "episode")
    for row in summary["tasks"]:
        grid.add_row(
            shown(row["task"]),
            f"{row['succeeded']}/{row['finished']}",
            *(_number(row[name]) for name in ("reward", "doing_nothing", "turns")),
            *[str(row.get("truncated", 0))] * cut,
            shown(row["endings"]),
            ", ".join(map(str, row["episodes"])),
        )
    console.print(grid)
    console.rule(shown(f"{summary['heading'] or name}   {summary['policy']}"))
    idle = "" if summary["doing_nothing"] is None else f"   doing nothing {summary['doing_nothing']:.3f}"
    console.print(
        f"success {summary['success']:.3f}{idle}   {len(summary['tasks'])} tasks, {summary['episodes']} episodes",
        highlight=False,
        soft_wrap=True,
    )
    if summary["pass_hat"]:
        console.print(
            "   ".join(f"pass^{k} {value:.3f}" for k, value in summary["pass_hat"].items()),
            highlight=False,
            soft_wrap=True,
        )
    if summary["metrics"]:
        values = "   ".join(f"{shown(name)} {value:.3f}" for name, value in summary["metrics"].items())
        console.print(values, highlight=False, soft_wrap=True)
    _print_plain(summary["environment"], console)
    print_counts("used by these episodes", summary["used"], console)


def print_counts(title: str, counts: Mapping[str, float], console: Console) -> None:
    """Counts on one line; nothing where there are none."""
    if counts:
        console.print(
            f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {value:,.10g}" for name, value in counts.items()),
            highlight=False,
            soft_wrap=True,
        )


def _print_plain(summary: Mapping[str, Any], console: Console) -> None:
    """An environment's own summary: numbers and text as lines, a mapping of mappings as a grid."""
    for name, value in summary.items():
        if not isinstance(value, Mapping):
            console.print(f"{shown(name)} {_number(value)}", highlight=False, soft_wrap=True)
        elif value and all(isinstance(entry, Mapping) for entry in value.values()):
            columns = list(dict.fromkeys(column for entry in value.values() for column in entry))
            grid = Grid(shown(name), *map(shown, columns))
            for row, entry in value.items():
                grid.add_row(shown(row), *(_number(entry.get(column)) for column in columns))
            console.print(grid)
        else:
            console.print(
                f"{shown(name)}: " + "   ".join(f"{shown(key)} {_number(entry)}" for key, entry in value.items()),
                highlight=False,
                soft_wrap=True,
            )


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else shown(value)
