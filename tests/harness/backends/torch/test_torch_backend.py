"""The torch backend: its forward pass, sampler, scores and updates against plain, naive ways of getting the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.backends import Completion, Prompt, SamplingParams
from harness.backends.torch.forward import LlamaForward
from harness.backends.torch.generic import GenericForward
from harness.backends.torch.sampler import Sampler, _choose
from harness.experiment import LossSettings
from harness.losses import policy_loss
from harness.packing import pack
from harness.types import Credit, Distillation, TokenSequence

Make = Callable[..., Any]
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
FAMILY = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=48)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=1, intermediate_size=48)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, num_key_value_heads=4, intermediate_size=48, head_dim=16)),
}


def model_of(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    cls, config = FAMILY[name]
    return cls(config).to(dtype).eval()


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("fuse", [True, False])
def test_forward_equals_the_models_own(name: str, fuse: bool) -> None:
    model = model_of(name)
    assert LlamaForward.supports(model)
    forward = LlamaForward(model)
    forward.fuse = fuse
    ids = torch.randint(0, 60, (3, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = forward.unembed(forward.score(ids)), model(ids).logits
    # transformers computes norms and rotations in float32 even for float64 models
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def naive_completion(model: Any, prompt: Prompt, params: SamplingParams, stops: Sequence[int]) -> Completion:
    """Token by token through the model's own forward pass over everything so far."""
    tokens, logprobs = list(prompt.tokens), []
    uniforms = np.random.Generator(np.random.Philox(key=prompt.seed)).random(params.max_new_tokens)
    limit = params.max_new_tokens if prompt.limit is None else min(prompt.limit, params.max_new_tokens)
    for step in range(limit):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[:, -1]
        drawn, logprob, _ = _choose(logits, params, None if params.greedy else torch.tensor([uniforms[step]]))
        tokens.append(int(drawn))
        logprobs.append(float(logprob))
        if tokens[-1] in stops:
            break
    new = tokens[len(prompt.tokens) :]
    return Completion(np.array(new), np.array(logprobs), new[-1] in stops)


PARAMS = [
    SamplingParams(12, 1.0),
    SamplingParams(12, 0.7, 0.8),
    SamplingParams(12, 1.3, greedy=True),
]


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "generic"])
def test_cached_multi_turn_sampling_equals_naive_recomputation(kind: str, params: SamplingParams) -> None:
    model = model_of("qwen3" if kind == "qwen3" else "llama")
    stops = (7, 8, 9, 10, 11)
    sampler = Sampler(GenericForward(model) if kind == "generic" else LlamaForward(model), stops)
    rng = np.random.default_rng(0)
    shared = [rng.integers(12, 60, size=n).tolist() for n in (5, 9)]
    prompts = [Prompt(shared[n % 2], seed=n, limit=3 if n == 4 else None, key=n) for n in range(9)]
    for turn in range(3):
        done = sampler.sample(prompts, params)
        for prompt, completion in zip(prompts, done, strict=True):
            expected = naive_completion(model, prompt, params, stops)
            assert completion.tokens.tolist() == expected.tokens.tolist()
            assert completion.stopped == expected.stopped
            np.testing.assert_allclose(
                completion.logprobs, expected.logprobs, atol=1e-5
            )  # float32 norms in the naive pass
        # the next turn continues only some conversations, in another order, each by a reply of its own length
        kept = [place for place in rng.permutation(len(prompts)).tolist() if place != turn]
        prompts = [
            Prompt(
                [*prompts[p].tokens, *done[p].tokens.tolist(), *rng.integers(12, 60, size=rng.integers(1, 5)).tolist()],
                seed=100 * turn + p,
                key=prompts[p].key,
            )
            for p in kept
        ]


def test_what_is_sampled_does_not_depend_on_the_batch(backend_of: Make) -> None:
    backend = backend_of()
    prompts = [Prompt(list(range(20, 26 + n % 3)), seed=n) for n in range(40)]
    together = backend.sample(prompts, SamplingParams(10))
    for prompt, completion in zip(prompts, together, strict=True):
        alone = backend.sample([prompt], SamplingParams(10))[0]
        assert alone.tokens.tolist() == completion.tokens.tolist()
        np.testing.assert_allclose(alone.logprobs, completion.logprobs, atol=1e-12)


def test_finished_rows_leave_the_batch_and_the_kept_cache_stays_right(backend_of: Make) -> None:
    backend = backend_of()
    # limits spread so that the batch is halved several times
    prompts = [Prompt(list(range(30, 36)), seed=n, limit=1 + n % 16, key=n) for n in range(64)]
    done = backend.sample(prompts, SamplingParams(16))
    longer = [
        Prompt([*p.tokens, *c.tokens.tolist(), 40, 41], seed=500 + p.seed, key=p.key)
        for p, c in zip(prompts, done, strict=True)
    ]
    kept = backend.sample(longer, SamplingParams(5))
    backend.release()
    anew = backend.sample(longer, SamplingParams(5))
    for a, b in zip(kept, anew, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-12)


def test_a_prefill_in_several_passes_is_the_same(backend_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt(list(range(20, 26 + n % 7)), seed=n, key=n) for n in range(9)]

    def two_turns() -> list[Completion]:
        backend = backend_of()
        first = backend.sample(prompts, SamplingParams(4))
        longer = [
            Prompt([*p.tokens, *c.tokens.tolist(), *range(40, 42 + p.key % 3)], p.seed, None, p.key)
            for p, c in zip(prompts, first, strict=True)
        ]
        return [*first, *backend.sample(longer, SamplingParams(4))]

    whole = two_turns()
    monkeypatch.setattr(
        "harness.backends.torch.forward.EXTEND_TOKENS", 25
    )  # two or three prompts a pass, all rows in one while decoding
    for a, b in zip(whole, two_turns(), strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-12)


def as_sequence(prompt: Prompt, completion: Completion) -> TokenSequence:
    tokens = np.array([*prompt.tokens, *completion.tokens.tolist()])
    mask = np.arange(len(tokens)) >= len(prompt.tokens)
    logprobs = np.zeros(len(tokens))
    logprobs[mask] = completion.logprobs
    return TokenSequence(tokens, mask, logprobs, np.zeros(len(tokens), dtype=int))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
def test_sampling_and_scoring_agree(dtype: str, tolerance: float, backend_of: Make) -> None:
    # float32: one product rounds at 6e-8, and other shapes add up in another order; 1e-4 is a thousand roundings
    backend = backend_of(dtype)
    prompts = [Prompt(list(range(20, 24 + n // 8)), seed=n) for n in range(32)]
    done = backend.sample(prompts, SamplingParams(20))
    sequences = [as_sequence(p, c) for p, c in zip(prompts, done, strict=True)]
    for policy in ("current", "initial"):
        for sequence, score in zip(sequences, backend.score(sequences, policy), strict=True):
            np.testing.assert_allclose(score.logprobs, sequence.logprobs, atol=tolerance)


def test_scores_behind_a_context_are_those_of_the_longer_text(backend_of: Make, ragged_groups: Make) -> None:
    backend = backend_of()
    sequences = sum(ragged_groups(1), [])
    contexts = [list(range(50, 53 + n % 3)) for n in range(len(sequences))]
    scores = backend.score(sequences, contexts=contexts, top_k=4)
    for sequence, context, score in zip(sequences, contexts, scores, strict=True):
        with torch.no_grad():
            logits = backend.model(torch.tensor([[*context, *sequence.tokens.tolist()]])).logits[0]
        everything = logits.log_softmax(-1)[len(context) - 1 : -1].numpy()
        for place in np.flatnonzero(sequence.mask):
            assert score.logprobs[place] == pytest.approx(everything[place, sequence.tokens[place]], abs=1e-5)
            top = np.sort(everything[place])[::-1][:4]
            np.testing.assert_allclose(score.distribution.logprobs[place], top, atol=1e-5)
        assert np.all(score.logprobs[~sequence.mask] == 0)


def test_given_ids_and_the_whole_vocabulary(backend_of: Make, ragged_groups: Make) -> None:
    backend = backend_of()
    sequences = ragged_groups(2, groups=1)[0]
    whole = backend.score(sequences, top_k=backend.vocabulary)
    for score, sequence in zip(whole, sequences, strict=True):
        assert score.distribution.ids[sequence.mask].tolist() == [list(range(backend.vocabulary))] * int(
            sequence.mask.sum()
        )
        np.testing.assert_allclose(np.exp(score.distribution.logprobs[sequence.mask]).sum(1), 1, atol=1e-12)
    ids = [np.tile(np.array([9, 3, 200]), (len(s), 1)) for s in sequences]
    for picked, score, sequence in zip(backend.score(sequences, ids=ids), whole, sequences, strict=True):
        expected = score.distribution.logprobs[sequence.mask][:, [9, 3, 200]]
        np.testing.assert_allclose(picked.distribution.logprobs[sequence.mask], expected, atol=1e-12)


def gradient(backend: Any, batch: Any, spec: LossSettings) -> tuple[float, list[torch.Tensor]]:
    backend.model.zero_grad()
    total = 0.0
    for logprobs, support, part in backend.differentiable(batch):
        out = policy_loss(logprobs, part, spec, support)
        out.total.backward()
        total += float(out.total.detach())
    return total, [p.grad.clone() for p in backend.model.parameters()]


def credited(backend: Any, sequences: list[TokenSequence], seed: int) -> list[Credit]:
    rng = np.random.default_rng(seed)
    targets = backend.score(sequences, top_k=6, contexts=[[60, 61, 62]] * len(sequences))
    return [
        Credit(
            np.where(s.mask, rng.normal(), 0.0),
            np.where(s.mask, rng.normal(size=len(s)), 0.0),
            None,
            Distillation(t.distribution, s.mask * 0.5),
        )
        for s, t in zip(sequences, targets, strict=True)
    ]


@pytest.mark.parametrize("spec", [LossSettings(), LossSettings(aggregate="sequence-mean-token-mean")])
def test_gradient_does_not_depend_on_micro_batches_order_or_prompt_sharing(
    spec: LossSettings, backend_of: Make, ragged_groups: Make
) -> None:
    sequences = sum(ragged_groups(3, groups=4), [])
    reference = backend_of()
    credits = credited(reference, sequences, 0)
    loss, expected = gradient(reference, pack(sequences, credits), spec)
    order = np.random.default_rng(1).permutation(len(sequences))
    shuffled = pack([sequences[i] for i in order], [credits[i] for i in order])
    once_each = backend_of()
    once_each._forward.shares_prompts = False
    variants = [
        (backend_of(micro_tokens=20), pack(sequences, credits)),
        (backend_of(micro_tokens=90), shuffled),
        (once_each, shuffled),
    ]
    for backend, batch in variants:
        other, got = gradient(backend, batch, spec)
        assert other == pytest.approx(loss, rel=1e-12)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_shared_prompts_are_computed_once(backend_of: Make, ragged_groups: Make) -> None:
    backend = backend_of()
    sequences = sum(ragged_groups(4, groups=2, size=8), [])
    seen: list[tuple[int, ...]] = []
    plain = backend._forward._layers
    backend._forward._layers = lambda ids, *given: (seen.append(tuple(ids.shape)), plain(ids, *given))[1]
    backend.score(sequences)
    rows = sum(shape[0] for shape in seen)
    assert rows == 16 + 2  # every row once without its prompt, and each of the two prompts once


def test_update_is_one_optimiser_step_with_the_reported_gradient(backend_of: Make, ragged_groups: Make) -> None:
    sequences = sum(ragged_groups(5), [])
    backend = backend_of(micro_tokens=40)
    batch = pack(sequences, credited(backend, sequences, 1))
    loss, gradients = gradient(backend_of(), batch, LossSettings())
    metrics = backend.update(batch, LossSettings(), per_term=True)
    assert metrics["loss/total"] == pytest.approx(loss, rel=1e-12)
    assert metrics["gradient_norm"] == pytest.approx(float(torch.stack([g.norm() for g in gradients]).norm()), rel=1e-9)
    assert set(metrics) >= {"gradient/surrogate", "gradient/likelihood", "gradient/distillation", "lr", "ratio/clipped"}
    before = AutoModelForCausalLM.from_pretrained(backend.initial_directory)
    moved = [
        not torch.equal(a, b.double()) for a, b in zip(backend.model.parameters(), before.parameters(), strict=True)
    ]
    assert all(moved)


def test_saved_and_loaded_training_goes_on_to_the_bit(backend_of: Make, ragged_groups: Make, tmp_path: Path) -> None:
    sequences = sum(ragged_groups(6), [])
    for dtype in ("float32", "bfloat16"):
        straight, broken = backend_of(dtype), backend_of(dtype)
        batch = pack(sequences, [Credit(advantages=s.mask * 1.0) for s in sequences])
        straight.update(batch, LossSettings())
        broken.update(batch, LossSettings())
        broken.save(tmp_path / dtype)
        resumed = backend_of(dtype)
        resumed.load(tmp_path / dtype)
        assert straight.update(batch, LossSettings()) == resumed.update(batch, LossSettings())
        for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(a, b)
        # a trained policy opens in any tool
        model = AutoModelForCausalLM.from_pretrained(tmp_path / dtype)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / dtype)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "3 + 5"}], add_generation_prompt=True, tokenize=False
        )
        assert text == "<|user|>3 + 5<|end|><|assistant|>"
        assert model.config.vocab_size == len(tokenizer)


def test_steps_of_a_bfloat16_model_are_not_lost(backend_of: Make, ragged_groups: Make) -> None:
    # Each step of 1e-5 is below what bfloat16 can add to a weight of 0.02 or more; the float32 masters add them up.
    sequences = sum(ragged_groups(7), [])
    backend = backend_of("bfloat16", lr=1e-5)
    before = [m.clone() for m in backend._optimiser.masters]
    batch = pack(sequences, [Credit(likelihood=s.mask * 1.0) for s in sequences])
    for _ in range(3):
        backend.update(batch, LossSettings())
    assert all(not torch.equal(a, b) for a, b in zip(before, backend._optimiser.masters, strict=True))


def test_other_architectures_work_through_their_own_forward(
    tiny_directory: Path, backend_of: Make, ragged_groups: Make, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 96,
    }
    GPTNeoXForCausalLM(
        GPTNeoXConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=1, **sizes)
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backend = backend_of("float32", directory=tmp_path)
    assert isinstance(backend._forward, GenericForward)
    prompts = [Prompt(list(range(20, 24 + n % 3)), seed=n, key=n) for n in range(6)]
    done = backend.sample(prompts, SamplingParams(8))
    sequences = [as_sequence(p, c) for p, c in zip(prompts, done, strict=True)]
    for sequence, score in zip(sequences, backend.score(sequences), strict=True):
        np.testing.assert_allclose(score.logprobs, sequence.logprobs, atol=1e-4)
    metrics = backend.update(pack(sequences, [Credit(advantages=s.mask * 1.0) for s in sequences]), LossSettings())
    assert metrics["gradient_norm"] > 0


def test_a_prompt_that_fills_the_window_is_refused(backend_of: Make) -> None:
    with pytest.raises(ValueError, match="96 tokens leaves no room in a window of 96"):
        backend_of().sample([Prompt([20] * 96)], SamplingParams(4))
    at_the_edge = backend_of().sample([Prompt([20] * 90)], SamplingParams(40))[0]
    assert len(at_the_edge.tokens) <= 6
