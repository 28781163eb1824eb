"""What is wanted of next-token distributions, without ever holding all of them: tokens are read in chunks.

A distribution is a row of the vocabulary's size, and a step has thousands of tokens: [tokens, vocabulary] of 16,000
tokens and 152,000 entries is 10 GB in float32, several times over while gradients are computed. So a reading, which
keeps a few numbers of every token, is taken of a chunk at a time, and where gradients are wanted a chunk's
distributions are computed once more on the way back (Chen et al. 2016, 1604.06174). What fits one chunk is read at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harness.losses import with_tail

CHUNK_MIB = 128.0
"""Default size of a chunk's log-probabilities. While its gradient is computed, about three arrays of this size are
held."""
Reading = Callable[..., tuple[Tensor, ...]]
"""reading(log-probabilities [token, vocabulary], ...given): tensors with a row for each token."""


class Heads:
    """Reads the distributions that a forward pass's hidden states stand for."""

    def __init__(self, vocabulary: int, chunk_mib: float = CHUNK_MIB) -> None:
        self.vocabulary, self.bytes = vocabulary, chunk_mib * 2**20

    def read(
        self, forward: Any, hidden: Float[Tensor, "t width"], temperature: float, reading: Reading, *given: Tensor
    ) -> list[Tensor]:
        """The reading of all tokens. temperature: divides the logits; given: what the reading takes beside, a row for
        each token.

        Differentiable; a chunk's distributions are never kept.
        """

        def read(rows: Tensor, *beside: Tensor) -> tuple[Tensor, ...]:
            return reading(_logprobs(forward, rows, temperature), *beside)

        chunks = list(self._chunks(hidden, *given))
        if len(chunks) == 1:
            return list(read(*chunks[0]))
        again = torch.is_grad_enabled()
        parts = [
            checkpoint(read, *chunk, use_reentrant=False, preserve_rng_state=False) if again else read(*chunk)
            for chunk in chunks
        ]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _chunks(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        hidden = tensors[0]
        entry = 8 if hidden.dtype == torch.float64 else 4
        size = max(1, int(self.bytes // (entry * self.vocabulary)))
        yield from zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def _logprobs(forward: Any, hidden: Float[Tensor, "t width"], temperature: float) -> Float[Tensor, "t vocabulary"]:
    """Next-token log-probabilities in at least float32."""
    logits = forward.unembed(hidden)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # Dividing by 1 changes nothing, and costs a copy.
    return torch.log_softmax(wide if temperature == 1 else wide / temperature, -1)


def of_labels(logprobs: Tensor, labels: Int[Tensor, " t"]) -> tuple[Tensor]:
    """The labels' own."""
    return (logprobs.gather(1, labels[:, None])[:, 0],)


def of_support(logprobs: Tensor, labels: Int[Tensor, " t"], ids: Int[Tensor, "t k"]) -> tuple[Tensor, Tensor]:
    """The labels' own, and those of k entries with their tail."""
    (chosen,) = of_labels(logprobs, labels)
    return chosen, with_tail(logprobs.gather(1, ids))


def of_entries(logprobs: Tensor, labels: Int[Tensor, " t"], ids: Int[Tensor, "t k"]) -> tuple[Tensor, Tensor, Tensor]:
    """The labels' own; k entries and theirs."""
    (chosen,) = of_labels(logprobs, labels)
    return chosen, ids, logprobs.gather(1, ids)


def of_likeliest(logprobs: Tensor, labels: Int[Tensor, " t"], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The labels' own; the k likeliest entries and theirs: the whole vocabulary in its own order, which needs no
    sorting and compares across policies."""
    if k < logprobs.shape[1]:
        return of_entries(logprobs, labels, logprobs.topk(k, dim=1).indices)
    return of_entries(logprobs, labels, torch.arange(logprobs.shape[1], device=logprobs.device).expand(logprobs.shape))
