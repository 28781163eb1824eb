"""What methods say of episodes in several pieces: the figures of one piece, on the same sampled tokens, derived in the
comments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from agents.methods.adaptive_cringe import TokenCRINGE
from agents.methods.craft import CRAFT
from agents.methods.grpo import GRPO
from agents.methods.grpo_lambda import GRPOLambda
from agents.methods.hsd import HSD
from agents.methods.segmenter import Segmenter
from agents.methods.sgcd import SGCD
from agents.methods.turns import on_turns, turn_count
from harness.protocols.check_method import MethodError, check_method
from harness.types import Credit, Ending, Episode, Evidence, RolloutGroup, Scores, TokenSequence, TopK

# The first sibling: a prompt, two sampled tokens of turn 0, a reply; then again the prompt and, sampled, one token of
# turn 2 behind turn 1 of one token, whose piece is the second. Three pieces, sampled tokens at 1, 2, 6, 10.
MASK = np.array([0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1], dtype=bool)
TURNS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 2])
STARTS = (4, 8)
A = 0.5 / (math.sqrt(0.5) + 1e-6)
"""Rewards 1 and 0: mean 1/2, std (ddof 1) sqrt(1/2)."""


def episode(mask: np.ndarray, turns: np.ndarray, reward: float, starts: tuple[int, ...] = ()) -> Episode:
    sequence = TokenSequence(np.arange(len(mask)), mask, np.where(mask, -1.0, 0.0), turns, starts)
    return Episode("t", sequence, reward, reward > 0.5, Ending.COMPLETED)


WIN = episode(MASK, TURNS, 1.0, STARTS)
LOSS = episode(np.array([0, 1, 0, 1], dtype=bool), np.array([0, 0, 0, 1]), 0.0)
GROUP = RolloutGroup("t", (WIN, LOSS))


def laid(mask: np.ndarray, values: Any) -> np.ndarray:
    """Values on the sampled tokens, 0 elsewhere."""
    out = np.zeros((len(mask), *np.shape(values)[1:]))
    out[mask] = values
    return out


def taught(e: Episode, gaps: list[float]) -> Evidence:
    return Evidence(teacher=Scores(e.sequence.logprobs + laid(e.sequence.mask, gaps)))


def credits_of(method: Any, known: list[Evidence]) -> tuple[Credit, Credit]:
    [[first, second]], _, _ = method.assign((GROUP,), (known,), method.initial_state())
    for credit, e in ((first, WIN), (second, LOSS)):
        if credit.advantages is not None:
            assert not credit.advantages[~e.sequence.mask].any()
    return first, second


def test_turns_count_over_the_pieces() -> None:
    assert turn_count(WIN.sequence) == 3
    # 10, 20 and 30 a turn, on two, one and one sampled tokens.
    assert on_turns(WIN.sequence, np.array([10.0, 20.0, 30.0]))[MASK].tolist() == [10, 10, 20, 30]


def test_grpo() -> None:
    first, second = credits_of(GRPO(kl=0.0), [Evidence(), Evidence()])
    np.testing.assert_allclose(first.advantages, np.where(MASK, A, 0.0), rtol=1e-15)
    np.testing.assert_allclose(second.advantages, np.where(LOSS.sequence.mask, -A, 0.0), rtol=1e-15)


def test_a_trace_counts_sampled_tokens() -> None:
    # lam 1/2 over four sampled tokens: 1 + 1/2 + 1/4 + 1/8, 1 + 1/2 + 1/4, 1 + 1/2, 1, wherever their pieces begin.
    first, _ = credits_of(GRPOLambda(lam=0.5, kl=0.0), [Evidence(), Evidence()])
    np.testing.assert_allclose(first.advantages[MASK], A * np.array([1.875, 1.75, 1.5, 1.0]), rtol=1e-15)


@pytest.mark.parametrize("alignment", ["turn", "episode"])
def test_craft(alignment: str) -> None:
    # One sibling each: its weight is 1 and CTI = A_j - A_i = -2A for the first, 2A for the second, where both stand.
    # By turn, (0, 0) and (1, 0) are shared: sampled tokens 0 and 2 of the first. By episode, tokens 0 and 1 are.
    # Elsewhere CTI = A * gap, the fallback below two siblings. Likelihood weight lam tanh(beta CTI / 2).
    gaps = [0.3, 0.2, -0.1, 0.4]
    method = CRAFT(
        phase_aware=False, polarised_kl=False, alignment=alignment, lam=0.01, beta_plus=1, beta_minus=1, kl=0.0
    )
    first, second = credits_of(method, [taught(WIN, gaps), taught(LOSS, [0.5, -0.5])])
    shared = [0, 2] if alignment == "turn" else [0, 1]
    importance = [-2 * A if n in shared else A * gap for n, gap in enumerate(gaps)]
    np.testing.assert_allclose(first.likelihood[MASK], 0.01 * np.tanh(np.array(importance) / 2), rtol=1e-12)
    np.testing.assert_allclose(second.likelihood[LOSS.sequence.mask], 0.01 * np.tanh([A, A]), rtol=1e-12)
    np.testing.assert_allclose(first.advantages[MASK], A, rtol=1e-15)


def test_adaptive_cringe() -> None:
    # c = tanh(beta gap / 2), token by token.
    gaps = [0.3, 0.2, -0.1, 0.4]
    method = TokenCRINGE(beta=2.0, lam=0.5, kl=0.0)
    first, second = credits_of(method, [taught(WIN, gaps), Evidence()])
    np.testing.assert_allclose(first.likelihood, laid(MASK, 0.5 * np.tanh(gaps)), rtol=1e-12)
    assert not np.any(second.likelihood)


def distributions(e: Episode, teacher: list[float], student: list[float]) -> Evidence:
    """Two entries each, of chances q and 1 - q; the sampled token is the first."""
    mask, places = e.sequence.mask, e.sequence.tokens

    def scores(chances: list[float]) -> Scores:
        logs = np.log(np.stack([chances, 1 - np.array(chances)], axis=1))
        ids = np.stack([places, places + 1], axis=1)
        return Scores(laid(mask, logs[:, 0]), TopK(ids, laid(mask, logs)))

    return Evidence(scores(teacher), scores(student), reference=laid(mask, -1.5 - np.arange(mask.sum())))


def test_hsd() -> None:
    # Advantage (1 - mix) A and one weight, mix, on every sampled token; the teacher stands where it stood.
    method = HSD(mix=0.25, kl=0.0)
    known = [distributions(WIN, [0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.6, 0.7]), Evidence()]
    first, _ = credits_of(method, known)
    np.testing.assert_allclose(first.advantages, np.where(MASK, 0.75 * A, 0.0), rtol=1e-15)
    np.testing.assert_allclose(first.distillation.weights, np.where(MASK, 0.25, 0.0), rtol=1e-15)
    np.testing.assert_array_equal(first.distillation.target.ids[MASK, 0], np.flatnonzero(MASK))


def test_the_kl_of_a_whole_sequence_sums_over_its_pieces() -> None:
    # delta = -1 - (-1.5 - n) = 0.5 + n for sampled token n: 0.5, 1.5, 2.5, 3.5. What lies ahead: 8, 7.5, 6, 3.5; times
    # kl and the mean number of sampled tokens, (4 + 2) / 2 = 3.
    method = HSD(mix=0.25, kl=0.1, kl_form="sequence")
    known = [distributions(e, [0.5] * n, [0.5] * n) for e, n in ((WIN, 4), (LOSS, 2))]
    first, second = credits_of(method, known)
    np.testing.assert_allclose(first.likelihood[MASK], -0.3 * np.array([8, 7.5, 6, 3.5]), rtol=1e-12)
    np.testing.assert_allclose(second.distillation.weights, np.where(LOSS.sequence.mask, 0.25, 0.0), rtol=1e-15)
    assert second.distillation.target.ids.shape == (4, 2)


def test_sgcd_is_that_of_one_piece() -> None:
    """Segments, saliency and weights are over sampled tokens: those of the same tokens without what is shown again."""
    method = SGCD(kl=0.0, segmenter=Segmenter(spike=1.0))
    chances = [0.9, 0.6, 0.2, 0.8], [0.4, 0.5, 0.6, 0.7]
    known = [distributions(WIN, *chances), distributions(LOSS, [0.5, 0.1], [0.4, 0.6])]
    first, second = credits_of(method, known)
    kept = [0, 1, 2, 3, 6, 7, 10]  # the prompt, what was sampled, and the replies
    of = WIN.sequence
    tokens = TokenSequence(of.tokens[kept], of.mask[kept], of.logprobs[kept], of.turns[kept])
    plain = Episode("t", tokens, 1.0, True, Ending.COMPLETED)
    alone = [replace_tokens(known[0], kept), known[1]]
    [[one, other]], _, _ = method.assign((RolloutGroup("t", (plain, LOSS)),), (alone,), method.initial_state())
    np.testing.assert_allclose(first.advantages[kept], one.advantages, rtol=1e-12)
    np.testing.assert_allclose(second.advantages, other.advantages, rtol=1e-12)
    assert len(set(first.advantages[MASK].round(9).tolist())) > 1  # it does weigh


def replace_tokens(known: Evidence, kept: list[int]) -> Evidence:
    def of(scores: Scores) -> Scores:
        assert scores.distribution is not None
        return Scores(scores.logprobs[kept], TopK(scores.distribution.ids[kept], scores.distribution.logprobs[kept]))

    return Evidence(of(known.teacher), of(known.student), known.reference[kept])


@dataclass(frozen=True)
class ByLength(GRPO):
    """Divides by the length of the sequence, prompts included: what it says changes with what is shown again."""

    kl: float = 0.0

    def assign(self, groups: Any, evidence: Any, state: Any) -> Any:
        credits, state, log = super().assign(groups, evidence, state)
        halved = [[Credit(c.advantages / len(c.advantages)) for c in row] for row in credits]
        return halved, state, log


def test_a_method_that_reads_more_than_sampled_tokens_is_found() -> None:
    with pytest.raises(MethodError, match="credit of a sampled token changes where its episode is in several pieces"):
        check_method(ByLength(), range(10))
    check_method(GRPO(kl=0.0), range(10))
