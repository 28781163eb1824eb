"""What a call of `bench` printed at its end, so that the same call says it again at once while nothing has changed.

A note under the runs' folder holds it, with the state of all that the call read and wrote: the size and the time of
the last change of every source, spec, record and result, the environment variables and Python's version. A note of
another state is no note: then everything is looked at, and what is missing is run.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import ROOT
from harness.core import records
from harness.core.errors import HarnessError
from harness.core.fingerprint import fingerprint
from harness.core.sources import DATA, OURS
from harness.report.beside import fidelity_places
from harness.tables.grid import Grid, Printed

NOTES = ".finished"
"""Folder of the notes, in that of the runs."""
_PASSING = {"_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "WINDOWID", "MAKE_TERMERR", "MAKE_TERMOUT"}
"""Environment variables that say where a command was typed, and nothing of what it does."""

CLOCK = 50_000_000
"""Nanoseconds by which a file system's clock may be behind."""


def _variables() -> list[str]:
    return sorted(f"{name}={value}" for name, value in os.environ.items() if name not in _PASSING)


@dataclass(frozen=True)
class Call:
    """One call of `bench`: what it was asked for, and the files that it depends on."""

    asked: Any
    """Its arguments, as JSON holds them."""
    specs: Sequence[Path]
    folders: Sequence[Path]
    """The results folder of each spec."""
    runs: Path
    experiments: Sequence[Path]
    """The folder of each spec's runs."""
    models: Sequence[Path] = ()
    """Folders of the models that specs name."""
    begun: int = field(default_factory=lambda: time.time_ns() - CLOCK)
    """Nanoseconds since the epoch: what is read and was changed later may have been read before."""
    variables: Sequence[str] = field(default_factory=_variables)
    """Environment variables as the call found them: what it imports sets some of its own."""

    @property
    def file(self) -> Path:
        """Where its note lies."""
        return self.runs / NOTES / f"{fingerprint({'asked': self.asked, 'here': os.getcwd()})[:16]}.json"

    def known(self) -> dict[str, Any] | None:
        """The note, where it is of the present state: `report`, `printed` (for `printed_of`) and `experiments`."""
        if not self.file.is_file():
            return None
        try:
            note = records.read_json(self.file)
            state = self._state([*self._read(), *map(Path, note["own"])], Path(note["report"]))
            return note if note["state"] == state else None
        except (HarnessError, KeyError, TypeError):  # an older version's, or damaged: as if there were none
            return None

    def note(self, page: Path, parts: Sequence[Printed], experiments: Any) -> None:
        """Write the note, unless something that the call read was changed meanwhile. experiments: what it says as
        JSON."""
        own = _own_modules()
        read = [*self._read(), *own]
        if any(file.stat().st_mtime_ns >= self.begun for file in read if file.is_file()):
            return
        known = {"state": self._state(read, page), "own": list(map(str, own)), "report": str(page)}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        records.write_json(self.file, known | {"printed": list(map(_plain, parts)), "experiments": experiments})

    def _read(self) -> list[Path]:
        sources = [file for name in OURS for file in _below(ROOT / name) if file.suffix in {".py", *DATA}]
        recorded = {spec.parent for spec in self.specs} - set(self.folders)
        measured = {place for folder in recorded for place in fidelity_places(folder)}
        places = [*sorted(recorded | measured), *self.models]
        return [*sources, *self.specs, *(file for place in places for file in _below(place))]

    def _state(self, read: Iterable[Path], page: Path) -> str:
        beside = sorted({folder.parent / "README.md" for folder in self.folders})
        written = [file for place in (*self.folders, *self.experiments) for file in _below(place)]
        digest = hashlib.sha256("\n".join([sys.version, *self.variables]).encode("utf-8", "surrogateescape"))
        for file in (*read, page, *beside, *written):
            digest.update(f"\n{file}: {_state_of(file)}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def printed_of(note: dict[str, Any]) -> list[Printed]:
    """What was printed, to be printed again."""
    return [part if isinstance(part, str) else _grid(part) for part in note["printed"]]


def _plain(part: Printed) -> Any:
    return part if isinstance(part, str) else asdict(part) | {"wrapped": sorted(part.wrapped)}


def _grid(of: dict[str, Any]) -> Grid:
    kept = of | {name: tuple(of[name]) for name in ("header", "notes")} | {"wrapped": frozenset(of["wrapped"])}
    return Grid(**kept | {"rows": tuple(map(tuple, of["rows"]))})


def _own_modules() -> list[Path]:
    """The user's own modules that were imported from where the command was typed: methods, environments, and what
    these import."""
    here, ours = Path.cwd(), [ROOT / name for name in OURS]
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    return sorted(
        file
        for file in files
        if file.is_relative_to(here) and not any(file.is_relative_to(place) for place in (*ours, Path(sys.prefix)))
    )


def _below(place: Path) -> Iterator[Path]:
    for folder, inside, names in os.walk(place):
        inside[:] = sorted(name for name in inside if name != "__pycache__")
        yield from (Path(folder, name) for name in sorted(names))


def _state_of(file: Path) -> str:
    try:
        found = file.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
