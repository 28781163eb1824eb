"""Our environments as an agent loop of verl: an episode is played by `harness.rollout`, its tokens sampled by verl's
servers.

verl starts a loop for each episode, in one process for many of them. Environments and our rollout engine wait, verl's
servers are awaited: an episode is played in a thread of its own, which asks the event loop for every completion.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.backends.torch.models import stop_ids
from harness.backends.verl.credit import response_start
from harness.core.episodes import episode_to_row
from harness.core.errors import HarnessError, UnknownNameError
from harness.core.seeds import SeedTree
from harness.core.types import Ending, Episode
from harness.experiment import EnvironmentSettings, Experiment, read_experiment
from harness.protocols.backend import Completion, Prompt, Sampler, SamplingParams
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rendering import Renderer
from harness.rollout.rollouts import Rollouts

EPISODE = "harness_episode"
"""Where an episode stands among the extra fields of verl's row."""


class ServerSampler(Sampler):
    """Samples at verl's servers, asked from a thread that is not the event loop's.

    given: verl's sampling parameters. HarnessError for a reply without log-probabilities, or that was broken off.
    """

    def __init__(
        self, server: Any, loop: asyncio.AbstractEventLoop, renderer: Renderer, window: int, given: Mapping[str, Any]
    ) -> None:
        self.renderer, self.window = renderer, window
        self.vocabulary = len(renderer.tokenizer)
        self.steps: list[int] = []
        """verl's steps whose weights sampled."""
        self._server, self._loop, self._given = server, loop, dict(given)
        self._conversation = uuid.uuid4().hex

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """See `harness.protocols.backend.Sampler.sample`. Temperature and top-p are those of verl's configuration."""
        asked = [asyncio.run_coroutine_threadsafe(self._ask(p, params), self._loop) for p in prompts]
        return [self._completion(future.result()) for future in asked]

    async def _ask(self, prompt: Prompt, params: SamplingParams) -> Any:
        limit = params.max_new_tokens if prompt.limit is None else min(prompt.limit, params.max_new_tokens)
        sampling = self._given | {
            "logprobs": True,
            "max_tokens": min(limit, self.window - len(prompt.tokens)),
            "stop_token_ids": list(self.renderer.stop_ids),
            "seed": prompt.seed % 2**32,
        }
        if params.greedy:
            sampling |= {"temperature": 0.0, "top_p": 1.0}
        return await self._server.generate(
            request_id=self._conversation, prompt_ids=list(prompt.tokens), sampling_params=sampling
        )

    def _completion(self, reply: Any) -> Completion:
        tokens = list(reply.token_ids)
        if not tokens or reply.stop_reason == "aborted":
            raise HarnessError("verl's server broke off a completion")
        if reply.log_probs is None or len(reply.log_probs) != len(tokens):
            raise HarnessError("verl's server gave no log-probabilities: set rollout.calculate_log_probs")
        step = (reply.extra_fields or {}).get("global_steps")
        if step is not None:
            self.steps.append(int(step))
        # Rounding in the server's dtype may lift the log-probability of a certain token above 0.
        logprobs = np.minimum(np.array(reply.log_probs, dtype=np.float64), 0.0)
        return Completion(np.array(tokens, dtype=np.int64), logprobs, tokens[-1] in self.renderer.stop_ids)


class EnvironmentLoop:
    """An agent loop: `run` plays one episode. job: the job's folder; row: the label of the row that is trained; the
    rest is what verl gives every loop."""

    def __init__(self, job: str, row: str, trainer_config: Any, server_manager: Any, tokenizer: Any, **_: Any) -> None:
        self.config = trainer_config.config
        self.experiment = experiment_of(job, row)
        self.server, self.tokenizer = server_manager, tokenizer
        self.window = int(self.config.actor_rollout_ref.rollout.max_model_len)

    async def run(self, sampling_params: dict[str, Any], **item: Any) -> Any:
        """An episode as verl's `AgentLoopOutput`. HarnessError for one that the infrastructure lost: verl then drops
        its group."""
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

        loop = asyncio.get_running_loop()
        renderer = renderer_of(self.tokenizer, str(self.config.actor_rollout_ref.model.path))
        sampler = ServerSampler(self.server, loop, renderer, self.window, sampling_params)
        request = request_of(self.experiment, int(self.config.data.seed or 0), item)
        environment = self.experiment.environment
        episode = await loop.run_in_executor(_threads(environment.concurrency), self._play, sampler, request)
        return AgentLoopOutput(metrics=AgentLoopMetrics(), **row_of(episode, sampler.steps))

    def _play(self, sampler: ServerSampler, request: Request) -> Episode:
        sampling = self.experiment.sampling
        params = SamplingParams(sampling.max_new_tokens, sampling.temperature, sampling.top_p)
        rollouts = _idle_rollouts.take(self.experiment.environment)
        try:
            [episode] = rollouts.play([request], TokenPolicy(sampler, params))
        finally:
            _idle_rollouts.give(self.experiment.environment, rollouts)
        if episode.ending is Ending.ERROR:
            raise HarnessError(f"an episode on {request.task_id!r} was lost to the infrastructure: {rollouts.failures}")
        return episode


def request_of(experiment: Experiment, seed: int, item: Mapping[str, Any]) -> Request:
    """The episode that verl asks for: in training, of the run's own seeds (step, place among its tasks, sibling)."""
    place, sibling = int(item["index"]), int(item.get("session_id", 0))
    if item["training"]:
        step = place // experiment.sampling.prompts_per_step
        return Request(str(item["task"]), SeedTree(seed)["rollout", step][place, sibling])
    return Request(str(item["task"]), SeedTree(seed)["validation"][place, sibling])


def row_of(episode: Episode, steps: Sequence[int] = ()) -> dict[str, Any]:
    """The fields of verl's `AgentLoopOutput` that an episode fills. steps: of the weights that sampled it."""
    sequence = episode.sequence
    start = response_start(sequence)
    extra: dict[str, Any] = {
        EPISODE: episode_to_row(episode),
        "reward_extra_info": {"success": float(episode.success)},
    }
    if steps:
        extra |= {"min_global_steps": min(steps), "max_global_steps": max(steps)}
    return {
        "prompt_ids": sequence.tokens[:start].tolist(),
        "response_ids": sequence.tokens[start:].tolist(),
        "response_mask": sequence.mask[start:].astype(int).tolist(),
        "response_logprobs": sequence.logprobs[start:].tolist(),
        "reward_score": float(episode.reward),
        "num_turns": len(episode.messages),
        "extra_fields": extra,
    }


@lru_cache(maxsize=8)
def experiment_of(job: str, label: str) -> Experiment:
    """The experiment of a job's folder as one of its rows runs it. UnknownNameError for a row that it does not
    have."""
    experiment = read_experiment(Path(job) / "spec.toml")
    rows = {row.label: row for row in experiment.methods}
    if label not in rows:
        raise UnknownNameError("row", label, rows)
    return experiment.for_row(rows[label])


_renderers: dict[int, Renderer] = {}
_first = threading.Lock()


def renderer_of(tokenizer: Any, model: str) -> Renderer:
    """The renderer of verl's tokenizer, one for each; turns end as the model's generation configuration says."""
    from transformers import GenerationConfig

    with _first:
        if id(tokenizer) not in _renderers:
            held = SimpleNamespace(generation_config=GenerationConfig.from_pretrained(model))
            _renderers[id(tokenizer)] = Renderer(tokenizer, stop_ids(held, tokenizer))
        return _renderers[id(tokenizer)]


@lru_cache(maxsize=1)
def _threads(episodes: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(episodes, thread_name_prefix="episode")


class _IdleRollouts:
    """Rollout engines with an environment each, one for every episode in flight; used again."""

    def __init__(self) -> None:
        self._idle: list[tuple[EnvironmentSettings, Rollouts]] = []
        self._lock = threading.Lock()

    def take(self, settings: EnvironmentSettings) -> Rollouts:
        with self._lock:
            for place, (of, rollouts) in enumerate(self._idle):
                if of == settings:
                    del self._idle[place]
                    return rollouts
        return Rollouts(EnvironmentPool(settings))

    def give(self, settings: EnvironmentSettings, rollouts: Rollouts) -> None:
        with self._lock:
            self._idle.append((settings, rollouts))


_idle_rollouts = _IdleRollouts()
