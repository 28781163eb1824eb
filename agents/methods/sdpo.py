"""SDPO: distil the policy that has seen a successful sibling, or its own feedback, on the student's likeliest
tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agents.contexts import SuccessfulSibling
from agents.methods.base import FORMS, Assignment, Number, State, Stateless, one_of, within
from agents.methods.opsd import distil
from agents.transcripts import acted_at
from harness.protocols.method import MethodFacts
from harness.types import ContextRequest, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class SDPO(Stateless):
    """Self-distillation policy optimisation: reverse KL or JSD on the student's top-K and a tail, weighted by sg
    min(rho, 2).

    Hübotter et al. 2026, arXiv 2601.20802. The teacher reads a successful sibling and, with `feedback`, what the
    environment replied after this episode's last action; an episode with neither is left out. The paper's teacher has
    an exponential moving average of the weights; ours has the current ones.

    top_k: 20 to 100 in the paper. ratio_clip: 2, the paper's.
    """

    paper: ClassVar[str] = "Hübotter et al. 2026, arXiv 2601.20802"

    divergence: str = "reverse"
    alpha: Number = 0.5
    top_k: int | None = 100
    ratio_clip: Number | None = 2.0
    feedback: bool = False

    def __post_init__(self) -> None:
        one_of(self, "divergence", self.divergence, FORMS)
        within(self, 1e-6, 1 - 1e-6, alpha=self.alpha)
        within(self, 1, np.inf, top_k=1 if self.top_k is None else self.top_k)
        within(self, 1e-6, np.inf, ratio_clip=1 if self.ratio_clip is None else self.ratio_clip)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="distribution", top_k=self.top_k, ids_of="student")

    def describe(self) -> MethodFacts:
        return MethodFacts(0.0, context=SuccessfulSibling.name + (" and own feedback" if self.feedback else ""))

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        sibling = SuccessfulSibling()(group, index, rng)
        episode = group.episodes[index]
        acted = acted_at(episode)
        if not self.feedback or not acted:
            return sibling
        replies = [str(message["content"] or "") for message in episode.messages[acted[-1] + 1 :]]
        parts = [str(sibling.content)] if sibling else []
        text = "\n".join(part for part in [*parts, *replies] if part.strip())
        return ContextRequest(text) if text else None

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        return distil(groups, evidence, state, self.divergence, self.alpha, self.ratio_clip)
