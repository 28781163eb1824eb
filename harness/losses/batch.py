"""A step's sequences as tensors: a row for each piece, per-token streams as label columns, step-wide counts that
survive any cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AnchorBatch:
    """`harness.core.types.Anchor` of every row, as label columns."""

    logprobs: Float[Tensor, "row position"]
    weights: Float[Tensor, "row position"]
    forms: Int[Tensor, "row position"]
    """Index into `harness.losses.terms.FORMS`."""


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
    entry_clip: float | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences as tensors, a row for each of their pieces, longest first. Column `position` of a per-token tensor is
    about `tokens[:, position + 1]`."""

    tokens: Int[Tensor, "row length"]
    lengths: Int[Tensor, " row"]
    prompts: Int[Tensor, " row"]
    """Tokens before a row's first sampled one (the whole length where none was sampled)."""
    order: Int[Tensor, " row"]
    """Index of each row among the pieces of the sequences that were packed, in order (`harness.core.pieces.flat`)."""
    episode_tokens: Int[Tensor, " row"]
    """Sampled tokens of the episode that a row belongs to: of all its pieces together."""
    mask: Bool[Tensor, "row position"]
    logprobs: Float[Tensor, "row position"]
    """Behaviour log-probabilities."""
    streams: Mapping[str, Any]
    """What credits carry, by the names of `harness.losses.streams`: a tensor [row, position], or a record of such. A
    stream that no credit sets is absent."""
    step_tokens: int
    """Sampled tokens of the whole step, kept when rows are cut into micro-batches or spread over ranks."""
    step_sequences: int
    """Episodes of the whole step, each counted once, however many pieces it is in."""
    weights: Float[Tensor, "row position"] | None = None
    """Detached factor of each token's share of the loss (`harness.losses.mismatch`); None where there is none."""

    @property
    def advantages(self) -> Float[Tensor, "row position"] | None:
        """The stream of the clipped surrogate."""
        return self.streams.get("advantages")

    @property
    def likelihood(self) -> Float[Tensor, "row position"] | None:
        """The stream of the plain log-likelihood."""
        return self.streams.get("likelihood")

    @property
    def anchor(self) -> AnchorBatch | None:
        """The stream of the pull to fixed log-probabilities."""
        return self.streams.get("anchor")

    @property
    def distillation(self) -> DistillationBatch | None:
        """The stream of the pull to a teacher's distributions."""
        return self.streams.get("distillation")

    @classmethod
    def from_numpy(cls, **arrays: Any) -> Batch:
        """A batch from numpy arrays of the same names; streams come packed."""
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


Record = TypeVar("Record", bound=Any)


def _cut(name: str, tensor: Tensor, longest: int) -> Tensor:
    if name in ("lengths", "prompts", "order", "episode_tokens"):
        return tensor
    return tensor[:, : longest if name == "tokens" else longest - 1]


def _map(record: Record, change: Callable[[str, Tensor], Tensor]) -> Record:
    """A copy of a record with every tensor changed, those of its streams and of their records too."""
    changed = {entry.name: _changed(entry.name, getattr(record, entry.name), change) for entry in fields(record)}
    return replace(record, **changed)


def _changed(name: str, value: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: _changed(key, entry, change) for key, entry in value.items()}
    return _map(value, change) if is_dataclass(value) else value
