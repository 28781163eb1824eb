"""Two controls: credit as nearly true as money buys, and the same turned round. No paper's methods.

What the oracle gains over GRPO is what credit assignment can gain at all on these tasks; a method cannot be expected to
gain more. Inverted, it must do harm: where it does not, the table cannot tell credit from noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import EPSILON, degenerate_share
from agents.methods.base import Assignment, Number, State, Stateless, members, on_mask, reference_anchor, within
from agents.methods.diagnostics import gathered, mean
from agents.methods.turns import on_turns, turn_count
from agents.methods.vineppo import values_of
from harness.protocols.method import MethodFacts
from harness.types import Credit, Episode, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class Oracle(Stateless):
    """Advantage of a token (a turn) = value once it stands - value in front of it, in the scale of GRPO.

    The values are means of `rolls` re-rolls of the current policy; with `exact`, what the environment itself knows of
    the state in which each turn begins (`Episode.state_values`), turn by turn and without a re-roll: the environment
    says under which later actions, so that this is another policy's advantage unless it says the current one's.

    scale: the policy gradient of R - b and that of these advantages have the same mean, so a division by the same
    number gives steps of the same expected direction and size, only less noisy: "group" divides by the standard
    deviation of the group's rewards (+ 1e-6), as GRPO does, and like GRPO learns nothing from a group with equal
    rewards: what it gains is owed to credit alone. "step" divides by the root of the mean variance inside the step's
    groups, and learns from all of them; where no group varies it divides by 1. "none" divides by 1.

    expected: with `exact`, the last turn is credited with the reward that was to be expected when it had been played
    (`Episode.end_value`), where the environment says so, and not with the one that it drew: luck at the end is no
    action's merit. Whether a group varies is still read from the rewards, as GRPO reads it.

    rolls 32, kl 0.01 (the tables'): ours.
    """

    paper: ClassVar[str] = "a control, of no paper"
    group_relative: ClassVar[bool] = False
    sign: ClassVar[float] = 1.0

    rolls: int = 32
    at: Literal["token", "turn"] = "token"
    exact: bool = False
    expected: bool = False
    scale: Literal["group", "step", "none"] = "group"
    kl: Number = 0.01

    def __post_init__(self) -> None:
        within(self, 1, np.inf, rolls=self.rolls)
        within(self, 0, np.inf, kl=self.kl)
        if self.expected and not self.exact:
            raise ValueError("expected = true credits the last turn with an exact value; it needs exact = true")

    @property
    def needs(self) -> Needs:
        rolled = {} if self.exact else {"values": self.rolls, "values_at": self.at}
        return Needs(reference=self.kl > 0, **rolled)  # type: ignore[arg-type]

    def describe(self) -> MethodFacts:
        return MethodFacts(reference_kl=float(self.kl), control="upper" if self.sign > 0 else "lower")

    def gain(self, episode: Episode, seen: Evidence) -> Float[np.ndarray, " token"]:
        """What each token (each token's turn) was worth, in units of reward."""
        if not self.exact:
            values = values_of(episode, seen)
            return on_mask(episode.sequence, values.after - values.before)
        turns = turn_count(episode.sequence)
        if len(episode.state_values) < turns:
            raise ValueError(
                f"task {episode.task_id!r}: the environment knows no exact values; exact = false needs none"
            )
        known = episode.end_value if self.expected else None
        end = episode.reward if known is None else known
        return on_turns(episode.sequence, np.diff([*episode.state_values[:turns], end]))

    def divisors(self, groups: Sequence[RolloutGroup]) -> list[float]:
        """By group; infinite where the group teaches nothing."""
        spreads = [float(g.rewards.std(ddof=1)) if np.ptp(g.rewards) > 0 else 0.0 for g in groups]
        if self.scale == "group":
            return [spread + EPSILON if spread > 0 else np.inf for spread in spreads]
        pooled = float(np.sqrt(np.mean(np.square(spreads)))) if groups and self.scale == "step" else 0.0
        return [pooled + EPSILON if pooled > 0 else 1.0 for _ in groups]

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits, sizes = [], []
        for (group, known), divisor in zip(members(groups, evidence), self.divisors(groups), strict=True):
            row = []
            for episode, seen in zip(group.episodes, known, strict=True):
                advantages = self.sign * self.gain(episode, seen) / divisor
                sizes.append(np.abs(advantages[episode.sequence.mask]))
                row.append(Credit(advantages, anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(row)
        log = {"degenerate_groups": degenerate_share(groups), "advantage_size": mean(gathered(sizes))}
        return credits, state, log


@dataclass(frozen=True)
class Inverted(Oracle):
    """The oracle's credit with its sign turned: what was good is punished. A control that must do harm."""

    sign: ClassVar[float] = -1.0
