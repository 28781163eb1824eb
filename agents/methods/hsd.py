"""HSD: distil the policy that has seen a successful peer into the policy that has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from agents.contexts import SiblingAndAnswer
from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import (
    FORMS,
    Assignment,
    Number,
    State,
    Stateless,
    distillation,
    members,
    on_mask,
    one_of,
    reference_anchor,
    within,
)
from agents.methods.diagnostics import gathered, mean, teacher_share
from agents.methods.divergence import kl, pair
from agents.methods.teachers import TeacherWeights
from harness.protocols.method import MethodFacts
from harness.types import ContextRequest, Credit, Episode, Evidence, Needs, RolloutGroup, TeacherPolicy


@dataclass(frozen=True)
class HSD(Stateless):
    """Hindsight self-distillation: mean over tokens of KL(sg pi(. | q, c_i, o_<t) || pi(. | q, o_<t)) + kl * KL to
    the reference.

    Li, Hong & Lan 2026, arXiv 2606.15576. c_i is the reference answer and a successful peer drawn uniformly from the
    group's other successes, or the answer alone. No policy gradient; every rollout is trained on, those of groups
    with equal rewards too. Ours: tasks without an answer string have the peer alone; the mean is the experiment's
    aggregation (the paper averages per rollout). The paper's prose calls its direction reverse, its equation is
    teacher || student, the forward KL: that is the default of `direction`, "reverse" and "jsd" are options.

    teacher: "current", the paper's; "initial", a frozen teacher, makes a row of its own (ours). The options are those
        of `teachers.TeacherWeights`.
    kl: 1e-3, the paper's. kl_form: the paper's term is the reverse KL of whole sequences; "sequence" estimates its
        gradient as `sequence_kl` says (the estimator is ours), "token" is k3 on every token (ours, the default: it is
        what every other method's anchor is).
    reference_every: steps after which the reference becomes the policy again, as the paper refreshes it; 0, never, is
        ours.
    mix: share of the distillation; below 1 the rest is GRPO's advantage. Ours: the mixture of 0.5 is that of the
        baseline GRPO+OPSD (`opsd.GRPOMixedOPSD`), and no variant of HSD.
    failures_only, fallback: train on failures alone; whether the answer alone serves where no peer succeeded.
    top_k: None is the full vocabulary, as in the paper; above about 8,000 entries take 100 and say so.
    window: tokens on either side of the divergence point that the log counts as near it.
    """

    paper: ClassVar[str] = "Li, Hong & Lan 2026, arXiv 2606.15576"

    kl: Number = 1e-3
    direction: str = "forward"
    alpha: Number = 0.5
    mix: Number = 1.0
    failures_only: bool = False
    fallback: bool = True
    top_k: int | None = None
    window: int = 5
    teacher: TeacherPolicy = "current"
    teacher_decay: Number = 0.95
    teacher_every: int = 1
    kl_form: Literal["token", "sequence"] = "token"
    reference_every: int = 0

    def __post_init__(self) -> None:
        one_of(self, "direction", self.direction, FORMS)
        within(self, 0, np.inf, kl=self.kl, window=self.window)
        within(self, 1e-6, 1 - 1e-6, alpha=self.alpha)
        within(self, 1e-6, 1, mix=self.mix)
        within(self, 1, np.inf, top_k=1 if self.top_k is None else self.top_k)
        Needs(reference_every=self.reference_every)
        one_of(self, "kl_form", self.kl_form, ("token", "sequence"))
        TeacherWeights.of(self)

    @property
    def needs(self) -> Needs:
        refreshed = self.reference_every if self.kl > 0 else 0
        plain = Needs("distribution", self.top_k, reference=self.kl > 0, reference_every=refreshed)
        return TeacherWeights.of(self).asked(plain)

    def describe(self) -> MethodFacts:
        notes = TeacherWeights.of(self).notes
        if self.kl > 0 and self.kl_form == "sequence":
            notes += ("its reference KL is the reverse KL of whole sequences",)
        if self.kl > 0 and self.reference_every:
            notes += (f"its reference becomes the policy every {self.reference_every} steps",)
        return MethodFacts(float(self.kl), context=SiblingAndAnswer.name, notes=notes)

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        """(answer, peer), redrawn at every call from the run's stream."""
        if self.failures_only and group.episodes[index].success:
            return None
        peers = any(other.success for place, other in enumerate(group.episodes) if place != index)
        return SiblingAndAnswer()(group, index, rng) if peers or self.fallback else None

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        tokens_per_episode = mean(np.array([e.sequence.mask.sum() for group in groups for e in group.episodes]))
        credits = []
        divergences: list[Float[np.ndarray, " _"]] = []
        near: list[float] = []
        parted: list[float] = []
        for group, known in members(groups, evidence):
            row = []
            advantages = group_advantages(group.rewards)
            for index, (episode, seen) in enumerate(zip(group.episodes, known, strict=True)):
                sequence = episode.sequence
                both = None if self.failures_only and episode.success else pair(episode, seen, sequence.mask)
                target = None
                if both is not None:
                    target = distillation(sequence, seen, self.mix, self.direction, self.alpha)
                    divergences.append(kl(*both))
                    place = divergence_point(group, index)
                    if place is not None:
                        parted.append(float(place))
                        near.append(mass_near(divergences[-1], place, self.window))
                surrogate = on_mask(sequence, (1 - self.mix) * advantages[index]) if self.mix < 1 else None
                if self.kl_form == "sequence" and self.kl > 0:
                    pull = sequence_kl(episode, seen, self.kl * tokens_per_episode)
                    row.append(Credit(surrogate, pull, distillation=target))
                else:
                    anchor = reference_anchor(episode, seen, self.kl)
                    row.append(Credit(surrogate, anchor=anchor, distillation=target))
            credits.append(row)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "divergence_mean": mean(gathered(divergences)),
            "divergence_position": mean(np.array(parted)),
            "credit_near_divergence": mean(np.array(near)),
        }
        return credits, state, log


def sequence_kl(episode: Episode, seen: Evidence, weight: Number) -> Float[np.ndarray, " token"]:
    """Likelihood weights whose gradient is, in expectation, that of weight * KL(pi(o | q) || r(o | q)), o the whole
    sequence of sampled tokens and r the reference.

    KL = E_o sum_t delta_t with delta_t = log pi(o_t | ..) - log r(o_t | ..), so (score function; the gradient of delta
    itself has expectation 0, and a delta before t is constant given the prefix of t)

        grad KL = E_o sum_t G_t grad log pi(o_t | ..)        G_t = sum_{s >= t} delta_s

    and a likelihood weight of -weight * G_t gives the loss that gradient: no bias where the tokens were sampled from
    the policy that is trained, one sample of the sum (Schulman's k1) and no baseline, so it varies more than k3's.
    A mean over the step's tokens times the mean number of tokens of an episode is a mean over episodes: with it in
    `weight` the term is kl times the mean of the episodes' KL under the experiment's token-mean.
    """
    if seen.reference is None:
        raise ValueError(f"task {episode.task_id!r}: the KL to the reference needs Evidence.reference")
    sequence = episode.sequence
    delta = on_mask(sequence, sequence.logprobs - seen.reference)
    ahead: Float[np.ndarray, " token"] = np.cumsum(delta[::-1])[::-1]
    return on_mask(sequence, -weight * ahead)


def divergence_point(group: RolloutGroup, index: int) -> int | None:
    """First sampled token at which an episode has left every other success; None without one, or if it never leaves.

    The paper measures from the peer that was drawn; the peer that agrees longest needs no record of the draw (ours).
    """
    own = sampled(group.episodes[index])
    peers = [peer for place, peer in enumerate(group.episodes) if place != index and peer.success]
    shared = [common_prefix(own, sampled(peer)) for peer in peers]
    return max(shared) if shared and max(shared) < len(own) else None


def sampled(episode: Episode) -> Int[np.ndarray, " _"]:
    """Ids of the sampled tokens, in order."""
    ids: Int[np.ndarray, " _"] = episode.sequence.tokens[episode.sequence.mask]
    return ids


def common_prefix(one: Int[np.ndarray, " _"], other: Int[np.ndarray, " _"]) -> int:
    """How many leading entries two arrays share."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def mass_near(values: Float[np.ndarray, " token"], place: int, window: int) -> float:
    """Share of the (non-negative) values that lies within `window` tokens of `place`; 0 when there is none."""
    total = float(values.sum())
    return float(values[max(place - window, 0) : place + window + 1].sum()) / total if total > 0 else 0.0
