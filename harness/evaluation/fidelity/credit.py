"""What a method's credit does to each sampled token: the advantage its loss amounts to, at the policy that sampled.

Where the loss reads log pi(y_t) of the sampled token alone (surrogate, likelihood, anchor), that is

    credit_t = -N dL/d log pi(y_t)                                N undoes the mean over the step's tokens

A distillation term moves the whole distribution. Its gradient is an expectation over the policy, sum_v pi_v a_v grad
log pi_v, of an advantage a with mean 0; the sampled token's share of it is

    credit_t = a(y_t) = -N (dL/dz(y_t)) / pi(y_t)                 z the logits: q/pi - 1 for the forward KL, log(q/pi)
    + KL for the reverse

Its sign is the direction of the sampled token's logit. The true advantage stands in the same place: dV/dz(y) = pi(y)
(V(prefix y) - V(prefix)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.core.pieces import cut, flat, joined
from harness.core.types import Credit, TokenSequence
from harness.experiment import LossSettings
from harness.losses import Batch, policy_loss, with_tail
from harness.losses.packing import pack
from harness.protocols.backend import Backend

Streams = list[Float[np.ndarray, " _"]]


def directions(
    sequences: Sequence[TokenSequence], credits: Sequence[Credit], backend: Backend, loss: LossSettings
) -> Streams:
    """The credit of every sampled token of every sequence, as defined above. The clip range and dual clip are the
    experiment's."""
    batch = pack(sequences, credits)
    policy = batch.logprobs.clone().requires_grad_()
    support = _support(sequences, credits, batch, backend)
    every_token_alike = LossSettings(clip_low=loss.clip_low, clip_high=loss.clip_high, dual_clip=loss.dual_clip)
    policy_loss(policy, batch, every_token_alike, support).total.backward()  # type: ignore[no-untyped-call]
    pieces = flat(sequences)
    out: Streams = [np.zeros(0)] * len(pieces)
    for row, index in enumerate(batch.order.tolist()):
        sampled = batch.mask[row]
        credit = np.zeros(int(sampled.sum()))
        if policy.grad is not None:
            credit -= policy.grad[row, sampled].numpy()
        if batch.distillation is not None:
            labels, ids = batch.tokens[row, 1:][sampled], batch.distillation.ids[row, sampled]
            credit += _implied(
                labels.numpy(), ids.numpy(), support.grad[row, sampled].numpy(), support[row, sampled].detach().numpy()
            )
        out[index] = credit * batch.step_tokens
    return joined(out, sequences)


def own_streams(sequences: Sequence[TokenSequence], credits: Sequence[Credit]) -> Streams | None:
    """The likelihood stream on sampled tokens: what a method says of single tokens beside the advantage. None where
    no credit has one."""
    if all(credit.likelihood is None for credit in credits):
        return None
    return [
        np.zeros(int(s.mask.sum())) if c.likelihood is None else np.asarray(c.likelihood, dtype=np.float64)[s.mask]
        for s, c in zip(sequences, credits, strict=True)
    ]


def _support(sequences: Sequence[TokenSequence], credits: Sequence[Credit], batch: Batch, backend: Backend) -> Any:
    """The policy's log-probabilities where the batch's distillation stands, as a leaf of the graph; None without
    distillation."""
    if batch.distillation is None:
        return None
    k = batch.distillation.ids.shape[-1]
    pieces = flat(sequences)
    ids = [
        np.zeros((len(piece), k), dtype=np.int64) if c.distillation is None else c.distillation.target.ids
        for sequence, credit in zip(sequences, credits, strict=True)
        for piece, c in zip(sequence.pieces, cut(credit, sequence), strict=True)
    ]
    scores = backend.score(pieces, ids=ids)
    whole = np.zeros((*batch.mask.shape, k))
    for row, index in enumerate(batch.order.tolist()):
        distribution = scores[index].distribution
        assert distribution is not None
        whole[row, batch.mask[row].numpy()] = distribution.logprobs[pieces[index].mask]
    return with_tail(Batch.tensor(whole)).detach().requires_grad_()


def _implied(
    labels: np.ndarray, ids: np.ndarray, gradient: np.ndarray, logprobs: np.ndarray
) -> Float[np.ndarray, " sampled"]:
    """-(dD/dz_y) / pi_y = sum_v g_v - g_y / pi_y from g = dD/dlog pi over [token, entry], the tail last; y in the
    tail stands for the tail."""
    found = ids == labels[:, None]
    column = np.where(found.any(axis=1), found.argmax(axis=1), ids.shape[1])
    places = np.arange(len(labels))
    # A sequence without a teacher has gradient 0 on entries that are no distribution.
    own = np.where(gradient[places, column] == 0, 0.0, gradient[places, column] * np.exp(-logprobs[places, column]))
    return np.asarray(gradient.sum(axis=1) - own)
