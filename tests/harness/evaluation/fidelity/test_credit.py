"""The direction of a credit: against hand numbers for the sampled token's terms, and against the gradient of the
logits for distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.evaluation.fidelity.credit import directions, own_streams
from harness.experiment import LossSettings
from harness.losses import vocabulary_divergence, with_tail
from harness.types import Anchor, Credit, Distillation, KLForm, TokenSequence, TopK

LOSS = LossSettings()
Ragged = Callable[..., list[list[TokenSequence]]]


@pytest.fixture
def sequences(ragged_groups: Ragged) -> list[TokenSequence]:
    return [sequence for group in ragged_groups(7, groups=2) for sequence in group]


def random_stream(rng: np.random.Generator, sequence: TokenSequence) -> np.ndarray:
    return np.where(sequence.mask, rng.normal(size=len(sequence)), 0.0)


def sampled(streams: list[np.ndarray], sequences: list[TokenSequence]) -> np.ndarray:
    return np.concatenate([stream[s.mask] for stream, s in zip(streams, sequences, strict=True)])


def test_advantage_and_likelihood_are_their_sum(sequences: list[TokenSequence], backend_of: Any) -> None:
    rng = np.random.default_rng(0)
    advantages = [random_stream(rng, s) for s in sequences]
    likelihood = [random_stream(rng, s) for s in sequences]
    plain = directions(sequences, [Credit(a) for a in advantages], backend_of(), LOSS)
    both = directions(
        sequences, [Credit(a, c) for a, c in zip(advantages, likelihood, strict=True)], backend_of(), LOSS
    )
    np.testing.assert_allclose(np.concatenate(plain), sampled(advantages, sequences), atol=1e-12)
    np.testing.assert_allclose(
        np.concatenate(both), sampled(advantages, sequences) + sampled(likelihood, sequences), atol=1e-12
    )
    assert [len(credit) for credit in both] == [
        int(s.mask.sum()) for s in sequences
    ]  # in the order given, not the packed one


def test_the_mean_over_tokens_is_the_experiments_and_no_credit(sequences: list[TokenSequence], backend_of: Any) -> None:
    credits = [Credit(random_stream(np.random.default_rng(1), s)) for s in sequences]
    other = LossSettings(aggregate="sequence-mean-token-sum", sum_constant=100.0)
    for one, two in zip(
        directions(sequences, credits, backend_of(), LOSS),
        directions(sequences, credits, backend_of(), other),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("form", "pull"),
    [
        # -d/d log pi of k1, -k1, delta^2/2, e^-delta - 1 + delta, rho (e^-delta - 1 + delta) with rho = 1
        (KLForm.K1, lambda delta: -np.ones_like(delta)),
        (KLForm.NEG_K1, lambda delta: np.ones_like(delta)),
        (KLForm.K2, lambda delta: -delta),
        (KLForm.K3, lambda delta: np.exp(-delta) - 1),
        (KLForm.IS_K3, lambda delta: -(np.exp(-delta) - 1 + delta) + np.exp(-delta) - 1),
    ],
)
def test_an_anchor_pulls_by_its_derivative(
    sequences: list[TokenSequence], backend_of: Any, form: KLForm, pull: Any
) -> None:
    rng = np.random.default_rng(2)
    anchors = [np.where(s.mask, s.logprobs + rng.normal(size=len(s)), 0.0) for s in sequences]
    weights = [np.where(s.mask, 0.3, 0.0) for s in sequences]
    credits = [
        Credit(np.zeros(len(s)), anchor=Anchor(a, w, np.full(len(s), form, dtype=object)))
        for s, a, w in zip(sequences, anchors, weights, strict=True)
    ]
    delta = sampled([s.logprobs - a for s, a in zip(sequences, anchors, strict=True)], sequences)
    np.testing.assert_allclose(
        np.concatenate(directions(sequences, credits, backend_of(), LOSS)), 0.3 * pull(delta), atol=1e-10
    )


@pytest.mark.parametrize("k", [5, 280])
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_distillation_counts_as_the_logits_gradient_over_pi(
    sequences: list[TokenSequence], backend_of: Any, divergence: Any, k: int
) -> None:
    """Autograd through the softmax, token by token. One episode in two has a teacher; with k = 5 most sampled tokens
    are in the tail."""
    backend = backend_of()
    vocabulary = backend.vocabulary
    k = min(k, vocabulary)
    rng = np.random.default_rng(3)
    teacher = [rng.normal(size=(len(s), vocabulary)) for s in sequences]
    teacher = [t - np.log(np.exp(t).sum(-1, keepdims=True)) for t in teacher]
    ids = [np.stack([rng.permutation(vocabulary)[:k] for _ in range(len(s))]) for s in sequences]
    credits = [
        Credit(distillation=Distillation(TopK(i, np.take_along_axis(t, i, 1)), np.where(s.mask, 0.7, 0.0), divergence))
        if n % 2
        else Credit()
        for n, (s, t, i) in enumerate(zip(sequences, teacher, ids, strict=True))
    ]
    found = directions(sequences, credits, backend, LOSS)
    whole = backend.score(sequences, top_k=vocabulary)
    for n, (s, t, i) in enumerate(zip(sequences, teacher, ids, strict=True)):
        if n % 2 == 0:
            np.testing.assert_array_equal(found[n], np.zeros(int(s.mask.sum())))
            continue
        for credit, place in zip(found[n], np.flatnonzero(s.mask), strict=True):
            logits = torch.tensor(whole[n].distribution.logprobs[place], requires_grad=True)
            entries, label = torch.tensor(i[place]), int(s.tokens[place])
            student = with_tail(logits.log_softmax(-1)[entries])
            q = with_tail(torch.tensor(t[place])[entries])
            vocabulary_divergence(q[None], student[None], divergence, 0.5).sum().backward()
            pi = logits.detach().softmax(-1)
            if label in i[place]:
                expected = -0.7 * logits.grad[label] / pi[label]
            else:  # the tail's entries move together: their gradients over their chances are one number
                tail = np.setdiff1d(np.arange(vocabulary), i[place])
                expected = -0.7 * logits.grad[tail].sum() / pi[tail].sum()
            # the whole vocabulary leaves a tail of 1e-12 whose share is rounding
            assert credit == pytest.approx(float(expected), rel=1e-6, abs=1e-8)


def test_forward_distillation_is_q_over_pi_minus_one(sequences: list[TokenSequence], backend_of: Any) -> None:
    """Its mean under the policy is 0, as an advantage's is: sum_v pi_v (q_v / pi_v - 1)."""
    backend = backend_of()
    target = backend.score(sequences, top_k=backend.vocabulary)
    rolled = [TopK(d.ids, np.roll(d.logprobs, 1, axis=1)) for d in (score.distribution for score in target)]
    credits = [
        Credit(distillation=Distillation(t, s.mask.astype(np.float64))) for s, t in zip(sequences, rolled, strict=True)
    ]
    for s, t, score, credit in zip(
        sequences, rolled, target, directions(sequences, credits, backend, LOSS), strict=True
    ):
        log_q = np.take_along_axis(t.logprobs, s.tokens[:, None], 1)[:, 0]
        np.testing.assert_allclose(credit, (np.exp(log_q - score.logprobs) - 1)[s.mask], rtol=1e-8)


def test_own_streams_are_the_likelihood(sequences: list[TokenSequence]) -> None:
    rng = np.random.default_rng(4)
    streams = [random_stream(rng, s) for s in sequences]
    assert own_streams(sequences, [Credit(stream) for stream in streams]) is None
    mixed = [Credit(stream, stream if n else None) for n, stream in enumerate(streams)]
    own = own_streams(sequences, mixed)
    assert own is not None
    np.testing.assert_array_equal(own[0], np.zeros(int(sequences[0].mask.sum())))
    np.testing.assert_array_equal(own[1], streams[1][sequences[1].mask])
