"""Success metrics, each declared once: how it is called, what records it needs, how it is read off a method's rows.

    metric("pass@4").outcomes(part)        # the outcome table [seed, unit] of one method under one decoding

A specification names more of them in `evaluation.extra`, and every rendering shows them. A name with a number stands in
the declarations as a pattern: "pass@k" is pass@1, pass@4, ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.tables import statistics as stats
from harness.tables.scenarios import scenario_of

Outcomes = Float[np.ndarray, "seed unit"]
_NUMBERED = re.compile(r"(.*[@^])([1-9]\d*)")


@dataclass(frozen=True)
class Metric:
    """A success metric."""

    name: str
    """As a specification writes it; "pass@k" declares pass@1, pass@2, ..."""
    title: str
    """Its column in tables for people."""
    needs: str
    """What the evaluation rows have to hold, in words."""
    read: Callable[[pd.DataFrame, int], Outcomes]
    """From a method's rows under one decoding, and k, to the outcome table."""
    answers: bool = False
    """It needs the samples' final answers beside their successes."""
    scenarios: bool = False
    """Its units are scenarios; then every interval of the table takes scenarios, not tasks, for its units."""
    success: str | None = None
    """What plain success is called beside it."""
    note: str = ""
    """A line of the table's heading."""
    k: int = 0
    """Samples that are drawn of every task; 0 where all of them count."""

    def outcomes(self, part: pd.DataFrame) -> Outcomes:
        """The outcome table [seed, unit] of one method's rows under one decoding.

        Raises MissingDataError where a task has too few finished samples.
        """
        short = part[part.samples < self.k]
        if len(short):
            row = short.iloc[0]
            raise MissingDataError(
                f"{self.name} needs {self.k} finished samples of every task, task {row.task_id!r} of {row.method}, "
                f"seed {row.seed}, has {row.samples}; evaluate it again, or name a smaller number in evaluation.extra"
            )
        return self.read(part, self.k)


def outcome_grid(part: pd.DataFrame, values: pd.Series, seeds: Sequence[int] | None = None) -> Outcomes:
    """The values of one method's rows under one decoding as an outcome table [seed, unit].

    part: rows with `seed` and `unit` (the task, or its scenario). Units come in sorted order; rows of one unit are
    averaged. seeds: those to keep, in this order (default: all).
    """
    grid = part.assign(value=values).pivot_table(index="seed", columns="unit", values="value", aggfunc="mean")
    return np.asarray(grid.loc[list(seeds)] if seeds is not None else grid, dtype=np.float64)


def scenario_names(rows: pd.DataFrame) -> pd.Series:
    """The scenario of every row's task: the one the environment names, else the task's id up to its last "_"."""
    return rows.scenario.where(rows.scenario.notna(), rows.task_id.map(scenario_of))


def _success(part: pd.DataFrame, k: int) -> Outcomes:
    return outcome_grid(part, part.success)


def _from_counts(rate: Callable[..., np.ndarray]) -> Callable[[pd.DataFrame, int], Outcomes]:
    """A metric that needs the numbers of samples and of successes alone."""

    def read(part: pd.DataFrame, k: int) -> Outcomes:
        samples = part.samples.to_numpy()
        successes = np.rint(part.success.to_numpy() * samples).astype(int)
        return outcome_grid(part, pd.Series(rate(samples, successes, k), index=part.index))

    return read


def _majority(part: pd.DataFrame, k: int) -> Outcomes:
    without = part[part.answers.isna()]
    if len(without):
        row = without.iloc[0]
        raise MissingDataError(
            f"maj@{k} needs the samples' answers, which task {row.task_id!r} of {row.method}, seed {row.seed}, lacks; "
            f"run the evaluation again, or take 'maj@{k}' out of evaluation.extra"
        )
    rates = [stats.maj_at_k([answer for answer, _ in row], [right for _, right in row], k) for row in part.answers]
    return outcome_grid(part, pd.Series(rates, index=part.index))


def _scenario_rates(part: pd.DataFrame, k: int) -> Outcomes:
    by_task = part.pivot(index="seed", columns="task_id", values="success")
    names = None
    if part.scenario.notna().any():
        of_task = part.assign(scenario=scenario_names(part)).drop_duplicates("task_id").set_index("task_id").scenario
        names = [str(name) for name in of_task.reindex(by_task.columns)]
    return stats.scenario_rate(by_task.to_numpy(dtype=np.float64), list(by_task.columns), names=names)


METRICS = {
    declared.name: declared
    for declared in (
        Metric("success", "Success", "success", _success),
        Metric("TGC", "TGC", "success", _success),
        Metric("pass@k", "pass@k", "k samples of every task", _from_counts(stats.pass_at_k)),
        Metric("pass^k", "pass^k", "k samples of every task", _from_counts(stats.pass_hat_k)),
        Metric("maj@k", "maj@k", "k samples of every task, with their answers", _majority, answers=True),
        Metric(
            "SGC",
            "SGC",
            "every variant of every scenario",
            _scenario_rates,
            scenarios=True,
            success="TGC",
            note="Success is task goal completion (TGC); SGC is the share of scenarios with every variant solved in "
            "one attempt each; intervals take scenarios as independent, not their variants.",
        ),
    )
}
"""The metrics there are, by name."""


def metric(name: str) -> Metric:
    """The metric of this name, its number read. Raises UnknownNameError with the nearest name."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered:
        pattern = METRICS.get(f"{numbered[1]}k")
        if pattern is not None:
            return replace(pattern, name=name, title=_with_number(pattern.title, numbered[2]), k=int(numbered[2]))
    elif name in METRICS and not name.endswith(("@k", "^k")):
        return METRICS[name]
    number = re.search(r"\d+", name)
    raise UnknownNameError(
        "success metric",
        name,
        [_with_number(declared, number[0]) if number else declared for declared in METRICS],
        hint="" if name not in METRICS else "with a number for k",
    )


def known(name: str) -> bool:
    """Whether a specification may name this metric."""
    try:
        metric(name)
    except UnknownNameError:
        return False
    return True


def fitting(metrics: Iterable[Metric], samples: int) -> list[Metric]:
    """Those that so many samples of every task are enough for."""
    return [wanted for wanted in metrics if wanted.k <= samples]


def check_samples(metrics: Iterable[Metric], samples: dict[str, int]) -> None:
    """Raises UserError for a metric that no decoding has the samples for. samples: of every task, by decoding."""
    most = max(samples.values())
    for wanted in metrics:
        if wanted.k > most:
            raise UserError(
                f"{wanted.name} needs {wanted.k} samples of every task, the records have {most}; set "
                f"evaluation.samples = {wanted.k} and run again, or name a smaller number in evaluation.extra"
            )


def _with_number(pattern: str, number: str) -> str:
    return re.sub(r"(?<=[@^])k$", number, pattern)
