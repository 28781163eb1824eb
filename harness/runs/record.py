"""What is recorded of runs: their facts, their rows, and how they went. Tables are functions of these records and
nothing else."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import DamagedRecordError
from harness.core.fingerprint import fingerprint, flatten
from harness.core.types import Credit
from harness.learning.benefit import Reader, reader_of
from harness.learning.train import CUT_FROM, CUT_TO
from harness.protocols.backend import Start
from harness.protocols.method import AnyMethod, make_method
from harness.runs.plan import Job, code_of_plug

Row = dict[str, Any]
MISSING = object()


@dataclass(frozen=True)
class Records:
    """Runs, their evaluation rows and the points of their learning curves, in the order of the plan."""

    runs: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    points: list[Row] = field(default_factory=list)
    wall_s: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of training by label, one entry a seed: what differs from one call to the next stands apart."""


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

    Raises DamagedRecordError naming file and line of a row that cannot be read; with `allow_missing` the rows that
    can be are used, and the run's notes name the others.
    """
    found = Records()
    for job in jobs:
        if not job.done:
            continue
        facts = describe(job) | _declared(job)
        reading = records.read(job.folder / "rows.jsonl")
        if reading.damaged and not allow_missing:
            raise DamagedRecordError(
                f"{'; '.join(map(str, reading.damaged))}; the other runs are whole: "
                "remove done.json beside it and run the experiment "
                "again to evaluate this one anew, or allow missing results"
            )
        damage = [f"damaged and left out: {where}" for where in reading.damaged]
        notes = list(facts.get("notes", [])) + run_notes(job) + damage
        found.runs.append(facts | {"notes": notes, "budget": json.loads((job.folder / "done.json").read_text())})
        seconds = wall_seconds(job.folder)
        if not math.isnan(seconds):
            found.wall_s.setdefault(job.method.label, []).append(seconds)
        name = {"method": job.method.label, "seed": job.seed}
        found.rows.extend(name | {"matched": fingerprint(job.matched)} | row for row in reading.rows)
        if (job.folder / "curve.jsonl").is_file():
            by_step = {row["step"]: row for row in records.read(job.folder / "curve.jsonl").rows}
            found.points.extend(name | by_step[step] for step in sorted(by_step))
    return found


def _declared(job: Job) -> Row:
    """What was declared before the run and is not the spec's to change once its result is known."""
    file = job.folder / "run.json"
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {key: recorded[key] for key in ("exploratory",) if key in recorded}


def wall_seconds(folder: Path) -> float:
    """Time the steps of a run took, each counted once; NaN where none was recorded."""
    file = folder / "timing.jsonl"
    if not file.is_file():
        return math.nan
    by_step: dict[int, float] = {row["step"]: row["wall_s"] for row in records.read(file).rows}
    return sum(by_step.values())


def run_notes(job: Job) -> list[str]:
    """What a reader of the row has to know of how the run went, from its own log: whether the method's credit was
    worth its name, and how much of the gradient its terms beside the surrogate had."""
    file = job.folder / "steps.jsonl"
    if not file.is_file():
        return []
    rows = list({row["step"]: row for row in records.read(file).rows}.values())
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
