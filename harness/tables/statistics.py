"""Estimates with intervals over seeds and tasks, paired differences, success metrics: pure functions of arrays.

The data of a row of a table is an outcome table y[seed, task]: the mean success of the samples of one task under one
seed. Seeds and tasks are both draws from something larger, and both are crossed: every seed answers every task. Hence
the model

    y[s, t] = mu + a[s] + b[t] + e[s, t]                  a, b, e independent with mean 0

and the two-way analysis of variance (Searle, Casella, McCulloch 1992, Variance Components, ch. 4), with S seeds and T
tasks:

    E[MS_S] = var_e + T var_a     E[MS_T] = var_e + S var_b     E[MS_E] = var_e
    Var(mean y) = var_a / S + var_b / T + var_e / (S T) = (E[MS_S] + E[MS_T] - E[MS_E]) / (S T)

Simulated with normal effects, the nominal 95 % interval covers 93-99 % with 3 seeds and 94-99 % with 5 or more,
whichever effect dominates (the upper end where noise alone is there); with 2 seeds it falls to 87 % where the seeds'
share of the variance is about as large as the tasks'. Use 3 or more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special, stats

from harness.core.errors import UserError
from harness.tables.scenarios import scenarios

RATE = (0.0, 1.0)
"""Bounds of a success rate."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, and what the interval is over."""

    mean: float
    low: float
    high: float
    error: float
    """Standard error; NaN where nothing varied or only one number was there."""
    df: float
    """Satterthwaite's degrees of freedom; NaN as above."""
    seeds: int
    """Seeds of the outcome table."""
    tasks: int
    """Tasks of the outcome table; scenarios where these are its units."""

    @property
    def over(self) -> str:
        """What was allowed to vary: an interval over tasks alone says nothing of another seed."""
        if self.seeds > 1 and self.tasks > 1:
            return "seeds and tasks"
        if self.tasks > 1:
            return "tasks (one seed)"
        return "seeds (one task)" if self.seeds > 1 else "nothing (one seed, one task)"


# ---------------------------------------------------------------- means and differences


def mean_interval(
    outcomes: Float[np.ndarray, "seed task"], bounds: tuple[float, float] | None = RATE, level: float = 0.95
) -> Estimate:
    """Mean of an outcome table with its interval over seeds and tasks.

    bounds: the least and greatest value an outcome can take (a rate's are 0 and 1), or None for any number. With bounds
    the interval is clipped to them, and it is never narrower than what T tasks can show: a kind of task that makes up
    less than q = 1 - (1 - level)^(1/T) of all tasks may be missing from the sample (the rule of three: q is about 3/T),
    and its outcome may lie anywhere within the bounds.

    Raises UserError for an incomplete or empty table.
    """
    y = _complete(outcomes)
    return _interval(y, bounds, level, floor=bounds is not None)


def paired_difference(
    outcomes: Float[np.ndarray, "seed task"], baseline: Float[np.ndarray, "baseline_seed task"], level: float = 0.95
) -> Estimate:
    """outcomes - baseline, cell by cell on the same seeds and tasks, with the same model's interval.

    The interval stays within -1 and 1, and is never narrower than the number of tasks allows (`floored`). A baseline of
    one seed may stand against any number: it is repeated (the starting point of all runs, say).
    """
    y, base = _complete(outcomes), _complete(baseline)
    if base.shape[0] == 1:
        base = np.repeat(base, y.shape[0], axis=0)
    if y.shape != base.shape:
        raise UserError(f"a paired difference needs the same seeds and tasks, got tables of {y.shape} and {base.shape}")
    bare = _interval(y - base, None, level, floor=False)
    if math.isnan(bare.error):
        return floored(bare, bare.mean, bare.mean, level)
    return floored(bare, bare.low, bare.high, level)


def floored(difference: Estimate, low: float, high: float, level: float = 0.95) -> Estimate:
    """A difference of rates with the interval [low, high], never narrower than what T tasks can show.

    A kind of task that makes up less than q = 1 - (1 - level)^(1/T) of all tasks may be missing from the sample, and
    there the two rows may differ by anything from -1 to 1 (see `mean_interval`): two rows that answer nearly alike are
    not known to be alike. This widens an interval up to 0, never across it: whether there is a difference is the test's
    to say.
    """
    unseen = 1 - (1 - level) ** (1 / difference.tasks)
    mean = difference.mean
    lower, upper = min(low, mean - unseen * (mean + 1)), max(high, mean + unseen * (1 - mean))
    if low > 1e-12:
        lower = max(lower, 0.0)
    if high < -1e-12:
        upper = min(upper, 0.0)
    return replace(difference, low=max(lower, -1.0), high=min(upper, 1.0))


def mean_squares(y: Float[np.ndarray, "seed task"]) -> tuple[float, float, float]:
    """MS_S, MS_T, MS_E of the two-way table; 0 for a factor with one level."""
    seeds, tasks = y.shape
    by_seed, by_task, mean = y.mean(axis=1), y.mean(axis=0), y.mean()
    residual = y - by_seed[:, None] - by_task[None, :] + mean
    return (
        tasks * float(np.sum((by_seed - mean) ** 2)) / max(seeds - 1, 1),
        seeds * float(np.sum((by_task - mean) ** 2)) / max(tasks - 1, 1),
        float(np.sum(residual**2)) / max((seeds - 1) * (tasks - 1), 1),
    )


def variance_of_mean(y: Float[np.ndarray, "seed task"]) -> tuple[float, float]:
    """Var(mean y) and its degrees of freedom.

    Satterthwaite (1946): a sum of c_i MS_i, each with f_i degrees of freedom, is about chi-square with (sum)^2 /
    sum((c_i MS_i)^2 / f_i). A component whose estimate is negative is taken as zero: the sum is then the larger of MS_S
    and MS_T, or MS_E where both are below it. One seed or one task leaves the ordinary one-sample variance; where
    nothing varies the degrees of freedom are NaN.
    """
    seeds, tasks = y.shape
    ms_s, ms_t, ms_e = mean_squares(y)
    if seeds == 1 or tasks == 1:
        return max(ms_s, ms_t) / y.size, float(max(seeds, tasks) - 1)
    total = max(ms_s + ms_t - ms_e, ms_s, ms_t, ms_e)
    spread = ms_s**2 / (seeds - 1) + ms_t**2 / (tasks - 1) + ms_e**2 / ((seeds - 1) * (tasks - 1))
    return total / y.size, total**2 / spread if spread else math.nan


def p_value(difference: Estimate) -> float:
    """Two-sided p-value of "no difference" by the t distribution.

    Where all differences were equal and not 0 there is no variance to divide by: the sign test over tasks, 2 * 0.5^T.
    """
    if difference.mean == 0:
        return 1.0
    if math.isnan(difference.error):
        return min(1.0, 2 * 0.5**difference.tasks)
    return float(2 * special.stdtr(difference.df, -abs(difference.mean) / difference.error))


def _complete(outcomes: Float[np.ndarray, "seed task"]) -> Float[np.ndarray, "seed task"]:
    y = np.ascontiguousarray(outcomes, dtype=np.float64)  # one memory layout: one order of summation, the same last bit
    if y.ndim != 2 or y.size == 0:
        raise UserError(f"an outcome table has the shape [seed, task] and at least one cell, got shape {y.shape}")
    holes = np.argwhere(~np.isfinite(y))
    if len(holes):
        seed, task = holes[0]
        raise UserError(
            f"an outcome table must be complete: {len(holes)} of {y.size} cells are missing, "
            f"first [seed {seed}, task {task}]"
        )
    return y


def _alike(y: Float[np.ndarray, "seed task"]) -> bool:
    """Equal up to the rounding of a difference of two means."""
    return bool(np.ptp(y) <= 1e-12)


def _interval(
    y: Float[np.ndarray, "seed task"], bounds: tuple[float, float] | None, level: float, floor: bool
) -> Estimate:
    seeds, tasks = y.shape
    mean = float(y.mean())
    error = df = math.nan
    low, high = mean, mean
    if not _alike(y):
        variance, df = variance_of_mean(y)
        error = math.sqrt(variance)
        half = float(stats.t.ppf((1 + level) / 2, df)) * error
        low, high = mean - half, mean + half
    elif bounds is None:
        low, high = -math.inf, math.inf
    if bounds is not None:
        if floor:
            unseen = 1 - (1 - level) ** (1 / tasks)
            low, high = min(low, mean - unseen * (mean - bounds[0])), max(high, mean + unseen * (bounds[1] - mean))
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(mean, low, high, error, df, seeds, tasks)


# ---------------------------------------------------------------- success metrics


def pass_at_k(n: Int[np.ndarray, " task"], c: Int[np.ndarray, " task"], k: int) -> Float[np.ndarray, " task"]:
    """Chance that at least one of k samples succeeds, unbiased from c successes in n: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021, arXiv 2107.03374, eq. 1. k = 1 is the success rate.
    """
    n, c = _counts(n, c, k)
    return 1.0 - _choose_ratio(n - c, n, k)


def pass_hat_k(n: Int[np.ndarray, " task"], c: Int[np.ndarray, " task"], k: int) -> Float[np.ndarray, " task"]:
    """pass^k: chance that all of k samples succeed, unbiased: C(c, k) / C(n, k).

    Yao et al. 2024 (tau-bench), arXiv 2406.12045.
    """
    n, c = _counts(n, c, k)
    return _choose_ratio(c, n, k)


def avg_at_k(success: Shaped[np.ndarray, "task sample"], k: int) -> Float[np.ndarray, " task"]:
    """Mean success (0, 1 or booleans) of the first k samples of every task."""
    success = np.asarray(success, dtype=np.float64)
    if not 1 <= k <= success.shape[1]:
        raise UserError(f"avg@k needs 1 <= k <= samples, got k = {k} and {success.shape[1]} samples a task")
    return np.asarray(success[:, :k].mean(axis=1))


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """Expected success of the most frequent answer among k samples of one task, drawn without replacement.

    The mean over all k-subsets of the samples, exactly; answers that are equally frequent share their subset evenly.
    None is no answer and has no vote; where none of the k samples has one, their mean success counts. Wang et al. 2022
    (self-consistency), arXiv 2203.11171, takes all samples: k = len(answers).

    Raises UserError for an impossible k, and where equal answers are judged differently.
    """
    if not 1 <= k <= len(answers) or len(correct) != len(answers):
        raise UserError(
            "maj@k needs 1 <= k <= samples and one judgement each, "
            f"got k = {k}, {len(answers)} answers, {len(correct)} judgements"
        )
    verdict: dict[Hashable, bool] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None and verdict.setdefault(answer, bool(right)) != bool(right):
            raise UserError(f"maj@k: the answer {answer!r} is judged right once and wrong once")
    votes = Counter(answer for answer in answers if answer is not None)
    silent = [bool(right) for answer, right in zip(answers, correct, strict=True) if answer is None]
    right_counts = tuple(sorted(count for answer, count in votes.items() if verdict[answer]))
    wrong_counts = tuple(sorted(count for answer, count in votes.items() if not verdict[answer]))
    return _majority(right_counts, wrong_counts, len(silent), sum(silent), k)


@lru_cache(maxsize=65536)
def _majority(right: tuple[int, ...], wrong: tuple[int, ...], silent: int, silent_right: int, k: int) -> float:
    """maj@k from how often every right and every wrong answer was given, and how many samples had none."""
    counts = (*right, *wrong)
    won = Fraction(0)
    for winner, count in enumerate(right):
        others = (*counts[:winner], *counts[winner + 1 :])
        for votes in range(1, min(count, k) + 1):
            won += math.comb(count, votes) * _shared_wins(others, silent, votes, k - votes)
    if silent:
        won += math.comb(silent, k) * Fraction(silent_right, silent)
    return float(won / math.comb(sum(counts) + silent, k))


def _shared_wins(others: tuple[int, ...], silent: int, votes: int, rest: int) -> Fraction:
    """Ways to draw `rest` samples in which no answer has more than `votes`, weighted by the winner's share.

    A draw in which t other answers have as many votes counts 1 / (t + 1).
    Built up answer by answer: ways[drawn, tied] counts the draws so far.
    """
    ways: Counter[tuple[int, int]] = Counter({(drawn, 0): math.comb(silent, drawn) for drawn in range(rest + 1)})
    for count in others:
        further: Counter[tuple[int, int]] = Counter()
        for (drawn, tied), amount in ways.items():
            for more in range(min(count, votes, rest - drawn) + 1):
                further[drawn + more, tied + (more == votes)] += amount * math.comb(count, more)
        ways = further
    return sum((Fraction(amount, tied + 1) for (drawn, tied), amount in ways.items() if drawn == rest), Fraction(0))


def tgc(success: Shaped[np.ndarray, " task"]) -> float:
    """Task goal completion (AppWorld, arXiv 2407.18901): share of tasks with every test passed."""
    return float(np.mean(success))


def sgc(
    success: Shaped[np.ndarray, "... task"], task_ids: Sequence[str], variants: int = 3
) -> Bool[np.ndarray, "... scenario"]:
    """Scenario goal completion: a scenario is completed when all its variants are.

    The mean over the last axis is the SGC (AppWorld, arXiv 2407.18901).

    success is that of single attempts (of one seed and one sample each), never of averages. Scenarios come in the order
    of their first task.
    """
    success = np.asarray(success)
    if not np.isin(success, (0, 1)).all():
        raise UserError("SGC needs single attempts (0 or 1), got averages")
    return scenario_rate(success, task_ids, variants).astype(bool)


def scenario_rate(
    success: Shaped[np.ndarray, "... task"],
    task_ids: Sequence[str],
    variants: int = 3,
    names: Sequence[str] | None = None,
) -> Float[np.ndarray, "... scenario"]:
    """The chance that one attempt at every variant of a scenario succeeds throughout: the product of their rates.

    The mean over the last axis estimates the SGC without bias where a task's rate is the mean of several independent
    attempts; for single attempts (0 or 1) it is `sgc`. Scenarios come in the order of their first task.

    names: the scenario of every task, as the environment says; all then have equally many variants. Without names a
    scenario is the task's id up to the last "_" and has `variants` of them. UserError where a variant is missing.
    """
    success = np.asarray(success, dtype=np.float64)
    places = scenarios(task_ids, variants) if names is None else _named_scenarios(names)
    return np.stack([success[..., of_scenario].prod(axis=-1) for of_scenario in places.values()], axis=-1)


def _named_scenarios(names: Sequence[str]) -> dict[str, list[int]]:
    """Places of the tasks of every scenario, in the order of their first task."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    most = max(map(len, places.values()))
    short = next((name for name, found in places.items() if len(found) < most), None)
    if short is not None:
        raise UserError(
            f"SGC needs every variant of every scenario; {short!r} has {len(places[short])}, others have {most}"
        )
    return places


def _counts(n: np.ndarray, c: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if k < 1 or np.any(n < k) or np.any((c < 0) | (c > n)):
        raise UserError(
            "needs 1 <= k <= n and 0 <= c <= n for every task, "
            f"got k = {k}, n from {n.min()}, c from {c.min()} to {c.max()}"
        )
    return n, c


def _choose_ratio(top: np.ndarray, bottom: np.ndarray, k: int) -> Float[np.ndarray, " task"]:
    """C(top, k) / C(bottom, k) as a product of k factors, which never overflows; 0 where top < k."""
    factors = [np.maximum(top - i, 0) / (bottom - i) for i in range(k)]
    return np.asarray(np.prod(factors, axis=0), dtype=np.float64)
