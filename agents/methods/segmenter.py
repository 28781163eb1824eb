"""The segmenter of SGCD: from divergence and entropy per token to spans that matter and how much, in [0, 1].

Ding, Xin & De la Cruz Weinstein 2026, arXiv 2606.12634, describe the rule (normalise within the rollout, mark spikes,
extend while the teacher's entropy is stable, end on an entropy rise or a divergence reset) and publish no constants.
The constants are ours, aimed at 5-25 % of sampled tokens with a saliency above 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from agents.methods.base import Number, within


@dataclass(frozen=True)
class Segmenter:
    """Constants of the rule; a pure function of one rollout's sampled tokens.

    spike, least: a span starts where the score reaches `spike` and d reaches `least` (nats).
    reset: it ends where the score falls under `reset` ...
    entropy_rise: ... or the teacher's entropy exceeds the span's running mean by more than this (nats) ...
    longest: ... or it holds this many tokens, or the turn ends, or a masked token stands in the way.
    decay: inside a span the saliency is the running maximum of min(1, d / Q95), losing this factor a token.
    """

    spike: Number = 3.0
    least: Number = 1e-3
    reset: Number = 0.5
    entropy_rise: Number = 0.5
    longest: int = 64
    decay: Number = 0.95

    def __post_init__(self) -> None:
        within(self, 0, np.inf, spike=self.spike, least=self.least, reset=self.reset, entropy_rise=self.entropy_rise)
        within(self, 1, np.inf, longest=self.longest)
        within(self, 0, 1, decay=self.decay)

    def scores(self, d: Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
        """(d - median) / (1.4826 MAD + 1e-6); where MAD < 1e-6, d / max(Q75, 1e-3): most tokens then diverge alike."""
        middle = float(np.median(d))
        mad = float(np.median(np.abs(d - middle)))
        if mad < 1e-6:
            return d / max(float(np.quantile(d, 0.75)), 1e-3)
        return (d - middle) / (1.4826 * mad + 1e-6)

    def saliency(
        self,
        d: Float[np.ndarray, " token"],
        entropy: Float[np.ndarray, " token"],
        turns: Int[np.ndarray, " token"],
        masked: Bool[np.ndarray, " token"],
    ) -> Float[np.ndarray, " token"]:
        """s in [0, 1] per sampled token; 0 on masked tokens, which enter no quantile either.

        d: KL of the clean from the informed distribution (nats, >= 0); entropy: the informed one's (nats).
        """
        saliency = np.zeros(len(d))
        free = ~masked
        if not free.any():
            return saliency
        top = float(np.quantile(d[free], 0.95))
        if top <= 0:
            return saliency
        score = np.zeros(len(d))
        score[free] = self.scores(d[free])
        starts = free & (score >= self.spike) & (d >= self.least)
        carries = free & (score >= self.reset)
        height = np.minimum(1.0, d / top)
        done = 0  # everything before it belongs to an earlier span
        for start in np.flatnonzero(starts).tolist():
            if start >= done:
                done = self._span(saliency, start, height, carries, entropy, turns)
        return saliency

    def _span(
        self,
        saliency: Float[np.ndarray, " token"],
        start: int,
        height: Float[np.ndarray, " token"],
        carries: Bool[np.ndarray, " token"],
        entropy: Float[np.ndarray, " token"],
        turns: Int[np.ndarray, " token"],
    ) -> int:
        """Write the span that starts here into `saliency`; returns the first token after it."""
        level = float(height[start])
        saliency[start] = level
        summed, turn = float(entropy[start]), turns[start]
        end = min(start + self.longest, len(saliency))
        for place in range(start + 1, end):
            running = summed / (place - start)
            if turns[place] != turn or not carries[place] or entropy[place] > running + self.entropy_rise:
                return place
            level = max(self.decay * level, float(height[place]))
            saliency[place] = level
            summed += float(entropy[place])
        return end
