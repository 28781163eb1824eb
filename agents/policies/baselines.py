"""The two ends of every table: an agent that does nothing, and one that knows the reference solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.types import Message


class DoNothing:
    """Sends what an idle agent would: the environment's `idle_action`."""

    name = "do-nothing"

    def act(self, environment: Any, task_id: str, messages: Sequence[Message], info: dict[str, Any]) -> str:
        return str(environment.idle_action)


class Gold:
    """Replays the environment's reference actions, one a turn; empty actions after the last."""

    name = "gold"

    def act(self, environment: Any, task_id: str, messages: Sequence[Message], info: dict[str, Any]) -> str:
        actions = environment.gold(task_id)
        if actions is None:
            raise ValueError(f"task {task_id!r} ships no reference actions")
        turn = info["turn"]
        return str(actions[turn]) if turn < len(actions) else ""
