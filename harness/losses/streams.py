"""The streams a credit may carry, each declared once: how credits of a step are packed, and the term their tokens add
to the loss.

A stream of the project's own stands in a field of `harness.types.Credit`; any other in its `more`, under the name
declared here:

    STREAMS = (*STREAMS, TokenStream("entropy", "entropy", lambda weights, sampled: ...))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from harness.core.types import Anchor, Distillation, KLForm
from harness.losses.batch import AnchorBatch, Batch, DistillationBatch
from harness.losses.terms import (
    FORMS,
    TAIL_FLOOR,
    LossSpec,
    anchor_divergence,
    log_ratio,
    surrogate,
    vocabulary_divergence,
)

Column = Callable[..., np.ndarray]
"""column(values, dtype, trailing=()): rows of label columns; the first token's entry falls away, absent rows and
padding are 0."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """A batch's sampled tokens as vectors, in the dtype of the loss: what terms are functions of."""

    mask: Bool[Tensor, "row position"]
    current: Float[Tensor, " t"]
    """Log-probabilities under the policy being trained: the only differentiable input beside the support."""
    weights: Float[Tensor, " t"]
    """Each token's share of the step."""
    behaviour: Float[Tensor, " t"]
    spec: LossSpec
    support: Float[Tensor, "row position support"] | None
    """The current policy on the entries of a distillation and, last, on their tail."""

    def of(self, tensor: Tensor) -> Tensor:
        """The sampled tokens' entries of a tensor [row, position, ...]."""
        return tensor[self.mask].to(self.current.dtype)


class Stream(ABC):
    """One stream: its name in a credit, its term's name in the loss and in every log."""

    name: str
    term: str

    @abstractmethod
    def pack(self, values: Sequence[Any | None], column: Column) -> Any:
        """What the batch holds of a step's credits (longest sequence first); only called where some credit has the
        stream."""

    @abstractmethod
    def loss(self, packed: Any, sampled: Sampled) -> Float[Tensor, ""]:
        """The term's sum over the sampled tokens, under their weights."""


@dataclass(frozen=True)
class TokenStream(Stream):
    """A number per token."""

    name: str
    term: str
    total: Callable[[Float[Tensor, " t"], Sampled], Float[Tensor, ""]]
    """The term's sum, of the sampled tokens' numbers."""

    def pack(self, values: Sequence[np.ndarray | None], column: Column) -> Tensor:
        packed: Tensor = Batch.tensor(column(values, np.float64))
        return packed

    def loss(self, packed: Tensor, sampled: Sampled) -> Float[Tensor, ""]:
        return self.total(sampled.of(packed), sampled)


def _surrogate(advantages: Float[Tensor, " t"], sampled: Sampled) -> Float[Tensor, ""]:
    return (sampled.weights * surrogate(sampled.current, sampled.behaviour, advantages, sampled.spec)).sum()


def _likelihood(weights: Float[Tensor, " t"], sampled: Sampled) -> Float[Tensor, ""]:
    return -(sampled.weights * weights * sampled.current).sum()


class AnchorStream(Stream):
    """w k(log pi, anchor), with a form of its own for every token."""

    name = term = "anchor"

    def pack(self, values: Sequence[Anchor | None], column: Column) -> AnchorBatch:
        codes = {form: code for code, form in enumerate(FORMS)}
        forms = [None if a is None else np.array([codes[form] for form in a.forms]) for a in values]
        packed = column(forms, np.int64)
        # Padding and absent anchors take the form everybody shares, or else k3: their weight is 0, and a batch that
        # knows one form only stays so.
        used = {code for array in forms if array is not None for code in array.tolist()}
        filler = used.pop() if len(used) == 1 else codes[KLForm.K3]
        for row, array in enumerate(forms):
            packed[row, 0 if array is None else len(array) - 1 :] = filler
        return AnchorBatch(
            logprobs=Batch.tensor(column([a and a.logprobs for a in values], np.float64)),
            weights=Batch.tensor(column([a and a.weights for a in values], np.float64)),
            forms=Batch.tensor(packed),
        )

    def loss(self, packed: AnchorBatch, sampled: Sampled) -> Float[Tensor, ""]:
        forms = packed.forms[sampled.mask]
        values = anchor_divergence(sampled.current, sampled.of(packed.logprobs), sampled.behaviour, forms)
        return (sampled.weights * sampled.of(packed.weights) * values).sum()


class DistillationStream(Stream):
    """d D(q, pi) over K entries and their tail."""

    name = term = "distillation"

    def pack(self, values: Sequence[Distillation | None], column: Column) -> DistillationBatch:
        present = [entry for entry in values if entry is not None]
        kinds = {(d.divergence, d.alpha, d.ratio_clip, d.entry_clip, d.target.ids.shape[1]) for d in present}
        if len(kinds) > 1:
            raise ValueError(
                "one step needs one kind of distillation (divergence, alpha, ratio_clip, entry_clip, k), got "
                f"{sorted(map(str, kinds))}"
            )
        divergence, alpha, ratio_clip, entry_clip, k = kinds.pop()
        logprobs = column([d and _with_tail(d.target.logprobs) for d in values], np.float64, (k + 1,))
        return DistillationBatch(
            ids=Batch.tensor(column([d and d.target.ids for d in values], np.int64, (k,))),
            logprobs=Batch.tensor(logprobs),
            weights=Batch.tensor(column([d and d.weights for d in values], np.float64)),
            divergence=divergence,
            alpha=alpha,
            ratio_clip=ratio_clip,
            entry_clip=entry_clip,
        )

    def loss(self, packed: DistillationBatch, sampled: Sampled) -> Float[Tensor, ""]:
        if sampled.support is None:
            raise ValueError("the batch carries distillation: policy_loss needs support_logprobs")
        student, teacher = sampled.of(sampled.support), sampled.of(packed.logprobs)
        values = vocabulary_divergence(teacher, student, packed.divergence, packed.alpha, packed.entry_clip)
        if packed.ratio_clip is not None:
            ratio = log_ratio(sampled.current, sampled.behaviour).detach().exp()
            values = values * ratio.clamp(max=packed.ratio_clip)
        return (sampled.weights * sampled.of(packed.weights) * values).sum()


def _with_tail(logprobs: np.ndarray) -> np.ndarray:
    """log(1 - sum) beside the k entries, the sum kept `TAIL_FLOOR` below 1 (as `terms.with_tail` does for the
    policy)."""
    top = logprobs.max(-1, keepdims=True)
    total = top + np.log(np.exp(logprobs - top).sum(-1, keepdims=True))
    return np.concatenate([logprobs, np.log(-np.expm1(np.minimum(total, -TAIL_FLOOR)))], -1)


STREAMS: tuple[Stream, ...] = (
    TokenStream("advantages", "surrogate", _surrogate),
    TokenStream("likelihood", "likelihood", _likelihood),
    AnchorStream(),
    DistillationStream(),
)
"""Every stream, in the order in which the loss adds their terms."""


def declared() -> tuple[Stream, ...]:
    """The streams there are."""
    return STREAMS
