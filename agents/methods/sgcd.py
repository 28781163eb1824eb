"""SGCD: policy gradient whose advantages are raised where a teacher that has read the siblings' lessons disagrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agents.contexts import CreditReference
from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import (
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
from agents.methods.divergence import entropy, kl, pair, score_norm, with_tail
from agents.methods.segmenter import Segmenter
from agents.methods.teachers import TeacherWeights
from agents.summariser import Summariser, structured_calls, summariser
from agents.transcripts import acted_at
from harness.protocols.method import MethodFacts
from harness.types import ContextRequest, Credit, Episode, Evidence, Needs, RolloutGroup, TeacherPolicy

CONTROLS = ("weights", "norm", "matched", "mean", "normalised", "additive")
"""The arms of `SGCD.control`."""


@dataclass(frozen=True)
class SGCD(Stateless):
    """Sibling-guided credit distillation: A_t = A * W_t, W_t = clip(1 + gamma s_t, 1, c), W detached.

    Ding, Xin & De la Cruz Weinstein 2026, arXiv 2606.12634. In a group with successes and failures a summariser reads
    the sanitised siblings and writes a credit reference z. p are the policy's next-token distributions, q those of
    the same weights with z in front, over the teacher's top-K, the sampled token and a tail; d_t = KL(p_t || q_t),
    H_t the entropy of q_t; `segmenter.Segmenter` makes the saliency s_t in [0, 1] of them. Hence sign(A_t) = sign(A)
    and |A_t| <= c |A|; gamma = 0 is GRPO to the bit, and an empty z gives d = 0 and W = 1. Groups with one outcome
    and episodes without a teacher keep A.

    gamma 1, c 2: the paper's. K 100, the segmenter's constants and kl 0.01 are ours (unpublished).
    control: "weights" as above. W >= 1 raises the learning rate unseen; the arms beside it (ours):
        "norm" is A times one factor a step, `norm_factor`: GRPO with the gradient norm at the logits that the weights
            would have given the step: the control of the scale, as near as a method comes to it.
        "matched" is the other way round, A W divided by that factor: the weights with GRPO's norm.
        "mean" is A times the step's mean W, "normalised" A W / mean W. They do not control the scale: the weights lie
            where the policy is unsure, and there gradients are large, so a mean W of 1.10 to 1.15 goes with 1.58 to
            1.79 times the gradient norm.
        "additive" leaves A alone and distils q with weight gamma (the collapse baseline).
    reference: "credit" is z; "self" lets the teacher read the task's opening messages a second time, a context that
        knows nothing of the siblings (plain self-context; the reading is ours).
    summariser: "rules", "llm:MODEL" (any OpenAI-compatible endpoint) or an object.
    teacher: "current", as printed; the options are those of `teachers.TeacherWeights`.
    """

    paper: ClassVar[str] = "Ding, Xin & De la Cruz Weinstein 2026, arXiv 2606.12634"

    gamma: Number = 1.0
    c: Number = 2.0
    kl: Number = 0.01
    control: str = "weights"
    reference: str = "credit"
    summariser: str | Summariser = "rules"
    top_k: int | None = 100
    segmenter: Segmenter = field(default_factory=Segmenter)
    teacher: TeacherPolicy = "current"
    teacher_decay: Number = 0.95
    teacher_every: int = 1

    def __post_init__(self) -> None:
        within(self, 0, np.inf, gamma=self.gamma, kl=self.kl)
        within(self, 1, np.inf, c=self.c, top_k=1 if self.top_k is None else self.top_k)
        one_of(self, "control", self.control, CONTROLS)
        one_of(self, "reference", self.reference, ("credit", "self"))
        CreditReference(self.summariser)
        TeacherWeights.of(self)

    @property
    def needs(self) -> Needs:
        if self.gamma == 0:
            return Needs(reference=self.kl > 0)
        plain = Needs(teacher="distribution", top_k=self.top_k, reference=self.kl > 0)
        return TeacherWeights.of(self).asked(plain)

    def describe(self) -> MethodFacts:
        notes = TeacherWeights.of(self).notes
        if self.reference == "self":
            return MethodFacts(float(self.kl), context="the task's opening messages a second time", notes=notes)
        context = CreditReference(self.summariser).name
        return MethodFacts(float(self.kl), context, summariser(self.summariser).name, notes)

    @property
    def external_calls(self) -> int:
        """Requests to a language model other than the policy that this process has sent so far."""
        return int(getattr(summariser(self.summariser), "calls", 0))

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        if not mixed(group):
            return None
        if self.reference == "credit":
            return CreditReference(self.summariser)(group, index, rng)
        episode = group.episodes[index]
        opening = episode.messages[: (acted_at(episode) or [0])[0]]
        text = "\n".join(str(message["content"] or "") for message in opening)
        return ContextRequest(text) if text.strip() else None

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        read = [
            [self.read(group, episode, seen) for episode, seen in zip(group.episodes, known, strict=True)]
            for group, known in members(groups, evidence)
        ]
        readings = [reading for row in read for reading in row if reading]
        tokens = sum(int(episode.sequence.mask.sum()) for group in groups for episode in group.episodes)
        weights = gathered([reading.weights for reading in readings])
        mean_weight = 1.0 + float((weights - 1.0).sum()) / max(tokens, 1)
        factor = norm_factor(groups, read)
        scale = {"mean": mean_weight, "normalised": 1 / mean_weight, "norm": factor, "matched": 1 / factor}
        credits = []
        for group, known, row in zip(groups, evidence, read, strict=True):
            advantages = group_advantages(group.rewards)
            credits.append(
                [
                    self.credit(episode, seen, advantage, reading, scale.get(self.control, 1.0))
                    for episode, seen, advantage, reading in zip(group.episodes, known, advantages, row, strict=True)
                ]
            )
        log = {
            "degenerate_groups": degenerate_share(groups),
            "mixed_groups": mean(np.array([float(mixed(group)) for group in groups])),
            "teacher_share": teacher_share(evidence),
            "divergence_mean": mean(gathered([reading.divergence for reading in readings])),
            "dense_share": mean(gathered([reading.saliency for reading in readings]) > 0.1),
            "weight_mean": mean_weight,
            "norm_factor": factor,
            **{f"weight_p{q}": float(np.percentile(weights, q)) if len(weights) else 1.0 for q in (50, 90, 100)},
            **tool_audit(groups),
        }
        return credits, state, log

    def read(self, group: RolloutGroup, episode: Episode, seen: Evidence) -> Reading | None:
        """Divergence, saliency and weight of every sampled token; None where the advantage stays as it is."""
        if self.gamma == 0 or not mixed(group):
            return None
        sampled = episode.sequence.mask
        both = pair(episode, seen, sampled, with_sampled=True)
        if both is None:
            return None
        teacher, student = both
        divergence = kl(student, teacher)
        masked = np.zeros(len(divergence), dtype=bool) if seen.masked is None else seen.masked[sampled]
        saliency = self.segmenter.saliency(divergence, entropy(teacher), episode.sequence.turns[sampled], masked)
        assert seen.student is not None  # `pair` has seen it
        return Reading(
            divergence,
            saliency,
            np.clip(1 + self.gamma * saliency, 1, self.c),
            score_norm(seen.student.logprobs[sampled], student),
        )

    def credit(
        self, episode: Episode, seen: Evidence, advantage: float, reading: Reading | None, scale: float
    ) -> Credit:
        """One episode's streams under the chosen arm."""
        stream = on_mask(episode.sequence, advantage)
        anchor = reference_anchor(episode, seen, self.kl)
        if self.control == "additive":
            target = distillation(episode.sequence, seen, self.gamma) if reading else None
            return Credit(stream, anchor=anchor, distillation=target)
        if self.control in ("weights", "normalised", "matched") and reading:
            stream[episode.sequence.mask] *= reading.weights
        if scale != 1:
            stream *= scale
        return Credit(stream, anchor=anchor)

    def verdict(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Why a run with these step diagnostics is no SGCD run, or None: its features were all zero, or its weights
        inert."""
        if self.gamma == 0 or not history:
            return None
        if all(step["divergence_mean"] == 0 for step in history):
            return "invalid: the teacher never disagreed, all dense features are zero"
        if all(step["weight_p100"] == 1 for step in history):
            return "invalid: no token was ever weighted, the weights are inert"
        return None


@dataclass(frozen=True, eq=False)
class Reading:
    """What the teacher's pass says about an episode's sampled tokens."""

    divergence: Float[np.ndarray, " token"]
    saliency: Float[np.ndarray, " token"]
    weights: Float[np.ndarray, " token"]
    score: Float[np.ndarray, " token"]
    """`divergence.score_norm` under the policy without the context."""


def norm_factor(groups: Sequence[RolloutGroup], read: Sequence[Sequence[Reading | None]]) -> float:
    """sqrt(sum (A W)^2 s^2 / sum A^2 s^2) over the step's sampled tokens, s^2 the squared norm of grad log pi in the
    token's logits: how much longer the weights make the step's policy gradient, taken at the logits.

    Every token has logits of its own, so at the logits this is exact (for the whole vocabulary, at the policy that
    sampled); a common factor of this size gives GRPO that very norm there. Behind the logits the network's Jacobian
    mixes tokens, and no method sees it: the norm in the weights is matched as far as the Jacobian treats weighted
    tokens like the others, and `gradient_norm` in the log says how far that is. 1 where nothing has an advantage. A
    token whose distribution is not known (its episode has no teacher) counts as one of two entries, itself and the
    rest.
    """
    plain = weighted = 0.0
    for group, row in zip(groups, read, strict=True):
        for episode, advantage, reading in zip(group.episodes, group_advantages(group.rewards), row, strict=True):
            own = episode.sequence.logprobs[episode.sequence.mask]
            score = score_norm(own, with_tail(own[:, None])) if reading is None else reading.score
            weights = np.ones(len(score)) if reading is None else reading.weights
            plain += float((advantage**2 * score).sum())
            weighted += float((advantage**2 * weights**2 * score).sum())
    return float(np.sqrt(weighted / plain)) if plain > 0 else 1.0


def mixed(group: RolloutGroup) -> bool:
    """Successes and failures side by side: 0 < successes < n."""
    return len({episode.success for episode in group.episodes}) == 2


def tool_audit(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Whether successes still act: the collapse that self-distillation is known for is a success without a tool call.

    An environment that counts `tool_calls` in its metrics is believed; else the calls its actions spell out are
    counted.
    """
    counts = np.array(
        [tool_calls(episode) for group in groups for episode in group.episodes if episode.success], dtype=np.float64
    )
    return {"successes_without_call": mean(counts == 0), "calls_per_success": mean(counts)}


def tool_calls(episode: Episode) -> float:
    """Tool calls of one episode."""
    if "tool_calls" in episode.metrics:
        return float(episode.metrics["tool_calls"])
    texts = [str(episode.messages[place]["content"] or "") for place in acted_at(episode)]
    return float(sum(len(structured_calls(text)) for text in texts))
