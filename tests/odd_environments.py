"""Environments for tests: one that fails in every way an environment can, and one whose reward any policy finds by
chance."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium

from environments.guess import Guess
from environments.text import BadAction, Reply, TextEnv, over

HANG_S = 1.0
FAILED: Counter[str] = Counter()
"""How often a task has failed so far in this process (a test clears it)."""
PLAYED: list[tuple[int, str]] = []
"""(serial number of the instance, task) of every reset."""


def _raise(error: BaseException) -> None:
    raise error


def _hang(answer: Any) -> Any:
    time.sleep(HANG_S)
    return answer


def _info(**more: Any) -> Callable[[Any], Any]:
    return lambda answer: (*answer[:-1], answer[-1] | more)


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "raises": ("raised", lambda answer: _raise(RuntimeError("boom"))),
    "exits": ("raised", lambda answer: _raise(SystemExit(3))),
    "hangs": ("deadline", _hang),
    "says nothing": ("garbage", lambda answer: None),
    "short tuple": ("garbage", lambda answer: answer[:-1]),
    "messages are text": ("garbage", lambda answer: ("hello", *answer[1:])),
    "messages are a number": ("garbage", lambda answer: (7, *answer[1:])),
    "messages cannot be read": ("garbage", lambda answer: ((1 / 0 for _ in range(2)), *answer[1:])),
    "message without content": ("garbage", lambda answer: (({"role": "user"},), *answer[1:])),
    "message of nobody": ("garbage", lambda answer: (({"role": "wizard", "content": "hi"},), *answer[1:])),
    "info is a list": ("garbage", lambda answer: (*answer[:-1], ["task"])),
    "metrics are words": ("garbage", _info(metrics={"turns": "many"})),
    "metrics are a list": ("garbage", _info(metrics=[1.0])),
    "metrics are infinite": ("garbage", _info(metrics={"turns": float("inf")})),
    "an ending nobody knows": ("garbage", _info(ending="exploded")),
    "an ending that is not its to say": ("garbage", _info(ending="error")),
    "reports": ("worker", _info(failure={"kind": "worker", "message": "gone"})),
    "reports in words": ("reported", _info(failure="gone")),
}
"""What goes wrong -> the kind it must be counted as, and how a right answer is spoilt."""
STEP_FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "reward is NaN": ("garbage", lambda answer: (answer[0], float("nan"), *answer[2:])),
    "reward is infinite": ("garbage", lambda answer: (answer[0], float("inf"), *answer[2:])),
    "reward is a word": ("garbage", lambda answer: (answer[0], "lots", *answer[2:])),
    "reward is nothing": ("garbage", lambda answer: (answer[0], None, *answer[2:])),
}


class Faulty(Guess):
    """Guess, except that `only` (or every task) goes wrong in `at` ("reset", "step", "close"), the first `times`
    times it comes up there.

    opening, reply: text put behind the first message, and behind every reply.
    """

    serial = 0

    def __init__(
        self,
        fault: str = "",
        at: str = "step",
        times: int = 10**9,
        only: str | None = None,
        opening: str = "",
        reply: str = "",
        windows: int = 3,
    ) -> None:
        super().__init__(windows=windows)
        Faulty.serial += 1
        self.number = Faulty.serial
        self.fault, self.at, self.times, self.only = fault, at, times, only
        self.opening, self.reply = opening, reply

    def open(self, task_id: str) -> Reply:
        PLAYED.append((self.number, task_id))
        return Reply(super().open(task_id).messages()[0]["content"] + self.opening)

    def respond(self, action: str) -> Reply:
        try:
            reply = super().respond(action)
        except BadAction as error:
            raise BadAction(f"{error}{self.reply}") from None
        return Reply(str(reply.content) + self.reply, reply.over, reply.reward, reply.success)

    def reset(self, **how: Any) -> Any:
        return self._spoilt("reset", super().reset(**how))

    def step(self, action: str) -> Any:
        return self._spoilt("step", super().step(action))

    def close(self) -> None:
        self._spoilt("close", None)

    def _spoilt(self, place: str, answer: Any) -> Any:
        wanted = self.fault and place == self.at and self.only in (None, self.task_id)
        if not wanted or FAILED[self.task_id] >= self.times:
            return answer
        FAILED[self.task_id] += 1
        return (FAULTS | STEP_FAULTS)[self.fault][1](answer)


class Parity(TextEnv):
    """One turn; solved when the bytes of the action add up to a multiple of the task's number, which a random policy
    does by chance."""

    idle_reward = None

    def __init__(self, train: int = 12, test: int = 6, numbers: tuple[int, ...] = (1, 2, 2, 3, 50)) -> None:
        tasks = {
            split: [f"{split}-{n}:{numbers[n % len(numbers)]}" for n in range(count)]
            for split, count in (("train", train), ("test", test))
        }
        super().__init__(tasks, max_turns=1, version="1")

    def open(self, task_id: str) -> Reply:
        return Reply(f"guess {len(task_id)} to {task_id.rpartition(':')[2]}")

    def respond(self, action: str) -> Reply:
        return over(sum(action.encode()) % int(self.task_id.rpartition(":")[2]) == 0)

    def gold(self, task_id: str) -> list[str]:
        return [""]


gymnasium.register("Faulty-v0", Faulty, order_enforce=False, disable_env_checker=True)
gymnasium.register("Parity-v0", Parity, order_enforce=False, disable_env_checker=True)
