"""Any Hugging Face causal language model with the same interface as `forward.LlamaForward`, by its own forward pass.

Models differ in what their caches can hold, so there are several ways, from the quickest on:

    GenericForward  attention only: one cache for all rows, with holes where a row had nothing to add, hidden by masks
    PaddedForward   recurrent states too (Mamba, gated delta rule, short convolutions), chunked attention, ALiBi: rows
                    padded on the left, as the models themselves generate; the cache lives for one turn
    WholeForward    anything causal: every token is computed from the beginning, without a cache

`generic_forward` takes the first way that the model's configuration allows *and* that reproduces the model's plain
forward pass of whole rows. What `extend` returns as hidden states are the logits themselves, so that whatever a model
does after its last layer is kept; `score` returns hidden states where the model comes apart behind them (`halves`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from harness.backends.torch.halves import Halves
from harness.core.errors import UserError

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 0.2}
"""Nats by which two ways of computing one log-probability may differ. Models compute norms and rotations in float32
whatever their weights are. bfloat16 keeps 8 bits, so that logits of about 20 come in steps of 0.125: the largest of
many differences is a few of those, and it is the mean that must be small; that of a wrong distribution is not."""
WINDOWED = {"full_attention", "sliding_attention"}
"""Kinds of layers whose masks `GenericForward` knows."""
MASK_ENTRIES = 2**26
"""Entries of the masks of one pass: a long prompt of many rows is read in pieces."""
LIKELIEST = 64
"""Entries that are compared: what is never sampled, at -30 nats and less, is rounded more roughly."""
NARROW = 8
"""Sliding window while a way is proven: a short row is wider than this one, and nothing else depends on its size."""


class OwnForward:
    """What all ways share: training and scoring compute whole rows, and finished rows stay in the batch."""

    compacts = False
    shares_prompts = False
    way = ""
    """In words, for people."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config.get_text_config(decoder=True)
        self._takes = set(inspect.signature(model.forward).parameters)
        self._halves = Halves.of(model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def freeze(self) -> None:
        """Nothing to prepare."""

    def thaw(self) -> None:
        """Nothing to undo."""

    def score(self, ids: Tensor, prompts: None = None) -> Tensor:
        """What `unembed` reads, of whole rows padded on the right: under causal attention no real token sees the
        padding."""
        assert prompts is None
        if self._halves:
            return self._halves.hidden(ids)
        return self.model(input_ids=ids, use_cache=False).logits  # type: ignore[no-any-return]

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits from what `score` returned: hidden states, or logits already where the model is in one piece."""
        return self._halves.logits(hidden) if self._halves else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """What `extend` returns are logits already."""
        return hidden

    def _last(self, columns: Int[Tensor, " row"], **given: Any) -> Tensor:
        """Logits at one column of each row."""
        rows = torch.arange(len(columns), device=columns.device)
        given = {name: value for name, value in given.items() if name in self._takes}
        if "logits_to_keep" in self._takes:  # not [row, step, vocabulary] for a long prompt
            keep, columns = torch.unique(columns, return_inverse=True)
            given["logits_to_keep"] = keep
        out: Tensor = self.model(**given).logits[rows, columns]
        return out


class HoleCache:
    """A model's own cache: which columns of it each row sees, and the positions that they stand for."""

    def __init__(self, store: Any, seen: Bool[Tensor, "row column"], positions: Int[Tensor, "row column"]) -> None:
        self.store, self.seen, self.positions = store, seen, positions

    @property
    def lengths(self) -> Tensor:
        """int64[row]: how many columns each row sees."""
        return self.seen.sum(1)

    def rows(self, rows: Tensor) -> HoleCache:
        """A copy of these rows; a row may be named more than once."""
        store = copy.deepcopy(self.store)
        store.batch_select_indices(rows)
        return HoleCache(store, self.seen[rows], self.positions[rows])


class GenericForward(OwnForward):
    """The same columns are appended to all rows. Masks hide the holes and, in layers with a sliding window, what is
    further back than the window in *positions*: a model's own masks count columns, holes among them."""

    way = "one cache for all rows"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._layers = _kinds(model) or {"full_attention"}

    @classmethod
    def supports(cls, model: Any) -> bool:
        """Whether all layers attend, fully or within a window, and positions can be said."""
        kinds = _kinds(model)
        return kinds is not None and kinds <= WINDOWED and "position_ids" in inspect.signature(model.forward).parameters

    def cache(self, rows: int, width: int) -> HoleCache:
        """An empty cache (`width` is a hint this one does not need). It keeps everything, also what lies behind a
        window: rows leave their windows at different columns."""
        from transformers import DynamicCache

        empty = torch.zeros((rows, 0), dtype=torch.int64, device=self.device)
        return HoleCache(DynamicCache(), empty.bool(), empty)

    def extend(self, ids: Tensor, counts: Tensor, cache: HoleCache) -> Tensor:
        """Logits after the last of every row's next tokens; see `LlamaForward.extend`."""
        size = max(1, MASK_ENTRIES // (len(ids) * (cache.seen.shape[1] + ids.shape[1])))
        out = self._extend(ids[:, :size], counts.clamp(max=size), cache)
        for first in range(size, ids.shape[1], size):
            left = (counts - first).clamp(min=0, max=size)
            out = torch.where(left[:, None] > 0, self._extend(ids[:, first : first + size], left, cache), out)
        return out

    def _extend(self, ids: Tensor, counts: Tensor, cache: HoleCache) -> Tensor:
        steps = torch.arange(ids.shape[1], device=ids.device)
        # Only padding can lie beyond the window.
        positions = (cache.lengths[:, None] + steps).clamp(max=window_of(self.config) - 1)
        cache.seen = torch.cat([cache.seen, steps < counts[:, None]], 1)
        cache.positions = torch.cat([cache.positions, positions], 1)
        return self._last(
            (counts - 1).clamp(min=0),
            input_ids=ids,
            attention_mask=self._masks(cache, positions),
            position_ids=positions,
            past_key_values=cache.store,
            use_cache=True,
        )

    def _masks(self, cache: HoleCache, positions: Tensor) -> Tensor | dict[str, Tensor]:
        back = positions[:, :, None] - cache.positions[:, None]
        causal = cache.seen[:, None] & (back >= 0)
        # A row that adds nothing here still has to see something, or its unused output is undefined.
        columns = torch.arange(causal.shape[2], device=causal.device)
        itself = columns == columns[-positions.shape[1] :, None]
        masks = {"full_attention": causal}
        kinds = self._layers
        if "sliding_attention" in kinds:
            masks["sliding_attention"] = causal & (back < self.config.sliding_window)
        dtype = self.model.dtype
        biases = {
            kind: torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
                ~(mask | itself), torch.finfo(dtype).min
            )[:, None]
            for kind, mask in masks.items()
        }
        return biases if len(kinds) > 1 else biases[next(iter(kinds))]


class TokenCache:
    """The tokens of every row and, while a turn lasts, the model's own cache of them, padded on the left."""

    def __init__(self, lines: list[list[int]], device: torch.device) -> None:
        self.lines, self.device = lines, device
        self.store: Any = None
        self.seen: Tensor | None = None
        self.level = [False] * len(lines)
        """Rows of which the model's cache holds exactly their tokens."""

    @property
    def lengths(self) -> Tensor:
        """int64[row]: tokens of each row."""
        return torch.tensor([len(line) for line in self.lines], device=self.device)

    def rows(self, rows: Tensor) -> TokenCache:
        """A copy of these rows' tokens; a row may be named more than once. Recurrent states cannot be taken out of a
        model's cache, so that is made again."""
        return TokenCache([list(self.lines[place]) for place in rows.tolist()], self.device)

    def add(self, ids: Tensor, counts: Tensor) -> None:
        """Append each row's next tokens."""
        for line, new, count in zip(self.lines, ids.tolist(), counts.tolist(), strict=True):
            line.extend(new[:count])


class WholeForward(OwnForward):
    """Nothing is kept: every step computes all tokens of all rows, as `score` does."""

    way = "every token computed anew"

    def cache(self, rows: int, width: int) -> TokenCache:
        """No tokens yet."""
        return TokenCache([[] for _ in range(rows)], self.device)

    def extend(self, ids: Tensor, counts: Tensor, cache: TokenCache) -> Tensor:
        """Logits after the last of every row's tokens; see `LlamaForward.extend`."""
        cache.add(ids, counts)
        whole = _padded(cache.lines, left=False).to(self.device)
        return self._last((cache.lengths - 1).clamp(min=0), input_ids=whole, use_cache=False)


class PaddedForward(WholeForward):
    """Rows padded on the left share the model's own cache for as long as all of them say one token at a time; where a
    row had nothing to say, its part is spoilt, and the next turn begins anew."""

    way = "rows padded on the left, computed anew each turn"

    def extend(self, ids: Tensor, counts: Tensor, cache: TokenCache) -> Tensor:
        """Logits after the last of every row's tokens; see `LlamaForward.extend`."""
        from transformers import DynamicCache

        cache.add(ids, counts)
        adds = [count > 0 for count in counts.tolist()]
        goes_on = cache.store is not None and ids.shape[1] == 1
        if goes_on and cache.seen is not None and all(cache.level[row] for row, new in enumerate(adds) if new):
            new = ids
            cache.seen = torch.cat([cache.seen, torch.ones_like(ids)], 1)
            cache.level = [before and now for before, now in zip(cache.level, adds, strict=True)]
        else:
            new = _padded(cache.lines, left=True).to(self.device)
            lengths, width = cache.lengths, new.shape[1]
            cache.seen = (torch.arange(width, device=self.device) >= width - lengths[:, None]).long()
            cache.store = DynamicCache(config=self.model.config)
            cache.level = [True] * len(adds)
        positions = (cache.seen.cumsum(1) - 1).clamp(min=0, max=window_of(self.config) - 1)[:, -new.shape[1] :]
        return self._last(
            torch.full((len(adds),), new.shape[1] - 1, device=self.device),
            input_ids=new,
            attention_mask=cache.seen,
            position_ids=positions,
            past_key_values=cache.store,
            use_cache=True,
        )


def window_of(config: Any) -> int:
    """Most tokens of one row. UserError where the configuration says none.

    A long-context rope (`longrope`) turns all positions of a row differently once the row outgrows the length it was
    trained at first, so that a cache no longer says what a plain forward pass says: rows end there.
    """
    config = config.get_text_config(decoder=True)
    window = getattr(config, "max_position_embeddings", None)
    if not window:
        raise UserError(f"this model ({config.model_type}) names no max_position_embeddings, so no window is known")
    rope = getattr(config, "rope_parameters", None) or {}
    ropes = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one for each kind of layer, in some
    short = [r.get("original_max_position_embeddings") for r in ropes if r.get("rope_type") == "longrope"]
    return int(min([window, *filter(None, short)]))


def generic_forward(model: Any) -> OwnForward:
    """The quickest way that is right for this model. UserError where none is: not even its own forward pass of whole
    rows is that of a causal language model."""
    ways: tuple[type[OwnForward], ...] = (GenericForward, PaddedForward, WholeForward)
    found: dict[str, str] = {}
    for way in ways[0 if GenericForward.supports(model) else 1 :]:
        forward = way(model)
        try:
            gap = gap_of(forward)
        except Exception as error:  # a model raises what it likes where its cache cannot be used so
            found[way.way] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if gap <= TOLERANCE[model.dtype]:
            return forward
        found[way.way] = f"off by {gap:.2g} nats"
    listed = "; ".join(f"{way}: {why}" for way, why in found.items())
    raise UserError(
        f"{type(model).__name__} cannot be sampled from: no way of computing it turn by turn agrees with its plain "
        f"forward pass ({listed}). Use a causal language model of another architecture"
    )


@torch.no_grad()
def gap_of(forward: Any) -> float:
    """Largest difference (in bfloat16: the mean), in nats, between log-probabilities of likely tokens as sampling
    computes them and those of one plain forward pass of each row alone: three conversations of unequal lengths, three
    turns, siblings, rows that end early. Sliding windows are narrowed meanwhile, so that the conversations outgrow
    them. Not a number counts as infinite."""
    rng = np.random.default_rng(0)
    model = forward.model
    config = model.config.get_text_config(decoder=True)
    device = next(model.parameters()).device
    windows = "sliding_window", "attention_chunk_size"
    most = min(window_of(config), 4 * NARROW if any(getattr(config, name, None) for name in windows) else 12)
    lines: list[list[int]] = [[], [], []]
    seen: list[tuple[list[int], int, Tensor]] = []

    def extend(counts: Sequence[int], cache: Any) -> None:
        new = [rng.integers(config.vocab_size, size=count).tolist() for count in counts]
        for line, tokens in zip(lines, new, strict=True):
            line.extend(tokens)
        ids = _padded(new, left=False).to(device)
        logits = forward.logits(forward.extend(ids, torch.tensor(counts, device=device), cache))
        seen.extend((line, len(line), logits[row]) for row, line in enumerate(lines) if counts[row])

    with _narrow(config):
        forward.freeze()
        try:
            cache = forward.cache(3, 1)
            for counts in ((most // 2, 3, most // 4), (1, 1, 0)):
                extend(counts, cache)
            # The first row's sibling takes the place of the last.
            cache, lines[2] = cache.rows(torch.tensor([0, 1, 0], device=device)), list(lines[0])
            for counts in ((1, 0, 1), (3, most // 3, 2), (0, 1, 1)):
                extend(counts, cache)
        finally:
            forward.thaw()
        plain = {id(line): plain_logprobs(model, line) for line, _, _ in seen}
    gaps = []
    for line, length, found in seen:
        known, likely = plain[id(line)][length - 1].topk(min(LIKELIEST, config.vocab_size))
        gaps.append((_logprobs(found)[likely] - known).abs())
    off = torch.stack(gaps).nan_to_num(nan=torch.inf)
    return float(off.mean() if model.dtype == torch.bfloat16 else off.max())


def plain_logprobs(model: Any, line: list[int]) -> Tensor:
    """[token, vocabulary]: next-token log-probabilities along one row, by the model's own forward pass."""
    return _logprobs(model(input_ids=torch.tensor([line], device=model.device), use_cache=False).logits[0])


def _logprobs(logits: Tensor) -> Tensor:
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def _kinds(model: Any) -> set[str] | None:
    """The kinds of a model's layers, as its cache tells them apart; None where it says nothing."""
    from transformers import DynamicCache

    config = model.config.get_text_config(decoder=True)
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception:
        return None
    named = getattr(config, "layer_types", None)
    if named:
        return set(named)
    return {"sliding_attention" if getattr(layer, "is_sliding", False) else "full_attention" for layer in layers}


@contextmanager
def _narrow(config: Any) -> Iterator[None]:
    """Sliding windows and attention chunks of at most `NARROW` tokens for a while."""
    before = {
        name: getattr(config, name)
        for name in ("sliding_window", "attention_chunk_size")
        if isinstance(getattr(config, name, None), int)
    }
    try:
        for name, size in before.items():
            setattr(config, name, min(size, NARROW))
        yield
    finally:
        for name, size in before.items():
            setattr(config, name, size)


def _padded(lines: Sequence[Sequence[int]], left: bool) -> Int[Tensor, "row column"]:
    out = np.zeros((len(lines), max(1, *(len(line) for line in lines))), dtype=np.int64)
    for row, line in enumerate(lines):
        out[row, out.shape[1] - len(line) if left else 0 :][: len(line)] = line
    return torch.from_numpy(out)
