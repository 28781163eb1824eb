"""Policies as the rollout engine plays them: one that samples tokens, and one that acts on messages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from harness.core.errors import EndpointError, EnvironmentFailure, HarnessError
from harness.core.types import Message
from harness.endpoint import BudgetSpentError, ContextFullError
from harness.experiment import History
from harness.protocols.backend import Completion, ConversationRenderer, Prompt, Sampler, SamplingParams
from harness.protocols.policy import TextPolicy
from harness.rollout.conversation import Conversation
from harness.rollout.environments import contract_of

Acted = tuple[str, bool] | EnvironmentFailure
"""An action and whether the window cut it off; or why the policy's model did not answer."""


@runtime_checkable
class ActingPolicy(Protocol):
    """Acts in many conversations at once: what the rollout engine plays with."""

    @property
    def window(self) -> int | None:
        """Most tokens of one conversation; None where it has none."""
        ...

    @property
    def concurrency(self) -> int:
        """Conversations in which it acts side by side, each asked about alone, in threads; at 1 it is asked about all
        at once."""
        ...

    def open(self, conversation: Conversation) -> None:
        """Take in the opening messages."""
        ...

    def act(self, conversations: Sequence[Conversation]) -> Sequence[Acted]:
        """The next action of each, its tokens added to the conversation, and whether the window cut it off."""
        ...

    def observe(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        """Take in the environment's reply; False when it does not fit the window any more."""
        ...


class TokenPolicy:
    """A token policy: what it samples is kept as tokens, and each prompt extends the last, or, with the history
    "drop-oldest", begins another piece where the window has no room for a whole completion."""

    def __init__(self, backend: Sampler, params: SamplingParams, history: History = "keep") -> None:
        self.backend, self.params, self.history = backend, params, history
        self.renderer: ConversationRenderer = backend.renderer
        self.window, self.concurrency = backend.window, backend.concurrency
        self._stops = {(stop,) for stop in self.renderer.stop_ids}
        self._stopped: dict[Hashable, bool] = {}
        self._sampled: dict[Hashable, tuple[int, list[int]]] = {}
        """Where each conversation's last completion stands, and its tokens."""

    def open(self, conversation: Conversation) -> None:
        tools, context = conversation.info.get("tools"), conversation.request.context
        conversation.add(self.renderer.opening(conversation.messages, tools, context), False)
        # Of an opening that leaves no room to speak, only what the model can read is kept: the episode ends here,
        # nothing in it is sampled.
        conversation.cut(self.window)
        conversation.front = conversation.length

    def act(self, conversations: Sequence[Conversation]) -> list[tuple[str, bool]]:
        actions: list[tuple[str, bool]] = [("", False)] * len(conversations)
        sampling: list[int] = []
        for place, conversation in enumerate(conversations):
            conversation.add(conversation.given(), False)
            if conversation.request.script is not None:
                actions[place] = self._replay(conversation)
            elif self._turn_is_given(conversation):
                stopped = conversation.given()[-1:] in self._stops
                actions[place] = self._take(conversation, Completion(np.zeros(0, np.int64), np.zeros(0), stopped))
            else:
                sampling.append(place)
        for greedy in (False, True):
            places = [place for place in sampling if conversations[place].request.greedy == greedy]
            done = self.backend.sample(
                [self._prompt(conversations[p]) for p in places], replace(self.params, greedy=greedy)
            )
            for place, completion in zip(places, done, strict=True):
                self._check_weights(completion)
                actions[place] = self._take(conversations[place], completion)
        return actions

    def observe(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        bridge = self.renderer.bridge(messages, self._stopped[conversation.key])
        if self.history == "drop-oldest":
            room = self.window - len(bridge)
            conversation.forget(room - self.params.max_new_tokens, room - 1)
        if conversation.length + len(bridge) >= self.window:
            return False  # nothing follows it: kept, it would only make the sequence longer than the model can read
        conversation.add(bridge, False)
        return True

    def _prompt(self, conversation: Conversation) -> Prompt:
        self._check_kept(conversation)
        seed = conversation.request.seeds["sampling", conversation.turn].integer()
        return Prompt(conversation.read, seed, self.params.max_new_tokens - len(conversation.given()), conversation.key)

    def _check_kept(self, conversation: Conversation) -> None:
        """The next prompt extends what was sampled, token for token: credit stands on it, so a breach stops
        everything."""
        if conversation.turn:
            start, tokens = self._sampled[conversation.key]
            kept = slice(start, start + len(tokens))
            if conversation.tokens[kept] != tokens or not all(conversation.mask[kept]):
                raise AssertionError(
                    f"the sampled tokens of {conversation.request.task_id!r} changed between two turns"
                )

    def _check_weights(self, completion: Completion) -> None:
        """What is learned from was sampled by the weights that learn."""
        current = self.backend.version
        if None not in (completion.version, current) and completion.version != current:
            raise HarnessError(
                f"a completion was sampled from version {completion.version} of the weights, the current one is "
                f"{current}: the sampler was not given the trainer's weights (Trainer.sync), or serves stale ones"
            )

    def _turn_is_given(self, conversation: Conversation) -> bool:
        """Whether the prefix leaves nothing of this turn to sample."""
        prefix, given = conversation.request.prefix, conversation.given()
        if prefix is None or conversation.turn >= len(prefix.sampled):
            return False
        at_limit = len(given) >= self.params.max_new_tokens or conversation.length >= self.window
        return conversation.turn + 1 < len(prefix.sampled) or given[-1:] in self._stops or at_limit

    def _take(self, conversation: Conversation, completion: Completion) -> tuple[str, bool]:
        before = len(conversation.tokens)
        tokens = completion.tokens.tolist()
        conversation.add(tokens, True, completion.logprobs.tolist())
        self._sampled[conversation.key] = before, tokens
        conversation.cut_mass += completion.cut_mass
        self._stopped[conversation.key] = completion.stopped
        if not np.all(np.isfinite(completion.logprobs)) or np.any(completion.logprobs > 1e-6):
            raise AssertionError(
                f"sampled log-probabilities outside (-inf, 0] at token {before} of {conversation.request.task_id!r}"
            )
        full = conversation.length >= self.window and not completion.stopped
        if not (completion.stopped or full) and len(conversation.given()) + len(tokens) >= self.params.max_new_tokens:
            conversation.truncated += 1
        return self.renderer.decode([*conversation.given(), *tokens]), full

    def _replay(self, conversation: Conversation) -> tuple[str, bool]:
        """The script's next action as if it had been sampled, with log-probability 0."""
        text = conversation.scripted()
        tokens = self.renderer.completion(text)
        conversation.add(tokens, True)
        self._stopped[conversation.key] = True
        return text, conversation.length > self.window


class MessagePolicy:
    """A text policy; its episodes have no tokens."""

    window: int | None = None
    concurrency = 1

    def __init__(self, policy: TextPolicy | None = None) -> None:
        """Without a policy every request needs a script."""
        self.policy = policy

    def open(self, conversation: Conversation) -> None:
        """Nothing to render."""

    def act(self, conversations: Sequence[Conversation]) -> list[Acted]:
        return [self._action(conversation) for conversation in conversations]

    def observe(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        return True

    def _action(self, conversation: Conversation) -> Acted:
        request = conversation.request
        if request.script is not None:
            return conversation.scripted(), False
        assert self.policy is not None
        info = conversation.info | {
            "turn": conversation.turn,
            "seed": request.seeds["sampling", conversation.turn].integer(),
            "greedy": request.greedy,
            "usage": conversation.usage,
        }
        try:
            environment = contract_of(conversation.environment, request.task_id)
            return self.policy.act(environment, request.task_id, conversation.messages, info), False
        except ContextFullError:
            return "", True
        except BudgetSpentError:
            raise  # the user's own limit: nothing after it can be played either
        except EndpointError as error:
            return EnvironmentFailure(f"policy {getattr(error, 'kind', 'endpoint')}", str(error))
