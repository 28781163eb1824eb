"""An episode's tokens in several pieces: what is refused, cut and joined, recorded and read again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from piecewise import in_pieces

from harness.core.episodes import episode_from_row, episode_to_row, read_episodes, write_episodes
from harness.core.pieces import cut, flat, joined
from harness.types import Anchor, Credit, Distillation, Ending, Episode, KLForm, TokenSequence, TopK

MASK = [False, True, False, False, True]


def sequence(starts: tuple[int, ...] = (2,), mask: list[bool] = MASK) -> TokenSequence:
    flags = np.array(mask)
    return TokenSequence(np.arange(5), flags, np.where(flags, -1.5, 0.0), np.array([0, 0, 0, 0, 1]), starts)


@pytest.mark.parametrize("starts", [(0,), (5,), (6,), (-1,), (3, 2), (2, 2)])
def test_starts_that_are_none_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"starts must increase inside \(0, 5\)"):
        sequence(starts)


def test_a_piece_that_begins_with_a_sampled_token_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot begin with a sampled token"):
        sequence((4,))


def test_pieces_are_what_stands_between_the_starts() -> None:
    first, second = sequence().pieces
    assert (first.tokens.tolist(), second.tokens.tolist()) == ([0, 1], [2, 3, 4])
    assert (first.turns.tolist(), second.turns.tolist()) == ([0, 0], [0, 0, 1])
    assert second.mask.tolist() == [False, False, True]
    one = sequence(())
    assert one.pieces == (one,)  # the very object: nothing is copied


def credit(rng: np.random.Generator, length: int) -> Credit:
    forms = np.array([rng.choice(list(KLForm)) for _ in range(length)], dtype=object)
    target = TopK(rng.integers(0, 9, (length, 3)), rng.normal(size=(length, 3)))
    a, b, c, d, e = rng.normal(size=(5, length))
    return Credit(a, None, Anchor(b, c, forms), Distillation(target, d, "jsd", 0.3), {"own": e})


def arrays(record: Any) -> list[list[Any]]:
    anchor, distillation = record.anchor, record.distillation
    of = (record.advantages, anchor.logprobs, anchor.weights, anchor.forms, distillation.weights, record.more["own"])
    return [array.tolist() for array in (*of, distillation.target.ids, distillation.target.logprobs)]


def test_what_is_cut_and_joined_is_what_it_was(ragged_groups: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    ones = [s for group in ragged_groups(0) for s in group]
    sequences = [in_pieces(s) if n % 2 else s for n, s in enumerate(ones)]
    assert any(s.starts for s in sequences)
    credits = [credit(rng, len(s)) for s in sequences]
    parts = [part for c, s in zip(credits, sequences, strict=True) for part in cut(c, s)]
    assert [len(part.advantages) for part in parts] == [len(piece) for piece in flat(sequences)]
    assert all(cut(c, s)[0] is c for c, s in zip(credits, sequences, strict=True) if not s.starts)
    for before, after in zip(credits, joined(parts, sequences), strict=True):
        assert arrays(before) == arrays(after)
        assert (after.likelihood, after.distillation.divergence, after.distillation.alpha) == (None, "jsd", 0.3)


def episode(tokens: TokenSequence) -> Episode:
    return Episode("t", tokens, 1.0, True, Ending.COMPLETED)


def test_pieces_are_recorded_and_read(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl.gz"
    write_episodes(file, [episode(sequence()), episode(sequence(()))])
    (first, second), damaged = read_episodes(file)
    assert not damaged
    assert (first.sequence.starts, second.sequence.starts) == ((2,), ())
    for name in ("tokens", "mask", "logprobs", "turns"):
        np.testing.assert_array_equal(getattr(first.sequence, name), getattr(sequence(), name))
    rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert [row["starts"] for row in rows if "starts" in row] == [[2]]  # one piece: the row it always was


def test_a_record_without_starts_is_one_piece() -> None:
    row = episode_to_row(episode(sequence()))
    row.pop("starts")
    assert len(episode_from_row(row).sequence.pieces) == 1
