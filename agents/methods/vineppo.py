"""VinePPO: the advantage of a turn is the difference of two values, each the mean of fresh re-rolls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from agents.methods.advantages import degenerate_share
from agents.methods.base import Assignment, Number, State, Stateless, members, on_mask, reference_anchor, within
from agents.methods.diagnostics import gathered, mean
from harness.types import Credit, Episode, Evidence, Needs, RolloutGroup, Values


@dataclass(frozen=True)
class VinePPO(Stateless):
    """A_t = V(s_t+1) - V(s_t) on every sampled token of turn t, V the mean reward of K re-rolls of the current policy.

    Kazemnejad et al. 2024, arXiv 2410.01679, section 4: values by Monte Carlo instead of a critic, no discount, lambda
    1 of GAE's place taken by the one-step difference; the reward comes with the last turn, whose end needs no re-roll.
    Their steps are lines of a solution; here they are turns, or tokens (`at`). There is no group baseline: a group with
    equal rewards has credit.

    rolls 9: the authors' configuration for MATH. kl 0.01: the tables'.
    """

    paper: ClassVar[str] = "Kazemnejad et al. 2024, arXiv 2410.01679"
    group_relative: ClassVar[bool] = False

    rolls: int = 9
    at: Literal["token", "turn"] = "turn"
    kl: Number = 0.01

    def __post_init__(self) -> None:
        within(self, 1, np.inf, rolls=self.rolls)
        within(self, 0, np.inf, kl=self.kl)

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.kl > 0, values=self.rolls, values_at=self.at)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits, sizes = [], []
        for group, known in members(groups, evidence):
            row = []
            for episode, seen in zip(group.episodes, known, strict=True):
                values, sequence = values_of(episode, seen), episode.sequence
                advantages = on_mask(sequence, values.after - values.before)
                sizes.append(np.abs(advantages[sequence.mask]))
                row.append(Credit(advantages, anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(row)
        log = {"degenerate_groups": degenerate_share(groups), "advantage_size": mean(gathered(sizes))}
        return credits, state, log


def values_of(episode: Episode, seen: Evidence) -> Values:
    """The re-rolled values of an episode; ValueError where the evidence has none."""
    if seen.values is None:
        raise ValueError(f"task {episode.task_id!r}: this method needs Evidence.values")
    return seen.values
