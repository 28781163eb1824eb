"""OPSD: on-policy self-distillation from the policy that has read the reference solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agents.contexts import Answer, ReferenceSolution
from agents.methods.advantages import degenerate_share
from agents.methods.base import FORMS, Assignment, Number, State, Stateless, distillation, members, one_of, within
from agents.methods.diagnostics import gathered, mean, teacher_share
from agents.methods.divergence import kl, pair
from harness.protocols.method import MethodFacts
from harness.types import ContextRequest, Credit, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class OPSD(Stateless):
    """Distillation only: generalised JSD(alpha) between the student and the policy that has read the reference
    solution.

    Zhao et al. 2026, arXiv 2601.18734:  M = (1 - alpha) pi + alpha q,  D = (1 - alpha) KL(pi || M) + alpha KL(q || M).
    Where a task ships no solution the answer serves (ours); with neither the episode is left out. The paper's teacher
    is the policy frozen at the start of training; the harness's evidence comes from the current weights (ours), which
    agree with them at the first step and drift from them afterwards.

    alpha 0.5 is the plain Jensen-Shannon divergence (ours). top_k: None is the full vocabulary.
    """

    paper: ClassVar[str] = "Zhao et al. 2026, arXiv 2601.18734"

    divergence: str = "jsd"
    alpha: Number = 0.5
    top_k: int | None = None

    def __post_init__(self) -> None:
        one_of(self, "divergence", self.divergence, FORMS)
        within(self, 1e-6, 1 - 1e-6, alpha=self.alpha)
        within(self, 1, np.inf, top_k=1 if self.top_k is None else self.top_k)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="distribution", top_k=self.top_k)

    def describe(self) -> MethodFacts:
        return MethodFacts(0.0, context=f"{ReferenceSolution.name}, else {Answer.name}")

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return ReferenceSolution()(group, index, rng) or Answer()(group, index, rng)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        return distil(groups, evidence, state, self.divergence, self.alpha, None)


def distil(
    groups: Sequence[RolloutGroup],
    evidence: Sequence[Sequence[Evidence]],
    state: State,
    form: str,
    alpha: Number,
    ratio_clip: Number | None,
) -> Assignment:
    """Credits that hold a distillation of weight 1 on every sampled token of an episode with a teacher, and nothing
    else."""
    credits = []
    divergences = []
    for group, known in members(groups, evidence):
        row = []
        for episode, seen in zip(group.episodes, known, strict=True):
            both = pair(episode, seen, episode.sequence.mask)
            if both is not None:
                divergences.append(kl(*both))
            row.append(Credit(distillation=distillation(episode.sequence, seen, 1.0, form, alpha, ratio_clip)))
        credits.append(row)
    log = {
        "degenerate_groups": degenerate_share(groups),
        "teacher_share": teacher_share(evidence),
        "divergence_mean": mean(gathered(divergences)),
    }
    return credits, state, log
