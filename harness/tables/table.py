"""A table as a function of recorded rows: a row per method, paired differences; unmatched runs are refused.

table = build(runs, rows)                      # records: what was run, and how it did on every task
files.write_table(table, "results/guess")      # table.md, table.csv, table.tex, table.html
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from harness.core.budget import budget_fields
from harness.core.errors import MissingDataError, UnknownNameError
from harness.tables import statistics as stats
from harness.tables.matching import check_matched, check_seeds, complete_tasks, frame_of
from harness.tables.metrics import METRICS, Metric, check_samples, fitting, metric, outcome_grid, scenario_names
from harness.tables.records import DECODINGS, EvaluationRow, Run, parsed


@dataclass(frozen=True)
class Score:
    """How a method did under one decoding."""

    success: stats.Estimate
    """Mean success with its interval."""
    reward: float
    """Mean reward; NaN where none was recorded."""
    gain: stats.Estimate | None = None
    """Paired difference to the starting point."""
    versus: stats.Estimate | None = None
    """Paired difference to the method that others are compared with."""
    p: float | None = None
    p_holm: float | None = None
    """p-value of `versus`, plain and adjusted (Holm) for all such comparisons of the table under this decoding."""
    detectable: float | None = None
    """Difference to that method that this experiment would find with 80 % power."""
    extra: Mapping[str, stats.Estimate] = field(default_factory=dict)
    """The further success metrics, by name: those that this decoding has the samples for."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Means of what the environment measures besides success."""


@dataclass(frozen=True)
class TableRow:
    """One method with all its seeds."""

    run: Run
    """The first seed's, for everything that does not depend on the seed."""
    seeds: tuple[int, ...]
    """The seeds it has."""
    scores: Mapping[str, Score]
    """By decoding."""
    budget: Mapping[str, float]
    """Every field of the budget: its mean per seed or its total, as declared."""
    wall_s: float | None
    """Mean seconds of training; None where no run has them."""


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
    historical: str | None = None
    """The code revision that recorded the table, where the code beside it has changed since."""

    @property
    def decodings(self) -> tuple[str, ...]:
        """Those with evaluation rows, in the order of their blocks."""
        return tuple(decoding for decoding in DECODINGS if decoding in self.samples)

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
) -> Table:
    """The table of these runs.

    runs: one per method and seed, in the order the rows shall stand. rows: one per run, decoding and task; those that
    were recorded twice, byte for byte, count once. seeds: those every method must have (default: all that any learned
    method has). against: label of the method that others are compared with (default: the first learned one). extra:
    more success metrics, by name (`harness.tables.metrics`); with one whose units are scenarios, every interval of the
    table takes scenarios, not tasks, for its independent units.

    Raises UnmatchedError naming the facts that differ and both values; MissingDataError where seeds or tasks are
    missing, unless `allow_missing`: then the seeds at hand are used, tasks that any run lacks are left out for all, and
    the table says so.
    """
    run_list = [parsed(Run, run) for run in runs]
    frame = frame_of([parsed(EvaluationRow, row) for row in rows])
    by_method: dict[str, list[Run]] = {}
    for run in run_list:
        by_method.setdefault(run.method, []).append(run)
    if not by_method or frame.empty:
        raise MissingDataError("no runs or no evaluation rows: nothing to make a table of")
    check_matched(run_list, frame)
    against = _compared_with(against, by_method)
    expected = tuple(sorted({r.seed for r in run_list if r.learns} or {r.seed for r in run_list}))
    expected = expected if seeds is None else tuple(seeds)
    warnings = check_seeds(by_method, expected, allow_missing)
    frame, left_out = complete_tasks(frame, run_list, allow_missing)
    metrics = [metric(name) for name in extra]
    samples = {str(decoding): int(part.samples.max()) for decoding, part in frame.groupby("decoding")}
    check_samples(metrics, samples)
    frame["unit"] = scenario_names(frame) if any(wanted.scenarios for wanted in metrics) else frame.task_id
    scores = {
        decoding: _scores(frame[frame.decoding == decoding], by_method, against, fitting(metrics, samples[decoding]))
        for decoding in frame.decoding.unique()
    }
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
    )


def _compared_with(given: str | None, by_method: Mapping[str, Sequence[Run]]) -> str | None:
    """The method that others are compared with: the given one, which must learn, or the first that does."""
    learned = [method for method, runs in by_method.items() if runs[0].learns]
    if given is not None and given not in learned:
        raise UnknownNameError("method for the comparison", given, learned)
    return given or next(iter(learned), None)


def _scores(
    frame: pd.DataFrame, by_method: Mapping[str, Sequence[Run]], against: str | None, metrics: Sequence[Metric]
) -> dict[str, Score]:
    """Scores of every method under one decoding."""
    parts = dict(list(frame.groupby("method")))
    starting = next((method for method, runs in by_method.items() if runs[0].role == "base"), None)
    scores: dict[str, Score] = {}
    for method, runs in by_method.items():
        if method not in parts:
            continue
        part = parts[method]
        rewards = part.reward.dropna()
        learned = runs[0].learns
        gain = _paired(part, parts[starting]) if learned and starting else None
        versus = _paired(part, parts[against]) if learned and against and method != against else None
        scores[method] = Score(
            success=stats.mean_interval(METRICS["success"].outcomes(part)),
            reward=float(rewards.mean()) if len(rewards) else math.nan,
            gain=gain,
            versus=versus,
            p=stats.p_value(versus) if versus and not runs[0].exploratory else None,
            detectable=stats.minimum_detectable_effect(versus) if versus else None,
            extra={wanted.name: stats.mean_interval(wanted.outcomes(part)) for wanted in metrics},
            metrics={
                str(name): float(value) for name, value in pd.DataFrame(list(part.metrics), dtype=float).mean().items()
            },
        )
    tested = {method: score.p for method, score in scores.items() if score.p is not None}
    for method, p_holm in zip(tested, stats.holm(list(tested.values())), strict=True):
        scores[method] = replace(scores[method], p_holm=p_holm)
    return scores


def _paired(part: pd.DataFrame, other: pd.DataFrame) -> stats.Estimate | None:
    """Difference on the seeds both have; a row with one seed (a starting point) stands against every seed."""
    ours, theirs = sorted(set(part.seed.tolist())), sorted(set(other.seed.tolist()))
    common = [seed for seed in ours if seed in theirs]
    if len(theirs) == 1:
        return stats.paired_difference(outcome_grid(part, part.success), outcome_grid(other, other.success))
    if not common:
        return None
    return stats.paired_difference(outcome_grid(part, part.success, common), outcome_grid(other, other.success, common))


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
