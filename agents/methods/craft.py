"""CRAFT: counterfactual credit from the siblings' tokens, a phase-aware controller, a direction-polarised KL.

What is the paper's and what is ours stands in the class's docstring; the arithmetic is in `counterfactual` and
`controller`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Shaped

from agents.methods.advantages import degenerate_share, group_advantages
from agents.methods.base import (
    Assignment,
    Described,
    Number,
    State,
    members,
    on_mask,
    one_of,
    reference_anchor,
    teacher_gap,
    within,
)
from agents.methods.controller import Controller
from agents.methods.counterfactual import MAX_GAP, permute_across_siblings, positions, token_importance
from agents.methods.diagnostics import ROUNDING, gathered, mean, sign_agreement, teacher_share
from agents.methods.sdar import SDAR
from harness.protocols.method import MethodFacts
from harness.types import Credit, Evidence, KLForm, Needs, RolloutGroup

Parts = list[Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class CRAFT(Described):
    """Counterfactual credit assignment from sibling rollouts: A, likelihood weight lambda * c_t, polarised KL of
    weight mu.

    Meng & Chen 2026, arXiv 2606.29476. Loss L_PG + mu L_KLpol + lambda L_CTI (equation 4).

    Pillar 1, equations 7-10, over siblings j != i that have a token at t, Delta = log q - log p (clamped at +-20 nats):

        w_j = exp(Delta_t^j / tau) / sum_k exp(Delta_t^k / tau)
        CTI = sum_j w_j A^j - A^i                                 c = tanh(beta CTI / 2)

    beta is `beta_plus` where CTI > 0 and `beta_minus` where CTI < 0. c lies in [-1, 1]. Where fewer than `g_min`
    episodes (this one counted) reach t, CTI = A Delta (`below` = "fallback") or 0 ("zero"). An episode without a
    teacher counts among its siblings with Delta = 0; a group in which no episode has a teacher has c = 0.

    credit: "printed" is the equation above. With binary rewards it opposes the advantage on every token that has a
    sibling:
        sum_j w_j A^j is a mean of the siblings' advantages, at most A for a success and at least A for a failure. The
        paper's own sign table says the reverse, so "aligned" (ours) turns the sign of CTI, never that of the
        fallback. "fallback" is A Delta everywhere (ablation A6).
    weights: "tilted" as above; controls (ours): "uniform" (tau to infinity), "permuted" (Delta shuffled at every
    position
        among the siblings present there, by a fixed stream).
    alignment (ours, the paper leaves it open): position t is "turn", the index inside the same turn, or "episode".

    Pillar 2 (`phase_aware`, equations 11-13): lambda and mu from `controller.Controller`, fed by the share of sampled
    tokens with |c| > theta_g. Off: static `lam` and `kl`; on, these two are not read.

    Pillar 3 (`polarised_kl`, equation 14): anchor form k1 where c > theta_kl, -k1 where c < -theta_kl, else k3; |c|
    <= 1e-9 counts as 0 (ours: equal siblings leave rounding noise). `swap` exchanges k1 and -k1 (ablation A7). Off:
    k3 everywhere.

    `enabled` off: SDAR(sdar_coef, sdar_beta, kl), to the bit. Defaults: Table 6.
    """

    paper: ClassVar[str] = "Meng & Chen 2026, arXiv 2606.29476"

    enabled: bool = True
    phase_aware: bool = True
    polarised_kl: bool = True
    credit: str = "printed"
    weights: str = "tilted"
    alignment: str = "turn"
    tau: Number = 1.0
    beta_plus: Number = 5.0
    beta_minus: Number = 5.0
    g_min: int = 2
    below: str = "fallback"
    theta_g: Number = 0.1
    theta_kl: Number = 0.0
    swap: bool = False
    lam: Number = 0.01
    lam_min: Number = 0.005
    lam_max: Number = 0.02
    mu_min: Number = 0.005
    mu_max: Number = 0.02
    alpha: Number = 0.95
    n_warmup: int = 10
    rho_target: Number = 0.5
    kl: Number = 0.01
    sdar_coef: Number = 0.01
    sdar_beta: Number = 5.0

    def __post_init__(self) -> None:
        one_of(self, "credit", self.credit, ("printed", "aligned", "fallback"))
        one_of(self, "weights", self.weights, ("tilted", "uniform", "permuted"))
        one_of(self, "alignment", self.alignment, ("turn", "episode"))
        one_of(self, "below", self.below, ("fallback", "zero"))
        within(self, 1e-6, np.inf, tau=self.tau)
        within(self, 2, np.inf, g_min=self.g_min)
        within(self, 0, np.inf, beta_plus=self.beta_plus, beta_minus=self.beta_minus, lam=self.lam, kl=self.kl)
        within(self, 0, np.inf, sdar_coef=self.sdar_coef, sdar_beta=self.sdar_beta)
        within(self, 0, 1, theta_g=self.theta_g, theta_kl=self.theta_kl)
        Controller.of(self)

    @property
    def baseline(self) -> SDAR:
        """What is left when CRAFT is switched off."""
        return SDAR(self.sdar_coef, self.sdar_beta, self.kl)

    @property
    def controller(self) -> Controller:
        """What moves the two weights."""
        return Controller.of(self)

    def describe(self) -> MethodFacts:
        """The controller's ranges, where the weights move."""
        return self.controller.describe() if self.enabled and self.phase_aware else MethodFacts(float(self.kl))

    @property
    def needs(self) -> Needs:
        if not self.enabled:
            return self.baseline.needs
        return Needs(teacher="sampled", reference=(self.mu_max if self.phase_aware else self.kl) > 0)

    def initial_state(self) -> State:
        return self.controller.start() if self.enabled and self.phase_aware else {}

    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> Assignment:
        if not self.enabled:
            return self.baseline.assign(groups, evidence, state)
        lam, mu = self.controller.weights(state) if self.phase_aware else (self.lam, self.kl)
        rng = np.random.default_rng(0)  # read by weights="permuted" alone
        credits = []
        contrasts: Parts = []
        signs: Parts = []
        effective: Parts = []
        for group, known in members(groups, evidence):
            advantages = group_advantages(group.rewards)
            token_credit, siblings = self.token_credit(group, known, advantages, rng)
            row = []
            for episode, seen, advantage, c in zip(group.episodes, known, advantages, token_credit, strict=True):
                sequence = episode.sequence
                spread = np.zeros(len(sequence))
                spread[sequence.mask] = c
                likelihood = on_mask(sequence, lam * spread) if lam > 0 else None
                anchor = reference_anchor(episode, seen, mu, self.anchor_forms(spread))
                row.append(Credit(on_mask(sequence, advantage), likelihood, anchor))
                signs.append(np.full(len(c), advantage))
            credits.append(row)
            contrasts += token_credit
            effective.append(siblings)
        contrast = gathered(contrasts)
        gate = mean((np.abs(contrast) > self.theta_g).astype(np.float64))
        if self.phase_aware and len(contrast):
            state = self.controller.advance(state, gate)
        log = {
            "degenerate_groups": degenerate_share(groups),
            "teacher_share": teacher_share(evidence),
            "sign_agreement": sign_agreement(contrast, gathered(signs)),
            "effective_siblings": mean(gathered(effective)),
            "credit_mean_abs": mean(np.abs(contrast)),
            "gate_share": gate,
            "lambda": float(lam),
            "mu": float(mu),
        }
        return credits, state, log

    def token_credit(
        self,
        group: RolloutGroup,
        known: Sequence[Evidence],
        advantages: Float[np.ndarray, " sibling"],
        rng: np.random.Generator,
    ) -> tuple[Parts, Float[np.ndarray, " _"]]:
        """c on the sampled tokens of every episode (equations 7-10), and the effective number of siblings that each
        is made of."""
        gaps = [teacher_gap(episode, seen) for episode, seen in zip(group.episodes, known, strict=True)]
        lengths = [int(episode.sequence.mask.sum()) for episode in group.episodes]
        if all(gap is None for gap in gaps):
            return [np.zeros(length) for length in lengths], np.zeros(0)
        columns, width = positions(group, self.alignment)
        present = np.zeros((len(gaps), width), dtype=bool)
        delta = np.zeros((len(gaps), width))
        for row, (episode, gap, column) in enumerate(zip(group.episodes, gaps, columns, strict=True)):
            present[row, column] = True
            if gap is not None:
                delta[row, column] = np.clip(gap[episode.sequence.mask], -MAX_GAP, MAX_GAP)
        importance, effective = self.importance(advantages, delta, present, rng)
        beta = np.where(importance > 0, self.beta_plus, self.beta_minus)
        c = np.tanh(0.5 * beta * importance)
        counted = effective[present]
        return [c[row, column] for row, column in enumerate(columns)], counted[counted > 0]

    def importance(
        self,
        advantages: Float[np.ndarray, " sibling"],
        delta: Float[np.ndarray, "sibling position"],
        present: Shaped[np.ndarray, "sibling position"],
        rng: np.random.Generator,
    ) -> tuple[Float[np.ndarray, "sibling position"], Float[np.ndarray, "sibling position"]]:
        """The signed CTI that is used at every position, after `credit`, `weights`, `g_min` and `below`; 1 / sum
        w^2."""
        fallback = advantages[:, None] * delta
        if self.credit == "fallback":
            return fallback, np.zeros_like(delta)
        tilt = permute_across_siblings(delta, present, rng) if self.weights == "permuted" else delta
        tau = np.inf if self.weights == "uniform" else self.tau
        importance, effective = token_importance(advantages, tilt, present, tau)
        if self.credit == "aligned":
            importance = -importance
        enough = present.sum(axis=0) >= self.g_min
        return (
            np.where(enough, importance, fallback if self.below == "fallback" else 0.0),
            np.where(enough, effective, 0.0),
        )

    def anchor_forms(self, c: Float[np.ndarray, " token"]) -> Shaped[np.ndarray, " token"]:
        """Equation 14: the direction in which each token is held to the reference."""
        forms = np.full(len(c), KLForm.K3, dtype=object)
        if self.polarised_kl:
            towards, away = (KLForm.NEG_K1, KLForm.K1) if self.swap else (KLForm.K1, KLForm.NEG_K1)
            threshold = max(self.theta_kl, ROUNDING)
            forms[c > threshold] = towards
            forms[c < -threshold] = away
        return forms
