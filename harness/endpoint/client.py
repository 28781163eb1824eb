"""One client for every OpenAI-compatible model: user simulators, summarisers, policies.

    endpoint = Endpoint("some-model", cache=Path(".cache/endpoint"), max_calls=1000)
    endpoint.chat([{"role": "user", "content": "Hello"}], temperature=0.0).text

Address and key come from `OPENAI_BASE_URL` and `OPENAI_API_KEY` unless given. Every request has a deadline, is
retried with back-off where a retry can help and only there, shares a limit on concurrency, is remembered on disk by
content, and is counted against a budget that stops hard. Whatever goes wrong is an EndpointError, and no message
names the key.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.core.troubles import TROUBLES
from harness.endpoint.errors import (
    RETRYABLE,
    BudgetSpentError,
    ContextFullError,
    EndpointCallError,
    RetryableError,
)
from harness.endpoint.masking import ASIDE
from harness.endpoint.replies import Reply, read_object, read_reply

if TYPE_CHECKING:  # each costs 20 to 500 ms to import, so only where a model is asked
    from tenacity import RetryCallState

    from harness.endpoint.cache import ReplyCache
    from harness.endpoint.transport import Transport

__all__ = ["RETRYABLE", "BudgetSpentError", "ContextFullError", "Endpoint", "EndpointCallError", "Reply"]

T = TypeVar("T")
LONGEST_PAUSE_S = 60.0
"""Between two attempts, whatever the server asks for."""
_LIVE: weakref.WeakSet[Endpoint] = weakref.WeakSet()


class Endpoint:
    """A model behind an OpenAI-compatible address. Safe to share between threads; a forked copy has its own
    connections.

    timeout_s: deadline of one attempt in seconds, from the name lookup to the last byte of whatever is answered.
    attempts: requests sent for one call at most. backoff_s: pause in seconds before the first retry; it doubles, and
    a server's Retry-After is obeyed; no pause is longer than a minute. concurrency: requests under way at once.
    cache: folder of remembered replies, keyed by model and request; None remembers nothing. It may be shared by
    processes. max_calls, max_tokens_total: the budget; attempts count as calls. Tokens are known only afterwards, so
    requests that are under way when it is spent may overrun it by what they use.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float | int = 60.0,
        attempts: int = 4,
        backoff_s: float | int = 0.5,
        concurrency: int = 8,
        cache: Path | None = None,
        max_calls: int | None = None,
        max_tokens_total: int | None = None,
    ) -> None:
        if not (timeout_s > 0 and attempts >= 1 and backoff_s >= 0 and concurrency >= 1):
            raise ValueError(
                "Endpoint: timeout_s must be above 0, attempts and concurrency at least 1, backoff_s at least 0; got "
                f"timeout_s={timeout_s}, attempts={attempts}, concurrency={concurrency}, backoff_s={backoff_s}"
            )
        self.model = model
        self.calls, self.tokens = 0, 0
        self.troubles = dict.fromkeys(TROUBLES, 0)
        """Replies received that a limit or a filter cut, or that refuse; those from the cache not counted."""
        self._base_url, self._api_key = base_url, api_key
        self._timeout_s, self._attempts, self._backoff_s = timeout_s, attempts, backoff_s
        self._folder, self._max_calls, self._max_tokens = cache, max_calls, max_tokens_total
        self._concurrency = concurrency
        self._sender: Transport | None = None
        self._cache: ReplyCache | None = None
        self._renew_locks()
        _LIVE.add(self)

    def chat(self, messages: Sequence[Mapping[str, Any]], **params: Any) -> Reply:
        """The model's next message. `params` go into the request: temperature, max_tokens, seed, stop, tools, ...

        Raises EndpointCallError or BudgetSpentError, both EndpointError.
        """
        request = {"model": self.model, "messages": [dict(message) for message in messages], **params}
        _check_sendable(request)
        cache = self._opened_cache()
        key = "" if cache is None else cache.key(request)
        if cache is not None and (reply := cache.recall(key)) is not None:
            return reply
        with self._slots:
            reply = self._persist(lambda: self._attempt(request))
        if cache is not None:
            cache.remember(key, {name: entry for name, entry in request.items() if name not in ASIDE}, reply)
        return reply

    def ask(self, path: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that another resource of the server answers, e.g. "completions", or "models" without a
        request. Bounded, retried and counted as a call, as `chat` is; neither cached nor counted in tokens."""
        _check_sendable(request or {})

        def attempt() -> dict[str, Any]:
            transport = self._transport()
            self._reserve()
            return read_object(transport.send(request or {}, path), transport.mask)

        with self._slots:
            return self._persist(attempt)

    def close(self) -> None:
        """Close the connections and the cache; a later call opens new ones."""
        with self._lock:
            sender, self._sender = self._sender, None
            cache, self._cache = self._cache, None
        if sender is not None:
            sender.close()
        if cache is not None:
            cache.close()

    def _renew_locks(self) -> None:
        """New locks: those of a forked copy may be held by threads that only the original has."""
        self._slots = threading.BoundedSemaphore(self._concurrency)
        self._lock = threading.Lock()

    def _opened_cache(self) -> ReplyCache | None:
        if self._folder is None:
            return None
        from harness.endpoint.cache import ReplyCache

        with self._lock:
            if self._cache is None:
                self._cache = ReplyCache(Path(self._folder))
            return self._cache

    def _transport(self) -> Transport:
        from harness.endpoint.transport import Transport

        with self._lock:
            if self._sender is None:
                self._sender = Transport(self.model, self._base_url, self._api_key, self._timeout_s)
            return self._sender

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Attempt after attempt, until one succeeds, fails for good, or the last one failed."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        retrying = Retrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._pause_s,
            retry=retry_if_exception_type(RetryableError),
            retry_error_callback=self._give_up,
        )
        return retrying(attempt)

    def _attempt(self, request: Mapping[str, Any]) -> Reply:
        """Send once, and count what it cost."""
        transport = self._transport()
        self._reserve()
        reply = read_reply(transport.send(request), request, transport.mask.also(request))
        with self._lock:
            self.tokens += reply.prompt_tokens + reply.completion_tokens
            for trouble in reply.troubles:
                self.troubles[trouble] += 1
        return reply

    def _pause_s(self, state: RetryCallState) -> float:
        from tenacity import wait_exponential

        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, RetryableError) and failure.wait_s is not None:
            return min(failure.wait_s, LONGEST_PAUSE_S)
        return float(wait_exponential(multiplier=self._backoff_s, max=LONGEST_PAUSE_S)(state))

    def _give_up(self, state: RetryCallState) -> Any:
        failure = state.outcome.exception() if state.outcome else None
        assert isinstance(failure, RetryableError), "only these are retried"
        tried = f"(model {self.model!r}, {state.attempt_number} attempts)"
        raise EndpointCallError(failure.kind, f"{failure} {tried}", failure.status)

    def _reserve(self) -> None:
        with self._lock:
            if self._max_calls is not None and self.calls >= self._max_calls:
                raise BudgetSpentError(f"model {self.model!r}: the budget of {self._max_calls} calls is spent")
            if self._max_tokens is not None and self.tokens >= self._max_tokens:
                raise BudgetSpentError(f"model {self.model!r}: the budget of {self._max_tokens} tokens is spent")
            self.calls += 1


def _check_sendable(request: Mapping[str, Any]) -> None:
    """EndpointCallError of kind request where the request is no JSON that can be sent."""
    try:
        json.dumps(request, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        problem = "it holds half a surrogate pair, which UTF-8 cannot carry"
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"it is not JSON: {error}"
    else:
        return
    raise EndpointCallError("request", f"cannot send the request: {problem}")


def _after_fork() -> None:
    for endpoint in list(_LIVE):
        endpoint._renew_locks()


os.register_at_fork(after_in_child=_after_fork)
