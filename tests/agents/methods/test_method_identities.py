"""Switched off, a method is its baseline: the same bytes of credit, of the loss and of every parameter's gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from every_method import flat, variants
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.check import VOCABULARY, differing, random_step
from agents.methods.adaptive_cringe import TokenCRINGE
from agents.methods.craft import CRAFT
from agents.methods.grpo import GRPO
from agents.methods.hsd import HSD
from agents.methods.opsd import OPSD
from agents.methods.rlsd import RLSD
from agents.methods.sc_grpo import SCGRPO
from agents.methods.sdar import SDAR
from agents.methods.sgcd import SGCD
from agents.methods.skill_sd import SkillSD
from harness.experiment import LossSettings
from harness.losses import policy_loss, with_tail
from harness.packing import pack
from harness.types import KLForm, Needs

EVERYTHING = Needs("distribution", top_k=None, reference=True)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=10, deadline=None)


class Policy(torch.nn.Module):
    """A next-token model with memory: an embedding, a recurrent layer and a head, in float32 as in training."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, 8)
        self.memory = torch.nn.GRU(8, 8, batch_first=True)
        self.head = torch.nn.Linear(8, VOCABULARY)

    def forward(self, tokens):
        return torch.log_softmax(self.head(self.memory(self.embed(tokens))[0]), -1)


def trained(credits, step, seed=0):
    """Bytes of the loss and of all gradients, and the names of the loss terms, under freshly seeded weights."""
    torch.manual_seed(seed)
    policy = Policy()
    batch = pack([e.sequence for group in step.groups for e in group.episodes], [c for row in credits for c in row])
    everything = policy(batch.tokens)[:, :-1]
    own = everything.gather(-1, batch.tokens[:, 1:, None])[..., 0]
    support = None
    if batch.distillation is not None:
        support = with_tail(everything.gather(-1, batch.distillation.ids))
    out = policy_loss(own, batch.to("cpu", torch.float32), LossSettings(), support)
    out.total.backward()
    gradients = [b"" if p.grad is None else p.grad.numpy().tobytes() for p in policy.parameters()]
    return out.total.detach().numpy().tobytes(), gradients, set(out.terms)


def assert_same(one, other, step):
    """One assignment is the other, stream by stream, and in what it does to a policy."""
    for mine, theirs in zip(flat(one), flat(other), strict=True):
        assert differing(mine, theirs, 0) == []
    assert trained(one, step) == trained(other, step)


def credits(method, step):
    return method.assign(step.groups, step.evidence, method.initial_state())[0]


@few
@given(seeds, st.sampled_from([0.0, 0.01, 3.0]), st.sampled_from([0.0, 5.0]), st.sampled_from([0.0, 0.02]))
def test_craft_switched_off_is_sdar(seed, coef, beta, kl):
    step = random_step(np.random.default_rng(seed), Needs("sampled", reference=True))
    off = CRAFT(enabled=False, sdar_coef=coef, sdar_beta=beta, kl=kl)
    assert off.needs == SDAR(coef, beta, kl).needs
    assert off.initial_state() == {}
    assert_same(credits(off, step), credits(SDAR(coef, beta, kl), step), step)


@few
@given(seeds, st.sampled_from([0.0, 0.02]))
def test_sdar_without_coefficient_is_grpo(seed, kl):
    step = random_step(np.random.default_rng(seed), Needs("sampled", reference=True))
    assert SDAR(coef=0.0, kl=kl).needs == GRPO(kl=kl).needs
    assert all(credit.likelihood is None for row in credits(SDAR(coef=0.0, kl=kl), step) for credit in row)
    assert_same(credits(SDAR(coef=0.0, kl=kl), step), credits(GRPO(kl=kl), step), step)


@few
@given(seeds, st.sampled_from(["weights", "mean", "normalised", "additive"]))
def test_sgcd_without_gamma_is_grpo(seed, control):
    step = random_step(np.random.default_rng(seed), EVERYTHING)
    method = SGCD(gamma=0.0, kl=0.02, control=control)
    assert method.needs == GRPO(kl=0.02).needs
    assert_same(credits(method, step), credits(GRPO(kl=0.02), step), step)


@few
@given(seeds, st.sampled_from([None, 4]))
def test_an_empty_credit_reference_weighs_nothing(seed, k):
    """A teacher that read nothing is the student: d = 0 and W = 1, not nearly 1."""
    step = random_step(np.random.default_rng(seed), replace(EVERYTHING, top_k=k))
    same = tuple(
        tuple(replace(seen, teacher=seen.student) if seen.teacher else seen for seen in row) for row in step.evidence
    )
    step = replace(step, evidence=same)
    method = SGCD(top_k=k, kl=0.0)
    got, _, log = method.assign(step.groups, step.evidence, {})
    assert log["weight_p100"] == log["weight_mean"] == 1.0
    assert log["divergence_mean"] == 0.0
    assert "all dense features are zero" in method.verdict([log])
    assert_same(got, credits(GRPO(kl=0.0), step), step)


@few
@given(seeds)
def test_pillars_off_are_the_paths_without_them(seed):
    """CRAFT with a static controller is CRAFT whose controller has nowhere to go; unpolarised is k3 with the same
    weights."""
    step = random_step(np.random.default_rng(seed), Needs("sampled", reference=True))
    pinned = CRAFT(lam_min=0.01, lam_max=0.01, mu_min=0.01, mu_max=0.01)
    assert_same(credits(CRAFT(phase_aware=False), step), credits(pinned, step), step)
    plain = credits(CRAFT(polarised_kl=False), step)
    for credit, polarised in zip(flat(plain), flat(credits(CRAFT(), step)), strict=True):
        assert set(credit.anchor.forms) == {KLForm.K3}
        assert set(differing(credit, polarised, 0)) <= {"anchor.forms"}
    out_of_reach = credits(CRAFT(theta_kl=1.0), step)  # |c| never exceeds 1, so no token is polarised
    assert_same(plain, out_of_reach, step)


@few
@given(seeds)
def test_hsd_without_reference_weight_has_no_reference_term(seed):
    step = random_step(np.random.default_rng(seed), replace(EVERYTHING, reference=False))
    assert HSD(kl=0.0).needs.reference is False
    got = credits(HSD(kl=0.0), step)
    assert all(credit.anchor is None and credit.advantages is None for row in got for credit in row)
    assert trained(got, step)[2] <= {"distillation"}


@pytest.mark.parametrize(
    "method", [GRPO(kl=0.0), CRAFT(mu_min=0, mu_max=0), CRAFT(phase_aware=False, kl=0.0)], ids=repr
)
def test_no_weight_no_reference(method):
    step = random_step(np.random.default_rng(1), method.needs)
    assert method.needs.reference is False
    assert all(seen.reference is None for row in step.evidence for seen in row)
    assert all(credit.anchor is None for row in credits(method, step) for credit in row)


@pytest.mark.parametrize("method", variants(), ids=repr)
def test_every_credit_packs_and_pulls(method):
    """Whatever a method sets, the one loss reads it: finite loss, finite gradients."""
    for seed in range(2):
        step = random_step(np.random.default_rng(seed), method.needs, rewards="binary", siblings=4)
        loss, gradients, _ = trained(credits(method, step), step)
        assert np.isfinite(np.frombuffer(loss, np.float32)).all()
        assert all(np.isfinite(np.frombuffer(gradient, np.float32)).all() for gradient in gradients)


def test_the_terms_of_a_full_craft_step():
    step = random_step(np.random.default_rng(2), CRAFT().needs)
    assert trained(credits(CRAFT(), step), step)[2] == {"surrogate", "likelihood", "anchor"}


@few
@given(seeds)
def test_the_weight_carries_no_gradient(seed):
    """dW/dtheta = 0: SGCD's gradient is that of GRPO when its advantages are handed over as plain numbers."""
    step = random_step(np.random.default_rng(seed), EVERYTHING)
    weighted = credits(SGCD(kl=0.0), step)
    numbers = [[type(c)(advantages=np.array(c.advantages.tolist())) for c in row] for row in weighted]
    assert trained(weighted, step) == trained(numbers, step)


def test_episodes_without_a_teacher():
    """No teacher, no pull; and where the teacher only weighs A, A stays."""
    step = random_step(np.random.default_rng(4), Needs(), rewards="binary", siblings=4)
    plain = flat(credits(GRPO(kl=0.0), step))
    assert all(seen.teacher is None for row in step.evidence for seen in row)
    for method in (RLSD(kl=0.0), SCGRPO(kl=0.0), SGCD(kl=0.0)):
        for credit, base in zip(flat(credits(method, step)), plain, strict=True):
            assert differing(credit, base, 0) == []
    for method in (SDAR(kl=0.0), TokenCRINGE(kl=0.0), CRAFT(phase_aware=False, kl=0.0)):
        assert all(not credit.likelihood.any() for credit in flat(credits(method, step)))
    assert all(not credit.anchor.weights.any() for credit in flat(credits(SkillSD(), step)))
    assert all(credit.distillation is None for credit in flat(credits(OPSD(), step)))
