"""`tune` and `headroom`: what they run, what they write, and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO

from harness.cli.search import CONTROLS, _control_row, _plain_row
from harness.core.errors import UserError
from harness.experiment import read_experiment

Command = Callable[..., Any]
SEARCH = {"space": {"lr": [1e-4, 3e-3]}, "trials": 2, "seeds": [100], "steps": 1, "rule": "final"}


@pytest.mark.slow
def test_a_search_is_run_once_and_bench_takes_its_winners(
    harness: Command, spec: Callable[..., Path], tmp_path: Path
) -> None:
    file = spec(search=SEARCH, budget={"steps": 1})
    done = harness("tune", str(file))
    assert done.code == 0, done.err
    assert "2 trials, 0 of them finished before" in done.out
    assert (file.parent / "trials.jsonl.gz").is_file()
    again = harness("tune", str(file.parent), "--out", "again", "--json")
    assert "2 trials, 2 of them finished before" in again.err
    assert len(json.loads(again.out)["trials"]) == 2
    record = [(place / "trials.jsonl.gz").read_bytes() for place in (file.parent, tmp_path / "again")]
    assert record[0] == record[1]
    table = harness("bench", str(file))
    assert table.code == 0, table.err
    assert "trials," not in table.out  # the record beside the spec is taken
    said = (file.parent / "table.md").read_text()
    assert "GRPO, tuned" in said
    assert "expected best score of k trials" in said
    assert "GRPO, tuned" in harness("table", str(file), "--format", "csv").out
    repeated = harness("reproduce", str(file.parent))
    assert repeated.code == 0, repeated.err
    assert "rows are the same as recorded" in repeated.out


def test_what_cannot_be_tuned_is_said(harness: Command, spec: Callable[..., Path]) -> None:
    done = harness("tune", str(spec()))
    assert done.code == 2
    assert "experiment 'guessing' declares no [search]" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_headroom_runs_three_rows_and_says_whether_credit_can_help(harness: Command, spec: Callable[..., Path]) -> None:
    """On one step of an untrained policy nothing can help."""
    done = harness("headroom", str(spec(budget={"steps": 1})), "--seeds", "0-1", "--json")
    assert done.code == 0, done.err
    assert "Headroom of guessing" in done.err
    assert "No headroom" in done.err
    assert {"oracle", "inverted"} <= {row["method"] for row in json.loads(done.out)["rows"]}


def test_the_controls_are_the_specs_own_rows_or_the_installed_ones(spec: Callable[..., Path]) -> None:
    assert [_control_row(read_experiment(spec()), kind).label for kind in CONTROLS] == ["oracle", "inverted"]
    own = {"label": "exact", "plug": "agents.methods.oracle:Oracle", "options": {"exact": True}}
    assert _control_row(read_experiment(spec(methods=[GRPO.model_dump(), own])), "upper").label == "exact"


def test_the_row_that_credit_is_to_beat_has_no_teacher(spec: Callable[..., Path]) -> None:
    taught = {"label": "OPSD", "plug": "agents.methods.opsd:OPSD"}
    tried = GRPO.model_dump() | {"label": "tried", "exploratory": True}
    experiment = read_experiment(spec(methods=[taught, tried, GRPO.model_dump(), RLOO.model_dump()]))
    assert _plain_row(experiment).label == "GRPO"
    with pytest.raises(UserError, match="has no row without a teacher"):
        _plain_row(read_experiment(spec(methods=[taught])))
