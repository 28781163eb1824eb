"""How well a credit agrees with the truth: signs, ranks, mass, each with a bootstrap interval clustered by task.

    sign   share of the certain tokens (|truth| > 2 standard errors) whose credit has the truth's sign; a credit of 0 counts half
    rank   Spearman's correlation of credit and truth over all tokens
    within the same inside each episode, mean over the episodes in which the truth varies; a constant credit ranks nothing and counts 0
    mass   share of the sum of |credit| that lies on the tenth of the tokens with the greatest |truth|; 0.1 for a uniform credit
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from harness.seeds import SeedTree

CERTAIN = 2.0
"""Standard errors beyond which a truth has a sign."""
CONSEQUENTIAL = 0.1
"""Share of the tokens that count as most consequential."""
NEGLIGIBLE = 1e-6
"""|credit| up to here is 0: two forward passes in float32 differ by as much, and a sign of rounding is no opinion."""
RESAMPLES = 1000
LEVEL = 0.95
METRICS = ("sign", "rank", "within", "mass")

Values = Float[np.ndarray, " token"]
Where = Int[np.ndarray, " token"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The sampled tokens of all episodes, in order: whose they are and what they were truly worth."""

    task: Where
    episode: Where
    """Number of the episode, counted through all tasks."""
    truth: Values
    error: Values

    @property
    def certain(self) -> Bool[np.ndarray, " token"]:
        return np.abs(self.truth) > CERTAIN * self.error


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval over tasks; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float


def sign_accuracy(credit: Values, tokens: Tokens) -> Values:
    """1, 1/2 or 0 for every certain token, NaN for the others."""
    agrees = (np.sign(_cleared(credit)) * np.sign(tokens.truth) + 1) / 2
    return np.where(tokens.certain, agrees, np.nan)


def rank_correlation(one: Values, other: Values) -> float:
    """Spearman's rho, ties given their mean rank; 0 where one of them is constant."""
    return _pearson(stats.rankdata(one), stats.rankdata(other))


def within_episodes(credit: Values, tokens: Tokens) -> Values:
    """The rank correlation inside every episode, in order of the episodes; NaN where the truth does not vary."""
    cleared = _cleared(credit)
    out = np.full(int(tokens.episode.max(initial=-1)) + 1, np.nan)
    for number in range(len(out)):
        places = np.flatnonzero(tokens.episode == number)
        if len(places) and np.ptp(tokens.truth[places]) > 0:
            out[number] = rank_correlation(cleared[places], tokens.truth[places])
    return out


def mass_on_consequential(credit: Values, truth: Values) -> float:
    """Share of |credit| on the tenth (rounded up) of tokens with the greatest |truth|; tokens tied at its border share alike. NaN without credit."""
    size, mass = np.abs(truth), np.abs(_cleared(credit))
    total = float(mass.sum())
    if total == 0:
        return math.nan
    wanted = math.ceil(CONSEQUENTIAL * len(size))
    border = np.partition(size, len(size) - wanted)[len(size) - wanted]
    above, tied = size > border, size == border
    share = (wanted - int(above.sum())) / int(tied.sum())
    return float(mass[above].sum() + share * mass[tied].sum()) / total


def judge(credits: Sequence[Values], tokens: Tokens, seeds: SeedTree) -> list[dict[str, Figure]]:
    """The four metrics of every credit, all under the same resampled tasks (percentile bootstrap, clustered by task)."""
    names = np.unique(tokens.task)
    members = [np.flatnonzero(tokens.task == name) for name in names]
    episodes = [np.unique(tokens.episode[places]) for places in members]
    measures = [_measures(credit, tokens) for credit in credits]
    whole = [{name: call(np.arange(len(tokens.task)), np.unique(tokens.episode)) for name, call in each.items()} for each in measures]
    rng = seeds["bootstrap"].rng()
    drawn: list[dict[str, list[float]]] = [{name: [] for name in METRICS} for _ in credits]
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(names), size=len(names))
        places = np.concatenate([members[n] for n in chosen])
        of_episodes = np.concatenate([episodes[n] for n in chosen])
        for each, into in zip(measures, drawn, strict=True):
            for name, call in each.items():
                into[name].append(call(places, of_episodes))
    return [
        {name: Figure(figures[name], *_percentiles(samples[name])) for name in METRICS}
        for figures, samples in zip(whole, drawn, strict=True)
    ]


def _measures(credit: Values, tokens: Tokens) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    """The metrics as functions of the places of tokens and the numbers of episodes."""
    signs, inside, cleared = sign_accuracy(credit, tokens), within_episodes(credit, tokens), _cleared(credit)
    return {
        "sign": lambda places, _: _mean(signs[places]),
        "rank": lambda places, _: rank_correlation(cleared[places], tokens.truth[places]),
        "within": lambda _, episodes: _mean(inside[episodes]),
        "mass": lambda places, _: mass_on_consequential(credit[places], tokens.truth[places]),
    }


def _cleared(credit: Values) -> Values:
    return np.where(np.abs(credit) > NEGLIGIBLE, credit, 0.0)


def _mean(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _pearson(one: Values, other: Values) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size else 0.0


def _percentiles(samples: Sequence[float]) -> tuple[float, float]:
    known = np.array(samples)[~np.isnan(samples)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
