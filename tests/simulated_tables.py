"""Simulated tables in which no method is better than another, judged by the functions that judge real ones.

    python tests/simulated_tables.py 2000          # the tables of docs/statistics.md, as Markdown

A table has starts, seeds, tasks and samples: the log-odds of success of row r under seed s at task t are

    0.4 + start[s] + task[t] + start_task[s, t] + chaos[r, s] + row_task[r, t]

all normal. Sampled success is the mean of four draws; greedy success one draw at twice the log-odds; the area is the
trapezoid over seven points of a curve that climbs from the start, on tasks of its own, one draw a point.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.tables.comparisons import (
    Comparison,
    Spread,
    at_level,
    difference,
    endpoint_correlation,
    family,
    pool_of,
)
from harness.tables.planning import Parts, planning_effect
from harness.tables.statistics import p_value

ENDPOINTS = ("area", "sampled", "greedy")
SEEDS, TASKS = (3, 5, 10), (20, 57, 168, 300)
MARGIN = 0.02
POINTS = 7


@dataclass(frozen=True)
class World:
    """What a simulated experiment draws from; standard deviations of log-odds."""

    seeds: int
    tasks: int
    rows: int = 8
    samples: int = 4
    start: float = 0.4
    task: float = 1.5
    start_task: float = 0.5
    chaos: float = 0.15
    row_task: float = 0.2
    collapsed: int = 0
    """Rows, the last ones, that solve 3 % of the tasks whatever the seed and the task."""
    wild: float = 1.0
    """Factor of the last row's chaos."""


def tables(world: World, count: int, seed: int = 10) -> Iterator[dict[str, np.ndarray]]:
    """`count` tables: outcomes [row, seed, task] by endpoint."""
    batch = max(1, 4_000_000 // (world.rows * world.seeds * world.tasks * POINTS))
    rng = np.random.default_rng([seed, world.seeds, world.tasks])
    for begin in range(0, count, batch):
        made = _batch(world, min(batch, count - begin), rng)
        yield from ({name: y[n].astype(np.float64) for name, y in made.items()} for n in range(len(made["area"])))


def _batch(world: World, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    w = world

    def normal(scale: float, *shape: int) -> np.ndarray:
        return np.float32(scale) * rng.standard_normal((count, *shape), dtype=np.float32)

    def rate(odds: np.ndarray) -> np.ndarray:
        chance = 1 / (1 + np.exp(-odds))
        if w.collapsed:
            chance[:, -w.collapsed :] = 0.03
        return chance

    def draws(chance: np.ndarray, samples: int) -> np.ndarray:
        return sum((rng.random(chance.shape, dtype=np.float32) < chance).astype(np.float32) for _ in range(samples))

    chaos = normal(w.chaos, w.rows, w.seeds, 1)
    chaos[:, -1] *= w.wild
    start = normal(w.start, 1, w.seeds, 1)

    def odds() -> np.ndarray:
        shared = start + normal(w.task, 1, 1, w.tasks) + normal(w.start_task, 1, w.seeds, w.tasks)
        return shared + normal(w.row_task, w.rows, 1, w.tasks)

    learned = np.float32(0.4) + odds() + chaos
    sampled = draws(rate(learned), w.samples) / w.samples
    greedy = draws(rate(2 * learned), 1)
    begun, area = odds() - np.float32(0.6), 0
    for point in range(POINTS):
        share = point / (POINTS - 1)
        weight = (0.5 if point in (0, POINTS - 1) else 1.0) / (POINTS - 1)
        area = area + weight * draws(rate(begun + share * (1.0 + chaos)), 1)
    return {"area": area, "sampled": sampled, "greedy": greedy}


@dataclass
class Figures:
    """What happened over all tables of a world."""

    family_error: float
    """Share of tables in which some adjusted p-value is at most 5 %."""
    simultaneous: float
    """Share of tables whose simultaneous intervals all hold the truth."""
    plain: dict[str, float]
    """Coverage of the plain intervals of differences, by endpoint."""
    unfloored: dict[str, float]
    """The same without the floor that the number of tasks sets."""
    odd_row: dict[str, float]
    """Coverage of the last row's differences where it is collapsed or wild."""
    planned: dict[str, float]
    """Planning MDE over the simulated effect that is found in 80 % of the tables."""
    effect: dict[str, float]
    """That effect."""
    equivalence: float
    """Share of tables with a wrong claim of equivalence where every row differs by the margin."""
    apart: float
    """Mean number of rows that keep to themselves, over endpoints."""


def figures(world: World, count: int, draws: int = 4000) -> Figures:
    """Judge `count` tables of a world."""
    odd = bool(world.collapsed) or world.wild != 1.0
    compared = world.rows - 1 - world.collapsed
    rejected = covered = wrong = apart = 0
    hits: dict[str, list[bool]] = {name: [] for name in ENDPOINTS}
    bare: dict[str, list[bool]] = {name: [] for name in ENDPOINTS}
    last: dict[str, list[bool]] = {name: [] for name in ENDPOINTS}
    needed: dict[str, list[float]] = {name: [] for name in ENDPOINTS}
    pools: dict[str, list[Spread]] = {name: [] for name in ENDPOINTS}
    correlations = []
    for made in tables(world, count):
        kept = {name: pool_of(y) for name, y in made.items()}
        apart += sum(int((~mask).sum()) for mask, _ in kept.values())
        found = [
            Comparison(str(row), name, difference(y[row], y[0], kept[name][1] if pooled else None), pooled)
            for name, y in made.items()
            for row in range(1, 1 + compared)
            for pooled in [bool(kept[name][0][row] and kept[name][0][0])]
        ]
        both = np.logical_and.reduce([mask for mask, _ in kept.values()])
        between = {
            (one, other): endpoint_correlation(made[one][both], made[other][both], "area" not in (one, other))
            for one in ENDPOINTS
            for other in ENDPOINTS
            if one < other and both.sum() > 1
        }
        correlations.append(list(between.values()))
        joint = family(found, between, draws)
        level, one_sided = joint.level(), joint.one_sided_level()
        rejected += any(joint.adjusted(p_value(one.estimate)) <= 0.05 for one in found)
        covered += all(_holds(at_level(one.estimate, level)) for one in found)
        claims = False
        for one in found:
            e = one.estimate
            hits[one.endpoint].append(_holds(e))
            bare[one.endpoint].append(p_value(e) > 0.05)
            if odd and one.row == str(compared):
                last[one.endpoint].append(_holds(e))
            if one.pooled:
                needed[one.endpoint].append(_reach(e, level) - e.mean)
            moved = at_level(replace(e, mean=e.mean + MARGIN), 2 * one_sided)
            claims |= bool(-MARGIN < moved.low and moved.high < MARGIN)
        wrong += claims
        for name, (_, pool) in kept.items():
            if pool is not None:
                pools[name].append(pool)
    effect = {name: float(np.quantile(values, 0.8)) for name, values in needed.items()}
    correlation = float(np.mean(correlations))
    planned = {
        name: planning_effect(
            Parts.of(found), world.seeds, world.tasks, rows=world.rows, comparisons=compared, endpoints=3,
            correlation=correlation,
        )
        / effect[name]
        for name, found in pools.items()
    }  # fmt: skip
    return Figures(
        rejected / count,
        covered / count,
        *({name: float(np.mean(values)) for name, values in found.items()} for found in (hits, bare)),
        {name: float(np.mean(values)) for name, values in last.items() if values},
        planned,
        effect,
        wrong / count,
        apart / count / len(ENDPOINTS),
    )


def _holds(estimate) -> bool:  # type: ignore[no-untyped-def]
    return bool(estimate.low <= 0 <= estimate.high)


def _reach(estimate, level: float) -> float:  # type: ignore[no-untyped-def]
    """The mean that would just be found."""
    from scipy import stats

    return float(stats.t.isf(level / 2, estimate.df)) * estimate.error if not math.isnan(estimate.error) else math.inf
