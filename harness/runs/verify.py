"""Which folders of records are whole: every checksum, every line, and whether each file is of the run it lies in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import DamagedRecordError, HarnessError, MissingDataError
from harness.core.sums import SUMS, altered
from harness.learning.checkpoints import STATE, read_state
from harness.learning.judging import DONE
from harness.learning.run import named

_RUN_FOLDER = re.compile(r"(?P<method>.+)-[0-9a-f]{8}-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Verified:
    """One folder, or one file of records that stands by itself."""

    place: Path
    kind: str
    """run, checkpoint, start, results or records."""
    files: int
    """Files that were read whole."""
    problems: tuple[str, ...] = ()
    """What is damaged, empty, missing or another run's: a sentence each, which begins with the file."""
    notes: tuple[str, ...] = ()
    """What cannot be known, and what is no damage: no checksums, a run that is not finished."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def remedy(self) -> str:
        """What to do about the problems; empty where there are none."""
        if self.whole:
            return ""
        return {
            "run": f"remove {self.place} and run the experiment again to repeat this run",
            "checkpoint": f"remove {self.place}: the run goes on without it",
            "start": f"remove {self.place}: the start is made anew",
            "results": f"take the files back from where they came from, or make them anew: harness bench {self.place}",
            "records": "take the file back from where it came from, or remove it and call again what wrote it",
        }[self.kind]

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        known = {"place": str(self.place), "kind": self.kind, "files": self.files, "whole": self.whole}
        return known | {"problems": list(self.problems), "notes": list(self.notes), "remedy": self.remedy}


def verify(path: Path) -> list[Verified]:
    """Everything at or below a path that holds records, in the order of its name. MissingDataError where nothing
    does."""
    if path.is_file():
        return [_file(path)]
    if not path.is_dir():
        raise MissingDataError(f"there is nothing at {path}")
    found = sorted(_below(path), key=lambda one: str(one.place))
    if not found:
        raise MissingDataError(f"no records in {path} or below it: a run, results or a cache is expected there")
    return found


def _below(folder: Path) -> Iterator[Verified]:
    kind = _kind(folder)
    if kind:
        yield _Folder(folder, kind).verified()
    inside = [entry for entry in folder.iterdir() if not entry.is_symlink()]
    for entry in inside:
        # What begins with a dot was being written when a process was killed, and is never read.
        if entry.is_dir() and not entry.name.startswith(".") and kind not in ("checkpoint", "start"):
            yield from _below(entry)
        elif not kind and _is_records(entry) and not (folder.parent / SUMS).is_file():
            yield _file(entry)


def _kind(folder: Path) -> str:
    names = {entry.name for entry in folder.iterdir()}
    if STATE in names or folder.name.startswith("checkpoint-"):
        return "checkpoint"
    if "start.json" in names:
        return "start"
    if names & {"run.json", DONE, "steps.jsonl"}:
        return "run"
    return "results" if names & {SUMS, "runs.jsonl.gz", "facts.json"} else ""


def _is_records(file: Path) -> bool:
    return file.is_file() and file.name.endswith((".jsonl", ".jsonl.gz"))


def _file(file: Path) -> Verified:
    """A file of records alone. MissingDataError for one that is of another kind."""
    if not _is_records(file):
        raise MissingDataError(f"{file} is no file of records (.jsonl, .jsonl.gz); name the folder it stands in")
    problems, notes, _ = _lines(file)
    sealed = altered(file.parent, [file.name])
    problems += [f"{file.parent / name} {reason}" for name, reason in (sealed or {}).items()]
    return Verified(file, "records", 1, tuple(problems), tuple(notes if sealed is None else ()))


def _lines(file: Path) -> tuple[list[str], list[str], records.Row]:
    """What is wrong with a file's lines, what cannot be known of them, and its header."""
    try:
        reading = records.read(file)
    except (HarnessError, ValueError) as error:
        return [str(error)], [], {}
    last = [str(damage) for damage in reading.damaged if damage.reason == records.HALF]
    wrong = [str(damage) for damage in reading.damaged if damage.reason != records.HALF]
    checked = reading.header.get("schema") == records.CHECKED
    notes = [f"{where}, as a kill leaves it" for where in last]
    return wrong, notes + ([] if checked or wrong else [f"{file} has no checksums of its lines"]), reading.header


@dataclass
class _Folder:
    """One folder of a known kind, and what was found out about it so far."""

    folder: Path
    kind: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def verified(self) -> Verified:
        """The folder, read whole."""
        sealed = altered(self.folder)
        for name, reason in (sealed or {}).items():
            self.problems.append(f"{self.folder / name} {reason}")
        hurt = set(sealed or ())
        files = [entry for entry in self.folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]
        if (self.folder / ".lock").is_dir():
            self.problems.append(f"{self.folder / '.lock'} is a folder where a lock file belongs")
        runs = dict(self._identities(files, hurt, sealed is not None))
        self._one_run(runs)
        if sealed is None and (self.folder / DONE).exists() | (self.kind in ("start", "results")):
            self.notes.append(f"{self.folder} has no {SUMS}: it was written before there were any, or is not whole")
        if self.kind == "run" and not (self.folder / DONE).exists():
            self.notes.append(f"{self.folder} is not finished")
        return Verified(self.folder, self.kind, len(files), tuple(self.problems), tuple(self.notes))

    def _identities(self, files: list[Path], hurt: set[str], sealed: bool) -> Iterator[tuple[str, Any]]:
        """Read every file; gives which run each one says it is of."""
        for file in sorted(files):
            if _is_records(file):
                problems, notes, header = _lines(file)
                self.problems += problems
                self.notes += [] if sealed or file.suffix == ".gz" else notes
                if "run" in header:
                    yield file.name, header["run"]
            elif file.suffix == ".json" and file.name not in hurt and self.kind != "checkpoint":
                try:
                    known = records.read_json(file).get("run")
                except DamagedRecordError as error:
                    self.problems.append(str(error))
                    continue
                if isinstance(known, dict):
                    yield file.name, known
        if self.kind == "checkpoint" and not hurt:
            yield from self._checkpoint()

    def _checkpoint(self) -> Iterator[tuple[str, Any]]:
        try:
            claimed = records.read_json(self.folder / STATE).get("run")
            beside = self.folder.parent / "run.json"
            known = records.read_json(beside).get("run") if beside.is_file() else None
            read_state(self.folder, known or claimed or {})
        except DamagedRecordError as error:
            self.problems.append(str(error).partition("; remove ")[0])
            return
        yield STATE, claimed

    def _one_run(self, runs: dict[str, Any]) -> None:
        """Name the files of a run's folder that are of another run than its run.json, or than its name says."""
        own = runs.get("run.json")
        for name, known in runs.items():
            if own is not None and known != own:
                self.problems.append(f"{self.folder / name} is of another run: {named(known)}")
        match = _RUN_FOLDER.fullmatch(self.folder.name)
        if own is not None and match and (own.get("method"), str(own.get("seed"))) != match.group("method", "seed"):
            self.problems.append(f"{self.folder / 'run.json'} is of another run than its folder: {named(own)}")
