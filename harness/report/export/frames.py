"""Flat rows for data frames, and Parquet files of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.fingerprint import flatten
from harness.report.export.held import Held, Row

NEEDED = "Parquet needs the package pyarrow: pip install 'sibling-harness[parquet]'"


def frames(held: Held) -> dict[str, list[Row]]:
    """Rows by table: `runs`, `rows`, `curve`, `steps` and `episodes`; a table without rows is left out.

    Nested mappings become columns with dots in their names (`metrics.turns`, `budget.rollouts`); a list stays a list
    where all its entries are numbers, and is JSON text elsewhere; an empty one is None. What all runs share (`matched`)
    is left out: it stands in the folder's spec and card.
    """
    episodes = [
        {"method": label, "number": n} | row for label, rows in held.episodes.items() for n, row in enumerate(rows)
    ]
    tables: Mapping[str, Sequence[Row]] = {
        "runs": held.found.runs,
        "rows": held.found.rows,
        "curve": held.found.points,
        "steps": held.steps,
        "episodes": episodes,
    }
    return {name: list(map(_flat, rows)) for name, rows in tables.items() if rows}


def _flat(row: Row) -> Row:
    return {key: _cell(value) for key, value in flatten({k: v for k, v in row.items() if k != "matched"}).items()}


def _cell(value: Any) -> Any:
    """A column has one type: what is empty is None, since an empty list does not say of what it is one."""
    if not isinstance(value, list | tuple | dict):
        return value
    if not value:
        return None
    plain = isinstance(value, list | tuple) and all(isinstance(entry, int | float) for entry in value)
    return list(value) if plain else json.dumps(value, sort_keys=True)


def write_parquet(held: Held, out: Path) -> Iterable[Path]:
    """A Parquet file for each of `frames`. UserError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(NEEDED) from None
    import pandas as pd

    out.mkdir(parents=True, exist_ok=True)
    for name, rows in frames(held).items():
        file = out / f"{name}.parquet"
        pd.DataFrame(rows).to_parquet(file, index=False)
        yield file
