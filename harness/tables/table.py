"""A table as a function of recorded rows: a row per method, paired differences; unmatched runs are refused.

table = build(runs, rows)                      # records: what was run, and how it did on every task
layouts.write_table(table, "results/laptop/guess")     # table.md, table.csv, table.tex, table.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.core.errors import MissingDataError, UnknownNameError, UnmatchedError, UserError
from harness.core.scenarios import scenario_of
from harness.experiment import fingerprint
from harness.tables import statistics as stats

DECODINGS = ("sampled", "greedy")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Record):
    """What one run spent."""

    rollouts: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    """Tokens a teacher read, its context included."""
    external_calls: int = 0
    """Calls to a language model other than the policy."""
    optimiser_steps: int = 0
    candidates: int = 0
    """Tasks tried; more than were used where mixed-group sampling throws groups away."""
    dropped_groups: int = 0
    """Groups dropped because the infrastructure failed twice."""
    failed_episodes: int = 0
    wall_s: float | None = None
    """Kept out of everything that must be the same bytes twice."""


class Run(_Record):
    """One method under one seed: what was run."""

    method: str
    """The row's label."""
    seed: int
    role: Literal["base", "method", "reference"] = "method"
    """base: the starting point of all gains; reference: a policy that does not learn (do-nothing, gold)."""
    matched: dict[str, Any]
    """`Experiment.matched_facts`: what all runs of one table share, flat."""
    plug: str = ""
    options: dict[str, Any] = {}
    exploratory: bool = False
    """Shown, but tests nothing: no p-value."""
    kl: float | None = None
    """Weight of the pull to the reference policy; None where the row does not learn."""
    mixed_groups: bool | None = None
    context: str | None = None
    """What the teacher reads."""
    summariser: str | None = None
    """Who writes it, where somebody does."""
    notes: tuple[str, ...] = ()
    """Footnotes of the row: "teacher adds nothing", "weights inert", ..."""
    budget: Budget = Budget()


class EvaluationRow(_Record):
    """One policy on one task: the mean of its samples."""

    method: str
    seed: int
    matched: str
    """`fingerprint` of the run's matched facts."""
    split: str
    task_id: str
    decoding: Literal["sampled", "greedy"]
    samples: int
    """Finished episodes behind the means."""
    success: float | None
    """None when every episode failed for infrastructure's sake."""
    reward: float | None = None
    failed: int = 0
    """Episodes lost to the infrastructure; they are in no mean."""
    metrics: dict[str, float | None] = {}


@dataclass(frozen=True)
class Score:
    """How a method did under one decoding."""

    success: stats.Estimate
    reward: float
    gain: stats.Estimate | None = None
    """Paired difference to the starting point."""
    versus: stats.Estimate | None = None
    """Paired difference to the first learned method."""
    p: float | None = None
    p_holm: float | None = None
    """p-value of `versus`, plain and adjusted (Holm) for all such comparisons of the table under this decoding."""
    detectable: float | None = None
    """Difference to the first learned method that this experiment would find with 80 % power."""
    extra: Mapping[str, stats.Estimate] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TableRow:
    """One method with all its seeds."""

    run: Run
    """The first seed's, for everything that does not depend on the seed."""
    seeds: tuple[int, ...]
    scores: Mapping[str, Score]
    budget: Mapping[str, float]
    """Mean per seed; `dropped_groups` and `failed_episodes` in total."""
    wall_s: float | None


@dataclass(frozen=True)
class Table:
    """Everything a rendering needs."""

    title: str
    facts: Mapping[str, Any]
    split: str
    seeds: tuple[int, ...]
    tasks: int
    samples: Mapping[str, int]
    """Samples per task and decoding."""
    failed: int
    """Evaluation episodes lost to the infrastructure."""
    warnings: tuple[str, ...]
    """What is missing, when that was allowed."""
    baseline: str | None
    """Label of the first learned method."""
    rows: tuple[TableRow, ...]

    @property
    def decodings(self) -> tuple[str, ...]:
        return tuple(decoding for decoding in DECODINGS if decoding in self.samples)

    @property
    def environment(self) -> str:
        return str(self.facts.get("environment.id", "environment not recorded"))


def build(
    runs: Iterable[Run | Mapping[str, Any]],
    rows: Iterable[EvaluationRow | Mapping[str, Any]],
    title: str = "",
    seeds: Sequence[int] | None = None,
    baseline: str | None = None,
    extra: Sequence[str] = (),
    allow_missing: bool = False,
) -> Table:
    """The table of these runs.

    runs: one per method and seed, in the order the rows shall stand. rows: one per run, decoding and task. seeds: those
    every method must have (default: all that any learned method has). baseline: label of the method that others are
    compared with (default: the first learned one). extra: more success metrics, of "pass@k", "pass^k" (k a number up to
    the samples) and "SGC"; with SGC the tasks are variants of scenarios, and every interval of the table takes scenarios, not tasks, for
    its independent units. Rows that were recorded twice, byte for byte, count once.

    Raises UnmatchedError naming the facts that differ and both values; MissingDataError where seeds or tasks are
    missing, unless `allow_missing`: then the seeds at hand are used, tasks that any run lacks are left out for all, and
    the table says so.
    """
    run_list = [_parsed(Run, run) for run in runs]
    frame = _frame([_parsed(EvaluationRow, row) for row in rows])
    by_method: dict[str, list[Run]] = {}
    for run in run_list:
        by_method.setdefault(run.method, []).append(run)
    if not by_method or frame.empty:
        raise MissingDataError("no runs or no evaluation rows: nothing to make a table of")
    _check_matched(run_list, frame)
    learned = [method for method, of_method in by_method.items() if of_method[0].role == "method"]
    if baseline is not None and baseline not in learned:
        raise UnknownNameError("method for the comparison", baseline, learned)
    baseline = baseline or next(iter(learned), None)
    expected = (
        tuple(seeds)
        if seeds is not None
        else tuple(sorted({r.seed for r in run_list if r.role == "method"} or {r.seed for r in run_list}))
    )
    warnings = _check_seeds(by_method, expected, allow_missing)
    frame, lost = _complete_tasks(frame, run_list, allow_missing)
    frame["unit"] = frame.task_id.map(scenario_of) if "SGC" in extra else frame.task_id
    scores = {
        decoding: _scores(frame[frame.decoding == decoding], by_method, baseline, extra)
        for decoding in frame.decoding.unique()
    }
    return Table(
        title=title,
        facts=run_list[0].matched,
        split=", ".join(sorted(frame.split.unique())),
        seeds=expected,
        tasks=frame.task_id.nunique(),
        samples={str(decoding): int(part.samples.max()) for decoding, part in frame.groupby("decoding")},
        failed=int(frame.failed.sum()),
        warnings=(*warnings, *lost),
        baseline=baseline,
        rows=tuple(_table_row(of_method, method, scores) for method, of_method in _in_order(by_method)),
    )


# ---------------------------------------------------------------- what may stand in one table


def _parsed(model: Any, given: Any) -> Any:
    if isinstance(given, model):
        return given
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UserError(f"not a {model.__name__}: {wrong}; its fields: {', '.join(model.model_fields)}") from None


def _frame(rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """One line per run, decoding and task."""
    kept: dict[tuple[Any, ...], EvaluationRow] = {}
    for row in rows:
        key = (row.method, row.seed, row.decoding, row.task_id)
        if kept.setdefault(key, row) != row:
            raise UserError(
                f"two different results for {row.method}, seed {row.seed}, {row.decoding}, task {row.task_id!r}"
            )
    frame = pd.DataFrame([dict(row) for row in kept.values()], columns=list(EvaluationRow.model_fields))
    return frame.astype({"success": float, "reward": float})


def _check_matched(runs: Sequence[Run], frame: pd.DataFrame) -> None:
    first = runs[0]
    known: dict[tuple[str, int], str] = {}
    for run in runs:
        if (run.method, run.seed) in known:
            raise UserError(f"{run.method}, seed {run.seed} is given twice")
        known[run.method, run.seed] = fingerprint(run.matched)
        differing = differing_facts(first.matched, run.matched)
        if differing:
            said = "; ".join(
                f"{key} is {ours!r} in {_name(first)} and {theirs!r} in {_name(run)}" for key, ours, theirs in differing
            )
            raise UnmatchedError(f"these runs may not stand in one table: {said}")
    for method, seed, matched in frame[["method", "seed", "matched"]].drop_duplicates().itertuples(index=False):
        if (method, seed) not in known:
            raise UserError(f"evaluation rows of {method!r}, seed {seed}, whose run is not given")
        if known[method, seed] != matched:
            raise UnmatchedError(
                f"{method}, seed {seed}: rows were evaluated under fingerprint {matched[:12]}, "
                f"its run has {known[method, seed][:12]}"
            )


def differing_facts(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, our value, their value) of every matched fact that differs; "absent" where one side lacks it."""
    keys = sorted({*ours, *theirs})
    pairs = [(key, ours.get(key, "absent"), theirs.get(key, "absent")) for key in keys]
    return [pair for pair in pairs if fingerprint(pair[1]) != fingerprint(pair[2])]


def _name(run: Run) -> str:
    return f"{run.method} (seed {run.seed})"


def _check_seeds(by_method: Mapping[str, Sequence[Run]], expected: tuple[int, ...], allow: bool) -> list[str]:
    """A reference policy or a starting point may have one seed only: it does not learn. A method has them all."""
    said = []
    for method, runs in by_method.items():
        have = {run.seed for run in runs}
        missing = [seed for seed in expected if seed not in have]
        if missing and (runs[0].role == "method" or len(have) > 1):
            said.append(
                f"{method}: {len(expected) - len(missing)} of {len(expected)} seeds "
                f"(missing {', '.join(map(str, missing))})"
            )
    if said and not allow:
        raise MissingDataError(
            "; ".join(said) + "; run them, or allow missing seeds to get a table that states the gap"
        )
    return said


def _complete_tasks(frame: pd.DataFrame, runs: Sequence[Run], allow: bool) -> tuple[pd.DataFrame, list[str]]:
    """Only tasks that every run has under every decoding: another set of tasks would be another experiment.

    A reference policy neither samples nor is greedy: it may be recorded under one decoding only.
    """
    recorded = set(frame[["method", "seed", "decoding"]].itertuples(index=False, name=None))
    wanted = [
        (run.method, run.seed, decoding)
        for run in runs
        for decoding in frame.decoding.unique()
        if run.role != "reference" or (run.method, run.seed, decoding) in recorded
    ]
    present = frame.dropna(subset="success")
    counts = present.groupby("task_id").size().reindex(frame.task_id.unique(), fill_value=0)
    lacking = counts[counts < len(wanted)].index
    if not len(lacking):
        return frame, []
    said = f"{len(lacking)} of {len(counts)} tasks lack a result in some run"
    if not allow or len(lacking) == len(counts):
        of_task = present[present.task_id == lacking[0]]
        having = set(of_task[["method", "seed", "decoding"]].itertuples(index=False, name=None))
        method, seed, decoding = next(place for place in wanted if place not in having)
        raise MissingDataError(
            f"{said}, first: task {lacking[0]!r} of {method}, seed {seed}, {decoding}; run the evaluation again"
        )
    return frame[~frame.task_id.isin(lacking)], [f"{said} and are left out for all rows"]


# ---------------------------------------------------------------- numbers


def _grid(part: pd.DataFrame, value: pd.Series, seeds: Sequence[int] | None = None) -> np.ndarray:
    """The outcome table [seed, unit] of one method under one decoding, units (tasks, or the means of scenarios) in sorted order."""
    grid = part.assign(value=value).pivot_table(index="seed", columns="unit", values="value", aggfunc="mean")
    return np.asarray(grid.loc[list(seeds)] if seeds is not None else grid, dtype=np.float64)


def _scores(
    frame: pd.DataFrame, by_method: Mapping[str, Sequence[Run]], baseline: str | None, extra: Sequence[str]
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
        learned = runs[0].role == "method"
        gain = _paired(part, parts[starting]) if learned and starting else None
        versus = _paired(part, parts[baseline]) if learned and baseline and method != baseline else None
        scores[method] = Score(
            success=stats.mean_interval(_grid(part, part.success)),
            reward=float(rewards.mean()) if len(rewards) else math.nan,
            gain=gain,
            versus=versus,
            p=stats.p_value(versus) if versus and not runs[0].exploratory else None,
            detectable=stats.minimum_detectable_effect(versus) if versus else None,
            extra={name: stats.mean_interval(_extra(name)(part)) for name in extra},
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
        return stats.paired_difference(_grid(part, part.success), _grid(other, other.success))
    if not common:
        return None
    return stats.paired_difference(_grid(part, part.success, common), _grid(other, other.success, common))


def _extra(name: str) -> Callable[[pd.DataFrame], np.ndarray]:
    """How a further success metric is read off a method's rows: as an outcome table."""
    shape = re.fullmatch(r"pass([@^])(\d+)", name)
    if shape:
        rate = stats.pass_at_k if shape[1] == "@" else stats.pass_hat_k
        k = int(shape[2])

        def of_counts(part: pd.DataFrame) -> np.ndarray:
            successes = np.rint(part.success.to_numpy() * part.samples.to_numpy()).astype(int)
            return _grid(part, pd.Series(rate(part.samples.to_numpy(), successes, k), index=part.index))

        return of_counts
    if name == "SGC":

        def of_scenarios(part: pd.DataFrame) -> np.ndarray:
            by_task = part.pivot(index="seed", columns="task_id", values="success")
            return stats.scenario_rate(by_task.to_numpy(dtype=np.float64), list(by_task.columns))

        return of_scenarios
    raise UnknownNameError("success metric", name, ["pass@k", "pass^k", "SGC"])


def _in_order(by_method: Mapping[str, list[Run]]) -> list[tuple[str, list[Run]]]:
    """The starting point, then the methods as given, then the references."""
    rank = {"base": 0, "method": 1, "reference": 2}
    return sorted(by_method.items(), key=lambda item: rank[item[1][0].role])


def _table_row(runs: Sequence[Run], method: str, scores: Mapping[str, Mapping[str, Score]]) -> TableRow:
    budgets = pd.DataFrame([run.budget.model_dump(exclude={"wall_s"}) for run in runs])
    spent = budgets.mean()
    for total in ("dropped_groups", "failed_episodes"):
        spent[total] = budgets[total].sum()
    walls = [run.budget.wall_s for run in runs if run.budget.wall_s is not None]
    return TableRow(
        run=runs[0],
        seeds=tuple(sorted(run.seed for run in runs)),
        scores={decoding: of[method] for decoding, of in scores.items() if method in of},
        budget={str(key): float(value) for key, value in spent.items()},
        wall_s=sum(walls) / len(walls) if walls else None,
    )
