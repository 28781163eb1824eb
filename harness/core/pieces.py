"""What is said of an episode's tokens, cut into the pieces that a model reads, and joined again.

A *per-token record* is an array with one entry per token, or a dataclass or a mapping of such; anything else in it
(a divergence's name, a clip) belongs to all tokens alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from harness.core.types import TokenSequence

Record = TypeVar("Record")


def flat(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """The pieces of all sequences, in order."""
    return [piece for sequence in sequences for piece in sequence.pieces]


def cut(record: Record, sequence: TokenSequence) -> list[Record]:
    """A per-token record of a sequence, as one record for each of its pieces; of one piece the record itself."""
    if not sequence.starts:
        return [record]
    return [_slice(record, start, end) for start, end in sequence.bounds]


def joined(records: Sequence[Record], sequences: Sequence[TokenSequence]) -> list[Record]:
    """One record for every sequence, of those of all pieces in the order of `flat`: what `cut` undoes."""
    rest = iter(records)
    return [_concatenated([next(rest) for _ in sequence.bounds]) for sequence in sequences]


def _slice(value: Any, start: int, end: int) -> Any:
    if isinstance(value, np.ndarray):
        return value[start:end]
    if isinstance(value, Mapping):
        return {key: _slice(entry, start, end) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _slice(getattr(value, f.name), start, end) for f in fields(value)})
    return value


def _concatenated(values: Sequence[Any]) -> Any:
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, Mapping):
        return {key: _concatenated([value[key] for value in values]) for key in first}
    if is_dataclass(first) and not isinstance(first, type):
        whole = {f.name: _concatenated([getattr(value, f.name) for value in values]) for f in fields(first)}
        return replace(first, **whole)
    return first
