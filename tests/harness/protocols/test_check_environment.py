"""check_text_env finds each way of breaking the contract, and is silent about environments that keep it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from environments.text import ContractError, Reply, TextEnv, check_text_env, over

GUIDE = Path(__file__).parents[3] / "docs" / "adding-an-environment.md"


class Echo(TextEnv):
    """Say the task's name."""

    def __init__(self) -> None:
        super().__init__({"train": ["red", "blue"], "test": ["green"]}, max_turns=2, version="1")

    def open(self, task_id: str) -> Reply:
        return Reply(f"say {task_id}")

    def respond(self, action: str) -> Reply:
        return over(action == self.task_id)

    def gold(self, task_id: str) -> list[str] | None:
        return [task_id]


def test_a_sound_environment_passes() -> None:
    check_text_env(Echo())


class Raises(Echo):
    def respond(self, action: str) -> Reply:
        return super().respond(str(int(action or "0")) and action)


class Encodes(Echo):
    def respond(self, action: str) -> Reply:
        action.encode()
        return super().respond(action)


class WrongGold(Echo):
    def gold(self, task_id: str) -> list[str]:
        return ["red"]


class EmptyGold(Echo):
    def gold(self, task_id: str) -> list[str]:
        return []


class LongGold(Echo):
    def gold(self, task_id: str) -> list[str]:
        return [task_id, "and more"]


class Idle(Echo):
    def respond(self, action: str) -> Reply:
        return over(action in ("", self.task_id))


class Chancy(Echo):
    count = 0

    def respond(self, action: str) -> Reply:
        type(self).count += 1
        return over(action == self.task_id, str(type(self).count))


class NoRole(Echo):
    def open(self, task_id: str) -> Reply:
        return Reply([{"content": "say it"}])


class Eager(Echo):
    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        messages, reward, terminated, truncated, info = super().step(action)
        return messages, reward if terminated else 0.5, terminated, truncated, info

    def respond(self, action: str) -> Reply:
        return super().respond(action) if action == self.task_id else Reply("again")


class NoSuccess(Echo):
    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *result, _ = super().step(action)
        return (*result, {"metrics": {}})  # type: ignore[return-value]


class Lenient(Echo):
    def _choose(self, options: Any) -> tuple[str, str]:
        return "red", "train"


class Shared(Echo):
    def tasks(self, split: str) -> list[str]:
        return ["red"]


class ShortGold(Echo):
    def respond(self, action: str) -> Reply:
        return super().respond(action) if self.turn > 1 else Reply("again")


class Endless(Echo):
    def __init__(self) -> None:
        super().__init__()
        self.max_turns = 10**9

    def respond(self, action: str) -> Reply:
        return super().respond(action) if action == self.task_id else Reply("again")


class Declares(Echo):
    """An environment that declares one thing wrongly."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        setattr(self, name, value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("version", "", "version must be a non-empty string"),
        ("max_turns", 0, "max_turns must be a whole number of at least 1, got 0"),
        ("terse", None, "terse must be a bool, got None"),
        ("mini", 1, "mini must be a bool, got 1"),
        ("protocol", True, "protocol must be a string or None, got True"),
        ("idle_action", None, "idle_action must be a string, got None"),
        ("idle_reward", 2.0, "idle_reward must be in 0..1 or None, got 2.0"),
        ("gold_chance", 0, "gold_chance must be in 0..1 and above 0, got 0"),
        ("gold_chance", None, "gold_chance must be in 0..1 and above 0, got None"),
        ("success_metrics", "SGC", "success_metrics must be a tuple of strings, got 'SGC'"),
        ("success_metrics", (1,), r"success_metrics must be a tuple of strings, got \(1,\)"),
        ("scenario_of", len, r"scenario_of\('red'\) must be a string, got 3"),
        ("trainable", lambda split: None, r"trainable\('train'\) must be a bool"),
        ("floor", lambda task_id: -0.5, "task 'red': floor must be in 0..1 or None, got -0.5"),
        ("floor", lambda task_id: 0.5, "task 'red': doing nothing scores 0.0, but floor"),
    ],
)
def test_what_is_declared_wrongly_is_named(name: str, value: Any, problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        check_text_env(Declares(name, value))


@pytest.mark.parametrize(("task", "scenario"), [("abc_1", "abc"), ("a_b_2", "a_b"), ("alone", "alone")])
def test_a_scenario_is_the_id_up_to_its_last_underscore(task: str, scenario: str) -> None:
    assert Echo().scenario_of(task) == scenario


class Lucky(Echo):
    """Gold succeeds under one seed in four."""

    def respond(self, action: str) -> Reply:
        return over(action == self.task_id and bool(self.np_random.random() < 0.25))


def test_where_the_outcome_is_drawn_gold_has_to_succeed_under_some_seed() -> None:
    lucky = Lucky()
    with pytest.raises(ContractError, match=r"gold scores 0\.0, success False"):
        check_text_env(lucky)
    lucky.gold_chance = 0.25
    check_text_env(lucky)


def test_gold_that_never_succeeds_is_found_whatever_its_chance() -> None:
    wrong = WrongGold()
    wrong.gold_chance = 0.25
    with pytest.raises(ContractError, match=r"task 'blue': gold scores 0\.0, success False"):
        check_text_env(wrong)


def test_doing_nothing_is_what_the_environment_says_it_is() -> None:
    class Waits(Idle):
        """An empty action solves it; the action that does nothing is another one."""

        idle_action = "wait"

    check_text_env(Waits())


def test_the_final_answer_is_a_string() -> None:
    class Numbered(Echo):
        def respond(self, action: str) -> Reply:
            return over(action == self.task_id, answer=7)  # type: ignore[arg-type]

    with pytest.raises(ContractError, match=r"info\['answer'\] must be a string where it is there, got 7"):
        check_text_env(Numbered())


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (Raises, "action '日本語.*ValueError"),
        (Encodes, "UnicodeEncodeError"),
        (WrongGold, "task 'blue': gold scores 0.0, success False"),
        (EmptyGold, "task 'red': gold has no actions"),
        (LongGold, "gold has 2 actions but the episode ended after 1"),
        (Idle, "doing nothing scores 1.0, not 0.0"),
        (Chancy, "the same seed and actions gave two different episodes"),
        (NoRole, "no tuple of messages"),
        (Eager, "reward 0.5 before the end"),
        (NoSuccess, r"info\['success'\] must be a bool"),
        (Lenient, "reset accepts the unknown"),
        (Shared, "share tasks, 'red' for one"),
        (ShortGold, "task 'red': gold does not end the episode"),
        (Endless, "did not end within 1000 turns"),
    ],
)
def test_every_breach_is_named(broken: type[Echo], problem: str) -> None:
    with pytest.raises(ContractError, match=problem):
        check_text_env(broken())


def test_all_problems_come_in_one_error() -> None:
    class Both(WrongGold, Idle):
        pass

    with pytest.raises(ContractError) as caught:
        check_text_env(Both())
    assert "doing nothing scores" in str(caught.value)
    assert str(caught.value).count("\n- ") >= 2


def test_a_floor_that_is_meant_is_accepted() -> None:
    class Floor(Idle):
        idle_reward = None

    check_text_env(Floor())


def test_an_environment_without_our_base_is_told_what_it_lacks() -> None:
    with pytest.raises(ContractError, match=r"lacks splits, default_split, version, .*, tasks, trainable, gold"):
        check_text_env(gymnasium.make("CartPole-v1"))


def test_the_guide_s_environment_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    code, check, *_, cached = blocks
    (tmp_path / "my_env.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(compile(check, str(GUIDE), "exec"), {})
    env = gymnasium.make("my_env:Cafe-v0")
    env.reset(options={"task_id": "mocha"})
    assert env.step("price mocha")[0] == ({"role": "user", "content": "4"},)
    assert env.step("pay 3")[1:3] == (0.0, True)
    monkeypatch.chdir(tmp_path)
    exec(compile(cached, str(GUIDE), "exec"), vars(importlib.import_module("my_env")))
    check_text_env("CachedCafe-v0")
    assert list((tmp_path / ".cache" / "transitions").iterdir())
    gymnasium.registry.pop("CachedCafe-v0")
    gymnasium.registry.pop("Cafe-v0")
