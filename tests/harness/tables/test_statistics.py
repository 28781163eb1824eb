"""Statistics: hand numbers, a looped second implementation, scipy's own functions, and coverage by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.core.errors import UserError
from harness.tables import statistics as stats

TABLES = npst.arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(2, 6)),
    elements=st.floats(0, 1, allow_subnormal=False).map(lambda value: round(value, 6)),
)
TWO_TABLES = st.tuples(st.integers(2, 4), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(*[npst.arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))] * 2)
)


# ---------------------------------------------------------------- the interval


def test_hand_numbers() -> None:
    """y = [[1, 0, .5], [.5, 0, 0]]: mean 2/6 = 1/3; seed means 1/2, 1/6; task means 3/4, 0, 1/4.

    MS_S = 3 ((1/6)^2 + (1/6)^2) / 1 = 1/6
    MS_T = 2 ((5/12)^2 + (1/3)^2 + (1/12)^2) / 2 = 25/144 + 16/144 + 1/144 = 42/144 = 7/24
    residuals y - seed - task + mean: first seed 1 - 1/2 - 3/4 + 1/3 = 1/12, 0 - 1/2 - 0 + 1/3 = -1/6 and
    1/2 - 1/2 - 1/4 + 1/3 = 1/12, the second seed's are their negatives; MS_E = 2 (1/144 + 4/144 + 1/144) / 2 = 1/24
    Var = (1/6 + 7/24 - 1/24) / 6 = (10/24) / 6 = 5/72
    df = (10/24)^2 / ((4/24)^2 / 1 + (7/24)^2 / 2 + (1/24)^2 / 2) = 100 / (16 + 24.5 + 0.5) = 100/41
    """
    y = np.array([[1, 0, 0.5], [0.5, 0, 0]])
    assert stats.mean_squares(y) == pytest.approx((1 / 6, 7 / 24, 1 / 24), rel=1e-12)
    assert stats.variance_of_mean(y) == pytest.approx((5 / 72, 100 / 41), rel=1e-12)
    estimate = stats.mean_interval(y, bounds=None)
    half = scipy.stats.t.ppf(0.975, 100 / 41) * math.sqrt(5 / 72)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((1 / 3, 1 / 3 - half, 1 / 3 + half), rel=1e-12)
    clipped = stats.mean_interval(y)
    assert (clipped.low, clipped.high) == (0.0, 1.0)  # half is 0.96: a table of six cells knows nothing
    assert estimate.over == "seeds and tasks"


def looped(y: np.ndarray) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom, with loops and sums alone."""
    seeds, tasks = y.shape
    mean = sum(y[s, t] for s in range(seeds) for t in range(tasks)) / (seeds * tasks)
    row = [sum(y[s, t] for t in range(tasks)) / tasks for s in range(seeds)]
    column = [sum(y[s, t] for s in range(seeds)) / seeds for t in range(tasks)]
    ms_s = tasks * sum((r - mean) ** 2 for r in row) / (seeds - 1)
    ms_t = seeds * sum((c - mean) ** 2 for c in column) / (tasks - 1)
    ms_e = sum((y[s, t] - row[s] - column[t] + mean) ** 2 for s in range(seeds) for t in range(tasks))
    ms_e /= (seeds - 1) * (tasks - 1)
    by_seed, by_task = (ms_s - ms_e) / tasks, (ms_t - ms_e) / seeds
    total = ms_e + tasks * max(by_seed, 0) + seeds * max(by_task, 0)
    below = ms_s**2 / (seeds - 1) + ms_t**2 / (tasks - 1) + ms_e**2 / ((seeds - 1) * (tasks - 1))
    return total / (seeds * tasks), total**2 / below


@given(y=TABLES.filter(lambda y: np.ptp(y) > 0.01))
def test_a_looped_second_implementation_agrees(y: np.ndarray) -> None:
    assert stats.variance_of_mean(y) == pytest.approx(looped(y), rel=1e-12)


@given(y=TABLES, data=st.data())
def test_the_order_of_seeds_and_of_tasks_is_nothing(y: np.ndarray, data: st.DataObject) -> None:
    shuffled = y[data.draw(st.permutations(range(len(y))))][:, data.draw(st.permutations(range(y.shape[1])))]
    one, other = stats.mean_interval(y), stats.mean_interval(shuffled)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), abs=1e-9)


@given(y=TABLES)
def test_seeds_and_tasks_are_alike_to_the_variance(y: np.ndarray) -> None:
    assert stats.variance_of_mean(y)[0] == pytest.approx(stats.variance_of_mean(y.T)[0], rel=1e-9, abs=1e-15)


@given(y=TABLES)
def test_an_interval_holds_its_mean_stays_in_its_bounds_and_is_never_a_point(y: np.ndarray) -> None:
    estimate = stats.mean_interval(y)
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    assert estimate.high - estimate.low >= 1 - 0.05 ** (1 / y.shape[1]) - 1e-12


@given(y=TABLES.filter(lambda y: np.ptp(y) > 0.01))
def test_the_variance_is_at_least_what_either_factor_alone_shows(y: np.ndarray) -> None:
    seeds, tasks = y.shape
    variance, df = stats.variance_of_mean(y)
    alone = max(y.mean(axis=1).var(ddof=1) / seeds, y.mean(axis=0).var(ddof=1) / tasks)
    assert variance >= alone - 1e-12
    assert df >= min(seeds - 1, tasks - 1) / 3 - 1e-9  # three mean squares, none above the sum


@pytest.mark.parametrize("axis", [0, 1])
def test_one_seed_or_one_task_is_the_ordinary_t_interval(axis: int) -> None:
    values = np.random.default_rng(0).random(20)
    estimate = stats.mean_interval(np.expand_dims(values, axis), bounds=None)
    theirs = scipy.stats.ttest_1samp(values, 0.5).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert estimate.df == 19
    assert estimate.over == ("tasks (one seed)" if axis == 0 else "seeds (one task)")


def test_seeds_that_do_not_differ_leave_the_tasks_interval() -> None:
    """MS_S = MS_E = 0, so Var = MS_T / (S T) = S var(task) / (S T) = var(task) / T, with T - 1 degrees of freedom."""
    values = np.random.default_rng(1).random(30)
    estimate = stats.mean_interval(np.tile(values, (3, 1)), bounds=None)
    theirs = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_where_nothing_varies_the_number_of_tasks_speaks() -> None:
    """All 100 tasks solved: an unsolvable kind may make up 1 - 0.05^(1/100) = 2.95 % of tasks (rule of three: 3 %)."""
    solved = stats.mean_interval(np.ones((3, 100)))
    assert (solved.mean, solved.high) == (1.0, 1.0)
    assert solved.low == pytest.approx(0.05**0.01, rel=1e-12)
    assert 1 - solved.low == pytest.approx(3 / 100, rel=0.02)
    failed = stats.mean_interval(np.zeros((1, 100)))
    assert (failed.low, failed.high) == pytest.approx((0.0, 1 - 0.05**0.01), rel=1e-12)
    # Half of the samples of every task: an unseen kind may pull to either side.
    half = stats.mean_interval(np.full((3, 10), 0.5))
    unseen = 1 - 0.05**0.1
    assert (half.low, half.high) == pytest.approx((0.5 - 0.5 * unseen, 0.5 + 0.5 * unseen), rel=1e-12)
    # One failure does not narrow it: the rule of three is a floor.
    nearly = np.ones((3, 100))
    nearly[0, 0] = 0
    assert stats.mean_interval(nearly).low < solved.low
    unbounded = stats.mean_interval(np.full((3, 10), 7.0), bounds=None)
    assert (unbounded.low, unbounded.high) == (-math.inf, math.inf)
    single = stats.mean_interval(np.array([[0.25]]))
    assert single.over == "nothing (one seed, one task)"
    assert single.high - single.low == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (np.array([[1.0, np.nan], [0.0, np.nan]]), r"2 of 4 cells are missing, first \[seed 0, task 1\]"),
        (np.zeros((0, 3)), r"got shape \(0, 3\)"),
    ],
)
def test_incomplete_tables_are_refused(outcomes: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stats.mean_interval(outcomes)


# ---------------------------------------------------------------- coverage


def coverage(seeds: int, tasks: int, by_seed: float, by_task: float, noise: float, sets: int = 2000) -> float:
    """Share of simulated crossed data sets whose interval holds the true mean 0."""
    rng = np.random.default_rng(17)
    hits = 0
    for _ in range(sets):
        y = by_seed * rng.standard_normal((seeds, 1)) + by_task * rng.standard_normal((1, tasks))
        estimate = stats.mean_interval(y + noise * rng.standard_normal((seeds, tasks)), bounds=None)
        hits += estimate.low <= 0 <= estimate.high
    return hits / sets


@pytest.mark.parametrize(
    ("seeds", "tasks", "by_seed", "by_task", "noise", "least", "most"),
    [
        # 2,000 sets: the standard error of a coverage of 95 % is 0.5 %.
        (5, 100, 0.03, 0.4, 0.3, 0.93, 0.97),  # tasks dominate, as they do in practice
        (5, 40, 0.3, 0.1, 0.1, 0.93, 0.97),  # seeds dominate
        (8, 60, 0.1, 0.4, 0.3, 0.93, 0.97),
        (3, 100, 0.03, 0.4, 0.3, 0.93, 0.97),
        (3, 100, 0.1, 0.4, 0.3, 0.92, 0.97),  # three seeds that matter as much as a hundred tasks: the hardest case
        (3, 100, 0.3, 0.1, 0.1, 0.93, 0.97),
        (3, 100, 0.0, 0.0, 0.4, 0.95, 1.0),  # noise alone: too wide, never too narrow
    ],
)
def test_coverage_of_normal_effects(
    seeds: int, tasks: int, by_seed: float, by_task: float, noise: float, least: float, most: float
) -> None:
    assert least <= coverage(seeds, tasks, by_seed, by_task, noise) <= most


def test_coverage_of_success_rates() -> None:
    """3 seeds of random skill, 100 tasks of random difficulty, 4 samples a cell."""
    rng = np.random.default_rng(5)
    # mean over tasks of the logistic of a normal, by quadrature over the two normal effects together
    spread = math.hypot(2.0, 0.15)
    truth = scipy.integrate.quad(lambda z: scipy.special.expit(0.8 + spread * z) * scipy.stats.norm.pdf(z), -9, 9)[0]
    hits = 0
    for _ in range(1000):
        logit = 0.8 + 2.0 * rng.standard_normal((1, 100)) + 0.15 * rng.standard_normal((3, 1))
        estimate = stats.mean_interval(rng.binomial(4, scipy.special.expit(logit)) / 4)
        hits += estimate.low <= truth <= estimate.high
    assert 0.925 <= hits / 1000 <= 0.98  # standard error 0.7 %


# ---------------------------------------------------------------- differences


@given(tables=TWO_TABLES)
def test_a_difference_is_the_mean_of_the_differences_and_turns_with_its_sides(
    tables: tuple[np.ndarray, np.ndarray],
) -> None:
    ours, theirs = tables
    forth, back = stats.paired_difference(ours, theirs), stats.paired_difference(theirs, ours)
    assert forth.mean == pytest.approx(ours.mean() - theirs.mean(), abs=1e-12)
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low), abs=1e-12)
    assert forth.low <= forth.mean <= forth.high
    assert stats.p_value(forth) == pytest.approx(stats.p_value(back), abs=1e-12)


@given(tables=TWO_TABLES)
def test_p_is_below_five_percent_where_the_interval_excludes_zero(tables: tuple[np.ndarray, np.ndarray]) -> None:
    difference = stats.paired_difference(*tables)
    if not math.isnan(difference.error):
        # The floor may widen an interval up to 0, never across it.
        assert (stats.p_value(difference) < 0.05) == (difference.low >= 0 or difference.high <= 0)


def test_one_seed_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.random((1, 40)) + 0.1, rng.random((1, 40))
    difference = stats.paired_difference(ours, theirs)
    test = scipy.stats.ttest_rel(ours[0], theirs[0])
    assert stats.p_value(difference) == pytest.approx(test.pvalue, rel=1e-10)
    interval = test.confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_pairing_takes_out_what_tasks_share() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.random((1, 200))
    ours, theirs = difficulty + 0.05 + 0.02 * rng.random((3, 200)), difficulty + 0.02 * rng.random((3, 200))
    paired = stats.paired_difference(ours, theirs)
    assert paired.low > 0.03  # the error is 0.0003: what 200 tasks can show sets the width
    assert stats.mean_interval(ours, None).low < stats.mean_interval(theirs, None).high  # unpaired they overlap


def test_alike_policies_are_not_said_to_be_equal() -> None:
    alike = stats.paired_difference(np.full((3, 50), 0.3) + 0.1, np.full((3, 50), 0.4))  # 0.3 + 0.1 rounds
    unseen = 1 - 0.05 ** (1 / 50)
    assert (alike.low, alike.high) == pytest.approx((-unseen, unseen), abs=1e-12)
    always = stats.paired_difference(np.ones((3, 50)), np.zeros((3, 50)))
    assert (always.low, always.high) == pytest.approx((1 - 2 * unseen, 1.0))
    assert stats.p_value(always) == pytest.approx(2 * 0.5**50)
    assert stats.p_value(stats.paired_difference(np.ones((2, 3)), np.ones((2, 3)))) == 1.0


def test_a_start_of_one_seed_stands_against_every_seed() -> None:
    rng = np.random.default_rng(4)
    ours, start = rng.random((3, 20)), rng.random((1, 20))
    assert stats.paired_difference(ours, start) == stats.paired_difference(ours, np.repeat(start, 3, axis=0))
    with pytest.raises(UserError, match=r"tables of \(3, 20\) and \(2, 20\)"):
        stats.paired_difference(ours, rng.random((2, 20)))


# ---------------------------------------------------------------- success metrics


@given(outcomes=st.lists(st.booleans(), min_size=1, max_size=8), data=st.data())
def test_pass_at_k_and_pass_hat_k_are_means_over_all_subsets(outcomes: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(outcomes)))
    subsets = list(itertools.combinations(outcomes, k))
    n, c = np.array([len(outcomes)]), np.array([sum(outcomes)])
    assert stats.pass_at_k(n, c, k)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)
    assert stats.pass_hat_k(n, c, k)[0] == pytest.approx(sum(map(all, subsets)) / len(subsets), abs=1e-12)


def test_success_metrics_by_hand() -> None:
    """n = 5, c = 2, k = 3: 1 - C(3,3)/C(5,3) = 9/10; pass^2 = C(2,2)/C(5,2) = 1/10; k = 1 is c / n for both."""
    assert stats.pass_at_k(np.array([5]), np.array([2]), 3)[0] == pytest.approx(0.9)
    assert stats.pass_hat_k(np.array([5]), np.array([2]), 2)[0] == pytest.approx(0.1)
    np.testing.assert_allclose(stats.pass_at_k(np.array([5, 4]), np.array([2, 4]), 1), [0.4, 1.0])
    np.testing.assert_allclose(stats.pass_hat_k(np.array([5, 4]), np.array([2, 4]), 1), [0.4, 1.0])
    big = stats.pass_at_k(np.array([100_000]), np.array([10]), 50_000)[0]
    assert big == pytest.approx(1 - 0.5**10, rel=1e-3)  # drawing half of them misses all ten about 2^-10 of the time
    success = np.array([[1, 0, 1, 1], [0, 0, 0, 1]])
    np.testing.assert_allclose(stats.avg_at_k(success, 2), [0.5, 0.0])
    assert stats.tgc(np.array([True, False, True, True])) == 0.75


@pytest.mark.parametrize("bad", [(3, 1, 4), (3, 4, 2), (3, -1, 2), (3, 1, 0)])
def test_impossible_counts_are_refused(bad: tuple[int, int, int]) -> None:
    n, c, k = bad
    with pytest.raises(UserError, match=f"got k = {k}"):
        stats.pass_at_k(np.array([n]), np.array([c]), k)
    with pytest.raises(UserError, match=r"avg@k needs 1 <= k <= samples, got k = 5 and 2"):
        stats.avg_at_k(np.zeros((1, 2)), 5)


def test_majority_by_hand() -> None:
    answers, correct = ["7", "7", "3", "5"], [True, True, False, False]
    assert stats.maj_at_k(answers, correct, 4) == 1.0
    assert stats.maj_at_k(answers, correct, 2) == 0.5  # {7, 7} right, {3, 5} wrong, four ties of 7 with another
    assert stats.maj_at_k(answers, correct, 1) == 0.5  # the success rate
    assert stats.maj_at_k(["7", "3"], [True, False], 2) == 0.5  # a tie, by lot
    assert stats.maj_at_k(["3", "3", None, None, None, "7"], [False] * 5 + [True], 6) == 0.0
    assert stats.maj_at_k([None, None], [False, False], 2) == 0.0
    with pytest.raises(UserError, match="'7' is judged right once and wrong once"):
        stats.maj_at_k(["7", "7"], [True, False], 2)
    with pytest.raises(UserError, match="got k = 3, 2 answers"):
        stats.maj_at_k(["7", "7"], [True, True], 3)


def test_majority_over_all_subsets_by_hand() -> None:
    """7, 7, 3 and k = 2: {7, 7} is right, {7, 3} twice a tie: (1 + 1/2 + 1/2) / 3 = 2/3.

    7, 3, 3, none and k = 3: {7, 3, 3} wrong, {7, 3, none} twice a tie, {3, 3, none} wrong: (1/2 + 1/2) / 4 = 1/4.
    """
    assert stats.maj_at_k(["7", "7", "3"], [True, True, False], 2) == pytest.approx(2 / 3, abs=1e-15)
    assert stats.maj_at_k(["7", "3", "3", None], [True, False, False, False], 3) == 0.25
    assert stats.maj_at_k([None, None], [True, False], 2) == 0.5  # nobody votes: their mean success
    assert stats.maj_at_k([None, "3"], [True, False], 2) == 0.0  # one votes


@given(
    samples=st.lists(st.sampled_from(["right", "also right", "a", "b", None]), min_size=1, max_size=7), data=st.data()
)
def test_majority_is_the_mean_over_all_subsets(samples: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(samples)))
    correct = [data.draw(st.booleans()) if answer is None else "right" in answer for answer in samples]
    scores = []
    for places in itertools.combinations(range(len(samples)), k):
        votes = [samples[place] for place in places if samples[place] is not None]
        if votes:
            best = {answer for answer in votes if votes.count(answer) == max(map(votes.count, votes))}
            scores.append(sum("right" in str(answer) for answer in best) / len(best))
        else:
            scores.append(sum(correct[place] for place in places) / k)
    assert stats.maj_at_k(samples, correct, k) == pytest.approx(sum(scores) / len(scores), abs=1e-12)


def test_a_majority_of_many_samples_is_exact() -> None:
    """64 samples and k = 33, C(64, 33) = 1.8e18 subsets: of two answers given 32 times each, either wins as often."""
    half = stats.maj_at_k(["7"] * 32 + ["3"] * 32, [True] * 32 + [False] * 32, 33)
    assert half == pytest.approx(0.5, abs=1e-15)


def test_sgc_by_hand() -> None:
    tasks = ["a_b_1", "c_1", "a_b_2", "c_2", "a_b_3", "c_3"]
    success = np.array([[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(stats.sgc(success, tasks), [[True, False], [False, True]])
    with pytest.raises(UserError, match="single attempts"):
        stats.sgc(success * 0.5, tasks)
    np.testing.assert_array_equal(stats.scenario_rate(success, tasks), [[1.0, 0.0], [0.0, 1.0]])


def test_the_scenario_rate_is_the_expected_sgc_of_single_attempts() -> None:
    """Every way to draw one attempt per variant out of those made, averaged: by enumeration."""
    attempts = np.array([[1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]])  # variant, attempt
    drawn = [attempts[0, a] * attempts[1, b] * attempts[2, c] for a in range(4) for b in range(4) for c in range(4)]
    rate = stats.scenario_rate(attempts.mean(axis=1), ["s_1", "s_2", "s_3"])
    np.testing.assert_allclose(rate, [np.mean(drawn)], rtol=1e-12)
