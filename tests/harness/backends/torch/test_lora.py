"""An adapter: the loss and gradient that `peft` itself gives, a reference that is the adapter switched off, training
that goes on from a checkpoint as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig

from harness.backends import Prompt, SamplingParams
from harness.backends.torch import TorchBackend
from harness.backends.torch.lora import FOLDER, Lora
from harness.core.errors import UnknownNameError, UserError
from harness.core.plugs import checked_options
from harness.experiment import LossSettings
from harness.losses import pack, policy_loss
from harness.protocols.backend import BackendSettings, Start
from harness.types import Anchor, Credit, KLForm, TokenSequence

pytestmark = [
    pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed: pip install peft"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]
Make = Callable[..., Any]
LORA = Lora(rank=4, alpha=8.0)


def credited(sequences: list[TokenSequence]) -> list[Credit]:
    rng = np.random.default_rng(0)
    out = []
    for s in sequences:
        anchor = Anchor(s.logprobs, s.mask * 0.1, np.full(len(s), KLForm.K3, dtype=object))
        out.append(Credit(np.where(s.mask, rng.normal(), 0.0), np.where(s.mask, rng.normal(size=len(s)), 0.0), anchor))
    return out


def logprobs(backend: TorchBackend, sequences: list[TokenSequence], policy: Any = "current") -> np.ndarray:
    return np.concatenate([score.logprobs for score in backend.score(sequences, policy)])


def trained(backend: TorchBackend, sequences: list[TokenSequence], steps: int = 3) -> TorchBackend:
    for _ in range(steps):
        backend.update(pack(sequences, credited(sequences)), LossSettings())
    return backend


@pytest.fixture
def sequences(ragged_groups: Make) -> list[TokenSequence]:
    return sum(ragged_groups(3, groups=3), [])


def test_loss_and_gradient_are_pefts_own(backend_of: Make, sequences: list[TokenSequence], tmp_path: Path) -> None:
    """The saved adapter, opened by `peft` on the initial model, and its plain forward pass row by row."""
    import peft

    backend = trained(backend_of(lora=LORA, lr=1e-2), sequences)
    backend.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(backend.initial_directory, dtype=torch.float64)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / FOLDER, is_trainable=True)
    batch = pack(sequences, credited(sequences))
    rows = [theirs(input_ids=batch.tokens[row : row + 1]).logits[0].log_softmax(-1) for row in range(len(batch))]
    chosen = torch.stack([row[:-1].gather(1, batch.tokens[n, 1:, None])[:, 0] for n, row in enumerate(rows)])
    expected = policy_loss(chosen, batch, LossSettings()).total
    expected.backward()
    found = 0.0
    backend.model.zero_grad()
    for current, _, part in backend.differentiable(batch):
        loss = policy_loss(current, part, LossSettings()).total
        loss.backward()
        found += float(loss.detach())
    # transformers computes norms and rotations in float32 even for float64 models
    assert found == pytest.approx(float(expected.detach()), abs=1e-6)
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    ours = {name: p.grad for name, p in backend._adapter.model.named_parameters() if p.requires_grad}
    assert set(ours) == set(wanted)
    assert len(ours) == 2 * 2 * 7  # A and B of seven layers in each of two blocks
    for name, grad in ours.items():
        assert grad.abs().max() > 0, name  # no layer is passed by
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_the_model_itself_stays_and_the_initial_policy_is_the_adapter_off(
    backend_of: Make, sequences: list[TokenSequence]
) -> None:
    plain, backend = backend_of(), backend_of(lora=LORA, lr=1e-2)
    plain._forward.fuse = False  # the same products in the same order
    before = logprobs(plain, sequences)
    for policy in ("current", "initial", "teacher", "reference"):
        np.testing.assert_array_equal(logprobs(backend, sequences, policy), before)
    frozen = {name: p.clone() for name, p in backend.model.named_parameters() if not p.requires_grad}
    trained(backend, sequences)
    assert np.abs(logprobs(backend, sequences) - before).max() > 1e-3
    np.testing.assert_array_equal(logprobs(backend, sequences, "initial"), before)
    assert all(torch.equal(p, frozen[name]) for name, p in backend.model.named_parameters() if name in frozen)
    assert backend._initial is None  # no second model was made


def test_snapshots_are_sets_of_the_small_matrices(backend_of: Make, sequences: list[TokenSequence]) -> None:
    backend = trained(backend_of(lora=LORA, lr=1e-2), sequences)
    once = logprobs(backend, sequences)
    backend.track("reference")
    backend.track("teacher", 0.5)
    np.testing.assert_array_equal(logprobs(backend, sequences, "reference"), once)
    trained(backend, sequences, 1)
    now = logprobs(backend, sequences)
    np.testing.assert_array_equal(logprobs(backend, sequences, "reference"), once)
    assert np.abs(logprobs(backend, sequences, "teacher") - once).max() > 1e-4
    np.testing.assert_array_equal(logprobs(backend, sequences), now)  # what was put in was taken out again


def test_training_goes_on_as_if_it_had_never_stopped(
    backend_of: Make, sequences: list[TokenSequence], tmp_path: Path
) -> None:
    whole, first = backend_of(lora=LORA, lr=1e-2, seed=5), backend_of(lora=LORA, lr=1e-2, seed=5)
    for backend in (whole, first):
        trained(backend, sequences, 2)
        backend.track("teacher", 0.5)
    first.save(tmp_path)
    resumed = backend_of(lora=LORA, lr=1e-2, seed=6)  # what it drew itself is replaced
    resumed.load(tmp_path)
    for backend in (whole, resumed):
        trained(backend, sequences, 2)
        backend.track("teacher", 0.5)
    for policy in ("current", "initial", "teacher"):
        np.testing.assert_array_equal(logprobs(whole, sequences, policy), logprobs(resumed, sequences, policy))


def test_a_checkpoint_is_a_model_that_opens_without_peft(
    backend_of: Make, sequences: list[TokenSequence], tmp_path: Path
) -> None:
    backend = trained(backend_of(lora=LORA, lr=1e-2), sequences)
    backend.save(tmp_path)
    merged = TorchBackend(tmp_path, dtype="float64", device="cpu")
    np.testing.assert_allclose(logprobs(merged, sequences), logprobs(backend, sequences), rtol=0, atol=1e-10)
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    with pytest.raises(UserError, match="holds no adapter"):
        backend_of(lora=LORA).load(backend.initial_directory)


def test_sampling_is_by_the_adapted_policy(backend_of: Make, sequences: list[TokenSequence]) -> None:
    backend = trained(backend_of(lora=LORA, lr=1e-2), sequences)
    prompts = [Prompt(list(range(20, 26 + n)), seed=n) for n in range(4)]
    for prompt, done in zip(prompts, backend.sample(prompts, SamplingParams(6)), strict=True):
        tokens = np.array([*prompt.tokens, *done.tokens.tolist()])
        mask = np.arange(len(tokens)) >= len(prompt.tokens)
        one = TokenSequence(tokens, mask, np.zeros(len(tokens)), np.zeros(len(tokens), np.int64))
        np.testing.assert_allclose(backend.score([one])[0].logprobs[mask], done.logprobs, rtol=0, atol=1e-12)


def test_the_draw_is_the_seeds_alone(backend_of: Make) -> None:
    def drawn(seed: int, dtype: str = "float64") -> list[torch.Tensor]:
        torch.manual_seed(seed + 17)
        return [value.double() for value in backend_of(dtype, lora=LORA, seed=seed)._adapter.first]

    before = torch.random.get_rng_state()
    one, again, other, narrow = drawn(0), drawn(0), drawn(1), drawn(0, "bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one, narrow, strict=True))  # adapters of a narrow model are float32
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    torch.random.set_rng_state(before)


def test_an_experiment_names_what_is_adapted(tiny_directory: Path) -> None:
    def made(**lora: Any) -> TorchBackend:
        options = checked_options(TorchBackend.from_start, {"lora": lora}, "backend")
        return TorchBackend.from_start(Start(tiny_directory), BackendSettings(device="cpu"), **options)

    assert {name.rpartition(".")[2] for name, _ in made(rank=2, targets=["q_proj", "up_proj"])._adapter.layers} == {
        "q_proj",
        "up_proj",
    }
    with pytest.raises(UnknownNameError, match="did you mean 'rank'"):
        made(rnak=2)
    with pytest.raises(UnknownNameError, match="did you mean 'q_proj'"):
        made(targets=["q_prj"])
    with pytest.raises(UserError, match="rank >= 1"):
        made(rank=0)


def test_families_with_a_forward_pass_of_their_own(
    backend_of: Make, tiny_directory: Path, tmp_path: Path, sequences: list[TokenSequence]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = backend_of(directory=tmp_path)
    before = logprobs(plain, sequences)
    backend = backend_of(directory=tmp_path, lora=LORA, lr=1e-2, recompute_layers=True, chunk_mib=0.01)
    np.testing.assert_allclose(logprobs(backend, sequences), before, rtol=0, atol=1e-12)
    trained(backend, sequences)
    assert np.abs(logprobs(backend, sequences) - before).max() > 1e-3
    np.testing.assert_allclose(logprobs(backend, sequences, "initial"), before, rtol=0, atol=1e-12)
