"""Trajectories: the groups, credits and truths that fidelity measures, with what was shown around the tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from experiments import GRPO, small

from harness.core.errors import UserError
from harness.core.types import Anchor, Credit, Ending, Episode, KLForm, TokenSequence
from harness.evaluation.fidelity.measure import measure
from harness.evaluation.trajectories import Trajectories, play, replies_of, weights_of
from harness.experiment import Experiment
from harness.protocols.backend import Start

ADAPTIVE = {"label": "Adaptive", "plug": "agents.methods.adaptive_cringe:AdaptiveCRINGE"}


def spec() -> Experiment:
    return small(
        environment={"id": "chance_environment:Even-v0", "options": {"train": 6, "turns": 2}},
        sampling={"max_new_tokens": 2},
        context="agents.contexts:SiblingOrSolution",
        methods=[GRPO.model_dump(), ADAPTIVE],
    )


@pytest.fixture(scope="module")
def start(tiny_directory: Path) -> Start:
    return Start(tiny_directory, "0" * 64, {})


@pytest.fixture(scope="module")
def played(start: Start) -> Trajectories:
    return play(spec(), start, tasks=2, rolls=2, seed=1)


def test_credit_and_truth_are_those_that_fidelity_measures(played: Trajectories, start: Start) -> None:
    measured = measure(spec(), start, tasks=2, rolls=2, seed=1)
    assert len(played.episodes) == len(measured.episodes) == 8
    for ours, theirs in zip(played.episodes, measured.episodes, strict=True):
        for key in ("task_id", "sibling", "success", "tokens", "truth", "error"):
            assert ours[key] == theirs[key], key
        assert ours["credit"] == {name: theirs["credit"][name] for name in ("GRPO", "Adaptive")}
        assert ours["weight"]["Adaptive"]["likelihood"] == theirs["credit"]["Adaptive, own stream"]
    assert [row["name"] for row in played.methods] == ["GRPO", "Adaptive"]


def test_every_list_has_an_entry_a_token(played: Trajectories) -> None:
    for row in played.episodes:
        lists = [row["turns"], row["logprobs"], row["truth"], *row["credit"].values(), *row["gap"].values()]
        lists += [values for of in row["weight"].values() for values in of.values()]
        assert {len(values) for values in lists} == {len(row["tokens"])}
        assert set(row["gap"]) <= {"Adaptive"}  # the other has no teacher
        assert len(row["before"]) == max(row["turns"]) + 1
        assert all(role != "assistant" for shown in row["before"] for role, _ in shown)


def test_without_rolls_there_is_no_truth(start: Start) -> None:
    found = play(spec(), start, tasks=1, seed=1)
    assert all("truth" not in row for row in found.episodes)
    assert "rolls" not in found.facts


def test_nothing_to_play_is_refused(start: Start) -> None:
    with pytest.raises(UserError, match="at least one task"):
        play(spec(), start, tasks=0)
    with pytest.raises(UserError, match="names no methods"):
        play(small(methods=[]), start, tasks=1)


def episode(*messages: tuple[str, str]) -> Episode:
    nothing = np.zeros(0)
    sequence = TokenSequence(nothing.astype(int), nothing.astype(bool), nothing, nothing.astype(int))
    shown = tuple({"role": role, "content": text} for role, text in messages)
    return Episode("t", sequence, 0.0, False, Ending.COMPLETED, shown)


def test_replies_stand_before_the_message_they_led_to() -> None:
    before, after = replies_of(
        episode(("system", "be"), ("user", "q"), ("assistant", "a"), ("tool", "r"), ("assistant", "b"), ("user", "end"))
    )
    assert before == [[["system", "be"], ["user", "q"]], [["tool", "r"]]]
    assert after == [["user", "end"]]
    assert replies_of(episode(("user", "q"))) == ([], [["user", "q"]])


def test_weights_are_those_of_the_streams_on_sampled_tokens() -> None:
    mask = np.array([False, True, True])
    anchor = Anchor(np.zeros(3), np.array([9.0, 0.5, 0.25]), np.full(3, KLForm.K3, dtype=object))
    credit = Credit(advantages=np.array([9.0, 1.0, -1.0]), anchor=anchor)
    assert weights_of(credit, mask) == {"advantages": [1.0, -1.0], "anchor": [0.5, 0.25]}
