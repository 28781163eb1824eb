"""When another engine sampled than the one that trains: how far the two are apart on each token, and what is done
about it.

    r_t = pi_trainer(a_t) / pi_sampler(a_t)      both with the weights that sampled, before the first update

One detached weight per token multiplies its share of the loss, in every term, and one mask takes tokens out of the
loss and of its denominator. Both are off by default, and then nothing is touched. With a correction the behaviour of
the loss's own ratio is the trainer's log-probability: what the sampler said stands in the weight alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from harness.core.errors import UnknownNameError, UserError
from harness.core.types import TokenSequence
from harness.losses.terms import EXPONENT_LIMIT

WeightKind = Literal["none", "truncated"]
MaskKind = Literal["none", "token", "sequence", "off-policy"]


@dataclass(frozen=True)
class Correction:
    """What is done about the mismatch. UserError for values that are none of those allowed."""

    weight: str = "none"
    """truncated: min(r, cap), truncated importance sampling per token (Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training")."""
    mask: str = "none"
    """token: keep low <= r <= high (IcePop, Ling team 2025, 2510.18855; with the truncated weight at a cap of `high`
    its weight is r, as theirs). sequence: keep a sequence whose geometric mean of r lies there, all its tokens or none.
    off-policy: take out tokens of negative advantage where the mean of -log r over the sequence exceeds `drift`
    (off-policy sequence masking, DeepSeek-AI 2025, 2512.02556)."""
    cap: float = 2.0
    low: float = 0.5
    high: float = 5.0
    drift: float = 0.1
    """In nats per token."""

    def __post_init__(self) -> None:
        for name, given, allowed in (("weight", self.weight, WeightKind), ("mask", self.mask, MaskKind)):
            if given not in get_args(allowed):
                raise UnknownNameError(f"{name} of a correction", str(given), get_args(allowed))
        if not (self.cap > 0 and 0 <= self.low < self.high and self.drift >= 0):
            raise UserError(
                "a correction needs cap > 0, 0 <= low < high and drift >= 0; got "
                f"cap={self.cap}, low={self.low}, high={self.high}, drift={self.drift}"
            )

    @property
    def on(self) -> bool:
        """Whether anything is changed."""
        return self.weight != "none" or self.mask != "none"


@dataclass(frozen=True, eq=False)
class Corrected:
    """Sequences to be packed, with their weights."""

    sequences: list[TokenSequence]
    """Without what was rejected; a sequence of which nothing is left is not among them."""
    kept: list[int]
    """Places of these sequences among those that were given: whose credits to pack."""
    weights: list[Float[np.ndarray, " _"]] | None
    """One per token, for `pack`; None where no weight was asked for."""
    facts: dict[str, float]
    """`mismatch/mean` and `mismatch/largest` of r over all sampled tokens, `mismatch/rejected`: their share that was
    taken out."""


def correct(
    sequences: Sequence[TokenSequence],
    trainer: Sequence[Float[np.ndarray, " _"]],
    advantages: Sequence[Float[np.ndarray, " _"] | None],
    correction: Correction,
) -> Corrected:
    """Sequences as the sampler recorded them, corrected by the trainer's own log-probabilities of the same tokens.

    trainer, advantages: one array per sequence, one entry per token. UserError where a mask needs advantages that a
    method does not assign. With a correction that is off, the very sequences that were given, and no facts.
    """
    if not correction.on:
        return Corrected(list(sequences), list(range(len(sequences))), None, {})
    out, kept, weights, logs, rejected = [], [], [], [], 0
    for place, (sequence, own, gains) in enumerate(zip(sequences, trainer, advantages, strict=True)):
        apart = np.where(sequence.mask, np.clip(own - sequence.logprobs, -EXPONENT_LIMIT, EXPONENT_LIMIT), 0.0)
        left = sequence.mask & _kept(apart, sequence.mask, gains, correction)
        logs.append(apart[sequence.mask])
        rejected += int(sequence.mask.sum() - left.sum())
        if sequence.mask.any() and not left.any():
            continue
        kept.append(place)
        out.append(replace(sequence, mask=left, logprobs=np.where(left, own, 0.0)))
        weights.append(np.minimum(np.exp(apart), correction.cap))
    ratios = np.exp(np.concatenate([np.zeros(0), *logs]))
    count = max(len(ratios), 1)
    facts = {
        "mismatch/mean": float(ratios.sum() / count),
        "mismatch/largest": float(ratios.max(initial=0.0)),
        "mismatch/rejected": rejected / count,
    }
    return Corrected(out, kept, weights if correction.weight == "truncated" else None, facts)


def _kept(
    apart: Float[np.ndarray, " token"],
    mask: np.ndarray,
    gains: Float[np.ndarray, " token"] | None,
    correction: Correction,
) -> np.ndarray:
    """bool[token]: what stays of a sequence."""
    whole = np.ones(len(mask), dtype=bool)
    if correction.mask == "none" or not mask.any():
        return whole
    if correction.mask == "token":
        ratio = np.exp(apart)
        return np.asarray((ratio >= correction.low) & (ratio <= correction.high))
    mean = float(apart[mask].mean())
    if correction.mask == "sequence":
        return whole & bool(correction.low <= np.exp(mean) <= correction.high)
    if gains is None:
        raise UserError("the mask 'off-policy' needs advantages, and the method assigns none")
    return np.asarray((gains >= 0) | (-mean <= correction.drift))
