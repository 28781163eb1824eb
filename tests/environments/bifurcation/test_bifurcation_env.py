"""Bifurcation-v0 as an environment: the contract, the splits, chance in the outcome, what it says of its state."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from bifurcation_families import random_actions, sound, walk
from hypothesis import given
from hypothesis import strategies as st

from environments.bifurcation.env import Bifurcation, deal, split_of_places
from environments.bifurcation.rules import Rules
from environments.bifurcation.values import reference_value
from environments.text import check_text_env
from harness.core.episodes import episode_from_row, episode_to_row
from harness.core.seeds import SeedTree
from harness.experiment import EnvironmentSettings
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import MessagePolicy
from harness.rollout.rollouts import Rollouts

FAMILIES: list[dict[str, Any]] = [
    {},
    {"horizon": 2},
    {"horizon": 32, "pivots": 4, "decoys": 4, "words": 3},
    {"pivots": 2, "decoys": 2, "delay": 1, "recoverable": True},
    {"right": 1.0, "wrong": 0.0},
]


def play(env: Bifurcation, task_id: str, actions: list[str], seed: int = 0) -> tuple[list[dict[str, Any]], float]:
    """The infos of an episode, the first that of reset, and its reward."""
    infos, reward = [env.reset(seed=seed, options={"task_id": task_id})[1]], 0.0
    for action in actions:
        _, reward, *_, info = env.step(action)
        infos.append(info)
    return infos, reward


@pytest.mark.parametrize("options", FAMILIES)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_text_env(gymnasium.make("environments:Bifurcation-v0", **options), samples=5)


@pytest.mark.parametrize(
    "rules",
    [Rules(), Rules(horizon=2), Rules(horizon=3, kinds=2), Rules(horizon=6, pivots=2, delay=1, recoverable=True)],
)
def test_splits_are_decided_by_the_letters_alone(rules: Rules) -> None:
    tasks = deal(rules)
    every = [task for split in tasks.values() for task in split]
    assert len(set(every)) == len(every)
    assert all(split_of_places(task) == split for split, ids in tasks.items() for task in ids)
    assert [split_of_places(places) for places in ("abcd", "qwer")] == ["train", "test"]


def test_the_default_family_has_tasks_for_every_split() -> None:
    env = Bifurcation()
    assert {split: len(env.tasks(split)) for split in env.splits} == {"train": 4000, "dev": 200, "test": 400}
    assert [env.trainable(split) for split in env.splits] == [True, False, False]
    assert not env.mini
    assert "controlled" in env.protocol


def test_the_outcome_is_drawn_with_the_stated_chance_in_train_alone() -> None:
    env = Bifurcation(right=0.7, wrong=0.1)
    for careful, chance in ((True, 0.7), (False, 0.1)):
        task = env.tasks("train")[3]
        actions = env.world(task).script(careful)
        wins = [play(env, task, actions, seed)[1] for seed in range(200)]
        # four standard deviations of a mean of 200
        assert abs(np.mean(wins) - chance) < 4 * np.sqrt(chance * (1 - chance) / 200)
        for split in ("dev", "test"):
            held_out = env.tasks(split)[3]
            actions = env.world(held_out).script(careful)
            assert {play(env, held_out, actions, seed)[1] for seed in range(20)} == {float(careful)}


def test_the_seed_decides_the_outcome() -> None:
    env = Bifurcation()
    task = env.tasks("train")[0]
    first, again = ([play(env, task, env.gold(task), seed)[1] for seed in range(30)] for _ in range(2))
    assert first == again
    assert set(first) == {0.0, 1.0}


@given(st.sampled_from(FAMILIES), st.integers(0, 10_000))
def test_it_plays_the_worlds(options: dict[str, Any], seed: int) -> None:
    """Observations, values and the end of a random episode are those of the pure functions."""
    env = Bifurcation(**options)
    task = env.tasks("train")[seed % 50]
    world = env.world(task)
    actions = random_actions(world, np.random.default_rng(seed))
    states = walk(world, actions)
    messages, info = env.reset(seed=seed, options={"task_id": task})
    for place, action in enumerate(actions):
        assert messages == ({"role": "user", "content": world.observe(states[place])},)
        assert info["value"] == reference_value(world, states[place])
        assert info["state"].startswith(f"{task} {place}")
        messages, reward, terminated, truncated, info = env.step(action)
    assert (terminated, truncated, reward) == (True, False, float(info["success"]))
    assert info["metrics"]["chance"] == (env.rules.right if sound(world, actions) else env.rules.wrong)
    assert info["value"] == info["metrics"]["chance"]
    right = [action.split()[0] == env.rules.needed.get(task[at]) for at, action in enumerate(actions)]
    assert info["metrics"]["pivots_right"] == np.mean([right[at] for at in world.pivots])


class Deaf(MessagePolicy):
    """The environment's second reply does not fit its window."""

    def observe(self, conversation: Any, messages: Any) -> bool:
        return len(conversation.states) < 3


def test_an_episode_keeps_what_its_states_and_its_end_were_worth() -> None:
    """With one pivotal turn of four the value is 0.5 before it, 0.7 or 0.3 behind it, and the reward is drawn."""
    env = Bifurcation(horizon=4, right=0.7, wrong=0.3)
    tasks = env.tasks("train")[:20]
    scripts = [tuple(env.gold(task) if place % 2 else env.habit(task)) for place, task in enumerate(tasks)]
    asked = [Request(task, SeedTree(1)[task], script=script) for task, script in zip(tasks, scripts, strict=True)]
    options = {"horizon": 4, "right": 0.7, "wrong": 0.3}
    with EnvironmentPool(EnvironmentSettings(id="environments:Bifurcation-v0", options=options)) as pool:
        played, cut = Rollouts(pool).play(asked, MessagePolicy()), Rollouts(pool).play(asked[:1], Deaf())[0]
    assert {episode.reward for episode in played} == {0.0, 1.0}
    for place, (task, episode) in enumerate(zip(tasks, played, strict=True)):
        end = 0.7 if place % 2 else 0.3
        pivot = env.world(task).pivots[0]
        assert episode.end_value == end
        assert episode.state_values == pytest.approx([0.5] * (pivot + 1) + [end] * (3 - pivot))
        assert episode_from_row(episode_to_row(episode)).end_value == end
    assert (cut.ending, cut.end_value, episode_from_row(episode_to_row(cut)).end_value) == ("token_limit", None, None)


def test_states_have_one_name_exactly_where_they_are_equal() -> None:
    env = Bifurcation(horizon=8, pivots=2, decoys=2, delay=1, recoverable=True)
    task = env.tasks("train")[0]
    world = env.world(task)
    named: dict[str, Any] = {}
    for seed in range(200):
        actions = random_actions(world, np.random.default_rng(seed))
        for state, info in zip(walk(world, actions), play(env, task, actions)[0], strict=False):
            if "state" in info:
                assert named.setdefault(info["state"], state) == state
    assert len(set(named.values())) == len(named) > 8


@pytest.mark.parametrize("action", ["", "9", "12", " 1", "1 a", "!", "one", "١"])
def test_a_refused_action_costs_the_task(action: str) -> None:
    env = Bifurcation(options=8)
    task = env.tasks("dev")[0]
    infos, reward = play(env, task, [action, *env.gold(task)[:-1]])
    assert infos[1]["value"] == 0.0
    assert infos[1]["state"].startswith(f"{task} late 0")
    assert (reward, infos[-1]["metrics"]["bad_actions"], infos[-1]["metrics"]["chance"]) == (0.0, 1.0, 0.0)
    assert infos[-1]["value"] == 0.0


def test_the_answer_is_what_the_pivotal_places_need() -> None:
    env = Bifurcation(pivots=2)
    task = env.tasks("train")[0]
    gold = env.gold(task)
    assert env.answer(task) == " ".join(gold[at] for at in env.world(task).pivots)


def test_where_mistakes_can_be_taken_back_every_other_gold_shows_how() -> None:
    env = Bifurcation(recoverable=True)
    shows = ["!" in env.gold(task) for task in env.tasks("train")[:400]]
    assert 0.4 < np.mean(shows) < 0.6  # a fair coin of the task's letters: 400 of them stay within four deviations
    assert not any("!" in env.habit(task) for task in env.tasks("train")[:400])


def test_the_version_names_every_parameter() -> None:
    assert len({Bifurcation(**options).version for options in FAMILIES}) == len(FAMILIES)


def test_a_family_without_tasks_for_a_split_is_refused() -> None:
    with pytest.raises(ValueError, match="too few tasks"):
        Bifurcation(horizon=2, kinds=1, pivots=2)
