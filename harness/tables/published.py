"""Numbers that papers print, quoted under a table with their place: never differenced, tested or set in bold."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import MissingDataError, UserError
from harness.report.layouts import NOTHING, Grid, is_mini
from harness.tables.table import Table


def read_published(path: str | Path, **where: str) -> list[dict[str, Any]]:
    """Published results from a TOML file of [[result]] tables: those whose keys equal `where`.

    read_published("results/published.toml", environment="AppWorld", split="dev"). Raises MissingDataError when there
    are none.
    """
    entries = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("result", [])
    chosen = [entry for entry in entries if all(entry.get(key) == value for key, value in where.items())]
    if not chosen:
        raise MissingDataError(f"{path}: no published result with {where}")
    return chosen


def published_grid(table: Table, entries: list[dict[str, Any]]) -> Grid:
    """The block to append to a rendering of this table. UserError for a Mini environment, which no paper measured."""
    if is_mini(table):
        raise UserError(f"{table.environment} is a Mini environment: its numbers are never set beside published ones")
    header = ("Method", "Model", "Split", "Metric", "Value", "Source", "Note")
    note = "Other models, budgets and evaluations: quoted for orientation, not to be compared with the numbers above."
    return Grid("Published", header, tuple(_cells(entry) for entry in entries), (note,), left=len(header))


def _cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    value = f"{entry['value']:g}" + ("%" if entry["unit"] == "%" else f" {entry['unit']}")
    place = f"arXiv {entry['paper']}, {entry['table']}"
    split = entry.get("split", NOTHING)
    return entry["method"], entry["model"], split, entry["metric"], value, place, entry.get("note", "")
