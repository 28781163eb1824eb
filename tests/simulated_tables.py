"""Simulated tables in which no method is better than another, judged by the functions that judge real ones.

    python tests/simulated_tables.py 2000      # the tables of docs/statistics.md, as Markdown

A table has starts, seeds, tasks and samples: the log-odds of success of row r under seed s at task t are

    0.4 + start[s] + task[t] + start_task[s, t] + chaos[r, s] + row_task[r, t]

all normal. Sampled success is the mean of four draws; greedy success one draw at twice the log-odds; the area is the
trapezoid over seven points of a curve that climbs from the start, on tasks of its own, one draw a point.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from harness.tables.comparisons import (
    LEVEL,
    Comparison,
    Spread,
    at_level,
    difference,
    endpoint_correlation,
    family,
    pool_of,
)
from harness.tables.planning import Parts, planning_effect
from harness.tables.statistics import Estimate, p_value

ENDPOINTS = ("area", "sampled", "greedy")
SEEDS, TASKS = (3, 5, 10), (20, 57, 168, 300)
MARGIN = 0.02
DRAWS = 4096
JOINT_AT_LEAST = 300
"""Tables whose joint level is always found, for the effect that is found in 80 % of them; of the others where it can
matter."""
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
    """Coverage of the last row's differences, without floor, where it is wild."""
    planned: dict[str, float]
    """Planning MDE over the simulated effect that is found in 80 % of the tables."""
    effect: dict[str, float]
    """That effect."""
    equivalence: float
    """Share of tables with a wrong claim of equivalence where every row differs by the margin."""
    apart: float
    """Mean number of rows that keep to themselves, over endpoints."""


def figures(world: World, count: int) -> Figures:
    """Judge `count` tables of a world."""
    odd = world.wild != 1.0
    compared = world.rows - 1 - world.collapsed
    rejected = uncovered = wrong = apart = 0
    hits: dict[str, list[bool]] = {name: [] for name in ENDPOINTS}
    bare: dict[str, list[bool]] = {name: [] for name in ENDPOINTS}
    last: dict[str, list[bool]] = {name: [] for name in ENDPOINTS}
    needed: dict[str, list[float]] = {name: [] for name in ENDPOINTS}
    pools: dict[str, list[Spread]] = {name: [] for name in ENDPOINTS}
    correlations = []
    for number, made in enumerate(tables(world, count)):
        kept = {name: pool_of(y) for name, y in made.items()}
        apart += sum(int((~mask).sum()) for mask, _ in kept.values())
        found = [_compare(name, row, made[name], *kept[name]) for name in made for row in range(1, 1 + compared)]
        both = np.logical_and.reduce([mask for mask, _ in kept.values()])
        between = {
            (one, other): endpoint_correlation(made[one][both], made[other][both], "area" not in (one, other))
            for one, other in itertools.combinations(sorted(ENDPOINTS), 2)
        }
        correlations.append(list(between.values()))
        plain = [p_value(one.estimate) for one in found]
        moved = [replace(one.estimate, mean=one.estimate.mean + MARGIN) for one in found]
        claimed = any(_within(at_level(e, 2 * LEVEL)) for e in moved)  # no joint level claims more
        if min(plain) < LEVEL or claimed or number < JOINT_AT_LEAST:
            joint = family(found, between, DRAWS)
            rejected += any(joint.adjusted(p) <= LEVEL for p in plain)
            uncovered += not all(_holds(at_level(one.estimate, joint.level())) for one in found)
            wrong += any(_within(at_level(e, 2 * joint.one_sided_level())) for e in moved)
            if number < JOINT_AT_LEAST:
                for one in found:
                    if one.pooled:
                        needed[one.endpoint].append(_reach(one.estimate, joint.level()) - one.estimate.mean)
        for one, p in zip(found, plain, strict=True):
            hits[one.endpoint].append(_holds(one.estimate))
            bare[one.endpoint].append(p > LEVEL)
            if odd and one.row == str(compared):
                last[one.endpoint].append(p > LEVEL)
        for name, (_, pool) in kept.items():
            if pool is not None:
                pools[name].append(pool)
    effect = {name: float(np.quantile(values, 0.8)) for name, values in needed.items()}
    size = {"rows": world.rows, "comparisons": compared, "endpoints": 3, "correlation": float(np.mean(correlations))}
    return Figures(
        rejected / count,
        1 - uncovered / count,
        *({name: float(np.mean(values)) for name, values in found.items()} for found in (hits, bare)),
        {name: float(np.mean(values)) for name, values in last.items() if values},
        {
            name: planning_effect(Parts.of(found), world.seeds, world.tasks, **size) / effect[name]
            for name, found in pools.items()
        },
        effect,
        wrong / count,
        apart / count / len(ENDPOINTS),
    )


def _compare(name: str, row: int, y: np.ndarray, kept: np.ndarray, pool: Spread | None) -> Comparison:
    pooled = bool(kept[row] and kept[0])
    return Comparison(str(row), name, difference(y[row], y[0], pool if pooled else None), pooled)


def _holds(estimate: Estimate) -> bool:
    return bool(estimate.low <= 0 <= estimate.high)


def _within(estimate: Estimate) -> bool:
    return bool(estimate.low > -MARGIN and estimate.high < MARGIN)


def _reach(estimate: Estimate, level: float) -> float:
    """The mean that would just be found."""
    return -float(special.stdtrit(estimate.df, level / 2)) * estimate.error


# ---------------------------------------------------------------- the pages' tables

HEADER = (
    "Seeds", "Tasks", "Family error", "Simultaneous", "Plain", "Plain, no floor", "MDE planned / found", "Found (area)",
    "Wrong equivalence", "Set apart",
)  # fmt: skip
ODD = (
    ("no chaos at all", {"chaos": 0.0}),
    ("chaos three times as large", {"chaos": 0.45}),
    ("one collapsed row", {"collapsed": 1}),
    ("one row with four times the chaos", {"wild": 4.0}),
    ("four rows", {"rows": 4}),
)
"""Worlds beside the grid, at 5 seeds and 57 tasks."""


def line(first: Sequence[str], f: Figures) -> str:
    """A row of a Markdown table."""
    several = [
        f"{min(values):.3f} to {max(values):.3f}"
        for values in (f.plain.values(), f.unfloored.values(), f.planned.values())
    ]
    cells = [
        *first, f"{f.family_error:.3f}", f"{f.simultaneous:.3f}", *several, f"{f.effect['area']:.3f}",
        f"{f.equivalence:.3f}", f"{f.apart:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main(count: int) -> None:
    """Both tables, line by line as they are made."""
    print("| " + " | ".join(HEADER) + " |\n" + "| ---: " * len(HEADER) + "|", flush=True)
    for seeds, tasks in itertools.product(SEEDS, TASKS):
        print(line((str(seeds), str(tasks)), figures(World(seeds, tasks), count)), flush=True)
    print("\n| World | " + " | ".join(HEADER[2:]) + " | Last row |\n| --- " + "| ---: " * (len(HEADER) - 1) + "|")
    for name, changed in ODD:
        f = figures(World(5, 57, **changed), count)  # type: ignore[arg-type]
        last = f"{min(f.odd_row.values()):.3f}" if f.odd_row else "-"
        print(f"{line((name,), f)} {last} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
