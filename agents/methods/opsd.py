"""OPSD: on-policy self-distillation from the policy that has read the reference solution; and GRPO mixed with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from agents.contexts import Answer, ReferenceSolution
from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import (
    FORMS,
    Assignment,
    Number,
    State,
    Stateless,
    distillation,
    members,
    on_mask,
    one_of,
    reference_anchor,
    within,
)
from agents.methods.diagnostics import gathered, mean, teacher_share
from agents.methods.divergence import kl, pair
from agents.methods.teachers import TeacherWeights
from harness.protocols.method import MethodFacts
from harness.types import ContextRequest, Credit, Evidence, Needs, RolloutGroup, TeacherPolicy


@dataclass(frozen=True)
class OPSD(Stateless):
    """Distillation only: generalised JSD(alpha) between the student and the policy that has read the reference
    solution.

    Zhao et al. 2026, arXiv 2601.18734:  M = (1 - alpha) pi + alpha q,  D = (1 - alpha) KL(pi || M) + alpha KL(q || M).
    As in the paper the teacher has the weights of the start of training, frozen ("initial"; the options are those of
    `teachers.TeacherWeights`, the release has an average of decay 0.999 as well).

    clip: most that one entry of the vocabulary adds to a token's D, in nats: the point-wise clipping of the paper's
        third version, whose release runs 0.05 with the forward KL. None, as in its first version, is no clip. An entry
        beyond it has no gradient; the tail of a cut distribution counts as one entry (ours).

    Ours: where a task ships no solution the answer serves, with neither the episode is left out; alpha 0.5, the plain
    Jensen-Shannon divergence. top_k: None is the full vocabulary, as in the paper.
    """

    paper: ClassVar[str] = "Zhao et al. 2026, arXiv 2601.18734"

    divergence: str = "jsd"
    alpha: Number = 0.5
    top_k: int | None = None
    teacher: TeacherPolicy = "initial"
    teacher_decay: Number = 0.999
    teacher_every: int = 1
    clip: Number | None = None

    def __post_init__(self) -> None:
        one_of(self, "divergence", self.divergence, FORMS)
        within(self, 1e-6, 1 - 1e-6, alpha=self.alpha)
        within(self, 1, np.inf, top_k=1 if self.top_k is None else self.top_k)
        within(self, 1e-9, np.inf, clip=1 if self.clip is None else self.clip)
        TeacherWeights.of(self)

    @property
    def needs(self) -> Needs:
        return TeacherWeights.of(self).asked(Needs(teacher="distribution", top_k=self.top_k))

    def describe(self) -> MethodFacts:
        context = f"{ReferenceSolution.name}, else {Answer.name}"
        return MethodFacts(0.0, context=context, notes=TeacherWeights.of(self).notes)

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return ReferenceSolution()(group, index, rng) or Answer()(group, index, rng)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        return distil(groups, evidence, state, self.divergence, self.alpha, entry_clip=self.clip)


@dataclass(frozen=True)
class GRPOMixedOPSD(OPSD):
    """GRPO and OPSD in one loss: advantage (1 - mix) * A, distillation of weight `mix`, k3 of weight `kl` to the
    reference.

    The field's tables name two baselines GRPO+OPSD. This is the one that mixes two losses, 0.5 each; the other, SDAR's
    code with a gate of 0.5 on the sampled token alone, is `sdar.GRPOWithOPSD`. Ours: teacher, context and divergence
    as in `OPSD`; kl 0.01, the tables'.
    """

    paper: ClassVar[str] = "baseline: GRPO with Zhao et al. 2026, arXiv 2601.18734"

    mix: Number = 0.5
    kl: Number = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1e-6, 1, mix=self.mix)
        within(self, 0, np.inf, kl=self.kl)

    @property
    def needs(self) -> Needs:
        return replace(super().needs, reference=self.kl > 0)

    def describe(self) -> MethodFacts:
        return replace(super().describe(), reference_kl=float(self.kl))

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        distilled, state, log = distil(
            groups, evidence, state, self.divergence, self.alpha, entry_clip=self.clip, weight=self.mix
        )
        credits = []
        for group, known, row in zip(groups, evidence, distilled, strict=True):
            advantages = (1 - self.mix) * group_advantages(group.rewards)
            credits.append(
                [
                    replace(
                        credit,
                        advantages=on_mask(episode.sequence, advantage),
                        anchor=reference_anchor(episode, seen, self.kl),
                    )
                    for episode, seen, advantage, credit in zip(group.episodes, known, advantages, row, strict=True)
                ]
            )
        return credits, state, log


def distil(
    groups: Sequence[RolloutGroup],
    evidence: Sequence[Sequence[Evidence]],
    state: State,
    form: str,
    alpha: Number,
    ratio_clip: Number | None = None,
    entry_clip: Number | None = None,
    weight: Number = 1.0,
) -> Assignment:
    """Credits that hold a distillation of one weight on every sampled token of an episode with a teacher, and nothing
    else."""
    credits = []
    divergences = []
    for group, known in members(groups, evidence):
        row = []
        for episode, seen in zip(group.episodes, known, strict=True):
            both = pair(episode, seen, episode.sequence.mask)
            if both is not None:
                divergences.append(kl(*both))
            target = distillation(episode.sequence, seen, weight, form, alpha, ratio_clip, entry_clip)
            row.append(Credit(distillation=target))
        credits.append(row)
    log = {
        "degenerate_groups": degenerate_share(groups),
        "teacher_share": teacher_share(evidence),
        "divergence_mean": mean(gathered(divergences)),
    }
    return credits, state, log
