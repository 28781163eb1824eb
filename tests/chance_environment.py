"""Environments for tests whose every value can be worked out by going through what a policy may say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import gymnasium

from environments.text import Reply, TextEnv, over


def even(text: str) -> bool:
    """Whether any character has an even code point: about half of all tokens do it."""
    return any(ord(character) % 2 == 0 for character in text)


class Even(TextEnv):
    """Solved when anything said in any of `turns` turns is `even`; the verdict comes at the end. The greeting is
    drawn by the seed."""

    def __init__(
        self, turns: int = 1, train: int = 6, drifting: bool = False, broken: str = "nothing", greets: bool = True
    ) -> None:
        """drifting: every episode of the process gets another reply, whatever the seed says.

        broken: whether the reset of the first task fails, in "odd" worlds (as they greet) or in "all". greets: without
        it every opening of a task is the same.
        """
        tasks: dict[str, Sequence[str]] = {"train": [f"train-{n}" for n in range(train)], "test": ["test-0"]}
        super().__init__(tasks, max_turns=turns, version="1")
        self.drifting, self.broken, self.greets = drifting, broken, greets
        self.said: list[str] = []

    def open(self, task_id: str) -> Reply:
        world = int(self.np_random.integers(1000))
        if task_id == "train-0" and (self.broken == "all" or (self.broken == "odd" and world % 2)):
            raise RuntimeError(f"{task_id} is broken in world {world}")
        self.said = []
        return Reply(f"guess {world if self.greets else 0} to {task_id}")

    def respond(self, action: str) -> Reply:
        self.said.append(action)
        if self.turn == self.max_turns:
            return over(even("".join(self.said)))
        return Reply(f"higher {next(EPISODES)}" if self.drifting else "higher")

    def gold(self, task_id: str) -> list[str]:
        return ["x"] * (self.max_turns - 1) + ["2"]

    def answer(self, task_id: str) -> str:
        return "2"


class Coin(TextEnv):
    """Solved when the coin that fell at the reset, which nobody sees, shows heads, whatever is said."""

    def __init__(self) -> None:
        super().__init__({"train": ["train-0"], "test": ["test-0"]}, max_turns=1, version="1")
        self.heads = False

    def open(self, task_id: str) -> Reply:
        self.heads = bool(self.np_random.random() < 0.5)
        return Reply("guess")

    def respond(self, action: str) -> Reply:
        return over(self.heads)

    def gold(self, task_id: str) -> list[str]:
        return ["2"]

    def answer(self, task_id: str) -> str:
        return "2"


EPISODES = count()

gymnasium.register("Coin-v0", Coin, order_enforce=False, disable_env_checker=True)
gymnasium.register("Even-v0", Even, order_enforce=False, disable_env_checker=True)
