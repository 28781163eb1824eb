"""Numbers that papers print, quoted with their place: never differenced, tested or set in bold."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.tables.grid import NOTHING, Grid
from harness.tables.table import Table

Entry = Mapping[str, Any]
"""One figure of a paper: a [[result]] of the file, whose head explains the keys."""
REQUIRED = ("paper", "table", "environment", "model", "method", "metric", "value", "unit")
FILTERS = ("environment", "method", "model", "split", "metric", "paper", "table")
"""Keys by which entries may be chosen."""
NOTE = "Other models, budgets and evaluations: quoted for orientation, not to be compared with measured numbers."


def parse(text: str) -> list[Entry]:
    """The entries of a TOML text of [[result]] tables. UserError for other text, or an entry that lacks a key."""
    try:
        entries = tomllib.loads(text).get("result", [])
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"published results are a TOML file of [[result]] tables: {error}") from None
    for number, entry in enumerate(entries, start=1):
        lacking = [key for key in REQUIRED if key not in entry]
        if lacking:
            raise UserError(f"published result {number} lacks {', '.join(lacking)}; it has {', '.join(entry)}")
    return list(entries)


def choose(entries: Sequence[Entry], **where: str | None) -> list[Entry]:
    """The entries whose keys equal `where`; None leaves a key open.

    choose(entries, environment="AppWorld", split="dev"). Raises UnknownNameError with the nearest name for a key or a
    value that no entry has, and MissingDataError where no entry has all the values together.
    """
    asked = {key: value for key, value in where.items() if value is not None}
    for key, value in asked.items():
        if key not in FILTERS:
            raise UnknownNameError("key of published results", key, FILTERS)
        values = {str(entry[key]) for entry in entries if key in entry}
        if not any(_names(key, known, value) for known in values):
            # A paper's name for its method is often longer than the one it is known by: CRAFT-Full.
            longer = {known for known in values if value.casefold() in known.casefold()}
            raise UnknownNameError(f"{key} of published results", value, longer or values)
    chosen = [entry for entry in entries if all(_names(key, entry.get(key), value) for key, value in asked.items())]
    if not chosen:
        together = " and ".join(f"{key} {value!r}" for key, value in asked.items())
        raise MissingDataError(f"no published result with {together}; leave one of them out")
    return chosen


def _names(key: str, given: Any, wanted: str) -> bool:
    """Whether a value is the one that is asked for; a paper may be named without its version."""
    return given == wanted or (key == "paper" and str(given).partition("v")[0] == wanted)


def published_grid(entries: Sequence[Entry], caption: str = "Published") -> Grid:
    """The papers' figures in the papers' units, each with its place, in the order given."""
    header = ("Environment", "Method", "Model", "Split", "Metric", "Value", "Source", "Note")
    rows = tuple((str(entry["environment"]), *_cells(entry)) for entry in entries)
    return Grid(caption, header, rows, (NOTE,), left=len(header))


def published_beside(table: Table, entries: Sequence[Entry]) -> Grid:
    """The block to append to a rendering of this table. UserError for a Mini environment, which no paper measured."""
    if table.mini:
        raise UserError(f"{table.environment} is a Mini environment: its numbers are never set beside published ones")
    header = ("Method", "Model", "Split", "Metric", "Value", "Source", "Note")
    return Grid("Published", header, tuple(map(_cells, entries)), (NOTE,), left=len(header))


def quoted_beside(table: Table, quotes: Sequence[Mapping[str, str]], entries: Sequence[Entry]) -> list[Grid]:
    """The block of the figures that a paper's spec asks for, each quote a choice among the entries (`choose`); no block
    without quotes. UserError for a Mini environment, MissingDataError or UnknownNameError for a quote of nothing."""
    chosen = [entry for quote in quotes for entry in choose(entries, **quote)]
    return [published_beside(table, chosen)] if chosen else []


def _cells(entry: Entry) -> tuple[str, ...]:
    value = f"{entry['value']:g}" + ("%" if entry["unit"] == "%" else f" {entry['unit']}")
    place = f"arXiv {entry['paper']}, {entry['table']}"
    split = entry.get("split", NOTHING)
    return entry["method"], entry["model"], split, entry["metric"], value, place, entry.get("note", "")
