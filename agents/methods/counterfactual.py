"""Counterfactual token importance: what the siblings that stand at the same position say about a token.

Meng & Chen 2026, arXiv 2606.29476, equations 7-9. Arrays here are rectangles [sibling, position] with a mask of
presence.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from agents.methods.base import Number
from harness.types import RolloutGroup

MAX_GAP = 20.0
"""|Delta| is clamped here before it enters an exponential (nats)."""

Rectangle = Float[np.ndarray, "sibling position"]
Presence = Bool[np.ndarray, "sibling position"]


def positions(group: RolloutGroup, alignment: str) -> tuple[list[Int[np.ndarray, " _"]], int]:
    """For every episode, the shared position of each of its sampled tokens, and the number of positions.

    alignment "turn": same turn, same index inside the turn. "episode": same index in the episode.
    """
    keys = []
    longest = max((len(episode.sequence) for episode in group.episodes), default=0)
    for episode in group.episodes:
        turns = episode.sequence.turns[episode.sequence.mask].astype(np.int64)
        index = np.arange(len(turns))
        if alignment == "turn":
            _, first, inverse = np.unique(turns, return_index=True, return_inverse=True)
            index = turns * longest + (index - first[inverse])
        keys.append(index)
    shared, columns = np.unique(np.concatenate(keys), return_inverse=True)
    return np.split(columns, np.cumsum([len(key) for key in keys])[:-1]), len(shared)


def token_importance(
    advantages: Float[np.ndarray, " sibling"], gaps: Rectangle, present: Presence, tau: Number
) -> tuple[Rectangle, Rectangle]:
    """CTI_i = sum_j w_j A_j - A_i over siblings j != i present at the position, w = softmax(gap / tau); and
    1 / sum w^2.

    Equations 7 and 8. Computed as sum_j w_j (A_j - A_i): the sign is then exact where all siblings did better, or all
    worse. tau = inf weighs all siblings alike. Both results are 0 where no sibling is present; absent cells hold no
    meaning.
    """
    importance, effective = np.zeros_like(gaps), np.zeros_like(gaps)
    tilt = np.where(present, gaps / tau, -np.inf)
    for i, advantage in enumerate(advantages):
        others = np.delete(tilt, i, axis=0)
        if not len(others):
            continue
        top = others.max(axis=0)
        weights = np.exp(others - np.where(np.isfinite(top), top, 0.0))
        total = weights.sum(axis=0)
        weights /= np.where(total > 0, total, 1.0)
        importance[i] = (np.delete(advantages, i) - advantage) @ weights
        effective[i] = np.where(total > 0, 1 / np.maximum((weights**2).sum(axis=0), 1e-300), 0.0)
    return importance, effective


def permute_across_siblings(gaps: Rectangle, present: Presence, rng: np.random.Generator) -> Rectangle:
    """Shuffle the gaps at every position among the siblings present there: a control that keeps their distribution."""
    lottery = np.where(present, rng.random(gaps.shape), 2.0)
    drawn = np.argsort(lottery, axis=0)  # present rows in random order, then the absent ones
    seats = np.argsort(~present, axis=0, kind="stable")  # present rows in their own order, then the absent ones
    shuffled = np.empty_like(gaps)
    np.put_along_axis(shuffled, seats, np.take_along_axis(gaps, drawn, axis=0), axis=0)
    return shuffled
