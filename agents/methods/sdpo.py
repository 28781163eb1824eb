"""SDPO: distil the policy that has seen a successful sibling, or its own feedback, on the student's likeliest
tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agents.contexts import FirstSuccessfulSibling
from agents.methods.base import FORMS, Assignment, Number, State, Stateless, members, one_of, within
from agents.methods.opsd import distil
from agents.methods.teachers import TeacherWeights
from agents.transcripts import acted_at
from harness.protocols.method import MethodFacts
from harness.types import ContextRequest, Evidence, Needs, RolloutGroup, TeacherPolicy


@dataclass(frozen=True)
class SDPO(Stateless):
    """Self-distillation policy optimisation: reverse KL or JSD on the student's top-K and a tail, weighted by sg
    min(rho, 2).

    Hübotter et al. 2026, arXiv 2601.20802. As in the paper and its release:
      * the teacher has an exponential moving average of the weights, decay 0.95 a step (the release's update rate of
        0.05; 0.99 in its runs with rich feedback). "current" and "initial" are the two ends of the paper's ablation:
        36.1 and 48.8 beside the average's 49.3.
      * it reads the group's first success other than this episode; with `feedback`, and only where there is no such
        success, what the environment replied after this episode's last action.
      * an episode with neither is left out, and the loss is a mean over the tokens that are taught: every weight is
        the step's sampled tokens / its taught ones, which makes the experiment's token-mean that mean. Under an
        aggregation by sequences the factor is the same one and the mean is not (ours).

    top_k: 20 to 100 in the paper. ratio_clip: 2, the paper's.
    """

    paper: ClassVar[str] = "Hübotter et al. 2026, arXiv 2601.20802"

    divergence: str = "reverse"
    alpha: Number = 0.5
    top_k: int | None = 100
    ratio_clip: Number | None = 2.0
    feedback: bool = False
    teacher: TeacherPolicy = "ema"
    teacher_decay: Number = 0.95
    teacher_every: int = 1

    def __post_init__(self) -> None:
        one_of(self, "divergence", self.divergence, FORMS)
        within(self, 1e-6, 1 - 1e-6, alpha=self.alpha)
        within(self, 1, np.inf, top_k=1 if self.top_k is None else self.top_k)
        within(self, 1e-6, np.inf, ratio_clip=1 if self.ratio_clip is None else self.ratio_clip)
        TeacherWeights.of(self)

    @property
    def needs(self) -> Needs:
        return TeacherWeights.of(self).asked(Needs(teacher="distribution", top_k=self.top_k, ids_of="student"))

    def describe(self) -> MethodFacts:
        context = FirstSuccessfulSibling.name + (", else own feedback" if self.feedback else "")
        return MethodFacts(0.0, context=context, notes=TeacherWeights.of(self).notes)

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        solution = FirstSuccessfulSibling()(group, index, rng)
        episode = group.episodes[index]
        acted = acted_at(episode)
        if solution or not self.feedback or not acted:
            return solution
        replies = [str(message["content"] or "") for message in episode.messages[acted[-1] + 1 :]]
        text = "\n".join(reply for reply in replies if reply.strip())
        return ContextRequest(text) if text else None

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        tokens = [
            (int(episode.sequence.mask.sum()), seen.teacher is not None)
            for group, known in members(groups, evidence)
            for episode, seen in zip(group.episodes, known, strict=True)
        ]
        taught = sum(count for count, has in tokens if has)
        weight = sum(count for count, _ in tokens) / taught if taught else 1.0
        return distil(groups, evidence, state, self.divergence, self.alpha, self.ratio_clip, weight=weight)
