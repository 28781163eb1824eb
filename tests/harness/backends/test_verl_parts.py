"""What verl is given of ours, without verl: credit on its padded batches, the loss in its parts, episodes through its
loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from experiments import small
from torch import Tensor

from harness.backends.torch import TorchBackend
from harness.backends.verl.credit import Estimator, Row, inexpressible, on_tokens, response_start, seen_by_trainer
from harness.backends.verl.loop import EPISODE, EnvironmentLoop, ServerSampler, request_of, row_of
from harness.backends.verl.loss import NO_DUAL_CLIP, verl_policy_loss
from harness.backends.verl.tasks import Tasks
from harness.backends.verl.trainer import check_hooks, fed_trainer, rows
from harness.core.episodes import episode_to_row
from harness.core.errors import HarnessError, UnknownNameError, UserError
from harness.core.seeds import SeedTree
from harness.experiment import LossSettings
from harness.losses import pack, policy_loss
from harness.protocols.backend import Prompt, SamplingParams
from harness.protocols.check_method import Step, random_step
from harness.protocols.method import AnyMethod, make_method
from harness.report.export.verl_job import write_job
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.types import Anchor, Credit, Distillation, Episode, KLForm, TopK

PAD = 3
"""Positions of padding behind the longest response."""
METHODS = [
    ("agents.methods.grpo:GRPO", {"kl": 0.0}),
    ("agents.methods.grpo:GRPO", {"kl": 0.05}),
    ("agents.methods.grpo:RLOO", {}),
    ("agents.methods.gigpo:GiGPO", {"kl": 0.0}),
    ("agents.methods.gagpo:GAGPO", {"kl": 0.0}),
    ("agents.methods.grpo_lambda:GRPOLambda", {"kl": 0.0}),
]
"""A pull on every episode, credit of turns, credit by the names of states, and plain ones."""
LOSSES = [
    {},
    {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 1.5},
    {"aggregate": "sequence-mean-token-mean"},
    {"aggregate": "sequence-mean-token-sum", "sum_constant": 12},
]


# ---------------------------------------------------------------- a step as verl holds it


class Held:
    """A random step as verl's padded tensors, rows of a group apart from each other, one of them padding."""

    def __init__(self, method: AnyMethod, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.step: Step = random_step(rng, method.needs, siblings=3)
        flat = [
            (episode, known, group)
            for group, of_group in zip(self.step.groups, self.step.evidence, strict=True)
            for episode, known in zip(group.episodes, of_group, strict=True)
        ]
        self.order = rng.permutation(len(flat)).tolist()
        self.rows: list[Row | None] = [Row(flat[place][0], flat[place][1].reference) for place in self.order]
        self.index = [flat[place][2].task_id for place in self.order]
        self.rows.insert(1, None)
        self.index.insert(1, "padding")
        sequences = [None if row is None else row.episode.sequence for row in self.rows]
        width = PAD + max(len(s) - response_start(s) for s in sequences if s is not None)
        self.mask = torch.zeros((len(self.rows), width), dtype=torch.int64)
        self.old = torch.zeros((len(self.rows), width), dtype=torch.float64)
        self.rewards = torch.zeros((len(self.rows), width), dtype=torch.float64)
        for place, row in enumerate(self.rows):
            if row is None:
                continue
            sequence, start = row.episode.sequence, response_start(row.episode.sequence)
            length = len(sequence) - start
            self.mask[place, :length] = torch.from_numpy(sequence.mask[start:].astype(np.int64))
            self.old[place, :length] = torch.from_numpy(np.array(sequence.logprobs[start:]))
            self.rewards[place, length - 1] = row.episode.reward

    def ours(self, method: AnyMethod) -> list[Credit | None]:
        """Credit of every row as the method assigns it."""
        credits, _, _ = method.assign(self.step.groups, self.step.evidence, method.initial_state())
        flat = [credit for of_group in credits for credit in of_group]
        laid: list[Credit | None] = [flat[place] for place in self.order]
        laid.insert(1, None)
        return laid


def expected(held: Held, credits: Sequence[Credit | None]) -> Tensor:
    """Advantages position by position: a second implementation, a loop over tokens."""
    out = torch.zeros(held.rewards.shape, dtype=torch.float64)
    for place, (row, credit) in enumerate(zip(held.rows, credits, strict=True)):
        if row is None or credit is None or credit.advantages is None:
            continue
        first = next(t for t in range(len(row.episode.sequence)) if row.episode.sequence.mask[t])
        for token in range(first, len(row.episode.sequence)):
            out[place, token - first] = float(credit.advantages[token])
    return out


def actor_config(loss: LossSettings, **info: Any) -> Any:
    """What the loss reads of verl's `ActorConfig`."""
    return SimpleNamespace(
        clip_ratio_low=loss.clip_low,
        clip_ratio_high=loss.clip_high,
        clip_ratio_c=NO_DUAL_CLIP if loss.dual_clip is None else loss.dual_clip,
        loss_scale_factor=loss.sum_constant,
        global_batch_info=info,
    )


THEIRS = {
    "token-mean": "token-mean",
    "sequence-mean-token-mean": "seq-mean-token-mean",
    "sequence-mean-token-sum": "seq-mean-token-sum-norm",
}


# ---------------------------------------------------------------- credit


@pytest.mark.parametrize(("plug", "options"), METHODS)
def test_advantages_are_the_methods_credit_on_a_padded_batch(plug: str, options: dict[str, Any]) -> None:
    method = make_method(plug, options)
    for seed in range(4):
        held = Held(method, seed)
        estimator = Estimator(method, "row")
        with estimator.given(held.rows):
            advantages, returns = estimator(held.rewards, held.mask, index=held.index, config=None)
        wanted = expected(held, held.ours(method))
        # A group's siblings come in another order: sums over them round differently.
        torch.testing.assert_close(advantages, wanted, rtol=0, atol=1e-12)
        assert torch.equal(advantages, returns)
        assert all(name.startswith("method/") for name in estimator.diagnostics)


def test_a_batch_without_its_episodes_is_refused() -> None:
    method = make_method(*METHODS[0])
    held, estimator = Held(method, 0), Estimator(method, "GRPO")
    with pytest.raises(HarnessError, match="has no episodes"):
        estimator(held.rewards, held.mask, index=held.index)
    with estimator.given(held.rows[1:]), pytest.raises(HarnessError, match="episodes for"):
        estimator(held.rewards, held.mask, index=held.index)
    other = held.mask.clone()
    other[0, 0] = 1 - other[0, 0]
    with estimator.given(held.rows), pytest.raises(HarnessError, match="another mask"):
        estimator(held.rewards, other, index=held.index)
    with pytest.raises(HarnessError, match="has no episodes"):  # those of the last batch are gone
        estimator(held.rewards, held.mask, index=held.index)


def test_a_credit_that_verl_cannot_express_is_refused_when_it_comes() -> None:
    """A likelihood, a distillation, a pull elsewhere, in another form, of another weight, or not on every episode."""
    sequence = next(row for row in Held(make_method(*METHODS[0]), 1).rows if row is not None).episode.sequence
    length = len(sequence)
    reference = np.where(sequence.mask, -1.0, 0.0)
    weights, forms = np.where(sequence.mask, 0.1, 0.0), np.full(length, KLForm.K3, dtype=object)
    ids = np.zeros((length, 2), dtype=np.int64)
    good = Credit(np.zeros(length), anchor=Anchor(reference, weights, forms))
    assert inexpressible(good, sequence, reference, 0.1) is None
    assert inexpressible(Credit(np.zeros(length)), sequence, None, 0.0) is None
    bad = {
        "'likelihood'": Credit(likelihood=np.zeros(length)),
        "'distillation'": Credit(distillation=Distillation(TopK(ids, np.zeros((length, 2))), weights)),
        "leaves out": Credit(np.zeros(length)),
    }
    for words, credit in bad.items():
        assert words in str(inexpressible(credit, sequence, reference, 0.1))
    second = np.full(length, KLForm.K2, dtype=object)
    for anchor in (
        Anchor(reference - sequence.mask, weights, forms),
        Anchor(reference, weights * 2, forms),
        Anchor(reference, weights, second),
    ):
        assert "'anchor'" in str(inexpressible(Credit(anchor=anchor), sequence, reference, 0.1))


# ---------------------------------------------------------------- loss


def losses(held: Held, method: AnyMethod, settings: LossSettings, seed: int) -> tuple[Any, Any]:
    """(loss, gradient by row and token) of ours on the packed step, and of the same loss through verl's function, in
    micro-batches, on two ranks."""
    credits = held.ours(method)
    real = [(p, row.episode, c) for p, (row, c) in enumerate(zip(held.rows, credits, strict=True)) if row and c]
    batch = pack([episode.sequence for _, episode, _ in real], [replace(c, anchor=None) for *_, c in real])
    noise = 0.4 * torch.randn(held.old.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theirs = (held.old + noise).requires_grad_()
    current = torch.zeros(batch.mask.shape, dtype=torch.float64)
    for place, at in enumerate(batch.order.tolist()):
        row, episode, _ = real[at]
        start = response_start(episode.sequence)
        length = len(episode.sequence) - start
        current[place, start - 1 : start - 1 + length] = theirs.detach()[row, :length]
    current.requires_grad_()
    total = policy_loss(current, batch, settings).total
    total.backward()
    estimator = Estimator(method, "row")
    with estimator.given(held.rows):
        advantages, _ = estimator(held.rewards, held.mask, index=held.index)
    info = {"dp_size": 2, "batch_num_tokens": batch.step_tokens, "global_batch_size": batch.step_sequences}
    config = actor_config(settings, **info)
    summed = 0.0
    for part in torch.arange(len(held.rows)).split(2):
        out, _ = verl_policy_loss(
            *(held.old[part], theirs[part], advantages[part], held.mask[part]), THEIRS[settings.aggregate], config
        )
        (out / 2).backward()  # engines average over ranks
        summed += float(out.detach()) / 2
    assert theirs.grad is not None
    assert current.grad is not None
    gradient = torch.zeros_like(held.old)
    for place, at in enumerate(batch.order.tolist()):
        row, episode, _ = real[at]
        start = response_start(episode.sequence)
        length = len(episode.sequence) - start
        gradient[row, :length] = current.grad[place, start - 1 : start - 1 + length]
    return (float(total.detach()), gradient), (summed, theirs.grad)


@pytest.mark.parametrize("given", LOSSES, ids=str)
def test_the_loss_is_ours_in_parts_and_over_ranks(given: dict[str, Any]) -> None:
    method = make_method(*METHODS[0])
    ours, theirs = losses(Held(method, 2), method, LossSettings(**given), 2)
    assert theirs[0] == pytest.approx(ours[0], rel=1e-12)
    torch.testing.assert_close(theirs[1], ours[1], rtol=1e-12, atol=1e-15)
    assert float(ours[1].abs().max()) > 0


def test_rollout_weights_multiply_shares_and_counts_may_be_missing() -> None:
    """Two rows of two tokens, ratio 1, advantages 1 and -1: (2 * w - 2) / 4 tokens; and with the counts of the rows
    themselves."""
    old = torch.zeros((2, 2), dtype=torch.float64)
    gains = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    weights = torch.tensor([[3.0, 3.0], [1.0, 1.0]], dtype=torch.float64)
    config = actor_config(LossSettings())
    out, facts = verl_policy_loss(old, old, gains, torch.ones((2, 2)), "token-mean", config, weights)
    assert float(out) == -(2 * 3 - 2) / 4
    assert facts == {"actor/pg_clipfrac": 0.0, "actor/ppo_kl": 0.0}
    with pytest.raises(UnknownNameError, match="token-sum"):
        verl_policy_loss(old, old, gains, torch.ones((2, 2)), "token-sum", config)


# ---------------------------------------------------------------- rows, tasks, hooks


def test_rows_come_back_as_episodes_with_the_trainers_log_probabilities() -> None:
    method = make_method("agents.methods.grpo:GRPO", {"kl": 0.1})
    held = Held(method, 3)
    real = [row for row in held.rows if row is not None]
    extra: list[Mapping[str, Any]] = [{EPISODE: episode_to_row(row.episode)} for row in real]
    lengths = [len(row.episode.sequence) - response_start(row.episode.sequence) for row in real]
    old = [torch.arange(1, n + 1, dtype=torch.float32) / -8 for n in lengths]
    made = rows([*extra, {}], [*old, torch.zeros(1)], [*old, torch.zeros(1)], [False] * len(real) + [True])
    assert made[-1] is None
    for row, back, response in zip(real, made, old, strict=False):
        assert back is not None
        before, after = row.episode.sequence, back.episode.sequence
        assert np.array_equal(before.tokens, after.tokens)
        wanted = np.zeros(len(before))
        wanted[response_start(before) :] = response.double().numpy()
        assert np.array_equal(after.logprobs, np.where(before.mask, wanted, 0.0))
        assert np.array_equal(back.reference, after.logprobs)
        assert (back.episode.states, back.episode.reward) == (row.episode.states, row.episode.reward)
    with pytest.raises(HarnessError, match="holds no episode"):
        rows([{}], old[:1], None, [False])


def test_an_episode_becomes_a_row_of_verl_and_back() -> None:
    for seed in range(3):
        for row in Held(make_method(*METHODS[0]), seed).rows:
            if row is None:
                continue
            episode = row.episode
            fields = row_of(episode, [4, 3, 4])
            assert fields["prompt_ids"] + fields["response_ids"] == episode.sequence.tokens.tolist()
            assert fields["response_mask"][0] == 1
            assert sum(fields["response_mask"]) == episode.sequence.mask.sum()
            assert fields["reward_score"] == episode.reward
            assert (fields["extra_fields"]["min_global_steps"], fields["extra_fields"]["max_global_steps"]) == (3, 4)
            json.dumps(fields)
            back = seen_by_trainer(episode, np.array(fields["response_logprobs"]))
            assert np.array_equal(back.sequence.logprobs, episode.sequence.logprobs)


def test_an_episode_in_which_nothing_was_sampled_still_has_a_response() -> None:
    row = next(row for row in Held(make_method(*METHODS[0]), 0).rows if row is not None)
    sequence = row.episode.sequence
    silent = replace(sequence, mask=np.zeros(len(sequence), bool), logprobs=np.zeros(len(sequence)))
    fields = row_of(replace(row.episode, sequence=silent))
    assert fields["response_mask"] == [0]
    assert len(fields["prompt_ids"]) == len(sequence) - 1
    assert not on_tokens(silent, np.ones(1)).any()


def test_tasks_come_in_the_order_of_a_run_of_the_seed(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    given = {"tasks": ["a", "b", "c"], "steps": 4, "prompts_per_step": 2, "environment": "E-v0"}
    file.write_text(json.dumps(given))
    made = Tasks(str(file), config={"seed": 7})
    played = [made[place]["task"] for place in range(len(made))]
    assert len(played) == 8
    for epoch in range(2):  # a fresh permutation each, as Philox draws it
        order = SeedTree(7)["task-order", epoch].rng().permutation(3)
        assert played[3 * epoch : 3 * epoch + 3] == [given["tasks"][i] for i in order]
    assert [made[0][name] for name in ("index", "training", "data_source")] == [0, True, "E-v0"]
    file.write_text(json.dumps(given | {"steps": None}))
    held_out = Tasks([str(file)], config={}, max_samples=2)
    assert [held_out[place]["task"] for place in range(len(held_out))] == ["a", "b"]
    assert not held_out[0]["training"]


def test_siblings_of_a_step_have_the_runs_own_seeds() -> None:
    experiment = small()  # four prompts a step
    asked = request_of(experiment, 5, {"index": 9, "session_id": 2, "task": "t", "training": True})
    assert asked.seeds == SeedTree(5)["rollout", 2][9, 2]
    other = request_of(experiment, 5, {"index": 9, "session_id": 2, "task": "t", "training": False})
    assert other.seeds.integer() != asked.seeds.integer()


class Base:
    """Of verl's trainer what is overridden."""

    def __init__(self, config: Any) -> None:
        self.config, self.use_reference_policy = config, False

    def _compute_advantage(self, batch: Any, metrics: Any) -> Any:
        return batch


class OfTomorrow(Base):
    def _compute_advantage(self, batch: Any) -> Any: ...  # type: ignore[override]


def test_another_trainer_is_refused_by_the_name_of_its_hook() -> None:
    check_hooks(Base)
    with pytest.raises(UserError, match=r"_compute_advantage\(self, batch, metrics\) takes \(self, batch\)"):
        fed_trainer(OfTomorrow, lambda **_: None, lambda _: None)


# ---------------------------------------------------------------- our environments in verl's loop


class Server:
    """verl's client of its servers: awaited, and answered by a policy of ours."""

    def __init__(self, backend: TorchBackend) -> None:
        self.backend = backend
        self.asked: list[dict[str, Any]] = []
        self.twist: dict[str, Any] = {}

    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        self.asked.append({"id": request_id, "prompt": prompt_ids, **sampling_params})
        params = SamplingParams(sampling_params["max_tokens"], sampling_params["temperature"])
        [done] = self.backend.sample([Prompt(prompt_ids, seed=sampling_params["seed"])], params)
        given = {
            "token_ids": done.tokens.tolist(),
            "log_probs": done.logprobs.tolist(),
            "stop_reason": "completed",
            "extra_fields": {"global_steps": 3},
        }
        return SimpleNamespace(**given | self.twist)


@pytest.fixture
def backend(backend_of: Callable[..., TorchBackend]) -> TorchBackend:
    """A small random policy."""
    return backend_of()


def looped(job: Path, backend: TorchBackend, server: Server) -> EnvironmentLoop:
    rollout = SimpleNamespace(max_model_len=backend.window)
    held = SimpleNamespace(rollout=rollout, model=SimpleNamespace(path=str(job)))
    config = SimpleNamespace(actor_rollout_ref=held, data=SimpleNamespace(seed=5))
    return EnvironmentLoop(str(job), "GRPO", SimpleNamespace(config=config), server, backend.tokenizer)


def test_an_episode_is_played_by_our_engine_and_sampled_by_the_server(
    backend: TorchBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens, log-probabilities and reward as our own rollouts of the same request: nothing is between."""
    write_job(small(), tmp_path)
    server = Server(backend)
    loop = looped(tmp_path, backend, server)
    train = json.loads((tmp_path / "tasks/train.json").read_text())["tasks"]
    asked = [
        request_of(loop.experiment, 5, {"index": place, "session_id": 1, "task": train[place], "training": True})
        for place in range(4)
    ]

    async def play() -> list[Episode]:
        running = asyncio.get_running_loop()
        samplers = [
            ServerSampler(server, running, backend.renderer, backend.window, {"temperature": 1.0}) for _ in asked
        ]
        played = [asyncio.to_thread(loop._play, s, r) for s, r in zip(samplers, asked, strict=True)]
        return await asyncio.gather(*played)

    played = asyncio.run(play())
    seeded = backend.sample  # a server's seed has 32 bits
    monkeypatch.setattr(backend, "sample", lambda given, params: seeded([cut(p) for p in given], params))
    with EnvironmentPool(loop.experiment.environment) as pool:
        policy = TokenPolicy(backend, SamplingParams(loop.experiment.sampling.max_new_tokens))
        alone = [Rollouts(pool).play([request], policy)[0] for request in asked]
    assert len({tuple(episode.sequence.tokens) for episode in alone}) > 1
    for theirs, ours in zip(played, alone, strict=True):
        assert (theirs.task_id, theirs.reward, theirs.messages) == (ours.task_id, ours.reward, ours.messages)
        assert np.array_equal(theirs.sequence.tokens, ours.sequence.tokens)
        assert np.array_equal(theirs.sequence.mask, ours.sequence.mask)
        np.testing.assert_allclose(theirs.sequence.logprobs, ours.sequence.logprobs, rtol=0, atol=1e-5)
    for asking in server.asked:
        assert asking["max_tokens"] <= loop.experiment.sampling.max_new_tokens
        assert set(backend.renderer.stop_ids) == set(asking["stop_token_ids"])


def cut(prompt: Prompt) -> Prompt:
    return replace(prompt, seed=prompt.seed % 2**32)


@pytest.mark.parametrize(
    ("twist", "words"),
    [
        ({"log_probs": None}, "no log-probabilities"),
        ({"token_ids": []}, "broke off"),
        ({"stop_reason": "aborted"}, "broke off"),
    ],
)
def test_a_server_that_does_not_serve_is_named(backend: TorchBackend, twist: dict[str, Any], words: str) -> None:
    server = Server(backend)
    server.twist = twist

    async def ask() -> Any:
        sampler = ServerSampler(
            server, asyncio.get_running_loop(), backend.renderer, backend.window, {"temperature": 1.0}
        )
        return await asyncio.to_thread(sampler.sample, [Prompt([5, 6])], SamplingParams(4))

    with pytest.raises(HarnessError, match=words):
        asyncio.run(ask())
