"""This project's environments as a taskset of verifiers: imported in the interpreter that has verifiers.

A module of your own exports the three classes, and its name is the taskset's id:

    from environments.foreign.served import SiblingChat, SiblingEnv, SiblingTaskset

    __all__ = ["SiblingChat", "SiblingEnv", "SiblingTaskset"]
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import gymnasium
import verifiers.v1 as vf

from environments.foreign.inside.chat import SiblingChat

__all__ = ["SiblingChat", "SiblingEnv", "SiblingTaskset"]


class SiblingConfig(vf.TasksetConfig):  # type: ignore[misc]  # the library is not there when types are checked
    """Which environment: its Gymnasium id, its options, the split its tasks come from, the seed of its chance."""

    env: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    split: str = "train"
    seed: int = 0


class SiblingData(vf.TaskData):  # type: ignore[misc]
    """A task of one of this project's environments."""

    env: str
    options: dict[str, Any]
    task_id: str
    seed: int


class SiblingTask(vf.Task[SiblingData]):  # type: ignore[misc]
    """Its reward is the environment's own, recorded where the episode is played."""


class SiblingTaskset(vf.Taskset[SiblingTask, SiblingConfig]):  # type: ignore[misc]
    """The tasks of one split, in the environment's order."""

    def load(self) -> Iterator[SiblingTask]:
        """One task for each. ValueError where no environment is named, or there is no such split."""
        config = self.config
        if not config.env:
            raise ValueError("which environment? Name it: --env.taskset.env environments:Guess-v0")
        made: Any = gymnasium.make(config.env, **config.options)
        try:
            names = made.unwrapped.tasks(config.split)
        finally:
            made.close()
        for name in names:
            data = SiblingData(
                id=name, name=name, env=config.env, options=config.options, task_id=name, seed=config.seed
            )
            yield SiblingTask(data, config.task)


class SiblingEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """One seat, played in this process."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class SiblingEnv(vf.Env[SiblingEnvConfig]):  # type: ignore[misc]
    """An episode: what the environment says are the user's turns, what the model says are its actions."""

    async def run(self, task: Any, agents: Any) -> None:
        """Play the task to its end, or to where verifiers stops it. RuntimeError where the environment itself fails."""
        data = task.data
        env: Any = gymnasium.make(data.env, **data.options)
        try:
            opening, _ = await asyncio.to_thread(env.reset, seed=data.seed, options={"task_id": data.task_id})
            async with agents.agent.interaction(task.with_data(prompt=_messages(opening))) as interaction:
                segment, ended = await interaction.turn(), False
                while not (segment.terminated or ended):
                    heard, reward, terminated, truncated, info = await asyncio.to_thread(env.step, _reply_of(segment))
                    if "failure" in info:
                        raise RuntimeError(f"the environment failed: {info['failure']}")
                    ended = terminated or truncated
                    if not ended:
                        segment = await interaction.turn(_messages(heard))
            trace = interaction.trace
            if ended:
                trace.record_reward("reward", float(reward))
                trace.record_metrics({**info["metrics"], "success": float(info["success"])})
            elif trace.ok:  # a limit of verifiers' own: unsolved; what failed has no reward
                trace.record_reward("reward", 0.0)
        finally:
            env.close()


def _reply_of(segment: Any) -> str:
    """The model's reply as it was written: `last_reply` is stripped of blanks."""
    replies = [message.content for message in segment.messages if isinstance(message, vf.AssistantMessage)]
    return replies[-1] or ""


def _messages(heard: Any) -> list[Any]:
    kinds = {"system": vf.SystemMessage, "user": vf.UserMessage, "assistant": vf.AssistantMessage}
    # a tool's message has no call here that it could answer: the action was text
    return [kinds.get(message["role"], vf.UserMessage)(content=message["content"]) for message in heard]
