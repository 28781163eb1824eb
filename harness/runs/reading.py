"""What a run's folder holds, read with its checksums: what is damaged or another run's is named, the rest is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.budget import budget_fields
from harness.core.errors import DamagedRecordError
from harness.core.records import Damage
from harness.core.sums import altered
from harness.learning.judging import DONE, RECORDS
from harness.learning.run import named
from harness.runs.plan import Job

Row = dict[str, Any]
EVALUATED = ("rows.jsonl", DONE)
"""Files that another evaluation of the last checkpoint writes anew."""


@dataclass(frozen=True)
class Kept:
    """What could be read of a finished run."""

    facts: Row = field(default_factory=dict)
    """Its run.json."""
    budget: Row | None = None
    """Its done.json; None where the run is to be left out as a whole."""
    rows: Sequence[Row] = ()
    steps: Sequence[Row] = ()
    points: Sequence[Row] = ()
    timing: Sequence[Row] = ()
    damaged: tuple[Damage, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do about the damage; empty where there is none."""
        if not self.damaged:
            return ""
        folder = Path(self.damaged[0].file).parent
        if {Path(damage.file).name for damage in self.damaged} <= set(EVALUATED):
            return f"remove {folder / DONE} and run the experiment again to evaluate this one anew"
        return f"remove {folder} and run the experiment again to repeat this one"


def read_run(job: Job) -> Kept:
    """Everything of a finished run that is whole and its own."""
    reader = _Reader(job.folder, job.identity, altered(job.folder) or {})
    facts, budget = reader.mapping("run.json"), reader.mapping(DONE)
    if budget is not None and job.role != "baseline":
        missing = [known.name for known in budget_fields() if known.name not in budget]
        if missing:
            reader.name(DONE, f"lacks what a run has spent: {', '.join(missing)}")
            budget = None
    if facts is not None and facts.get("run", job.identity) != job.identity:
        reader.name("run.json", f"is of another run: {named(facts['run'])}")
        budget = None
    if budget is None:
        return Kept(facts or {}, None, damaged=reader.found())
    rows, steps, points, timing = map(reader.rows, ("rows.jsonl", "steps.jsonl", "curve.jsonl", "timing.jsonl"))
    if job.role == "method" and "steps.jsonl" not in reader.wrong:
        known = {row.get("step") for row in steps}
        absent = [step for step in range(job.experiment.budget.steps) if step not in known]
        if absent:
            reader.name("steps.jsonl", f"lacks {len(absent)} steps, the first of them {absent[0]}")
    return Kept(facts or {}, budget, rows, steps, points, timing, reader.found())


@dataclass
class _Reader:
    """The files of one folder, and what is wrong with them so far."""

    folder: Path
    identity: Mapping[str, Any]
    sealed: Mapping[str, str]
    """What is wrong by the checksums, by name."""
    wrong: dict[str, list[Damage]] = field(default_factory=dict)

    def name(self, name: str, reason: str) -> None:
        """Note what is wrong with a file as a whole."""
        self.wrong.setdefault(name, []).append(Damage(str(self.folder / name), 0, reason))

    def mapping(self, name: str) -> Row | None:
        """The object in a JSON file; None where it is damaged, or is not there."""
        file = self.folder / name
        if not file.exists():
            return None
        try:
            value = records.read_json(file)
        except DamagedRecordError as error:
            self.name(name, str(error).removeprefix(f"{file} "))
            return None
        return None if name in self.sealed else value

    def rows(self, name: str) -> Sequence[Row]:
        """The rows of a file that are whole; none where the file is another run's."""
        file = self.folder / name
        if not file.exists():
            if name == "rows.jsonl" and name not in self.sealed:
                self.name(name, "is missing")
            return ()
        try:
            reading = records.read(file)
        except (DamagedRecordError, records.WriteError, ValueError) as error:
            self.name(name, f"cannot be read: {error}")
            return ()
        if reading.damaged:
            self.wrong[name] = list(reading.damaged)
        if reading.header.get("run", self.identity) != self.identity:
            self.name(name, f"is of another run: {named(reading.header['run'])}")
            return ()
        return reading.rows

    def found(self) -> tuple[Damage, ...]:
        """All damage, file by file: by line where the lines tell, by the checksum of the file elsewhere."""
        for name, reason in self.sealed.items():
            if name not in self.wrong:
                self.name(name, reason)
        order = [DONE, *RECORDS]
        names = sorted(self.wrong, key=lambda name: (order.index(name) if name in order else len(order), name))
        return tuple(damage for name in names for damage in self.wrong[name])
