"""The one loss of every method: credits packed into a batch of tensors, and the batch's terms. Pure functions of
arrays."""

from harness.losses.batch import AnchorBatch, Batch, DistillationBatch
from harness.losses.objective import LossOutput, policy_loss
from harness.losses.packing import pack
from harness.losses.terms import (
    EXPONENT_LIMIT,
    FORMS,
    RATIO_EXPONENT_LIMIT,
    TAIL_FLOOR,
    Aggregate,
    LossSpec,
    anchor_divergence,
    log_ratio,
    surrogate,
    vocabulary_divergence,
    with_tail,
)

__all__ = [
    "EXPONENT_LIMIT",
    "FORMS",
    "RATIO_EXPONENT_LIMIT",
    "TAIL_FLOOR",
    "Aggregate",
    "AnchorBatch",
    "Batch",
    "DistillationBatch",
    "LossOutput",
    "LossSpec",
    "anchor_divergence",
    "log_ratio",
    "pack",
    "policy_loss",
    "surrogate",
    "vocabulary_divergence",
    "with_tail",
]
