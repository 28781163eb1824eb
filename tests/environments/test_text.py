"""TextEnv: choosing tasks, turns, errors, endings; the spaces."""

from __future__ import annotations

from typing import Any

import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st

from environments.text import BadAction, Messages, Reply, Text, TextEnv, over, unknown_name


class Countdown(TextEnv):
    """Say the numbers from the task's down to 1; "skip" is refused, "give up" ends, "crash" breaks the environment."""

    def __init__(self, **given: Any) -> None:
        super().__init__(
            {"train": ["1", "2", "3", "4"], "test": ["5"], "none": []}, **({"max_turns": 4, "version": "1"} | given)
        )
        self.left = 0

    def open(self, task_id: str) -> Reply:
        self.left = int(task_id)
        return Reply([{"role": "system", "content": "count down"}, {"role": "user", "content": task_id}])

    def respond(self, action: str) -> Reply:
        if action == "skip":
            raise BadAction("no skipping")
        if action == "crash":
            raise OSError("the disk is gone")
        if action == "give up":
            return over(False, "pity", reward=0.25, metrics={"left": self.left})
        self.left -= action == str(self.left)
        return over(True, "done") if self.left == 0 else Reply("go on")


def test_an_episode_from_opening_to_success() -> None:
    env = Countdown()
    messages, info = env.reset(options={"task_id": "2"})
    assert messages == ({"role": "system", "content": "count down"}, {"role": "user", "content": "2"})
    assert info == {"task_id": "2", "split": "train", "max_turns": 4}
    assert env.step("2") == (({"role": "user", "content": "go on"},), 0.0, False, False, {"task_id": "2"})
    messages, reward, terminated, truncated, info = env.step("1")
    assert (messages, reward, terminated, truncated) == (({"role": "user", "content": "done"},), 1.0, True, False)
    assert info == {"task_id": "2", "success": True, "metrics": {"turns": 2.0, "bad_actions": 0.0}}


def test_a_bad_action_is_answered_and_costs_a_turn() -> None:
    env = Countdown(max_turns=2)
    env.reset(options={"task_id": "1"})
    assert env.step("skip")[0] == ({"role": "user", "content": "Error: no skipping"},)
    _, reward, terminated, truncated, info = env.step("skip")
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert info["metrics"] == {"turns": 2.0, "bad_actions": 2.0}


def test_the_last_turn_can_still_succeed() -> None:
    env = Countdown(max_turns=1)
    env.reset(options={"task_id": "1"})
    assert env.step("1")[1:4] == (1.0, True, False)


def test_running_out_of_turns_asks_stop_for_the_verdict() -> None:
    class Partial(Countdown):
        def stop(self) -> Reply:
            return over(False, "not shown", reward=0.5, metrics={"left": self.left})

    env = Partial(max_turns=1)
    env.reset(options={"task_id": "3"})
    messages, reward, terminated, truncated, info = env.step("3")
    assert (messages, reward, terminated, truncated) == (({"role": "user", "content": "go on"},), 0.5, False, True)
    assert info["metrics"]["left"] == 2.0


def test_rewards_and_metrics_of_the_task_reach_the_end() -> None:
    env = Countdown()
    env.reset(options={"task_id": "3"})
    _, reward, terminated, _, info = env.step("give up")
    assert (reward, terminated, info["success"], info["metrics"]["left"]) == (0.25, True, False, 3.0)
    assert isinstance(info["metrics"]["left"], float)


def test_stepping_outside_an_episode_is_refused() -> None:
    env = Countdown()
    with pytest.raises(RuntimeError, match="reset"):
        env.step("1")
    env.reset(options={"task_id": "1"})
    env.step("1")
    with pytest.raises(RuntimeError, match="reset"):
        env.step("1")


def test_after_the_environment_itself_failed_the_episode_is_over() -> None:
    env = Countdown()
    env.reset(options={"task_id": "1"})
    with pytest.raises(OSError, match="disk"):
        env.step("crash")
    with pytest.raises(RuntimeError, match="reset"):
        env.step("1")
    env.reset(options={"task_id": "1"})
    assert env.step("1")[1] == 1.0


def test_an_action_is_a_string() -> None:
    env = Countdown()
    env.reset()
    with pytest.raises(TypeError, match="bytes"):
        env.step(b"1")  # type: ignore[arg-type]
    assert env.step("9")[0] == ({"role": "user", "content": "go on"},)


def test_the_seed_draws_the_task() -> None:
    env, twin = Countdown(), Countdown()
    drawn = [env.reset(seed=seed)[1]["task_id"] for seed in range(200)]
    assert drawn == [twin.reset(seed=seed)[1]["task_id"] for seed in range(200)]
    assert set(drawn) == {"1", "2", "3", "4"}
    # without a new seed the stream goes on, from the same place in both
    env.reset(seed=7)
    twin.reset(seed=7)
    assert [env.reset()[1]["task_id"] for _ in range(20)] == [twin.reset()[1]["task_id"] for _ in range(20)]


def test_a_named_split_is_drawn_from() -> None:
    assert Countdown().reset(seed=1, options={"split": "test"})[1] == {"task_id": "5", "split": "test", "max_turns": 4}


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({"task_id": "55"}, "unknown task '55'; did you mean '5'"),
        ({"task_id": 5}, "unknown task 5"),
        ({"task_id": ["5"]}, "unknown task"),
        ({"split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
        ({"task": "1"}, "unknown option of reset 'task'; did you mean 'task_id'"),
        ({"task_id": "5", "split": "train"}, "task '5' is in split 'test', not in 'train'"),
        ({"split": "none"}, "split 'none' has no tasks"),
    ],
)
def test_wrong_options_are_refused_with_the_right_name(options: dict[str, Any], output: str) -> None:
    with pytest.raises(ValueError, match=output.replace("(", r"\(")):
        Countdown().reset(options=options)


def test_what_the_environment_says_of_itself() -> None:
    env = Countdown(terse=True, default_split="test")
    assert (env.splits, env.default_split, env.version, env.terse) == (("train", "test", "none"), "test", "1", True)
    assert [env.trainable(split) for split in env.splits] == [True, False, False]
    assert env.tasks("train") == ["1", "2", "3", "4"]
    assert (env.gold("1"), env.habit("1"), env.answer("1")) == (None, None, None)
    assert env.reset(seed=0)[1]["split"] == "test"
    for ask in (env.tasks, env.trainable):
        with pytest.raises(ValueError, match="did you mean 'train'"):
            ask("trian")


def test_tools_are_shown_at_reset() -> None:
    env = Countdown(tools=[{"type": "function"}])
    assert env.reset()[1]["tools"] == [{"type": "function"}]


@pytest.mark.parametrize(
    ("given", "output"), [({"max_turns": 0}, "max_turns"), ({"default_split": "trian"}, "did you mean 'train'")]
)
def test_a_wrong_constructor_call_is_refused(given: dict[str, Any], output: str) -> None:
    with pytest.raises(ValueError, match=output):
        Countdown(**given)


def test_a_task_stands_in_one_split() -> None:
    with pytest.raises(ValueError, match="'a' stands twice: in 'train' and in 'test'"):
        TextEnv({"train": ["a"], "test": ["a"]}, max_turns=1, version="1")


def test_messages_handed_out_are_copies() -> None:
    env = Countdown()
    first, _ = env.reset(options={"task_id": "1"})
    first[0]["content"] = "changed"
    assert env.reset(options={"task_id": "1"})[0][0]["content"] == "count down"


@given(st.text())
def test_every_string_is_an_action(text: str) -> None:
    assert text in Text()


@pytest.mark.parametrize("space", [Text(), Messages()])
def test_spaces_sample_from_their_seed_within_themselves(space: Text | Messages) -> None:
    space.seed(3)
    first = [space.sample() for _ in range(50)]
    space.seed(3)
    again = [space.sample() for _ in range(50)]
    assert data_equivalence(first, again)
    assert len({str(sample) for sample in first}) > 25
    assert all(sample in space for sample in first)
    with pytest.raises(ValueError, match="mask"):
        space.sample(mask=1)


@pytest.mark.parametrize(
    "wrong",
    [
        [{"role": "user", "content": "a list"}],
        ({"role": "boss", "content": "no such role"},),
        ({"role": "user"},),
        ({"role": "user", "content": None},),
        ("text",),
        None,
    ],
)
def test_what_is_no_tuple_of_messages(wrong: object) -> None:
    assert wrong not in Messages()


def test_unknown_names_list_the_known_when_none_is_near() -> None:
    assert str(unknown_name("colour", "zzz", ["red", "green"])) == "unknown colour 'zzz'; known: red, green"
