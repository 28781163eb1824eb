"""What a search found: the settings that won, and how well a search of k trials would have done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tried:
    """One trial with its score on every tuning seed."""

    method: str
    number: int
    settings: Mapping[str, Any]
    scores: tuple[float, ...]
    """By tuning seed, in order; NaN where a run has none."""

    @property
    def score(self) -> float:
        """The mean over the seeds; minus infinity where one is missing: what fails on a seed is not chosen."""
        return -math.inf if any(map(math.isnan, self.scores)) else math.fsum(self.scores) / len(self.scores)


def tried(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Tried]]:
    """Recorded trials (a row a trial and seed) by method, in order."""
    parts: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        parts.setdefault((row["method"], row["trial"]), []).append(row)
    found: dict[str, list[Tried]] = {}
    for (method, number), of_trial in parts.items():
        ordered = sorted(of_trial, key=lambda row: int(row["seed"]))
        scores = tuple(math.nan if row["score"] is None else float(row["score"]) for row in ordered)
        found.setdefault(method, []).append(Tried(method, number, of_trial[0]["settings"], scores))
    return found


def chosen(trials: Sequence[Tried]) -> Tried:
    """The trial with the best score; the first of equals."""
    return max(trials, key=lambda trial: (trial.score, -trial.number))


def best_of(scores: Sequence[float], k: int) -> float:
    """Expected best of k trials drawn without replacement from these n, exactly: the i-th smallest is the best with
    probability C(i-1, k-1) / C(n, k). The expected validation performance of Dodge et al. 2019 (1909.03004, section
    3.1), for a finite set of trials instead of its empirical distribution.

    Raises ValueError where k is not in 1..n.
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} trials, but there are {n}")
    ordered = sorted(scores)
    weights = [math.comb(i - 1, k - 1) / math.comb(n, k) for i in range(1, n + 1)]
    return math.fsum(weight * score for weight, score in zip(weights, ordered, strict=True) if weight > 0)
