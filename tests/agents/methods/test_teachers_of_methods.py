"""What the methods' papers have of teachers and norms, each held to numbers worked out another way."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from every_method import flat
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.check import VOCABULARY, differing, random_step
from agents.methods.divergence import score_norm, with_tail
from agents.methods.grpo import GRPO
from agents.methods.hsd import HSD, sequence_kl
from agents.methods.opsd import OPSD, GRPOMixedOPSD
from agents.methods.rlsd import RLSD
from agents.methods.sc_grpo import SCGRPO, weighable
from agents.methods.sdar import SDAR, GRPOWithOPSD
from agents.methods.sdpo import SDPO
from agents.methods.sgcd import SGCD
from agents.methods.teachers import TeacherWeights
from harness.experiment import LossSettings
from harness.losses import policy_loss
from harness.losses import with_tail as torch_tail
from harness.packing import pack
from harness.types import Ending, Episode, Evidence, Needs, RolloutGroup, Scores, TokenSequence, TopK

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15, deadline=None)
WITH_TEACHER = [HSD, SGCD, OPSD, GRPOMixedOPSD, SDPO, RLSD]


# ---------------------------------------------------------------- whose weights


def test_the_papers_teachers_are_the_defaults():
    told = {
        cls.__name__: (cls().needs.teacher_policy, cls().needs.teacher_decay, cls().needs.teacher_every)
        for cls in WITH_TEACHER
    }
    assert told == {
        "HSD": ("current", 0.0, 1),
        "SGCD": ("current", 0.0, 1),
        "OPSD": ("initial", 0.0, 1),
        "GRPOMixedOPSD": ("initial", 0.0, 1),
        "SDPO": ("ema", 0.95, 1),
        "RLSD": ("ema", 0.0, 10),
    }


@pytest.mark.parametrize("cls", WITH_TEACHER)
def test_every_teacher_is_an_option_and_a_footnote(cls):
    plain = cls(teacher="current")
    assert (plain.needs.teacher_policy, plain.describe().notes) == ("current", ())
    frozen = cls(teacher="initial")
    assert frozen.needs == replace(plain.needs, teacher_policy="initial")
    assert frozen.describe().notes == ("its teacher has the weights of the start",)
    average = cls(teacher="ema", teacher_decay=0.5, teacher_every=3)
    assert average.needs == replace(plain.needs, teacher_policy="ema", teacher_decay=0.5, teacher_every=3)
    assert average.describe().notes == ("its teacher averages the policy's weights, decay 0.5 every 3 steps",)
    copy = cls(teacher="ema", teacher_decay=0)
    assert cls(teacher="ema", teacher_decay=0, teacher_every=1).needs.teacher_decay == 0
    assert "takes the policy's weights over every" in copy.describe().notes[0]
    for wrong, says in (
        ({"teacher_decay": 1.0}, r"teacher_decay must be in \[0, 1\)"),
        ({"teacher_decay": -0.5}, "teacher_decay = -0.5 is outside"),
        ({"teacher_every": 0}, "teacher_every must be a whole number from 1"),
    ):
        with pytest.raises(ValueError, match=says):
            cls(**wrong)


def test_a_teacher_nobody_asks_for_has_no_weights():
    asked = TeacherWeights("ema", 0.9, 2).asked(Needs(reference=True))
    assert asked == Needs(reference=True)
    assert SGCD(gamma=0.0, teacher="initial", kl=0.1).needs == GRPO(kl=0.1).needs
    assert RLSD(lam=0.0).needs == GRPO().needs


def test_the_frozen_teacher_is_a_name_with_the_nearest_right_one():
    class Row:
        teacher, teacher_decay, teacher_every = "inital", 0.0, 1

    made = object.__new__(TeacherWeights)
    for name in ("teacher", "teacher_decay", "teacher_every"):
        object.__setattr__(made, name, getattr(Row, name))
    with pytest.raises(ValueError, match="did you mean 'initial'"):
        made.__post_init__()


# ---------------------------------------------------------------- SDPO: a mean over taught tokens


@few
@given(seeds)
def test_sdpo_is_a_mean_over_the_tokens_that_are_taught(seed):
    """The loss of the step is that of the taught episodes alone, packed by themselves with weight 1."""
    method = SDPO(top_k=None, ratio_clip=None)
    step = random_step(np.random.default_rng(seed), method.needs)
    taught = [
        (e, seen)
        for group, known in zip(step.groups, step.evidence, strict=True)
        for e, seen in zip(group.episodes, known, strict=True)
        if seen.teacher is not None
    ]
    if not taught:
        return
    credits = flat(method.assign(step.groups, step.evidence, {})[0])
    whole = distilled([e.sequence for g in step.groups for e in g.episodes], credits)
    alone = [c for c in credits if c.distillation is not None]
    alone = [replace(c, distillation=replace(c.distillation, weights=c.distillation.weights.clip(0, 1))) for c in alone]
    assert whole == pytest.approx(distilled([e.sequence for e, _ in taught], alone), rel=1e-12)


def distilled(sequences, credits):
    """The step's distillation term under a fixed student: token t of every sequence has the t-th of some logits."""
    batch = pack(sequences, credits)
    width = batch.mask.shape[1]
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(width, VOCABULARY)))
    everything = logits.log_softmax(-1).expand(len(batch), width, VOCABULARY)
    support = torch_tail(everything.gather(-1, batch.distillation.ids))
    return float(policy_loss(torch.zeros(batch.mask.shape, dtype=torch.float64), batch, LossSettings(), support).total)


# ---------------------------------------------------------------- HSD: the KL of whole sequences


def softmax(rows):
    return np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_sequence_kl_has_the_gradient_of_the_sequence_kl(seed):
    """Three tokens of a vocabulary of 2, every prefix with logits of its own: the estimator's expectation over all 8
    sequences is the gradient of the KL between the two distributions over sequences, by finite differences."""
    rng = np.random.default_rng(seed)
    length, weight = 3, 0.7
    prefixes = [p for n in range(length) for p in itertools.product((0, 1), repeat=n)]
    row = {prefix: place for place, prefix in enumerate(prefixes)}
    theta, reference = rng.normal(size=(2, len(prefixes), 2))

    def logprobs(table, sequence):
        return np.array([np.log(softmax(table[row[sequence[:t]]]))[sequence[t]] for t in range(length)])

    def divergence(table):
        return sum(
            math.exp(logprobs(table, o).sum()) * (logprobs(table, o) - logprobs(reference, o)).sum()
            for o in itertools.product((0, 1), repeat=length)
        )

    expected = np.zeros_like(theta)
    for place in np.ndindex(*theta.shape):
        ends = []
        for sign in (1, -1):
            moved = theta.copy()
            moved[place] += sign * 1e-5
            ends.append(divergence(moved))
        expected[place] = weight * (ends[0] - ends[1]) / 2e-5
    got = np.zeros_like(theta)
    for o in itertools.product((0, 1), repeat=length):
        own = logprobs(theta, o)
        mask = np.array([False, True, True, True])
        sequence = TokenSequence(np.array([9, *o]), mask, np.array([0.0, *own]), np.zeros(4, dtype=np.int64))
        seen = Evidence(reference=np.array([0.0, *logprobs(reference, o)]))
        c = sequence_kl(Episode("t", sequence, 0.0, False, Ending.COMPLETED), seen, weight)
        assert c[0] == 0
        for t in range(length):  # the loss is -c log pi: its gradient is -c (e_y - p)
            score = np.eye(2)[o[t]] - softmax(theta[row[o[:t]]])
            got[row[o[:t]]] -= math.exp(own.sum()) * c[t + 1] * score
    np.testing.assert_allclose(got, expected, atol=1e-9)  # the differences' own error is of order 1e-10


def test_hsds_sequence_kl_is_a_mean_over_episodes():
    """kl 0.1, two episodes of 1 and 3 tokens, so 2 an episode. delta = log pi - log r = 0.5 on the first, and 1, 0, -3
    on the second, whose sums from each token on are -2, -3, -3: weights -0.1 * 2 * G."""
    episodes, seen = [], []
    for deltas in ([0.5], [1.0, 0.0, -3.0]):
        mask = np.array([False] + [True] * len(deltas))
        own = np.where(mask, -1.0, 0.0)
        sequence = TokenSequence(np.arange(len(mask)), mask, own, np.zeros(len(mask), dtype=np.int64))
        episodes.append(Episode("t", sequence, 0.0, False, Ending.COMPLETED))
        seen.append(Evidence(reference=np.where(mask, own - np.array([0.0, *deltas]), 0.0)))
    method = HSD(kl=0.1, kl_form="sequence")
    first, second = method.assign([RolloutGroup("t", tuple(episodes))], [seen], {})[0][0]
    np.testing.assert_allclose(first.likelihood, [0, -0.1], rtol=1e-12)
    np.testing.assert_allclose(second.likelihood, [0, 0.4, 0.6, 0.6], rtol=1e-12)
    assert (first.anchor, first.advantages) == (None, None)
    assert HSD(kl=0.0, kl_form="sequence").needs == HSD(kl=0.0).needs
    none = HSD(kl=0.0, kl_form="sequence").assign([RolloutGroup("t", tuple(episodes))], [seen], {})[0][0]
    assert all(credit.likelihood is None and credit.anchor is None for credit in none)
    with pytest.raises(ValueError, match=r"needs Evidence\.reference"):
        sequence_kl(episodes[0], Evidence(), 1.0)


def test_hsd_says_what_its_reference_is():
    assert HSD(reference_every=20).needs.reference_every == 20
    assert HSD(reference_every=20, kl=0.0).needs.reference_every == 0
    assert HSD().describe().notes == ()
    assert HSD(kl_form="sequence", reference_every=20).describe().notes == (
        "its reference KL is the reverse KL of whole sequences",
        "its reference becomes the policy every 20 steps",
    )


# ---------------------------------------------------------------- SGCD: the control of the gradient norm


def test_the_norm_of_a_score():
    # p = 1/2, 1/4, 1/4: the score of the first is (1/2, -1/4, -1/4), squared 1/4 + 1/16 + 1/16 = 3/8;
    # of the second (-1/2, 3/4, -1/4): 1/4 + 9/16 + 1/16 = 7/8.
    p = np.log(np.array([[0.5, 0.25, 0.25]] * 2))
    np.testing.assert_allclose(score_norm(np.log([0.5, 0.25]), p), [3 / 8, 7 / 8], rtol=1e-14)
    # cut to the first entry, the tail of 1/2 counts as one: (1/2, -1/2) squared is 1/2, not less than 3/8
    np.testing.assert_allclose(score_norm(np.log([0.5]), with_tail(np.log([[0.5]]))), [0.5], rtol=1e-14)


def on_policy_step(seed):
    """Mixed groups whose evidence is a policy's own: the student's distributions are those the tokens came from."""
    rng = np.random.default_rng(seed)
    step = random_step(rng, Needs("distribution", None), rewards="binary", siblings=4)
    groups, evidence = [], []
    for group, known in zip(step.groups, step.evidence, strict=True):
        episodes, row = [], []
        for place, (episode, seen) in enumerate(zip(group.episodes, known, strict=True)):
            sequence, places = episode.sequence, np.arange(len(episode.sequence))
            if seen.student is None:
                logits = rng.normal(0, 2, (len(sequence), VOCABULARY))
                whole = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                ids = np.tile(np.arange(VOCABULARY), (len(sequence), 1))
                target = Scores(np.zeros(len(sequence)), TopK(ids, whole))
                seen = Evidence(teacher=target, student=target)
            ids, listed = seen.student.distribution.ids, seen.student.distribution.logprobs
            whole = np.zeros((len(sequence), VOCABULARY))
            np.put_along_axis(whole, ids, listed, axis=1)
            own = np.where(sequence.mask, whole[places, sequence.tokens], 0.0)
            fresh = TokenSequence(sequence.tokens, sequence.mask, own, sequence.turns)
            success = place % 2 == 0
            episodes.append(replace(episode, sequence=fresh, reward=float(success), success=success))
            row.append(replace(seen, student=Scores(own, seen.student.distribution)))
        groups.append(RolloutGroup(group.task_id, tuple(episodes)))
        evidence.append(tuple(row))
    return groups, evidence


def gradient_at_the_logits(groups, evidence, credits):
    """Norm of the gradient of the step's loss in the logits of every sampled token, by automatic differentiation."""
    sequences = [e.sequence for g in groups for e in g.episodes]
    batch = pack(sequences, flat(credits))
    logits = torch.zeros((*batch.mask.shape, VOCABULARY), dtype=torch.float64)
    seen = flat(evidence)
    for line, index in enumerate(batch.order.tolist()):
        distribution = seen[index].student.distribution
        for t in np.flatnonzero(sequences[index].mask):
            logits[line, t - 1, torch.tensor(distribution.ids[t])] = torch.tensor(distribution.logprobs[t])
    logits.requires_grad_()
    own = logits.log_softmax(-1).gather(-1, batch.tokens[:, 1:, None])[..., 0]
    policy_loss(own, batch, LossSettings()).total.backward()
    return float(logits.grad.norm())


@few
@given(seeds, st.sampled_from([1.0, 3.0]))
def test_the_norm_arm_has_the_weights_gradient_norm_at_the_logits(seed, gamma):
    """Exactly, and "matched" has GRPO's; the mean of the weights has neither."""
    groups, evidence = on_policy_step(seed)
    norms = {
        control: gradient_at_the_logits(groups, evidence, method.assign(groups, evidence, {})[0])
        for control in ("weights", "norm", "matched")
        for method in [SGCD(gamma=gamma, kl=0.0, top_k=None, control=control)]
    }
    plain = gradient_at_the_logits(groups, evidence, GRPO(kl=0.0).assign(groups, evidence, {})[0])
    assert norms["norm"] == pytest.approx(norms["weights"], rel=1e-9)
    assert norms["matched"] == pytest.approx(plain, rel=1e-9)
    log = SGCD(gamma=gamma, kl=0.0, top_k=None).assign(groups, evidence, {})[2]
    assert log["norm_factor"] == pytest.approx(norms["weights"] / plain, rel=1e-9)


# ---------------------------------------------------------------- SC-GRPO and the two GRPO+OPSD


@pytest.mark.parametrize(("wins", "weighed"), [(0, False), (1, False), (2, True), (3, True), (4, False)])
def test_sc_grpo_weighs_from_two_successes_to_all_but_one(wins, weighed):
    groups, evidence = on_policy_step(5)
    group = RolloutGroup(
        "t",
        tuple(replace(e, reward=float(i < wins), success=i < wins) for i, e in enumerate(groups[0].episodes)),
    )
    assert weighable(group) is weighed
    got = SCGRPO(kl=0.0).assign([group], evidence[:1], {})[0]
    plain = GRPO(kl=0.0).assign([group], evidence[:1], {})[0]
    changed = [
        differing(mine, theirs, 0) == ["advantages"] for mine, theirs in zip(flat(got), flat(plain), strict=True)
    ]
    assert changed == [weighed] * 4


@few
@given(seeds)
def test_grpo_mixed_with_opsd_is_the_two_side_by_side(seed):
    step = random_step(np.random.default_rng(seed), replace(GRPOMixedOPSD().needs, reference=True))
    mixed, grpo, opsd = (
        flat(method.assign(step.groups, step.evidence, {})[0]) for method in (GRPOMixedOPSD(mix=0.25), GRPO(), OPSD())
    )
    for both, policy, pull in zip(mixed, grpo, opsd, strict=True):
        np.testing.assert_allclose(both.advantages, 0.75 * policy.advantages, rtol=1e-15)
        assert differing(replace(both, advantages=None, distillation=None), replace(policy, advantages=None), 0) == []
        assert (both.distillation is None) == (pull.distillation is None)
        if both.distillation is not None:
            np.testing.assert_array_equal(both.distillation.weights, 0.25 * pull.distillation.weights)
            assert both.distillation.target is pull.distillation.target
    # mixed to the full it is OPSD with GRPO's anchor; the other of the name is SDAR with its gate at 0.5
    assert GRPOMixedOPSD(mix=1, kl=0.0).needs == OPSD().needs
    assert GRPOWithOPSD() == GRPOWithOPSD(beta=0.0)
    assert isinstance(GRPOWithOPSD(), SDAR)


def test_opsds_clip_reaches_the_loss():
    step = random_step(np.random.default_rng(1), OPSD().needs)
    for clip in (None, 0.05):
        credits = flat(OPSD(clip=clip).assign(step.groups, step.evidence, {})[0])
        assert {c.distillation.entry_clip for c in credits if c.distillation} == {clip}
    with pytest.raises(ValueError, match="clip = 0"):
        OPSD(clip=0)
