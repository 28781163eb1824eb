"""Families of models, small and with random weights: what sampling records in ragged conversations of several turns
is what one plain forward pass of the whole conversation says, or the model is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from harness.backends import Prompt, SamplingParams
from harness.backends.torch.backend import TorchBackend, _forward_of
from harness.backends.torch.forward import LlamaForward
from harness.backends.torch.generic import (
    GenericForward,
    OwnForward,
    PaddedForward,
    WholeForward,
    gap_of,
    generic_forward,
    window_of,
)
from harness.backends.torch.sampler import Sampler
from harness.core.errors import UserError
from harness.experiment import LossSettings, OptimiserSettings
from harness.losses import pack
from harness.types import Credit, TokenSequence

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
"""Weights large enough for a wrong mask to move log-probabilities by a tenth of a nat and more."""
GATED = {
    "initializer_range": 0.1,  # their chunked and stepwise sums differ by more than others do
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 48,
}
FAMILIES: dict[str, tuple[str, dict[str, Any], type]] = {
    "llama": ("LlamaConfig", {}, LlamaForward),
    "llama with biases": ("LlamaConfig", {"mlp_bias": True, "attention_bias": True}, GenericForward),
    "qwen2": ("Qwen2Config", {}, LlamaForward),
    "qwen2, sliding": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        GenericForward,
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 8}, LlamaForward),
    "qwen3-next": (
        "Qwen3NextConfig",
        {**GATED, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
        PaddedForward,
    ),
    "qwen3.5": ("Qwen3_5TextConfig", GATED, PaddedForward),
    "mistral": ("MistralConfig", {"sliding_window": 8}, GenericForward),
    "gemma2": ("Gemma2Config", {"sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8}, GenericForward),
    "gemma3": (
        "Gemma3TextConfig",
        {"sliding_window": 8, "sliding_window_pattern": 2, "head_dim": 8, "query_pre_attn_scalar": 8},
        GenericForward,
    ),
    "phi3": ("Phi3Config", {"sliding_window": 8}, GenericForward),
    "phi3, long rope": (
        "Phi3Config",
        {"rope_parameters": LONG, "original_max_position_embeddings": 48},
        GenericForward,
    ),
    "gpt-oss": (
        "GptOssConfig",
        {
            "sliding_window": 8,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        GenericForward,
    ),
    "jamba": (
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
        PaddedForward,
    ),
    "bamba": ("BambaConfig", {**MAMBA, "attn_layer_indices": [1]}, PaddedForward),
    "falcon-h1": ("FalconH1Config", {**MAMBA, "mamba_d_ssm": 64, "head_dim": 8}, PaddedForward),
    "lfm2": (
        "Lfm2Config",
        {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
        PaddedForward,
    ),
    "recurrent gemma": ("RecurrentGemmaConfig", {"lru_width": 32, "attention_window_size": 8}, PaddedForward),
    "gpt-neox": ("GPTNeoXConfig", {}, GenericForward),
    "cohere": ("CohereConfig", {}, GenericForward),
    "cohere2": ("Cohere2Config", {"sliding_window": 8}, GenericForward),
    "olmo3": ("Olmo3Config", {"sliding_window": 8}, GenericForward),
    "llama4": (
        "Llama4TextConfig",
        {"attention_chunk_size": 8, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48},
        PaddedForward,
    ),
    "deepseek-v3": (
        "DeepseekV3Config",
        {
            **EXPERTS,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 1,
        },
        GenericForward,
    ),
    "bloom": ("BloomConfig", {}, PaddedForward),
    "gpt2": ("GPT2Config", {}, GenericForward),
}
"""Configuration class, what it says beyond `COMMON`, and the way the model is sampled."""
TURNS, STOPS = 3, (7, 8)


def model_of(family: str) -> Any:
    name, more, _ = FAMILIES[family]
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**COMMON, **more})).eval()


def played(forward: Any) -> list[TokenSequence]:
    """Four conversations of unequal lengths, three turns each, as a policy samples them; two begin alike."""
    rng = np.random.default_rng(0)
    sampler = Sampler(forward, STOPS)
    lines = [rng.integers(10, 96, size=size).tolist() for size in (3, 14, 7)]
    lines.append(list(lines[0]))
    masks = [[False] * len(line) for line in lines]
    logprobs = [[0.0] * len(line) for line in lines]
    for turn in range(TURNS):
        prompts = [Prompt(line, seed=10 * turn + row, limit=2 + 3 * row, key=row) for row, line in enumerate(lines)]
        for row, done in enumerate(sampler.sample(prompts, SamplingParams(12))):
            reply = rng.integers(10, 96, size=rng.integers(1, 6)).tolist()
            lines[row] = [*lines[row], *done.tokens.tolist(), *reply]
            masks[row] += [True] * len(done.tokens) + [False] * len(reply)
            logprobs[row] += [*done.logprobs.tolist(), *[0.0] * len(reply)]
    return [
        TokenSequence(np.array(line), np.array(mask), np.array(known), np.zeros(len(line), np.int64))
        for line, mask, known in zip(lines, masks, logprobs, strict=True)
    ]


@torch.no_grad()
def plain(model: Any, tokens: np.ndarray) -> np.ndarray:
    """float[token]: log-probability of every token after those before it, one forward pass; 0 for the first."""
    logits = model(input_ids=torch.from_numpy(tokens)[None], use_cache=False).logits[0].double()
    known = logits.log_softmax(-1)[:-1].gather(1, torch.from_numpy(tokens)[1:, None])[:, 0]
    return np.concatenate([[0.0], known.numpy()])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_is_what_one_plain_forward_pass_says(family: str) -> None:
    model = model_of(family)
    forward = _forward_of(model)
    assert type(forward) is FAMILIES[family][2]
    assert isinstance(forward, LlamaForward) or forward._halves is not None  # never logits of all tokens at once
    for sequence in played(forward):
        expected = plain(model, sequence.tokens)
        np.testing.assert_allclose(sequence.logprobs[sequence.mask], expected[sequence.mask], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["mistral", "qwen3.5", "lfm2", "bloom"])
@pytest.mark.parametrize("way", [PaddedForward, WholeForward])
def test_slower_ways_sample_the_same(family: str, way: type[OwnForward]) -> None:
    model = model_of(family)
    for one, other in zip(played(way(model)), played(_forward_of(model)), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-4)


def test_the_models_own_masks_would_be_wrong() -> None:
    """What the holes need masks of their own for: with the model's, which count columns, a narrow window reaches less
    far back than it should."""

    class Naive(GenericForward):
        def cache(self, rows: int, width: int) -> Any:
            made = super().cache(rows, width)
            made.store = DynamicCache(config=self.model.config)
            return made

        def _masks(self, cache: Any, positions: torch.Tensor) -> torch.Tensor:
            return cache.seen.long()

    for family in ("mistral", "gemma3", "gpt-oss"):
        model = model_of(family)
        assert gap_of(Naive(model)) > 0.1
        assert gap_of(GenericForward(model)) < 1e-4


def test_a_wide_window_is_proven_narrow_and_stays_wide() -> None:
    model = model_of("mistral")
    model.config.sliding_window = 4096

    class Forgets(GenericForward):
        def _masks(self, cache: Any, positions: torch.Tensor) -> Any:
            causal = cache.seen[:, None] & (positions[:, :, None] >= cache.positions[:, None])
            return torch.zeros(causal.shape).masked_fill(~causal, -1e9)[:, None]

    assert gap_of(Forgets(model)) > 0.1
    assert gap_of(GenericForward(model)) < 1e-4
    assert model.config.sliding_window == 4096


def test_a_model_that_is_not_causal_is_refused_by_name() -> None:
    """Gemma 3 can be told to look both ways, as its embedding models do: then no way of sampling is right."""
    name, more, _ = FAMILIES["gemma3"]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**COMMON, **more, "use_bidirectional_attention": True})
    with pytest.raises(UserError, match=r"Gemma3ForCausalLM cannot be sampled from.*every token computed anew: off by"):
        generic_forward(AutoModelForCausalLM.from_config(config).eval())


def test_a_model_without_a_window_is_refused_by_name() -> None:
    config = transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1)
    with pytest.raises(UserError, match=r"\(mamba\) names no max_position_embeddings"):
        window_of(config)


def test_a_rope_that_changes_with_a_rows_length_ends_rows_before_it_does() -> None:
    model = model_of("phi3, long rope")
    assert window_of(model.config) == 48
    longer = torch.from_numpy(np.random.default_rng(0).integers(10, 96, size=60))[None]
    with torch.no_grad():
        whole, part = model(longer).logits[0, :48], model(longer[:, :48]).logits[0]
    assert (whole - part).abs().max() > 0.1  # beyond it, no row of log-probabilities is that of its beginning
    scaled = LlamaConfig(**{**COMMON, "rope_parameters": {**LONG, "factor": 2.0}})
    assert not LlamaForward.supports(LlamaForCausalLM(scaled))


@pytest.mark.parametrize("family", ["mistral", "qwen3.5", "jamba"])
def test_scores_and_updates_of_other_architectures(
    family: str, tiny_directory: Path, tmp_path: Path, backend_of: Callable[..., TorchBackend]
) -> None:
    """A backend on a directory: scores are what was recorded, also after a context, and a step moves every weight
    that the tokens reach."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_directory)
    name, more, _ = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**COMMON, **more, "vocab_size": len(tokenizer)})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backend = TorchBackend(tmp_path, OptimiserSettings(lr=1e-4), steps=2, device="cpu")
    sequences = played(backend._forward)
    for sequence, score in zip(sequences, backend.score(sequences), strict=True):
        np.testing.assert_allclose(score.logprobs, sequence.logprobs * sequence.mask, rtol=0, atol=1e-4)
    front = [12, 13, 14]
    given = backend.score(sequences, contexts=[front] * len(sequences))
    for sequence, score in zip(sequences, given, strict=True):
        expected = plain(backend.model, np.concatenate([front, sequence.tokens]))[len(front) :]
        np.testing.assert_allclose(score.logprobs[sequence.mask], expected[sequence.mask], rtol=0, atol=1e-4)
    before = sum(score.logprobs.sum() for score in backend.score(sequences))
    backend.update(pack(sequences, [Credit(likelihood=s.mask * 1.0) for s in sequences]), LossSettings())
    assert sum(score.logprobs.sum() for score in backend.score(sequences)) > before
    assert sum(score.logprobs.sum() for score in backend.score(sequences, policy="initial")) == pytest.approx(
        before, abs=1e-3
    )


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one to three columns instead of whole prompts: the same."""
    model = model_of("gemma3")
    whole = played(GenericForward(model))
    monkeypatch.setattr("harness.backends.torch.generic.MASK_ENTRIES", 4 * 40)
    for one, other in zip(whole, played(GenericForward(model)), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-4)


def test_ways_are_said_in_words() -> None:
    assert all(re.search(r"\w+ \w+", way.way) for way in (GenericForward, PaddedForward, WholeForward))
