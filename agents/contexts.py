"""Privileged contexts: what a teacher may read that the policy did not, as interchangeable sources.

Each keeps `harness.protocols.context.ContextSource`: called as `source(group, index, rng)`, it returns what the
teacher of `group.episodes[index]` reads, or None when this group has nothing to offer. Every source renders in the
environment's own grammar, so that a policy trained on the environment's transcripts can read it: the context of a
one-turn sibling is its action and nothing else. An episode never reads its own transcript.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from agents.sanitiser import mask_literals, traces
from agents.summariser import Summariser, summariser
from agents.transcripts import transcript
from harness.types import ContextRequest, Episode, RolloutGroup


def draw_peer(group: RolloutGroup, index: int, rng: np.random.Generator) -> Episode | None:
    """One of the group's other successes, uniformly; None when there is none."""
    peers = [peer for place, peer in enumerate(group.episodes) if place != index and peer.success]
    return peers[int(rng.integers(len(peers)))] if peers else None


@dataclass(frozen=True)
class SuccessfulSibling:
    """The transcript of another success of the group, drawn uniformly."""

    name: ClassVar[str] = "successful sibling"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        peer = draw_peer(group, index, rng)
        return _request(transcript(peer)) if peer else None


@dataclass(frozen=True)
class FirstSuccessfulSibling:
    """The transcript of the group's first success other than the episode itself, the same at every call."""

    name: ClassVar[str] = "first successful sibling"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        peers = (peer for place, peer in enumerate(group.episodes) if place != index and peer.success)
        peer = next(peers, None)
        return _request(transcript(peer)) if peer else None


@dataclass(frozen=True)
class ReferenceSolution:
    """The environment's reference actions, one a line."""

    name: ClassVar[str] = "reference solution"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return _request("\n".join(group.solution or ()))


@dataclass(frozen=True)
class Answer:
    """The reference answer alone."""

    name: ClassVar[str] = "answer"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return _request(group.answer or "")


@dataclass(frozen=True)
class SiblingAndAnswer:
    """The reference answer, then another success's transcript; either alone where the other is missing."""

    name: ClassVar[str] = "successful sibling and answer"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        peer = draw_peer(group, index, rng)
        parts = [group.answer or "", transcript(peer) if peer else ""]
        return _request("\n".join(part for part in parts if part))


@dataclass(frozen=True)
class SiblingOrSolution:
    """Another success's transcript; where there is none, the reference solution."""

    name: ClassVar[str] = "successful sibling, else reference solution"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return SuccessfulSibling()(group, index, rng) or ReferenceSolution()(group, index, rng)


@dataclass(frozen=True)
class CreditReference:
    """What a summariser writes about the group's successes and failures: `summariser` is "rules", "llm:MODEL" or an
    object.

    One text for all siblings, the way SGCD defines it; None where the group has no two outcomes.
    """

    summariser: str | Summariser = "rules"

    def __post_init__(self) -> None:
        summariser(self.summariser)

    @property
    def name(self) -> str:
        """Names who writes it."""
        return f"credit reference by {summariser(self.summariser).name}"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return written_reference(summariser(self.summariser), group)


@lru_cache(maxsize=16)
def written_reference(writer: Summariser, group: RolloutGroup) -> ContextRequest | None:
    """The credit reference of a group with successes and failures, the same for all its episodes; None elsewhere.

    Sanitised before and after the summariser; the masked literals travel along, so that credit does not touch them.
    Remembered for the latest groups, because every sibling asks.
    """
    if len({episode.success for episode in group.episodes}) < 2:
        return None
    siblings, literals = traces(group)
    text = mask_literals(writer(siblings), group.answer)
    return ContextRequest(text, literals) if text.strip() else None


def _request(text: str) -> ContextRequest | None:
    return ContextRequest(text) if text.strip() else None
