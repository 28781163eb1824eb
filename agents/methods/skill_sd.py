"""Skill-SD: GRPO with an importance-weighted KL to a teacher that reads a privileged context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import Assignment, Number, State, Stateless, members, on_mask, teacher_gap, within
from agents.methods.diagnostics import gathered, mean, teacher_share
from harness.types import Anchor, Credit, Evidence, KLForm, Needs, RolloutGroup


@dataclass(frozen=True)
class SkillSD(Stateless):
    """A on every sampled token, and an anchor of weight `coef` to the teacher in the form rho * k3 (gradient through
    rho too).

    Wang et al. 2026, arXiv 2604.10674; coef 0.001 is the paper's. The anchor stands on the teacher, so there is none
    on the reference. An episode without a teacher has anchor weight 0. The teacher reads the experiment's context
    source (ours; the paper conditions it on a written skill).
    """

    paper: ClassVar[str] = "Wang et al. 2026, arXiv 2604.10674"

    coef: Number = 0.001

    def __post_init__(self) -> None:
        within(self, 0, np.inf, coef=self.coef)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="sampled" if self.coef > 0 else "none")

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits = []
        gaps = []
        for group, known in members(groups, evidence):
            row = []
            for episode, advantage, seen in zip(group.episodes, group_advantages(group.rewards), known, strict=True):
                sequence = episode.sequence
                anchor = None
                if self.coef > 0:
                    gap = teacher_gap(episode, seen)
                    if gap is not None:
                        gaps.append(gap[sequence.mask])
                    towards = sequence.logprobs if seen.teacher is None else seen.teacher.logprobs
                    weight = 0.0 if seen.teacher is None else self.coef
                    forms = np.full(len(sequence), KLForm.IS_K3, dtype=object)
                    anchor = Anchor(on_mask(sequence, towards), on_mask(sequence, weight), forms)
                row.append(Credit(on_mask(sequence, advantage), anchor=anchor))
            credits.append(row)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "gap_mean": mean(gathered(gaps)),
        }
        return credits, state, log
