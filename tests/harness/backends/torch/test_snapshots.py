"""Snapshots of the torch backend: weights that follow the policy, saved and brought back to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from harness.backends.torch.generic import GenericForward
from harness.core.errors import UserError
from harness.experiment import LossSettings
from harness.packing import pack
from harness.types import Credit, TokenSequence

Make = Callable[..., Any]


@pytest.fixture
def sequences(ragged_groups: Make) -> list[TokenSequence]:
    return sum(ragged_groups(8), [])


def step(backend: Any, sequences: list[TokenSequence]) -> None:
    backend.update(pack(sequences, [Credit(likelihood=s.mask * 1.0) for s in sequences]), LossSettings())


def scores(backend: Any, sequences: list[TokenSequence], policy: str) -> np.ndarray:
    return np.concatenate([score.logprobs for score in backend.score(sequences, policy=policy)])


def values(backend: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in backend.model.parameters()]


def averages(backend: Any, name: str = "teacher") -> list[torch.Tensor]:
    return [average.detach().clone() for average in backend._snapshots[name].averages]


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("snapshot*"))


def test_an_average_is_the_recursion_written_out(backend_of: Make, sequences: list[TokenSequence]) -> None:
    """teacher_n = d^n w_0 + (1 - d) sum_k d^(n - k) w_k, to the rounding of float64."""
    backend = backend_of()
    seen = [values(backend)]
    for _ in range(3):
        step(backend, sequences)
        backend.track("teacher", 0.25)
        seen.append(values(backend))
    for place, average in enumerate(averages(backend)):
        told = 0.25**3 * seen[0][place] + sum(0.75 * 0.25 ** (3 - k) * seen[k][place] for k in (1, 2, 3))
        torch.testing.assert_close(average, told, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_copy_is_the_policy_to_the_bit(dtype: str, backend_of: Make, sequences: list[TokenSequence]) -> None:
    backend = backend_of(dtype)
    step(backend, sequences)
    backend.track("reference")
    assert np.array_equal(scores(backend, sequences, "reference"), scores(backend, sequences, "current"))
    assert not np.array_equal(scores(backend, sequences, "reference"), scores(backend, sequences, "initial"))
    assert np.array_equal(scores(backend, sequences, "teacher"), scores(backend, sequences, "initial"))


def test_the_average_of_equal_weights_is_those_weights(backend_of: Make, sequences: list[TokenSequence]) -> None:
    backend = backend_of("float32")
    for _ in range(5):
        backend.track("teacher", 0.9)
    assert all(map(torch.equal, averages(backend), values(backend)))


def test_steps_that_bfloat16_does_not_see_move_its_average(backend_of: Make, sequences: list[TokenSequence]) -> None:
    """Ten steps of 1e-5 under decay 0.5 move an average by about 9e-5, far below the 2e-3 between neighbours near 0.5;
    the float32 average has them, and the model behind it is that average rounded."""
    backend = backend_of("bfloat16", lr=1e-5)
    backend.track("teacher", 0.5)
    before = averages(backend)
    for _ in range(10):
        step(backend, sequences)
        backend.track("teacher", 0.5)
    after = averages(backend)
    assert {average.dtype for average in after} == {torch.float32}
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    shown = backend._snapshots["teacher"].forward.model.parameters()
    assert all(torch.equal(p, a.bfloat16()) for p, a in zip(shown, after, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_and_loaded_it_follows_on_to_the_bit(
    dtype: str, backend_of: Make, sequences: list[TokenSequence], tmp_path: Path
) -> None:
    straight, broken, resumed = (backend_of(dtype) for _ in range(3))
    for backend in (straight, broken):
        step(backend, sequences)
        backend.track("teacher", 0.7)
    broken.save(tmp_path)
    assert files(tmp_path) == ["snapshot_teacher.pt"]
    resumed.load(tmp_path)
    for backend in (straight, resumed):
        step(backend, sequences)
        backend.track("teacher", 0.7)
    assert all(map(torch.equal, averages(straight), averages(resumed)))
    assert np.array_equal(scores(straight, sequences, "teacher"), scores(resumed, sequences, "teacher"))


def test_nobody_asks_and_there_is_none(backend_of: Make, sequences: list[TokenSequence], tmp_path: Path) -> None:
    backend = backend_of()
    scores(backend, sequences, "initial")
    step(backend, sequences)
    (tmp_path / "one").mkdir()
    backend.save(tmp_path / "one")
    assert files(tmp_path / "one") == []
    # ... and one that a directory does not have is the initial policy again
    backend.track("teacher")
    backend.load(tmp_path / "one")
    assert np.array_equal(scores(backend, sequences, "teacher"), scores(backend, sequences, "initial"))


def test_models_with_a_forward_of_their_own_have_snapshots(
    tiny_directory: Path, backend_of: Make, sequences: list[TokenSequence], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=1, max_position_embeddings=96, **sizes
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    backend = backend_of("float32", directory=tmp_path / "model")
    step(backend, sequences)
    backend.track("teacher", 0.5)
    assert isinstance(backend._snapshots["teacher"].forward, GenericForward)
    told = scores(backend, sequences, "teacher")
    for other in ("current", "initial"):
        assert np.abs(told - scores(backend, sequences, other)).max() > 1e-4
    backend.track("teacher")
    assert np.array_equal(scores(backend, sequences, "teacher"), scores(backend, sequences, "current"))


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float, backend_of: Make) -> None:
    with pytest.raises(UserError, match=r"decay of the snapshot 'teacher' must be in \[0, 1\)"):
        backend_of().track("teacher", decay)
