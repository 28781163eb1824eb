"""GAGPO: generalised advantage estimation on values that are means over the group's turns in a state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from agents.methods.advantages import degenerate_share
from agents.methods.base import Assignment, Number, State, Stateless, members, one_of, reference_anchor, within
from agents.methods.turns import ANCHORS, Turns, alike, anchors, on_turns, returns, standardised
from harness.types import Credit, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class GAGPO(Stateless):
    """Generalised advantage grouped policy optimisation, turn by turn:

        V(s) = mean discounted return of the group's turns that began in s    delta_t = r_t + gamma V(s_t+1) - V(s_t)
        A_t = delta_t + gamma lam A_t+1, standardised over all turns of the group

    Zhu et al. 2026, arXiv 2605.13217, from the abstract and from accounts of the method; its equations were not at
    hand. They say: values are means over turns in exactly the same state, the advantage of turns is the only signal (no
    episode's advantage is added), it is normalised within the group. Ours: the normalisation is (A - mean) / std over
    the turns, V behind the end is 0, gamma and lam 0.95, and the importance ratio stays the loss's (the paper's is the
    action's, normalised by length; at one update a batch they are the same). kl 0.01: the tables'.
    """

    paper: ClassVar[str] = "Zhu et al. 2026, arXiv 2605.13217"
    group_relative: ClassVar[bool] = False

    gamma: Number = 0.95
    lam: Number = 0.95
    kl: Number = 0.01
    anchor: str = "auto"

    def __post_init__(self) -> None:
        within(self, 0, 1, gamma=self.gamma, lam=self.lam)
        within(self, 0, np.inf, kl=self.kl)
        one_of(self, "anchor", self.anchor, ANCHORS)

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.kl > 0)

    def turn_advantages(self, group: RolloutGroup) -> Turns:
        """A of every turn of every sibling, before it is standardised."""
        worth = returns(group, self.gamma)
        values = [np.zeros(len(row) + 1) for row in worth]  # the last: behind the end
        for siblings, turns in alike(anchors(group, self.anchor)):
            value = float(np.mean([worth[i][t] for i, t in zip(siblings, turns, strict=True)]))
            for i, t in zip(siblings, turns, strict=True):
                values[i][t] = value
        out = []
        for reward, row in zip(group.rewards, values, strict=True):
            advantages = np.zeros(len(row))
            for t in reversed(range(len(row) - 1)):
                delta = (reward if t == len(row) - 2 else 0.0) + self.gamma * row[t + 1] - row[t]
                advantages[t] = delta + self.gamma * self.lam * advantages[t + 1]
            out.append(advantages[:-1])
        return out

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits = []
        for group, known in members(groups, evidence):
            raw = self.turn_advantages(group)
            ends = np.cumsum([len(row) for row in raw])[:-1]
            turns = np.split(standardised(np.concatenate([*raw, np.zeros(0)])), ends)
            credits.append(
                [
                    Credit(on_turns(episode.sequence, row), anchor=reference_anchor(episode, seen, self.kl))
                    for episode, row, seen in zip(group.episodes, turns, known, strict=True)
                ]
            )
        return credits, state, {"degenerate_groups": degenerate_share(groups)}
