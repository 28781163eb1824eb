"""Figures a step logs about its credit; every one is a finite float, 0 where nothing was there to measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from harness.types import Evidence

ROUNDING = 1e-9
"""A credit smaller than this is rounding noise of either sign."""


def gathered(parts: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " token"]:
    """All parts in one array, also when there are none."""
    return np.concatenate(parts) if parts else np.zeros(0)


def mean(values: Shaped[np.ndarray, " _"]) -> float:
    """The mean, 0 of nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def sign_agreement(credit: Float[np.ndarray, " token"], advantages: Float[np.ndarray, " token"]) -> float:
    """Share of tokens on which credit and advantage have one sign, among those where both have one."""
    both = (np.abs(credit) > ROUNDING) & (advantages != 0)
    return mean((np.sign(credit[both]) == np.sign(advantages[both])).astype(np.float64))


def teacher_share(evidence: Sequence[Sequence[Evidence]]) -> float:
    """Share of the step's episodes that have a teacher."""
    return mean(np.array([float(known.teacher is not None) for group in evidence for known in group]))
