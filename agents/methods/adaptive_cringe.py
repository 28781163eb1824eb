"""Adaptive-CRINGE: CRAFT's controller around a teacher-gap credit that asks neither siblings nor advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import (
    Assignment,
    Described,
    Number,
    State,
    members,
    on_mask,
    reference_anchor,
    teacher_gap,
    within,
)
from agents.methods.controller import Controller
from agents.methods.diagnostics import gathered, mean, sign_agreement, teacher_share
from harness.protocols.method import MethodFacts
from harness.types import Credit, Evidence, Needs, RolloutGroup


@dataclass(frozen=True)
class AdaptiveCRINGE(Described):
    """A on every sampled token, likelihood weight lambda * tanh(beta * Delta / 2), plain k3 to the reference with
    weight mu.

    The comparator of Meng & Chen 2026, arXiv 2606.29476, whose loss the paper does not print. This reading is ours:
    lambda and mu come from the paper's controller (equations 11-13), fed by the share of tokens with |c| > theta_g, and
    c = tanh(beta * Delta / 2) lies in (-1, 1). An episode without a teacher has c = 0. (CRINGE proper, Adolphs et al.
    2022, arXiv 2211.05826, contrasts logits; that is no term of the harness's loss.)

    `adaptive` off: static weights, `lam` on the likelihood and `kl` on the reference; on, the two are not read.
    Defaults: CRAFT's Table 6.
    """

    paper: ClassVar[str] = "comparator of Meng & Chen 2026, arXiv 2606.29476"

    beta: Number = 5.0
    lam: Number = 0.01
    lam_min: Number = 0.005
    lam_max: Number = 0.02
    mu_min: Number = 0.005
    mu_max: Number = 0.02
    alpha: Number = 0.95
    n_warmup: int = 10
    rho_target: Number = 0.5
    theta_g: Number = 0.1
    kl: Number = 0.01
    adaptive: bool = True

    def __post_init__(self) -> None:
        within(self, 0, np.inf, beta=self.beta, lam=self.lam, kl=self.kl)
        within(self, 0, 1, theta_g=self.theta_g)
        Controller.of(self)

    @property
    def controller(self) -> Controller:
        """What moves the two weights."""
        return Controller.of(self)

    def describe(self) -> MethodFacts:
        """The controller's ranges, where the weights move."""
        return self.controller.describe() if self.adaptive else MethodFacts(float(self.kl))

    @property
    def needs(self) -> Needs:
        return Needs(teacher="sampled", reference=(self.mu_max if self.adaptive else self.kl) > 0)

    def initial_state(self) -> State:
        return self.controller.start() if self.adaptive else {}

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        lam, mu = self.controller.weights(state) if self.adaptive else (self.lam, self.kl)
        credits = []
        contrasts: list[Float[np.ndarray, " _"]] = []
        signs: list[Float[np.ndarray, " _"]] = []
        for group, known in members(groups, evidence):
            row = []
            for episode, advantage, seen in zip(group.episodes, group_advantages(group.rewards), known, strict=True):
                sequence = episode.sequence
                gap = teacher_gap(episode, seen)
                contrast = np.zeros(len(sequence)) if gap is None else np.tanh(0.5 * self.beta * gap)
                likelihood = on_mask(sequence, lam * contrast) if lam > 0 else None
                anchor = reference_anchor(episode, seen, mu)
                row.append(Credit(on_mask(sequence, advantage), likelihood, anchor))
                contrasts.append(contrast[sequence.mask])
                signs.append(np.full(len(contrasts[-1]), advantage))
            credits.append(row)
        contrast = gathered(contrasts)
        gate = mean((np.abs(contrast) > self.theta_g).astype(np.float64))
        if self.adaptive and len(contrast):
            state = self.controller.advance(state, gate)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "sign_agreement": sign_agreement(contrast, gathered(signs)),
            "gate_share": gate,
            "lambda": float(lam),
            "mu": float(mu),
        }
        return credits, state, log


@dataclass(frozen=True)
class TokenCRINGE(AdaptiveCRINGE):
    """Adaptive-CRINGE without its controller: likelihood weight 0.01, reference KL 0.01, both static."""

    adaptive: bool = False
