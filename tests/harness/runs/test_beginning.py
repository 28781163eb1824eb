"""The beginning of a run, done again: the bytes of the whole run's, and every value that is not the same is named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, quiet, small
from hypothesis import given
from hypothesis import strategies as st

from harness.core import records
from harness.protocols.backend import Start
from harness.runs.beginning import (
    BEFORE,
    END,
    Beginning,
    compare,
    compare_facts,
    first_steps,
    read_beginning,
    start_facts,
)
from harness.runs.job import run_beginning, run_job
from harness.runs.plan import Job, plan
from harness.runs.steps import step_summary

HSD = {"label": "HSD", "plug": "agents.methods.hsd:HSD"}


@pytest.fixture(scope="module")
def jobs(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """Finished runs of four steps, whose schedule knows how many there are."""
    experiment = small(
        methods=[GRPO.model_dump(), HSD],
        context="agents.contexts:Answer",
        budget={"steps": 4, "checkpoint_every": 3},
        optimiser={"schedule": "cosine", "warmup_steps": 1},
        sampling={"group_size": 2, "prompts_per_step": 2},
        evaluation={"tasks": 3, "samples": 1, "curve_tasks": 2},
    )
    planned = plan(experiment, {0: Start(tiny_directory, "0" * 64, {})}, tmp_path_factory.mktemp("runs"))
    for job in planned:
        run_job(job, quiet)
    return {job.method.label: job for job in planned}


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines()


@pytest.mark.parametrize(("label", "steps"), [("GRPO", 1), ("GRPO", 2), ("HSD", 3)])
def test_the_beginning_is_that_of_the_whole_run(jobs: dict[str, Job], tmp_path: Path, label: str, steps: int) -> None:
    """Line for line, checksums and header among them; and the curve's point after the last step, where one is due
    (every second step), before any step more."""
    whole, again = jobs[label], replace(jobs[label], folder=tmp_path / "again")
    run_beginning(again, steps, quiet)
    assert lines(again.folder / "steps.jsonl") == lines(whole.folder / "steps.jsonl")[: 1 + steps]
    assert lines(again.folder / "curve.jsonl") == lines(whole.folder / "curve.jsonl")[: 2 + steps // 2]
    assert not again.done
    found = compare(read_beginning(whole, steps), read_beginning(again, steps))
    assert found.held == {"starts": 1, "points": 1 + steps // 2, "steps": steps, "rows": 6}
    # the recorded rows are of a finished run; a beginning has none
    assert {difference.step for difference in found.differences} == {END}
    known = replace(read_beginning(whole, steps), rows=())
    assert compare(known, read_beginning(again, steps)).differences == []


@pytest.mark.parametrize("label", ["GRPO", "base", "gold"])
def test_what_has_no_more_steps_is_done_whole(jobs: dict[str, Job], tmp_path: Path, label: str) -> None:
    again = replace(jobs[label], folder=tmp_path / "again")
    run_beginning(again, 4, quiet)
    assert again.done
    found = compare(read_beginning(jobs[label], 4), read_beginning(again, 4))
    assert found.differences == []
    assert found.held["rows"] == (3 if label == "gold" else 6)  # 3 tasks, one or two decodings
    assert found.held["starts"] == (label != "gold")


def test_it_goes_up_to_the_first_evaluation() -> None:
    def first(steps: int, every: int) -> int:
        return first_steps(small(budget={"steps": steps}, evaluation={"every": every}))

    assert [first(120, 20), first(120, 0), first(6, 0), first(6, 10), first(6, 2)] == [20, 20, 6, 6, 2]


ROW = {"step": 3, "loss": 0.125, "nothing": None, "success": 1.0}


@given(st.sampled_from(["loss", "success"]), st.floats(allow_nan=False, allow_infinity=False))
def test_one_changed_value_is_one_named_difference(name: str, value: float) -> None:
    """Of a step as it was logged, the last bit counts."""
    found = compare(Beginning(steps=[ROW]), Beginning(steps=[ROW | {name: value}]))
    changed = repr(value) != repr(ROW[name])
    assert [(d.step, d.where, d.what) for d in found.differences] == ([(3, "step 3", name)] if changed else [])
    near = math.nextafter(0.125, 1.0)
    last_bit = compare(Beginning(steps=[ROW]), Beginning(steps=[ROW | {"loss": near}])).differences
    assert str(last_bit[0]) == "step 3, loss: recorded 0.125, repeated 0.12500000000000003"


def test_what_is_missing_is_a_difference_and_what_is_new_is_none() -> None:
    without = {key: value for key, value in ROW.items() if key != "loss"}
    assert [d.what for d in compare(Beginning(steps=[ROW]), Beginning(steps=[without])).differences] == ["loss"]
    assert compare(Beginning(steps=[without]), Beginning(steps=[ROW])).differences == []
    assert [d.what for d in compare(Beginning(steps=[ROW]), Beginning()).differences] == ["the whole of it"]
    judged = {"decoding": "greedy", "task_id": "a", "success": 1.0}
    more = compare(Beginning(rows=[judged]), Beginning(rows=[judged, judged | {"task_id": "b"}])).differences
    assert [(d.where, d.repeated) for d in more] == [("evaluation, greedy, task b", "there")]


def test_outcomes_of_single_tasks_are_compared() -> None:
    """A mean may stay while the tasks change; of long words the place is named: the 51st of 60 letters."""
    before, after = "0" * 60, "0" * 50 + "1" + "0" * 9
    point = {"step": 2, "sampled": 0.5, "tasks": {"sampled": before, "greedy": before}}
    other = {"step": 2, "sampled": 0.5, "tasks": {"sampled": after, "greedy": before}}
    (found,) = compare(Beginning(points=[point]), Beginning(points=[other])).differences
    assert (found.where, found.what) == ("learning curve at step 2", "tasks.sampled")
    assert "letter 51" in str(found)


def test_the_first_difference_stands_first() -> None:
    recorded = Beginning({"initial_checkpoint": "a"}, [{"step": 0, "x": 1}, {"step": 2, "x": 1}], [{"step": 1, "x": 1}])
    repeated = Beginning({"initial_checkpoint": "b"}, [{"step": 0, "x": 2}, {"step": 2, "x": 2}], [{"step": 1, "x": 2}])
    assert [difference.step for difference in compare(recorded, repeated).differences] == [BEFORE, 0, 1, 2]


def test_ranges_hold_what_seeds_gave_and_nothing_else(jobs: dict[str, Job]) -> None:
    """A record of before first steps were kept: each seed lies within its own summary, a value beyond it does not,
    and of one seed the range is the value to five digits."""
    logged = read_beginning(jobs["GRPO"], 4).steps
    other = [row | {"nats_per_token": row["nats_per_token"] * 1.5, "own": 1.0} for row in logged]
    both = step_summary([("GRPO", logged), ("GRPO", other)])
    for rows in (logged, other):
        found = compare(Beginning(ranges=both), Beginning(steps=rows))
        assert found.differences == []
        assert found.held == {"ranges": 4}
    beyond = [row | {"nats_per_token": row["nats_per_token"] * 1.6} for row in logged]
    assert {d.what for d in compare(Beginning(ranges=both), Beginning(steps=beyond)).differences} == {"nats_per_token"}
    alone = step_summary([("GRPO", logged)])
    assert compare(Beginning(ranges=alone), Beginning(steps=logged)).differences == []
    moved = [row | {"nats_per_token": row["nats_per_token"] * 1.001} for row in logged]
    assert len(compare(Beginning(ranges=alone), Beginning(steps=moved)).differences) == 4
    lost = [{key: value for key, value in row.items() if key != "nats_per_token"} for row in logged]
    assert len(compare(Beginning(ranges=alone), Beginning(steps=lost)).differences) == 4
    # a step that was kept as it was logged is not held by its range again
    assert compare(Beginning(steps=logged, ranges=both), Beginning(steps=logged)).held == {"steps": 4}


def test_facts_that_another_revision_changes_by_itself_are_no_difference() -> None:
    before: dict[str, Any] = {"code": "a", "start": "a", "optimiser.betas": [0.9, 0.95], "tasks.train": "a", "old": 1}
    after = {"code": "b", "start": "b", "optimiser.betas": (0.9, 0.95), "tasks.train": "b", "new": 1}
    assert [difference.what for difference in compare_facts(before, after)] == ["tasks.train"]


def test_a_start_is_held_by_its_weights_and_by_what_was_measured(tmp_path: Path) -> None:
    """Measurements are held as they are written down: through JSON and back."""
    start = Start(tmp_path, "a" * 64, {"sampled": 0.1 + 0.2, "contexts": {"x:Y": {"adds": math.nan}}})
    written = records.read_json(_written(tmp_path / "facts.json", start_facts(start)))
    assert compare(Beginning(written), Beginning(start_facts(start))).differences == []
    other = replace(start, measured={"sampled": 0.3, "contexts": {}})
    found = compare(Beginning(written), Beginning(start_facts(other))).differences
    assert [difference.what for difference in found] == ["measured.sampled"]
    weights = replace(start, checkpoint_hash="b" * 64)
    found = compare(Beginning(written), Beginning(start_facts(weights))).differences
    assert [difference.what for difference in found] == ["initial_checkpoint"]


def _written(file: Path, value: Any) -> Path:
    records.write_json(file, value)
    return file
