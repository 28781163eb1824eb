"""What an experiment will cost, and what will be refused of it, before it is run: runs, rollouts, tokens, calls, time
and money by row, from records of the same row, from a few measured steps, or else as bounds."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import HarnessError
from harness.experiment import Experiment, MethodSettings
from harness.experiment.search import trials_of
from harness.learning.run import Run
from harness.learning.train import train
from harness.learning.warm_start import for_every_seed, start_of, start_seeds, starts_at_hand
from harness.protocols.backend import capabilities_of
from harness.protocols.capabilities import check_demands
from harness.protocols.context import make_context
from harness.protocols.method import make_method
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import tasks_of
from harness.runs.paper import lacking
from harness.runs.plan import Job, baselines, check_demonstrated, judged_panel, plan
from harness.runs.record import Records, gather_records, seconds_of
from harness.tables.grid import NOTHING, Grid
from harness.tables.metrics import metric

Progress = Callable[[str, int, int], None]
MEASURED_STEPS = 2
JUDGED_TASKS = 8
"""Tasks of the panel that is judged after measured steps: enough to be played side by side, as a whole panel is."""
SPENT = ("generated_tokens", "teacher_tokens", "re_rolls", "external_calls")
"""Fields of the budget that a plan foretells."""
CURVE = ("budget.steps", "evaluation.every", "evaluation.curve_tasks")
"""Of the facts that runs share, those that say how many episodes of the curve their steps hold."""


@dataclass(frozen=True)
class RowCost:
    """What all runs of one row will spend."""

    label: str
    runs: int
    rollouts: int
    """Of all its runs; with mixed groups the most there can be."""
    spent: Mapping[str, float]
    """By name of `SPENT`; what is missing is not known."""
    seconds: float
    """Training and evaluation of all its runs one after another; NaN where it is not known."""
    source: str
    """"recorded", "measured" or "bounds"."""


@dataclass(frozen=True)
class Sample:
    """A piece of a row's run: what so many rollouts spent, and how long they took."""

    rollouts: int
    spent: Mapping[str, float]
    seconds: float
    """Of its steps: of the rollouts, and of the episodes that were judged within them."""
    source: str
    judged: int = 0
    """Episodes of the learning curve that were played within the steps' seconds."""
    judged_s: float = math.nan
    """Seconds that an episode takes which is only judged; NaN where that was not measured."""

    @property
    def episode_s(self) -> float:
        """Seconds an episode of its steps, as if one that is only judged took as long as one that is learned from."""
        return self.seconds / max(self.rollouts + self.judged, 1)


@dataclass(frozen=True)
class Stock:
    """What is there already."""

    starts: int
    starts_wanted: int
    jobs: tuple[Job, ...] = ()
    """The runs, where all starts are in the cache: without them it is not known which runs there are."""
    found: Records | None = None
    """Records of the finished ones."""

    @property
    def finished(self) -> int:
        """Runs that will not be repeated."""
        return sum(job.done for job in self.jobs)


def stock(experiment: Experiment, runs: Path, cache: Path) -> Stock:
    """What cache and runs folder hold of an experiment; nothing is made."""
    wanted = start_seeds(experiment)
    made = starts_at_hand(experiment, cache, wanted)
    if len(made) < len(wanted):
        return Stock(len(made), len(wanted))
    jobs = tuple(plan(experiment, for_every_seed(experiment, made), runs))
    found = gather_records(jobs, allow_missing=True) if any(job.done for job in jobs) else None
    return Stock(len(made), len(wanted), jobs, found)


def costs(experiment: Experiment, samples: Mapping[str, Sample]) -> list[RowCost]:
    """Every learned row of the experiment. samples: by label, for those of which there are any."""
    found = []
    turns = _turns(experiment) if any(row.label not in samples for row in experiment.methods) else None
    for row in experiment.methods:
        e = experiment.for_row(row)
        most = e.sampling.candidate_limit if e.sampling.mixed_groups else 1
        each = e.budget.steps * e.sampling.prompts_per_step * e.sampling.group_size
        rollouts = each * most * len(e.seeds)
        sample = samples.get(row.label)
        if sample is None:
            found.append(
                RowCost(row.label, len(e.seeds), rollouts, _bounds(e, row, rollouts, turns), math.nan, "bounds")
            )
            continue
        times = each * len(e.seeds) / max(sample.rollouts, 1)
        spent = {name: amount * times for name, amount in sample.spent.items()}
        judged_s = sample.episode_s if math.isnan(sample.judged_s) else sample.judged_s
        seconds = (each * sample.episode_s + evaluated(e) * judged_s) * len(e.seeds)
        found.append(RowCost(row.label, len(e.seeds), rollouts, spent, seconds, sample.source))
    return found


def evaluated(experiment: Experiment) -> int:
    """Episodes that one learned run plays to be judged: its curve and the panel at its end."""
    wanted, steps = experiment.evaluation, experiment.budget.steps
    last = 2 * wanted.curve_tasks if wanted.every else 0  # the curve's point after the last step
    within = judged_within(steps, wanted.every, wanted.curve_tasks)
    return within + last + wanted.tasks * (wanted.samples + 1)


def judged_within(steps: int, every: int, tasks: int) -> int:
    """Episodes that the points of a learning curve play before its last step ends, sampled and greedy: the time of a
    step, as a run records it, holds theirs."""
    return -(-steps // every) * 2 * tasks if every else 0


def _turns(experiment: Experiment) -> int | None:
    """The most turns of an episode, where the environment says so."""
    with EnvironmentPool(experiment.environment) as pool:
        return pool.environment.max_turns


def _bounds(experiment: Experiment, row: MethodSettings, rollouts: int, turns: int | None) -> dict[str, float]:
    """What is known without a step: the most tokens there can be, and zeros of what a method asks nothing of."""
    needs = make_method(row.plug, row.options).needs
    found: dict[str, float] = {}
    if turns is not None:
        found["generated_tokens"] = float(rollouts * turns * experiment.sampling.max_new_tokens)
    if needs.teacher == "none":
        found["teacher_tokens"] = 0.0
    if not needs.values:
        found["re_rolls"] = 0.0
    return found


def recorded_samples(experiment: Experiment, found: Records | None) -> dict[str, Sample]:
    """By label, what finished runs of the same plug and options spent, a mean over their seeds."""
    samples: dict[str, Sample] = {}
    for row in experiment.methods:
        runs = [
            run
            for run in (found.runs if found else ())
            if (run["method"], run["plug"], run["options"]) == (row.label, row.plug, row.options)
        ]
        if not found or not runs:
            continue
        spent = {name: sum(run["budget"].get(name, 0) for run in runs) / len(runs) for name in SPENT}
        rollouts = sum(run["budget"]["rollouts"] for run in runs) / len(runs)
        seconds = found.wall_s.get(row.label, [])
        mean = sum(seconds) / len(seconds) if seconds else math.nan
        known = runs[0]["matched"]
        judged = judged_within(*(int(known.get(name, 0)) for name in CURVE))
        samples[row.label] = Sample(round(rollouts), spent, mean, "recorded", judged)
    return samples


def measured_samples(experiment: Experiment, cache: Path, progress: Progress) -> dict[str, Sample]:
    """By label, what two steps of each row spend and take here: from the start of the first seed where it is in the
    cache, or else from one that was warm-started for two steps."""
    seed = start_seeds(experiment)[0]
    start = starts_at_hand(experiment, cache, (seed,)).get(seed)
    if start is None:
        cheap: dict[str, Any] = {"evaluation": experiment.evaluation.model_copy(update={"start_tasks": 0})}
        if experiment.warm_start is not None:
            cheap["warm_start"] = experiment.warm_start.model_copy(update={"steps": MEASURED_STEPS})
        start = start_of(experiment.model_copy(update=cheap), cache, progress, seed)
    tasks = min(experiment.evaluation.tasks, JUDGED_TASKS)
    evaluation = experiment.evaluation.model_copy(update={"tasks": tasks, "samples": 1, "every": 0, "extra": ()})
    budget = experiment.budget.model_copy(update={"steps": MEASURED_STEPS})
    small = experiment.model_copy(update={"evaluation": evaluation, "budget": budget})
    with EnvironmentPool(small.environment) as pool:
        judged = judged_panel(pool.environment, small)
    samples = {}
    for number, row in enumerate(experiment.methods):
        progress("measuring two steps of each row", number, len(experiment.methods))
        with tempfile.TemporaryDirectory() as scratch:
            run = Run(small.for_row(row), row, experiment.seeds[0], start, Path(scratch), judged)
            with run.pool:
                began = time.monotonic()
                train(run)
                took = time.monotonic() - began
                spent = {name: float(amount) for name, amount in run.spent.budget().items()}
                run.close()
            seconds = seconds_of(records.read(Path(scratch) / "timing.jsonl").rows)
        kept = {name: spent[name] for name in SPENT}
        judged_s = max(took - seconds, 0.0) / evaluated(small)  # saving the checkpoint counts as judging
        samples[row.label] = Sample(round(spent["rollouts"]), kept, seconds, "measured", judged_s=judged_s)
    progress("measuring two steps of each row", len(experiment.methods), len(experiment.methods))
    return samples


# ---------------------------------------------------------------- what will be refused


def refusals(experiment: Experiment, environment: bool = True) -> list[str]:
    """Everything that would be refused of the experiment before its first run, each in a sentence.

    environment: whether to make the environment and ask it; not where it is known that its data are not here.
    """
    return list(_refused(experiment, environment))


def _refused(experiment: Experiment, environment: bool) -> Iterator[str]:
    rows = [*experiment.methods, *(trial.row for trial in trials_of(experiment))]
    whole = []
    for row in rows:
        try:
            make_method(row.plug, row.options)
            whole.append(row)
        except HarnessError as error:
            yield f"{row.label}: {error}"
    warm_start = experiment.warm_start
    for named in (*([experiment.context] if experiment.context else ()), *(warm_start.contexts if warm_start else ())):
        try:
            make_context(named.plug, named.options)
        except HarnessError as error:
            yield str(error)
    try:
        check_demands(experiment.backend.plug, capabilities_of(experiment.backend), experiment, whole)
        for name in experiment.evaluation.extra:
            metric(name)
    except HarnessError as error:
        yield str(error)
    if not environment:
        return
    try:
        yield from _splits(experiment)
    except HarnessError as error:
        yield str(error)
    except OSError as error:
        yield lacking(experiment.environment.id, error)


def _splits(experiment: Experiment) -> Iterator[str]:
    """What an environment says against the splits and the warm start of a spec."""
    wanted = experiment.environment
    with EnvironmentPool(wanted) as pool:
        environment = pool.environment
        if not environment.trainable(wanted.train_split):
            yield f"split {wanted.train_split!r} of {wanted.id} may not be trained on"
        for split in dict.fromkeys(
            filter(None, (wanted.train_split, wanted.eval_split, experiment.evaluation.curve_split))
        ):
            if not tasks_of(environment, split):
                yield f"split {split!r} of {wanted.id} has no tasks"
        panel = judged_panel(environment, experiment).tasks
        shared = sorted(set(tasks_of(environment, wanted.train_split)) & set(panel))
        if shared:
            yield f"task {shared[0]!r} is trained on and judged on: the splits must be disjoint"
        if experiment.warm_start is not None:
            check_demonstrated(experiment, environment)


# ---------------------------------------------------------------- as a grid


def cost_grid(experiment: Experiment, rows: Sequence[RowCost], there: Stock, workers: int, price: float | None) -> Grid:
    """One line a row, and a line for all of them. price: dollars that an external call costs, where it is known."""
    money = ("Dollars",) if price is not None else ()
    header = (
        "Method",
        "Runs",
        "Rollouts",
        "Tokens",
        "Teacher tokens",
        "Re-rolls",
        "External calls",
        "Time",
        *money,
        "From",
    )
    lines = [_line(row, price) for row in rows]
    total = RowCost(
        "all rows",
        sum(row.runs for row in rows),
        sum(row.rollouts for row in rows),
        {name: sum(row.spent[name] for row in rows) for name in SPENT if all(name in row.spent for row in rows)},
        sum(row.seconds for row in rows),
        "",
    )
    judging = sum(evaluated(experiment.for_row(row)) * len(experiment.seeds) for row in experiment.methods)
    beside = len(experiment.seeds) + len(baselines())
    time = (
        "Time: not known before steps were measured (--measure) or recorded."
        if math.isnan(total.seconds)
        else f"Time: of one run after another, evaluation included ({_judged_as(rows)}); "
        f"about {duration(total.seconds / workers)} with {workers} at once."
    )
    notes = (
        f"Beside them {beside} runs that do not learn; {judging:,} episodes are played to judge the others.",
        time,
        "From bounds: the most tokens there can be." if any(row.source == "bounds" for row in rows) else "",
        stock_line(there),
    )
    return Grid(
        "What this experiment will cost", header, (*lines, _line(total, price)), tuple(filter(None, notes)), left=1
    )


def _judged_as(rows: Sequence[RowCost]) -> str:
    """How dear an episode that is only judged was taken to be."""
    ways = {
        "measured": "its episodes as long as measured",
        "recorded": "its episodes as long as those of the recorded steps",
    }
    return ", or ".join(ways[source] for source in sorted({row.source for row in rows} & set(ways)))


def _line(row: RowCost, price: float | None) -> tuple[str, ...]:
    most = "at most " if row.source == "bounds" else ""
    cells = [NOTHING if name not in row.spent else f"{row.spent[name]:,.0f}" for name in SPENT]
    if row.spent.get("generated_tokens"):
        cells[0] = most + cells[0]
    calls = row.spent.get("external_calls")
    money = () if price is None else (NOTHING if calls is None else f"{calls * price:,.2f}",)
    return (row.label, str(row.runs), f"{row.rollouts:,}", *cells, duration(row.seconds), *money, row.source)


def stock_line(there: Stock) -> str:
    """What is cached, in words."""
    starts = f"Cached: {there.starts} of {there.starts_wanted} starts"
    if not there.jobs:
        return f"{starts}; no run can be finished before its start is made."
    return f"{starts}, {there.finished} of {len(there.jobs)} runs; what is finished is not repeated."


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if math.isnan(seconds):
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
