"""GiGPO: groups inside the group, of turns that began in the same state."""

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
    one_of,
    reference_anchor,
    within,
)
from agents.methods.diagnostics import mean
from agents.methods.turns import ANCHORS, Turns, alike, anchors, on_turns, returns, standardised
from harness.types import Credit, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class GiGPO(Stateless):
    """Group-in-group policy optimisation: A = A_episode + omega A_turn on every sampled token of the turn.

    Feng et al. 2025, arXiv 2505.10978. A_episode (equation 3) is GRPO's advantage of the episode. Turns of the group
    that began in the same anchor state form a group of their own (equation 6), in which A_turn (equation 7) compares
    their discounted returns R_t = sum_k gamma^(k - t) r_k; both are divided by the standard deviation, or by 1. A turn
    that met its state alone gets no A_turn. With gamma < 1 a sooner success counts more, so a group with equal rewards
    of 1 has credit.

    omega 1, gamma 0.95: the paper's. kl 0.01: the tables'. anchor: the environment's name of the state, the messages
    since the last turn (what the authors' code compares), or whichever there is. std: divide.
    """

    paper: ClassVar[str] = "Feng et al. 2025, arXiv 2505.10978"
    group_relative: ClassVar[bool] = False

    omega: Number = 1.0
    gamma: Number = 0.95
    kl: Number = 0.01
    anchor: str = "auto"
    std: bool = True

    def __post_init__(self) -> None:
        within(self, 0, np.inf, omega=self.omega, kl=self.kl)
        within(self, 0, 1, gamma=self.gamma)
        one_of(self, "anchor", self.anchor, ANCHORS)

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.kl > 0)

    def step_advantages(self, group: RolloutGroup) -> tuple[Turns, Float[np.ndarray, " anchor"]]:
        """A_turn of every turn of every sibling, and the sizes of the anchors' groups."""
        worth = returns(group, self.gamma)
        out = [np.zeros(len(row)) for row in worth]
        sizes = []
        for siblings, turns in alike(anchors(group, self.anchor)):
            places = list(zip(siblings, turns, strict=True))
            found = standardised(np.array([worth[i][t] for i, t in places]), self.std)
            for (i, t), value in zip(places, found.tolist(), strict=True):
                out[i][t] = value
            sizes.append(float(len(places)))
        return out, np.array(sizes)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits, sizes = [], [np.zeros(0)]
        for group, known in members(groups, evidence):
            steps, of_group = self.step_advantages(group)
            sizes.append(of_group)
            whole = group_advantages(group.rewards, self.std)
            row = []
            for episode, advantage, step, seen in zip(group.episodes, whole, steps, known, strict=True):
                total = on_mask(episode.sequence, advantage) + self.omega * on_turns(episode.sequence, step)
                row.append(Credit(total, anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(row)
        every = np.concatenate(sizes)
        alone = float(np.sum(every == 1) / max(every.sum(), 1))
        return (
            credits,
            state,
            {"degenerate_groups": degenerate_share(groups), "anchor_size": mean(every), "alone": alone},
        )
