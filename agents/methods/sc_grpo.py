"""SC-GRPO: advantages concentrated on the tokens where a policy that has seen a verified sibling would act
otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import Assignment, Number, State, Stateless, members, on_mask, reference_anchor, within
from agents.methods.diagnostics import gathered, mean, teacher_share
from agents.methods.divergence import kl, pair
from harness.types import Credit, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class SCGRPO(Stateless):
    """A_t = A * D_t / (D_t + max(P75(D), 1e-4)), D_t = KL(teacher || student) at the token.

    Shan et al. 2026, arXiv 2606.18810. The factor lies in [0, 1): signs never flip, |A_t| <= |A|. As in the paper only
    groups with 2 <= successes < G are weighted; in every other group, and without a teacher, an episode keeps A. P75
    is taken over the step's sampled tokens that are weighted (ours).

    Not here: the paper's diversity term for groups in which none succeeds. What is openly quoted of the paper names it
    and does not say what it computes.

    kl: weight of the k3 reference anchor; 0.01, the tables'. top_k: None is the full vocabulary.
    """

    paper: ClassVar[str] = "Shan et al. 2026, arXiv 2606.18810"

    kl: Number = 0.01
    top_k: int | None = None

    def __post_init__(self) -> None:
        within(self, 0, np.inf, kl=self.kl)
        within(self, 1, np.inf, top_k=1 if self.top_k is None else self.top_k)

    @property
    def needs(self) -> Needs:
        return Needs(teacher="distribution", top_k=self.top_k, reference=self.kl > 0)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        divergences: list[list[Float[np.ndarray, " _"] | None]] = []
        for group, known in members(groups, evidence):
            taught = weighable(group)
            pairs = (pair(e, seen, e.sequence.mask) for e, seen in zip(group.episodes, known, strict=True))
            divergences.append([kl(*both) if both and taught else None for both in pairs])
        everywhere = gathered([d for row in divergences for d in row if d is not None])
        scale = max(float(np.quantile(everywhere, 0.75)) if len(everywhere) else 0.0, 1e-4)
        credits = []
        for group, known, row in zip(groups, evidence, divergences, strict=True):
            out = []
            advantages = group_advantages(group.rewards)
            for episode, seen, advantage, d in zip(group.episodes, known, advantages, row, strict=True):
                stream = on_mask(episode.sequence, advantage)
                if d is not None:
                    stream[episode.sequence.mask] *= d / (d + scale)
                out.append(Credit(stream, anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(out)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "weighted_groups": mean(np.array([float(weighable(group)) for group in groups])),
            "teacher_share": teacher_share(evidence),
            "divergence_mean": mean(everywhere),
            "divergence_scale": scale,
            "weight_mean": mean(everywhere / (everywhere + scale)),
        }
        return credits, state, log


def weighable(group: RolloutGroup) -> bool:
    """Whether every success has a verified sibling, and not every episode is one: 2 <= successes < G."""
    return 2 <= sum(episode.success for episode in group.episodes) < len(group.episodes)
