"""From ragged sequences and credits to one batch of tensors: the only place that pads and shifts by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.core.errors import UnknownNameError
from harness.core.pieces import cut, flat
from harness.core.types import Credit, TokenSequence
from harness.losses.batch import Batch
from harness.losses.streams import Column, declared


def pack(
    sequences: Sequence[TokenSequence], credits: Sequence[Credit], weights: Sequence[np.ndarray] | None = None
) -> Batch:
    """One row per piece of a sequence, longest first; column p of a per-token tensor is about token p + 1. No sampled
    token is lost. weights: a factor of every token's share of the loss (`harness.losses.mismatch`), one array per
    sequence.

    A stream that is None in some credits counts as zeros there, and is None in the batch only where it is None in all.
    Raises ValueError when a sequence begins with a sampled token (nothing predicts it) or a stream has the wrong
    length.
    """
    if len(sequences) != len(credits):
        raise ValueError(f"{len(sequences)} sequences but {len(credits)} credits")
    if not sequences:
        raise ValueError("nothing to pack: no sequences")
    for index, (sequence, credit) in enumerate(zip(sequences, credits, strict=True)):
        _check(index, sequence, credit)
    pieces = flat(sequences)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ordered = [pieces[index] for index in order]
    of_pieces = [part for sequence, credit in zip(sequences, credits, strict=True) for part in cut(credit, sequence)]
    given = [of_pieces[index] for index in order]
    sampled = np.array([sequence.mask.sum() for sequence in sequences for _ in sequence.pieces], dtype=np.int64)
    width = int(lengths.max())

    def column(values: Sequence[np.ndarray | None], dtype: Any, trailing: tuple[int, ...] = ()) -> np.ndarray:
        """Rows of label columns: the first token's entry falls away, absent rows and the padding are 0."""
        rows = np.zeros((len(values), max(width - 1, 0), *trailing), dtype=dtype)
        for row, value in enumerate(values):
            if value is not None and len(value):
                rows[row, : len(value) - 1] = value[1:]
        return rows

    tokens = np.zeros((len(ordered), width), dtype=np.int64)
    for row, sequence in enumerate(ordered):
        tokens[row, : len(sequence)] = sequence.tokens
    return Batch.from_numpy(
        tokens=tokens,
        lengths=lengths[order],
        prompts=np.array([_prompt_length(sequence) for sequence in ordered], dtype=np.int64),
        order=order,
        episode_tokens=sampled[order],
        mask=column([sequence.mask for sequence in ordered], np.bool_),
        logprobs=column([sequence.logprobs for sequence in ordered], np.float64),
        streams=_streams(given, column),
        step_tokens=int(sum(sequence.mask.sum() for sequence in sequences)),
        step_sequences=len(sequences),
        weights=None if weights is None else column(_ordered(weights, sequences, order), np.float64),
    )


def _ordered(
    weights: Sequence[np.ndarray], sequences: Sequence[TokenSequence], order: np.ndarray
) -> list[np.ndarray | None]:
    of_pieces = [part for weight, sequence in zip(weights, sequences, strict=True) for part in cut(weight, sequence)]
    return [of_pieces[index] for index in order]


def _check(index: int, sequence: TokenSequence, credit: Credit) -> None:
    if len(sequence) == 0:
        raise ValueError(f"sequence {index} is empty")
    if sequence.mask[0]:
        raise ValueError(f"sequence {index}: its first token is marked as sampled, but nothing precedes it")
    known = [stream.name for stream in declared()]
    for name, value in credit.streams():
        if name not in known:
            raise UnknownNameError("stream of a credit", name, known)
        weights = value if isinstance(value, np.ndarray) else value.weights
        if len(weights) != len(sequence):
            raise ValueError(f"credit {index}: {name} has {len(weights)} entries for {len(sequence)} tokens")
        if not np.all(np.isfinite(weights)):
            raise ValueError(f"credit {index}: {name} is not finite everywhere")


def _streams(credits: Sequence[Credit], column: Column) -> dict[str, Any]:
    """Every stream that some credit has, packed."""
    given = [dict(credit.streams()) for credit in credits]
    values = {stream: [entry.get(stream.name) for entry in given] for stream in declared()}
    return {
        stream.name: stream.pack(of_stream, column)
        for stream, of_stream in values.items()
        if any(value is not None for value in of_stream)
    }


def _prompt_length(sequence: TokenSequence) -> int:
    return int(np.argmax(sequence.mask)) if sequence.mask.any() else len(sequence)
