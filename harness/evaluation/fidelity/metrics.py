"""How well a credit agrees with the truth: signs, ranks, mass, each with a bootstrap interval clustered by task.

    sign   share of the certain tokens (|truth| > 2 standard errors) whose credit has the truth's sign; a credit of 0
    counts half rank   Spearman's correlation of credit and truth over all tokens
    within the same inside each episode, mean over the episodes in which the truth varies; a constant credit ranks
    nothing and counts 0 mass   share of the sum of |credit| that lies on the tenth of the tokens with the greatest
    |truth|; 0.1 for a uniform credit

A figure is NaN where there is nothing to measure: no certain token, no episode whose truth varies, no credit at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import stats

from harness.core.seeds import SeedTree

CERTAIN = 2.0
"""Standard errors beyond which a truth has a sign."""
CONSEQUENTIAL = 0.1
"""Share of the tokens that count as most consequential."""
NEGLIGIBLE = 1e-6
"""|credit| up to here is 0: two forward passes in float32 differ by as much, and a sign of rounding is no opinion."""
RESAMPLES = 1000
LEVEL = 0.95
METRICS = ("sign", "rank", "within", "mass")

Credits = Float[np.ndarray, "credit token"]
Truths = Float[np.ndarray, " token"]
Places = Int[np.ndarray, " _"]
Figures = Float[np.ndarray, " credit"]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The sampled tokens of all episodes: whose they are and what they were truly worth."""

    task: Int[np.ndarray, " token"]
    episode: Int[np.ndarray, " token"]
    """Number of the episode, counted through all tasks."""
    truth: Truths
    error: Truths

    @property
    def certain(self) -> Bool[np.ndarray, " token"]:
        """bool[token]: the truth lies beyond two of its standard errors."""
        return np.asarray(np.abs(self.truth) > CERTAIN * self.error)


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval over tasks."""

    value: float
    low: float
    high: float


def clear(credits: Credits) -> Credits:
    """The credits, with 0 for what is negligible."""
    return np.where(np.abs(credits) > NEGLIGIBLE, credits, 0.0)


def sign_agreement(credits: Credits, tokens: Tokens) -> Credits:
    """1, 1/2 or 0 for every certain token, NaN for the others."""
    return np.where(tokens.certain, (np.sign(credits) * np.sign(tokens.truth) + 1) / 2, np.nan)


def rank_correlation(credits: Credits, truth: Truths) -> Figures:
    """Spearman's rho of every credit with the truth, ties given their mean rank; 0 where credit or truth is
    constant."""
    ranks = stats.rankdata(np.vstack([truth, credits]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    sizes = np.sqrt((ranks**2).sum(axis=1))
    products = ranks[1:] @ ranks[0]
    return _ratio(products, sizes[1:] * sizes[0], where_none=0.0)


def within_episodes(credits: Credits, tokens: Tokens) -> Float[np.ndarray, "credit episode"]:
    """The rank correlation inside every episode, in order of their numbers; NaN where the truth does not vary."""
    out = np.full((len(credits), int(tokens.episode.max(initial=-1)) + 1), np.nan)
    for number in np.unique(tokens.episode).tolist():
        places = np.flatnonzero(tokens.episode == number)
        if np.ptp(tokens.truth[places]) > 0:
            out[:, number] = rank_correlation(credits[:, places], tokens.truth[places])
    return out


def mass_on_consequential(credits: Credits, truth: Truths) -> Figures:
    """Share of |credit| on the tenth (rounded up) of the tokens with the greatest |truth|; tokens tied at its border
    share alike."""
    size, mass = np.abs(truth), np.abs(credits)
    wanted = math.ceil(CONSEQUENTIAL * len(size))
    border = np.partition(size, len(size) - wanted)[len(size) - wanted]
    above, tied = size > border, size == border
    weight = above + tied * ((wanted - above.sum()) / tied.sum())
    return _ratio(mass @ weight, mass.sum(axis=1), where_none=math.nan)


def judge(credits: Credits, tokens: Tokens, seeds: SeedTree) -> list[dict[str, Figure]]:
    """The four metrics of every credit, all under the same resampled tasks (percentile bootstrap, clustered by
    task)."""
    credits = clear(credits)
    measure = _measure(credits, tokens)
    clusters = [np.flatnonzero(tokens.task == task) for task in np.unique(tokens.task)]
    episodes = [np.unique(tokens.episode[places]) for places in clusters]
    whole = measure(np.arange(len(tokens.task)), np.unique(tokens.episode))
    rng = seeds["bootstrap"].rng()
    drawn = np.empty((RESAMPLES, len(METRICS), len(credits)))
    for sample in drawn:
        chosen = rng.integers(len(clusters), size=len(clusters))
        sample[:] = measure(
            np.concatenate([clusters[n] for n in chosen]), np.concatenate([episodes[n] for n in chosen])
        )
    return [
        {name: Figure(float(whole[m, c]), *_interval(drawn[:, m, c])) for m, name in enumerate(METRICS)}
        for c in range(len(credits))
    ]


def _measure(credits: Credits, tokens: Tokens) -> Callable[[Places, Places], Float[np.ndarray, "metric credit"]]:
    """The metrics, in the order of METRICS, as a function of the places of tokens and the numbers of episodes."""
    signs, inside = sign_agreement(credits, tokens), within_episodes(credits, tokens)

    def measure(places: Places, episodes: Places) -> Float[np.ndarray, "metric credit"]:
        here, truth = credits[:, places], tokens.truth[places]
        return np.stack(
            [
                _mean(signs[:, places]),
                rank_correlation(here, truth),
                _mean(inside[:, episodes]),
                mass_on_consequential(here, truth),
            ]
        )

    return measure


def _mean(values: Float[np.ndarray, "credit _"]) -> Figures:
    """Mean of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1), where_none=math.nan)


def _ratio(above: Figures, below: Shaped[np.ndarray, " credit"], where_none: float) -> Figures:
    """above / below, and `where_none` where below is 0."""
    out: Figures = np.full(len(below), where_none)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _interval(samples: Float[np.ndarray, " _"]) -> tuple[float, float]:
    known = samples[~np.isnan(samples)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
