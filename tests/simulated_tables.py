"""Simulated tables in which no method is better than another, judged by the functions that judge real ones.

    python -m tests.simulated_tables 2000      # the tables of docs/statistics.md, as Markdown

A table has starts, seeds, tasks and samples: the log-odds of success of row r under seed s at task t are

    0.4 + start[s] + task[t] + start_task[s, t] + chaos[r, s] + row_task[r, t]

all normal. Sampled success is the mean of four draws; greedy success one draw at twice the log-odds; the area is the
trapezoid over seven points of a curve that climbs from the start, on tasks of its own, one draw a point.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import special

from harness.tables.comparisons import LEVEL, at_level, family
from harness.tables.endpoints import Known, Outcome, compared_with, correlations
from harness.tables.planning import Parts, planning_effect
from harness.tables.pooling import Spread
from harness.tables.statistics import Estimate, p_value

ENDPOINTS = ("area", "sampled", "greedy")
SEEDS, TASKS = (3, 5, 10), (20, 57, 168, 300)
MARGIN = 0.02
DRAWS = 4096
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
    twins: int = 0
    """Rows, the last ones, that training leads nearly where it leads the first: with a tenth of the chaos between them
    and the first, in a quarter of their seeds with all of it, and evaluated with the same draws."""


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
        return sum((as_twins(rng.random(chance.shape, dtype=np.float32)) < chance).astype(np.float32)
                   for _ in range(samples))  # fmt: skip

    def as_twins(drawn: np.ndarray) -> np.ndarray:
        if w.twins:
            drawn[:, -w.twins :] = drawn[:, :1]
        return drawn

    chaos = normal(w.chaos, w.rows, w.seeds, 1)
    chaos[:, -1] *= w.wild
    if w.twins:
        leaps = rng.random((count, w.twins, w.seeds, 1)) < 0.25
        chaos[:, -w.twins :] = chaos[:, :1] + chaos[:, -w.twins :] * np.where(leaps, np.float32(1), np.float32(0.1))
    start = normal(w.start, 1, w.seeds, 1)

    def odds() -> np.ndarray:
        shared = start + normal(w.task, 1, 1, w.tasks) + normal(w.start_task, 1, w.seeds, w.tasks)
        return shared + as_twins(normal(w.row_task, w.rows, 1, w.tasks))

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
    """Coverage of the last rows' differences, without floor, where they are wild or twins of the first."""
    planned: dict[str, float]
    """Planning MDE over the simulated effect that is found in 80 % of the tables."""
    effect: dict[str, float]
    """That effect."""
    equivalence: float
    """Share of tables with a wrong claim of equivalence where every row differs by the margin."""
    apart: float
    """Mean number of rows that keep out of the pool, over endpoints."""
    own: float
    """Mean number of rows whose variance over seeds is their own, pooled or not."""


@dataclass
class Counts:
    """What is counted table by table."""

    rejected: int = 0
    uncovered: int = 0
    wrong: int = 0
    apart: int = 0
    own: int = 0
    hits: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in ENDPOINTS})
    bare: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in ENDPOINTS})
    last: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in ENDPOINTS})
    needed: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ENDPOINTS})
    pools: dict[str, list[Spread]] = field(default_factory=lambda: {name: [] for name in ENDPOINTS})
    correlations: list[float] = field(default_factory=list)

    def add(self, made: dict[str, np.ndarray], compared: int, last: int) -> None:
        """Judge one table as `harness.tables.endpoints.judge` does. compared: rows that are, after the first; last: how
        many of them, at the end, are unlike the others."""
        seeds = tuple(range(made["area"].shape[1]))
        endpoints = {name: {str(row): Outcome(seeds, y[row]) for row in range(len(y))} for name, y in made.items()}
        known = {name: Known.of(outcomes) for name, outcomes in endpoints.items()}
        found = [
            compared_with(name, outcomes, str(row), "0", known[name])
            for name, outcomes in endpoints.items()
            for row in range(1, 1 + compared)
        ]
        between = correlations(endpoints, known)
        joint = family(found, between, DRAWS)
        level = joint.level()
        moved = [replace(one.estimate, mean=one.estimate.mean + MARGIN) for one in found]
        plain = [p_value(one.estimate) for one in found]
        self.rejected += any(joint.adjusted(p) <= LEVEL for p in plain)
        self.uncovered += not all(_holds(at_level(one.estimate, level)) for one in found)
        self.wrong += any(_within(at_level(e, 2 * joint.one_sided_level())) for e in moved)
        self.correlations.append(float(np.mean(list(between.values()))))
        for one, p in zip(found, plain, strict=True):
            odd = int(one.row) > compared - last
            self.hits[one.endpoint].append(_holds(one.estimate))
            self.bare[one.endpoint].append(p > LEVEL)
            if odd:
                self.last[one.endpoint].append(p > LEVEL)
            else:
                self.needed[one.endpoint].append(_reach(one.estimate, level) - one.estimate.mean)
        for name, of in known.items():
            self.apart += sum(not kept for kept in of.kept.values())
            self.own += sum(square is not None for square in of.own.values())
            if of.spread is not None:
                self.pools[name].append(of.spread)


def figures(world: World, count: int) -> Figures:
    """Judge `count` tables of a world."""
    compared = world.rows - 1 - world.collapsed
    counts = Counts()
    for made in tables(world, count):
        counts.add(made, compared, world.twins or int(world.wild != 1.0))
    effect = {name: float(np.quantile(values, 0.8)) for name, values in counts.needed.items()}
    correlation = float(np.mean(counts.correlations))
    size = {"rows": world.rows, "comparisons": compared, "endpoints": 3, "correlation": correlation}
    return Figures(
        counts.rejected / count,
        1 - counts.uncovered / count,
        *({name: float(np.mean(values)) for name, values in found.items()} for found in (counts.hits, counts.bare)),
        {name: float(np.mean(values)) for name, values in counts.last.items() if values},
        {
            name: planning_effect(Parts.of(found), world.seeds, world.tasks, **size) / effect[name]
            for name, found in counts.pools.items()
        },
        effect,
        counts.wrong / count,
        counts.apart / count / len(ENDPOINTS),
        counts.own / count / len(ENDPOINTS),
    )


def _holds(estimate: Estimate) -> bool:
    return bool(estimate.low <= 0 <= estimate.high)


def _within(estimate: Estimate) -> bool:
    return bool(estimate.low > -MARGIN and estimate.high < MARGIN)


def _reach(estimate: Estimate, level: float) -> float:
    """The mean that would just be found."""
    return -float(special.stdtrit(estimate.df, level / 2)) * estimate.error


# ---------------------------------------------------------------- the page's tables

HEADER = (
    "Family error", "Simultaneous", "Plain", "Plain, no floor", "MDE planned / found", "Found (area)",
    "Wrong equivalence", "Own variance", "Last rows",
)  # fmt: skip
CHAOTIC = 4.0
"""Factor of the last row's chaos in the second table."""
NEARLY = ((3, 57), (5, 57), (8, 200), (10, 57), (10, 200))
"""Seeds and tasks of the third."""
ODD = (
    ("no chaos at all", {"chaos": 0.0}),
    ("chaos three times as large", {"chaos": 0.45}),
    ("one collapsed row", {"collapsed": 1}),
    ("four rows", {"rows": 4}),
)
"""Worlds beside the grids, at 5 seeds and 57 tasks."""


def line(first: Sequence[str], f: Figures) -> str:
    """A row of a Markdown table."""
    plain, bare, planned, last = (
        f"{min(values):.3f} to {max(values):.3f}" if values else "-"
        for values in (f.plain.values(), f.unfloored.values(), f.planned.values(), f.odd_row.values())
    )
    cells = [
        *first, f"{f.family_error:.3f}", f"{f.simultaneous:.3f}", plain, bare, planned, f"{f.effect['area']:.3f}",
        f"{f.equivalence:.3f}", f"{f.own:.2f}", last,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def grid(count: int, cells: Iterable[tuple[int, int]], **changed: float) -> None:
    """One table over all cells, line by line as they are made."""
    header = ("Seeds", "Tasks", *HEADER)
    print("| " + " | ".join(header) + " |\n" + "| ---: " * len(header) + "|", flush=True)
    for seeds, tasks in cells:
        found = figures(World(seeds, tasks, **changed), count)  # type: ignore[arg-type]
        print(line((str(seeds), str(tasks)), found), flush=True)


def main(count: int) -> None:
    """All tables."""
    cells = list(itertools.product(SEEDS, TASKS))
    grid(count, cells)
    print()
    grid(count, cells, wild=CHAOTIC)
    print()
    grid(count, NEARLY, twins=2)
    print("\n| World | " + " | ".join(HEADER) + " |\n| --- " + "| ---: " * len(HEADER) + "|")
    for name, changed in ODD:
        print(line((name,), figures(World(5, 57, **changed), count)), flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
