"""Sampling many conversations as one batch, the key-value cache kept from turn to turn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.protocols.backend import Completion, Prompt, SamplingParams

COMPACT_AT = 0.5
"""Rows not finished, as a share of those computed, below which the finished ones are dropped from the batch. Dropping
copies the cache, so it is not done for every row that ends."""


@dataclass
class Live:
    """Conversations whose cache is kept: `tokens[r]` are the tokens row r stands for, of which `cache.lengths[r]` are
    computed."""

    keys: list[Hashable]
    tokens: list[list[int]]
    cache: Any


class Sampler:
    """Draws completions from one model; a conversation's earlier turns are never computed twice."""

    def __init__(self, forward: Any, stop_ids: Sequence[int]) -> None:
        self.forward = forward
        self.device = next(forward.model.parameters()).device
        self.stops = torch.tensor(sorted(stop_ids), device=self.device)
        self.live: Live | None = None

    def release(self) -> None:
        """Forget all caches: the weights change, or the conversations are over."""
        self.live = None

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """One completion per prompt, in order."""
        if not prompts:
            return []
        self.forward.freeze()
        try:
            cache, hidden = self._continued(prompts) or self._fresh(prompts)
            first = int(cache.lengths.min())
            drawn = self._decode(prompts, params, cache, hidden, first)
        finally:
            self.forward.thaw()
        keys = [prompt.key for prompt in prompts]
        if None not in keys:
            extended = [[*prompt.tokens, *done.tokens.tolist()] for prompt, done in zip(prompts, drawn, strict=True)]
            self.live = Live(keys, extended, cache)
        return drawn

    def _continued(self, prompts: Sequence[Prompt]) -> tuple[Any, Tensor] | None:
        """The kept cache extended by what is new in every prompt; None unless every prompt extends its conversation."""
        # Taken away at once: a cache that is half extended when something fails must not be met again.
        live, self.live = self.live, None
        if live is None:
            return None
        place = {key: row for row, key in enumerate(live.keys)}
        rows = [place.get(prompt.key, -1) for prompt in prompts]
        if -1 in rows:
            return (
                None  # one newcomer would need a cache of another length; computing all anew is rare and always right
            )
        computed = live.cache.lengths.tolist()
        fresh: list[list[int]] = []
        for prompt, row in zip(prompts, rows, strict=True):
            tokens, have = list(prompt.tokens), computed[row]
            if len(tokens) <= have or tokens[:have] != live.tokens[row][:have]:
                return None
            fresh.append(tokens[have:])
        same = rows == list(range(len(live.keys)))
        cache = live.cache if same else live.cache.rows(torch.tensor(rows, device=self.device))
        return cache, self._prefill(fresh, cache)

    def _fresh(self, prompts: Sequence[Prompt]) -> tuple[Any, Tensor]:
        """Prompts from their beginning; siblings' shared prompt is computed once."""
        place: dict[tuple[int, ...], int] = {}
        rows = [place.setdefault(tuple(prompt.tokens), len(place)) for prompt in prompts]
        distinct = [list(tokens) for tokens in place]
        cache = self.forward.cache(len(distinct), max(map(len, distinct)))
        hidden = self._prefill(distinct, cache)
        if len(distinct) < len(rows):
            index = torch.tensor(rows, device=self.device)
            return cache.rows(index), hidden[index]
        return cache, hidden

    def _prefill(self, lines: Sequence[Sequence[int]], cache: Any) -> Float[Tensor, "row width"]:
        """Add ragged lines of tokens; the hidden state after each line's last."""
        counts = torch.tensor([len(line) for line in lines], device=self.device)
        ids = np.zeros((len(lines), int(counts.max())), dtype=np.int64)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = line
        return self.forward.extend(torch.from_numpy(ids).to(self.device), counts, cache)  # type: ignore[no-any-return]

    def _decode(
        self, prompts: Sequence[Prompt], params: SamplingParams, cache: Any, hidden: Tensor, first: int
    ) -> list[Completion]:
        """Token by token until every row has stopped or is at its limit; `cache` ends up with all but each row's last
        token."""
        rows, most = len(prompts), params.max_new_tokens
        limits = torch.tensor([min(most, most if p.limit is None else p.limit) for p in prompts], device=self.device)
        # All of a row's chance is drawn beforehand, so that no row's tokens depend on when its neighbours stop.
        uniforms = None if params.greedy else self._uniforms(prompts, int(limits.max()))
        tokens = torch.zeros((rows, most), dtype=torch.int64, device=self.device)
        logprobs = torch.zeros((rows, most), dtype=torch.float64, device=self.device)
        cut = torch.zeros(rows, dtype=torch.float64, device=self.device)
        counts = torch.zeros(rows, dtype=torch.int64, device=self.device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=self.device)
        index, working = torch.arange(rows, device=self.device), cache
        for step in range(int(limits.max())):
            drawn, logprob, lost = _choose(
                self.forward.logits(hidden), params, None if uniforms is None else uniforms[index, step]
            )
            speaking = ~stopped[index] & (counts[index] < limits[index])
            at = index[speaking]
            tokens[at, step], logprobs[at, step] = drawn[speaking], logprob[speaking]
            cut[at] += lost[speaking]
            counts[at] += 1
            stopped[at] = torch.isin(drawn[speaking], self.stops)
            speaking = ~stopped[index] & (counts[index] < limits[index])
            left = int(speaking.sum())
            if left == 0:
                break
            # Finished rows are computed along and thrown away until dropping them pays.
            if left <= COMPACT_AT * len(index) and self.forward.compacts:
                if working is not cache:
                    cache.write_back(index, working, first)
                index, drawn = index[speaking], drawn[speaking]
                working, speaking = cache.rows(index), speaking[speaking]
            hidden = self.forward.extend(drawn[:, None], speaking.long(), working)
        if working is not cache:
            cache.write_back(index, working, first)
        return _completions(tokens, logprobs, counts, stopped, cut)

    def _uniforms(self, prompts: Sequence[Prompt], most: int) -> Float[Tensor, "row step"]:
        """Each row's own stream of uniform numbers."""
        streams = [np.random.Generator(np.random.Philox(key=prompt.seed)).random(most) for prompt in prompts]
        return torch.from_numpy(np.stack(streams)).to(self.device)


def _choose(
    logits: Float[Tensor, "row vocabulary"], params: SamplingParams, uniforms: Float[Tensor, " row"] | None
) -> tuple[Int[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, " row"]]:
    """A token per row by inversion of the cumulative distribution, its log-probability before top-p, and the mass
    top-p cut off."""
    wide = logits.double() if logits.dtype == torch.float64 else logits.float()
    full = (wide / params.temperature).log_softmax(-1)
    lost = torch.zeros(len(full), dtype=torch.float64, device=full.device)
    if uniforms is None:
        drawn = full.argmax(-1)
    else:
        probabilities = full.exp()
        if params.top_p < 1:
            probabilities, lost = _nucleus(probabilities, params.top_p)
        cumulative = probabilities.cumsum(-1)
        whole = cumulative[:, -1:].contiguous()
        # A uniform that rounds to the whole mass would fall off the end.
        threshold = torch.minimum(uniforms.to(whole.dtype)[:, None] * whole, whole.nextafter(torch.zeros_like(whole)))
        drawn = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    return drawn, full.gather(1, drawn[:, None])[:, 0].double(), lost


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of likeliest entries whose mass reaches top_p (Holtzman et al. 2020); the others set to 0."""
    ordered, places = probabilities.sort(dim=-1, descending=True, stable=True)
    keep = ordered.cumsum(-1) - ordered < top_p
    kept = torch.zeros_like(probabilities).scatter(1, places, ordered * keep)
    return kept, 1 - kept.sum(-1).double()


def _completions(tokens: Tensor, logprobs: Tensor, counts: Tensor, stopped: Tensor, cut: Tensor) -> list[Completion]:
    everything = (tokens.cpu().numpy(), logprobs.cpu().numpy(), counts.tolist(), stopped.tolist(), cut.tolist())
    return [Completion(t[:n].copy(), p[:n].copy(), s, c / max(n, 1)) for t, p, n, s, c in zip(*everything, strict=True)]
