"""The one loss of every method, as pure torch functions of annotated tokens.

    L = Agg[-min(rho A, clip(rho, 1-eps_low, 1+eps_high) A)]     surrogate      rho = exp(log pi - log pi_behaviour)
      + Agg[-c log pi]                                           likelihood     signed, no ratio, no clip
      + Agg[w k(log pi, anchor)]                                 anchor         k chosen per token (KLForm)
      + Agg[d D(q, pi)]                                          distillation   over top-K entries and their tail

A stream no credit of the step sets is `None` and its term is absent from the graph: nothing is multiplied by zero. Every term is a sum of
per-token values under weights that are fixed for the whole step, so the losses of the parts of a cut batch add up to the whole's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.core.types import KLForm

Aggregate = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"]
FORMS = tuple(KLForm)
EXPONENT_LIMIT = 20.0
"""|delta| beyond this no longer grows inside exp: e^20 is already far outside any trust region and must not overflow float32."""
RATIO_EXPONENT_LIMIT = 10.0
TAIL_FLOOR = 1e-12
"""Least mass of the tail bucket, so that its logarithm stays finite when K is the whole vocabulary."""


@runtime_checkable
class LossSpec(Protocol):
    """The constants of the loss; one set for all methods of a table (`harness.experiment.settings.LossSettings`)."""

    @property
    def clip_low(self) -> float: ...
    @property
    def clip_high(self) -> float: ...
    @property
    def aggregate(self) -> Aggregate: ...
    @property
    def sum_constant(self) -> float | None: ...
    @property
    def dual_clip(self) -> float | None: ...


@dataclass(frozen=True, eq=False)
class AnchorBatch:
    """`harness.core.types.Anchor` of every row, as label columns."""

    logprobs: Float[Tensor, "row position"]
    weights: Float[Tensor, "row position"]
    forms: Int[Tensor, "row position"]
    """Index into `FORMS`."""


@dataclass(frozen=True, eq=False)
class DistillationBatch:
    """`harness.core.types.Distillation` of every row, as label columns; one kind for the whole batch."""

    ids: Int[Tensor, "row position k"]
    logprobs: Float[Tensor, "row position k+1"]
    """The teacher's, the tail last."""
    weights: Float[Tensor, "row position"]
    divergence: Literal["forward", "reverse", "jsd"]
    alpha: float
    ratio_clip: float | None


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences as tensors, one row each, longest first. Column `position` of a per-token tensor is about `tokens[:, position + 1]`."""

    tokens: Int[Tensor, "row length"]
    lengths: Int[Tensor, " row"]
    prompts: Int[Tensor, " row"]
    """Tokens before a row's first sampled one (the whole length where none was sampled)."""
    order: Int[Tensor, " row"]
    """Index of each row in the sequences that were packed."""
    mask: Bool[Tensor, "row position"]
    logprobs: Float[Tensor, "row position"]
    """Behaviour log-probabilities."""
    advantages: Float[Tensor, "row position"] | None
    likelihood: Float[Tensor, "row position"] | None
    anchor: AnchorBatch | None
    distillation: DistillationBatch | None
    step_tokens: int
    """Sampled tokens of the whole step, kept when rows are cut into micro-batches or spread over ranks."""
    step_sequences: int

    @classmethod
    def from_numpy(cls, **arrays: Any) -> Batch:
        """A batch from numpy arrays of the same names (nested for anchor and distillation)."""
        return cls(**{name: cls.tensor(value) for name, value in arrays.items()})

    @staticmethod
    def tensor(value: Any) -> Any:
        """A numpy array as a tensor; anything else as it is."""
        return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, rows: Int[Tensor, " _"] | Sequence[int]) -> Batch:
        """These rows as a batch of their own, cut to their longest; the step-wide counts stay."""
        index = torch.as_tensor(rows, device=self.tokens.device)
        longest = int(self.lengths[index].max()) if len(index) else 1
        return _map(self, lambda name, tensor: _cut(name, tensor[index], longest))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """Moved; floating tensors also converted to `dtype`."""
        return _map(self, lambda _, tensor: tensor.to(device, dtype if tensor.is_floating_point() else None))


Record = TypeVar("Record", bound="Batch | AnchorBatch | DistillationBatch")


def _cut(name: str, tensor: Tensor, longest: int) -> Tensor:
    if name in ("lengths", "prompts", "order"):
        return tensor
    return tensor[:, : longest if name == "tokens" else longest - 1]


def _map(record: Record, change: Callable[[str, Tensor], Tensor]) -> Record:
    """A copy of a (nested) dataclass with every tensor changed."""
    changed: dict[str, Any] = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, Tensor):
            changed[entry.name] = change(entry.name, value)
        elif isinstance(value, AnchorBatch | DistillationBatch):
            changed[entry.name] = _map(value, change)
    return replace(record, **changed)


@dataclass(frozen=True, eq=False)
class LossOutput:
    """`total` is the sum of `terms`; both are in the graph."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def policy_loss(
    logprobs: Float[Tensor, "row position"],
    batch: Batch,
    spec: LossSpec,
    support_logprobs: Float[Tensor, "row position support"] | None = None,
) -> LossOutput:
    """The loss of a batch under the current policy's log-probabilities of the labels, differentiable in both arguments of the policy.

    `support_logprobs`: the current policy on `batch.distillation.ids` and, last, on the tail; needed only where distillation is set.
    """
    mask = batch.mask
    if logprobs.shape != mask.shape:
        raise ValueError(f"logprobs have shape {tuple(logprobs.shape)}, the batch has {tuple(mask.shape)}")
    current = logprobs[mask]
    weights = _aggregation_weights(batch, spec).to(current.dtype)

    def stream(tensor: Tensor) -> Tensor:
        return tensor[mask].to(current.dtype)

    behaviour = stream(batch.logprobs)
    terms: dict[str, Tensor] = {}
    if batch.advantages is not None:
        values = surrogate(current, behaviour, stream(batch.advantages), spec)
        terms["surrogate"] = (weights * values).sum()
    if batch.likelihood is not None:
        terms["likelihood"] = -(weights * stream(batch.likelihood) * current).sum()
    if batch.anchor is not None:
        values = anchor_divergence(current, stream(batch.anchor.logprobs), behaviour, batch.anchor.forms[mask])
        terms["anchor"] = (weights * stream(batch.anchor.weights) * values).sum()
    if batch.distillation is not None:
        if support_logprobs is None:
            raise ValueError("the batch carries distillation: policy_loss needs support_logprobs")
        target = batch.distillation
        values = vocabulary_divergence(
            stream(target.logprobs), support_logprobs[mask].to(current.dtype), target.divergence, target.alpha
        )
        if target.ratio_clip is not None:
            values = values * log_ratio(current, behaviour).detach().exp().clamp(max=target.ratio_clip)
        terms["distillation"] = (weights * stream(target.weights) * values).sum()
    total = sum(terms.values()) if terms else (current * 0).sum()
    assert isinstance(total, Tensor)
    return LossOutput(total, terms)


def _aggregation_weights(batch: Batch, spec: LossSpec) -> Float[Tensor, " sampled"]:
    """Each sampled token's share of the step: the three aggregations differ in nothing else."""
    mask = batch.mask
    if spec.aggregate == "token-mean":
        return torch.full((int(mask.sum()),), 1.0 / max(batch.step_tokens, 1), dtype=torch.float64, device=mask.device)
    per_row = mask.sum(1, dtype=torch.float64)
    if spec.aggregate == "sequence-mean-token-mean":
        shares = 1.0 / (per_row * batch.step_sequences)
    elif spec.sum_constant is not None:
        shares = torch.full_like(per_row, 1.0 / (spec.sum_constant * batch.step_sequences))
    else:
        raise ValueError("aggregate 'sequence-mean-token-sum' needs sum_constant")
    return shares[:, None].expand(mask.shape)[mask]


def log_ratio(current: Tensor, behaviour: Tensor) -> Tensor:
    """log pi - log pi_behaviour, bounded so that its exponential is finite in float32."""
    return (current - behaviour).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)


def surrogate(
    current: Float[Tensor, " t"], behaviour: Float[Tensor, " t"], advantages: Float[Tensor, " t"], spec: LossSpec
) -> Float[Tensor, " t"]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7) with separate bounds (DAPO, 2503.14476, eq. 10), optionally dual-clipped
    (Ye et al. 2020): for A < 0 the loss never exceeds -dual_clip * A."""
    ratio = log_ratio(current, behaviour).exp()
    clipped = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    gain = torch.minimum(ratio * advantages, clipped * advantages)
    if spec.dual_clip is not None:
        gain = torch.where(advantages < 0, torch.maximum(gain, spec.dual_clip * advantages), gain)
    return -gain


def anchor_divergence(
    current: Float[Tensor, " t"], anchor: Float[Tensor, " t"], behaviour: Float[Tensor, " t"], forms: Int[Tensor, " t"]
) -> Float[Tensor, " t"]:
    """Per-token estimate of the divergence from the anchor, each token in its own form (Schulman 2020, "Approximating KL divergence")."""
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
    teacher: Float[Tensor, "t support"], student: Float[Tensor, "t support"], divergence: str, alpha: float
) -> Float[Tensor, " t"]:
    """D(q, pi) over K entries and the tail: forward KL(q||pi), reverse KL(pi||q), or the generalised Jensen-Shannon divergence
    (1-alpha) KL(pi||M) + alpha KL(q||M) with M = (1-alpha) pi + alpha q (Agarwal et al. 2024, 2306.13649, with alpha for beta)."""
    if divergence == "forward":
        return _kl(teacher, student)
    if divergence == "reverse":
        return _kl(student, teacher)
    if divergence == "jsd":
        if not 0 < alpha < 1:
            raise ValueError(f"the divergence 'jsd' needs 0 < alpha < 1, got {alpha}")
        mixture = torch.logaddexp(student + np.log1p(-alpha), teacher + np.log(alpha))
        return (1 - alpha) * _kl(student, mixture) + alpha * _kl(teacher, mixture)
    raise ValueError(f"unknown divergence {divergence!r}; known: forward, reverse, jsd")


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def with_tail(logprobs: Float[Tensor, "*t k"]) -> Float[Tensor, "*t k+1"]:
    """Log-probabilities of k entries and, last, of everything else: log(1 - sum), the sum kept `TAIL_FLOOR` below 1."""
    floor = max(TAIL_FLOOR, torch.finfo(logprobs.dtype).eps)
    total = logprobs.logsumexp(-1, keepdim=True).clamp(max=-floor)
    return torch.cat([logprobs, torch.log(-torch.expm1(total))], -1)
