"""SDAR: GRPO plus a gated pull towards tokens that a better-informed teacher finds likelier; and GRPO+OPSD, its gate
open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import degenerate_share, group_advantages
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
from agents.methods.diagnostics import gathered, mean, sign_agreement, teacher_share
from harness.types import Credit, Evidence, Needs, RolloutGroup


def sigmoid(x: Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
    """1 / (1 + e^-x), written so that no exponential can overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


@dataclass(frozen=True)
class SDAR(Stateless):
    """Self-distilled agentic RL: A on every sampled token, likelihood weight coef * sigmoid(beta * Delta), k3 to the
    reference.

    Lu et al. 2026, arXiv 2605.15155. Delta = log q - log p of the sampled token, q the policy reading a privileged
    context. As in the authors' code the likelihood weight is never negative: the term always raises the sampled
    token. An episode without a teacher gets weight 0 (ours). `coef` = 0 is GRPO, with no likelihood stream and no
    teacher.

    coef, beta, kl: 0.01, 5 and 0.01, the values CRAFT's Table 6 (2606.29476) quotes for it.
    """

    paper: ClassVar[str] = "Lu et al. 2026, arXiv 2605.15155"

    coef: Number = 0.01
    beta: Number = 5.0
    kl: Number = 0.01

    def __post_init__(self) -> None:
        within(self, 0, np.inf, coef=self.coef, beta=self.beta, kl=self.kl)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="sampled" if self.coef > 0 else "none", reference=self.kl > 0)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits = []
        pulls: list[Float[np.ndarray, " _"]] = []
        signs: list[Float[np.ndarray, " _"]] = []
        for group, known in members(groups, evidence):
            row = []
            for episode, advantage, seen in zip(group.episodes, group_advantages(group.rewards), known, strict=True):
                sequence = episode.sequence
                likelihood = None
                if self.coef > 0:
                    gap = teacher_gap(episode, seen)
                    gate = np.zeros(len(sequence)) if gap is None else sigmoid(self.beta * gap)
                    likelihood = on_mask(sequence, self.coef * gate)
                    pulls.append(likelihood[sequence.mask])
                    signs.append(np.full(len(pulls[-1]), advantage))
                row.append(
                    Credit(on_mask(sequence, advantage), likelihood, anchor=reference_anchor(episode, seen, self.kl))
                )
            credits.append(row)
        pull = gathered(pulls)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "likelihood_mean": mean(pull),
            "sign_agreement": sign_agreement(pull / self.coef if self.coef > 0 else pull, gathered(signs)),
        }
        return credits, state, log


@dataclass(frozen=True)
class GRPOWithOPSD(SDAR):
    """GRPO plus ungated on-policy self-distillation, as SDAR's code runs it: SDAR with beta = 0, a gate of 0.5
    everywhere, on the sampled token alone.

    The other method of this name, which mixes GRPO's loss and the distillation of whole distributions half and half,
    is `opsd.GRPOMixedOPSD`.
    """

    paper: ClassVar[str] = "baseline of Lu et al. 2026, arXiv 2605.15155"

    beta: Number = 0.0
