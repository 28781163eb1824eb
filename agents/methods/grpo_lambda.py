"""GRPO-lambda: an eligibility trace hands a token's advantage back to the tokens in front of it."""

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
from harness.types import Credit, Evidence, Needs, RolloutGroup

TRACES = ("recent", "both")


@dataclass(frozen=True)
class GRPOLambda(Stateless):
    """A_j = max(A, floor) * sum over t >= j of trace(t, j), j and t counting the sampled tokens of an episode:

        recent   trace(t, j) = (gamma lam)^(t - j)
        both     trace(t, j) = max((gamma lam)^(t - j), (gamma lam)^j), and 1 for t = j

    Parthasarathi et al. 2025, arXiv 2510.00194, section 3, from the abstract and two independent accounts of its
    equations; the text itself was not at hand. The paper puts the trace into the ratio, r_t = exp(sum over j <= t of
    trace(t, j) (log pi_j - log pi_old_j)), under GRPO's clipped surrogate, and keeps negative advantages from falling
    below -0.1. At the policy that sampled, the gradient of sum_t r_t A is the one above, which this class gives to the
    loss as advantages; in later updates of one batch the loss clips each token's own ratio, not the trace's (ours).

    lam 0.99, gamma 1, floor -0.1: as the accounts have them; floor None leaves negative advantages alone. kl 0.01: the
    tables'.
    """

    paper: ClassVar[str] = "Parthasarathi et al. 2025, arXiv 2510.00194"

    lam: Number = 0.99
    gamma: Number = 1.0
    trace: str = "recent"
    floor: Number | None = -0.1
    kl: Number = 0.01

    def __post_init__(self) -> None:
        within(self, 0, 1, lam=self.lam, gamma=self.gamma)
        within(self, 0, np.inf, kl=self.kl)
        within(self, -np.inf, 0, floor=0 if self.floor is None else self.floor)
        one_of(self, "trace", self.trace, TRACES)

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.kl > 0)

    def weights(self, count: int) -> Float[np.ndarray, " sampled"]:
        """The sums of the trace, for each of `count` sampled tokens."""
        decay, places = float(self.gamma * self.lam), np.arange(count)
        powers = decay**places
        recent = np.cumsum(powers)[::-1]
        if self.trace == "recent":
            return recent.copy()
        # Of the later tokens t = j + l, the first j have the greater decay^l; to all others decay^j applies.
        later = places[::-1]
        near = np.minimum(places, later)
        return np.asarray(np.cumsum(powers)[near] + (later - near) * powers)

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        credits = []
        for group, known in members(groups, evidence):
            row = []
            for episode, advantage, seen in zip(group.episodes, group_advantages(group.rewards), known, strict=True):
                sequence = episode.sequence
                held = advantage if self.floor is None else max(advantage, self.floor)
                advantages = np.zeros(len(sequence))
                advantages[sequence.mask] = held * self.weights(int(sequence.mask.sum()))
                row.append(Credit(on_mask(sequence, advantages), anchor=reference_anchor(episode, seen, self.kl)))
            credits.append(row)
        return credits, state, {"degenerate_groups": degenerate_share(groups)}
