"""Distributions are read in chunks: what comes out is what all of them at once say, and no array of all of them is ever
made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from harness.backends.torch import TorchBackend
from harness.backends.torch.halves import Halves
from harness.experiment import LossSettings, OptimiserSettings
from harness.losses import pack, policy_loss
from harness.types import Anchor, Credit, Distillation, KLForm, TokenSequence

Make = Callable[..., Any]
MIB = 2**20


def chunk_of(rows: int, backend: TorchBackend) -> float:
    """chunk_mib in which so many rows just fit."""
    return rows * backend.vocabulary * (8 if backend.dtype == "float64" else 4) / MIB


def credited(backend: TorchBackend, sequences: list[TokenSequence], top_k: int = 6) -> list[Credit]:
    """Every stream of the loss at once."""
    rng = np.random.default_rng(0)
    targets = backend.score(sequences, top_k=top_k, contexts=[[60, 61, 62]] * len(sequences))
    out = []
    for sequence, target in zip(sequences, targets, strict=True):
        forms = np.full(len(sequence), KLForm.K3, dtype=object)
        noise = np.where(sequence.mask, rng.normal(size=len(sequence)), 0.0)
        anchor = Anchor(sequence.logprobs, sequence.mask * 0.1, forms)
        pull = Distillation(target.distribution, sequence.mask * 0.5, "jsd")
        out.append(Credit(np.where(sequence.mask, rng.normal(), 0.0), noise, anchor, pull))
    return out


def gradient(backend: TorchBackend, batch: Any) -> tuple[float, torch.Tensor]:
    backend.model.zero_grad()
    total = 0.0
    for logprobs, support, part in backend.differentiable(batch):
        loss = policy_loss(logprobs, part, LossSettings(), support).total
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in backend.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("rows", [1, 7])
def test_loss_and_gradient_are_the_whole_ones(
    dtype: str, tolerance: float, rows: int, backend_of: Make, ragged_groups: Make
) -> None:
    whole = backend_of(dtype)
    sequences = sum(ragged_groups(3, groups=3), [])
    assert sum(int(s.mask.sum()) for s in sequences) > 50  # many chunks
    batch = pack(sequences, credited(whole, sequences))
    loss, expected = gradient(whole, batch)
    found, ours = gradient(backend_of(dtype, chunk_mib=chunk_of(rows, whole)), batch)
    assert found == pytest.approx(loss, abs=tolerance)
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_are_the_whole_ones(temperature: float, backend_of: Make, ragged_groups: Make) -> None:
    whole = backend_of(temperature=temperature)
    parts = backend_of(temperature=temperature, chunk_mib=chunk_of(2, whole))
    sequences = ragged_groups(4, groups=1)[0]
    ids = [np.tile(np.array([9, 3, 200]), (len(s), 1)) for s in sequences]
    for asked in ({}, {"top_k": 5}, {"top_k": whole.vocabulary}, {"ids": ids}, {"contexts": [[60, 61]] * 4}):
        for policy in ("current", "initial", "teacher"):
            for one, other in zip(
                whole.score(sequences, policy, **asked), parts.score(sequences, policy, **asked), strict=True
            ):
                np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=1e-12)
                assert (one.distribution is None) == (other.distribution is None)
                if one.distribution is not None:
                    np.testing.assert_array_equal(one.distribution.ids, other.distribution.ids)
                    np.testing.assert_allclose(one.distribution.logprobs, other.distribution.logprobs, atol=1e-12)


class Widest(TorchDispatchMode):
    """Most rows of the vocabulary's size in any array that torch makes, on the way back too."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.dim() and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return out


@contextmanager
def watched(backend: TorchBackend) -> Iterator[Widest]:
    with Widest(backend.vocabulary) as widest:
        yield widest


def everything(backend: TorchBackend, sequences: list[TokenSequence]) -> int:
    """Rows of the widest array of an update and of the scores of all weights."""
    credits = credited(backend, sequences)
    with watched(backend) as widest:
        backend.update(pack(sequences, credits), LossSettings(), per_term=True)
        for policy in ("current", "initial", "teacher", "reference"):
            backend.score(sequences, policy, top_k=6)
    return widest.rows


def test_no_array_of_all_distributions_is_made(backend_of: Make, ragged_groups: Make) -> None:
    """Weights have the width as their last dimension, so that rows of the vocabulary's size are distributions."""
    sequences = sum(ragged_groups(5, groups=3), [])
    tokens = sum(int(s.mask.sum()) for s in sequences)
    small = backend_of()
    assert small.model.config.hidden_size != small.vocabulary
    assert everything(small, sequences) == tokens  # what is watched would be seen
    # the transposed weights of the output layer are [width, vocabulary]: no more rows than the model is wide
    width = small.model.config.hidden_size
    assert tokens > width
    assert everything(backend_of(chunk_mib=chunk_of(5, small)), sequences) <= width


OTHERS = {
    "gpt-neox": ("GPTNeoXConfig", {}),
    "gemma2": ("Gemma2Config", {"sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
    "bloom": ("BloomConfig", {}),
    "jamba": (
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 8,
        },
    ),
}
"""Models with something behind their last layer: a soft cap, a scale, a head of another name; and a hybrid."""
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest, tiny_directory: Path, tmp_path: Path) -> Path:
    """A directory of a small model of another family, with the tiny model's tokenizer."""
    name, more = OTHERS[request.param]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_directory)
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**SIZES, **more, "vocab_size": len(tokenizer)})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_models_of_other_families_come_apart_behind_their_last_layer(
    other: Path, backend_of: Make, ragged_groups: Make
) -> None:
    whole = backend_of("float32", directory=other)
    halves = whole._forward._halves
    assert halves is not None
    ids = torch.arange(40).reshape(4, 10) + 20
    with torch.no_grad():
        torch.testing.assert_close(halves.logits(halves.hidden(ids)), whole.model(ids).logits, rtol=0, atol=1e-6)
        assert "forward" not in vars(whole.model.base_model)  # the model is as it was
    sequences = sum(ragged_groups(6, groups=3), [])
    batch = pack(sequences, credited(whole, sequences))
    in_one_piece = backend_of("float32", directory=other)
    in_one_piece._forward._halves = None
    parts = backend_of("float32", directory=other, chunk_mib=chunk_of(3, whole))
    loss, expected = gradient(in_one_piece, batch)
    for backend in (whole, parts):
        found, ours = gradient(backend, batch)
        assert found == pytest.approx(loss, abs=2e-6)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-6)


def test_a_model_whose_halves_say_something_else_stays_in_one_piece() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZES, vocab_size=60)).eval()
    assert Halves.of(model) is not None
    plain = type(model).forward

    class Cools(type(model)):  # type: ignore[misc]
        """One that looks at its tokens once more behind its last layer."""

        def forward(self, input_ids: Any = None, **given: Any) -> Any:
            out = plain(self, input_ids=input_ids, **given)
            out.logits = out.logits * (1.0 if input_ids is None else 0.5)
            return out

    model.__class__ = Cools
    assert Halves.of(model) is None


def test_one_step_leaves_the_same_weights_whatever_the_chunks(backend_of: Make, ragged_groups: Make) -> None:
    sequences = sum(ragged_groups(7, groups=2), [])
    whole = backend_of()
    parts = TorchBackend(
        whole.initial_directory, OptimiserSettings(lr=1e-3), steps=10, dtype="float64", device="cpu",
        chunk_mib=chunk_of(4, whole),
    )  # fmt: skip
    batch = pack(sequences, credited(whole, sequences))
    one, other = (backend.update(batch, LossSettings(), per_term=True) for backend in (whole, parts))
    assert one == pytest.approx(other, abs=1e-12)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)  # Adam's first step is a sign, near 0 of noise
