"""Do two tables of one experiment agree? Row by row, with both tables' intervals taken into account."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UnmatchedError
from harness.tables.matching import differing_facts
from harness.tables.statistics import Estimate
from harness.tables.table import Table

MAY_DIFFER = {
    "code",
    "start",
    "initial_checkpoint",
    "environment.version",
    "environment.mini",
    "environment.protocol",
    "backend",
}
"""Facts in which a repetition may differ and still be one: another code, another machine's start, another way to
train. Tasks, sampling, loss and budget may not."""


@dataclass(frozen=True)
class Agreement:
    """One row of two tables under one decoding."""

    method: str
    decoding: str
    recorded: Estimate
    repeated: Estimate
    low: float
    high: float
    """95 % interval of the difference, repeated - recorded."""

    @property
    def difference(self) -> float:
        """repeated - recorded"""
        return self.repeated.mean - self.recorded.mean

    @property
    def verdict(self) -> str:
        """same: the same interval to the last digit; agrees: the difference's interval holds 0; differs: it does
        not."""
        if (self.recorded.mean, self.recorded.low, self.recorded.high) == (
            self.repeated.mean,
            self.repeated.low,
            self.repeated.high,
        ):
            return "same"
        return "agrees" if self.low <= 0 <= self.high else "differs"

    def plain(self) -> dict[str, Any]:
        """The row as plain data, with its verdict."""
        estimates = {
            name: {"mean": found.mean, "low": found.low, "high": found.high}
            for name, found in (("recorded", self.recorded), ("repeated", self.repeated))
        }
        difference = {"mean": self.difference, "low": self.low, "high": self.high}
        return {"method": self.method, "decoding": self.decoding, **estimates} | {
            "difference": difference,
            "verdict": self.verdict,
        }


def difference_interval(recorded: Estimate, repeated: Estimate) -> tuple[float, float]:
    """95 % interval of repeated - recorded from the two estimates' own intervals (MOVER: Zou & Donner 2008,
    Statistics in Medicine 27, equations 6-7):

        low = d - sqrt((m1 - l1)^2 + (u0 - m0)^2)        high = d + sqrt((u1 - m1)^2 + (m0 - l0)^2)

    It takes the two for independent. Two tables on the same tasks are not quite: the tasks' share of the variance
    cancels in their difference. True repetitions are then called different less often than in 5 % of the cases.
    """
    d = repeated.mean - recorded.mean
    low = d - math.hypot(repeated.mean - repeated.low, recorded.high - recorded.mean)
    high = d + math.hypot(repeated.high - repeated.mean, recorded.mean - recorded.low)
    return low, high


def agreements(recorded: Table, repeated: Table) -> list[Agreement]:
    """Every row and decoding that both tables have.

    Raises UnmatchedError naming the facts that differ where they are not tables of one experiment.
    """
    differing = differing_facts(_comparable(recorded.facts), _comparable(repeated.facts))
    if differing:
        named = "; ".join(f"{key} was {before!r} and is {now!r}" for key, before, now in differing)
        raise UnmatchedError(f"these are tables of two experiments: {named}")
    again = {row.run.method: row for row in repeated.rows}
    found = []
    for row in recorded.rows:
        for decoding, score in row.scores.items():
            other = again.get(row.run.method)
            if other is not None and decoding in other.scores:
                estimate = other.scores[decoding].success
                low, high = difference_interval(score.success, estimate)
                found.append(Agreement(row.run.method, decoding, score.success, estimate, low, high))
    return found


def _comparable(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in MAY_DIFFER}
