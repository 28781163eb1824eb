"""What is recorded of runs: their facts, their rows, and how they went. Tables are functions of these records and
nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import DamagedRecordError
from harness.core.fingerprint import fingerprint, flatten
from harness.core.records import Damage
from harness.core.types import Credit
from harness.learning.benefit import Reader, reader_of
from harness.learning.feed import CUT_FROM, CUT_TO
from harness.protocols.backend import Start
from harness.protocols.method import AnyMethod, make_method
from harness.runs.plan import Job, code_of_plug
from harness.runs.reading import read_run

Row = dict[str, Any]
MISSING = object()
DECLARED = ("exploratory",)
"""Facts that were declared before a run and are not the spec's to change once its result is known."""


@dataclass(frozen=True)
class Records:
    """Runs, their evaluation rows and the points of their learning curves, in the order of the plan."""

    runs: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    points: list[Row] = field(default_factory=list)
    wall_s: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of training by label, one entry a seed: what differs from one call to the next stands apart."""
    damaged: list[str] = field(default_factory=list)
    """What of the runs' files is damaged and left out, by file and line."""
    remedies: list[str] = field(default_factory=list)
    """The same of each damaged run, in full, with what to do about it."""
    certificate: Row = field(default_factory=dict)
    """What says that later code repeats these records (`harness.report.certificate`); of a results folder alone."""

    @property
    def remedy(self) -> str:
        """What is damaged and what to do about it, in one sentence."""
        if self.remedies:
            return f"{'; '.join(self.remedies)}; the other runs are whole"
        recorded = "; ".join(self.damaged)
        return f"{recorded}: left out when these results were written; run the experiment again" if recorded else ""


def describe(job: Job) -> Row:
    """A run's facts for a table (`harness.tables.records.Run` without its budget), known before it begins."""
    facts: Row = {
        "method": job.method.label,
        "seed": job.seed,
        "role": job.role,
        "plug": job.method.plug,
        "options": job.method.options,
        "code": code_of_plug(job.method.plug),
        "exploratory": job.method.exploratory,
        "matched": job.matched,
        "initial_checkpoint": "" if job.role == "baseline" else job.start.checkpoint_hash[:16],
        "sources": list(job.sources),
    }
    if job.role != "method":
        return facts
    made = make_method(job.method.plug, job.method.options)
    described = made.describe()
    facts |= {
        "kl": described.reference_kl,
        "mixed_groups": job.experiment.sampling.mixed_groups,
        "notes": [*described.notes, *_own_notes(job)],
        "control": described.control,
    }
    settings = _unmatched_settings(job)
    if settings:
        facts["settings"] = settings
    if made.needs.teacher != "none":
        reader = reader_of(job.experiment, job.method)
        facts["context"] = "nothing" if reader is None else reader.name
        facts["notes"] += _benefit_notes(job.start, reader)
    if described.summariser:
        facts["summariser"] = described.summariser
    return facts


def _unmatched_settings(job: Job) -> Row:
    """Settings of a run that its matched facts do not hold as they are: the row's own, and those that are searched."""
    effective = flatten(job.experiment.model_dump(mode="json", include={"optimiser", "loss", "sampling"}))
    return {name: value for name, value in effective.items() if job.matched.get(name, MISSING) != value}


def _own_notes(job: Job) -> list[str]:
    """A note that names the settings in which the row differs from the others."""
    own = [
        f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in job.method.own.items()
    ]
    return [f"settings of its own, not matched: {', '.join(own)}"] if own else []


def _benefit_notes(start: Start, reader: Reader | None) -> list[str]:
    """A note where the context that the row's teacher reads was measured on the start and gained it nothing."""
    known = start.measured.get("contexts", {}).get(reader.key) if reader else None
    if known is None or not known["teacher_adds_nothing"]:
        return []
    return [f"teacher adds nothing: its context gains the start {known['adds']:+.3f} success"]


def gather_records(jobs: Sequence[Job], allow_missing: bool = False) -> Records:
    """The records of finished jobs.

    Raises DamagedRecordError naming file and line of what cannot be read, and what to do; with `allow_missing` what
    can be is used, `Records.damaged` names the rest, and so do the notes of runs that are not left out as a whole.
    """
    found = Records()
    for job in jobs:
        if not job.done:
            continue
        kept = read_run(job)
        found.damaged.extend(_beside(damage) for damage in kept.damaged)
        if kept.damaged:
            found.remedies.append(f"{'; '.join(map(str, kept.damaged))}; {kept.remedy}")
        if kept.budget is None:
            continue
        facts = describe(job) | {key: kept.facts[key] for key in DECLARED if key in kept.facts}
        damage = [f"damaged and left out: {_beside(where)}" for where in kept.damaged]
        notes = [*facts.get("notes", []), *notes_of(job, kept.steps), *damage]
        found.runs.append(facts | {"notes": notes, "budget": kept.budget})
        seconds = seconds_of(kept.timing)
        if not math.isnan(seconds):
            found.wall_s.setdefault(job.method.label, []).append(seconds)
        name = {"method": job.method.label, "seed": job.seed}
        found.rows.extend(name | {"matched": fingerprint(job.matched)} | row for row in kept.rows)
        by_step = {row["step"]: row for row in kept.points}
        found.points.extend(name | by_step[step] for step in sorted(by_step))
    if found.remedies and not allow_missing:
        raise DamagedRecordError(found.remedy)
    return found


def _beside(damage: Damage) -> str:
    """Damage by its run's folder alone: tables name no place of a machine."""
    file = Path(damage.file)
    return str(replace(damage, file=f"{file.parent.name}/{file.name}"))


def seconds_of(rows: Sequence[Row]) -> float:
    """Time the steps of a run took, by its log, each counted once; NaN where none was recorded."""
    by_step: dict[int, float] = {row["step"]: row["wall_s"] for row in rows}
    return sum(by_step.values()) if rows else math.nan


def run_notes(job: Job) -> list[str]:
    """What a reader of the row has to know of how the run went, from its own log: whether the method's credit was
    worth its name, and how much of the gradient its terms beside the surrogate had."""
    file = job.folder / "steps.jsonl"
    return notes_of(job, records.read(file).rows) if file.is_file() else []


def notes_of(job: Job, steps: Sequence[Row]) -> list[str]:
    """The same from the rows of that log."""
    rows = list({row["step"]: row for row in steps}.values())
    if not rows:
        return []
    verdict = _verdict(make_method(job.method.plug, job.method.options), rows)
    return ([verdict] if verdict else []) + _cut_distributions(rows) + _term_shares(rows)


def _verdict(method: AnyMethod, rows: Sequence[Row]) -> str | None:
    prefix = "method/"
    history = [
        {
            key.removeprefix(prefix): math.nan if value is None else value
            for key, value in row.items()
            if key.startswith(prefix)
        }
        for row in rows
    ]
    return method.verdict([entry for entry in history if entry])


def _cut_distributions(rows: Sequence[Row]) -> list[str]:
    """A note where a method asked for whole distributions and got their likeliest entries."""
    cuts = sorted({(int(row[CUT_TO]), int(row[CUT_FROM])) for row in rows if row.get(CUT_TO) is not None})
    return [f"top {k} of {size:,} entries and their tail in place of whole distributions" for k, size in cuts]


def _term_shares(rows: Sequence[Row]) -> list[str]:
    """Gradient norm of each term beside the surrogate's, where measured, in the order of a credit's streams."""
    prefix, surrogate = "gradient/", "gradient/surrogate"
    measured = {key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)}
    order = [stream.name for stream in fields(Credit)]
    terms = sorted(measured, key=lambda term: (order.index(term) if term in order else len(order), term))
    notes = []
    for term in terms:
        shares = [
            row[f"{prefix}{term}"] / row[surrogate]
            for row in rows
            if row.get(surrogate) and row.get(f"{prefix}{term}") is not None
        ]
        if shares and term != "surrogate":
            notes.append(f"{term} term: {statistics.median(shares):.2g} of the surrogate's gradient norm")
    return notes
