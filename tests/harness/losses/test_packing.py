"""Packing: nothing is lost, columns are about the next token, and bad input is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.packing import pack
from harness.types import Credit, Distillation, TokenSequence, TopK


def sequence(rng: np.random.Generator, length: int) -> TokenSequence:
    mask = rng.random(length) < 0.5
    mask[0] = False
    return TokenSequence(
        rng.integers(1, 99, length), mask, np.where(mask, -rng.random(length), 0.0), np.zeros(length, dtype=int)
    )


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = [sequence(rng, length) for length in lengths]
    credits = [Credit(advantages=np.where(s.mask, rng.normal(size=len(s)), 0.0)) for s in sequences]
    batch = pack(sequences, credits)
    assert batch.step_tokens == sum(int(s.mask.sum()) for s in sequences) == int(batch.mask.sum())
    assert batch.step_sequences == len(sequences)
    assert sorted(batch.order.tolist()) == list(range(len(sequences)))
    assert batch.lengths.tolist() == sorted(lengths, reverse=True)
    assert batch.advantages is not None
    for row, place in enumerate(batch.order.tolist()):
        s, n = sequences[place], len(sequences[place])
        assert batch.tokens[row, :n].tolist() == s.tokens.tolist()
        assert batch.mask[row, : n - 1].tolist() == s.mask[1:].tolist()
        assert batch.logprobs[row, : n - 1].tolist() == s.logprobs[1:].tolist()
        given_ = credits[place].advantages
        assert given_ is not None
        assert batch.advantages[row, : n - 1].tolist() == given_[1:].tolist()
        assert not batch.mask[row, n - 1 :].any()
        prompt = int(batch.prompts[row])
        assert not s.mask[:prompt].any()
        assert prompt == n or s.mask[prompt]


def test_a_sampled_first_token_is_refused() -> None:
    bad = TokenSequence(np.array([1, 2]), np.array([True, True]), np.array([-1.0, -1.0]), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="first token is marked as sampled"):
        pack([bad], [Credit()])


def test_wrong_lengths_and_values_are_named(ragged_groups: Callable[..., Any]) -> None:
    (first, *_), *_ = ragged_groups(0)
    with pytest.raises(ValueError, match=r"credit 0: advantages has 2 entries"):
        pack([first], [Credit(advantages=np.zeros(2))])
    with pytest.raises(ValueError, match=r"credit 0: likelihood is not finite"):
        pack([first], [Credit(likelihood=np.full(len(first), np.nan))])
    with pytest.raises(ValueError, match="1 sequences but 0 credits"):
        pack([first], [])
    with pytest.raises(ValueError, match="nothing to pack"):
        pack([], [])


def test_one_kind_of_distillation_per_step(ragged_groups: Callable[..., Any]) -> None:
    first, second, *_ = ragged_groups(0)[0]

    def credit(s: TokenSequence, divergence: Any) -> Credit:
        target = TopK(np.zeros((len(s), 2), dtype=int), np.full((len(s), 2), -1.0))
        return Credit(distillation=Distillation(target, s.mask * 1.0, divergence))

    with pytest.raises(ValueError, match="one kind of distillation"):
        pack([first, second], [credit(first, "forward"), credit(second, "reverse")])
