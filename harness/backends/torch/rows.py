"""Cutting a step's rows into micro-batches in which siblings stay together, so that their shared prompt is computed
once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SHARING_PAYS = 0.75
"""Distinct prompts, as a share of rows, up to which a pass of their own is cheaper than repeating them."""

MASK_ENTRIES = 2**26
"""Entries of the mask of rows behind prompts (causal attention of whole rows needs none), beyond which rows that share
nothing within their micro-batch are computed whole."""


@dataclass(frozen=True)
class Rows:
    """Rows computed together. Row r of `hidden` begins with the hidden state at token `starts[r]` of the whole row."""

    index: list[int]
    """Places in the sequences that were given."""
    starts: list[int]
    suffixes: Tensor
    prompts: Tensor | None
    """The distinct prompts, padded; None where rows are computed whole."""
    prompt_lengths: Tensor
    prompt_of: Tensor

    def hidden(self, forward: Any) -> Tensor:
        """Hidden states [row, position, width] from each row's last prompt token on; differentiable."""
        if self.prompts is None:
            return forward.score(self.suffixes)  # type: ignore[no-any-return]
        shared = forward.prompts(self.prompts, self.prompt_lengths, self.prompt_of)
        return forward.score(self.suffixes, shared)  # type: ignore[no-any-return]


def micro_batches(
    rows: Sequence[np.ndarray], first_sampled: Sequence[int], limit: int, share: bool, device: torch.device
) -> Iterator[Rows]:
    """Micro-batches of at most about `limit` padded token positions each (one row at least), longest first.

    A row's prompt is everything before the token in front of its first sampled one: that last token is computed with
    the row, because the first sampled token is predicted from it.
    """
    cuts = [max(first - 1, 0) for first in first_sampled]
    families: dict[bytes, list[int]] = {}
    for place, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
        families.setdefault(row[:cut].tobytes(), []).append(place)
    share = share and len(families) <= SHARING_PAYS * len(rows)
    if not share:
        cuts = [0] * len(rows)
    whole = sorted(families.values(), key=lambda members: -max(len(rows[m]) for m in members))
    ordered = (
        [m for members in whole for m in sorted(members, key=lambda m: -len(rows[m]))]
        if share
        else sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    )
    part: list[int] = []
    for place in ordered:
        if part and _positions(rows, cuts, [*part, place]) > limit:
            yield _rows(rows, cuts, part, share, device)
            part = []
        part.append(place)
    if part:
        yield _rows(rows, cuts, part, share, device)


def _positions(rows: Sequence[np.ndarray], cuts: Sequence[int], part: Sequence[int]) -> int:
    """Padded token positions of a micro-batch, its distinct prompts included."""
    suffix = max(len(rows[place]) - cuts[place] for place in part) * len(part)
    return suffix + sum({rows[place][: cuts[place]].tobytes(): cuts[place] for place in part}.values())


def _rows(rows: Sequence[np.ndarray], cuts: Sequence[int], part: list[int], share: bool, device: torch.device) -> Rows:
    suffixes = _padded([rows[place][cuts[place] :] for place in part], device)
    starts = [cuts[place] for place in part]
    if not share or not any(starts):
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return Rows(part, starts, suffixes, None, empty, empty)
    known: dict[bytes, int] = {}
    prompts: list[np.ndarray] = []
    prompt_of: list[int] = []
    for place in part:
        prompt = rows[place][: cuts[place]]
        if prompt.tobytes() not in known:
            known[prompt.tobytes()] = len(prompts)
            prompts.append(prompt)
        prompt_of.append(known[prompt.tobytes()])
    if len(prompts) == len(part) and suffixes.numel() * (max(starts) + suffixes.shape[1]) > MASK_ENTRIES:
        return _rows(rows, [0] * len(cuts), part, False, device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return Rows(part, starts, suffixes, _padded(prompts, device), lengths, torch.tensor(prompt_of, device=device))


def _padded(lines: Sequence[np.ndarray], device: torch.device) -> Tensor:
    out = np.zeros((len(lines), max(len(line) for line in lines)), dtype=np.int64)
    for row, line in enumerate(lines):
        out[row, : len(line)] = line
    return torch.from_numpy(out).to(device)
