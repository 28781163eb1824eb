"""What the tests of AppWorld-v0 share: its tasks' programs, and episodes played from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from environments.appworld.env import AppWorldEnv


def played(env: AppWorldEnv, task_id: str, blocks: Sequence[str]) -> tuple[list[str], dict[str, Any] | None, float]:
    """What each block's reply says, the last info where the episode ended, and its reward."""
    env.reset(options={"task_id": task_id})
    output = []
    for block in blocks:
        messages, reward, terminated, truncated, info = env.step(f"```python\n{block}\n```")
        output += [message["content"] for message in messages]
        if terminated or truncated:
            return output, info, reward
    return output, None, 0.0


def program(env: AppWorldEnv, task_id: str, which: str) -> list[str]:
    """The blocks of `gold`, `wrong` (what its author overlooks fails it) or `idle` (nothing but the end)."""
    blocks = {"gold": env.gold, "wrong": env.habit, "idle": lambda _: ["apis.supervisor.complete_task()"]}[which](
        task_id
    )
    assert blocks
    return blocks


def episode(task_id: str, which: str, env: AppWorldEnv) -> dict[str, Any]:
    """An episode of a program, as `env.summary` takes it."""
    _, info, reward = played(env, task_id, program(env, task_id, which))
    assert info is not None
    return {"task_id": task_id, "success": info["success"], "metrics": info["metrics"], "reward": reward}
