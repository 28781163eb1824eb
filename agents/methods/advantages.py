"""Group-relative advantages: how much better an episode did than its siblings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from harness.types import RolloutGroup

EPSILON = 1e-6
"""Added to the standard deviation, in reward units."""


def group_advantages(
    rewards: Float[np.ndarray, " group"], std: bool = True, leave_one_out: bool = False
) -> Float[np.ndarray, " group"]:
    """A_i = (R_i - mean R) / (std R + 1e-6), std with ddof 1 (Shao et al. 2024, arXiv 2402.03300).

    `std=False` leaves the division out (Liu et al. 2025, arXiv 2503.20783); `leave_one_out` subtracts the mean of the
    other episodes instead (Ahmadian et al. 2024, arXiv 2402.14740). A group whose rewards are all equal gets exactly 0.

    Raises ValueError on a reward that is not finite: a failed episode has no place in a group.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if not np.all(np.isfinite(rewards)):
        raise ValueError(f"rewards must be finite, got {rewards.tolist()}")
    if len(rewards) == 0 or np.ptp(rewards) == 0:
        return np.zeros(len(rewards))
    advantages: Float[np.ndarray, " group"] = rewards - rewards.mean()
    if leave_one_out:  # R_i - mean of the others = n / (n - 1) * (R_i - mean of all)
        advantages = advantages * (len(rewards) / (len(rewards) - 1))
    if std:
        advantages = advantages / (rewards.std(ddof=1) + EPSILON)
    return advantages


def degenerate_share(groups: Sequence[RolloutGroup]) -> float:
    """Share of groups whose rewards are all equal: they teach a policy gradient nothing."""
    return float(np.mean([np.ptp(group.rewards) == 0 for group in groups])) if groups else 0.0
