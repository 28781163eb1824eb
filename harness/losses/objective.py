"""The one loss of every method, as a pure torch function of annotated tokens.

    L = Agg[-min(rho A, clip(rho, 1-eps_low, 1+eps_high) A)]     surrogate      rho = exp(log pi - log pi_behaviour)
      + Agg[-c log pi]                                           likelihood     signed, no ratio, no clip
      + Agg[w k(log pi, anchor)]                                 anchor         k chosen per token (KLForm)
      + Agg[d D(q, pi)]                                          distillation   over top-K entries and their tail

and a term for every further stream that `harness.losses.streams` declares. A stream no credit of the step sets is
absent from the graph: nothing is multiplied by zero. Every term is a sum of per-token values under weights that are
fixed for the whole step, so the losses of the parts of a cut batch add up to the whole's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.losses.batch import Batch
from harness.losses.streams import Sampled, declared
from harness.losses.terms import LossSpec


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
    """The loss of a batch under the current policy's log-probabilities of the labels, differentiable in both
    arguments of the policy.

    `support_logprobs`: the current policy on `batch.distillation.ids` and, last, on the tail; needed only where
    distillation is set.
    """
    mask = batch.mask
    if logprobs.shape != mask.shape:
        raise ValueError(f"logprobs have shape {tuple(logprobs.shape)}, the batch has {tuple(mask.shape)}")
    current = logprobs[mask]
    weights = _aggregation_weights(batch, spec).to(current.dtype)
    if batch.weights is not None:
        weights = weights * batch.weights[mask].to(current.dtype)
    sampled = Sampled(mask, current, weights, batch.logprobs[mask].to(current.dtype), spec, support_logprobs)
    terms = {
        stream.term: stream.loss(batch.streams[stream.name], sampled)
        for stream in declared()
        if batch.streams.get(stream.name) is not None
    }
    total = sum(terms.values()) if terms else (current * 0).sum()
    assert isinstance(total, Tensor)
    return LossOutput(total, terms)


def _aggregation_weights(batch: Batch, spec: LossSpec) -> Float[Tensor, " sampled"]:
    """Each sampled token's share of the step: the three aggregations differ in nothing else. A sequence is a whole
    episode, in however many pieces."""
    mask = batch.mask
    if spec.aggregate == "token-mean":
        return torch.full((int(mask.sum()),), 1.0 / max(batch.step_tokens, 1), dtype=torch.float64, device=mask.device)
    per_row = batch.episode_tokens.to(torch.float64)
    if spec.aggregate == "sequence-mean-token-mean":
        shares = 1.0 / (per_row * batch.step_sequences)
    elif spec.sum_constant is not None:
        shares = torch.full_like(per_row, 1.0 / (spec.sum_constant * batch.step_sequences))
    else:
        raise ValueError("aggregate 'sequence-mean-token-sum' needs sum_constant")
    return shares[:, None].expand(mask.shape)[mask]
