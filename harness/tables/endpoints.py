"""All comparisons of a table, at every endpoint, judged together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats as distributions

from harness.tables import comparisons as judging
from harness.tables import statistics as stats
from harness.tables.comparisons import Comparison, Spread

AREA = "area"
"""The endpoint of the area under the learning curve; the others are the decodings of the final evaluation."""
Standing = Literal["tested", "exploratory", "upper", "lower"]
"""What a learned row is compared for. Only tested rows are in the family."""
POOL_AT_LEAST = 3
"""Rows that a pooled detectable effect needs: that of two would be one comparison's own spread."""


@dataclass(frozen=True)
class Outcome:
    """One method at one endpoint."""

    seeds: tuple[int, ...]
    y: Float[np.ndarray, "seed task"]

    def at(self, seeds: Sequence[int]) -> Float[np.ndarray, "seed task"]:
        """The rows of these seeds, in this order."""
        return np.asarray(self.y[[self.seeds.index(seed) for seed in seeds]])


@dataclass(frozen=True)
class Judgement:
    """One row against the compared one, at one endpoint."""

    versus: stats.Estimate
    """The difference with its plain 95 % interval."""
    joint: stats.Estimate | None = None
    """The same with the simultaneous interval: all of the table hold together with 95 %."""
    p: float | None = None
    p_adjusted: float | None = None
    """Plain, and adjusted for all comparisons of the table; None below three common seeds, or where nothing is
    tested."""
    verdict: str | None = None
    """"different", "no difference larger than ...", "undecided"; None for a row that is not tested."""
    detectable: float | None = None
    """The difference that this table finds with 80 % power at the adjusted level, from the pooled variance."""
    share: stats.Estimate | None = None
    """Credit share: the difference over the oracle's, where the oracle's is there."""


@dataclass(frozen=True)
class Judged:
    """Everything that comparing the rows of a table gave."""

    found: Mapping[tuple[str, str], Judgement] = field(default_factory=dict)
    """By endpoint and method."""
    size: int = 0
    """Comparisons in the family."""
    apart: Mapping[str, str] = field(default_factory=dict)
    """Rows that keep to themselves, and why."""
    detectable: Mapping[str, float] = field(default_factory=dict)
    """The difference found with 80 % power at the adjusted level, by endpoint, where enough rows are pooled."""
    headroom: Mapping[str, bool] = field(default_factory=dict)
    """Whether the oracle is above the compared row by more than the detectable effect, by endpoint."""
    pools: Mapping[str, Spread] = field(default_factory=dict)
    """The pooled variances, by endpoint."""
    correlation: float = 0.0
    """Mean correlation of one row's means at two endpoints."""


def judge(
    endpoints: Mapping[str, Mapping[str, Outcome]], standings: Mapping[str, Standing], against: str, margin: float
) -> Judged:
    """Compare every row with `against`. endpoints: the learned rows' outcomes; standings: of every row but that one."""
    pools, kept = {}, {}
    for endpoint, outcomes in endpoints.items():
        kept[endpoint], pool = _pool(outcomes)
        if pool is not None:
            pools[endpoint] = pool
    compared = {
        (endpoint, method): _compared(endpoint, outcomes, method, against, kept[endpoint], pools)
        for endpoint, outcomes in endpoints.items()
        for method in outcomes
        if method != against and set(outcomes[method].seeds) & set(outcomes[against].seeds)
    }
    tested = [
        comparison
        for (_, method), comparison in compared.items()
        if standings[method] == "tested" and comparison.estimate.seeds >= judging.LEAST_SEEDS
    ]
    between = _between(endpoints, kept)
    family = judging.family(tested, between)
    known = {endpoint: _detectable(pool, family.level()) for endpoint, pool in pools.items()}
    effects = {endpoint: effect for endpoint, effect in known.items() if effect is not None}
    found = {
        key: _judgement(comparison, standings[key[1]], family, margin, effects.get(key[0]))
        for key, comparison in compared.items()
    }
    oracle = next((method for method, standing in standings.items() if standing == "upper"), None)
    headroom = {}
    for endpoint in endpoints if oracle else ():
        best = found.get((endpoint, str(oracle)))
        effect = effects.get(endpoint)
        headroom[endpoint] = bool(best and effect and best.versus.mean > effect and best.versus.low > 0)
    shares = _shares(endpoints, compared, kept, pools, standings, against, str(oracle), headroom)
    found |= {key: Judgement(**{**vars(found[key]), "share": share}) for key, share in shares.items()}
    apart = _apart(endpoints, kept)
    correlation = float(np.mean(list(between.values()))) if between else 0.0
    return Judged(found, len(tested), apart, effects, headroom, pools, correlation)


def _stacked(outcomes: Mapping[str, Outcome]) -> Float[np.ndarray, "row seed task"]:
    """The seeds that every row has."""
    common = sorted(set.intersection(*(set(outcome.seeds) for outcome in outcomes.values())))
    return np.stack([outcome.at(common) for outcome in outcomes.values()])


def _pool(outcomes: Mapping[str, Outcome]) -> tuple[dict[str, bool], Spread | None]:
    y = _stacked(outcomes)
    if not y.shape[1]:
        return dict.fromkeys(outcomes, False), None
    kept, pool = judging.pool_of(y)
    return dict(zip(outcomes, map(bool, kept), strict=True)), pool


def _apart(endpoints: Mapping[str, Mapping[str, Outcome]], kept: Mapping[str, Mapping[str, bool]]) -> dict[str, str]:
    """Why rows are not pooled, with the endpoints where that is so."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for endpoint, outcomes in endpoints.items():
        y, names = _stacked(outcomes), list(outcomes)
        if not y.shape[1]:
            continue
        known = {name: "collapsed" for name, fell in zip(names, judging.collapsed_rows(y), strict=True) if fell}
        known |= {names[row]: f"nearly the same as {names[like]}" for row, like in judging.alike_rows(y).items()}
        for name in names:
            if not kept[endpoint][name]:
                why = known.get(name, "more variable over seeds than the other rows")
                reasons.setdefault(name, {}).setdefault(why, []).append(endpoint)
    return {
        name: "; ".join(f"{why} ({', '.join(places)})" for why, places in of_name.items())
        for name, of_name in reasons.items()
    }


def _compared(
    endpoint: str,
    outcomes: Mapping[str, Outcome],
    method: str,
    against: str,
    kept: Mapping[str, bool],
    pools: Mapping[str, Spread],
) -> Comparison:
    ours, theirs = outcomes[method], outcomes[against]
    common = [seed for seed in ours.seeds if seed in theirs.seeds]
    pooled = kept[method] and kept[against] and endpoint in pools
    estimate = judging.difference(ours.at(common), theirs.at(common), pools[endpoint] if pooled else None)
    return Comparison(method, endpoint, estimate, pooled)


def _between(
    endpoints: Mapping[str, Mapping[str, Outcome]], kept: Mapping[str, Mapping[str, bool]]
) -> dict[tuple[str, str], float]:
    """Correlation of every two endpoints, over the rows that are pooled at both."""
    names = sorted(endpoints)
    found = {}
    for place, other in enumerate(names):
        for one in names[:place]:
            both = [m for m in endpoints[one] if m in endpoints[other] and kept[one][m] and kept[other][m]]
            if len(both) < 2:
                continue
            pair = [_stacked({method: endpoints[name][method] for method in both}) for name in (one, other)]
            same = AREA not in (one, other)  # the curve has tasks of its own
            found[one, other] = judging.endpoint_correlation(pair[0], pair[1], same)
    return found


def _detectable(pool: Spread, level: float) -> float | None:
    if pool.rows < POOL_AT_LEAST or pool.seeds < judging.LEAST_SEEDS:
        return None
    variance, df = pool.of_difference()
    if not variance > 0:
        return None
    quantiles = distributions.t.isf(level / 2, df) + distributions.t.ppf(0.8, df)
    return float(quantiles * math.sqrt(variance))


def _judgement(
    comparison: Comparison, standing: Standing, family: judging.Family, margin: float, effect: float | None
) -> Judgement:
    versus = comparison.estimate
    if standing == "exploratory":
        return Judgement(versus)
    if versus.seeds < judging.LEAST_SEEDS:
        return Judgement(versus)
    p, effect = stats.p_value(versus), effect if comparison.pooled else None
    if standing != "tested":
        return Judgement(versus, p=p, detectable=effect)
    adjusted = family.adjusted(p)
    joint = judging.at_level(versus, family.level())
    word = judging.verdict(versus, adjusted, family.one_sided_level(), margin)
    return Judgement(versus, joint, p, adjusted, word, effect)


def _shares(
    endpoints: Mapping[str, Mapping[str, Outcome]],
    compared: Mapping[tuple[str, str], Comparison],
    kept: Mapping[str, Mapping[str, bool]],
    pools: Mapping[str, Spread],
    standings: Mapping[str, Standing],
    against: str,
    oracle: str,
    headroom: Mapping[str, bool],
) -> dict[tuple[str, str], Any]:
    """Credit shares where there is headroom, of every row but controls, over the seeds that all three have."""
    found = {}
    for (endpoint, method), comparison in compared.items():
        if not headroom.get(endpoint) or standings[method] in ("upper", "lower"):
            continue
        of = endpoints[endpoint]
        common = sorted(set(of[method].seeds) & set(of[against].seeds) & set(of[oracle].seeds))
        if len(common) < 2:
            continue
        pooled = comparison.pooled and kept[endpoint][oracle]
        pool = pools[endpoint] if pooled else None
        base = of[against].at(common)
        ours, best = of[method].at(common) - base, of[oracle].at(common) - base
        estimates = [judging.difference(y.at(common), base, pool) for y in (of[method], of[oracle])]
        both = judging.covariance(ours, best, pool)
        found[endpoint, method] = judging.ratio_interval(estimates[0], estimates[1], both)
    return found
