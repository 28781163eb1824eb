"""TextEnv: a Gymnasium environment whose observations are chat messages and whose actions are text.

A new environment is a list of task ids per split, the messages that open a task, and what to reply to an action:

    class Echo(TextEnv):
        def __init__(self) -> None:
            super().__init__({"train": ["hello", "bye"], "test": ["thanks"]}, max_turns=2, version="1")

        def open(self, task_id: str) -> Reply:
            return Reply(f"Say {task_id!r}.")

        def respond(self, action: str) -> Reply:
            if not action:
                raise BadAction("say something")
            return over(success=action == self.task_id)

        def gold(self, task_id: str) -> list[str] | None:
            return [task_id]

`TextEnv` does the seeding, the turn limit, the error replies and the info. `check_text_env` tells whether the result
keeps the contract.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from harness.protocols.check_environment import ContractError, check_text_env
from harness.protocols.environment import Message, TextEnvironment

__all__ = [
    "BadAction",
    "ContractError",
    "Message",
    "Messages",
    "Reply",
    "Text",
    "TextEnv",
    "check_text_env",
    "over",
    "unknown_name",
]

ROLES = ("system", "user", "assistant", "tool")
OPTIONS = ("task_id", "split")


class Text(gymnasium.Space[str]):
    """Every string. Samples are short and mix letters, blanks, line ends and symbols from all over Unicode.

    Gymnasium's own `Text` has a fixed alphabet and a greatest length, which no agent keeps to.
    """

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A string of 0 to 40 characters, drawn from the space's seed. Masks are not supported."""
        _refuse_masks(mask, probability)
        draws = self.np_random.integers(0, 0x2000, size=self.np_random.integers(0, 41))
        return "".join(chr(0x20 + draw % 0x5F) if draw % 4 else chr(draw) for draw in draws.tolist())

    def contains(self, x: Any) -> bool:
        """Whether it is a string."""
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text)


class Messages(gymnasium.Space[tuple[Message, ...]]):
    """A tuple of chat messages, each a dict of strings with at least `role` (one of ROLES) and `content`."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(seed=seed)
        self._text = Text()

    def seed(self, seed: int | None = None) -> Any:
        """Seed the draws of `sample`; returns the seed used."""
        used = super().seed(seed)
        self._text.seed(used)
        return used

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        """0 to 3 messages with random roles and contents. Masks are not supported."""
        _refuse_masks(mask, probability)
        roles = self.np_random.integers(0, len(ROLES), size=self.np_random.integers(0, 4))
        return tuple({"role": ROLES[role], "content": self._text.sample()} for role in roles.tolist())

    def contains(self, x: Any) -> bool:
        """Whether it is a tuple of messages."""
        return isinstance(x, tuple) and all(
            isinstance(message, dict)
            and message.get("role") in ROLES
            and "content" in message
            and all(isinstance(entry, str) for pair in message.items() for entry in pair)
            for message in x
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Messages)


def _refuse_masks(*masks: Any) -> None:
    if any(mask is not None for mask in masks):
        raise ValueError("text spaces take neither a mask nor a probability")


class BadAction(Exception):
    """Raised by `respond` for an action it cannot carry out: the agent reads the message and has spent a turn."""


@dataclass(frozen=True)
class Reply:
    """The environment's answer to an action; `over` builds the one that ends the task."""

    content: str | Sequence[Message] = ()
    """Text (one user message; empty text is no message) or whole messages."""
    over: bool = False
    reward: float = 0.0
    success: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None
    """The agent's final answer as the environment read it; None where it reads none."""

    def messages(self) -> tuple[Message, ...]:
        """The content as chat messages."""
        if isinstance(self.content, str):
            return ({"role": "user", "content": self.content},) if self.content else ()
        return tuple(dict(message) for message in self.content)


def over(
    success: bool,
    content: str | Sequence[Message] = (),
    *,
    reward: float | None = None,
    metrics: Mapping[str, float] | None = None,
    answer: str | None = None,
) -> Reply:
    """The reply that ends the task. The reward is 1 for success and 0 otherwise unless given."""
    earned = float(success) if reward is None else float(reward)
    return Reply(content, True, earned, bool(success), dict(metrics or {}), answer)


def unknown_name(kind: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that nothing answers to: what was given, and the nearest right name or the known ones."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return ValueError(f"unknown {kind} {given!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {shown}"))


class TextEnv(gymnasium.Env[tuple[Message, ...], str], TextEnvironment):
    """Base of text environments: supply `open` and `respond`, and where they exist `gold`, `habit`, `answer`, `stop`.

    It keeps the contract of `harness.protocols.environment`; what that declares with a default (`mini`, `protocol`,
    `success_metrics`, `scenario_of`, `floor`, `summary` ...) a subclass may declare anew.

    `reset(seed=, options={"task_id": ..., "split": ...})` returns the messages new to the agent and the info. Without a
    task id the task is drawn from the split (`default_split` unless given) by the seed. `step(action)` returns
    (messages, reward, terminated, truncated, info): the reward is 0 before the end; terminated says the task ended,
    truncated that the turns ran out. At the end `info["success"]` is a bool and `info["metrics"]` a dict of floats
    (`turns` and `bad_actions` among them).

    Errors: ValueError for an unknown task, split or option; RuntimeError for a step outside an episode; TypeError for
    an action that is no string. No string ever raises.

    While an episode runs, `self.task_id`, `self.split` and `self.turn` (actions received) say where it stands, and
    `self.np_random` is its only source of chance.
    """

    max_turns: int
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it so

    def __init__(
        self,
        tasks: Mapping[str, Sequence[str]],
        *,
        max_turns: int,
        version: str,
        default_split: str | None = None,
        trainable: Collection[str] = ("train",),
        terse: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """tasks: the task ids of each split. version: a text that changes whenever tasks, rules or rendering change.

        trainable: the splits whose gold and answers training may see. terse: a teacher may be shown `answer` only,
        never the working in `gold`. tools: OpenAI tool schemas, put into `info["tools"]`.
        """
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, got {max_turns}")
        if not tasks:
            raise ValueError("an environment needs at least one split of tasks")
        self.observation_space = Messages()
        self.action_space = Text()
        self.splits = tuple(tasks)
        self.default_split = self.splits[0] if default_split is None else default_split
        self.max_turns, self.version, self.terse, self.tools = max_turns, version, terse, tools
        self._tasks = {split: tuple(ids) for split, ids in tasks.items()}
        self._known_split(self.default_split)
        self._trainable = frozenset(trainable)
        self._split_of: dict[str, str] = {}
        for split, task_id in ((split, task_id) for split, ids in self._tasks.items() for task_id in ids):
            if task_id in self._split_of:
                raise ValueError(f"task {task_id!r} stands twice: in {self._split_of[task_id]!r} and in {split!r}")
            self._split_of[task_id] = split
        self.task_id, self.split, self.turn = "", "", 0
        self._running = False
        self._bad_actions = 0

    # What a subclass supplies

    def open(self, task_id: str) -> Reply:
        """The first messages of a task, the agent's instructions among them. Sets up whatever state the task needs."""
        raise NotImplementedError(f"{type(self).__name__} must define open(task_id)")

    def respond(self, action: str) -> Reply:
        """The reply to one action. `over(...)` ends the task; BadAction refuses what cannot be carried out."""
        raise NotImplementedError(f"{type(self).__name__} must define respond(action)")

    def stop(self) -> Reply:
        """The verdict when the turns run out (its content is not shown): by default no success and no reward."""
        return over(success=False)

    def state(self) -> str | None:
        """A name of the present state, equal where states are equal, for methods that compare states; None (the
        default) where there is none. The agent does not see it."""
        return None

    def value(self) -> float | None:
        """The exact value of the present state, where it can be computed (under which later actions, the environment's
        documentation says); at the end, the reward that was to be expected. None by default. The agent does not see
        it."""
        return None

    # The contract

    def tasks(self, split: str) -> list[str]:
        """The task ids of a split, in a fixed order."""
        return list(self._tasks[self._known_split(split)])

    def trainable(self, split: str) -> bool:
        """Whether training may see the gold actions and the answers of this split."""
        return self._known_split(split) in self._trainable

    def split_of(self, task_id: str) -> str:
        """The split a task belongs to. ValueError with the nearest right name for an unknown task."""
        try:
            return self._split_of[task_id]
        except (KeyError, TypeError):
            raise unknown_name("task", task_id, self._split_of) from None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Begin a task: the one named by `options`, or one drawn by the seed."""
        super().reset(seed=seed)
        self._running = False
        self.task_id, self.split = self._choose(options or {})
        self.turn, self._bad_actions = 0, 0
        opening = self.open(self.task_id)
        self._running = True
        info: dict[str, Any] = {"task_id": self.task_id, "split": self.split, "max_turns": self.max_turns}
        if self.tools is not None:
            info["tools"] = [dict(tool) for tool in self.tools]
        return opening.messages(), info | self._known_state()

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """One turn of the agent."""
        if not isinstance(action, str):
            raise TypeError(f"an action is a string, got {type(action).__name__}: {action!r}")
        if not self._running:
            raise RuntimeError(
                "no episode is running: call reset() before the first step and after the end of an episode"
            )
        self._running = False  # stays so if the environment itself fails below
        self.turn += 1
        try:
            reply = self.respond(action)
        except BadAction as error:
            self._bad_actions += 1
            reply = Reply(f"Error: {error}")
        terminated, truncated = reply.over, not reply.over and self.turn >= self.max_turns
        messages = reply.messages()
        info: dict[str, Any] = {"task_id": self.task_id}
        if not (terminated or truncated):
            self._running = True
            return messages, 0.0, False, False, info | self._known_state()
        if truncated:
            reply = self.stop()
        info["success"] = reply.success
        counts = {"turns": float(self.turn), "bad_actions": float(self._bad_actions)}
        info["metrics"] = {name: float(value) for name, value in (counts | dict(reply.metrics)).items()}
        known = {"answer": reply.answer, "value": self.value()}
        info |= {name: entry for name, entry in known.items() if entry is not None}
        return messages, float(reply.reward), terminated, truncated, info

    def _known_state(self) -> dict[str, Any]:
        known = {"state": self.state(), "value": self.value()}
        return {name: entry for name, entry in known.items() if entry is not None}

    def _choose(self, options: Mapping[str, Any]) -> tuple[str, str]:
        for key in options:
            if key not in OPTIONS:
                raise unknown_name("option of reset", key, OPTIONS)
        split = options.get("split")
        if split is not None:
            self._known_split(split)
        task_id = options.get("task_id")
        if task_id is None:
            split = split or self.default_split
            ids = self._tasks[split]
            if not ids:
                raise ValueError(f"split {split!r} has no tasks")
            return ids[int(self.np_random.integers(len(ids)))], split
        home = self.split_of(task_id)
        if split not in (None, home):
            raise ValueError(f"task {task_id!r} is in split {home!r}, not in {split!r}")
        return task_id, home

    def _known_split(self, split: str) -> str:
        if split not in self._tasks:
            raise unknown_name("split", split, self._tasks)
        return split
