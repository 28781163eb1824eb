"""The trainer backend: five verbs behind which any trainer can stand, and the records they exchange (plain Python and numpy).

    sample   prompts -> completions with token ids and log-probabilities
    score    sequences -> Scores under the current or the initial weights, behind any context
    update   batch, loss -> metrics: one optimiser step
    save     a Hugging Face model directory plus the trainer's own state
    load     back from such a directory

Behaviour, teacher, reference and loss all use logits / temperature; top-p only restricts sampling.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from harness.core.types import Scores, TokenSequence


@dataclass(frozen=True)
class Prompt:
    """Tokens to continue."""

    tokens: Sequence[int]
    seed: int = 0
    """Of this completion's own random stream: what is sampled does not depend on what else is in the batch."""
    limit: int | None = None
    """Most tokens to sample here, where that is less than everybody's `max_new_tokens`."""
    key: Hashable = None
    """The conversation. When a later prompt of the same key extends an earlier one and its completion, their cache is kept."""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens."""

    max_new_tokens: int
    temperature: float = 1.0
    """Also divides the logits of the log-probabilities that are returned."""
    top_p: float = 1.0
    greedy: bool = False
    """Take the likeliest token; log-probabilities are still those at `temperature`."""


@dataclass(frozen=True, eq=False)
class Completion:
    """What was sampled after one prompt."""

    tokens: Int[np.ndarray, " new"]
    logprobs: Float[np.ndarray, " new"]
    stopped: bool
    """Whether the last token is the model's own end of turn."""
    cut_mass: float = 0.0
    """Mean probability that top-p cut off."""


@runtime_checkable
class Backend(Protocol):
    """See the module's docstring for the verbs."""

    renderer: Any
    window: int
    """Most tokens in one sequence."""
    vocabulary: int

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]: ...

    def score(
        self,
        sequences: Sequence[TokenSequence],
        policy: Literal["current", "initial"] = "current",
        top_k: int | None = None,
        ids: Sequence[Int[np.ndarray, "_ _"]] | None = None,
        contexts: Sequence[Sequence[int]] | None = None,
    ) -> list[Scores]:
        """Scores of each sequence's sampled tokens. `top_k`: with the distribution over this policy's K likeliest entries; `ids`: over
        these entries instead; `contexts`: tokens that stand in front of each sequence."""
        ...

    def update(self, batch: Any, loss: Any, per_term: bool = False) -> dict[str, float]: ...

    def save(self, path: Path | str) -> None: ...

    def load(self, path: Path | str) -> None: ...
