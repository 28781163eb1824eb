"""AgentOPSD: a teacher's gaps, summed by turn, revise a belief in success; the revisions scale the advantage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import EPSILON, degenerate_share, group_advantages
from agents.methods.base import (
    Assignment,
    Number,
    State,
    Stateless,
    members,
    on_mask,
    reference_anchor,
    teacher_gap,
    within,
)
from agents.methods.diagnostics import gathered, mean, teacher_share
from agents.methods.sdar import sigmoid
from agents.methods.turns import on_turns, turn_count
from harness.types import Credit, Evidence, Needs, RolloutGroup

PRIOR = 1e-4
"""The prior belief is clipped to [1e-4, 1 - 1e-4] (the authors' code)."""


@dataclass(frozen=True)
class AgentOPSD(Stateless):
    """Recursive self-distillation. For turn k of an episode with advantage A, Delta the teacher's gaps:

        e_k = sum of Delta over the turn's tokens       c_k = gamma c_k-1 + e_k       B_0 = clip(mean R of the group)
        B_k = sigmoid(logit B_0 + c_k)                  q_k = sign(A) (B_k - B_k-1)   z = (q - mean) / (std + 1e-6)
        w_k = clip(1 + band z_k, 1 - band, 1 + band)    A_k = A [(1 - lam) + lam w_k]

    Wang et al. 2026, arXiv 2608.05987, and the authors' code (the signed multiplicative form); std with ddof 0, over
    the episode's turns. The factor is positive: the sign of A never flips, and an episode of one turn keeps A. An
    episode without a teacher keeps A (ours). The paper's teacher is the policy that has read a skill; here it reads the
    experiment's context.

    lam 0.5, band 0.2, gamma 0.95, kl 0.01: the paper's.
    """

    paper: ClassVar[str] = "Wang et al. 2026, arXiv 2608.05987"
    group_relative: ClassVar[bool] = False

    lam: Number = 0.5
    band: Number = 0.2
    gamma: Number = 0.95
    kl: Number = 0.01

    def __post_init__(self) -> None:
        within(self, 0, 1, lam=self.lam, gamma=self.gamma)
        within(self, 0, 1 - 1e-9, band=self.band)
        within(self, 0, np.inf, kl=self.kl)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="sampled" if self.lam > 0 else "none", reference=self.kl > 0)

    def factors(
        self, evidence: Float[np.ndarray, " turn"], prior: float, advantage: float
    ) -> Float[np.ndarray, " turn"]:
        """The bracket above, by turn; `evidence` is e."""
        carried, revised = np.zeros(len(evidence)), 0.0
        for k, found in enumerate(evidence.tolist()):
            revised = float(self.gamma) * revised + found
            carried[k] = revised
        prior = min(max(prior, PRIOR), 1 - PRIOR)
        belief = sigmoid(np.log(prior / (1 - prior)) + np.append(0.0, carried))
        revision = np.sign(advantage) * np.diff(belief)
        z = (revision - revision.mean()) / (revision.std() + EPSILON) if len(revision) else revision
        weight = np.clip(1 + self.band * z, 1 - self.band, 1 + self.band)
        return np.asarray((1 - self.lam) + self.lam * weight)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits = []
        scales: list[Float[np.ndarray, " _"]] = []
        for group, known in members(groups, evidence):
            row = []
            for episode, advantage, seen in zip(group.episodes, group_advantages(group.rewards), known, strict=True):
                sequence = episode.sequence
                advantages = on_mask(sequence, advantage)
                gap = teacher_gap(episode, seen) if self.lam > 0 else None
                if gap is not None:
                    sampled = sequence.mask
                    turns = np.bincount(sequence.turns[sampled], gap[sampled], turn_count(sequence))
                    scales.append(self.factors(turns, float(group.rewards.mean()), float(advantage)))
                    advantages = advantage * on_turns(sequence, scales[-1])
                row.append(Credit(advantages, anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(row)
        scale = gathered(scales)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "weight_mean": mean(scale),
            "weight_std": float(scale.std()) if len(scale) else 0.0,
        }
        return credits, state, log
