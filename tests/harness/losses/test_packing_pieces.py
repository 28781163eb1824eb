"""Pieces are rows of their own and one sequence in the loss: what does not change when an episode is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from piecewise import in_pieces, of_pieces
from torch import Tensor

from harness.experiment import LossSettings
from harness.losses import Batch, policy_loss
from harness.losses.mismatch import Correction, correct
from harness.losses.packing import pack
from harness.types import Anchor, Credit, Distillation, KLForm, TokenSequence, TopK

AGGREGATES: list[dict[str, Any]] = [
    {"aggregate": "token-mean"},
    {"aggregate": "sequence-mean-token-mean"},
    {"aggregate": "sequence-mean-token-sum", "sum_constant": 7.0},
]


def credits_of(sequences: Sequence[TokenSequence], seed: int = 0) -> list[Credit]:
    """All four streams, 0 off the mask."""
    rng, out = np.random.default_rng(seed), []
    for s in sequences:
        gains, weights, pull, further = np.where(s.mask, rng.normal(size=(4, len(s))), 0.0)
        anchor = Anchor(s.logprobs + 0.1, np.abs(pull), np.full(len(s), KLForm.K3, dtype=object))
        scores = rng.normal(size=(len(s), 9))
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        ids = np.stack([rng.permutation(270)[:4] for _ in range(len(s))])
        out.append(Credit(gains, weights, anchor, Distillation(TopK(ids, scores[:, :4]), np.abs(further))))
    return out


@pytest.fixture
def both(ragged_groups: Callable[..., Any]) -> tuple[Any, Any]:
    """Sequences and credits in one piece, and every other one of them in pieces whose prompts are the history."""
    sequences = [s for group in ragged_groups(3, groups=2) for s in group]
    credits = credits_of(sequences)
    cut = [n % 2 == 1 for n in range(len(sequences))]
    split = [in_pieces(s) if apart else s for s, apart in zip(sequences, cut, strict=True)]
    spread = [of_pieces(c, s) if apart else c for c, s, apart in zip(credits, sequences, cut, strict=True)]
    assert sum(len(s.pieces) for s in split) > len(split)
    return (sequences, credits), (split, spread)


def gradient(backend: Any, batch: Batch, loss: LossSettings) -> tuple[float, list[Tensor]]:
    """The loss and its gradient by the weights."""
    backend.model.zero_grad()
    total = 0.0
    for logprobs, support, part in backend.differentiable(batch):
        value = policy_loss(logprobs, part, loss, support).total
        value.backward()
        total += float(value.detach())
    return total, [p.grad.clone() for p in backend.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("settings", AGGREGATES, ids=lambda given: given["aggregate"])
@pytest.mark.parametrize("micro_tokens", [8192, 40])
def test_pieces_with_the_whole_history_have_the_loss_and_gradient_of_one(
    both: Any, backend_of: Callable[..., Any], settings: dict[str, Any], micro_tokens: int
) -> None:
    backend, loss = backend_of(micro_tokens=micro_tokens), LossSettings(**settings)
    one, pieces = (gradient(backend, pack(*given), loss) for given in both)
    assert pieces[0] == pytest.approx(one[0], rel=1e-12)
    assert len(one[1]) == len(pieces[1]) > 5
    for ours, theirs in zip(pieces[1], one[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_no_sampled_token_is_lost_and_none_counts_twice(both: Any) -> None:
    (whole, _), (split, spread) = both
    batch = pack(split, spread)
    pieces = [(n, piece) for n, s in enumerate(split) for piece in s.pieces]
    assert len(batch) == len(pieces)
    assert batch.step_sequences == len(whole)
    assert batch.step_tokens == sum(int(s.mask.sum()) for s in whole) == int(batch.mask.sum())
    assert sorted(batch.order.tolist()) == list(range(len(pieces)))
    for row, place in enumerate(batch.order.tolist()):
        episode, piece = pieces[place]
        assert batch.tokens[row, : len(piece)].tolist() == piece.tokens.tolist()
        assert batch.mask[row, : len(piece) - 1].tolist() == piece.mask[1:].tolist()
        assert int(batch.episode_tokens[row]) == int(whole[episode].mask.sum())
    half = batch.rows([0, len(batch) - 1])
    assert half.episode_tokens.tolist() == [int(batch.episode_tokens[0]), int(batch.episode_tokens[-1])]


def test_a_sequence_of_a_mean_is_an_episode() -> None:
    # An episode of 1 + 2 sampled tokens in two pieces, and one of a single token. Advantages 1 at ratio 1: every token
    # adds -1 times its share. Of a mean of means: tokens of the first 1/3 * 1/2 each, of the second 1/2.
    # Of sums: 1/(5 * 2) each. Of tokens: 1/4 each.
    mask = np.array([False, True, False, False, True, True])
    first = TokenSequence(np.arange(6), mask, np.zeros(6), np.array([0, 0, 0, 0, 1, 1]), (2,))
    second = TokenSequence(np.arange(2), mask[:2], np.zeros(2), np.zeros(2, int))
    batch = pack([first, second], [Credit(mask.astype(float)), Credit(mask[:2].astype(float))])
    expected = {"token-mean": [1 / 4] * 4, "sequence-mean-token-mean": [1 / 6] * 3 + [1 / 2]}
    for aggregate, shares in (expected | {"sequence-mean-token-sum": [1 / 10] * 4}).items():
        constant = 5.0 if aggregate == "sequence-mean-token-sum" else None
        logprobs = torch.zeros(batch.mask.shape, dtype=torch.float64, requires_grad=True)
        policy_loss(logprobs, batch, LossSettings(aggregate=aggregate, sum_constant=constant)).total.backward()
        of_rows = {place: -logprobs.grad[row][batch.mask[row]] for row, place in enumerate(batch.order.tolist())}
        assert torch.cat([of_rows[0], of_rows[1], of_rows[2]]).tolist() == pytest.approx(shares, rel=1e-15)


def test_a_correction_keeps_or_rejects_an_episode_with_all_its_pieces(both: Any) -> None:
    (whole, _), (split, _) = both
    rng, correction = np.random.default_rng(5), Correction(weight="truncated", mask="sequence", low=0.9, high=1.1)
    trainer = [np.where(s.mask, s.logprobs + rng.normal(0, 0.2, len(s)), 0.0) for s in whole]
    apart = [of_pieces(t, s) if p.starts else t for t, s, p in zip(trainer, whole, split, strict=True)]
    nothing = [None] * len(whole)
    one, other = correct(whole, trainer, nothing, correction), correct(split, apart, nothing, correction)
    assert one.kept == other.kept
    assert 0 < len(one.kept) < len(whole)
    assert [s.starts for s in other.sequences] == [split[n].starts for n in other.kept]
    batch = pack(other.sequences, [Credit()] * len(other.kept), other.weights)
    plain = pack(one.sequences, [Credit()] * len(one.kept), one.weights)
    assert sorted(batch.weights[batch.mask].tolist()) == sorted(plain.weights[plain.mask].tolist())
