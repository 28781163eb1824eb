"""What a context is worth to a start: measured for every teacher's own, known by what it comes from, and only once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import small

from harness.core.types import ContextRequest, RolloutGroup
from harness.experiment import Experiment
from harness.learning.benefit import MARGIN, _added, reader_of, readers
from harness.learning.warm_start import start_of
from harness.protocols.backend import Start
from harness.runs.plan import plan
from harness.runs.record import describe

GUESS = {"id": "environments:Guess-v0", "options": {"windows": 3}}
OPSD = {"label": "OPSD", "plug": "agents.methods.opsd:OPSD"}
HSD = {"label": "HSD", "plug": "agents.methods.hsd:HSD"}
SDAR = {"label": "SDAR", "plug": "agents.methods.sdar:SDAR"}
GRPO = {"label": "GRPO", "plug": "agents.methods.grpo:GRPO"}


def experiment(directory: Path, *methods: dict[str, Any], **changes: Any) -> Experiment:
    settings: dict[str, Any] = {"environment": GUESS, "model": {"name": str(directory)}, "methods": list(methods)}
    settings |= {"context": "agents.contexts:Answer", "evaluation": {"start_tasks": 3}}
    return small(**settings | changes)


def test_every_teacher_has_a_reader_and_equal_ones_share_it(tiny_directory: Path) -> None:
    twin = HSD | {"label": "HSD again"}
    other = HSD | {"label": "HSD, failures", "options": {"failures_only": True}}
    found = readers(experiment(tiny_directory, GRPO, SDAR, HSD, twin, other, OPSD))
    assert [reader.key for reader in found] == [
        "agents.contexts:Answer",
        "agents.methods.hsd:HSD",
        'agents.methods.hsd:HSD{"failures_only":true}',
        "agents.methods.opsd:OPSD",
    ]


def test_a_ready_made_start_is_measured_too(tiny_directory: Path, tmp_path: Path) -> None:
    """By hand: the untrained policy solves none of three dev tasks in four samples, with a context or without."""
    measured = start_of(experiment(tiny_directory, SDAR, OPSD), tmp_path).measured
    assert (measured["split"], measured["tasks"]) == ("dev", 3)
    assert set(measured["contexts"]) == {"agents.contexts:Answer", "agents.methods.opsd:OPSD"}
    for known in measured["contexts"].values():
        assert known["offered"] == 1.0
        assert known["teacher_adds_nothing"] is (known["adds"] < MARGIN)
    assert start_of(experiment(tiny_directory, GRPO), tmp_path).measured == {}  # nobody reads anything


def test_rows_that_read_the_same_are_measured_once(tiny_directory: Path, tmp_path: Path) -> None:
    """Two shares of distillation, one context: each has its measurement, but it was played once."""
    stages: list[str] = []
    twins = [HSD | {"options": {"mix": mix}, "label": f"HSD {mix}"} for mix in (1.0, 0.5)]
    start_of(experiment(tiny_directory, *twins), tmp_path, lambda what, done, total: stages.append(what))
    assert stages == ["measuring the start"] * 3  # sampled, greedy, and one context
    assert len(list((tmp_path / "measured").iterdir())) == 3  # without a context, and one for each row


def test_a_new_row_measures_its_own_context_alone(tiny_directory: Path, tmp_path: Path) -> None:
    first = start_of(experiment(tiny_directory, SDAR), tmp_path).measured
    stages: list[str] = []
    both = start_of(
        experiment(tiny_directory, SDAR, HSD), tmp_path, lambda what, done, total: stages.append(what)
    ).measured
    assert len(stages) == 1
    assert both["contexts"]["agents.contexts:Answer"] == first["contexts"]["agents.contexts:Answer"]
    assert both["sampled"] == first["sampled"]


def test_what_is_added_counts_only_tasks_on_which_something_was_offered() -> None:
    """By hand: of four tasks one has no context and one no finished episode; the others gain 0.5 and 0.25."""
    found = _added([0.75, None, 0.5, 1.0], [0.25, 0.9, 0.25, None])
    assert found == {"offered": 0.5, "sampled": 0.625, "adds": 0.375, "teacher_adds_nothing": False}
    assert _added([None, None], [0.5, 0.5]) == {
        "offered": 0.0,
        "sampled": None,
        "adds": None,
        "teacher_adds_nothing": False,
    }


class Helpful:
    """A source whose name is another's."""

    name = "answer"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return None


def test_a_note_is_by_identity_not_by_name(tiny_directory: Path, tmp_path: Path) -> None:
    nothing = {"name": "answer", "teacher_adds_nothing": True, "adds": 0.01, "sampled": 0.5, "offered": 1.0}
    start = Start(tiny_directory, "0" * 64, {"contexts": {"agents.contexts:Answer": nothing}})

    def notes(**changes: Any) -> list[str]:
        jobs = plan(experiment(tiny_directory, SDAR, **changes), {0: start}, tmp_path)
        return next(list(describe(job)["notes"]) for job in jobs if job.role == "method")

    said = "teacher adds nothing: its context gains the start +0.010 success"
    assert said in notes()
    # the same name from another place: nothing is known of it
    assert (
        reader_of(
            experiment(tiny_directory, SDAR, context="test_benefit:Helpful"),
            experiment(tiny_directory, SDAR).methods[0],
        ).name
        == "answer"
    )  # type: ignore[union-attr]
    assert said not in notes(context="test_benefit:Helpful")


def test_a_context_that_is_offered_nowhere_is_not_called_worthless(tiny_directory: Path, tmp_path: Path) -> None:
    silent = experiment(tiny_directory, SDAR, context="test_benefit:Helpful")
    start = start_of(silent, tmp_path)
    known = start.measured["contexts"]["test_benefit:Helpful"]
    assert (known["offered"], known["adds"], known["teacher_adds_nothing"]) == (0.0, None, False)
    assert json.loads(json.dumps(start.measured)) == start.measured


@pytest.mark.parametrize("tasks", [0])
def test_nothing_is_measured_where_nobody_asks(tiny_directory: Path, tmp_path: Path, tasks: int) -> None:
    wanted = experiment(tiny_directory, SDAR, evaluation={"start_tasks": tasks})
    assert start_of(wanted, tmp_path).measured == {}
