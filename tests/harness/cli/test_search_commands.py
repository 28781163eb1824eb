"""`tune` and `headroom`: what they run, what they write, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO
from table_records import Records

from harness.cli.search import _plain_row, verdicts
from harness.core.errors import UserError
from harness.experiment import read_experiment
from harness.tables.table import build

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
    assert "2 trials, 2 of them finished before" in harness("tune", str(file.parent), "--out", "again").out
    record = [(place / "trials.jsonl.gz").read_bytes() for place in (file.parent, tmp_path / "again")]
    assert record[0] == record[1]
    table = harness("bench", str(file))
    assert table.code == 0, table.err
    assert "trials," not in table.out  # the record beside the spec is taken
    said = (file.parent / "table.md").read_text()
    assert "GRPO, tuned" in said
    assert "expected best score of k trials" in said
    assert "GRPO, tuned" in harness("table", str(file), "--format", "csv").out
    again = harness("reproduce", str(file.parent))
    assert again.code == 0, again.err
    assert "rows are the same as recorded" in again.out


def test_what_cannot_be_tuned_is_said(harness: Command, spec: Callable[..., Path]) -> None:
    done = harness("tune", str(spec()))
    assert done.code == 2
    assert "experiment 'guessing' declares no [search]" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_headroom_runs_three_rows_and_says_whether_credit_can_help(harness: Command, spec: Callable[..., Path]) -> None:
    """Two plain methods stand in for the controls: on one step of an untrained policy nothing can help."""
    controls = ["--upper", RLOO.plug, "--lower", "dr_grpo"]
    done = harness("headroom", str(spec(budget={"steps": 1})), *controls, "--seeds", "0-1")
    assert done.code == 0, done.err
    assert "Headroom of guessing" in done.out
    assert "no credit assignment could have been seen to help" in done.out


def test_the_row_that_credit_is_to_beat_has_no_teacher(spec: Callable[..., Path]) -> None:
    taught = {"label": "OPSD", "plug": "agents.methods.opsd:OPSD"}
    tried = GRPO.model_dump() | {"label": "tried", "exploratory": True}
    experiment = read_experiment(spec(methods=[taught, tried, GRPO.model_dump(), RLOO.model_dump()]))
    assert _plain_row(experiment).label == "GRPO"
    with pytest.raises(UserError, match="has no row without a teacher"):
        _plain_row(read_experiment(spec(methods=[taught])))


@pytest.mark.parametrize(("upper", "said"), [(0.95, "can help here"), (0.6, "could have been seen to help")])
def test_the_verdict_is_the_interval_and_the_detectable_effect(upper: float, said: str) -> None:
    made = Records().add("base", 0.2, role="base").add("GRPO", 0.6).add("upper", upper).add("lower", 0.3)
    table = build(made.runs, made.rows)
    sentences = verdicts(table, "GRPO")
    assert [sentence.split(":")[0] for sentence in sentences] == ["sampled", "greedy"]
    assert said in sentences[0]
    assert f"{table.rows[2].scores['sampled'].versus.mean:+.3f}" in sentences[0]  # type: ignore[union-attr]
    bare = {decoding: replace(score, detectable=None) for decoding, score in table.rows[2].scores.items()}
    unknown = [replace(row, scores=bare) if row.run.method == "upper" else row for row in table.rows]
    assert verdicts(replace(table, rows=tuple(unknown)), "GRPO") == []
