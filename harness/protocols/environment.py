"""The environment contract: everything the engine ever asks of a text environment, declared in one place.

An environment is a Gymnasium environment whose observations are tuples of chat messages and whose actions are text.
What stands here is asked of `env.unwrapped`. A class that inherits `TextEnvironment` gets a default for whatever has
one; `environments.text.TextEnv` provides all of it, and `harness.protocols.check_environment` tells whether an
environment keeps it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

Message = dict[str, str]
"""One chat message: `role` and `content`."""


@runtime_checkable
class TextEnvironment(Protocol):
    """Tasks by split, one episode at a time, and what is known of the tasks without playing them.

    Errors: ValueError for an unknown task, split or option of reset, naming the nearest right one; no action that is a
    string ever raises.
    """

    splits: tuple[str, ...]
    """Names of the splits. No two share a task."""
    default_split: str
    """Where `reset` draws a task when it is given neither a task nor a split."""
    version: str
    """Changes whenever tasks, rules, rewards or rendering change. It is part of an experiment's fingerprint, so rows of
    different versions never stand in one table."""
    max_turns: int | None = None
    """Actions after which an episode is truncated, as `info["max_turns"]` of reset says too; None where it is not
    known."""
    terse: bool = False
    """Whether a teacher may be shown `answer` only, never the working in `gold`."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """OpenAI tool schemas, which reset puts into `info["tools"]`; None for an environment without tools."""
    mini: bool = False
    """Whether this is a Mini environment: a compact rendering for models of about a million parameters. Its numbers
    mean nothing outside its own tables."""
    protocol: str | None = None
    """The heading that a table of its numbers must carry; None where the environment's id says enough."""
    idle_action: str = ""
    """What an agent that does nothing sends in every turn."""
    idle_reward: float | None = 0.0
    """What that agent scores on every task; None where it differs from task to task (see `floor`)."""
    gold_chance: float = 1.0
    """The chance with which `gold` succeeds; below 1 where the outcome itself is drawn."""
    success_metrics: tuple[str, ...] = ()
    """Further success metrics it is judged by beside the success rate, such as "SGC", by their names in
    `harness.tables`."""

    @abstractmethod
    def tasks(self, split: str) -> list[str]:
        """The task ids of a split, in a fixed order."""
        ...

    @abstractmethod
    def trainable(self, split: str) -> bool:
        """Whether training may see the gold actions and the answers of this split."""
        ...

    def gold(self, task_id: str) -> list[str] | None:
        """The actions that solve a task, or None where none ship."""
        return None

    def habit(self, task_id: str) -> list[str] | None:
        """The actions of someone with the environment's one habitual mistake, or None where it names none."""
        return None

    def answer(self, task_id: str) -> str | None:
        """The reference answer of a task, or None where it has none."""
        return None

    def scenario_of(self, task_id: str) -> str:
        """The scenario a task is a variant of: its id up to the last "_"; a task without one is its own scenario.

        Variants of one scenario are not independent draws: success by scenario and intervals take them together.
        """
        scenario, underscore, _ = task_id.rpartition("_")
        return scenario if underscore else task_id

    def floor(self, task_id: str) -> float | None:
        """What doing nothing scores on a task, in 0..1; None where that is not known."""
        return self.idle_reward

    def summary(self, episodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What the environment itself reports of finished episodes, as numbers, text, and mappings of them.

        Each episode has `task_id`, `reward`, `success` and `metrics`. Printed below the success rate by `harness
        evaluate`.
        """
        return {}

    @abstractmethod
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Begin the task `options["task_id"]`, or one drawn by the seed from `options["split"]` or the default split.

        Returns the messages new to the agent, its instructions among them, and the info.
        """
        ...

    @abstractmethod
    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """One turn: the messages new to the agent, reward, terminated (the task ended), truncated (it was cut), info.

        The reward is 0 before the end. At the end `info["success"]` is a bool, `info["metrics"]` a dict of floats, and
        `info["answer"]` the final answer, a string, where the environment read one. When the environment itself fails,
        the episode ends with truncated True and `info["failure"]` = {"kind", "message"}.

        Where an environment knows more of its state than the agent sees, reset and every step that does not end the
        episode may say so, for credit assignment alone: `info["state"]`, a string that is equal where states are
        equal, and `info["value"]`, the exact value of the state (the environment says under which later actions). The
        step that ends the episode may give `info["value"]` too: the reward that was to be expected, where it is drawn.
        """
        ...

    def close(self) -> None:
        """Let go of what the environment holds."""
