"""Sampled elsewhere: the correction against a naive loop and hand numbers, and nothing at all where it is off."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UnknownNameError, UserError
from harness.experiment import LossSettings
from harness.losses import pack, policy_loss
from harness.losses.mismatch import Correction, correct
from harness.types import Credit, TokenSequence

SPECS = [
    LossSettings(),
    LossSettings(aggregate="sequence-mean-token-mean"),
    LossSettings(aggregate="sequence-mean-token-sum", sum_constant=7.0),
]
ON = [
    Correction("truncated"),
    Correction("truncated", cap=1.1),
    Correction(mask="token"),
    Correction("truncated", "token", cap=1.3, low=0.9, high=1.3),
    Correction("truncated", "sequence", low=0.95, high=1.05),
    Correction(mask="off-policy", drift=0.02),
]


def a_step(seed: int, ragged_groups: Callable[..., Any]) -> tuple[list[TokenSequence], list[np.ndarray], list[Credit]]:
    """Sequences as a sampler recorded them, the trainer's log-probabilities, and credits."""
    rng = np.random.default_rng(seed)
    sequences = [sequence for group in ragged_groups(seed) for sequence in group]
    trainer = [
        np.where(s.mask, np.minimum(s.logprobs + rng.normal(scale=0.2, size=len(s)), 0.0), 0.0) for s in sequences
    ]
    credits = [
        Credit(
            advantages=np.where(s.mask, rng.normal(size=len(s)), 0.0),
            likelihood=np.where(s.mask, rng.normal(size=len(s)), 0.0),
        )
        for s in sequences
    ]
    return sequences, trainer, credits


def advantages_of(credits: list[Credit]) -> list[Any]:
    return [credit.advantages for credit in credits]


def stays(correction: Correction, ratios: list[float], own: float, advantage: float) -> bool:
    """The masks, straight from their definitions."""
    match correction.mask:
        case "token":
            return correction.low <= own <= correction.high
        case "sequence":
            return correction.low <= math.prod(ratios) ** (1 / len(ratios)) <= correction.high
        case "off-policy":
            return advantage >= 0 or -sum(map(math.log, ratios)) / len(ratios) <= correction.drift
    return True


def naive(
    sequences: list[TokenSequence],
    trainer: list[np.ndarray],
    credits: list[Credit],
    policy: list[np.ndarray],
    correction: Correction,
    spec: LossSettings,
) -> float:
    """Token by token: what stays, its weight, its clipped surrogate and likelihood; then the mean by its own count."""
    terms: list[list[float]] = []
    for s, own, credit, now in zip(sequences, trainer, credits, policy, strict=True):
        places = np.flatnonzero(s.mask)
        ratios = [math.exp(own[t] - s.logprobs[t]) for t in places]
        terms.append([])
        assert credit.advantages is not None
        assert credit.likelihood is not None
        for t, r in zip(places, ratios, strict=True):
            if not stays(correction, ratios, r, credit.advantages[t]):
                continue
            moved = math.exp(now[t] - own[t])
            clipped = min(max(moved, 1 - spec.clip_low), 1 + spec.clip_high)
            gain = min(moved * credit.advantages[t], clipped * credit.advantages[t])
            weight = min(r, correction.cap) if correction.weight == "truncated" else 1.0
            terms[-1].append(weight * (-gain - credit.likelihood[t] * now[t]))
    left = [row for row, s in zip(terms, sequences, strict=True) if row or not s.mask.any()]
    if spec.aggregate == "token-mean":
        return sum(map(sum, left)) / sum(map(len, left))
    if spec.aggregate == "sequence-mean-token-mean":
        return sum(sum(row) / max(len(row), 1) for row in left) / len(left)
    assert spec.sum_constant is not None
    return sum(map(sum, left)) / spec.sum_constant / len(left)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.aggregate)
@pytest.mark.parametrize("correction", ON, ids=str)
def test_the_corrected_loss_equals_a_naive_loop(
    spec: LossSettings, correction: Correction, ragged_groups: Callable[..., Any]
) -> None:
    sequences, trainer, credits = a_step(3, ragged_groups)
    rng = np.random.default_rng(4)
    policy = [np.where(s.mask, own - np.abs(rng.normal(scale=0.3, size=len(s))), 0.0) for s, own in
              zip(sequences, trainer, strict=True)]  # fmt: skip
    done = correct(sequences, trainer, advantages_of(credits), correction)
    batch = pack(done.sequences, [credits[place] for place in done.kept], done.weights)
    logprobs = np.zeros(batch.mask.shape)
    for row, place in enumerate(batch.order.tolist()):
        values = policy[done.kept[place]]
        logprobs[row, : len(values) - 1] = values[1:]
    total = policy_loss(torch.from_numpy(logprobs), batch, spec).total
    expected = naive(sequences, trainer, credits, policy, correction, spec)
    assert float(total) == pytest.approx(expected, rel=1e-12)
    rejected = 1 - sum(int(s.mask.sum()) for s in done.sequences) / sum(int(s.mask.sum()) for s in sequences)
    assert done.facts["mismatch/rejected"] == pytest.approx(rejected, abs=1e-15)
    assert (rejected > 0) == ((correction.mask != "none" and correction.high < 5.0) or correction.mask == "off-policy")


def test_off_is_bit_identical(ragged_groups: Callable[..., Any]) -> None:
    sequences, trainer, credits = a_step(5, ragged_groups)
    done = correct(sequences, trainer, advantages_of(credits), Correction())
    assert (done.kept, done.weights, done.facts) == (list(range(len(sequences))), None, {})
    assert all(one is other for one, other in zip(done.sequences, sequences, strict=True))
    batch, plain = pack(done.sequences, credits, done.weights), pack(sequences, credits)
    assert batch.weights is None
    logprobs = torch.from_numpy(-np.random.default_rng(0).exponential(size=batch.mask.shape)).requires_grad_()
    losses = [policy_loss(logprobs, each, LossSettings()).total for each in (batch, plain)]
    gradients = [torch.autograd.grad(loss, logprobs)[0] for loss in losses]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(gradients[0], gradients[1])


def test_engines_that_agree_are_corrected_by_nothing(ragged_groups: Callable[..., Any]) -> None:
    sequences, _, credits = a_step(6, ragged_groups)
    same = [s.logprobs for s in sequences]
    done = correct(sequences, same, advantages_of(credits), Correction("truncated", "token", low=1.0, high=1.5))
    assert done.facts == {"mismatch/mean": 1.0, "mismatch/largest": 1.0, "mismatch/rejected": 0.0}
    batch, plain = pack(done.sequences, credits, done.weights), pack(sequences, credits)
    logprobs = torch.from_numpy(-np.random.default_rng(0).exponential(size=batch.mask.shape))
    assert torch.equal(policy_loss(logprobs, batch, SPECS[0]).total, policy_loss(logprobs, plain, SPECS[0]).total)


def test_weights_are_detached_and_survive_a_cut(ragged_groups: Callable[..., Any]) -> None:
    sequences, trainer, credits = a_step(7, ragged_groups)
    done = correct(sequences, trainer, advantages_of(credits), Correction("truncated"))
    batch = pack(done.sequences, credits, done.weights)
    assert batch.weights is not None
    assert not batch.weights.requires_grad
    logprobs = torch.from_numpy(-np.random.default_rng(0).exponential(size=batch.mask.shape))
    whole = policy_loss(logprobs, batch, SPECS[0]).total
    parts = [[row for row in range(len(batch)) if row % 3 == part] for part in range(3)]
    cut = [batch.rows(rows) for rows in parts]
    losses = [
        policy_loss(logprobs[rows][:, : part.mask.shape[1]], part, SPECS[0]).total
        for rows, part in zip(parts, cut, strict=True)
    ]
    assert float(sum(losses)) == pytest.approx(float(whole), rel=1e-13)


def by_hand() -> tuple[TokenSequence, np.ndarray]:
    """One prompt token and three sampled ones, of ratios 2, 1 and 1/4."""
    sampler = np.array([0.0, -1.0, -1.0, -0.5])
    sequence = TokenSequence(np.arange(4), np.array([False, True, True, True]), sampler, np.zeros(4, np.int64))
    return sequence, sampler + np.array([0.0, math.log(2), 0.0, -math.log(4)])


@pytest.mark.parametrize(
    ("correction", "left", "weights"),
    [
        (Correction("truncated", cap=1.5), [1, 1, 1], [1.5, 1.0, 0.25]),
        (Correction(mask="token", low=0.5, high=2.0), [1, 1, 0], None),
        (Correction(mask="token", low=0.3, high=1.9), [0, 1, 0], None),
        # the geometric mean of 2, 1 and 1/4 is (1/2)^(1/3) = 0.794
        (Correction(mask="sequence", low=0.79, high=1.0), [1, 1, 1], None),
        (Correction(mask="sequence", low=0.80, high=1.0), None, None),
        # the mean of -log r is log(2)/3 = 0.231; of the advantages 1, -1, 0 one is negative
        (Correction(mask="off-policy", drift=0.24), [1, 1, 1], None),
        (Correction(mask="off-policy", drift=0.23), [1, 0, 1], None),
    ],
    ids=str,
)
def test_by_hand(correction: Correction, left: list[int] | None, weights: list[float] | None) -> None:
    sequence, trainer = by_hand()
    done = correct([sequence], [trainer], [np.array([0.0, 1.0, -1.0, 0.0])], correction)
    assert done.facts["mismatch/mean"] == pytest.approx((2 + 1 + 0.25) / 3)
    assert done.facts["mismatch/largest"] == pytest.approx(2)
    if left is None:
        assert (done.sequences, done.kept, done.facts["mismatch/rejected"]) == ([], [], 1.0)
        return
    (corrected,) = done.sequences
    assert corrected.mask[1:].tolist() == [bool(stays) for stays in left]
    # what the loss's own ratio starts from is the trainer's word
    np.testing.assert_array_equal(corrected.logprobs, np.where(corrected.mask, trainer, 0.0))
    assert (done.weights is None) == (weights is None)
    if weights is not None and done.weights is not None:
        np.testing.assert_allclose(done.weights[0][1:], weights, rtol=1e-15)


@given(st.lists(st.floats(-1e6, 0.0), min_size=1, max_size=6), st.lists(st.floats(-1e6, 0.0), min_size=6, max_size=6))
def test_numbers_of_any_size_stay_finite(sampler: list[float], trainer: list[float]) -> None:
    count = len(sampler)
    mask = np.arange(count + 1) > 0
    sequence = TokenSequence(np.arange(count + 1), mask, np.array([0.0, *sampler]), np.zeros(count + 1, np.int64))
    own = np.array([0.0, *trainer[:count]])
    for correction in ON:
        done = correct([sequence], [own], [np.zeros(count + 1)], correction)
        assert np.isfinite(list(done.facts.values())).all()
        assert 0 <= done.facts["mismatch/rejected"] <= 1
        assert all(np.isfinite(weights).all() for weights in done.weights or ())


def test_an_episode_without_a_completion_stays_and_nothing_at_all_is_allowed() -> None:
    empty = TokenSequence(np.arange(3), np.zeros(3, bool), np.zeros(3), np.zeros(3, np.int64))
    done = correct([empty], [np.zeros(3)], [None], Correction("truncated", "sequence"))
    assert (done.kept, done.facts) == ([0], {"mismatch/mean": 0.0, "mismatch/largest": 0.0, "mismatch/rejected": 0.0})
    assert correct([], [], [], Correction("truncated")).kept == []


def test_mistakes_of_the_user() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'truncated'"):
        Correction("trunkated")
    with pytest.raises(UnknownNameError, match="'off-policy'"):
        Correction(mask="off_policy")
    for wrong in ({"cap": 0.0}, {"low": 2.0, "high": 1.0}, {"drift": -1.0}, {"cap": math.nan}):
        with pytest.raises(UserError, match="a correction needs"):
            Correction(**wrong)
    sequence, trainer = by_hand()
    with pytest.raises(UserError, match="needs advantages"):
        correct([sequence], [trainer], [None], Correction(mask="off-policy"))
