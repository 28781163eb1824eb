"""Guess-v0: its replies, its splits, and what halving and counting up are worth."""

from __future__ import annotations

import timeit
from typing import Any, Literal

import gymnasium
import pytest

from environments.guess import Guess
from environments.text import check_text_env


def play(env: Guess, task_id: str, actions: list[str]) -> tuple[list[str], float]:
    env.reset(options={"task_id": task_id})
    replies = []
    for action in actions:
        messages, reward, *_ = env.step(action)
        replies.append(messages[0]["content"])
    return replies, reward


def test_it_keeps_the_contract() -> None:
    check_text_env("environments:Guess-v0", samples=100)


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_gymnasiums_vector_of_it_is_as_many_single_ones(mode: Literal["sync", "async"]) -> None:
    given: Any = {"shared_memory": False} if mode == "async" else {}  # text has no fixed size in shared memory
    many = gymnasium.make_vec("environments:Guess-v0", num_envs=3, vectorization_mode=mode, vector_kwargs=given)
    single = [Guess() for _ in range(3)]
    told, _ = many.reset(seed=7)
    assert list(told) == [env.reset(seed=7 + n)[0] for n, env in enumerate(single)]
    for action in ("5", "nonsense", "8"):
        told, rewards, terminated, truncated, info = many.step((action, "6", "7"))
        alone = [env.step(said) for env, said in zip(single, (action, "6", "7"), strict=True)]
        assert list(told) == [one[0] for one in alone]
        assert rewards.tolist() == [one[1] for one in alone]
        assert terminated.tolist() == [one[2] for one in alone]
        assert truncated.tolist() == [one[3] for one in alone]
        if terminated.any() or truncated.any():
            break
    assert info["success"].tolist() == [bool(one[4].get("success")) for one in alone]
    many.close()


def test_halving_by_hand() -> None:
    # 3 to 9: the middle is 6; 7 is higher, left are 7 8 9 with middle 8; 7 is lower, left is 7
    env = Guess()
    assert env.gold("3-9:7") == ["6", "8", "7"]
    assert play(env, "3-9:7", ["6", "8", "7"]) == (["higher", "lower", "yes"], 1.0)
    assert env.answer("3-9:7") == "7"


def test_counting_up_finds_the_lowest_three_of_seven() -> None:
    env = Guess()
    every = [task for split in env.splits for task in env.tasks(split)]
    solved = [task for task in every if play(env, task, env.habit(task))[1] == 1.0]
    assert len(every) == 12 * 7
    assert len(solved) == 12 * 3
    assert all(int(task.split(":")[1]) - int(task.split("-")[0]) < 3 for task in solved)


@pytest.mark.parametrize("size", [4, 7, 10, 16])
def test_halving_always_suffices(size: int) -> None:
    env = Guess(size=size, windows=5)
    for split in env.splits:
        assert all(play(env, task, env.gold(task))[1] == 1.0 for task in env.tasks(split))


def test_every_window_has_held_out_secrets() -> None:
    env = Guess()
    assert [len(env.tasks(split)) for split in ("train", "dev", "test")] == [48, 12, 24]
    for low in range(1, 13):
        window = f"{low}-{low + 6}:"
        assert [sum(task.startswith(window) for task in env.tasks(split)) for split in env.splits] == [4, 1, 2]


def test_no_number_is_a_bad_action() -> None:
    env = Guess()
    assert play(env, "3-9:7", ["seven", "7"]) == (["Error: send one whole number", "yes"], 1.0)


def test_the_version_names_the_options() -> None:
    assert Guess().version != Guess(size=8).version != Guess(size=8, max_turns=9).version
    with pytest.raises(ValueError, match="size 3"):
        gymnasium.make("environments:Guess-v0", size=3)


def test_unknown_tasks_are_named() -> None:
    env = Guess()
    for ask in (env.gold, env.habit, env.answer):
        with pytest.raises(ValueError, match="did you mean '3-9:7'"):
            ask("3-9:77")


def test_an_episode_takes_well_under_a_millisecond() -> None:
    env = Guess()

    def episode() -> None:
        env.reset(seed=1)
        env.step("6")

    # the best of five, so that a busy neighbour does not count
    assert min(timeit.repeat(episode, number=100, repeat=5)) / 100 < 5e-4


def test_every_secret_is_trained_on_by_somebody_and_held_out_for_somebody() -> None:
    """Four players: each secret of each window is in train for two of them, in dev for one and in test for one."""
    env = Guess(windows=3, players=4)
    for low in range(1, 4):
        for secret in range(low, low + 7):
            asked = [f"{name} {low}-{low + 6}:{secret}" for name in ("Ann", "Ben", "Cleo", "Dan")]
            assert sorted(env.split_of(task) for task in asked) == ["dev", "test", "train", "train"]
    for name in ("Ann", "Ben", "Cleo", "Dan"):
        assert {
            env.split_of(task) for split in env.splits for task in env.tasks(split) if task.startswith(name)
        } == set(env.splits)
    assert env.reset(options={"task_id": "Ann 3-9:7"})[0][0]["content"] == "Ann: guess 3 to 9"
    assert play(env, "Ann 3-9:7", env.gold("Ann 3-9:7")) == (["higher", "lower", "yes"], 1.0)
    check_text_env(env, samples=20)


@pytest.mark.parametrize("players", [1, 2, 9, -1])
def test_too_few_players_hold_nothing_out(players: int) -> None:
    with pytest.raises(ValueError, match=f"no players or 3 to 8 of them, got {players}"):
        Guess(players=players)
