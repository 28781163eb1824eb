"""What a results folder holds, read once for every form of export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.fingerprint import slug
from harness.experiment import Experiment
from harness.report.folder import PROVENANCE, STEPS, read_records
from harness.report.search import experiment_of
from harness.runs.record import Records

Row = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """A results folder: its spec, its records and its sample of episodes."""

    folder: Path
    experiment: Experiment
    found: Records
    steps: Sequence[Row]
    """Diagnostics of every step, over the seeds; none in folders of before they were kept."""
    episodes: Mapping[str, Sequence[Row]]
    """A sample of the first seed's episodes by label, as they were recorded."""
    provenance: Mapping[str, Any]


def read_held(folder: Path) -> Held:
    """Everything in a results folder. MissingDataError where it holds no records, DamagedRecordError where they are
    not those that were written."""
    found, experiment = read_records(folder), experiment_of(folder)
    steps = records.read(folder / STEPS).strict() if (folder / STEPS).is_file() else []
    labels = {slug(method.label): method.label for method in experiment.methods}
    episodes: dict[str, Sequence[Row]] = {}
    for file in sorted((folder / "episodes").glob("*.jsonl.gz")):
        stem = file.name.removesuffix(".jsonl.gz")
        episodes[labels.get(stem, stem)] = records.read(file).strict()
    provenance = records.read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    return Held(folder, experiment, found, steps, episodes, provenance)
