"""`harness check-model` and the check before a model's first use: what is right passes, each kind of wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from harness.backends.torch import TorchBackend
from harness.backends.torch.check_model import full_report, quick_report
from harness.backends.torch.forward import LlamaForward
from harness.core.errors import UserError
from harness.experiment import PlugSettings
from harness.protocols.backend import BackendSettings, Start, make_backend
from tests.chat_families import FAMILIES, tokenizer_of

TORCH = PlugSettings(plug="harness.backends.torch:TorchBackend")
CPU = BackendSettings(device="cpu")


def directory_of(path: Path, family: str = "mistral", **more: Any) -> Path:
    """A small Mistral with a sliding window, with a family's tokenizer and stops."""
    tokenizer = tokenizer_of.__wrapped__(family)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=8, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None, **sizes | more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(t) for t in FAMILIES[family].stops]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_right_model_passes_with_what_was_found_out(tmp_path: Path) -> None:
    report = full_report(TorchBackend(directory_of(tmp_path), device="cpu"))
    assert report.wrong == []
    assert "MistralForCausalLM" in report.facts["architecture"]
    assert "one cache for all rows" in report.facts["sampling"]
    assert report.facts["a turn ends with"].startswith("'</s>'")
    assert "from one plain forward pass at most" in report.facts["sampled conversations"]
    assert make_backend(TORCH, Start(tmp_path), CPU).window == 512


def test_bfloat16_is_held_to_what_it_can_keep(tmp_path: Path) -> None:
    assert full_report(TorchBackend(directory_of(tmp_path), dtype="bfloat16", device="cpu")).wrong == []


def test_a_forward_pass_that_is_wrong_is_named(
    tiny_directory: Path, backend_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that forgets where a row stands: right in the first pass, wrong in every later one."""

    def forgetful(self: LlamaForward, ids: Any, positions: Any, *rest: Any) -> Any:
        return whole(self, ids, positions - positions[:, :1], *rest)

    assert quick_report(backend_of("float32")).wrong == []
    whole = LlamaForward._layers
    monkeypatch.setattr(LlamaForward, "_layers", forgetful)
    # float32 of a directory that this process has not found right
    with pytest.raises(UserError, match=r"(?s)cannot be used as it is.*off by .* nats from one plain forward pass"):
        make_backend(TORCH, Start(tiny_directory, "never seen"), CPU)


def test_a_checkpoint_is_looked_into_once(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counted(backend: Any) -> Any:
        seen.append(backend.dtype)
        return quick_report(backend)

    monkeypatch.setattr("harness.backends.torch.check_model.quick_report", counted)
    for dtype in ("float32", "float32", "bfloat16"):
        make_backend(TORCH, Start(tiny_directory, "a hash"), BackendSettings(device="cpu", dtype=dtype))
    make_backend(TORCH, Start(tiny_directory, "another hash"), CPU)
    assert seen == ["float32", "bfloat16", "float32"]


def test_a_template_that_hides_contexts_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Written so that whatever a system says is lost, wherever it stands: SmolLM2's shape without the role."""
    directory_of(tmp_path, "chatml")
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'assistant' or loop.last %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] | replace('8', '') }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(UserError, match="does not show a privileged context as it is"):
        make_backend(TORCH, Start(tmp_path), CPU)


def test_a_tokenizer_that_is_larger_than_the_model_is_named(tmp_path: Path) -> None:
    directory_of(tmp_path)
    backend = TorchBackend(tmp_path, device="cpu")
    backend.tokenizer.add_tokens(["<|too late|>"])
    assert any("no weights for (<|too late|>)" in wrong for wrong in quick_report(backend).wrong)


def test_the_end_of_turn_comes_first_whatever_the_configuration_says(tmp_path: Path) -> None:
    """Qwen2.5's generation settings name <|im_end|> and <|endoftext|>, its tokenizer the latter."""
    backend = TorchBackend(directory_of(tmp_path, "qwen2.5"), device="cpu")
    names = [backend.tokenizer.decode([stop]) for stop in backend.renderer.stop_ids]
    assert names == ["<|im_end|>", "<|endoftext|>"]
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
