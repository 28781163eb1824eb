"""What must hold for every method on every step, whatever the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from every_method import flat, shipped, variants
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_methods import NAIVE as PLAIN
from naive_methods import sampled
from naive_turns import NAIVE as BY_TURN

from agents.check import VOCABULARY, check_method, random_step, streams
from agents.methods import SHORT
from agents.methods.craft import CRAFT
from agents.methods.grpo import GRPO
from agents.methods.sgcd import SGCD
from harness.core.plugs import resolve

NAIVE = PLAIN | BY_TURN
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=20, deadline=None)


def test_short_names_are_the_shipped_classes():
    assert {resolve(name) for name in SHORT.values()} == set(shipped().values())
    for name, cls in shipped().items():
        assert cls.__doc__, name
        assert cls.paper, name


@pytest.mark.parametrize("method", variants(), ids=repr)
def test_contract(method):
    check_method(method, seeds=range(6))


def test_contract_permuted_weights():
    check_method(CRAFT(weights="permuted"), seeds=range(15), permutable=False)


def test_contract_additive_arm():
    check_method(SGCD(control="additive"), seeds=range(10))


@pytest.mark.parametrize("method", variants(), ids=repr)
def test_agrees_with_the_looped_implementation(method):
    """To 1e-12: both sides are float64 sums of at most 14 terms in another order. See `room` for cut distributions."""
    for seed in range(6):
        step = random_step(np.random.default_rng(seed), method.needs)
        state = method.initial_state()
        for _ in range(2):  # the second time from a state that has moved
            credits, later, _ = method.assign(step.groups, step.evidence, state)
            tolerance = room(step)
            expected = NAIVE[type(method).__name__](method, step.groups, step.evidence, state)
            for group, row, wanted in zip(step.groups, credits, expected, strict=True):
                for episode, credit, want in zip(group.episodes, row, wanted, strict=True):
                    got = dict(streams(credit))
                    assert got.keys() == want.keys() - {"kind"}
                    for name, array in got.items():
                        values = [array[t] for t in sampled(episode)]
                        if array.dtype == object:
                            assert values == want[name], name
                        else:
                            np.testing.assert_allclose(values, want[name], tolerance, tolerance, err_msg=name)
                    if credit.distillation:
                        assert (credit.distillation.divergence, credit.distillation.alpha) == want["kind"]
            state = later


def room(step):
    """1e-12, unless a tail is so small that 1 - sum, exact to 1e-16, has fewer digits than that left."""
    tails = [
        1 - math.fsum(map(math.exp, row))
        for known in step.evidence
        for seen in known
        if seen.teacher and seen.teacher.distribution and seen.teacher.distribution.ids.shape[1] < VOCABULARY
        for scores in (seen.teacher, seen.student)
        for row in scores.distribution.logprobs[np.any(scores.distribution.logprobs != 0, axis=1)]
    ]
    return 1e-12 * max(1.0, 1e-3 / max(min(tails, default=1.0), 1e-16))


@quick
@given(seeds, st.floats(0.01, 5), st.floats(1, 4), st.sampled_from(["weights", "normalised", "mean"]))
def test_sgcd_keeps_the_sign_and_the_bound(seed, gamma, c, control):
    method = SGCD(gamma=gamma, c=c, kl=0.0, control=control)
    step = random_step(np.random.default_rng(seed), method.needs)
    credits, _, _ = method.assign(step.groups, step.evidence, {})
    plain, _, _ = GRPO(kl=0.0).assign(step.groups, step.evidence, {})
    for row, base in zip(credits, plain, strict=True):
        for weighted, even in zip(row, base, strict=True):
            assert np.array_equal(np.sign(weighted.advantages), np.sign(even.advantages))
            # one rounding of the product
            assert np.all(np.abs(weighted.advantages) <= c * np.abs(even.advantages) * (1 + 1e-15))


@quick
@given(
    seeds, st.sampled_from(["tilted", "uniform", "permuted"]), st.sampled_from(["turn", "episode"]), st.floats(0.05, 9)
)
def test_printed_craft_opposes_binary_advantages_and_aligned_craft_follows_them(seed, weights, alignment, tau):
    step = random_step(np.random.default_rng(seed), CRAFT().needs, rewards="binary", siblings=4)
    options = {"weights": weights, "alignment": alignment, "tau": tau, "below": "zero", "phase_aware": False}
    strict = 0
    for credit, sign in (("printed", -1), ("aligned", 1)):
        credits, _, log = CRAFT(credit=credit, **options).assign(step.groups, step.evidence, {})
        for row in credits:
            for entry in row:
                product = entry.likelihood * entry.advantages
                assert np.all(sign * product >= 0)
                strict += int(np.count_nonzero(product))
        assert log["sign_agreement"] == (1.0 if credit == "aligned" and strict else 0.0)


@quick
@given(seeds)
def test_aligned_is_printed_reversed_wherever_a_sibling_stands(seed):
    step = random_step(np.random.default_rng(seed), CRAFT().needs)
    options = {"below": "zero", "phase_aware": False, "polarised_kl": False}
    printed, aligned = (
        CRAFT(credit=credit, **options).assign(step.groups, step.evidence, {})[0] for credit in ("printed", "aligned")
    )
    for one, other in zip(flat(printed), flat(aligned), strict=True):
        np.testing.assert_array_equal(one.likelihood, -other.likelihood)


@quick
@given(seeds)
def test_the_fallback_is_never_reversed(seed):
    """Alone at every position, aligned and printed CRAFT give the same A * Delta credit."""
    step = random_step(np.random.default_rng(seed), CRAFT().needs)
    options = {"g_min": 9, "phase_aware": False}
    results = [
        CRAFT(credit=credit, **options).assign(step.groups, step.evidence, {})[0]
        for credit in ("printed", "aligned", "fallback")
    ]
    for entries in zip(*(flat(result) for result in results), strict=True):
        assert len({entry.likelihood.tobytes() for entry in entries}) == 1


@quick
@given(seeds)
def test_permuted_weights_keep_what_stands_at_a_position(seed):
    from agents.methods.counterfactual import permute_across_siblings

    rng = np.random.default_rng(seed)
    gaps, present = rng.normal(size=(5, 7)), rng.random((5, 7)) < 0.6
    shuffled = permute_across_siblings(gaps, present, rng)
    for column in range(7):
        rows = present[:, column]
        assert sorted(shuffled[rows, column]) == sorted(gaps[rows, column])


def test_missing_evidence_is_named():
    step = random_step(np.random.default_rng(0), GRPO(kl=0.0).needs)
    with pytest.raises(ValueError, match=r"task-0.*Evidence\.reference"):
        GRPO(kl=0.1).assign(step.groups, step.evidence, {})
    with pytest.raises(ValueError, match="evidence for 0"):
        GRPO(kl=0.0).assign(step.groups, (), {})
    method = CRAFT()
    step = random_step(np.random.default_rng(3), method.needs)
    with pytest.raises(ValueError, match="distributions of teacher and student"):
        SGCD(kl=0.0, top_k=3).assign(mixed_only(step), step.evidence, {})


def mixed_only(step):
    from dataclasses import replace

    return tuple(
        replace(group, episodes=tuple(replace(e, success=i % 2 == 0) for i, e in enumerate(group.episodes)))
        for group in step.groups
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: CRAFT(credit="alligned"), "did you mean 'aligned'"),
        (lambda: CRAFT(weights="tilt"), "did you mean 'tilted'"),
        (lambda: CRAFT(tau=0.0), "tau = 0.0"),
        (lambda: CRAFT(g_min=1), "g_min = 1"),
        (lambda: CRAFT(lam_min=0.5), "lam_max = 0.02 is outside"),
        (lambda: GRPO(kl=float("nan")), "must be a finite number"),
        (lambda: GRPO(kl=True), "must be a finite number"),
        (lambda: SGCD(c=0.5), "c = 0.5"),
        (lambda: SGCD(control="normalized"), "did you mean 'normalised'"),
        (lambda: SGCD(summariser="rule"), "'rules', 'llm:MODEL'"),
    ],
)
def test_wrong_options_are_refused_with_the_nearest_right_one(call, says):
    with pytest.raises(ValueError, match=says):
        call()
