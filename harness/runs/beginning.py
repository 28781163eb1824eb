"""The beginning of a run: what a record keeps of it, the same done again, and where the two differ.

A method's beginning is its first training steps with the points of the learning curve up to there; what does not learn
(the start, the baselines) has no steps, and is held in what its panel gave.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.fingerprint import flatten
from harness.experiment import Experiment
from harness.protocols.backend import Start
from harness.runs.plan import Job
from harness.runs.steps import DIGITS

Row = dict[str, Any]
MOST_STEPS = 20
"""Steps of the beginning where no point of a learning curve says how far it goes."""
MADE_OTHERWISE = frozenset({"code", "start", "initial_checkpoint"})
"""Matched facts that another code revision changes by itself: the start is held by its weights instead."""
BEFORE, END = -1, sys.maxsize
"""Where in a run a difference arises that no step has made: at its start, and in its judgement."""
_WIDE = 40
"""Letters of a value that are printed whole."""


@dataclass(frozen=True)
class Beginning:
    """What is known of one run up to some step: from a record, or from a repetition."""

    start: Row = field(default_factory=dict)
    """What is known before the first step: the start's weights by their hash, and what was measured on them."""
    points: Sequence[Row] = ()
    """Points of the learning curve."""
    steps: Sequence[Row] = ()
    """Steps as they were logged."""
    ranges: Sequence[Row] = ()
    """Steps over the seeds (`harness.runs.steps.step_summary`), where a record has those alone."""
    rows: Sequence[Row] = ()
    """What the panel gave at the end."""


@dataclass(frozen=True)
class Difference:
    """One value that a repetition did not give again."""

    step: int
    """Steps done before it, or BEFORE, or END."""
    where: str
    what: str
    recorded: Any
    repeated: Any

    def __str__(self) -> str:
        recorded, repeated = _in_short(self.recorded, self.repeated)
        return f"{self.where}, {self.what}: recorded {recorded}, repeated {repeated}"


@dataclass
class Compared:
    """How a repetition stands beside a record."""

    held: Counter[str] = field(default_factory=Counter)
    """How many starts, points, steps, ranges and rows were compared."""
    differences: list[Difference] = field(default_factory=list)
    """In the order in which they arise."""


def first_steps(experiment: Experiment) -> int:
    """Steps of the beginning of an experiment's runs: up to the first evaluation after step 0, else a few."""
    every, steps = experiment.evaluation.every, experiment.budget.steps
    return min(every or MOST_STEPS, steps)


def start_facts(start: Start) -> Row:
    """What a start is held by."""
    return {"initial_checkpoint": start.checkpoint_hash[:16]} | flatten({"measured": start.measured or {}})


def read_beginning(job: Job, steps: int) -> Beginning:
    """What a run has left of its first steps in its folder; its rows too, where it is done."""
    start = {} if job.role == "baseline" else start_facts(job.start)
    points = [row for row in _read(job.folder / "curve.jsonl") if row["step"] <= steps]
    logged = [row for row in _read(job.folder / "steps.jsonl") if row["step"] < steps]
    return Beginning(start, points, logged, rows=_read(job.folder / "rows.jsonl") if job.done else ())


def _read(file: Path) -> list[Row]:
    return records.read(file).strict() if file.is_file() else []


# ---------------------------------------------------------------- comparison


def compare_facts(recorded: Mapping[str, Any], repeated: Mapping[str, Any]) -> list[Difference]:
    """The matched facts, of those that both have, in which two experiments differ, but for `MADE_OTHERWISE`."""
    both = [name for name in recorded if name in repeated and name not in MADE_OTHERWISE]
    return [
        Difference(BEFORE, "the experiment", name, recorded[name], repeated[name])
        for name in both
        if not _same(recorded[name], repeated[name])
    ]


def compare(recorded: Beginning, repeated: Beginning) -> Compared:
    """Everything the record has, held byte for byte against the repetition.

    What the record lacks (a number that is logged since) is not compared; what it has and the repetition lacks is a
    difference. Ranges say whether a step lies within what all seeds gave; of a single seed they are its own value.
    """
    found = Compared()
    if recorded.start and repeated.start:
        found.held["starts"] += 1
        known = {name: value for name, value in recorded.start.items() if name in repeated.start}
        found.differences += _fields(BEFORE, "start", known, repeated.start)
    by_step = {row["step"]: row for row in repeated.points}
    for point in recorded.points:
        found.held["points"] += 1
        step = point["step"]
        found.differences += _fields(step, f"learning curve at step {step}", point, by_step.get(step))
    by_step = {row["step"]: row for row in repeated.steps}
    for row in recorded.steps:
        found.held["steps"] += 1
        found.differences += _fields(row["step"], f"step {row['step']}", row, by_step.get(row["step"]))
    exact = {row["step"] for row in recorded.steps}
    for row in recorded.ranges:
        if row["step"] not in exact:
            found.held["ranges"] += 1
            found.differences += _outside(row, by_step.get(row["step"]))
    found.differences += _rows(recorded.rows, repeated.rows, found.held)
    found.differences.sort(key=lambda difference: difference.step)
    return found


def _fields(step: int, where: str, recorded: Row, repeated: Row | None) -> Iterator[Difference]:
    if repeated is None:
        yield Difference(step, where, "the whole of it", "there", "missing")
        return
    before, after = flatten(recorded), flatten(repeated)
    for name, value in before.items():
        if name not in after:
            yield Difference(step, where, name, value, "missing")
        elif not _same(value, after[name]):
            yield Difference(step, where, name, value, after[name])


def _outside(row: Row, repeated: Row | None) -> Iterator[Difference]:
    step, where = row["step"], f"step {row['step']}"
    if repeated is None:
        yield Difference(step, where, "the whole of it", "there", "missing")
        return
    for name, low in row["low"].items():
        high, value = row["high"][name], repeated.get(name)
        if value is None:
            if row["seeds"] == 1:  # of several seeds, others may have logged it
                yield Difference(step, where, name, low, "missing")
        elif not low <= float(f"{value:.{DIGITS}g}") <= high:
            yield Difference(step, where, name, low if low == high else f"{low} to {high}", value)


def _rows(recorded: Sequence[Row], repeated: Sequence[Row], held: Counter[str]) -> Iterator[Difference]:
    if not recorded:
        return
    by_task = {(row["decoding"], row["task_id"]): row for row in repeated}
    for row in recorded:
        held["rows"] += 1
        key = row["decoding"], row["task_id"]
        yield from _fields(END, f"evaluation, {key[0]}, task {key[1]}", row, by_task.pop(key, None))
    for decoding, task in by_task:
        yield Difference(END, f"evaluation, {decoding}, task {task}", "the whole of it", "missing", "there")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are written down alike."""
    return records.line_of({"": one}) == records.line_of({"": other})


def _in_short(recorded: Any, repeated: Any) -> tuple[str, str]:
    """Two values as words; of long words as much as tells them apart."""
    texts = str(recorded), str(repeated)
    if max(map(len, texts)) <= _WIDE:
        return texts
    place = next((n for n, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    begun = max(place - _WIDE // 4, 0)
    cut = [text[begun : begun + _WIDE] for text in texts]
    return f"{'...' * (begun > 0)}{cut[0]}... (from its letter {place + 1} on)", f"{'...' * (begun > 0)}{cut[1]}..."
