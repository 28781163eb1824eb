"""The four metrics: by hand, against scipy, and what must hold for every credit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from harness.core.seeds import SeedTree
from harness.evaluation.fidelity.metrics import (
    NEGLIGIBLE,
    Figure,
    Tokens,
    clear,
    judge,
    mass_on_consequential,
    rank_correlation,
    sign_agreement,
    within_episodes,
)

NUMBERS = st.floats(-3, 3, allow_nan=False).map(lambda value: round(value, 2))
SEEDS = SeedTree(0)


def tokens_of(truth: np.ndarray, error: float = 0.1, tasks: int = 4) -> Tokens:
    """Two episodes a task, tokens dealt out in order."""
    episode = np.arange(len(truth)) * (2 * tasks) // len(truth)
    return Tokens(episode // 2, episode, truth, np.full(len(truth), error))


def test_signs_by_hand() -> None:
    # two standard errors are 0.2: the third token is not certain (0.2 is not beyond), the fourth credit is 0
    tokens = tokens_of(np.array([0.5, -0.5, 0.2, 0.9]))
    agrees = sign_agreement(np.array([[0.1, 0.1, 5.0, 0.0], [-1.0, -1.0, -1.0, -1.0]]), tokens)
    np.testing.assert_array_equal(agrees, [[1, 0, np.nan, 0.5], [0, 1, np.nan, 0]])


def test_negligible_is_zero() -> None:
    np.testing.assert_array_equal(
        clear(np.array([[NEGLIGIBLE, -NEGLIGIBLE, 2 * NEGLIGIBLE]])), [[0, 0, 2 * NEGLIGIBLE]]
    )


@given(arrays(np.float64, (3, 20), elements=NUMBERS), arrays(np.float64, 20, elements=NUMBERS))
def test_ranks_are_spearmans(credits: np.ndarray, truth: np.ndarray) -> None:
    for credit, rho in zip(credits, rank_correlation(credits, truth), strict=True):
        if np.ptp(credit) == 0 or np.ptp(truth) == 0:
            assert rho == 0
        else:
            assert rho == pytest.approx(float(spearmanr(credit, truth).statistic), abs=1e-12)


def test_within_episodes_by_hand() -> None:
    # episode 0: the same order; 1: the reverse; 2: the truth does not vary; 3: the credit does not
    truth = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3])
    credit = np.array([[1.0, 2.0, 9.0, 3.0, 2.0, 1.0, 1.0, 2.0, 3.0, 7.0, 7.0, 7.0]])
    tokens = tokens_of(truth, tasks=2)
    assert tokens.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    np.testing.assert_allclose(within_episodes(credit, tokens), [[1, -1, np.nan, 0]], atol=1e-12)


def test_mass_by_hand() -> None:
    # a tenth of 15 tokens, rounded up, is 2: the 0.9, and one of the three 0.5s, which share that place: (4 + (1 + 2
    # + 3) / 3) / 20
    truth = np.array([-0.9, 0.5, -0.5, 0.5, *[0.1] * 11])
    credit = np.array([[4.0, -1.0, 2.0, 3.0, 10.0, *[0.0] * 10], [0.0] * 15])
    found = mass_on_consequential(credit, truth)
    assert found[0] == pytest.approx(6 / 20)
    assert math.isnan(found[1])


@given(arrays(np.float64, 40, elements=NUMBERS))
def test_a_uniform_credit_has_a_tenth_of_its_mass_there(truth: np.ndarray) -> None:
    assert mass_on_consequential(np.full((1, 40), -2.5), truth)[0] == pytest.approx(0.1)


@settings(deadline=None)
@given(arrays(np.float64, 40, elements=NUMBERS), arrays(np.float64, 40, elements=NUMBERS), st.floats(0.5, 10))
def test_turning_and_scaling_a_credit(credit: np.ndarray, truth: np.ndarray, scale: float) -> None:
    tokens = tokens_of(truth)
    credits = clear(np.stack([credit, -credit, scale * credit]))
    signs, inside = sign_agreement(credits, tokens), within_episodes(credits, tokens)
    np.testing.assert_allclose(signs[0] + signs[1], np.where(tokens.certain, 1.0, np.nan))
    np.testing.assert_array_equal(signs[0], signs[2])
    np.testing.assert_allclose(inside[0], -inside[1], atol=1e-12)
    ranks, mass = rank_correlation(credits, truth), mass_on_consequential(credits, truth)
    np.testing.assert_allclose(ranks, [ranks[0], -ranks[0], ranks[0]], atol=1e-12)
    np.testing.assert_allclose(mass, mass[0], rtol=1e-12)


def example() -> tuple[np.ndarray, Tokens]:
    """Truth, its negative, noise, and a constant, over 30 tasks."""
    rng = np.random.default_rng(5)
    truth = rng.normal(size=1200)
    return np.stack([truth, -truth, rng.normal(size=1200), np.ones(1200)]), tokens_of(truth, tasks=30)


def test_judge_knows_the_truth_and_knows_nothing_of_noise() -> None:
    credits, tokens = example()
    same, opposite, noise, constant = judge(credits, tokens, SEEDS)
    for name in ("sign", "rank", "within"):
        assert (same[name].value, same[name].low, same[name].high) == pytest.approx((1, 1, 1))
    assert opposite["sign"].value == 0
    assert opposite["rank"].value == pytest.approx(-1)
    for name, chance in (("sign", 0.5), ("rank", 0.0), ("within", 0.0), ("mass", 0.1)):
        assert noise[name].low < chance < noise[name].high
    assert constant["rank"] == constant["within"] == Figure(0.0, 0.0, 0.0)
    assert constant["mass"].value == pytest.approx(0.1)
    # the figures are the whole's, the bounds those of resampled tasks; under one seed always the same
    assert noise["rank"].value == pytest.approx(float(spearmanr(credits[2], tokens.truth).statistic))
    assert judge(credits, tokens, SEEDS) == [same, opposite, noise, constant]
    assert judge(credits, tokens, SEEDS["other"])[2]["rank"] != noise["rank"]


def test_the_interval_is_over_tasks_not_tokens() -> None:
    """200 equal tokens a task say as much as one: sign accuracy over 10 tasks, 6 of them right, is a share of 10
    coins."""
    right = np.repeat([1.0] * 6 + [-1.0] * 4, 200)
    tokens = tokens_of(np.ones(2000), tasks=10)
    figure = judge(right[None], tokens, SEEDS)[0]["sign"]
    assert figure.value == pytest.approx(0.6)
    # binomial(10, 0.6) / 10 has its 2.5 % and 97.5 % points at 0.3 and 0.9
    assert (figure.low, figure.high) == pytest.approx((0.3, 0.9))


def test_nothing_to_measure_is_nan() -> None:
    tokens = tokens_of(np.zeros(80))
    figures = judge(np.zeros((1, 80)), tokens, SEEDS)[0]
    assert all(math.isnan(figures[name].value) and math.isnan(figures[name].low) for name in ("sign", "within", "mass"))
