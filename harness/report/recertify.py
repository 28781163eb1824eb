"""What a results folder says of the beginnings of its runs, for a repetition to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import MissingDataError, UserError
from harness.core.fingerprint import flatten
from harness.core.provenance import provenance
from harness.core.sums import require_whole
from harness.experiment import Experiment
from harness.report.folder import (
    FIRST_STEPS,
    POINTS,
    PROVENANCE,
    REMEDY,
    ROWS,
    RUNS,
    STEPS,
    build_table,
    read_records,
)
from harness.report.search import experiment_of
from harness.runs.beginning import Beginning, first_steps
from harness.runs.record import Records

Row = dict[str, Any]
HELD = (RUNS, ROWS, POINTS, STEPS, FIRST_STEPS)
"""The files that a repetition is held against, of those that a folder has."""
DECIDING = ("numpy", "torch", "transformers", "tokenizers")
"""Packages whose version may change the last digits of a sum."""


@dataclass(frozen=True)
class Recorded:
    """A results folder, read whole: nothing of it is changed here."""

    folder: Path
    experiment: Experiment
    found: Records
    historical: str | None
    """The code revision that recorded it, where that is another than today's."""
    points: Sequence[Row]
    first: Sequence[Row]
    """First steps as they were logged; none in folders of before they were kept."""
    summary: Sequence[Row]
    """Steps over the seeds."""
    known: Row
    """Its provenance."""

    @property
    def files(self) -> list[str]:
        """The files that a repetition is held against."""
        return [name for name in HELD if (self.folder / name).is_file()]

    def seed_of(self, wanted: int | None) -> int:
        """The seed to be repeated. UserError for one that is not recorded."""
        seeds = list(dict.fromkeys(run["seed"] for run in self.found.runs if run["role"] == "method"))
        if wanted is None:
            return self.experiment.seeds[0] if self.experiment.seeds[0] in seeds else seeds[0]
        if wanted not in seeds:
            raise UserError(f"{self.folder} holds no seed {wanted}; it holds {', '.join(map(str, seeds))}")
        return wanted

    def steps_of(self, wanted: int, seed: int) -> int:
        """How many steps are repeated: those that are wanted, or (0) up to the first evaluation, where the record
        holds that. UserError for more than were recorded, and where nothing of so few was."""
        budget = self.experiment.budget.steps
        if wanted > budget:
            raise UserError(f"--steps says {wanted}, the runs of {self.folder} have {budget} steps")
        steps = wanted or first_steps(self.experiment)
        runs = [run for run in self.found.runs if run["role"] == "method" and run["seed"] == seed]
        if steps == budget or all(self._trained(run["method"], seed, steps) for run in runs):
            return steps
        if wanted:
            raise UserError(
                f"{self.folder} holds nothing of the first {steps} steps of seed {seed} that could be compared byte "
                f"for byte; take more steps, or all of them: --steps {budget}"
            )
        return budget

    def beginning(self, label: str, seed: int, steps: int) -> Beginning:
        """What is recorded of the first steps of a row under a seed. MissingDataError where there is no such run."""
        run = next((run for run in self.found.runs if (run["method"], run["seed"]) == (label, seed)), None)
        if run is None:
            raise MissingDataError(f"{self.folder} holds no run of {label!r} under seed {seed}")
        whole = run["role"] != "method" or steps == self.experiment.budget.steps
        return Beginning(
            {} if run["role"] == "baseline" else self._start(run),
            [row for row in _of(self.points, label, seed) if row["step"] <= steps],
            [row for row in _of(self.first, label, seed) if row["step"] < steps],
            [row for row in self.summary if row["method"] == label and row["step"] < steps],
            _of(self.found.rows, label, seed) if whole else (),
        )

    def elsewhere(self) -> list[str]:
        """What of the machine and its packages is another than the record's, where that may change bytes."""
        here = provenance()
        pairs = [("the CPU", self.known.get("machine", {}).get("cpu"), here["machine"]["cpu"])]
        before, now = self.known.get("packages", {}), here["packages"]
        pairs += [(name, before.get(name), now.get(name)) for name in DECIDING]
        found = [f"{name}: recorded with {old}, here it is {new}" for name, old, new in pairs if old and old != new]
        if self.experiment.model.device != "cpu":
            found.append(f"the device is {self.experiment.model.device}, where sums may come out in another order")
        return found

    def _trained(self, label: str, seed: int, steps: int) -> bool:
        """Whether the record holds single values of what so many steps made of a run: ranges alone say too little."""
        exact = any(row["step"] < steps for row in _of(self.first, label, seed))
        return exact or any(0 < row["step"] <= steps for row in _of(self.points, label, seed))

    def _start(self, run: Row) -> Row:
        known = run.get("initial_checkpoint") or run["matched"].get("initial_checkpoint")
        measured = self.known.get("starts", {}).get(str(run["seed"]), {}).get("measured") or {}
        return ({"initial_checkpoint": known} if known else {}) | flatten({"measured": measured})


def read_recorded(folder: Path) -> Recorded:
    """A results folder's records. MissingDataError where it holds none, DamagedRecordError where they are not those
    that were written, UnmatchedError where its spec says otherwise than they do."""
    found = read_records(folder, certified=False)
    if not (folder / "spec.toml").is_file():
        raise MissingDataError(f"{folder} holds no spec.toml")
    if not any(run["role"] == "method" for run in found.runs):
        raise MissingDataError(f"{folder} holds no run of a method")
    experiment = experiment_of(folder)
    require_whole(folder, REMEDY.format(folder), (STEPS, FIRST_STEPS))
    known = records.read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    table = build_table(experiment, found)
    return Recorded(
        folder,
        experiment,
        found,
        table.historical,
        found.points,
        _read(folder / FIRST_STEPS),
        _read(folder / STEPS),
        known,
    )


def _read(file: Path) -> list[Row]:
    return records.read(file).strict() if file.is_file() else []


def _of(rows: Sequence[Row], label: str, seed: int) -> list[Row]:
    """The rows of one run, without what names it."""
    naming = {"method", "seed", "matched"}
    return [
        {key: value for key, value in row.items() if key not in naming}
        for row in rows
        if (row["method"], row["seed"]) == (label, seed)
    ]
