"""Verifiers-v0: an environment of the library verifiers (Prime Intellect), version 0.4 and later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from environments.foreign.env import BUCKETS, ForeignEnv, Library, asked, by_content
from environments.text import Reply, over

VERIFIERS = Library("verifiers", "verifiers", "environments.foreign.inside.episodes:Episodes", network=True)
TEST = "test "


class Verifiers(ForeignEnv):
    """An environment by the id of its taskset, as verifiers' own `eval` names it; a task is one of its rows.

    The agent reads the messages that verifiers would send to its model, and its action is the model's reply. The reward
    is the sum of the task's weighted rewards, and a success from `success_at` on. What can be played here are
    environments of one seat, whose tasks have no tools and need no container.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Mapping[str, Any] | None = None,
        test: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        tasks: int = 500,
        max_turns: int = 10,
        success_at: float = 1.0,
        gold: str | None = None,
        python: str | None = None,
        deadline_s: float = 120.0,
        memory_mb: int = 4096,
    ) -> None:
        """config: settings of the taskset. test: those that differ for its own test split, such as {"split": "test"};
        without it a split is made by content. env: settings of the environment, such as {"id": "..."}.

        tasks: how many tasks of each are looked at; those of one content are one task. gold: "module:function", see
        `ForeignEnv`. python: the interpreter that has verifiers, by default the one that `harness setup verifiers`
        made, else this one (its pins and this project's exclude each other). Raises ValueError for options that cannot
        be had, NotInstalledError without verifiers, RuntimeError where the environment cannot be made.
        """
        options = {
            "name": name,
            "config": dict(config or {}),
            "test": None if test is None else dict(test),
            "env": dict(env or {}),
            "tasks": tasks,
            "max_turns": max_turns,
        }
        pool = VERIFIERS.pool(python, options, memory_mb)
        facts = asked(VERIFIERS, pool, "facts")
        found = asked(VERIFIERS, pool, "tasks")
        self.protocol = f"{name} of verifiers"
        self._cut: Reply | None = None
        super().__init__(
            VERIFIERS,
            pool,
            by_content(name, found) if test is None else _with_test(name, found),
            max_turns=max_turns,
            version=f"1 verifiers {facts['version']} {options} {facts['tasks']} success_at={success_at:g} gold={gold}",
            success_at=success_at,
            gold=gold,
            deadline_s=deadline_s,
        )

    def answer(self, task_id: str) -> str | None:
        """What the task holds as its `answer`, where that is a text."""
        answer = self.known(task_id).get("answer")
        return answer if isinstance(answer, str) else None

    def open(self, task_id: str) -> Reply:
        """Begin the task: the messages of verifiers' first request."""
        self._cut = None
        return super().open(task_id)

    def _began(self, task_id: str) -> dict[str, Any]:
        return self._call("begin", task=task_id, seed=int(self.np_random.integers(1 << 31)))

    def _opened(self, answer: dict[str, Any]) -> Reply:
        return self._next(answer)

    def respond(self, action: str) -> Reply:
        """The messages that verifiers' next request adds, or the verdict."""
        return self._next(self._call("act", action=action))

    def stop(self) -> Reply:
        """verifiers' own verdict on the turns that were had."""
        return over(False) if self._cut is None else self._cut

    def _next(self, answer: dict[str, Any]) -> Reply:
        if "messages" in answer:
            return Reply(answer["messages"])
        verdict = self._verdict(answer["reward"], answer["metrics"])
        if answer["cut"]:
            self._cut = verdict
            return Reply()
        return verdict


def _with_test(name: str, found: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The taskset's own test split, and a tenth of the rest as dev."""
    splits: dict[str, list[str]] = {split: [] for split in BUCKETS}
    for task in found:
        tenth = int(task["content"], 16) % 10
        held_out = "test" if task["id"].startswith(TEST) else "dev" if tenth in BUCKETS["dev"] else "train"
        splits[held_out].append(task["id"])
    if not splits["train"] or not splits["test"]:
        raise ValueError(f"{name}: every task of one split stands in the other too, or there is none")
    return splits
