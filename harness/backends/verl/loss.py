"""verl's policy loss by ours: `harness.losses.policy_loss` on a micro-batch of verl's padded tensors.

The constants are read from verl's own configuration, so that an override on its command line acts. The pull to the
reference policy is verl's (`use_kl_loss`, form `low_var_kl`): a policy loss is shown no reference.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from harness.core.errors import UnknownNameError
from harness.experiment import LossSettings
from harness.losses import Batch, log_ratio, policy_loss

AGGREGATES = {
    "token-mean": "token-mean",
    "sequence-mean-token-mean": "seq-mean-token-mean",
    "sequence-mean-token-sum": "seq-mean-token-sum-norm",
}
"""verl's name of each of our aggregations."""
NO_DUAL_CLIP = 1e9
"""verl's bound of the loss of negative advantages always stands. Ratios are at most e^20 = 4.9e8: this one binds
nowhere."""


def verl_policy_loss(
    old_log_prob: Float[Tensor, "row position"],
    log_prob: Float[Tensor, "row position"],
    advantages: Float[Tensor, "row position"],
    response_mask: Shaped[Tensor, "row position"],
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Float[Tensor, "row position"] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The loss of a micro-batch, scaled as verl's engines add it up over ranks, and what is logged of it.

    config: verl's `ActorConfig`, whose `global_batch_info` holds the counts of the whole update. UnknownNameError for
    an aggregation that ours has no name for.
    """
    spec = loss_settings(config, loss_agg_mode)
    mask = response_mask.bool()
    info = config.global_batch_info
    batch = micro_batch(old_log_prob, advantages, mask, info, rollout_is_weights)
    total = policy_loss(log_prob, batch, spec).total * (info.get("dp_size") or 1)
    apart = log_ratio(log_prob.detach()[mask], old_log_prob[mask])
    outside = (apart.exp() < 1 - spec.clip_low) | (apart.exp() > 1 + spec.clip_high)
    count = max(int(mask.sum()), 1)
    return total, {
        "actor/pg_clipfrac": float(outside.sum()) / count,
        "actor/ppo_kl": -float(apart.sum()) / count,
    }


def loss_settings(config: Any, aggregate: str) -> LossSettings:
    """The constants of our loss in verl's configuration of an actor."""
    ours = {theirs: own for own, theirs in AGGREGATES.items()}
    if aggregate not in ours:
        raise UnknownNameError("loss_agg_mode", aggregate, ours)
    bound = config.clip_ratio_c
    return LossSettings.model_validate(
        {
            "clip_low": config.clip_ratio_low,
            "clip_high": config.clip_ratio_high,
            "aggregate": ours[aggregate],
            "sum_constant": config.loss_scale_factor,
            "dual_clip": None if bound >= NO_DUAL_CLIP else bound,
        }
    )


def micro_batch(
    old: Tensor, advantages: Tensor, mask: Tensor, info: dict[str, Any], weights: Tensor | None = None
) -> Batch:
    """What our loss reads of verl's tensors (positions are those of the response: no shift by one), and the counts of
    the whole update, or of these rows where verl gives none."""
    rows, width = mask.shape
    tokens, sequences = info.get("batch_num_tokens"), info.get("global_batch_size")
    lengths = torch.full((rows,), width + 1, dtype=torch.int64, device=mask.device)
    return Batch(
        tokens=torch.zeros((rows, width + 1), dtype=torch.int64, device=mask.device),
        lengths=lengths,
        prompts=torch.ones_like(lengths),
        order=torch.arange(rows, device=mask.device),
        episode_tokens=mask.sum(1),
        mask=mask,
        logprobs=old,
        streams={"advantages": advantages},
        step_tokens=int(mask.sum()) if tokens is None else int(tokens),
        step_sequences=int(mask.any(1).sum()) if sequences is None else int(sequences),
        weights=weights,
    )
