"""One episode while it is being played: what was asked for, and the conversation so far."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.core.errors import EnvironmentFailure
from harness.core.seeds import SeedTree
from harness.core.types import ContextRequest, Ending, Episode, Message, TokenSequence


@dataclass(frozen=True)
class Prefix:
    """The beginning of an episode of a token policy; another episode goes on from it, in the same environment, token
    for token."""

    sampled: tuple[tuple[int, ...], ...]
    """What the policy had sampled in each turn; the last turn may be unfinished."""
    seeds: SeedTree
    """Of the episode that began so: the environment is reset as it was there."""


@dataclass(frozen=True)
class Request:
    """One episode to be played."""

    task_id: str
    seeds: SeedTree
    """Everything random about this episode comes from here."""
    greedy: bool = False
    context: ContextRequest | None = None
    """A privileged context the policy reads in front of the conversation (to measure what it is worth)."""
    script: tuple[str, ...] | None = None
    """Actions to take instead of asking the policy (demonstrations, gold replay)."""
    prefix: Prefix | None = None
    """What has been sampled already: the policy goes on from there. These tokens count as given, not as sampled."""

    def __post_init__(self) -> None:
        if self.script is not None and self.prefix is not None:
            raise ValueError(
                f"the request for {self.task_id!r} has a script and a prefix; an episode takes one of them"
            )


@dataclass
class Conversation:
    """An episode while it is being played."""

    request: Request
    environment: Any
    key: Hashable
    tokens: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where further pieces begin (`TokenSequence.starts`); the policy reads the last one."""
    front: int = 0
    """Tokens of the first prompt, which every piece begins with."""
    messages: list[Message] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    """What a text policy counted (calls, tokens, cost); it becomes part of the metrics, of a failed episode too."""
    states: list[Any] = field(default_factory=list)
    """What the environment says of the state in which each turn began: (name, exact value), None where it is silent."""
    opened: int = 0
    """How many of the messages are the environment's opening."""
    turn: int = 0
    reward: float = 0.0
    ending: Ending | None = None
    cut_mass: float = 0.0
    truncated: int = 0
    """Completions that the limit of new tokens cut."""
    failure: EnvironmentFailure | None = None

    def add(self, tokens: Sequence[int], sampled: bool, logprobs: Sequence[float] | None = None) -> None:
        """Append tokens of this turn."""
        self.tokens.extend(tokens)
        self.mask.extend([sampled] * len(tokens))
        self.logprobs.extend(logprobs if logprobs is not None else [0.0] * len(tokens))
        self.turns.extend([self.turn] * len(tokens))

    @property
    def read(self) -> list[int]:
        """The tokens of the last piece: what the policy's next tokens are conditioned on."""
        return self.tokens[self._begin :]

    @property
    def length(self) -> int:
        """How many tokens that is."""
        return len(self.tokens) - self._begin

    @property
    def _begin(self) -> int:
        return self.starts[-1] if self.starts else 0

    def forget(self, room: int, most: int) -> None:
        """Where the last piece is longer than `room` tokens, begin another without its oldest turns: the first prompt,
        and behind it as many of the latest turns, token for token, as fit; at least the one that was just played, which
        may have `most`. Nothing happens where that one is longer still."""
        behind = self._begin + self.front
        turns = self.turns[behind:]
        if self.length <= room or not turns:
            return
        for turn in range(turns[0] + 1, self.turn + 1):
            first = bisect_left(turns, turn)
            if self.front + len(turns) - first <= (most if turn == self.turn else room):
                kept = [*range(self._begin, behind), *range(behind + first, len(self.tokens))]
                self.starts.append(len(self.tokens))
                self.tokens += [self.tokens[place] for place in kept]
                self.turns += [self.turns[place] for place in kept]
                self.mask += [False] * len(kept)
                self.logprobs += [0.0] * len(kept)
                return

    def note_state(self) -> None:
        """Keep what the environment says of the state in which the next turn begins."""
        self.states.append((self.info.pop("state", None), self.info.pop("value", None)))

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens."""
        for entries in (self.tokens, self.mask, self.logprobs, self.turns):
            del entries[length:]

    def given(self) -> tuple[int, ...]:
        """What the prefix has of this turn."""
        prefix = self.request.prefix
        return prefix.sampled[self.turn] if prefix is not None and self.turn < len(prefix.sampled) else ()

    def scripted(self) -> str:
        """The script's action for this turn; an empty one when it has run out."""
        script = self.request.script or ()
        return script[self.turn] if self.turn < len(script) else ""

    def episode(self) -> Episode:
        """The finished episode."""
        failed = self.failure is not None
        metrics = {} if failed else dict(self.info.get("metrics", {}))
        if self.truncated and not failed:
            metrics["truncated"] = float(self.truncated)
        if self.cut_mass:
            metrics["top_p_cut_mass"] = self.cut_mass / max(self.turn, 1)
        metrics |= self.usage
        names, values = zip(*self.states, strict=True) if self.states else ((), ())
        return Episode(
            task_id=self.request.task_id,
            sequence=TokenSequence(
                np.array(self.tokens, dtype=np.int64),
                np.array(self.mask, dtype=bool),
                np.array(self.logprobs, dtype=np.float64),
                np.array(self.turns, dtype=np.int64),
                tuple(self.starts),
            ),
            reward=math.nan if failed else self.reward,
            success=not failed and bool(self.info.get("success", False)),
            ending=Ending.ERROR if failed else self.ending or Ending.COMPLETED,
            messages=tuple(self.messages),
            metrics=metrics,
            seed=self.request.seeds.integer(),
            answer=None if failed else self.info.get("answer"),
            states=() if None in names else names,
            state_values=() if None in values else values,
            end_value=None if failed else self.info.get("value"),
            origin=(self.request.prefix or self.request).seeds,
            opened=self.opened,
            tools=tuple(self.info.get("tools") or ()),
        )
