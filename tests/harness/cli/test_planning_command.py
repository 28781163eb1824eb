"""`harness plan`: what an experiment costs, what is refused of it, and what it will find."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO
from guides import done, refused

from harness import ROOT

Command = Callable[..., Any]


def test_from_assumptions_where_nothing_is_recorded(harness: Command, spec: Callable[..., Path]) -> None:
    """2 seeds, 2 steps of 4 tasks with 4 siblings: 2 * 2 * 4 * 4 = 64 rollouts a row."""
    file = spec(methods=[GRPO.model_dump(), RLOO.model_dump()])
    said = harness("plan", str(file.parent), "--seeds", "2", "--effect", "0.03")
    assert said.code == 0, said.err
    for words in (
        "Seeds for 0.03",
        "assumed",
        "by 2 seeds",
        "What this experiment will cost",
        "at most",
        "1 of 1 starts, 0 of 8 runs",
    ):
        assert words in " ".join(said.out.split()), said.out[-900:]
    plain = json.loads(harness("plan", str(file), "--json").out)
    assert [row["rollouts"] for row in plain[0]["rows"]] == [64, 64]
    assert plain[0]["rows"][0]["seconds"] is None
    assert plain[0]["refused"] == []


def test_what_would_be_refused_is_all_said_at_once(harness: Command, spec: Callable[..., Path]) -> None:
    wrong = {"label": "wrong", "plug": "agents.methods.grpo:GRPO", "options": {"lk": 0.1}}
    other = {"label": "other", "plug": "agents.methods.grpo:GPRO"}
    file = spec(methods=[wrong, other], evaluation={"every": 0, "tasks": 4, "curve_split": "dve"})
    said = harness("plan", str(file), "--json")
    assert said.code == 1
    [plan] = json.loads(said.out)
    text = "\n".join(plan["refused"])
    assert "did you mean 'kl'?" in text
    assert "did you mean 'agents.methods.grpo:GRPO'?" in text
    assert "did you mean 'dev'?" in text or "unknown split 'dve'" in text


def test_a_file_that_is_missing_is_named_once_with_what_fetches_it(harness: Command) -> None:
    said = harness("plan", str(ROOT / "results" / "paper" / "hsd" / "mathematics"), "--json")
    assert said.code == 1
    [sentence] = json.loads(said.out)[0]["refused"]
    assert "problems of MATH to train on (data/math/train.jsonl): the lines of Python in NOTES.md" in sentence
    assert sentence.count("data/math/train.jsonl") == 1
    assert "Errno" not in said.out + said.err


def test_a_file_of_a_spec_without_a_paper_is_named(harness: Command, spec: Callable[..., Path]) -> None:
    options = {"id": "environments:Reasoning-v0", "options": {"file": "not-here.jsonl"}}
    said = harness("plan", str(spec(environment=options)), "--json")
    assert said.code == 1
    [sentence] = json.loads(said.out)[0]["refused"]
    assert "needs the file 'not-here.jsonl', which is not here" in sentence


def test_an_effect_is_a_difference_of_rates(tmp_path: Path) -> None:
    spec = ROOT / "results/laptop/reasoning-mini/spec.toml"
    assert "between 0 and 1, got 5" in refused(tmp_path, f"harness plan {spec} --effect 5")


@pytest.mark.slow
def test_a_folder_of_specs_is_planned(tmp_path: Path) -> None:
    said = done(tmp_path, f"harness plan {ROOT / 'results/scaling/pivots'}")
    assert len(re.findall("What this experiment will cost", said)) == 3
