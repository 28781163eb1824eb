"""Small cases worked out by hand; every expected figure is derived in a comment beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_methods import saliency as looped_saliency

from agents.methods.advantages import group_advantages
from agents.methods.controller import Controller
from agents.methods.counterfactual import positions, token_importance
from agents.methods.craft import CRAFT
from agents.methods.divergence import entropy, kl, pair, with_tail
from agents.methods.hsd import HSD, divergence_point, mass_near
from agents.methods.rlsd import RLSD
from agents.methods.segmenter import Segmenter
from harness.types import Ending, Episode, Evidence, RolloutGroup, Scores, TokenSequence, TopK


def episode(turns, reward=0.0, tokens=None, logprobs=None):
    """An episode whose sampled tokens lie in the given turns, after one prompt token."""
    n = len(turns)
    sequence = TokenSequence(
        tokens=np.array([0, *(tokens or range(1, n + 1))]),
        mask=np.array([False] + [True] * n),
        logprobs=np.array([0.0, *(logprobs or [-1.0] * n)]),
        turns=np.array([0, *turns]),
    )
    return Episode("t", sequence, reward, reward > 0.5, Ending.COMPLETED)


def taught(e, gaps):
    return Evidence(teacher=Scores(e.sequence.logprobs + np.array([0.0, *gaps])))


def test_advantages():
    # rewards 1 0 0 0: mean 1/4, squares 9/16 + 3/16 = 12/16, over n - 1 = 3: variance 1/4, std 1/2.
    np.testing.assert_allclose(
        group_advantages(np.array([1.0, 0, 0, 0])), np.array([0.75, -0.25, -0.25, -0.25]) / 0.500001
    )
    # leave one out: 1 - 0 and 0 - 1/3.
    got = group_advantages(np.array([1.0, 0, 0, 0]), std=False, leave_one_out=True)
    np.testing.assert_allclose(got, [1, -1 / 3, -1 / 3, -1 / 3], rtol=1e-15)
    for lonely in ([0.7], [0.3, 0.3, 0.3]):
        assert not group_advantages(np.array(lonely)).any()
    with pytest.raises(ValueError, match="finite"):
        group_advantages(np.array([1.0, np.nan]))


def test_token_importance():
    # Siblings of the first: A = 2 and -1 with gaps ln 3 and 0, so weights 3/4 and 1/4:
    # CTI = 3/4 * 2 + 1/4 * -1 - 1 = 1/4; effective number 1 / (9/16 + 1/16) = 1.6.
    gaps = np.array([[5.0], [math.log(3)], [0.0]])
    importance, effective = token_importance(np.array([1.0, 2.0, -1.0]), gaps, np.ones((3, 1), bool), tau=1.0)
    assert importance[0, 0] == pytest.approx(0.25, abs=1e-15)
    assert effective[0, 0] == pytest.approx(1.6, abs=1e-15)
    # tau = 1/2 squares the ratio: weights 9/10 and 1/10, CTI = 1.8 - 0.1 - 1 = 0.7. tau = inf: 1/2 each, CTI = -1/2.
    for tau, expected in ((0.5, 0.7), (np.inf, -0.5)):
        got, _ = token_importance(np.array([1.0, 2.0, -1.0]), gaps, np.ones((3, 1), bool), tau)
        assert got[0, 0] == pytest.approx(expected, abs=1e-14)
    # Alone at a position: nothing to compare with.
    assert token_importance(np.array([1.0, 2.0]), np.zeros((2, 1)), np.array([[True], [False]]), 1.0)[0][0, 0] == 0


def test_craft_by_hand():
    # Two siblings, rewards 1 and 0: A = +-0.5 / (sqrt(1/2) + 1e-6) = +-a. Both have the first token, the first has a
    # second.
    win, loss = episode([0, 0], 1.0), episode([0], 0.0)
    group = RolloutGroup("t", (win, loss))
    known = (taught(win, [0.3, 0.2]), taught(loss, [-1.0]))
    a = 0.5 / (math.sqrt(0.5) + 1e-6)
    credits, _, log = CRAFT(phase_aware=False, kl=0.0).assign([group], [known], {})
    # One sibling has weight 1: CTI = -a - a = -2a for the success, 2a for the failure; the lone token falls back to A
    # * 0.2.
    expected = [math.tanh(2.5 * -2 * a), math.tanh(2.5 * a * 0.2)]
    np.testing.assert_allclose(credits[0][0].likelihood[1:], 0.01 * np.array(expected), rtol=1e-13)
    np.testing.assert_allclose(credits[0][1].likelihood[1:], [0.01 * math.tanh(2.5 * 2 * a)], rtol=1e-13)
    # Signs: -, + on the success (A > 0), + on the failure (A < 0): one of three agrees. One sibling: effective number
    # 1.
    assert log["sign_agreement"] == pytest.approx(1 / 3)
    assert log["effective_siblings"] == 1.0
    assert log["gate_share"] == 1.0


def test_gaps_are_clamped_before_they_tilt():
    # Deltas of 30 and 21 both count as 20 nats, so the failure weighs its siblings alike.
    # Rewards 1 0 0 0: the siblings of the last have A = 3/4 (gap 30), -1/4 (21), -1/4 (-50, a weight of e^-40 beside
    # theirs).
    episodes = tuple(episode([0], reward) for reward in (1.0, 0.0, 0.0, 0.0))
    known = tuple(taught(e, [gap]) for e, gap in zip(episodes, (30.0, 21.0, -50.0, 0.0), strict=True))
    method = CRAFT(phase_aware=False, kl=0.0, beta_plus=0.1, lam=1.0)
    credits, _, _ = method.assign([RolloutGroup("t", episodes)], [known], {})
    cti = (0.25 - -0.25) / 0.500001  # mean of 3/4 and -1/4 is 1/4
    assert credits[0][3].likelihood[1] == pytest.approx(math.tanh(0.05 * cti), rel=1e-12)


def test_positions():
    # Turns 0 0 2 and 0 2 2: by turn, (0,0) (0,1) (2,0) and (0,0) (2,0) (2,1); by episode 0 1 2 twice.
    group = RolloutGroup("t", (episode([0, 0, 2]), episode([0, 2, 2])))
    (first, second), width = positions(group, "turn")
    assert (first.tolist(), second.tolist(), width) == ([0, 1, 2], [0, 2, 3], 4)
    (first, second), width = positions(group, "episode")
    assert (first.tolist(), second.tolist(), width) == ([0, 1, 2], [0, 1, 2], 3)


def test_controller():
    # alpha 1/2, one warm-up step, target 1/2. lambda in [1, 3], mu in [10, 20].
    controller = Controller(1.0, 3.0, 10.0, 20.0, alpha=0.5, n_warmup=1, rho_target=0.5)
    state = controller.start()
    assert controller.weights(state) == (2.0, 15.0)  # half way
    state = controller.advance(state, 1.0)
    assert state == {"rho": 0.5, "steps": 1.0}  # held
    state = controller.advance(state, 1.0)
    assert state == {"rho": 0.75, "steps": 2.0}  # 0.5 * 0.5 + 0.5 * 1
    assert controller.weights(state) == (2.5, 12.5)  # 1 + 2 * 0.75; 10 + 10 * 0.25
    # target 0.25 shifts the operating point by a quarter: 0.75 + 0.25 = 1; target 1: 0.75 - 0.5 = 0.25; both clipped
    # to [0, 1].
    for target, weights in ((0.25, (3.0, 10.0)), (1.0, (1.5, 17.5)), (0.0, (3.0, 10.0))):
        assert Controller(1.0, 3.0, 10.0, 20.0, 0.5, 1, target).weights(state) == weights


def test_controller_of_a_run_is_used_one_step_late():
    # Four tokens, |c| > 0.1 on all: gate 1. Warm-up 1: the weights of steps 0, 1 and 2 come from 0.5, 0.5 and 0.95 *
    # 0.5 + 0.05.
    win, loss = episode([0, 0], 1.0), episode([0, 0], 0.0)
    known = (taught(win, [0.1, 0.1]), taught(loss, [0.1, 0.1]))
    method = CRAFT(n_warmup=1, kl=0.0, mu_min=0.0, mu_max=0.0)
    state, weights = method.initial_state(), []
    for _ in range(3):
        _, state, log = method.assign([RolloutGroup("t", (win, loss))], [known], state)
        weights.append(log["lambda"])
    assert weights == pytest.approx([0.0125, 0.0125, 0.005 + 0.015 * 0.525], rel=1e-14)


def test_rlsd():
    # A = a on the success, Delta = 5 is clipped to 1.2, Delta = -5 to 0.8, Delta = 0 is 1; lam 0.5: factors 1.1, 0.9,
    # 1.
    win, loss = episode([0, 0, 0], 1.0), episode([0, 0, 0], 0.0)
    known = (taught(win, [5.0, -5.0, 0.0]), taught(loss, [5.0, -5.0, 0.0]))
    group = RolloutGroup("t", (win, loss))
    a = 0.5 / (math.sqrt(0.5) + 1e-6)
    credits, state, _ = RLSD(kl=0.0).assign([group], [known], {"steps": 0.0})
    np.testing.assert_allclose(credits[0][0].advantages[1:], a * np.array([1.1, 0.9, 1.0]), rtol=1e-14)
    # A failure's sign turns the ratio round.
    np.testing.assert_allclose(credits[0][1].advantages[1:], -a * np.array([0.9, 1.1, 1.0]), rtol=1e-14)
    assert state == {"steps": 1.0}
    # Half way to 50 steps lam is 0.25; from 50 on it is 0 and A is untouched.
    for steps, factor in ((25.0, 1.05), (50.0, 1.0), (80.0, 1.0)):
        got = RLSD(kl=0.0).assign([group], [known], {"steps": steps})[0][0][0].advantages[1]
        assert got == pytest.approx(a * factor, rel=1e-14)


def test_divergences():
    # p = 1/2 1/4 (tail 1/4), q = 1/4 1/4 (tail 1/2): KL = 1/2 ln 2 + 0 + 1/4 ln(1/2) = 1/4 ln 2; H(q) = 3/2 ln 2.
    p, q = (with_tail(np.log(np.array([row]))) for row in ([0.5, 0.25], [0.25, 0.25]))
    assert kl(p, q)[0] == pytest.approx(0.25 * math.log(2), rel=1e-14)
    assert entropy(q)[0] == pytest.approx(1.5 * math.log(2), rel=1e-14)
    np.testing.assert_allclose(np.exp(p), [[0.5, 0.25, 0.25]], rtol=1e-14)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whole_vocabulary_is_exact_and_a_cut_is_a_lower_bound(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, 6, 20))
    p, q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    exact = (np.exp(p) * (p - q)).sum(-1)
    np.testing.assert_allclose(kl(with_tail(p), with_tail(q)), exact, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(entropy(with_tail(q)), -(np.exp(q) * q).sum(-1), rtol=1e-12, atol=1e-12)
    best = np.argsort(-q, axis=1)
    previous = np.zeros(6)
    for k in (1, 5, 12, 20):
        cut = [with_tail(np.take_along_axis(side, best[:, :k], 1)) for side in (p, q)]
        now = kl(*cut)
        assert np.all(now >= previous - 1e-12)  # finer bins never lower a KL
        previous = now
    np.testing.assert_allclose(previous, exact, rtol=1e-12, atol=1e-12)
    assert not kl(with_tail(q), with_tail(q)).any()


def test_the_sampled_token_has_a_bin_of_its_own():
    # K = 1 lists token 7 with q = p = 1/2; the first sampled token is 7, the second is 3 with q = 1/4, p = 1/8.
    e = episode([0, 0], tokens=[7, 3])
    listed = np.array([[9], [7], [7]])
    half = np.log(np.full((3, 1), 0.5))
    seen = Evidence(
        teacher=Scores(np.array([0, math.log(0.5), math.log(0.25)]), TopK(listed, half)),
        student=Scores(np.array([0, math.log(0.5), math.log(0.125)]), TopK(listed, half)),
    )
    teacher, student = pair(e, seen, e.sequence.mask, with_sampled=True)
    np.testing.assert_allclose(np.exp(teacher), [[0.5, 0, 0.5], [0.5, 0.25, 0.25]], atol=1e-15)
    # p = 1/2 1/8 3/8: KL(p || q) = 1/8 ln(1/2) + 3/8 ln(3/2); nothing differs at the listed token.
    np.testing.assert_allclose(kl(student, teacher), [0, -math.log(2) / 8 + 3 * math.log(1.5) / 8], atol=1e-15)


def test_segmenter_by_hand():
    # Ten tokens of one turn. d: median 0, MAD 0, so scores are d / max(Q75, 1e-3). Sorted: seven 0, then 0.2 0.4 0.8;
    # Q75 lies at place 6.75: 0.75 of the way from 0 to 0.2 = 0.15. Scores: 0.8 -> 5.33 spikes, 0.4 -> 2.67 and 0.2 ->
    # 1.33 carry, 0 ends. Q95 at place 8.55: 0.4 + 0.55 * 0.4 = 0.62. Heights: 1, 0.4 / 0.62, 0.2 / 0.62.
    d = np.array([0, 0, 0.8, 0.2, 0.4, 0, 0, 0, 0, 0])
    flat, turns, free = np.ones(10), np.zeros(10, int), np.zeros(10, bool)
    got = Segmenter().saliency(d, flat, turns, free)
    np.testing.assert_allclose(got, [0, 0, 1, 0.95, 0.9025, 0, 0, 0, 0, 0], rtol=1e-14)
    # The teacher's entropy jumps by more than 0.5 above the span's mean at token 4: the span ends before it.
    risen = np.where(np.arange(10) == 4, 1.51, 1.0)
    np.testing.assert_allclose(Segmenter().saliency(d, risen, turns, free)[2:5], [1, 0.95, 0], rtol=1e-14)
    # A new turn at token 3 ends it too; so does a masked token, which then leaves nine values: the quantiles change.
    np.testing.assert_allclose(Segmenter().saliency(d, flat, (np.arange(10) >= 3).astype(int), free)[2:5], [1, 0, 0])
    masked = np.arange(10) == 3
    got = Segmenter().saliency(d, flat, turns, masked)
    # Without 0.2: nine values, Q75 at place 6 = 0, so scores are d / 1e-3 and 0.4 is a spike of its own;
    # Q95 at place 7.6: 0.4 + 0.6 * 0.4 = 0.64.
    np.testing.assert_allclose(got[2:5], [1, 0, 0.4 / 0.64], rtol=1e-14)
    # At most `longest` tokens, and no span at all where nothing diverges.
    np.testing.assert_allclose(Segmenter(longest=2).saliency(d, flat, turns, free)[2:5], [1, 0.95, 0])
    assert not Segmenter().saliency(np.zeros(10), flat, turns, free).any()
    assert not Segmenter().saliency(d, flat, turns, np.ones(10, bool)).any()


def test_segmenter_scores():
    # d = 1 2 3 4 10: median 3, deviations 2 1 0 1 7, MAD 1: score of 10 is 7 / (1.4826 + 1e-6).
    got = Segmenter().scores(np.array([1.0, 2, 3, 4, 10]))
    assert got[-1] == pytest.approx(7 / 1.482601, rel=1e-14)
    # Everything alike: MAD 0, the scale is max(Q75, 1e-3).
    np.testing.assert_allclose(Segmenter().scores(np.full(5, 0.2)), np.ones(5))
    np.testing.assert_allclose(Segmenter().scores(np.full(5, 1e-5)), np.full(5, 0.01))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 0.9]), st.integers(1, 150))
def test_segmenter_agrees_with_a_walk_through_the_tokens(seed, quiet, length):
    rng = np.random.default_rng(seed)
    d = np.where(rng.random(length) < quiet, 0.0, rng.exponential(0.05, length) * (1 + 30 * (rng.random(length) < 0.1)))
    heat, turns = rng.exponential(0.5, length), np.sort(rng.integers(0, 3, length))
    masked = rng.random(length) < 0.05
    rule = Segmenter(longest=int(rng.integers(1, 20)))
    got = rule.saliency(d, heat, turns, masked)
    np.testing.assert_allclose(got, looped_saliency(d, heat, turns, masked, rule), rtol=1e-12, atol=1e-12)
    assert np.all((got >= 0) & (got <= 1))
    assert not got[masked].any()


def test_segmenter_reaches_its_aim():
    """Divergence like a teacher's (small everywhere, bursts of some tokens) makes 5 to 25 % of the tokens dense."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        d = rng.exponential(0.01, 800)
        for start in rng.integers(0, 780, 12):
            d[start : start + int(rng.integers(2, 10))] += rng.exponential(0.6)
        entropies = rng.normal(1.0, 0.15, 800)
        shares.append(float(np.mean(Segmenter().saliency(d, entropies, np.zeros(800, int), np.zeros(800, bool)) > 0.1)))
    assert 0.05 < np.mean(shares) < 0.25


def test_where_an_episode_leaves_its_peers():
    # 1 2 3 4 against the successes 1 9 9 9 and 1 2 9: it leaves the second at index 2. The failure 1 2 3 4 5 does not
    # count.
    group = RolloutGroup(
        "t",
        tuple(
            episode([0] * len(tokens), reward, tokens)
            for tokens, reward in (([1, 2, 3, 4], 0.0), ([1, 9, 9, 9], 1.0), ([1, 2, 9], 1.0), ([1, 2, 3, 4, 5], 0.0))
        ),
    )
    assert divergence_point(group, 0) == 2
    assert divergence_point(group, 1) == 1  # from 1 2 9
    assert divergence_point(RolloutGroup("t", group.episodes[:1]), 0) is None
    assert mass_near(np.array([1.0, 1, 4, 2]), 2, 1) == 7 / 8
    assert mass_near(np.zeros(4), 2, 1) == 0


def test_hsd_context_by_option():
    win, loss = episode([0], 1.0), episode([0], 0.0)
    group = RolloutGroup("t", (win, loss, loss), answer="42")
    rng = np.random.default_rng(0)
    assert HSD().context(group, 0, rng).content == "42"  # no other success: the answer alone
    assert HSD(fallback=False).context(group, 0, rng) is None
    assert HSD(failures_only=True).context(group, 0, rng) is None
    assert HSD(failures_only=True).context(group, 1, rng) is not None
