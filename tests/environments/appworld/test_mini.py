"""AppWorldMini: gold, the habit, a grammar that refuses everything else, and a cache that says what the engine says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from goal_completion import VARIANTS, goal_completion
from hypothesis import given
from hypothesis import strategies as st
from playing import Played, in_parallel, play

from environments.appworld.mini import AppWorldMini, CachedAppWorldMini
from environments.appworld.world.vocabulary import COMMANDS, LOOK_UPS, NAMES, WORDS
from environments.text import check_text_env


@pytest.fixture(scope="module")
def env() -> Iterator[AppWorldMini]:
    made = AppWorldMini()
    yield made
    made.close()


def sample(env: Any, split: str, count: int) -> list[str]:
    """Tasks from all over a split: different kinds of errands."""
    tasks = env.tasks(split)
    return list(tasks[:: max(1, len(tasks) // count)][:count])


def a_line(rng: random.Random, commands: Sequence[str] = tuple(COMMANDS)) -> str:
    """A line of the small language, any of it."""
    command = rng.choice(commands)
    words = [
        str(rng.choice((1, 5, 20, 45, 99_999))) if kind == "NUMBER" else rng.choice(WORDS[kind])
        for kind in COMMANDS[command]
    ]
    return f"{command}({', '.join(words)})"


def some_actions(env: Any, task_id: str, rng: random.Random) -> list[str]:
    """Four actions at most: any lines, words that are none, look-ups, and the gold of the task; in any spelling."""
    kinds = [
        lambda: a_line(rng),
        lambda: a_line(rng, LOOK_UPS),
        lambda: rng.choice(("", "os", "pay()", "note ()")),
    ]
    actions = [rng.choice(kinds)() for _ in range(env.max_turns)]
    if rng.random() < 0.5:
        gold = env.gold(task_id)
        actions = actions[: rng.randrange(max(1, env.max_turns - len(gold) + 1))] + gold
    return [f" {action.replace(',', ' ,')} " if rng.random() < 0.3 else action for action in actions]


def play_on(env: Any, task: tuple[str, list[str]]) -> Played:
    """An episode of these actions, or of as many of them as it takes."""
    task_id, actions = task
    env.reset(options={"task_id": task_id})
    played = Played([], 0.0, False, False, {})
    for action in actions:
        output, *end = env.step(action)
        played = Played([*played.outputs, "".join(message["content"] for message in output)], *end)
        if played.terminated or played.truncated:
            break
    return played


def assert_gold_solves(tasks: list[str]) -> None:
    gold = in_parallel(AppWorldMini, 2, tasks, lambda env, task_id: play(env, task_id, env.gold(task_id)))
    assert [
        task_id for task_id, one in zip(tasks, gold, strict=True) if (one.reward, one.terminated) != (1.0, True)
    ] == []


def test_gold_solves_tasks_of_each_split_in_few_turns(env: AppWorldMini) -> None:
    assert_gold_solves([task_id for split in env.splits for task_id in sample(env, split, 5)])
    for split in env.splits:
        for task_id in env.tasks(split):
            assert 1 <= len(env.gold(task_id)) <= env.max_turns
            assert 1 <= len(env.habit(task_id)) <= env.max_turns


@pytest.mark.slow
def test_gold_solves_every_other_task(env: AppWorldMini) -> None:
    """Of the three variants of a scenario one or two."""
    assert_gold_solves([task_id for split in env.splits for task_id in env.tasks(split)[::2]])


@pytest.mark.slow
def test_the_habit_fails_on_some_variant_of_each_scenario(env: AppWorldMini) -> None:
    tasks = [task_id for place, task_id in enumerate(env.tasks("test")) if place // VARIANTS % 2]
    habit = in_parallel(AppWorldMini, 2, tasks, lambda env, task_id: play_on(env, (task_id, env.habit(task_id))))
    scenarios = {task_id.rpartition("_")[0] for task_id in tasks}
    missed = {task_id.rpartition("_")[0] for task_id, one in zip(tasks, habit, strict=True) if not one.info["success"]}
    assert missed == scenarios
    scores = goal_completion([one.episode for one in habit])
    assert scores["SGC"] == 0.0
    assert scores["scenarios"] == len(scenarios) == len(tasks) / VARIANTS


def test_splits_share_no_scenario_and_only_train_and_dev_may_be_trained_on(env: AppWorldMini) -> None:
    assert env.splits == ("train", "dev", "test")
    scenarios = [{task_id.rpartition("_")[0] for task_id in env.tasks(split)} for split in env.splits]
    assert sum(map(len, scenarios)) == len(set().union(*scenarios))
    assert not env.trainable("test")
    assert env.trainable("train")


@pytest.mark.slow
def test_keeps_the_contract_of_text_environments() -> None:
    made = gymnasium.make("environments:AppWorldMini-v0", cache=None)
    try:
        check_text_env(made, samples=2)
    finally:
        made.close()


# ---------------------------------------------------------------- the grammar


def test_every_command_is_a_line_that_the_engine_runs(env: AppWorldMini) -> None:
    """None is answered with an error of grammar or of Python: those that act end the task, the others tell
    something."""
    task_id = env.tasks("train")[0]
    rng = random.Random(3)
    for command, kinds in COMMANDS.items():
        line = a_line(rng)
        while not line.startswith(f"{command}("):
            line = a_line(rng)
        played = play(env, task_id, [line])
        assert played.terminated == (command not in LOOK_UPS) or played.outputs == ["error"], line
        assert not played.outputs[0].startswith("Error: "), line
        if not kinds:
            assert played.outputs != ["error"], line


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("", ["say one of", *COMMANDS]),
        ("nonsense", ["say one of"]),
        ("pay", ["say one of"]),
        ("import os", ["say one of"]),
        ("note(rent); done()", ["say one of"]),
        ("note(rent)\ndone()", ["say one of"]),
        ("pay(apis.supervisor, 5)", ["say one of"]),
        ("__import__(1)", ["say one of"]),
        ("pay()", ["say pay(NAME, NUMBER)"]),
        ("pay(zaphod, 5)", ["say pay(NAME, NUMBER)"]),
        (f"pay({NAMES[0]}, 05)", ["say pay(NAME, NUMBER)"]),
        (f"pay({NAMES[0]}, 1000000)", ["say pay(NAME, NUMBER)"]),
        (f"pay({NAMES[0]}, {NAMES[0]})", ["say pay(NAME, NUMBER)"]),
        (f"tick({NAMES[0]})", ["say tick(ITEM)"]),
        ("note(1)", ["say note(WORD)"]),
        ("answer(٣)", ["say one of"]),
    ],
)
def test_what_is_not_in_the_language_is_answered_and_costs_a_turn(
    env: AppWorldMini, action: str, words: list[str]
) -> None:
    env.reset(options={"task_id": env.tasks("train")[0]})
    output, reward, terminated, truncated, _ = env.step(action)
    assert output[0]["content"].startswith("Error: ")
    assert [word for word in words if word not in output[0]["content"]] == []
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.step("done()")[4]["metrics"]["bad_actions"] == 1.0


PIECES = st.sampled_from(
    [
        *COMMANDS,
        *WORDS["WORD"],
        *WORDS["ITEM"],
        *WORDS["DAY"],
        "(",
        ")",
        ",",
        " ",
        "\n",
        "1",
        "20",
        "0",
        "_",
        ".",
        "'",
        "apis",
        "os",
        ";",
    ]
)


@pytest.fixture(scope="module")
def patient() -> Iterator[AppWorldMini]:
    """An episode of many turns has begun."""
    made = AppWorldMini(max_turns=10_000)
    made.reset(options={"task_id": made.tasks("train")[0]})
    yield made
    made.close()


@given(st.text() | st.lists(PIECES, max_size=8).map("".join))
def test_no_text_raises(patient: AppWorldMini, action: str) -> None:
    output, reward, terminated, truncated, info = patient.step(action)
    assert reward in (0.0, 1.0)
    assert "failure" not in info
    assert not truncated
    assert all(len(message["content"]) <= 300 for message in output)
    if terminated:
        patient.reset(options={"task_id": patient.tasks("train")[0]})


def test_turns_run_out_unsolved(env: AppWorldMini) -> None:
    played = play(env, env.tasks("train")[0], [f"note({NAMES[0]})"] * env.max_turns)
    assert (played.reward, played.terminated, played.truncated, played.info["success"]) == (0.0, False, True, False)
    assert played.info["metrics"]["lookups"] == env.max_turns


# ---------------------------------------------------------------- the cache


def cached(folder: Path | None = None) -> CachedAppWorldMini:
    return CachedAppWorldMini(cache=None if folder is None else str(folder), audit=1.0)


def drawn(env: Any, count: int, seed: int) -> list[tuple[str, list[str]]]:
    rng = random.Random(seed)
    tasks = [task_id for split in env.splits for task_id in sample(env, split, 4)]
    chosen = [rng.choice(tasks) for _ in range(count)]
    return [(task_id, some_actions(env, task_id, rng)) for task_id in chosen]


def cached_equals_uncached(env: AppWorldMini, folder: Path, count: int) -> None:
    episodes = drawn(env, count, seed=count)
    plain = [play_on(env, episode) for episode in episodes]
    assert {one.info.get("success") for one in plain} >= {True, False}
    first = cached(folder)
    assert [play_on(first, episode) for episode in episodes] == plain
    first.close()
    # every hit is executed again, and must agree
    second = cached(folder)
    assert [play_on(second, episode) for episode in episodes] == plain
    counted = second.statistics()
    second.close()
    assert counted["misses"] == 0
    assert counted["hits"] == counted["audits"] > len(episodes)


def test_cached_equals_uncached(env: AppWorldMini, tmp_path: Path) -> None:
    cached_equals_uncached(env, tmp_path, 8)


@pytest.mark.slow
def test_cached_equals_uncached_on_many_random_episodes(env: AppWorldMini, tmp_path: Path) -> None:
    cached_equals_uncached(env, tmp_path, 60)


def test_blanks_make_no_other_action() -> None:
    env = cached()
    task_id = env.tasks("train")[0]
    one = play_on(env, (task_id, [f"note({NAMES[0]})", f"pay({NAMES[0]}, 5)"]))
    before = env.statistics()["misses"]
    assert play_on(env, (task_id, [f" note( {NAMES[0]})", f"pay( {NAMES[0]} ,5)"])) == one
    assert env.statistics()["misses"] == before
    env.close()


def test_threads_play_as_one(env: AppWorldMini) -> None:
    """Each thread has an environment; all share a cache, and what one has asked another need not."""
    episodes = drawn(env, 8, seed=5) * 2
    plain = [play_on(env, episode) for episode in episodes[:8]] * 2
    assert in_parallel(AppWorldMini, 4, episodes, play_on) == plain
    assert in_parallel(cached, 4, episodes, play_on) == plain
