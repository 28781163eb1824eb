"""Shared by all tests: shapes in signatures are checked, one thread, and small models and groups to work on."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from jaxtyping import install_import_hook

# Before anything of ours is imported: every shape in a signature is then checked at every call.
install_import_hook(["harness", "agents"], "beartype.beartype")

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import ChatServer
from hypothesis import HealthCheck, settings

from harness.experiment import OptimiserSettings, TinySettings
from harness.types import TokenSequence

# No test asserts a time, and an fsync on a busy disk takes as long as it takes.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell that starts the tests in the background has Ctrl-C ignored, and every process they start would inherit that.
with contextlib.suppress(ValueError):  # not the main thread: nothing can be set there
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEXTS = ["3 + 5 - 2 + 6", "8 6 12 = 12", "guess 3 to 9", "higher", "lower", "yes"] * 5


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer model with its tokenizer, 4 heads on 2 key/value heads."""
    from harness.backends.torch.models import create_tiny

    directory = tmp_path_factory.mktemp("tiny") / "model"
    settings = TinySettings(width=32, layers=2, heads=4, kv_heads=2, mlp=64, window=96, vocabulary=280)
    create_tiny(directory, TEXTS, settings, seed=0)
    return directory


@pytest.fixture
def backend_of(tiny_directory: Path) -> Callable[..., Any]:
    """A fresh backend on the tiny model: float64 unless said otherwise."""
    from harness.backends.torch import TorchBackend

    def make(dtype: str = "float64", micro_tokens: int = 8192, lr: float = 1e-3, **more: Any) -> TorchBackend:
        settings = OptimiserSettings(lr=lr, micro_tokens=micro_tokens)
        return TorchBackend(
            more.pop("directory", tiny_directory), settings, steps=10, dtype=dtype, device="cpu", **more
        )

    return make


@pytest.fixture
def ragged_groups() -> Callable[..., list[list[TokenSequence]]]:
    """Random groups of ragged multi-turn sequences; siblings share their prompt."""

    def make(seed: int, groups: int = 3, size: int = 4, vocabulary: int = 270) -> list[list[TokenSequence]]:
        rng = np.random.default_rng(seed)
        out = []
        for _ in range(groups):
            prompt = rng.integers(6, vocabulary, size=rng.integers(1, 9))
            out.append([sequence(rng, prompt, vocabulary) for _ in range(size)])
        return out

    def sequence(rng: np.random.Generator, prompt: np.ndarray, vocabulary: int) -> TokenSequence:
        tokens, mask, turns = list(prompt), [False] * len(prompt), [0] * len(prompt)
        for turn in range(int(rng.integers(1, 4))):
            for sampled in (True, False):
                count = int(rng.integers(1, 6))
                tokens += rng.integers(6, vocabulary, size=count).tolist()
                mask += [sampled] * count
                turns += [turn] * count
        flags = np.array(mask)
        logprobs = np.where(flags, -rng.exponential(2.0, size=len(flags)), 0.0)
        return TokenSequence(np.array(tokens), flags, logprobs, np.array(turns))

    return make


@pytest.fixture
def chat_server() -> Iterator[Callable[..., ChatServer]]:
    """Starts loopback servers and stops them after the test: `chat_server(answer, pause_s=0.0) -> ChatServer`."""
    started: list[ChatServer] = []

    def start(answer: Any, pause_s: float = 0.0) -> ChatServer:
        started.append(ChatServer(answer, pause_s))
        return started[-1]

    yield start
    for server in started:
        server.stop()
