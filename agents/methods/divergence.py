"""Divergences between next-token distributions that are known on K entries and a tail.

A distribution is an array [row, bin] of natural log-probabilities whose last bin is the tail: all mass outside the K
entries. With K the whole vocabulary the tail is empty and every figure here is exact; with fewer it is a lower bound
(data
processing: merging bins cannot raise a KL).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from harness.types import Episode, Evidence, Scores

FLOOR = -700.0
"""Smallest log-probability distinguished from zero: e^-700 is still a float64."""
FULL = -1e-15
"""A sum of probabilities is taken to be below 1 by this much, so that the tail has a logarithm."""

Bins = Float[np.ndarray, "row bin"]
"""One row per token that is asked about."""


def with_tail(logprobs: Float[np.ndarray, "row k"]) -> Bins:
    """Append log(1 - sum exp), the tail, computed as log(-expm1(log sum)) with the sum held below 1."""
    logprobs = np.maximum(np.asarray(logprobs, dtype=np.float64), FLOOR)
    total = np.log(np.maximum(np.exp(logprobs).sum(axis=1), np.exp(FLOOR)))
    return np.concatenate([logprobs, np.log(-np.expm1(np.minimum(total, FULL)))[:, None]], axis=1)


def kl(p: Bins, q: Bins) -> Float[np.ndarray, " row"]:
    """KL(p || q) = sum_b p_b (log p_b - log q_b) at every token, nats, not below 0."""
    sums: Float[np.ndarray, " row"] = np.maximum(np.einsum("tb,tb->t", np.exp(p), p - q), 0.0)
    return sums


def entropy(p: Bins) -> Float[np.ndarray, " row"]:
    """-sum_b p_b log p_b at every token, nats."""
    sums: Float[np.ndarray, " row"] = np.maximum(np.einsum("tb,tb->t", np.exp(p), -p), 0.0)
    return sums


def score_norm(own: Float[np.ndarray, " row"], p: Bins) -> Float[np.ndarray, " row"]:
    """|e_y - p|^2 = 1 - 2 p_y + sum_b p_b^2 at every token: the squared norm of the gradient of log p_y in the logits.

    own: log p_y of the sampled token. The tail counts as one entry: with the vocabulary cut this is never less than
    the truth, with the whole of it it is exact.
    """
    squared = 1 - 2 * np.exp(own) + np.exp(2 * p).sum(axis=1)
    norms: Float[np.ndarray, " row"] = np.maximum(squared, 0.0)
    return norms


def pair(
    episode: Episode, known: Evidence, rows: Bool[np.ndarray, " token"], with_sampled: bool = False
) -> tuple[Bins, Bins] | None:
    """(teacher, student) distributions at `rows` of the episode's tokens, on the same bins; None without a teacher.

    `with_sampled` adds a bin for the sampled token where it is not among the K entries (elsewhere the bin is empty).
    Raises ValueError when the teacher came without distributions or the two stand on different entries.
    """
    if known.teacher is None:
        return None
    if known.student is None or known.teacher.distribution is None or known.student.distribution is None:
        raise ValueError(f"task {episode.task_id!r}: this method needs the distributions of teacher and student")
    ids = known.teacher.distribution.ids[rows]
    if not np.array_equal(ids, known.student.distribution.ids[rows]):
        raise ValueError(f"task {episode.task_id!r}: teacher and student distributions stand on different tokens")
    unlisted = None
    if with_sampled:
        unlisted = ~(ids == episode.sequence.tokens[rows, None]).any(axis=1)
    return _bins(known.teacher, rows, unlisted), _bins(known.student, rows, unlisted)


def _bins(scores: Scores, rows: Bool[np.ndarray, " token"], unlisted: Bool[np.ndarray, " _"] | None) -> Bins:
    assert scores.distribution is not None
    listed = scores.distribution.logprobs[rows]
    if unlisted is not None and unlisted.any():
        own = np.where(unlisted, scores.logprobs[rows], FLOOR)
        listed = np.concatenate([listed, own[:, None]], axis=1)
    return with_tail(listed)
