"""A table as a function of recorded rows: a row per method, paired differences; unmatched runs are refused.

table = build(runs, rows)                      # records: what was run, and how it did on every task
files.write_table(table, "results/guess")      # table.md, table.csv, table.tex, table.html
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from harness.core.budget import budget_fields
from harness.core.errors import MissingDataError, UnknownNameError
from harness.core.troubles import with_zeros
from harness.tables import statistics as stats
from harness.tables.curves import areas
from harness.tables.endpoints import AREA, Judged, Judgement, Outcome, Standing, judge
from harness.tables.matching import (
    check_matched,
    check_named_seeds,
    check_one_row,
    check_seeds,
    check_values,
    complete_tasks,
    frame_of,
)
from harness.tables.metrics import METRICS, Metric, check_samples, fitting, metric, outcome_grid, scenario_names
from harness.tables.records import DECODINGS, EvaluationRow, Run, parsed


@dataclass(frozen=True)
class Score:
    """How a method did at one endpoint: under one decoding at the end, or over its learning curve."""

    success: stats.Estimate
    """Mean success with its interval."""
    reward: float = math.nan
    """Mean reward; NaN where none was recorded."""
    gain: stats.Estimate | None = None
    """Paired difference to the starting point."""
    judged: Judgement | None = None
    """How it stands against the method that others are compared with; None for that one and what does not learn."""
    lost: int = 0
    """Episodes lost to the infrastructure."""
    lost_failed: float = math.nan
    """Mean success if every lost episode had failed: how far the losses can have raised the row."""
    extra: Mapping[str, stats.Estimate] = field(default_factory=dict)
    """The further success metrics, by name: those that this decoding has the samples for."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Means of what the environment measures besides success."""

    @property
    def versus(self) -> stats.Estimate | None:
        """Paired difference to the method that others are compared with."""
        return self.judged.versus if self.judged else None

    @property
    def share(self) -> stats.Estimate | None:
        """Credit share, where there is headroom."""
        return self.judged.share if self.judged else None


@dataclass(frozen=True)
class TableRow:
    """One method with all its seeds."""

    run: Run
    """The first seed's, for everything that does not depend on the seed."""
    seeds: tuple[int, ...]
    """The seeds it has."""
    scores: Mapping[str, Score]
    """By endpoint: the area, where there is one, and the decodings."""
    budget: Mapping[str, float]
    """Every field of the budget: its mean per seed or its total, as declared."""
    wall_s: float | None
    """Mean seconds of training; None where no run has them."""


@dataclass(frozen=True)
class Certified:
    """That code other than what recorded a table repeated the beginnings of its runs without a difference."""

    recorded: str
    """The code revision that recorded the table."""
    repeated: str
    """The one that repeated it, which is the code beside it."""
    seed: int
    steps: int
    """Training steps that were repeated of every row."""
    compared: Mapping[str, int]
    """How many starts, points, steps, ranges and rows were compared (`harness.runs.beginning.Compared.held`)."""


@dataclass(frozen=True)
class Table:
    """Everything a rendering needs."""

    title: str
    facts: Mapping[str, Any]
    """The matched facts that all runs share."""
    split: str
    seeds: tuple[int, ...]
    tasks: int
    """Tasks that every row was judged on."""
    samples: Mapping[str, int]
    """Samples per task and decoding."""
    failed: int
    """Evaluation episodes lost to the infrastructure."""
    warnings: tuple[str, ...]
    """What is missing, when that was allowed."""
    against: str | None
    """Label of the method that others are compared with."""
    rows: tuple[TableRow, ...]
    sample_variance: Mapping[str, float] = field(default_factory=dict)
    """Mean variance of a single sample within a task, of the learned rows, by decoding with several samples."""
    primary: str = ""
    """The endpoint that decides, as it was declared or, where that cannot be had, the success at the end."""
    no_area: str = ""
    """Why the area under the learning curve is not given, where it was declared to decide."""
    decoding: str = "sampled"
    """The decoding of the primary endpoint, and of the area."""
    margin: float = 0.02
    """Differences of at most so much do not matter, as declared."""
    judged: Judged = field(default_factory=Judged)
    """What all comparisons together gave."""
    historical: str | None = None
    """The code revision that recorded the table, where the code beside it has changed since."""
    certified: Certified | None = None
    """Where the code has changed, and repeats what was recorded: then the table is not historical."""
    damaged: tuple[str, ...] = ()
    """What of the records is damaged and left out, by file and line."""
    remedy: str = ""
    """The same in one sentence with what to do about it, where that can be known."""

    @property
    def decodings(self) -> tuple[str, ...]:
        """Those with evaluation rows, in the order of their blocks."""
        return tuple(decoding for decoding in DECODINGS if decoding in self.samples)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The decodings, and the area under the learning curve before them where there is one."""
        return (AREA,) * any(AREA in row.scores for row in self.rows) + self.decodings

    @property
    def oracle(self) -> str | None:
        """Label of the row with credit from true values."""
        return next((row.run.method for row in self.rows if row.run.control == "upper"), None)

    @property
    def environment(self) -> str:
        """The id of the environment."""
        return str(self.facts.get("environment.id", "environment not recorded"))

    @property
    def mini(self) -> bool:
        """Whether this is a Mini environment, whose numbers mean nothing outside their table.

        Records of before environments declared it have the word in the id alone: `...Mini-v0`.
        """
        declared = self.facts.get("environment.mini")
        return "Mini-v" in self.environment if declared is None else bool(declared)

    @property
    def extra(self) -> tuple[Metric, ...]:
        """The further success metrics of any score, in the order they were asked for."""
        names = {name: None for row in self.rows for score in row.scores.values() for name in score.extra}
        return tuple(map(metric, names))


def build(
    runs: Iterable[Run | Mapping[str, Any]],
    rows: Iterable[EvaluationRow | Mapping[str, Any]],
    title: str = "",
    seeds: Sequence[int] | None = None,
    against: str | None = None,
    extra: Sequence[str] = (),
    allow_missing: bool = False,
    points: Iterable[Mapping[str, Any]] = (),
) -> Table:
    """The table of these runs.

    runs: one per method and seed, in the order the rows shall stand. rows: one per run, decoding and task; those that
    were recorded twice, byte for byte, count once. seeds: those every method must have (default: all that any learned
    method has). against: label of the method that others are compared with (default: the first learned one). extra:
    more success metrics, by name (`harness.tables.metrics`); with one whose units are scenarios, every interval of the
    table takes scenarios, not tasks, for its independent units. points: records of learning curves, for the area.

    The endpoint that decides, its decoding and the margin of equivalence are matched facts (`evaluation.primary`,
    `.decoding`, `.margin`): what was declared before the runs, whatever a spec says now.

    Raises UnmatchedError naming the facts that differ and both values; MissingDataError where seeds or tasks are
    missing, unless `allow_missing`: then the seeds at hand are used, tasks that any run lacks are left out for all, and
    the table says so.
    """
    run_list, frame, by_method = _read(runs, rows)
    against = _compared_with(against, by_method)
    expected = tuple(sorted({r.seed for r in run_list if r.learns} or {r.seed for r in run_list}))
    expected = expected if seeds is None else tuple(seeds)
    check_named_seeds(run_list, expected)
    warnings = check_seeds(by_method, expected, allow_missing)
    frame, left_out = complete_tasks(frame, run_list, allow_missing)
    metrics = [metric(name) for name in extra]
    samples = {str(decoding): int(part.samples.max()) for decoding, part in frame.groupby("decoding")}
    check_samples(metrics, samples)
    frame["unit"] = scenario_names(frame) if any(wanted.scenarios for wanted in metrics) else frame.task_id
    judged = _judged_fields(run_list[0].matched, by_method, frame, points, against)
    scores = {
        name: _scores(part, name, by_method, judged["judged"], fitting(metrics, samples[name]))
        for name, part in _parts(frame).items()
    }
    scores |= judged.pop("area_scores")
    return Table(
        title=title,
        facts=run_list[0].matched,
        split=", ".join(sorted(frame.split.unique())),
        seeds=expected,
        tasks=frame.task_id.nunique(),
        samples=samples,
        failed=int(frame.failed.sum()),
        warnings=(*warnings, *left_out),
        against=against,
        rows=tuple(_table_row(of_method, method, scores) for method, of_method in _in_order(by_method)),
        sample_variance=_sample_variance(frame, by_method),
        **judged,
    )


def _read(
    runs: Iterable[Run | Mapping[str, Any]], rows: Iterable[EvaluationRow | Mapping[str, Any]]
) -> tuple[list[Run], pd.DataFrame, dict[str, list[Run]]]:
    """Runs, rows, and the runs by method, once they are known to belong together."""
    run_list = [parsed(Run, run) for run in runs]
    frame = frame_of([parsed(EvaluationRow, row) for row in rows])
    by_method: dict[str, list[Run]] = {}
    for run in run_list:
        by_method.setdefault(run.method, []).append(run)
    if not by_method or frame.empty:
        raise MissingDataError("no runs or no evaluation rows: nothing to make a table of")
    check_one_row(by_method)
    check_matched(run_list, frame)
    check_values(run_list[0].matched, frame)
    return run_list, frame, by_method


def _parts(frame: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Rows by decoding and method."""
    return {str(name): dict(list(frame[frame.decoding == name].groupby("method"))) for name in frame.decoding.unique()}


def _judged_fields(
    facts: Mapping[str, Any],
    by_method: Mapping[str, Sequence[Run]],
    frame: pd.DataFrame,
    points: Iterable[Mapping[str, Any]],
    against: str | None,
) -> dict[str, Any]:
    """The fields of a table that say what decides and how comparisons came out, and the scores of the area."""
    decoding, margin = str(facts.get("evaluation.decoding", "sampled")), float(facts.get("evaluation.margin", 0.02))
    curves, no_area = _areas(facts, by_method, points, decoding)
    judged = _judged(by_method, _parts(frame), curves, against, margin)
    scores = {
        method: Score(stats.mean_interval(outcome.y), judged=judged.found.get((AREA, method)))
        for method, outcome in curves.items()
    }
    return {
        "primary": AREA if facts.get("evaluation.primary", AREA) == AREA and curves else decoding,
        "no_area": no_area,
        "decoding": decoding,
        "margin": margin,
        "judged": judged,
        "area_scores": {AREA: scores} if curves else {},
    }


def _areas(
    facts: Mapping[str, Any], by_method: Mapping[str, Sequence[Run]], points: Iterable[Mapping[str, Any]], decoding: str
) -> tuple[dict[str, Outcome], str]:
    """Areas under the learning curves of what learns; or none, and why, where they were to decide."""
    learned = {method: sorted(run.seed for run in runs) for method, runs in by_method.items() if runs[0].learns}
    if not learned:
        return {}, ""
    found, why = areas(points, learned, decoding)
    return found, why if facts.get("evaluation.primary", AREA) == AREA else ""


def _judged(
    by_method: Mapping[str, Sequence[Run]],
    parts: Mapping[str, Mapping[str, pd.DataFrame]],
    curves: Mapping[str, Outcome],
    against: str | None,
    margin: float,
) -> Judged:
    """Every learned row against the one that others are compared with, at every endpoint."""
    if against is None:
        return Judged()
    standings: dict[str, Standing] = {
        method: "exploratory" if runs[0].exploratory else runs[0].control or "tested"
        for method, runs in by_method.items()
        if runs[0].learns
    }
    endpoints = {AREA: dict(curves)} if curves else {}
    for name, of_method in parts.items():
        endpoints[name] = {method: _outcome(of_method[method]) for method in standings if method in of_method}
    endpoints = {name: outcomes for name, outcomes in endpoints.items() if against in outcomes}
    return judge(endpoints, standings, against, margin)


def _sample_variance(frame: pd.DataFrame, by_method: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """Unbiased from n samples of a task: n / (n - 1) p (1 - p)."""
    learned = frame[frame.method.isin([method for method, runs in by_method.items() if runs[0].learns])]
    several = learned[learned.samples > 1]
    variance = several.success * (1 - several.success) * several.samples / (several.samples - 1)
    return {str(name): float(mean) for name, mean in variance.groupby(several.decoding).mean().items()}


def _outcome(part: pd.DataFrame) -> Outcome:
    seeds = tuple(sorted(set(part.seed.tolist())))
    return Outcome(seeds, outcome_grid(part, part.success, seeds))


def _compared_with(given: str | None, by_method: Mapping[str, Sequence[Run]]) -> str | None:
    """The method that others are compared with: the given one, which must learn and be no control, or the first
    such."""
    learned = [method for method, runs in by_method.items() if runs[0].learns and runs[0].control is None]
    if given is not None and given not in learned:
        raise UnknownNameError("method for the comparison", given, learned)
    return given or next(iter(learned), None)


def _scores(
    parts: Mapping[str, pd.DataFrame],
    decoding: str,
    by_method: Mapping[str, Sequence[Run]],
    judged: Judged,
    metrics: Sequence[Metric],
) -> dict[str, Score]:
    """Scores of every method under one decoding."""
    starting = next((method for method, runs in by_method.items() if runs[0].role == "base"), None)
    scores: dict[str, Score] = {}
    for method, runs in by_method.items():
        if method not in parts:
            continue
        part = parts[method]
        rewards = part.reward.dropna()
        as_failures = part.success * part.samples / (part.samples + part.failed)
        scores[method] = Score(
            success=stats.mean_interval(METRICS["success"].outcomes(part)),
            reward=float(rewards.mean()) if len(rewards) else math.nan,
            gain=_paired(part, parts[starting]) if runs[0].learns and starting and starting in parts else None,
            judged=judged.found.get((decoding, method)),
            lost=int(part.failed.sum()),
            lost_failed=float(outcome_grid(part, as_failures).mean()),
            extra={wanted.name: stats.mean_interval(wanted.outcomes(part)) for wanted in metrics},
            metrics={
                str(name): float(value)
                for name, value in pd.DataFrame(with_zeros(part.metrics[part.samples > 0]), dtype=float).mean().items()
            },
        )
    return scores


def _paired(part: pd.DataFrame, start: pd.DataFrame) -> stats.Estimate | None:
    """Difference on the seeds both have; a start of one seed stands against every seed."""
    ours, theirs = _outcome(part), _outcome(start)
    if len(theirs.seeds) == 1:
        return stats.paired_difference(ours.y, theirs.y)
    common = [seed for seed in ours.seeds if seed in theirs.seeds]
    return stats.paired_difference(ours.at(common), theirs.at(common)) if common else None


def _in_order(by_method: Mapping[str, list[Run]]) -> list[tuple[str, list[Run]]]:
    """The starting point, then the methods as given, then the baselines."""
    return sorted(by_method.items(), key=lambda item: (item[1][0].role != "base", item[1][0].is_baseline))


def _table_row(runs: Sequence[Run], method: str, scores: Mapping[str, Mapping[str, Score]]) -> TableRow:
    spent = {}
    for declared in budget_fields():
        of_runs = pd.Series([getattr(run.budget, declared.name) for run in runs])
        spent[declared.name] = float(of_runs.sum() if declared.total else of_runs.mean())
    walls = [run.budget.wall_s for run in runs if run.budget.wall_s is not None]
    return TableRow(
        run=runs[0],
        seeds=tuple(sorted(run.seed for run in runs)),
        scores={decoding: of[method] for decoding, of in scores.items() if method in of},
        budget=spent,
        wall_s=sum(walls) / len(walls) if walls else None,
    )
