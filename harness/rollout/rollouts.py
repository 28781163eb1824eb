"""Episodes: many conversations of one policy with its environments, played as one batch, turn by turn.

    request -> reset -> opening tokens -> [sample -> step -> bridge tokens] ... -> Episode

An episode whose environment or whose policy's endpoint failed is tried once more in a fresh environment; if that fails too, it ends with
`Ending.ERROR` and reward NaN. That is decided here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from harness.core.errors import EndpointError, EnvironmentFailure
from harness.core.seeds import SeedTree
from harness.core.types import ContextRequest, Ending, Episode, Message, TokenSequence
from harness.endpoint.client import BudgetSpentError, ContextFullError
from harness.protocols.backend import Backend, Completion, Prompt, SamplingParams
from harness.rollout import replies as answers
from harness.rollout.environments import EnvironmentPool
from harness.rollout.rendering import Renderer

ATTEMPTS = 2
FailureHook = Callable[[str, EnvironmentFailure], None]


@dataclass(frozen=True)
class Prefix:
    """The beginning of an episode of a token policy; another episode goes on from it, in the same environment, token for token."""

    said: tuple[tuple[int, ...], ...]
    """What the policy had sampled in each turn; the last turn may be unfinished."""
    seeds: SeedTree
    """Of the episode that began so: the environment is reset as it was there."""


@dataclass(frozen=True)
class Request:
    """One episode to be played."""

    task_id: str
    seeds: SeedTree
    """Everything random about this episode comes from here."""
    greedy: bool = False
    context: ContextRequest | None = None
    """A privileged context the policy reads in front of the conversation (to measure what it is worth)."""
    script: tuple[str, ...] | None = None
    """Actions to say instead of asking the policy (demonstrations, gold replay)."""
    prefix: Prefix | None = None
    """What has been said already: the policy goes on from there. These tokens count as given, not as sampled."""

    def __post_init__(self) -> None:
        if self.script is not None and self.prefix is not None:
            raise ValueError(
                f"the request for {self.task_id!r} has a script and a prefix; an episode takes one of them"
            )


@dataclass
class Conversation:
    """An episode while it is being played."""

    request: Request
    environment: Any
    key: Hashable
    tokens: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    """What a text policy counted (calls, tokens, cost); it becomes part of the metrics, of a failed episode too."""
    turn: int = 0
    reward: float = 0.0
    ending: Ending | None = None
    cut_mass: float = 0.0
    failure: EnvironmentFailure | None = None

    def add(self, tokens: Sequence[int], sampled: bool, logprobs: Sequence[float] | None = None) -> None:
        self.tokens.extend(tokens)
        self.mask.extend([sampled] * len(tokens))
        self.logprobs.extend(logprobs if logprobs is not None else [0.0] * len(tokens))
        self.turns.extend([self.turn] * len(tokens))

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens."""
        for entries in (self.tokens, self.mask, self.logprobs, self.turns):
            del entries[length:]

    def given(self) -> tuple[int, ...]:
        """What the prefix says in this turn."""
        prefix = self.request.prefix
        return prefix.said[self.turn] if prefix is not None and self.turn < len(prefix.said) else ()

    def line(self) -> str:
        """The script's action for this turn; nothing when it has run out."""
        script = self.request.script or ()
        return script[self.turn] if self.turn < len(script) else ""

    def episode(self) -> Episode:
        failed = self.failure is not None
        metrics = {} if failed else dict(self.info.get("metrics", {}))
        if self.cut_mass:
            metrics["top_p_cut_mass"] = self.cut_mass / max(self.turn, 1)
        metrics |= self.usage
        return Episode(
            task_id=self.request.task_id,
            sequence=TokenSequence(
                np.array(self.tokens, dtype=np.int64),
                np.array(self.mask, dtype=bool),
                np.array(self.logprobs, dtype=np.float64),
                np.array(self.turns, dtype=np.int64),
            ),
            reward=math.nan if failed else self.reward,
            success=not failed and bool(self.info.get("success", False)),
            ending=Ending.ERROR if failed else self.ending or Ending.COMPLETED,
            messages=tuple(self.messages),
            metrics=metrics,
            seed=self.request.seeds.integer(),
        )


Spoken = tuple[str, bool] | EnvironmentFailure
"""An agent's words and whether the window cut them off; or why its model could not be heard."""


@runtime_checkable
class Speaker(Protocol):
    """Says the agent's next words in every conversation."""

    @property
    def window(self) -> int | None:
        """Most tokens of one conversation; None where it has none."""
        ...

    def open(self, conversation: Conversation) -> None:
        """Take in the opening messages."""
        ...

    def speak(self, conversations: Sequence[Conversation]) -> Sequence[Spoken]:
        """The words, added to each conversation's tokens, and whether the window cut them off."""
        ...

    def hear(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        """Take in a reply; False when it does not fit the window any more."""
        ...


class PolicySpeaker:
    """A token policy: what it samples is kept as tokens, and each prompt extends the last."""

    def __init__(self, backend: Backend, params: SamplingParams) -> None:
        self.backend, self.params = backend, params
        self.renderer: Renderer = backend.renderer
        self.window = backend.window
        self._stops = {(stop,) for stop in self.renderer.stop_ids}
        self._stopped: dict[Hashable, bool] = {}
        self._spoken: dict[Hashable, tuple[int, list[int]]] = {}
        """Where each conversation's last completion stands, and its tokens."""

    def open(self, conversation: Conversation) -> None:
        request = conversation.request
        if request.context is not None:
            conversation.add(self.renderer.context(request.context), False)
        conversation.add(self.renderer.opening(conversation.messages, conversation.info.get("tools")), False)
        # Of an opening that leaves no room to speak, only what the model can read is kept: the episode ends here, nothing in it is sampled.
        conversation.cut(self.window)

    def speak(self, conversations: Sequence[Conversation]) -> list[tuple[str, bool]]:
        said: list[tuple[str, bool]] = [("", False)] * len(conversations)
        sampling: list[int] = []
        for place, conversation in enumerate(conversations):
            conversation.add(conversation.given(), False)
            if conversation.request.script is not None:
                said[place] = self._recite(conversation)
            elif self._turn_is_given(conversation):
                stopped = conversation.given()[-1:] in self._stops
                said[place] = self._take(conversation, Completion(np.zeros(0, np.int64), np.zeros(0), stopped))
            else:
                sampling.append(place)
        for greedy in (False, True):
            places = [place for place in sampling if conversations[place].request.greedy == greedy]
            done = self.backend.sample(
                [self._prompt(conversations[p]) for p in places], replace(self.params, greedy=greedy)
            )
            for place, completion in zip(places, done, strict=True):
                said[place] = self._take(conversations[place], completion)
        return said

    def hear(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        bridge = self.renderer.bridge(messages, self._stopped[conversation.key])
        if len(conversation.tokens) + len(bridge) >= self.window:
            return False  # nothing follows it: kept, it would only make the sequence longer than the model can read
        conversation.add(bridge, False)
        return True

    def _prompt(self, conversation: Conversation) -> Prompt:
        self._check_kept(conversation)
        seed = conversation.request.seeds["sampling", conversation.turn].integer()
        return Prompt(
            conversation.tokens, seed, self.params.max_new_tokens - len(conversation.given()), conversation.key
        )

    def _check_kept(self, conversation: Conversation) -> None:
        """The next prompt extends what was sampled, token for token: credit stands on it, so a breach stops everything."""
        if conversation.turn:
            start, tokens = self._spoken[conversation.key]
            kept = slice(start, start + len(tokens))
            if conversation.tokens[kept] != tokens or not all(conversation.mask[kept]):
                raise AssertionError(
                    f"the sampled tokens of {conversation.request.task_id!r} changed between two turns"
                )

    def _turn_is_given(self, conversation: Conversation) -> bool:
        """Whether the prefix leaves nothing of this turn to sample."""
        prefix, given = conversation.request.prefix, conversation.given()
        if prefix is None or conversation.turn >= len(prefix.said):
            return False
        at_limit = len(given) >= self.params.max_new_tokens or len(conversation.tokens) >= self.window
        return conversation.turn + 1 < len(prefix.said) or given[-1:] in self._stops or at_limit

    def _take(self, conversation: Conversation, completion: Completion) -> tuple[str, bool]:
        before = len(conversation.tokens)
        tokens = completion.tokens.tolist()
        conversation.add(tokens, True, completion.logprobs.tolist())
        self._spoken[conversation.key] = before, tokens
        conversation.cut_mass += completion.cut_mass
        self._stopped[conversation.key] = completion.stopped
        if not np.all(np.isfinite(completion.logprobs)) or np.any(completion.logprobs > 1e-6):
            raise AssertionError(
                f"sampled log-probabilities outside (-inf, 0] at token {before} of {conversation.request.task_id!r}"
            )
        full = len(conversation.tokens) >= self.window and not completion.stopped
        return self.renderer.decode([*conversation.given(), *tokens]), full

    def _recite(self, conversation: Conversation) -> tuple[str, bool]:
        """The script's next action as if it had been sampled, with log-probability 0."""
        text = conversation.line()
        tokens = [*self.renderer.encode(text), self.renderer.stop_ids[0]]
        conversation.add(tokens, True)
        self._stopped[conversation.key] = True
        return text, len(conversation.tokens) > self.window


@runtime_checkable
class TextPolicy(Protocol):
    """A policy of words: gold replay, do-nothing, an endpoint."""

    name: str

    def act(self, environment: Any, task_id: str, messages: Sequence[Message], info: dict[str, Any]) -> str:
        """The next action. `info` is the environment's, plus `turn`, `seed` (of this turn's chance), `greedy`, and `usage`: a dict of
        counts the policy may add to. An EndpointError is the infrastructure's failure and not the agent's."""
        ...


class TextSpeaker:
    """A text policy; its episodes have no tokens."""

    window: int | None = None

    def __init__(self, policy: TextPolicy | None = None) -> None:
        """Without a policy every request needs a script."""
        self.policy = policy

    def open(self, conversation: Conversation) -> None:
        """Nothing to render."""

    def speak(self, conversations: Sequence[Conversation]) -> list[Spoken]:
        return [self._words(conversation) for conversation in conversations]

    def hear(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        return True

    def _words(self, conversation: Conversation) -> Spoken:
        request = conversation.request
        if request.script is not None:
            return conversation.line(), False
        assert self.policy is not None
        info = conversation.info | {
            "turn": conversation.turn,
            "seed": request.seeds["sampling", conversation.turn].integer(),
            "greedy": request.greedy,
            "usage": conversation.usage,
        }
        try:
            return self.policy.act(
                conversation.environment.unwrapped, request.task_id, conversation.messages, info
            ), False
        except ContextFullError:
            return "", True
        except BudgetSpentError:
            raise  # the user's own limit: nothing after it can be played either
        except EndpointError as error:
            return EnvironmentFailure(f"policy {getattr(error, 'kind', 'endpoint')}", str(error))


class Rollouts:
    """Plays requests in a pool of environments; `failures` counts attempts that failed, by kind."""

    def __init__(self, pool: EnvironmentPool, on_failure: FailureHook | None = None) -> None:
        self.pool = pool
        self.failures: dict[str, int] = {}
        self._on_failure = on_failure

    def play(self, requests: Sequence[Request], speaker: Speaker, at_once: int | None = None) -> list[Episode]:
        """One episode per request, in order. at_once: episodes in flight at most (default: the environment's `concurrency`)."""
        width = min(at_once or self.pool.settings.concurrency, self.pool.settings.concurrency)
        episodes: list[Episode | None] = [None] * len(requests)
        waiting = list(range(len(requests)))
        for attempt in range(ATTEMPTS):
            failed: list[int] = []
            for start in range(0, len(waiting), width):
                wave = waiting[start : start + width]
                for place, conversation in zip(
                    wave, self._play([requests[p] for p in wave], speaker, attempt), strict=True
                ):
                    episodes[place] = conversation.episode()
                    if conversation.failure is not None:
                        failed.append(place)
            waiting = failed
        return [episode for episode in episodes if episode is not None]

    def _play(self, requests: Sequence[Request], speaker: Speaker, attempt: int) -> list[Conversation]:
        # A second attempt never meets an environment that has been used before.
        make = self.pool.take if attempt == 0 else self.pool.fresh
        conversations = [Conversation(request, None, (attempt, place)) for place, request in enumerate(requests)]
        self._begin(conversations, make, speaker)
        active = [c for c in conversations if c.ending is None and c.failure is None]
        while active:
            spoken = speaker.speak(active)
            stepping: list[tuple[Conversation, str]] = []
            for conversation, said in zip(active, spoken, strict=True):
                if isinstance(said, EnvironmentFailure):
                    self._fail(conversation, said)
                    continue
                text, cut = said
                conversation.messages.append({"role": "assistant", "content": text})
                if cut:
                    conversation.ending = Ending.TOKEN_LIMIT
                else:
                    stepping.append((conversation, text))
            self._step(stepping, speaker)
            active = [c for c, _ in stepping if c.ending is None and c.failure is None]
        for conversation in conversations:
            if conversation.environment is not None:
                self.pool.give(conversation.environment, conversation.failure is not None)
        return conversations

    def _begin(self, conversations: Sequence[Conversation], make: Callable[[], Any], speaker: Speaker) -> None:
        def reset(conversation: Conversation) -> Callable[[], Any]:
            def call() -> Any:
                conversation.environment = make()
                origin = conversation.request.prefix or conversation.request
                seed = origin.seeds["environment"].integer() % 2**32
                return conversation.environment.reset(seed=seed, options={"task_id": conversation.request.task_id})

            return call

        for conversation, result in zip(
            conversations, self.pool.deadlines.run([reset(c) for c in conversations]), strict=True
        ):
            try:
                messages, info = answers.reset(result)
            except EnvironmentFailure as failure:
                self._fail(conversation, failure)
                continue
            conversation.messages.extend(messages)
            conversation.info = info
            speaker.open(conversation)
            if speaker.window is not None and len(conversation.tokens) >= speaker.window:
                conversation.ending = Ending.TOKEN_LIMIT

    def _step(self, stepping: Sequence[tuple[Conversation, str]], speaker: Speaker) -> None:
        def call(conversation: Conversation, text: str) -> Callable[[], Any]:
            return lambda: conversation.environment.step(text)

        results = self.pool.deadlines.run([call(*pair) for pair in stepping])
        for (conversation, _), result in zip(stepping, results, strict=True):
            try:
                messages, reward, terminated, truncated, info = answers.step(result)
            except EnvironmentFailure as failure:
                self._fail(conversation, failure)
                continue
            conversation.messages.extend(messages)
            conversation.info |= info
            if terminated or truncated:
                conversation.turn += 1
                conversation.reward = reward
                conversation.ending = answers.ending(terminated, info)
            else:
                fits = speaker.hear(conversation, messages)
                conversation.turn += 1
                if not fits:
                    conversation.ending = Ending.TOKEN_LIMIT

    def _fail(self, conversation: Conversation, failure: EnvironmentFailure) -> None:
        conversation.failure = failure
        self.failures[failure.kind] = self.failures.get(failure.kind, 0) + 1
        if self._on_failure is not None:
            self._on_failure(conversation.request.task_id, failure)
