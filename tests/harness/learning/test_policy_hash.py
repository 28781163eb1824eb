"""The hash of a model directory: everything that changes the policy changes it, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.learning.policy_hash import checkpoint_hash


@pytest.fixture
def model(tiny_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_directory, tmp_path / "model"))


FILES = (
    "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip
NEW = (
    "pytorch_model.bin", "model-00002-of-00002.safetensors", "model.gguf", "adapter_model.safetensors",
    "adapter_config.json", "special_tokens_map.json", "tokenizer.model", "merges.txt", "vocab.json",
    "additional_chat_templates/tool_use.jinja",
)  # fmt: skip
NOTHING = (
    "README.md", "LICENSE.txt", "measured.json", "trainer_state.pt", "snapshot_teacher.pt", "optimizer.pt",
    "training_args.bin", ".gitattributes", "checkpoint-7/model.safetensors", "figure.png",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_model_counts(model: Path, name: str) -> None:
    before = checkpoint_hash(model)
    content = bytearray((model / name).read_bytes())
    content[-1] ^= 1
    (model / name).write_bytes(content)
    assert checkpoint_hash(model) != before
    (model / name).unlink()
    assert checkpoint_hash(model) != before


@pytest.mark.parametrize("name", NEW)
def test_weights_tokenizers_and_templates_count_in_any_format(model: Path, name: str) -> None:
    before = checkpoint_hash(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"something")
    assert checkpoint_hash(model) != before


@pytest.mark.parametrize("name", NOTHING)
def test_what_changes_nothing_does_not_count(model: Path, name: str) -> None:
    before = checkpoint_hash(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"something")
    assert checkpoint_hash(model) == before


def test_the_clock_of_a_template_counts_where_it_is_asked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    def at(moment: datetime) -> str:
        monkeypatch.setattr("harness.learning.policy_hash.CLOCK", moment)
        return checkpoint_hash(model)

    assert at(datetime(2025, 1, 1)) == at(datetime(2025, 1, 2))
    (model / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}")
    assert at(datetime(2025, 1, 1)) != at(datetime(2025, 1, 2))
