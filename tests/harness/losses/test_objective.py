"""The one loss: against a naive loop, finite differences, its identities, and hand numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.experiment import LossSettings
from harness.losses import FORMS, policy_loss, vocabulary_divergence, with_tail
from harness.packing import pack
from harness.types import Anchor, Credit, Distillation, KLForm, TokenSequence, TopK

SPECS = [
    LossSettings(),
    LossSettings(clip_low=0.1, clip_high=0.28, aggregate="sequence-mean-token-mean"),
    LossSettings(aggregate="sequence-mean-token-sum", sum_constant=7.0, dual_clip=3.0),
]
K = 5


def random_credit(rng: np.random.Generator, sequence: TokenSequence, divergence: str = "forward") -> Credit:
    length, mask = len(sequence), sequence.mask

    def stream() -> np.ndarray:
        return np.where(mask, rng.normal(size=length), 0.0)

    scores = rng.normal(size=(length, 40))
    logq = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    ids = np.argsort(-logq, axis=1)[:, :K]
    return Credit(
        advantages=stream(),
        likelihood=stream(),
        anchor=Anchor(
            np.where(mask, -rng.exponential(2.0, size=length), 0.0),
            np.abs(stream()),
            rng.choice(np.array(FORMS, dtype=object), length),
        ),
        distillation=Distillation(TopK(ids, np.take_along_axis(logq, ids, 1)), np.abs(stream()), divergence, 0.3, 2.0),
    )


def a_step(
    rng: np.random.Generator, sequences: list[TokenSequence], divergence: str = "forward"
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """A batch with every stream, and a policy's log-probabilities for it."""
    batch = pack(sequences, [random_credit(rng, s, divergence) for s in sequences])
    logprobs = torch.from_numpy(-rng.exponential(1.5, size=batch.mask.shape)).requires_grad_()
    scores = torch.from_numpy(rng.normal(size=(*batch.mask.shape, 40)))
    support = with_tail(scores.log_softmax(-1)[..., :K]).requires_grad_()
    return batch, logprobs, support


def naive(logprobs: torch.Tensor, support: torch.Tensor, batch: Any, spec: LossSettings) -> dict[str, float]:
    """The four terms, token by token, straight from their definitions."""
    terms = dict.fromkeys(("surrogate", "likelihood", "anchor", "distillation"), 0.0)
    for row, column in itertools.product(*map(range, batch.mask.shape)):
        if not batch.mask[row, column]:
            continue
        share = {
            "token-mean": 1 / batch.step_tokens,
            "sequence-mean-token-mean": 1 / (int(batch.mask[row].sum()) * batch.step_sequences),
            "sequence-mean-token-sum": 1 / ((spec.sum_constant or 1) * batch.step_sequences),
        }[spec.aggregate]
        lp, old = float(logprobs[row, column]), float(batch.logprobs[row, column])
        advantage, ratio = float(batch.advantages[row, column]), math.exp(lp - old)
        gain = min(ratio * advantage, min(max(ratio, 1 - spec.clip_low), 1 + spec.clip_high) * advantage)
        if spec.dual_clip and advantage < 0:
            gain = max(gain, spec.dual_clip * advantage)
        terms["surrogate"] -= share * gain
        terms["likelihood"] -= share * float(batch.likelihood[row, column]) * lp
        delta = lp - float(batch.anchor.logprobs[row, column])
        k3 = math.exp(min(max(-delta, -20), 20)) - 1 + delta
        form = FORMS[int(batch.anchor.forms[row, column])]
        value = {"k1": delta, "-k1": -delta, "k2": delta**2 / 2, "k3": k3, "is_k3": math.exp(min(lp - old, 10)) * k3}[
            form.value
        ]
        terms["anchor"] += share * float(batch.anchor.weights[row, column]) * value
        d = batch.distillation
        q, p = d.logprobs[row, column].exp().tolist(), support[row, column].exp().tolist()
        value = sum(naive_divergence(a, b, d.divergence, d.alpha) for a, b in zip(q, p, strict=True))
        terms["distillation"] += share * float(d.weights[row, column]) * min(ratio, d.ratio_clip) * value
    return terms


def naive_divergence(q: float, p: float, kind: str, alpha: float) -> float:
    m = (1 - alpha) * p + alpha * q
    return {
        "forward": q * math.log(q / p),
        "reverse": p * math.log(p / q),
        "jsd": (1 - alpha) * p * math.log(p / m) + alpha * q * math.log(q / m),
    }[kind]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_terms_equal_a_naive_loop(spec: LossSettings, divergence: str, ragged_groups: Callable[..., Any]) -> None:
    rng = np.random.default_rng(1)
    batch, logprobs, support = a_step(rng, sum(ragged_groups(1), []), divergence)
    out = policy_loss(logprobs, batch, spec, support)
    expected = naive(logprobs.detach(), support.detach(), batch, spec)
    assert set(out.terms) == set(expected)
    for name, value in expected.items():
        assert float(out.terms[name].detach()) == pytest.approx(value, rel=1e-12, abs=1e-12), name
    assert float(out.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-12)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("term", ["surrogate", "likelihood", "anchor", "distillation"])
def test_finite_differences_of_every_term(spec: LossSettings, term: str, ragged_groups: Callable[..., Any]) -> None:
    rng = np.random.default_rng(2)
    batch, logprobs, support = a_step(rng, sum(ragged_groups(2, groups=1, size=2), []), "jsd")
    # The detached ratio of the distillation is a constant of the gradient, and would not be one of a finite difference.
    weights = {"distillation": lambda: policy_loss(logprobs.detach(), batch, spec, support)}
    gradient_of = weights.get(term, lambda: policy_loss(logprobs, batch, spec, support))
    varied = support if term == "distillation" else logprobs
    gradient = torch.autograd.grad(gradient_of().terms[term], varied)[0]
    step = 1e-6
    for index in zip(*np.nonzero(batch.mask.numpy()), strict=True):
        place = (*index, 2) if term == "distillation" else index
        values = []
        for sign in (1, -1):
            moved = varied.detach().clone()
            moved[place] += sign * step
            pair = (logprobs.detach(), moved) if term == "distillation" else (moved, support.detach())
            values.append(float(policy_loss(pair[0], batch, spec, pair[1]).terms[term]))
        # central differences err by about step^2 times the third derivative, and 1e-16 / step of rounding
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_parts_of_a_cut_batch_add_up(ragged_groups: Callable[..., Any]) -> None:
    rng = np.random.default_rng(3)
    for spec in SPECS:
        batch, logprobs, support = a_step(rng, sum(ragged_groups(3), []))
        whole = policy_loss(logprobs, batch, spec, support)
        expected = torch.autograd.grad(whole.total, (logprobs, support))
        total, gradients = 0.0, [torch.zeros_like(logprobs), torch.zeros_like(support)]
        for rows in (torch.tensor([5, 0, 7]), torch.tensor([1, 2, 3, 4, 6, 8, 9, 10, 11])):
            part = batch.rows(rows)
            width = part.mask.shape[1]
            out = policy_loss(logprobs[rows, :width], part, spec, support[rows, :width])
            total += float(out.total.detach())
            for into, gradient in zip(gradients, torch.autograd.grad(out.total, (logprobs, support)), strict=True):
                into += gradient
        assert total == pytest.approx(float(whole.total.detach()), rel=1e-13)
        for got, want in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def test_order_of_sequences_changes_nothing(ragged_groups: Callable[..., Any]) -> None:
    rng = np.random.default_rng(4)
    sequences = sum(ragged_groups(4), [])
    credits = [random_credit(rng, s) for s in sequences]
    policy = {id(s): -rng.exponential(1.5, size=len(s)) for s in sequences}
    losses = []
    for order in (range(len(sequences)), rng.permutation(len(sequences))):
        chosen = [sequences[i] for i in order]
        batch = pack(chosen, [Credit(c.advantages, c.likelihood, c.anchor) for c in (credits[i] for i in order)])
        logprobs = np.zeros(batch.mask.shape)
        for row, place in enumerate(batch.order.tolist()):
            values = policy[id(chosen[place])][1:]
            logprobs[row, : len(values)] = values
        losses.append(float(policy_loss(torch.from_numpy(logprobs), batch, SPECS[1]).total))
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def test_absent_streams_leave_no_trace_in_the_graph(ragged_groups: Callable[..., Any]) -> None:
    sequences = ragged_groups(5, groups=1)[0]
    batch = pack(sequences, [Credit(advantages=s.mask * 1.0) for s in sequences])
    logprobs = batch.logprobs.clone().requires_grad_()
    out = policy_loss(logprobs, batch, LossSettings())
    assert list(out.terms) == ["surrogate"]
    # With ratio 1 and advantage 1 everywhere the loss is -1 and every sampled token's gradient -1 / tokens.
    assert float(out.total.detach()) == pytest.approx(-1.0, rel=1e-15)
    gradient = torch.autograd.grad(out.total, logprobs)[0]
    torch.testing.assert_close(gradient, -batch.mask.double() / batch.step_tokens, rtol=1e-12, atol=0)


def test_a_stream_set_in_one_credit_counts_as_zero_elsewhere(ragged_groups: Callable[..., Any]) -> None:
    first, *others = ragged_groups(6, groups=1)[0]
    rng = np.random.default_rng(6)
    credit = random_credit(rng, first)
    batch = pack([first, *others], [credit, *(Credit() for _ in others)])
    alone = pack([first], [credit])
    assert batch.distillation is not None
    row = batch.order.tolist().index(0)
    width = len(first) - 1
    logprobs = torch.from_numpy(-rng.exponential(1.0, size=batch.mask.shape)).requires_grad_()
    support = with_tail(torch.from_numpy(rng.normal(size=(*batch.mask.shape, 40))).log_softmax(-1)[..., :K])
    out = policy_loss(logprobs, batch, LossSettings(), support)
    same = policy_loss(logprobs[row : row + 1, :width], alone, LossSettings(), support[row : row + 1, :width])
    share = alone.step_tokens / batch.step_tokens
    assert float(out.total.detach()) == pytest.approx(float(same.total.detach()) * share, rel=1e-12)
    gradient = torch.autograd.grad(out.total, logprobs)[0]
    assert torch.all(torch.isfinite(gradient))
    assert torch.all(gradient[torch.arange(len(gradient)) != row] == 0)


def test_clipping_by_hand(ragged_groups: Callable[..., Any]) -> None:
    tokens = TokenSequence(np.arange(5), np.array([False] + [True] * 4), np.zeros(5), np.zeros(5, dtype=int))
    # ratios 1.5, 0.5, 1.5, 0.5 against advantages 1, 1, -1, -1 and bounds 0.8 .. 1.2:
    # min(1.5, 1.2) = 1.2; min(0.5, 0.8) = 0.5; min(-1.5, -1.2) = -1.5; min(-0.5, -0.8) = -0.8; mean = -0.15, loss =
    # 0.15
    batch = pack([tokens], [Credit(advantages=np.array([0, 1.0, 1.0, -1.0, -1.0]))])
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5]], dtype=torch.float64)
    assert float(policy_loss(ratios.log(), batch, LossSettings()).total) == pytest.approx(0.15, rel=1e-12)
    # The dual clip at 3 leaves all of this alone; at ratio 5 and advantage -1 it holds the loss at 3.
    far = torch.tensor([[1.0, 1.0, 5.0, 1.0]], dtype=torch.float64).log()
    assert float(policy_loss(far, batch, LossSettings(dual_clip=3.0)).total) == pytest.approx(
        (-2 + 3 + 1) / 4, rel=1e-12
    )


def test_kl_forms_by_hand() -> None:
    # pi = 1/2, anchor 1/4: delta = ln 2 = 0.6931..., k2 = 0.2402, k3 = 1/2 - 1 + ln 2 = 0.1931, behaviour 1/8: ratio 4
    tokens = TokenSequence(
        np.arange(6), np.array([False] + [True] * 5), np.array([0.0] + [math.log(1 / 8)] * 5), np.zeros(6, dtype=int)
    )
    forms = np.array([KLForm.K3, KLForm.K1, KLForm.NEG_K1, KLForm.K2, KLForm.K3, KLForm.IS_K3], dtype=object)
    expected = [math.log(2), -math.log(2), math.log(2) ** 2 / 2, math.log(2) - 0.5, 4 * (math.log(2) - 0.5)]
    for place, value in enumerate(expected, start=1):
        weights = np.zeros(6)
        weights[place] = 1.0
        batch = pack([tokens], [Credit(anchor=Anchor(np.full(6, math.log(1 / 4)), weights, forms))])
        total = policy_loss(torch.full((1, 5), math.log(1 / 2), dtype=torch.float64), batch, LossSettings()).total
        assert float(total) == pytest.approx(value / 5, rel=1e-12)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_whole_vocabulary_equals_the_exact_divergence(divergence: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(50, 30, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    got = vocabulary_divergence(with_tail(q), with_tail(p), divergence, 0.3)
    exact = torch.tensor(
        [
            sum(naive_divergence(a, b, divergence, 0.3) for a, b in zip(x, y, strict=True))
            for x, y in zip(q.exp().tolist(), p.exp().tolist(), strict=True)
        ],
        dtype=torch.float64,
    )
    # the tail bucket of mass 1e-12 adds at most 1e-12 * |ln(ratio of tails)|
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-11)


def test_bad_calls_say_what_is_wrong(ragged_groups: Callable[..., Any]) -> None:
    sequences = ragged_groups(7, groups=1)[0]
    batch = pack(sequences, [random_credit(np.random.default_rng(0), s) for s in sequences])
    with pytest.raises(ValueError, match="support_logprobs"):
        policy_loss(batch.logprobs, batch, LossSettings())
    with pytest.raises(ValueError, match="shape"):
        policy_loss(batch.logprobs[:, 1:], batch, LossSettings())
    with pytest.raises(ValueError, match="unknown divergence 'sideways'"):
        vocabulary_divergence(torch.zeros(1, 2), torch.zeros(1, 2), "sideways", 0.5)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
def test_a_clip_bounds_what_every_entry_adds(divergence: str) -> None:
    """sum_v min(D_v, clip), by a loop over the entries; an entry beyond the clip has no gradient."""
    rng = np.random.default_rng(3)
    teacher, student = (with_tail(torch.from_numpy(rng.normal(0, 2, (6, 40))).log_softmax(-1)[:, :K]) for _ in range(2))
    student.requires_grad_()
    clip, alpha = 0.05, 0.3

    def part(q: float, p: float) -> float:
        """What an entry of probabilities q (teacher) and p (student) adds."""
        if divergence == "forward":
            return q * math.log(q / p)
        if divergence == "reverse":
            return p * math.log(p / q)
        m = (1 - alpha) * p + alpha * q
        return (1 - alpha) * p * math.log(p / m) + alpha * q * math.log(q / m)

    parts = [
        [part(q, p) for q, p in zip(qs, ps, strict=True)]
        for qs, ps in zip(teacher.exp().tolist(), student.detach().exp().tolist(), strict=True)
    ]
    got = vocabulary_divergence(teacher, student, divergence, alpha, clip)
    np.testing.assert_allclose(got.detach(), [sum(min(x, clip) for x in row) for row in parts], rtol=1e-12)
    got.sum().backward()
    assert student.grad is not None
    beyond = np.array(parts) > clip
    assert 0 < beyond.sum() < beyond.size
    assert np.array_equal(student.grad.numpy() == 0, beyond)
    # a clip that nothing reaches changes the sum by rounding alone, and none at all is the plain path
    plain = vocabulary_divergence(teacher, student, divergence, alpha)
    torch.testing.assert_close(
        vocabulary_divergence(teacher, student, divergence, alpha, 1e9), plain, rtol=1e-12, atol=0
    )


def test_the_clip_goes_from_the_credit_into_the_loss() -> None:
    mask = np.array([False, True])
    sequence = TokenSequence(np.array([0, 1]), mask, np.array([0.0, -0.5]), np.zeros(2, dtype=np.int64))
    target = TopK(np.zeros((2, 1), dtype=np.int64), np.log(np.full((2, 1), 0.9)))
    support = with_tail(torch.log(torch.full((1, 1, 1), 0.5, dtype=torch.float64)))
    # forward KL: 0.9 ln 1.8 = 0.529 and 0.1 ln 0.2 = -0.161; clipped at 0.2: 0.2 - 0.161
    for clip, told in ((None, 0.9 * math.log(1.8) + 0.1 * math.log(0.2)), (0.2, 0.2 + 0.1 * math.log(0.2))):
        batch = pack([sequence], [Credit(distillation=Distillation(target, mask * 1.0, entry_clip=clip))])
        loss = policy_loss(torch.zeros((1, 1), dtype=torch.float64), batch, LossSettings(), support)
        assert float(loss.total) == pytest.approx(told, rel=1e-12)
