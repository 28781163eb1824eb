"""Layers that are computed once more on the way back, gradients that add up in float32, rows that share nothing: less
memory, the same loss and gradient."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from harness.backends.torch import rows
from harness.backends.torch.recompute import recompute_layers_of
from harness.core.errors import UserError
from harness.experiment import LossSettings
from harness.losses import pack, policy_loss
from harness.types import Credit, TokenSequence

Make = Callable[..., Any]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
OTHERS = {"gpt-neox": "GPTNeoXConfig", "gemma2": "Gemma2Config", "bloom": "BloomConfig"}


def credited(sequences: list[TokenSequence]) -> list[Credit]:
    rng = np.random.default_rng(0)
    return [
        Credit(np.where(s.mask, rng.normal(), 0.0), np.where(s.mask, rng.normal(size=len(s)), 0.0)) for s in sequences
    ]


def gradient(backend: Any, batch: Any) -> tuple[float, torch.Tensor, int]:
    """The loss, its gradient, and how many numbers were kept for it that are no weights."""
    backend.model.zero_grad()
    weights = {parameter.untyped_storage().data_ptr() for parameter in backend.model.parameters()}
    kept: dict[int, int] = {}
    total = 0.0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for logprobs, support, part in backend.differentiable(batch):
            loss = policy_loss(logprobs, part, LossSettings(), support).total
            many = sum(kept.values())
            loss.backward()
            total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in backend.model.parameters() if p.grad is not None]), many


@pytest.mark.parametrize("shared", [True, False])
def test_loss_and_gradient_are_the_same_and_less_is_kept(shared: bool, backend_of: Make, ragged_groups: Make) -> None:
    sequences = sum(ragged_groups(3, groups=3), [])
    batch = pack(sequences, credited(sequences))
    plain, again = backend_of(), backend_of(recompute_layers=True)
    for backend in (plain, again):
        backend._forward.shares_prompts = shared
    loss, expected, kept = gradient(plain, batch)
    found, ours, fewer = gradient(again, batch)
    assert found == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert fewer < kept / 2


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_too(
    family: str, tiny_directory: Path, tmp_path: Path, backend_of: Make, ragged_groups: Make
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_directory)
    torch.manual_seed(0)
    config = getattr(transformers, OTHERS[family])(**SIZES, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    sequences = sum(ragged_groups(3, groups=2), [])
    batch = pack(sequences, credited(sequences))
    loss, expected, kept = gradient(backend_of(directory=tmp_path), batch)
    found, ours, fewer = gradient(backend_of(directory=tmp_path, recompute_layers=True), batch)
    assert found == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert fewer < kept / 2


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    with pytest.raises(UserError, match="Linear does not say which its layers are"):
        recompute_layers_of(torch.nn.Linear(2, 2))


def test_micro_batches_of_a_bfloat16_model_add_up_in_float32(backend_of: Make, ragged_groups: Make) -> None:
    """Each micro-batch's gradient is bfloat16's own; their sum is the float32 sum, and no narrow gradient is left."""
    sequences = sum(ragged_groups(8, groups=6), [])
    batch = pack(sequences, credited(sequences))
    backend, alone = backend_of("bfloat16", micro_tokens=30), backend_of("bfloat16", micro_tokens=30)
    parts: list[list[torch.Tensor]] = []
    for logprobs, support, part in alone.differentiable(batch):
        loss = policy_loss(logprobs, part, LossSettings(), support).total
        parts.append(list(torch.autograd.grad(loss, list(alone.model.parameters()))))
    assert len(parts) > 10
    expected = [sum(g.float() for g in column) for column in zip(*parts, strict=True)]
    for logprobs, support, part in backend.differentiable(batch):
        policy_loss(logprobs, part, LossSettings(), support).total.backward()
    assert all(parameter.grad is None for parameter in backend.model.parameters())
    for master, wanted in zip(backend._optimiser.masters, expected, strict=True):
        torch.testing.assert_close(master.grad, wanted, rtol=1e-6, atol=1e-9)
    narrow = [sum(column[1:], column[0]) for column in zip(*parts, strict=True)]
    worst = max(float((a.float() - b).abs().max()) for a, b in zip(narrow, expected, strict=True))
    assert worst > 1e-6  # what adding up in bfloat16 would have lost


def test_rows_that_share_nothing_need_no_mask(
    backend_of: Make, ragged_groups: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is alone with its prompt is computed whole once its mask would be large; the figures are the same."""
    sequences = sum(ragged_groups(9, groups=3, size=3), [])
    batch = pack(sequences, credited(sequences))
    plain = backend_of(micro_tokens=1)  # a row each
    loss, expected, _ = gradient(plain, batch)
    scores = plain.score(sequences, top_k=3)
    monkeypatch.setattr(rows, "MASK_ENTRIES", 0)
    whole = backend_of(micro_tokens=1)
    masks = []
    attention = whole._forward._attention
    whole._forward._attention = lambda q, k, v, mask: (masks.append(mask), attention(q, k, v, mask))[1]
    found, ours, _ = gradient(whole, batch)
    assert masks
    assert all(mask is None for mask in masks)
    assert found == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    for one, other in zip(whole.score(sequences, top_k=3), scores, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-12)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_states_of_eight_bits(backend_of: Make, ragged_groups: Make, tmp_path: Path) -> None:
    """Small tensors keep their 32 bits, as the library has it; training goes on from a checkpoint."""
    sequences = sum(ragged_groups(3, groups=2), [])
    batch = pack(sequences, credited(sequences))
    whole, first, resumed = (backend_of("float32", states_8bit=True) for _ in range(3))
    for backend in (whole, whole, first, first):
        backend.update(batch, LossSettings())
    states = [state["state1"].dtype for state in whole._optimiser.adam.state.values()]
    assert torch.uint8 in states
    assert torch.float32 in states
    first.save(tmp_path)
    resumed.load(tmp_path)
    for backend in (whole, whole, resumed, resumed):
        backend.update(batch, LossSettings())
    for one, other in zip(whole.score(sequences), resumed.score(sequences), strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
