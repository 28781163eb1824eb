"""The mathematics of the loss's terms, one pure torch function per equation, on vectors of sampled tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.core.types import KLForm

Aggregate = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"]
FORMS = tuple(KLForm)
EXPONENT_LIMIT = 20.0
"""|delta| beyond this no longer grows inside exp: e^20 is already far outside any trust region and must not overflow
float32."""
RATIO_EXPONENT_LIMIT = 10.0
"""The same for importance weights, which multiply another exponential."""
TAIL_FLOOR = 1e-12
"""Least mass of the tail bucket, so that its logarithm stays finite when K is the whole vocabulary."""


@runtime_checkable
class LossSpec(Protocol):
    """The constants of the loss; one set for all methods of a table (`harness.experiment.settings.LossSettings`)."""

    @property
    def clip_low(self) -> float:
        """The ratio is clipped below at 1 - clip_low."""
        ...

    @property
    def clip_high(self) -> float:
        """The ratio is clipped above at 1 + clip_high."""
        ...

    @property
    def aggregate(self) -> Aggregate:
        """How tokens' losses become the step's."""
        ...

    @property
    def sum_constant(self) -> float | None:
        """The divisor of `sequence-mean-token-sum`."""
        ...

    @property
    def dual_clip(self) -> float | None:
        """Bound of the loss of negative advantages, in units of the advantage; None for none."""
        ...


def log_ratio(current: Tensor, behaviour: Tensor) -> Tensor:
    """log pi - log pi_behaviour, bounded so that its exponential is finite in float32."""
    return (current - behaviour).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)


def surrogate(
    current: Float[Tensor, " t"], behaviour: Float[Tensor, " t"], advantages: Float[Tensor, " t"], spec: LossSpec
) -> Float[Tensor, " t"]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7) with separate bounds (DAPO, 2503.14476, eq. 10), optionally
    dual-clipped (Ye et al. 2020): for A < 0 the loss never exceeds -dual_clip * A."""
    ratio = log_ratio(current, behaviour).exp()
    clipped = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    if spec.dual_clip is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, spec.dual_clip * advantages), gain)
    return -gain


def anchor_divergence(
    current: Float[Tensor, " t"], anchor: Float[Tensor, " t"], behaviour: Float[Tensor, " t"], forms: Int[Tensor, " t"]
) -> Float[Tensor, " t"]:
    """Per-token estimate of the divergence from the anchor, each token in its own form (Schulman 2020, "Approximating
    KL divergence")."""
    delta = current - anchor
    total: Tensor | None = None
    for code in sorted(set(forms.tolist())):
        values = _kl_form(FORMS[code], delta, current, behaviour)
        total = values if total is None else torch.where(forms == code, values, total)
    return torch.zeros_like(delta) if total is None else total


def _kl_form(form: KLForm, delta: Tensor, current: Tensor, behaviour: Tensor) -> Tensor:
    match form:
        case KLForm.K1:
            return delta
        case KLForm.NEG_K1:
            return -delta
        case KLForm.K2:
            return delta.square() / 2
        case KLForm.K3:
            return _k3(delta)
        case KLForm.IS_K3:
            ratio = (current - behaviour).clamp(max=RATIO_EXPONENT_LIMIT).exp()
            return ratio * _k3(delta)


def _k3(delta: Tensor) -> Tensor:
    return (-delta).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp() - 1 + delta


def vocabulary_divergence(
    teacher: Float[Tensor, "t support"],
    student: Float[Tensor, "t support"],
    divergence: str,
    alpha: float,
    entry_clip: float | None = None,
) -> Float[Tensor, " t"]:
    """D(q, pi) over K entries and the tail: forward KL(q||pi), reverse KL(pi||q), or the generalised Jensen-Shannon
    divergence (1-alpha) KL(pi||M) + alpha KL(q||M) with M = (1-alpha) pi + alpha q (Agarwal et al. 2024, 2306.13649,
    with alpha for beta).

    entry_clip: sum_v min(D_v, entry_clip) over the entries' parts D_v (point-wise clipping, Zhao et al. 2026,
    2601.18734). What is clipped from above may have negative parts left, so the sum may fall below 0."""
    if entry_clip is None:
        return _divergence(teacher, student, divergence, alpha, _kl)
    return _divergence(teacher, student, divergence, alpha, _kl_parts).clamp(max=entry_clip).sum(-1)


def _divergence(
    teacher: Tensor, student: Tensor, divergence: str, alpha: float, kl: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    if divergence == "forward":
        return kl(teacher, student)
    if divergence == "reverse":
        return kl(student, teacher)
    if divergence == "jsd":
        if not 0 < alpha < 1:
            raise ValueError(f"the divergence 'jsd' needs 0 < alpha < 1, got {alpha}")
        mixture = torch.logaddexp(student + np.log1p(-alpha), teacher + np.log(alpha))
        return (1 - alpha) * kl(student, mixture) + alpha * kl(teacher, mixture)
    raise ValueError(f"unknown divergence {divergence!r}; known: forward, reverse, jsd")


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return _kl_parts(p, q).sum(-1)


def _kl_parts(p: Tensor, q: Tensor) -> Tensor:
    """What every entry adds to KL(p||q)."""
    return p.exp() * (p - q)


def with_tail(logprobs: Float[Tensor, "*t k"]) -> Float[Tensor, "*t k+1"]:
    """Log-probabilities of k entries and, last, of everything else: log(1 - sum), the sum kept `TAIL_FLOOR` below 1."""
    floor = max(TAIL_FLOOR, torch.finfo(logprobs.dtype).eps)
    total = logprobs.logsumexp(-1, keepdim=True).clamp(max=-floor)
    return torch.cat([logprobs, torch.log(-torch.expm1(total))], -1)
