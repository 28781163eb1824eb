"""The phase-aware controller: how hard the credit term and the reference KL pull, fed by how much credit there was.

Meng & Chen 2026, arXiv 2606.29476, equations 11-13.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from agents.methods.base import Number, State, within
from harness.protocols.method import MethodFacts


@dataclass(frozen=True)
class Controller:
    """Turns the gated share of a step's tokens into the next step's weights.

        rho <- alpha * rho + (1 - alpha) * rho_gate          starts at 0.5, held during the first n_warmup steps
        lambda = lam_min + (lam_max - lam_min) * f           mu = mu_min + (mu_max - mu_min) * (1 - f)

    f = clip(rho + 0.5 - rho_target, 0, 1) is ours: the paper gives a target of 0.5 and no formula. Both weights stay
    inside their ranges, whatever the gate reports.
    """

    lam_min: Number
    lam_max: Number
    mu_min: Number
    mu_max: Number
    alpha: Number
    n_warmup: int
    rho_target: Number

    def __post_init__(self) -> None:
        within(self, 0, np.inf, lam_min=self.lam_min, mu_min=self.mu_min, n_warmup=self.n_warmup)
        within(self, self.lam_min, np.inf, lam_max=self.lam_max)
        within(self, self.mu_min, np.inf, mu_max=self.mu_max)
        within(self, 0, 1, alpha=self.alpha, rho_target=self.rho_target)

    @classmethod
    def of(cls, method: object) -> Controller:
        """The controller of a method that has the fields of these names. ValueError where one is out of range."""
        return cls(**{entry.name: getattr(method, entry.name) for entry in fields(cls)})

    def describe(self) -> MethodFacts:
        """What a row of a table says of weights that move."""
        note = (
            f"likelihood weight moves in [{self.lam_min:g}, {self.lam_max:g}], "
            f"reference-KL weight in [{self.mu_min:g}, {self.mu_max:g}]"
        )
        return MethodFacts(reference_kl=None, notes=(note,))

    def start(self) -> State:
        """The state before the first step."""
        return {"rho": 0.5, "steps": 0.0}

    def weights(self, state: State) -> tuple[Number, Number]:
        """(lambda, mu) of the step that begins in `state`."""
        fed = min(max(state["rho"] + 0.5 - self.rho_target, 0.0), 1.0)
        return (
            self.lam_min + (self.lam_max - self.lam_min) * fed,
            self.mu_min + (self.mu_max - self.mu_min) * (1 - fed),
        )

    def advance(self, state: State, rho_gate: Number) -> State:
        """The state after a step in which a share `rho_gate` of the sampled tokens passed the gate."""
        held = state["steps"] < self.n_warmup
        rho = state["rho"] if held else self.alpha * state["rho"] + (1 - self.alpha) * rho_gate
        return {"rho": rho, "steps": state["steps"] + 1}
