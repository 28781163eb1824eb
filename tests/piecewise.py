"""One-piece sequences put into several pieces, for tests that compare the two."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from harness.types import TokenSequence


def sources(sequence: TokenSequence) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """A piece for every turn, each with the whole history for its prompt: for every token of the pieces the place that
    it has in one piece, whether it counts as sampled, and where the pieces start."""
    sampled_turns = np.unique(sequence.turns[sequence.mask]).tolist()
    places, counts, starts = [], [], []
    for turn in sampled_turns:
        end = len(sequence) if turn == sampled_turns[-1] else int(np.flatnonzero(sequence.turns <= turn)[-1]) + 1
        starts.append(len(places))
        places += range(end)
        counts += (sequence.mask & (sequence.turns == turn))[:end].tolist()
    return np.array(places), np.array(counts), tuple(starts[1:])


def in_pieces(sequence: TokenSequence) -> TokenSequence:
    """The sequence with a piece for every turn."""
    if not sequence.mask.any():
        return sequence
    places, counts, starts = sources(sequence)
    logprobs = np.where(counts, sequence.logprobs[places], 0.0)
    return TokenSequence(sequence.tokens[places], counts, logprobs, sequence.turns[places], starts)


def of_pieces(record: Any, sequence: TokenSequence) -> Any:
    """A per-token record of a sequence as one of `in_pieces(sequence)`."""
    if not sequence.mask.any():
        return record
    if isinstance(record, np.ndarray):
        places, counts, _ = sources(sequence)
        shown = record[places]
        return shown if shown.dtype == object or shown.ndim > 1 else np.where(counts, shown, np.zeros(1, shown.dtype))
    if isinstance(record, dict):
        return {name: of_pieces(value, sequence) for name, value in record.items()}
    if is_dataclass(record):
        return replace(record, **{f.name: of_pieces(getattr(record, f.name), sequence) for f in fields(record)})
    return record
