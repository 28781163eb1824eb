"""check_text_env finds each way of breaking the contract, and is silent about environments that keep it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from environments.text import ContractError, Reply, TextEnv, check_text_env, over

GUIDE = Path(__file__).parents[2] / "docs" / "adding-an-environment.md"


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


@pytest.mark.parametrize(
    ("broken", "said"),
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
def test_every_breach_is_named(broken: type[Echo], said: str) -> None:
    with pytest.raises(ContractError, match=said):
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
    with pytest.raises(ContractError, match="lacks splits, default_split, trainable"):
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
