"""The forward pass of Llama-shaped models, written for siblings: ragged rows share one cache, and a prompt is
computed once for all that begin with it.

It reads the weights of a Hugging Face model in place and matches that model's own forward; attention biases (Qwen2)
and query/key norms (Qwen3) are part of the family. Two ways in:

    extend   inference: adds the next tokens of many rows to a pre-allocated key-value cache, each row at its own
             position
    score    training and scoring: whole rows, differentiable, optionally after shared prompts (`prompts`) whose keys
             and values are gathered, not computed again

With `recompute`, a layer keeps its input alone while gradients are wanted, and is computed once more on the way back
(Chen et al. 2016, 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

FAMILY = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
FUSE_BELOW = 50_000_000
"""Parameters up to which projections are concatenated before use: a few large products beat many small ones, at the
cost of a copy."""
EXTEND_TOKENS = 2048
"""Tokens of one pass of `extend`: what is in flight then stays in a CPU's cache, and attention masks of long prompts
stay small."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Cache:
    """Keys and values [row, kv, position, head] of many rows, packed to the left: row r holds positions 0 ..
    lengths[r]-1; what lies beyond is never read."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], lengths: Int[Tensor, " row"]) -> None:
        self.keys, self.values, self.lengths = keys, values, lengths

    def reserve(self, width: int) -> None:
        """Room for `width` positions in every row."""
        have = self.keys[0].shape[2]
        if width > have:
            # Half as much again: growing is a copy of everything.
            width = max(width, have + have // 2)
            self.keys = [_widened(k, width) for k in self.keys]
            self.values = [_widened(v, width) for v in self.values]

    def rows(self, rows: Int[Tensor, " _"]) -> Cache:
        """A copy of these rows; a row may be named more than once."""
        return Cache([k[rows] for k in self.keys], [v[rows] for v in self.values], self.lengths[rows])

    def part(self, first: int, last: int) -> Cache:
        """Rows first .. last-1 as a view: what is written there is written here (lengths apart), as long as neither
        grows."""
        keys, values = ([store[first:last] for store in stores] for stores in (self.keys, self.values))
        return Cache(keys, values, self.lengths[first:last])

    def write_back(self, rows: Int[Tensor, " _"], part: Cache, first: int) -> None:
        """Put what `part` (a copy of these rows) has from position `first` on into this cache."""
        last = int(part.lengths.max())
        self.reserve(last)
        for mine, theirs in zip(self.keys + self.values, part.keys + part.values, strict=True):
            mine[rows, :, first:last] = theirs[:, :, first:last]
        self.lengths[rows] = part.lengths


@dataclass(frozen=True)
class Prompts:
    """Keys and values of prompts, for rows that continue them: `rows[r]` is the prompt of row r."""

    keys: list[Float[Tensor, "prompt position kv head"]]
    values: list[Float[Tensor, "prompt position kv head"]]
    lengths: Int[Tensor, " prompt"]
    rows: Int[Tensor, " row"]


class LlamaForward:
    """The forward pass of one Hugging Face model of the family, reading its weights afresh at every call."""

    way = "one cache for all rows, prompts of siblings computed once"
    """In words, for people."""
    compacts = True
    """Rows of its cache can be taken out and put back."""
    shares_prompts = True

    def __init__(self, model: Any, recompute: bool = False) -> None:
        config = model.config
        self.model, self.recompute = model, recompute
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.window: int = config.max_position_embeddings
        self.epsilon: float = config.rms_norm_eps
        self.fuse = sum(p.numel() for p in model.parameters()) < FUSE_BELOW
        self._rotation: tuple[Tensor, Tensor] | None = None
        self._frozen: list[tuple[Tensor, Tensor | None, Tensor]] | None = None

    @staticmethod
    def supports(model: Any) -> bool:
        """Whether the model belongs to the family and uses full attention in every layer, nothing but the usual
        around it."""
        config = model.config
        sliding = getattr(config, "use_sliding_window", False) or "sliding_attention" in (
            getattr(config, "layer_types", None) or ()
        )
        rope = getattr(config, "rope_parameters", None) or {}
        unusual = (
            sliding
            or getattr(config, "mlp_bias", False)
            or rope.get("partial_rotary_factor", 1.0) != 1.0
            or rope.get("rope_type") in ("dynamic", "longrope")  # turns with a row's length
        )
        return type(model).__name__ in FAMILY and not unusual and getattr(config, "hidden_act", "silu") == "silu"

    def cache(self, rows: int, width: int) -> Cache:
        """An empty cache."""
        weight = self.model.lm_head.weight
        shape = (rows, self.kv_heads, width, self.head)
        keys, values = ([weight.new_zeros(shape) for _ in self.model.model.layers] for _ in range(2))
        return Cache(keys, values, torch.zeros(rows, dtype=torch.int64, device=weight.device))

    def freeze(self) -> None:
        """Concatenate the projections once, for many `extend` calls under the same weights; `thaw` before the weights
        change."""
        self._frozen = [self._projections(layer) for layer in self.model.model.layers] if self.fuse else None

    def thaw(self) -> None:
        """Undo `freeze`: the weights may change again."""
        self._frozen = None

    def extend(
        self, ids: Int[Tensor, "row step"], counts: Int[Tensor, " row"], cache: Cache
    ) -> Float[Tensor, "row width"]:
        """Add the next tokens of every row: its first `counts[r]`, the rest of its line is padding. Returns the
        hidden state after the last one (garbage where there was none)."""
        rows, steps = ids.shape
        cache.reserve(int(cache.lengths.max()) + steps)
        size = max(1, EXTEND_TOKENS // steps)
        parts = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        hidden = [self._extend(ids[part], counts[part], cache.part(part.start, part.stop)) for part in parts]
        cache.lengths = cache.lengths + counts
        return torch.cat(hidden)

    def _extend(self, ids: Tensor, counts: Tensor, cache: Cache) -> Tensor:
        rows, steps = ids.shape
        positions = cache.lengths[:, None] + torch.arange(steps, device=ids.device)
        reach = int(positions.max()) + 1
        seen = torch.arange(reach, device=ids.device) <= positions[:, :, None]
        bias = torch.zeros(seen.shape, dtype=cache.keys[0].dtype, device=ids.device).masked_fill_(~seen, -torch.inf)[
            :, None
        ]
        index, last = torch.arange(rows, device=ids.device), (counts - 1).clamp(min=0)
        bias_at_last = bias if steps == 1 else bias[index, :, last][:, :, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.keys[layer][index[:, None], :, positions] = k
            cache.values[layer][index[:, None], :, positions] = v
            past_k, past_v = (store[layer][:, :, :reach] for store in (cache.keys, cache.values))
            if q.shape[1] > 1:
                return self._attention(q, past_k, past_v, bias)
            # One query: the heads that share a key/value head are its queries, so nothing is repeated.
            folded = q.reshape(rows, self.kv_heads, self.heads // self.kv_heads, self.head)
            return F.scaled_dot_product_attention(folded, past_k, past_v, attn_mask=bias_at_last).reshape(rows, 1, -1)

        return self._layers(ids, positions, attend, None if steps == 1 else (index, last))[:, 0]

    def prompts(
        self, ids: Int[Tensor, "prompt step"], lengths: Int[Tensor, " prompt"], rows: Int[Tensor, " row"]
    ) -> Prompts:
        """Prompts (padded on the right) that rows continue, `rows[r]` that of row r."""
        made = Prompts([], [], lengths, rows)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if len(made.keys) == layer:  # not when a layer is computed once more
                made.keys.append(k)
                made.values.append(v)
            return self._attention(q, k.transpose(1, 2), v.transpose(1, 2), None)

        self._layers(ids, torch.arange(ids.shape[1], device=ids.device).expand(ids.shape), attend)
        return made

    def score(self, ids: Int[Tensor, "row step"], prompts: Prompts | None = None) -> Float[Tensor, "row step width"]:
        """Hidden states of whole rows (padded on the right); rows continue their prompts where given."""
        rows, steps = ids.shape
        own = torch.arange(steps, device=ids.device)
        if prompts is None:
            positions, mask = own.expand(rows, steps), None
        else:
            lengths = prompts.lengths[prompts.rows]
            positions = lengths[:, None] + own
            before = torch.arange(prompts.keys[0].shape[1], device=ids.device) < lengths[:, None]
            causal = own <= own[:, None]
            mask = torch.cat([before[:, None].expand(-1, steps, -1), causal.expand(rows, -1, -1)], -1)[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if prompts is not None:
                k = torch.cat([prompts.keys[layer][prompts.rows], k], 1)
                v = torch.cat([prompts.values[layer][prompts.rows], v], 1)
            return self._attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)

        return self._layers(ids, positions, attend)

    def logits(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocabulary"]:
        """Unnormalised next-token scores."""
        return F.linear(hidden, self.model.lm_head.weight)

    unembed = logits
    """What `score`'s hidden states say."""

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Causal where there is no mask: rows are padded on the right, so what a real token sees is real."""
        rows, steps = q.shape[:2]
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.heads != self.kv_heads
        )
        return out.transpose(1, 2).reshape(rows, steps, -1)

    def _layers(
        self, ids: Tensor, positions: Tensor, attend: Attend, only: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Hidden states of all tokens, or of `only` one a row: from the last layer's queries on, nothing else is
        computed then."""
        core = self.model.model
        # Only padding can lie beyond the window.
        positions = positions.clamp(max=self.window - 1)
        cos, sin = (table[positions][:, :, None] for table in self._rotary(core))
        x = core.embed_tokens(ids)
        again = self.recompute and torch.is_grad_enabled()
        for number, layer in enumerate(core.layers):
            step = partial(self._layer, number, layer, attend, only if number == len(core.layers) - 1 else None)
            if again:
                x = checkpoint(step, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
            else:
                x = step(x, cos, sin)
        return self._norm(x, core.norm.weight)

    def _layer(
        self,
        number: int,
        layer: Any,
        attend: Attend,
        only: tuple[Tensor, Tensor] | None,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        normed = self._norm(x, layer.input_layernorm.weight)
        qk, v = self._qkv(number, layer, normed)
        q, k = torch.split(_rotate(qk, cos, sin), [self.heads, self.kv_heads], 2)
        if only is not None:
            x, q = x[only][:, None], q[only][:, None]
        x = x + layer.self_attn.o_proj(attend(number, q, k, v))
        normed = self._norm(x, layer.post_attention_layernorm.weight)
        return x + self._mlp(number, layer, normed)

    def _projections(self, layer: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        return torch.cat([part.weight for part in parts]), bias, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])

    def _qkv(self, number: int, layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys side by side [row, step, heads + kv, head], and values: what follows treats queries and
        keys alike."""
        attention = layer.self_attn
        if self.fuse:
            weight, bias, _ = self._frozen[number] if self._frozen else self._projections(layer)
            joined = F.linear(x, weight, bias)
        else:
            joined = torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], -1)
        joined = joined.view(*x.shape[:-1], -1, self.head)
        qk, v = torch.split(joined, [self.heads + self.kv_heads, self.kv_heads], 2)
        if hasattr(attention, "q_norm"):
            scales = [attention.q_norm.weight.expand(self.heads, -1), attention.k_norm.weight.expand(self.kv_heads, -1)]
            qk = F.rms_norm(qk, (self.head,), None, self.epsilon) * torch.cat(scales)
        return qk, v

    def _mlp(self, number: int, layer: Any, x: Tensor) -> Tensor:
        if not self.fuse:
            return layer.mlp(x)  # type: ignore[no-any-return]
        weight = (
            self._frozen[number][2]
            if self._frozen
            else torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])
        )
        gate, up = F.linear(x, weight).chunk(2, -1)
        return layer.mlp.down_proj(F.silu(gate) * up)  # type: ignore[no-any-return]

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.epsilon)

    def _rotary(self, core: Any) -> tuple[Tensor, Tensor]:
        """cos and sin of every position, from the model's own rotary module (so that scaled variants come out right);
        the first half of the sines is negated, as `_rotate` wants it."""
        weight = self.model.lm_head.weight
        if (
            self._rotation is None
            or self._rotation[0].dtype != weight.dtype
            or self._rotation[0].device != weight.device
        ):
            with torch.no_grad():
                cos, sin = core.rotary_emb(weight[:1], torch.arange(self.window, device=weight.device)[None])
            first, second = sin[0].chunk(2, -1)
            self._rotation = cos[0].clone(), torch.cat([-first, second], -1)
        return self._rotation


def _widened(store: Float[Tensor, "row kv position head"], width: int) -> Float[Tensor, "row kv wider head"]:
    have = store.shape[2]
    wide = store.new_empty((*store.shape[:2], width, store.shape[3]))
    wide[:, :, :have] = store
    wide[:, :, have:] = 0  # masked, but a NaN would survive that
    return wide


def _rotate(x: Float[Tensor, "row step head size"], cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) in the half-split convention of the Hugging Face models."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat([second, first], -1), sin)
