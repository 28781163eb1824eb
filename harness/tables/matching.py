"""What may stand in one table: runs with the same matched facts, all seeds, and tasks that every run was judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.core.errors import MissingDataError, UnmatchedError, UserError
from harness.core.fingerprint import fingerprint
from harness.tables.records import EvaluationRow, Run


def frame_of(rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """One line per run, decoding and task. A row recorded twice counts once; UserError where two rows contradict."""
    kept: dict[tuple[Any, ...], EvaluationRow] = {}
    for row in rows:
        key = (row.method, row.seed, row.decoding, row.task_id)
        if kept.setdefault(key, row) != row:
            raise UserError(
                f"two different results for {row.method}, seed {row.seed}, {row.decoding}, task {row.task_id!r}"
            )
    frame = pd.DataFrame([dict(row) for row in kept.values()], columns=list(EvaluationRow.model_fields))
    return frame.astype({"success": float, "reward": float})


def check_matched(runs: Sequence[Run], frame: pd.DataFrame) -> None:
    """All runs share their matched facts, and every row was evaluated under those of its run.

    Raises UnmatchedError naming the facts that differ and both values; UserError for a run that is given twice, or rows
    without their run.
    """
    first = runs[0]
    known: dict[tuple[str, int], str] = {}
    for run in runs:
        if (run.method, run.seed) in known:
            raise UserError(f"{run.method}, seed {run.seed} is given twice")
        known[run.method, run.seed] = fingerprint(run.matched)
        differing = differing_facts(first.matched, run.matched)
        if differing:
            differences = "; ".join(
                f"{key} is {ours!r} in {_name(first)} and {theirs!r} in {_name(run)}" for key, ours, theirs in differing
            )
            raise UnmatchedError(f"these runs may not stand in one table: {differences}")
    _check_starts(runs)
    for method, seed, matched in frame[["method", "seed", "matched"]].drop_duplicates().itertuples(index=False):
        if (method, seed) not in known:
            raise UserError(f"evaluation rows of {method!r}, seed {seed}, whose run is not given")
        if known[method, seed] != matched:
            raise UnmatchedError(
                f"{method}, seed {seed}: rows were evaluated under fingerprint {matched[:12]}, "
                f"its run has {known[method, seed][:12]}"
            )


def _check_starts(runs: Sequence[Run]) -> None:
    """All runs of one seed began from the same weights. UnmatchedError naming both otherwise."""
    first: dict[int, Run] = {}
    for run in runs:
        if run.initial_checkpoint:
            other = first.setdefault(run.seed, run)
            if other.initial_checkpoint != run.initial_checkpoint:
                raise UnmatchedError(
                    "these runs may not stand in one table: initial_checkpoint is "
                    f"{other.initial_checkpoint!r} in {_name(other)} and {run.initial_checkpoint!r} in {_name(run)}"
                )


ROW_FACTS = ("role", "plug", "options", "code", "exploratory", "control", "kl", "mixed_groups", "context", "summariser")
"""What all seeds of one row share, beyond the matched facts."""


def check_one_row(by_method: Mapping[str, Sequence[Run]]) -> None:
    """All runs under one label are of one method: UnmatchedError naming what differs and both values."""
    for runs in by_method.values():
        first = runs[0].model_dump(include=set(ROW_FACTS))
        for run in runs[1:]:
            differing = differing_facts(first, run.model_dump(include=set(ROW_FACTS)))
            if differing:
                named = "; ".join(
                    f"{key} is {ours!r} under seed {runs[0].seed} and {theirs!r} under seed {run.seed}"
                    for key, ours, theirs in differing
                )
                raise UnmatchedError(f"{run.method} is not one row: {named}; give the runs labels of their own")


def check_named_seeds(runs: Sequence[Run], expected: Sequence[int]) -> None:
    """No run has a seed that the table does not name. UnmatchedError."""
    stray = next((run for run in runs if run.seed not in expected), None)
    if stray is not None:
        raise UnmatchedError(
            f"{_name(stray)} has a seed that is none of the table's ({', '.join(map(str, expected))}); "
            "leave the run out, or name its seed"
        )


def check_values(matched: Mapping[str, Any], frame: pd.DataFrame) -> None:
    """Rows hold rates, of the split and of as many samples as the matched facts say. UserError, UnmatchedError."""
    wrong = frame[frame.success.notna() & ~frame.success.between(0, 1)]
    if len(wrong):
        raise UserError(f"a success lies between 0 and 1, got {wrong.iloc[0].success:g} for {_cell(wrong.iloc[0])}")
    split = matched.get("environment.eval_split")
    others = frame[frame.split != split] if split is not None else frame[:0]
    if len(others):
        row = others.iloc[0]
        raise UnmatchedError(f"{_cell(row)} is of split {row.split!r}, the runs are judged on {split!r}")
    samples = {"sampled": matched.get("evaluation.samples"), "greedy": 1}
    if samples["sampled"] is None:
        return
    counted = frame[frame.samples + frame.failed != frame.decoding.map(samples)]
    if len(counted):
        row = counted.iloc[0]
        raise UnmatchedError(
            f"{_cell(row)} has {row.samples + row.failed} samples, the runs are judged by {samples[row.decoding]}"
        )


def _cell(row: Any) -> str:
    return f"{row.method}, seed {row.seed}, {row.decoding}, task {row.task_id!r}"


def differing_facts(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, our value, their value) of every matched fact that differs; "absent" where one side lacks it."""
    keys = sorted({*ours, *theirs})
    pairs = [(key, ours.get(key, "absent"), theirs.get(key, "absent")) for key in keys]
    return [pair for pair in pairs if fingerprint(pair[1]) != fingerprint(pair[2])]


def _name(run: Run) -> str:
    return f"{run.method} (seed {run.seed})"


def check_seeds(by_method: Mapping[str, Sequence[Run]], expected: tuple[int, ...], allow: bool) -> list[str]:
    """A warning for every method without all its seeds; MissingDataError unless such gaps are allowed.

    A baseline or a starting point may have one seed only: it does not learn.
    """
    warnings = []
    for method, runs in by_method.items():
        have = {run.seed for run in runs}
        missing = [seed for seed in expected if seed not in have]
        if missing and (runs[0].learns or len(have) > 1):
            warnings.append(
                f"{method}: {len(expected) - len(missing)} of {len(expected)} seeds "
                f"(missing {', '.join(map(str, missing))})"
            )
    if warnings and not allow:
        raise MissingDataError(
            "; ".join(warnings) + "; run them, or allow missing seeds to get a table that states the gap"
        )
    return warnings


def complete_tasks(frame: pd.DataFrame, runs: Sequence[Run], allow: bool) -> tuple[pd.DataFrame, list[str]]:
    """The rows of tasks that every run has under every decoding, and a warning where others were left out.

    Another set of tasks would be another experiment: MissingDataError unless gaps are allowed. A baseline neither
    samples nor is greedy: it may be recorded under one decoding only.
    """
    recorded = set(frame[["method", "seed", "decoding"]].itertuples(index=False, name=None))
    wanted = [
        (run.method, run.seed, decoding)
        for run in runs
        for decoding in frame.decoding.unique()
        if not run.is_baseline or (run.method, run.seed, decoding) in recorded
    ]
    present = frame.dropna(subset="success")
    counts = present.groupby("task_id").size().reindex(frame.task_id.unique(), fill_value=0)
    lacking = counts[counts < len(wanted)].index
    if not len(lacking):
        return frame, []
    warning = f"{len(lacking)} of {len(counts)} tasks lack a result in some run"
    if not allow or len(lacking) == len(counts):
        of_task = present[present.task_id == lacking[0]]
        having = set(of_task[["method", "seed", "decoding"]].itertuples(index=False, name=None))
        method, seed, decoding = next(place for place in wanted if place not in having)
        raise MissingDataError(
            f"{warning}, first: task {lacking[0]!r} of {method}, seed {seed}, {decoding}; run the evaluation again"
        )
    return frame[~frame.task_id.isin(lacking)], [f"{warning} and are left out for all rows"]
