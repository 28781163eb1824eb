"""Methods that see turns or values of prefixes: numbers worked out by hand, and what must hold of every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from every_method import flat
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.check import random_step
from agents.methods.agent_opsd import AgentOPSD
from agents.methods.gagpo import GAGPO
from agents.methods.gigpo import GiGPO
from agents.methods.grpo import GRPO
from agents.methods.grpo_lambda import GRPOLambda
from agents.methods.oracle import Inverted, Oracle
from agents.methods.turns import ANCHORS, anchors, observations
from agents.methods.vineppo import VinePPO
from harness.types import Ending, Episode, Evidence, RolloutGroup, Scores, TokenSequence, Values

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=20, deadline=None)


def episode(states: str, reward: float, values: tuple[float, ...] = ()) -> Episode:
    """One sampled token a turn, and a reply behind it; a letter names the state a turn begins in."""
    turns = np.repeat(np.arange(len(states)), 2)
    mask = np.arange(len(turns)) % 2 == 0
    told = [{"role": r, "content": c} for s in states for r, c in (("user", f"you see {s}"), ("assistant", "go"))]
    sequence = TokenSequence(np.arange(len(turns)), mask, np.zeros(len(turns)), turns)
    return Episode(
        "t",
        sequence,
        float(reward),
        reward > 0,
        Ending.COMPLETED,
        tuple(told),
        states=tuple(states),
        state_values=values,
    )


def advantages(method, episodes, evidence=None):
    """Of the sampled tokens, which are one a turn."""
    group = RolloutGroup("t", tuple(episodes))
    known = evidence or [Evidence() for _ in episodes]
    ((*row,),) = method.assign([group], [known], method.initial_state())[0]
    return [credit.advantages[e.sequence.mask] for credit, e in zip(row, episodes, strict=True)]


def of_step(method, step):
    return flat(method.assign(step.groups, step.evidence, method.initial_state())[0])


# ---------------------------------------------------------------- anchors


@pytest.mark.parametrize("anchor", ANCHORS)
def test_turns_begin_alike_by_name_or_by_message(anchor: str) -> None:
    group = RolloutGroup("t", (episode("sa", 1.0), episode("sb", 0.0)))
    (first, second), (other, third) = anchors(group, anchor)
    assert first == other
    assert len({first, second, third}) == 3


def test_an_observation_is_what_was_said_since_the_last_turn() -> None:
    said = [("system", "rules"), ("user", "hi"), ("assistant", "a"), ("tool", "x"), ("user", "y"), ("assistant", "b")]
    e = Episode(
        "t",
        TokenSequence(np.array([1, 2]), np.array([True, True]), np.zeros(2), np.array([0, 1])),
        *(0.0, False, Ending.COMPLETED, tuple({"role": r, "content": c} for r, c in said)),
    )
    assert observations(e) == [(("system", "rules"), ("user", "hi")), (("tool", "x"), ("user", "y"))]
    with pytest.raises(ValueError, match="'t': the environment names no states; anchor = 'observation' needs none"):
        anchors(RolloutGroup("t", (e,)), "state")
    assert anchors(RolloutGroup("t", (e,)), "auto") == [observations(e)]


# ---------------------------------------------------------------- GiGPO and GAGPO


def test_gigpo_by_hand() -> None:
    # gamma .5, without std. Rewards 1, 0, 1: episodes 1/3, -2/3, 1/3. Returns: sa: .5, 1; sb: 0, 0; saa: .25, .5, 1.
    # s: mean .25 -> .25, -.25, 0. a: 1, .5, 1, mean 5/6 -> 1/6, -1/3, 1/6. b alone: 0. omega 2.
    got = advantages(
        GiGPO(omega=2, gamma=0.5, std=False, kl=0), [episode("sa", 1), episode("sb", 0), episode("saa", 1)]
    )
    np.testing.assert_allclose(got[0], [1 / 3 + 0.5, 1 / 3 + 1 / 3])
    np.testing.assert_allclose(got[1], [-2 / 3 - 0.5, -2 / 3])
    np.testing.assert_allclose(got[2], [1 / 3, 1 / 3 - 2 / 3, 1 / 3 + 1 / 3])


def test_gigpo_divides_by_the_anchors_own_deviation() -> None:
    # Rewards 1 and 0: std .7071, episodes +-.7071. gamma 1: the returns at s are 1 and 0 as well; a and b are alone.
    half = 0.5 / (np.sqrt(0.5) + 1e-6)
    got = advantages(GiGPO(gamma=1, kl=0), [episode("sa", 1), episode("sb", 0)])
    np.testing.assert_allclose(got, [[2 * half, half], [-2 * half, -half]])


def test_gagpo_by_hand() -> None:
    # gamma .5, lam .5. s a -> 1, s b -> 0. Returns .5, 1 and 0, 0. V(s) = .25, V(a) = 1, V(b) = 0.
    # First: delta = .5 * 1 - .25 = .25, 1 - 1 = 0: A = .25, 0. Second: 0 - .25 = -.25, 0: A = -.25, 0.
    # Mean 0, std of (.25, 0, -.25, 0) with ddof 1: sqrt(.125 / 3) = .204124
    got = advantages(GAGPO(gamma=0.5, lam=0.5, kl=0), [episode("sa", 1), episode("sb", 0)])
    np.testing.assert_allclose(got, np.array([[0.25, 0], [-0.25, 0]]) / (0.20412415 + 1e-6), rtol=1e-6)


def test_gagpo_hands_a_later_difference_back_to_the_turn_that_led_there() -> None:
    # gamma 1, lam 1: A_t telescopes to R - V(s_t). V(s) = 1/2; a is met by both, V(a) = 1/2, c = 1, d = 0.
    (first, second) = advantages(GAGPO(gamma=1, lam=1, kl=0), [episode("sac", 1), episode("sad", 0)])
    np.testing.assert_allclose(first, -second)
    np.testing.assert_allclose(first[0], first[1])
    assert first[0] > 0 == first[2]
    # lam 0: only the turn that led from a to c or d differs.
    (first, _) = advantages(GAGPO(gamma=1, lam=0, kl=0), [episode("sac", 1), episode("sad", 0)])
    np.testing.assert_allclose(first, [0, first[1], 0], atol=1e-12)
    assert first[1] > 0


@pytest.mark.parametrize("method", [GiGPO(gamma=1, kl=0), GAGPO(gamma=1, kl=0)], ids=repr)
@given(seed=seeds)
@quick
def test_equal_rewards_and_no_discount_give_no_credit(method, seed: int) -> None:
    step = random_step(np.random.default_rng(seed), method.needs, rewards="equal")
    for credit in of_step(method, step):
        np.testing.assert_allclose(credit.advantages, 0, atol=1e-9)


@given(seed=seeds)
@quick
def test_gigpo_without_turns_is_grpo(seed: int) -> None:
    step = random_step(np.random.default_rng(seed), GRPO().needs)
    for one, other in zip(of_step(GiGPO(omega=0), step), of_step(GRPO(), step), strict=True):
        assert one.advantages.tobytes() == other.advantages.tobytes()


# ---------------------------------------------------------------- AgentOPSD


def taught(e: Episode, gaps: list[float]) -> Evidence:
    whole = np.zeros(len(e.sequence))
    whole[e.sequence.mask] = gaps
    return Evidence(teacher=Scores(whole))


def test_agent_opsd_by_hand() -> None:
    # Rewards 1, 0: prior .5, logit 0; A = +-.70711. e = ln 3, ln 3, gamma 0 (no carrying): B = .5, .75, .75.
    # Revisions .25, 0; of the success q = .25, 0: mean .125, std .125, z = 1, -1; band .2: w = 1.2, .8; lam .5: 1.1,
    # .9.
    # The failure's q = -.25, 0 turns that round: .9, 1.1.
    pair = [episode("sa", 1), episode("sb", 0)]
    known = [taught(e, [np.log(3), np.log(3)]) for e in pair]
    got = advantages(AgentOPSD(gamma=0, kl=0), pair, known)
    a = 0.5 / (np.sqrt(0.5) + 1e-6)
    np.testing.assert_allclose(got, [[1.1 * a, 0.9 * a], [-0.9 * a, -1.1 * a]], rtol=1e-5)


def test_agent_opsd_saturates() -> None:
    """The same gap again revises a belief less and less: with gamma 1, ln 3 and ln 3 give .25 and .15."""
    factors = AgentOPSD(lam=1, band=0.9, gamma=1).factors(np.log([3.0, 3.0]), 0.5, 1.0)
    assert factors[0] > 1 > factors[1]


@given(seed=seeds, lam=st.floats(0, 1), band=st.floats(0, 0.99))
@quick
def test_agent_opsd_keeps_the_sign_and_the_band(seed: int, lam: float, band: float) -> None:
    method = AgentOPSD(lam=lam, band=band)
    step = random_step(np.random.default_rng(seed), AgentOPSD().needs)
    for one, plain in zip(of_step(method, step), of_step(GRPO(), step), strict=True):
        low, high = (1 - lam * band) * plain.advantages, (1 + lam * band) * plain.advantages
        assert np.all(one.advantages >= np.minimum(low, high) - 1e-12)
        assert np.all(one.advantages <= np.maximum(low, high) + 1e-12)


# ---------------------------------------------------------------- GRPO-lambda


def test_the_traces_by_hand() -> None:
    # decay .5, 3 tokens. recent: 1 + .5 + .25, 1 + .5, 1. both: token 0: trace(t, 0) = max(.5^t, 1) = 1, three times;
    # token 1: 1 at t = 1, max(.5, .5) = .5 at t = 2; token 2: 1.
    np.testing.assert_allclose(GRPOLambda(lam=0.5).weights(3), [1.75, 1.5, 1])
    np.testing.assert_allclose(GRPOLambda(lam=0.5, trace="both").weights(3), [3, 1.5, 1])
    got = advantages(GRPOLambda(lam=0.5, kl=0), [episode("sa", 1), episode("sb", 0)])
    np.testing.assert_allclose(got, [[1.5 * 0.7071058, 0.7071058], [-0.15, -0.1]], rtol=1e-6)  # floor -.1


@given(seed=seeds)
@quick
def test_without_a_trace_or_a_floor_it_is_grpo(seed: int) -> None:
    step = random_step(np.random.default_rng(seed), GRPO().needs)
    for one, other in zip(of_step(GRPOLambda(lam=0, floor=None), step), of_step(GRPO(), step), strict=True):
        assert one.advantages.tobytes() == other.advantages.tobytes()


def test_the_trace_is_the_gradient_of_the_papers_surrogate() -> None:
    """sum_t exp(sum_j<=t trace(t, j) x_j) A, differentiated numerically at x = 0."""
    for trace in ("recent", "both"):
        n, decay, step = 5, 0.8, 1e-6

        def surrogate(x, trace=trace, n=n, decay=decay):
            weight = [
                [max(decay ** (t - j), decay**j if trace == "both" and t != j else 0.0) for j in range(t + 1)]
                for t in range(n)
            ]
            return sum(np.exp(sum(w * x[j] for j, w in enumerate(row))) for row in weight)

        slope = [(surrogate(step * e) - surrogate(-step * e)) / (2 * step) for e in np.eye(n)]
        np.testing.assert_allclose(GRPOLambda(lam=decay, trace=trace).weights(n), slope, rtol=1e-6)


# ---------------------------------------------------------------- values


def rolled(e: Episode, path: list[float]) -> Evidence:
    """Values of a path, its last one the reward."""
    before, after = np.zeros((2, len(e.sequence)))
    before[e.sequence.mask], after[e.sequence.mask] = path[:-1], path[1:]
    return Evidence(values=Values(before, after, np.zeros(len(e.sequence))))


def test_values_are_credit() -> None:
    # .5 -> .8 -> 1 and .5 -> .4 -> 0; the group's rewards have a standard deviation of .70711
    pair = [episode("sa", 1), episode("sb", 0)]
    known = [rolled(pair[0], [0.5, 0.8, 1.0]), rolled(pair[1], [0.5, 0.4, 0.0])]
    gains = np.array([[0.3, 0.2], [-0.1, -0.4]])
    np.testing.assert_allclose(advantages(VinePPO(kl=0), pair, known), gains)
    np.testing.assert_allclose(advantages(Oracle(kl=0, scale="none"), pair, known), gains)
    np.testing.assert_allclose(advantages(Oracle(kl=0), pair, known), gains / (np.sqrt(0.5) + 1e-6))
    np.testing.assert_allclose(advantages(Inverted(kl=0), pair, known), -gains / (np.sqrt(0.5) + 1e-6))


def test_the_oracle_may_ask_the_environment() -> None:
    pair = [episode("sa", 1, (0.5, 0.8)), episode("sb", 0, (0.5, 0.4))]
    assert Oracle(exact=True).needs.values == 0
    np.testing.assert_allclose(advantages(Oracle(exact=True, kl=0, scale="none"), pair), [[0.3, 0.2], [-0.1, -0.4]])
    with pytest.raises(ValueError, match="'t': the environment knows no exact values"):
        advantages(Oracle(exact=True, kl=0), [episode("sa", 1), episode("sb", 0)])
    with pytest.raises(ValueError, match=r"'t': this method needs Evidence\.values"):
        advantages(VinePPO(kl=0), pair)


def test_the_oracle_need_not_credit_the_last_turn_with_luck() -> None:
    """Where the environment drew the reward, what was to be expected stands in its place; elsewhere the reward."""
    drawn = replace(episode("sa", 1, (0.5, 0.8)), end_value=0.7)
    known = episode("sb", 0, (0.5, 0.4))
    plain = Oracle(exact=True, expected=True, kl=0, scale="none")
    np.testing.assert_allclose(advantages(plain, [drawn, known]), [[0.3, -0.1], [-0.1, -0.4]])
    np.testing.assert_allclose(advantages(replace(plain, expected=False), [drawn, known]), [[0.3, 0.2], [-0.1, -0.4]])
    with pytest.raises(ValueError, match="it needs exact = true"):
        Oracle(expected=True)


def test_the_scales_of_the_oracle() -> None:
    """By group: a group of equal rewards teaches nothing; by step: the root of the mean variance, (.5 + 0) / 2."""
    mixed, equal = ([episode("s", 1), episode("s", 0)], [episode("s", 1), episode("s", 1)])
    groups = [RolloutGroup("a", tuple(mixed)), RolloutGroup("b", tuple(equal))]
    known = [[rolled(e, [0.75, e.reward]) for e in group.episodes] for group in groups]
    for scale, factors in (
        ("group", (1 / (np.sqrt(0.5) + 1e-6), 0)),
        ("step", (1 / (0.5 + 1e-6),) * 2),
        ("none", (1, 1)),
    ):
        credits = Oracle(kl=0, scale=scale).assign(groups, known, {})[0]
        got = [[c.advantages[0] for c in row] for row in credits]
        np.testing.assert_allclose(got, [[0.25 * factors[0], -0.75 * factors[0]], [0.25 * factors[1]] * 2])


@pytest.mark.parametrize("scale", ["group", "step", "none"])
@given(seed=seeds)
@quick
def test_inverted_is_the_oracle_with_its_sign_turned(scale: str, seed: int) -> None:
    step = random_step(np.random.default_rng(seed), Oracle().needs)
    for one, other in zip(of_step(Inverted(scale=scale), step), of_step(Oracle(scale=scale), step), strict=True):
        np.testing.assert_array_equal(one.advantages, -other.advantages)
        np.testing.assert_array_equal(one.anchor.weights, other.anchor.weights)


@given(seed=seeds)
@quick
def test_the_oracle_gives_an_episode_its_reward_less_the_value_of_its_start(seed: int) -> None:
    step = random_step(np.random.default_rng(seed), Oracle().needs)
    known = flat(step.evidence)
    for credit, seen, e in zip(
        of_step(Oracle(scale="none"), step), known, flat(g.episodes for g in step.groups), strict=True
    ):
        start = seen.values.before[e.sequence.mask][0]
        np.testing.assert_allclose(credit.advantages.sum(), e.reward - start)
