"""Episodes: many conversations of one policy with its environments, played as one batch, turn by turn (or each at its
own pace, where the policy acts side by side).

    request -> reset -> opening tokens -> [sample -> step -> bridge tokens] ... -> Episode

An episode whose environment or whose policy's endpoint failed is tried once more in a fresh environment; if that
fails too, it ends with `Ending.ERROR` and reward NaN. That is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from harness.core.errors import EnvironmentFailure
from harness.core.types import Ending, Episode
from harness.rollout import replies
from harness.rollout.conversation import Conversation, Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import Acted, ActingPolicy

ATTEMPTS = 2
FailureHook = Callable[[str, EnvironmentFailure], None]


class Rollouts:
    """Plays requests in a pool of environments; `failures` counts attempts that failed, by kind."""

    def __init__(self, pool: EnvironmentPool, on_failure: FailureHook | None = None) -> None:
        self.pool = pool
        self.failures: dict[str, int] = {}
        self._on_failure = on_failure

    def play(self, requests: Sequence[Request], policy: ActingPolicy, at_once: int | None = None) -> list[Episode]:
        """One episode per request, in order. at_once: episodes in flight at most (default: the environment's
        `concurrency`)."""
        width = min(at_once or self.pool.settings.concurrency, self.pool.settings.concurrency)
        episodes: list[Episode | None] = [None] * len(requests)
        waiting = list(range(len(requests)))
        for attempt in range(ATTEMPTS):
            failed: list[int] = []
            for start in range(0, len(waiting), width):
                wave = waiting[start : start + width]
                for place, conversation in zip(
                    wave, self._play([requests[p] for p in wave], policy, attempt), strict=True
                ):
                    episodes[place] = conversation.episode()
                    if conversation.failure is not None:
                        failed.append(place)
            waiting = failed
        return [episode for episode in episodes if episode is not None]

    def _play(self, requests: Sequence[Request], policy: ActingPolicy, attempt: int) -> list[Conversation]:
        # A second attempt never meets an environment that has been used before.
        make = self.pool.take if attempt == 0 else self.pool.fresh
        conversations = [Conversation(request, None, (attempt, place)) for place, request in enumerate(requests)]
        self._begin(conversations, make, policy)
        active = [c for c in conversations if c.ending is None and c.failure is None]
        if policy.concurrency > 1:
            self._side_by_side(active, policy)
        else:
            while active:
                active = self._turn(active, policy.act(active), policy)
        for conversation in conversations:
            if conversation.environment is not None:
                self.pool.give(conversation.environment, conversation.failure is not None)
        return conversations

    def _turn(
        self, conversations: Sequence[Conversation], acted: Sequence[Acted], policy: ActingPolicy
    ) -> list[Conversation]:
        """Take these actions; the conversations that go on."""
        stepping: list[tuple[Conversation, str]] = []
        for conversation, action in zip(conversations, acted, strict=True):
            if isinstance(action, EnvironmentFailure):
                self._fail(conversation, action)
                continue
            text, cut = action
            conversation.messages.append({"role": "assistant", "content": text})
            if cut:
                conversation.ending = Ending.TOKEN_LIMIT
            else:
                stepping.append((conversation, text))
        self._step(stepping, policy)
        return [c for c, _ in stepping if c.ending is None and c.failure is None]

    def _side_by_side(self, active: Sequence[Conversation], policy: ActingPolicy) -> None:
        """Each at its own pace: actions come from threads, environments are stepped here, as soon as there is one."""
        with ThreadPoolExecutor(policy.concurrency, "conversation") as threads:
            waiting = {threads.submit(policy.act, [conversation]): conversation for conversation in active}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    acted = [future.result()[0] for future in done]
                    for conversation in self._turn([waiting.pop(future) for future in done], acted, policy):
                        waiting[threads.submit(policy.act, [conversation])] = conversation
            finally:
                threads.shutdown(wait=True, cancel_futures=True)

    def _begin(self, conversations: Sequence[Conversation], make: Callable[[], Any], policy: ActingPolicy) -> None:
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
                messages, info = replies.reset(result)
            except EnvironmentFailure as failure:
                self._fail(conversation, failure)
                continue
            conversation.messages.extend(messages)
            conversation.opened = len(messages)
            conversation.info = info
            conversation.note_state()
            policy.open(conversation)
            if policy.window is not None and len(conversation.tokens) >= policy.window:
                conversation.ending = Ending.TOKEN_LIMIT

    def _step(self, stepping: Sequence[tuple[Conversation, str]], policy: ActingPolicy) -> None:
        def call(conversation: Conversation, text: str) -> Callable[[], Any]:
            return lambda: conversation.environment.step(text)

        results = self.pool.deadlines.run([call(*pair) for pair in stepping])
        for (conversation, _), result in zip(stepping, results, strict=True):
            try:
                messages, reward, terminated, truncated, info = replies.step(result)
            except EnvironmentFailure as failure:
                self._fail(conversation, failure)
                continue
            conversation.messages.extend(messages)
            conversation.info |= info
            if terminated or truncated:
                conversation.turn += 1
                conversation.reward = reward
                conversation.ending = replies.ending(terminated, info)
            else:
                conversation.note_state()
                fits = policy.observe(conversation, messages)
                conversation.turn += 1
                if not fits:
                    conversation.ending = Ending.TOKEN_LIMIT

    def _fail(self, conversation: Conversation, failure: EnvironmentFailure) -> None:
        conversation.failure = failure
        self.failures[failure.kind] = self.failures.get(failure.kind, 0) + 1
        if self._on_failure is not None:
            self._on_failure(conversation.request.task_id, failure)
