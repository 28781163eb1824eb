"""GRPO and its relatives: one group-relative advantage on every sampled token of an episode.

The relatives differ from GRPO partly in constants of the experiment (clip range, aggregation, mixed-group sampling),
which are the same for every method of a table; the classes here carry what is left: the advantage and the KL weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import Assignment, Number, State, Stateless, members, on_mask, reference_anchor, within
from harness.types import Credit, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class GRPO(Stateless):
    """Group-relative policy optimisation: A = (R - mean R) / (std R + 1e-6) on every sampled token.

    Shao et al. 2024, arXiv 2402.03300, section 4.1. The optional anchor is their k3 estimate of KL(pi || reference).

    kl: weight of the reference anchor; 0 leaves it out. 0.01 is what the tables of SDAR (2605.15155) and CRAFT
        (2606.29476) train their GRPO rows with; Shao et al. used 0.04 on mathematics.
    std: divide by the group's standard deviation.
    leave_one_out: subtract the mean of the other siblings instead of the mean of all.
    """

    paper: ClassVar[str] = "Shao et al. 2024, arXiv 2402.03300"

    kl: Number = 0.01
    std: bool = True
    leave_one_out: bool = False

    def __post_init__(self) -> None:
        within(self, 0, np.inf, kl=self.kl)

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.kl > 0)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits = []
        for group, known in members(groups, evidence):
            advantages = group_advantages(group.rewards, self.std, self.leave_one_out)
            credits.append(
                [
                    Credit(on_mask(episode.sequence, advantage), anchor=reference_anchor(episode, seen, self.kl))
                    for episode, advantage, seen in zip(group.episodes, advantages, known, strict=True)
                ]
            )
        return credits, state, {"degenerate_groups": degenerate_share(groups)}


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """GRPO done right: A = R - mean R, no KL. Liu et al. 2025, arXiv 2503.20783.

    Its other half, a constant instead of the episode's length under the sum, is the experiment's aggregation
    "sequence-mean-token-sum".
    """

    paper: ClassVar[str] = "Liu et al. 2025, arXiv 2503.20783"

    kl: Number = 0.0
    std: bool = False


@dataclass(frozen=True)
class DAPO(GRPO):
    """Decoupled clip and dynamic sampling: GRPO's advantage without KL. Yu et al. 2025, arXiv 2503.14476.

    Its clip range 0.2 / 0.28, token-mean aggregation and mixed-group sampling are options of the experiment.
    """

    paper: ClassVar[str] = "Yu et al. 2025, arXiv 2503.14476"

    kl: Number = 0.0


@dataclass(frozen=True)
class RLOO(GRPO):
    """REINFORCE leave-one-out: A = R - mean of the other siblings' R. Ahmadian et al. 2024, arXiv 2402.14740.

    LOOP (Chen et al. 2025, arXiv 2502.01600) trains AppWorld agents with it, without std, with clip 0.1 and the
    fraction of passed tests as the training reward; the last two are options of the experiment and of the environment.
    """

    paper: ClassVar[str] = "Ahmadian et al. 2024, arXiv 2402.14740"

    kl: Number = 0.0
    std: bool = False
    leave_one_out: bool = True
