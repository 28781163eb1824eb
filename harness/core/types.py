"""The records every part of the harness exchanges: frozen dataclasses that hold numpy arrays and plain data.

A group of two siblings on the task "guess 7", one turn each (`<a>` opens the agent's message, `<e>` ends it):

    tokens    <s>  7  ?  <a>   5  <e>         mask  0 0 0 0 1 1     logprobs  0 0 0 0 -1.2 -0.1    reward 0
    tokens    <s>  7  ?  <a>   7  <e>         mask  0 0 0 0 1 1     logprobs  0 0 0 0 -0.9 -0.1    reward 1

Everything stays ragged here; `harness.losses.packing` is the only place that pads and shifts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from harness.core.errors import UnknownNameError, UserError
from harness.core.seeds import SeedTree

Message = Mapping[str, Any]
"""One chat message: `role` (system, user, assistant or tool) and `content`, both text."""


class Ending(StrEnum):
    """Why an episode stopped."""

    COMPLETED = "completed"
    """The task ended by itself: solved, failed, or given up."""
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"
    """The model's window was full."""
    PARSE_ERROR = "parse_error"
    """The environment ended the episode because an action could not be read."""
    ERROR = "error"
    """The infrastructure failed (environment, worker, endpoint): the reward is NaN and nothing learns from it."""


def _same_length(owner: str, **arrays: np.ndarray | None) -> None:
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{owner}: all fields need one entry per token, got lengths {lengths}")


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """The tokens of one episode as the model saw and produced them, never re-tokenised.

    A model reads them in one piece, or, where the conversation outgrew its window, in several, one behind the other:

        tokens    <s> 7 ? <a> 3 <e> no <a> 5 <e>   <s> 7 ? <a> 5 <e> no <a> 7 <e>      starts  (10,)
        mask       0  0 0  0  1  1  0   0  1  1     0  0 0  0  0  0  0   0  1  1       all sampled tokens, each once

    Everything that is said of an episode's tokens (evidence, credit) has one entry for each token of all its pieces.
    """

    tokens: Int[np.ndarray, " token"]
    mask: Bool[np.ndarray, " token"]
    """True where the policy sampled the token; False for prompts, observations and a template's own end-of-turn."""
    logprobs: Float[np.ndarray, " token"]
    """Natural log-probability under the policy that sampled the token; 0 off the mask."""
    turns: Int[np.ndarray, " token"]
    """Index of the turn a token belongs to: completion and the reply that follows it share one; the first prompt is
    turn 0."""
    starts: tuple[int, ...] = ()
    """Where further pieces begin, each with a prompt of its own: what stands before a start was not read by what
    stands behind it. Empty for one piece."""

    def __post_init__(self) -> None:
        _same_length("TokenSequence", tokens=self.tokens, mask=self.mask, logprobs=self.logprobs, turns=self.turns)
        if np.any(self.logprobs[~self.mask] != 0):
            raise ValueError("TokenSequence: logprobs must be 0 wherever the policy did not sample the token")
        if self.starts and any(a >= b for a, b in self.bounds):
            raise ValueError(
                f"TokenSequence: starts must increase inside (0, {len(self.tokens)}), got {list(self.starts)}"
            )
        if self.starts and np.any(self.mask[list(self.starts)]):
            raise ValueError("TokenSequence: a piece cannot begin with a sampled token: nothing precedes it")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def pieces(self) -> tuple[TokenSequence, ...]:
        """What a model reads at once, in order: the sequence itself where it is one piece."""
        if not self.starts:
            return (self,)
        return tuple(
            TokenSequence(self.tokens[a:b], self.mask[a:b], self.logprobs[a:b], self.turns[a:b]) for a, b in self.bounds
        )

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Where each piece begins and ends."""
        return tuple(pairwise((0, *self.starts, len(self))))


@dataclass(frozen=True, eq=False)
class Episode:
    """One finished interaction of the policy with one task."""

    task_id: str
    sequence: TokenSequence
    """All its tokens, in one piece or several (`TokenSequence.pieces`), which share its reward. Empty where no tokens
    were sampled (a text policy)."""
    reward: float
    """NaN when `ending` is ERROR."""
    success: bool
    ending: Ending
    messages: tuple[Message, ...] = ()
    """The conversation as text, in order, the agent's own messages included."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    answer: str | None = None
    """The final answer the environment read, where it reads one."""
    states: tuple[str, ...] = ()
    """The environment's own name of the state in which each turn began (`info["state"]`), where it gives one."""
    state_values: tuple[float, ...] = ()
    """The exact value of the state in which each turn began (`info["value"]`), where the environment knows it."""
    end_value: float | None = None
    """What reward was to be expected in the state in which the environment ended the episode, where it says so: it
    differs from `reward` where that is drawn."""
    origin: SeedTree | None = None
    """Where the episode's randomness came from: going on from one of its prefixes needs it. Not recorded."""
    opened: int = 0
    """How many of the messages stood before the first turn; 0 where that is not known. Not recorded."""
    tools: tuple[Any, ...] = ()
    """Schemas of tools that the first prompt showed. Not recorded."""


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """The siblings: episodes of one policy on one task."""

    task_id: str
    episodes: tuple[Episode, ...]
    solution: tuple[str, ...] | None = None
    """The reference actions, where the environment ships them and the split may be trained on."""
    answer: str | None = None
    """The reference answer, where the task has one and the split may be trained on."""

    @property
    def rewards(self) -> Float[np.ndarray, " group"]:
        """float64[group]: one reward per episode."""
        return np.array([episode.reward for episode in self.episodes], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TopK:
    """Log-probabilities of k vocabulary entries at every token; the mass they leave over is the tail."""

    ids: Int[np.ndarray, "token k"]
    logprobs: Float[np.ndarray, "token k"]

    def __post_init__(self) -> None:
        if self.ids.shape != self.logprobs.shape or self.ids.ndim != 2:
            raise ValueError(
                f"TopK: ids and logprobs need one shape (token, k), got {self.ids.shape} and {self.logprobs.shape}"
            )


@dataclass(frozen=True, eq=False)
class Scores:
    """Log-probabilities of an episode's own tokens under one policy, conditioned on one context or none; 0 off the
    mask."""

    logprobs: Float[np.ndarray, " token"]
    distribution: TopK | None = None


@dataclass(frozen=True, eq=False)
class Values:
    """What re-rolls say of an episode: the mean reward when the policy goes on from a prefix; 0 off the mask."""

    before: Float[np.ndarray, " token"]
    """Value of the prefix in front of each sampled token (with `values_at = "turn"`: in front of its turn)."""
    after: Float[np.ndarray, " token"]
    """Value once that token (that turn) stands; at the episode's end its own reward."""
    error: Float[np.ndarray, " token"]
    """Standard error of `after - before`."""

    def __post_init__(self) -> None:
        _same_length("Values", before=self.before, after=self.after, error=self.error)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a method may know of one episode besides its tokens. `student` and `teacher` distributions stand on the
    same ids."""

    teacher: Scores | None = None
    """The teacher's weights (`Needs.teacher_policy`) reading the privileged context; None when there is none for this
    episode."""
    student: Scores | None = None
    """The current policy without the context; set only when distributions are needed."""
    reference: Float[np.ndarray, " token"] | None = None
    """Log-probabilities under the weights at the start of training (or as `Needs.reference_every` refreshes them)."""
    masked: Bool[np.ndarray, " token"] | None = None
    """Tokens of literals that credit must not touch."""
    values: Values | None = None
    """Values of the episode's prefixes by re-rolling; set where `Needs.values` asks for them."""


class KLForm(Enum):
    """Estimators of a divergence to an anchor, with delta = log pi - anchor (methods of Schulman's k1, k2, k3)."""

    K1 = "k1"
    NEG_K1 = "-k1"
    K2 = "k2"
    K3 = "k3"
    IS_K3 = "is_k3"


@dataclass(frozen=True, eq=False)
class Anchor:
    """Pull towards fixed log-probabilities (a reference's or a teacher's), per token."""

    logprobs: Float[np.ndarray, " token"]
    weights: Float[np.ndarray, " token"]
    forms: Shaped[np.ndarray, " token"]
    """One `KLForm` per token (object array)."""

    def __post_init__(self) -> None:
        _same_length("Anchor", logprobs=self.logprobs, weights=self.weights, forms=self.forms)


@dataclass(frozen=True, eq=False)
class Distillation:
    """Pull of the whole next-token distribution towards a teacher's."""

    target: TopK
    weights: Float[np.ndarray, " token"]
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """forward = KL(teacher || student), reverse = KL(student || teacher), jsd = generalised Jensen-Shannon."""
    alpha: float = 0.5
    """The teacher's share in the mixture of `jsd`."""
    ratio_clip: float | None = None
    """Detached importance weight min(ratio, ratio_clip), or none."""
    entry_clip: float | None = None
    """Most that one entry of the vocabulary (or the tail) adds to a token's divergence, in nats; beyond it an entry
    has no gradient. None for no bound."""

    def __post_init__(self) -> None:
        _same_length("Distillation", target=self.target.ids, weights=self.weights)


@dataclass(frozen=True, eq=False)
class Credit:
    """What a method assigns to one episode's tokens: streams, None where the method does not use one."""

    advantages: Float[np.ndarray, " token"] | None = None
    likelihood: Float[np.ndarray, " token"] | None = None
    """Signed weight of the plain log-likelihood of the sampled token."""
    anchor: Anchor | None = None
    distillation: Distillation | None = None
    more: Mapping[str, Float[np.ndarray, " token"]] = field(default_factory=dict)
    """Further streams, by the names under which `harness.losses.streams` declares them."""

    def streams(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of every stream that is set."""
        own = ((entry.name, getattr(self, entry.name)) for entry in fields(self) if entry.name != "more")
        return ((name, value) for name, value in (*own, *self.more.items()) if value is not None)


TeacherPolicy = Literal["current", "initial", "ema"]
"""Whose weights a teacher has; see `Needs.teacher_policy`."""


@dataclass(frozen=True)
class Needs:
    """What a method wants in `Evidence`. UserError for a value that is none of those allowed."""

    teacher: Literal["none", "sampled", "distribution"] = "none"
    top_k: int | None = None
    """Entries of a distribution; None is the whole vocabulary, or the 100 likeliest and their tail where that is larger
    than 8192 entries: the row's footnote then says so."""
    ids_of: Literal["teacher", "student"] = "teacher"
    """Whose top-K ids both distributions stand on."""
    reference: bool = False
    teacher_policy: TeacherPolicy = "current"
    """Whose weights the teacher has: those being trained, the frozen start, or a moving average of those being
    trained that begins at the start."""
    teacher_decay: float = 0.0
    """With "ema": teacher <- decay * teacher + (1 - decay) * current, after every `teacher_every`-th step. Decay 0 is
    a copy: every step the current policy, every n-th step a teacher that is synchronised now and then."""
    teacher_every: int = 1
    reference_every: int = 0
    """Steps after which the reference becomes the current policy again; 0: it stays the start."""
    values: int = 0
    """Re-rolls of every prefix; 0 asks for no `Evidence.values`."""
    values_at: Literal["token", "turn"] = "token"
    """Whether every sampled token's prefix is re-rolled, or every turn's."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UnknownNameError(f"{name} of Needs", str(getattr(self, name)), allowed)
        for name, least in (("teacher_every", 1), ("reference_every", 0), ("values", 0), ("top_k", 1)):
            given = getattr(self, name)
            if name == "top_k" and given is None:
                continue
            if isinstance(given, bool) or not isinstance(given, int) or given < least:
                raise UserError(f"Needs: {name} must be a whole number from {least} on, got {given!r}")
        decay = self.teacher_decay
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise UserError(f"Needs: teacher_decay must be in [0, 1), got {decay!r}")


_CHOICES = {
    "teacher": ("none", "sampled", "distribution"),
    "ids_of": ("teacher", "student"),
    "teacher_policy": get_args(TeacherPolicy),
    "values_at": ("token", "turn"),
}


@dataclass(frozen=True)
class ContextRequest:
    """A privileged context for the teacher: text (shown as one message) or whole messages."""

    content: str | tuple[Message, ...]
    literals: tuple[str, ...] = ()
    """Strings whose tokens in the episode are reported as `Evidence.masked`."""
    place: Literal["before", "after"] = "before"
    """Where a teacher reads it: before the conversation, or after the question, at the end of its first prompt."""
