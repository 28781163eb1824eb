"""All comparisons of a table, at every endpoint, judged together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from harness.tables import comparisons as judging
from harness.tables import statistics as stats
from harness.tables.comparisons import Comparison
from harness.tables.planning import detectable
from harness.tables.pooling import Pool, Spread, alike_rows, collapsed_rows, pool_of

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
class Known:
    """What the rows of one endpoint know together, by their names."""

    spread: Spread | None
    kept: Mapping[str, bool]
    own: Mapping[str, float | None]
    joined: Mapping[str, bool]
    """`Pool.joins`, by row."""

    @staticmethod
    def of(outcomes: Mapping[str, Outcome]) -> Known:
        """Over the seeds that every row has."""
        y = _stacked(outcomes)
        apart = Pool(np.zeros(len(y), dtype=bool), None, (None,) * len(y))
        pool = pool_of(y) if y.shape[1] else apart
        by_row = {name: place for place, name in enumerate(outcomes)}
        return Known(
            pool.spread,
            {name: bool(pool.kept[row]) for name, row in by_row.items()},
            {name: pool.own[row] for name, row in by_row.items()},
            {name: pool.joins(row) for name, row in by_row.items()},
        )

    def difference(self, ours: str, theirs: str, y: np.ndarray, base: np.ndarray) -> stats.Estimate:
        """Of two rows, with what is known of them."""
        joined = self.joined[ours] and self.joined[theirs]
        return judging.difference(y, base, self.spread if joined else None, (self.own[ours], self.own[theirs]))


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
    """"different", "different, by less than ...", "no difference larger than ...", "undecided" (`comparisons.verdict`);
    None for a row that is not tested."""
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
    known = {endpoint: Known.of(outcomes) for endpoint, outcomes in endpoints.items()}
    compared = {
        (endpoint, method): compared_with(endpoint, outcomes, method, against, known[endpoint])
        for endpoint, outcomes in endpoints.items()
        for method in outcomes
        if method != against and set(outcomes[method].seeds) & set(outcomes[against].seeds)
    }
    tested = [
        comparison
        for (_, method), comparison in compared.items()
        if standings[method] == "tested" and comparison.estimate.seeds >= judging.LEAST_SEEDS
    ]
    between = correlations(endpoints, known)
    family = judging.family(tested, between)
    pools = {endpoint: of.spread for endpoint, of in known.items() if of.spread is not None}
    all_effects = {endpoint: _detectable(pool, family.level()) for endpoint, pool in pools.items()}
    effects = {endpoint: effect for endpoint, effect in all_effects.items() if effect is not None}
    found = {}
    for (endpoint, method), comparison in compared.items():
        both = known[endpoint].kept[method] and known[endpoint].kept[against]
        effect = effects.get(endpoint) if both else None
        found[endpoint, method] = _judgement(comparison, standings[method], family, margin, effect)
    oracle = next((method for method, standing in standings.items() if standing == "upper"), None)
    headroom = {}
    for endpoint in endpoints if oracle else ():
        best = found.get((endpoint, str(oracle)))
        effect = effects.get(endpoint)
        headroom[endpoint] = bool(best and effect and best.versus.mean > effect and best.versus.low > 0)
    shares = _shares(endpoints, known, standings, against, str(oracle), headroom)
    found |= {key: Judgement(**{**vars(found[key]), "share": share}) for key, share in shares.items()}
    apart = _apart(endpoints, known)
    correlation = float(np.mean(list(between.values()))) if between else 0.0
    return Judged(found, len(tested), apart, effects, headroom, pools, correlation)


def _stacked(outcomes: Mapping[str, Outcome]) -> Float[np.ndarray, "row seed task"]:
    """The seeds that every row has."""
    common = sorted(set.intersection(*(set(outcome.seeds) for outcome in outcomes.values())))
    return np.stack([outcome.at(common) for outcome in outcomes.values()])


def _apart(endpoints: Mapping[str, Mapping[str, Outcome]], known: Mapping[str, Known]) -> dict[str, str]:
    """Why rows are not judged by the pool alone, with the endpoints where that is so."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for endpoint, outcomes in endpoints.items():
        y, names, of = _stacked(outcomes), list(outcomes), known[endpoint]
        if not y.shape[1]:
            continue
        why = {name: "collapsed" for name, fell in zip(names, collapsed_rows(y), strict=True) if fell}
        why |= {names[row]: f"nearly the same as {names[like]}" for row, like in alike_rows(y).items()}
        for name in names:
            if not of.kept[name] or of.own[name] is not None:
                reason = why.get(name, "more variable over seeds than the other rows")
                reasons.setdefault(name, {}).setdefault(reason, []).append(endpoint)
    return {
        name: "; ".join(f"{why} ({', '.join(places)})" for why, places in of_name.items())
        for name, of_name in reasons.items()
    }


def compared_with(
    endpoint: str, outcomes: Mapping[str, Outcome], method: str, against: str, known: Known
) -> Comparison:
    """One row against the compared one, over the seeds that both have, with what the rows know together."""
    ours, theirs = outcomes[method], outcomes[against]
    common = [seed for seed in ours.seeds if seed in theirs.seeds]
    estimate = known.difference(method, against, ours.at(common), theirs.at(common))
    pooled = known.kept[method] and known.own[method] is None and known.joined[against]
    return Comparison(method, endpoint, estimate, pooled and known.spread is not None)


def correlations(
    endpoints: Mapping[str, Mapping[str, Outcome]], known: Mapping[str, Known]
) -> dict[tuple[str, str], float]:
    """Correlation of one row's means at every two endpoints, over the rows that are pooled at both."""
    names = sorted(endpoints)
    found = {}
    for place, other in enumerate(names):
        for one in names[:place]:
            both = [m for m in endpoints[one] if all(m in endpoints[e] and known[e].kept[m] for e in (one, other))]
            if len(both) < 2:
                continue
            pair = [_stacked({method: endpoints[name][method] for method in both}) for name in (one, other)]
            same = AREA not in (one, other)  # the curve has tasks of its own
            found[one, other] = judging.endpoint_correlation(pair[0], pair[1], same)
    return found


def _detectable(pool: Spread, level: float) -> float | None:
    if pool.rows < POOL_AT_LEAST or pool.seeds < judging.LEAST_SEEDS:
        return None
    effect = detectable(pool, level)
    return effect if effect > 0 else None


def _judgement(
    comparison: Comparison, standing: Standing, family: judging.Family, margin: float, effect: float | None
) -> Judgement:
    versus = comparison.estimate
    if standing == "exploratory":
        return Judgement(versus)
    if versus.seeds < judging.LEAST_SEEDS:
        return Judgement(versus)
    p = stats.p_value(versus)
    if standing != "tested":
        return Judgement(versus, p=p, detectable=effect)
    adjusted = family.adjusted(p)
    joint = judging.at_level(versus, family.level())
    word = judging.verdict(versus, adjusted, family.one_sided_level(), margin)
    return Judgement(versus, joint, p, adjusted, word, effect)


def _shares(
    endpoints: Mapping[str, Mapping[str, Outcome]],
    known: Mapping[str, Known],
    standings: Mapping[str, Standing],
    against: str,
    oracle: str,
    headroom: Mapping[str, bool],
) -> dict[tuple[str, str], Any]:
    """Credit shares where there is headroom, of every row but controls, over the seeds that all three have."""
    found = {}
    for endpoint, of in endpoints.items():
        if not headroom.get(endpoint):
            continue
        here = known[endpoint]
        for method in of:
            if method == against or standings[method] in ("upper", "lower"):
                continue
            common = sorted(set(of[method].seeds) & set(of[against].seeds) & set(of[oracle].seeds))
            if len(common) < 2:
                continue
            base = of[against].at(common)
            y, best = of[method].at(common), of[oracle].at(common)
            estimates = [here.difference(name, against, table, base) for name, table in ((method, y), (oracle, best))]
            joined = here.joined[method] and here.joined[oracle] and here.joined[against]
            both = judging.covariance(y - base, best - base, here.spread if joined else None, here.own[against])
            found[endpoint, method] = judging.ratio_interval(estimates[0], estimates[1], both)
    return found
