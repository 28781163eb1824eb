"""RLSD: the teacher's opinion scales the advantage within a narrow band, and fades out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import (
    Assignment,
    Described,
    Number,
    State,
    members,
    on_mask,
    reference_anchor,
    teacher_gap,
    within,
)
from agents.methods.diagnostics import gathered, mean, teacher_share
from agents.methods.teachers import TeacherWeights
from harness.protocols.method import MethodFacts
from harness.types import Credit, Evidence, Needs, RolloutGroup, TeacherPolicy


@dataclass(frozen=True)
class RLSD(Described):
    """A_t = A * [(1 - lam_k) + lam_k * clip(exp(sign(A) * Delta_t), 1 - eps_w, 1 + eps_w)].

    Yang et al. 2026, arXiv 2604.03128. lam_k falls linearly from `lam` to 0 over `decay_steps` optimiser steps. The
    factor lies in [1 - lam * eps_w, 1 + lam * eps_w], so the sign of A never flips. An episode without a teacher
    keeps A.

    As in the paper the teacher's weights are those of the start, and take the policy's over every 10 steps (an "ema" of
    decay 0; the options are those of `teachers.TeacherWeights`, and "current" is the policy at every step). It is asked
    also once lam_k is 0 (ours: what a method needs is fixed for a run).

    lam 0.5, eps_w 0.2, decay_steps 50, teacher_every 10: the paper's; SDAR's suite (2605.15155) runs it with 100
    steps. kl 0.01: the tables'.
    """

    paper: ClassVar[str] = "Yang et al. 2026, arXiv 2604.03128"

    lam: Number = 0.5
    eps_w: Number = 0.2
    kl: Number = 0.01
    decay_steps: int = 50
    teacher: TeacherPolicy = "ema"
    teacher_decay: Number = 0.0
    teacher_every: int = 10

    def __post_init__(self) -> None:
        within(self, 0, 1, lam=self.lam)
        within(self, 0, 1 - 1e-9, eps_w=self.eps_w)
        within(self, 0, np.inf, kl=self.kl)
        within(self, 1, np.inf, decay_steps=self.decay_steps)
        TeacherWeights.of(self)

    @property
    def needs(self) -> Needs:
        plain = Needs(teacher="sampled" if self.lam > 0 else "none", reference=self.kl > 0)
        return TeacherWeights.of(self).asked(plain)

    def describe(self) -> MethodFacts:
        return MethodFacts(float(self.kl), notes=TeacherWeights.of(self).notes if self.lam > 0 else ())

    def initial_state(self) -> State:
        return {"steps": 0.0}

    def factors(self, gap: Float[np.ndarray, " token"], advantage: float, lam: float) -> Float[np.ndarray, " token"]:
        """The bracket above; the clip is taken on the exponent, where nothing overflows."""
        bounds = np.log1p(-self.eps_w), np.log1p(self.eps_w)
        bracket: Float[np.ndarray, " token"] = (1 - lam) + lam * np.exp(np.clip(np.sign(advantage) * gap, *bounds))
        return bracket

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        lam = self.lam * max(0.0, 1 - state["steps"] / self.decay_steps)
        credits = []
        seen_factors: list[Float[np.ndarray, " _"]] = []
        for group, known in members(groups, evidence):
            row = []
            for episode, advantage, seen in zip(group.episodes, group_advantages(group.rewards), known, strict=True):
                sequence = episode.sequence
                advantages = on_mask(sequence, advantage)
                gap = teacher_gap(episode, seen) if lam > 0 else None
                if gap is not None:
                    factors = self.factors(gap, advantage, lam)
                    advantages = on_mask(sequence, advantage * factors)
                    seen_factors.append(factors[sequence.mask])
                row.append(Credit(advantages, anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(row)
        factor = gathered(seen_factors)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "lambda": lam,
            "weight_mean": mean(factor),
            "weight_std": float(factor.std()) if len(factor) else 0.0,
        }
        return credits, {"steps": state["steps"] + 1}, log
