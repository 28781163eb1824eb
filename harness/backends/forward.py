"""The forward pass of Llama-shaped models, written for siblings: ragged rows share one cache, and a prompt is computed once for all that begin with it.

It reads the weights of a Hugging Face model in place and matches that model's own forward; attention biases (Qwen2) and query/key norms (Qwen3)
are part of the family. Two ways in:

    extend   inference: adds the next tokens of many rows to a pre-allocated key-value cache, each row at its own position
    score    training and scoring: whole rows, differentiable, optionally behind shared prompts whose keys and values are gathered, not recomputed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FAMILY = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
FUSE_BELOW = 50_000_000
"""Parameters up to which projections are concatenated before use: a few large products beat many small ones, at the cost of a copy."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Cache:
    """Keys and values of many rows, packed to the left: row r holds positions 0 .. lengths[r]-1; what lies beyond is never read."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], lengths: Int[Tensor, " row"]) -> None:
        self.keys, self.values, self.lengths = keys, values, lengths

    def reserve(self, width: int) -> None:
        """Room for `width` positions in every row."""
        have = self.keys[0].shape[1]
        if width > have:
            # Half as much again: growing is a copy of everything.
            add = max(width, have + have // 2) - have
            self.keys = [F.pad(k, (0, 0, 0, 0, 0, add)) for k in self.keys]
            self.values = [F.pad(v, (0, 0, 0, 0, 0, add)) for v in self.values]

    def rows(self, rows: Int[Tensor, " _"]) -> Cache:
        """A copy of these rows; a row may be named more than once."""
        return Cache([k[rows] for k in self.keys], [v[rows] for v in self.values], self.lengths[rows])

    def write_back(self, rows: Int[Tensor, " _"], part: Cache, first: int) -> None:
        """Put what `part` (a copy of these rows) has from position `first` on into this cache."""
        last = int(part.lengths.max())
        self.reserve(last)
        for mine, theirs in zip(self.keys + self.values, part.keys + part.values, strict=True):
            mine[rows, first:last] = theirs[:, first:last]
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

    compacts = True
    """Rows of its cache can be taken out and put back."""
    shares_prompts = True

    def __init__(self, model: Any) -> None:
        config = model.config
        self.model = model
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
        """Whether the model belongs to the family and uses full attention in every layer."""
        config = model.config
        sliding = getattr(config, "use_sliding_window", False) or "sliding_attention" in (getattr(config, "layer_types", None) or ())
        return type(model).__name__ in FAMILY and not sliding and getattr(config, "hidden_act", "silu") == "silu"

    def cache(self, rows: int, width: int) -> Cache:
        """An empty cache."""
        weight = self.model.lm_head.weight
        shape = (rows, width, self.kv_heads, self.head)
        keys, values = ([weight.new_zeros(shape) for _ in self.model.model.layers] for _ in range(2))
        return Cache(keys, values, torch.zeros(rows, dtype=torch.int64, device=weight.device))

    def freeze(self) -> None:
        """Concatenate the projections once, for many `extend` calls under the same weights; `thaw` before the weights change."""
        self._frozen = [self._projections(layer) for layer in self.model.model.layers] if self.fuse else None

    def thaw(self) -> None:
        self._frozen = None

    def extend(self, ids: Int[Tensor, "row step"], counts: Int[Tensor, " row"], cache: Cache) -> Float[Tensor, "row step width"]:
        """Hidden states of the next tokens of every row; row r gets its first `counts[r]`, the rest of its line is padding (0 or garbage out)."""
        rows, steps = ids.shape
        starts = cache.lengths
        cache.reserve(int(starts.max()) + steps)
        positions = starts[:, None] + torch.arange(steps, device=ids.device)
        reach = int(positions.max()) + 1
        seen = torch.arange(reach, device=ids.device) <= positions[:, :, None]
        bias = torch.zeros(seen.shape, dtype=cache.keys[0].dtype, device=ids.device).masked_fill_(~seen, -torch.inf)[:, None]
        index = torch.arange(rows, device=ids.device)[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.keys[layer][index, positions] = k
            cache.values[layer][index, positions] = v
            past_k, past_v = (store[layer][:, :reach].transpose(1, 2) for store in (cache.keys, cache.values))
            if steps == 1:
                # One query: the heads that share a key/value head are its queries, so nothing is repeated.
                folded = q.reshape(rows, self.kv_heads, self.heads // self.kv_heads, self.head)
                return F.scaled_dot_product_attention(folded, past_k, past_v, attn_mask=bias).reshape(rows, 1, -1)
            return self._attention(q, past_k, past_v, bias)

        hidden = self._layers(ids, positions, attend)
        cache.lengths = starts + counts
        return hidden

    def score(
        self, ids: Int[Tensor, "row step"], prompts: Prompts | None = None
    ) -> tuple[Float[Tensor, "row step width"], list[Tensor], list[Tensor]]:
        """Hidden states of whole rows (padded on the right), with the keys and values they made; rows continue their prompts where given."""
        rows, steps = ids.shape
        own = torch.arange(steps, device=ids.device)
        made: tuple[list[Tensor], list[Tensor]] = ([], [])
        if prompts is None:
            positions, mask = own.expand(rows, steps), None
        else:
            lengths = prompts.lengths[prompts.rows]
            positions = lengths[:, None] + own
            before = torch.arange(prompts.keys[0].shape[1], device=ids.device) < lengths[:, None]
            causal = own <= own[:, None]
            mask = torch.cat(
                [before[:, None].expand(-1, steps, -1), causal.expand(rows, -1, -1)], -1
            )[:, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            made[0].append(k)
            made[1].append(v)
            if prompts is not None:
                k = torch.cat([prompts.keys[layer][prompts.rows], k], 1)
                v = torch.cat([prompts.values[layer][prompts.rows], v], 1)
            return self._attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)

        return self._layers(ids, positions, attend), *made

    def logits(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocabulary"]:
        """Unnormalised next-token scores."""
        return F.linear(hidden, self.model.lm_head.weight)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Causal where there is no mask: rows are padded on the right, so what a real token sees is real."""
        rows, steps = q.shape[:2]
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.heads != self.kv_heads
        )
        return out.transpose(1, 2).reshape(rows, steps, -1)

    def _layers(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        core = self.model.model
        # Only padding can lie beyond the window.
        positions = positions.clamp(max=self.window - 1)
        cos, sin = (table[positions][:, :, None] for table in self._rotary(core))
        x = core.embed_tokens(ids)
        for number, layer in enumerate(core.layers):
            normed = self._norm(x, layer.input_layernorm.weight)
            q, k, v = self._qkv(number, layer, normed)
            attended = attend(number, _rotate(q, cos, sin), _rotate(k, cos, sin), v)
            x = x + layer.self_attn.o_proj(attended)
            normed = self._norm(x, layer.post_attention_layernorm.weight)
            x = x + self._mlp(number, layer, normed)
        return self._norm(x, core.norm.weight)

    def _projections(self, layer: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        return torch.cat([part.weight for part in parts]), bias, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])

    def _qkv(self, number: int, layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = layer.self_attn
        sizes = [self.heads * self.head, self.kv_heads * self.head, self.kv_heads * self.head]
        if self.fuse:
            weight, bias, _ = self._frozen[number] if self._frozen else self._projections(layer)
            q, k, v = F.linear(x, weight, bias).split(sizes, -1)
        else:
            q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        q, k, v = (part.unflatten(-1, (-1, self.head)) for part in (q, k, v))
        if hasattr(attention, "q_norm"):
            q, k = self._norm(q, attention.q_norm.weight), self._norm(k, attention.k_norm.weight)
        return q, k, v

    def _mlp(self, number: int, layer: Any, x: Tensor) -> Tensor:
        if not self.fuse:
            return layer.mlp(x)  # type: ignore[no-any-return]
        weight = self._frozen[number][2] if self._frozen else torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])
        gate, up = F.linear(x, weight).chunk(2, -1)
        return layer.mlp.down_proj(F.silu(gate) * up)  # type: ignore[no-any-return]

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.epsilon)

    def _rotary(self, core: Any) -> tuple[Tensor, Tensor]:
        """cos and sin of every position, from the model's own rotary module (so that scaled variants come out right)."""
        weight = self.model.lm_head.weight
        if self._rotation is None or self._rotation[0].dtype != weight.dtype or self._rotation[0].device != weight.device:
            with torch.no_grad():
                cos, sin = core.rotary_emb(weight[:1], torch.arange(self.window, device=weight.device)[None])
            half = self.head // 2
            self._rotation = cos[0, :, :half].clone(), sin[0, :, :half].clone()
        return self._rotation


def _rotate(x: Float[Tensor, "row step head size"], cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) in the half-split convention of the Hugging Face models."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


