"""One client for every OpenAI-compatible model: user simulators, summarisers, policies.

    endpoint = Endpoint("some-model", cache=Path(".cache/endpoint"), max_calls=1000)
    endpoint.chat([{"role": "user", "content": "Hello"}], temperature=0.0).text

Address and key come from `OPENAI_BASE_URL` and `OPENAI_API_KEY` unless given. Every request has a deadline, is retried with
back-off where a retry can help and only there, shares a limit on concurrency, is remembered on disk by content, and is counted
against a budget that stops hard. Whatever goes wrong is an EndpointError.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import EndpointError

if TYPE_CHECKING:
    from openai import OpenAI

RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
TOO_LONG = re.compile(r"context[ _](?:length|size|window)|prompt is too long", re.I)
"""How servers say that a request does not fit the window."""
LARGEST_REPLY = 32 * 1024 * 1024
"""Bytes of a reply read before the server is held to be broken."""


class EndpointCallError(EndpointError):
    """A call that failed for good.

    `kind` is timeout, connection, status or garbage; `status` the HTTP status, where there is one.
    """

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.status = kind, status


class ContextFullError(EndpointCallError):
    """The conversation does not fit the model's window: nothing is broken, and no retry can help."""


class BudgetSpentError(EndpointError):
    """The budget of calls or tokens is spent; no request was sent."""


@dataclass(frozen=True)
class Reply:
    """What the model said. Token counts are the server's own; where it reports none, four characters count as one."""

    text: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Entries {"name": str, "arguments": str}."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    """Answered from disk: nothing was sent or spent."""


class Endpoint:
    """A model behind an OpenAI-compatible address. Safe to share between threads.

    timeout_s: deadline of one attempt, first byte to last. attempts: requests sent for one call at most.
    backoff_s: pause before the first retry; it doubles, and a server's Retry-After (up to a minute) is obeyed.
    cache: folder of remembered replies, keyed by model and request; None remembers nothing.
    max_calls, max_tokens_total: the budget; attempts count as calls. Tokens are known only afterwards, so requests that
    are under way when it is spent may overrun it by what they use.
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
        if timeout_s <= 0 or attempts < 1 or backoff_s < 0 or concurrency < 1:
            raise ValueError(
                "Endpoint: timeout_s must be above 0, attempts and concurrency at least 1, backoff_s at least 0; got "
                f"timeout_s={timeout_s}, attempts={attempts}, concurrency={concurrency}, backoff_s={backoff_s}"
            )
        self.model = model
        self.calls, self.tokens = 0, 0
        self._base_url, self._api_key = base_url, api_key
        self._timeout_s, self._attempts, self._backoff_s = timeout_s, attempts, backoff_s
        self._cache, self._max_calls, self._max_tokens = cache, max_calls, max_tokens_total
        self._slots = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._opened: OpenAI | None = None

    def chat(self, messages: Sequence[Mapping[str, Any]], **params: Any) -> Reply:
        """The model's next message. `params` go into the request: temperature, max_tokens, seed, stop, tools, ...

        Raises EndpointCallError or BudgetSpentError, both EndpointError.
        """
        request = {"model": self.model, "messages": [dict(message) for message in messages], **params}
        kept = self._kept_at(request)
        if kept is not None and (reply := _recall(kept)) is not None:
            return reply
        with self._slots:
            reply = self._persist(request)
        if kept is not None:
            _remember(kept, request, reply)
        return reply

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _kept_at(self, request: Mapping[str, Any]) -> Path | None:
        if self._cache is None:
            return None
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self._cache / key[:2] / f"{key}.json"

    def _persist(self, request: dict[str, Any]) -> Reply:
        """Attempt after attempt, until one succeeds, fails for good, or the last one failed."""
        pause = self._backoff_s
        for attempt in range(1, self._attempts + 1):
            self._reserve()
            try:
                return self._spend(self._attempt(request), request)
            except _RetryableError as error:
                if attempt == self._attempts:
                    raise EndpointCallError(
                        error.kind, f"{error} (model {self.model!r}, {attempt} attempts)", error.status
                    ) from error.__cause__
                time.sleep(min(error.wait_s, 60.0) if error.wait_s is not None else pause)
                pause *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _reserve(self) -> None:
        with self._lock:
            if self._max_calls is not None and self.calls >= self._max_calls:
                raise BudgetSpentError(f"model {self.model!r}: the budget of {self._max_calls} calls is spent")
            if self._max_tokens is not None and self.tokens >= self._max_tokens:
                raise BudgetSpentError(f"model {self.model!r}: the budget of {self._max_tokens} tokens is spent")
            self.calls += 1

    def _spend(self, body: Mapping[str, Any], request: Mapping[str, Any]) -> Reply:
        reply = _read(body, request)
        with self._lock:
            self.tokens += reply.prompt_tokens + reply.completion_tokens
        return reply

    def _client(self) -> OpenAI:
        import openai  # costs half a second, so only where a model is spoken to

        with self._lock:
            if self._opened is None:
                try:
                    self._opened = openai.OpenAI(
                        base_url=self._base_url, api_key=self._api_key, timeout=self._timeout_s, max_retries=0
                    )
                except openai.OpenAIError as error:
                    raise EndpointCallError("connection", f"no client for model {self.model!r}: {error}") from error
            return self._opened

    def _attempt(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """Send once; the reply's JSON. Read piece by piece, because a timeout between bytes is no deadline."""
        import httpx2  # what openai speaks through; its errors come through bare while a body is read
        import openai

        client = self._client()
        deadline = time.monotonic() + self._timeout_s
        try:
            with client.chat.completions.with_streaming_response.create(**request) as response:
                received = bytearray()
                for piece in response.iter_bytes():
                    received += piece
                    if time.monotonic() > deadline:
                        raise httpx2.ReadTimeout("deadline")
                    if len(received) > LARGEST_REPLY:
                        raise EndpointCallError("garbage", f"a reply of more than {LARGEST_REPLY} bytes")
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            raise _RetryableError("timeout", f"no complete reply within {self._timeout_s:g} s") from error
        except openai.APIStatusError as error:
            said = f"HTTP {error.status_code}: {str(error)[:300]}"
            if error.status_code in RETRYABLE:
                wait_s = _retry_after(error.response.headers)
                raise _RetryableError("status", said, error.status_code, wait_s) from error
            kind = ContextFullError if TOO_LONG.search(f"{error.code} {error}") else EndpointCallError
            raise kind("status", said, error.status_code) from error
        except openai.APIConnectionError as error:
            said = f"cannot reach {client.base_url}: {error.__cause__ or error}"
            raise _RetryableError("connection", said) from error
        except (OSError, httpx2.RequestError) as error:
            raise _RetryableError("connection", f"the connection broke: {error}") from error
        except openai.OpenAIError as error:
            raise EndpointCallError("garbage", str(error)[:300]) from error
        try:
            body = json.loads(received)
        except (ValueError, RecursionError) as error:
            raise EndpointCallError("garbage", f"not JSON: {bytes(received[:200])!r}") from error
        if not isinstance(body, dict):
            raise EndpointCallError("garbage", f"not a JSON object: {bytes(received[:200])!r}")
        return body


class _RetryableError(Exception):
    """An attempt that may succeed if repeated."""

    def __init__(self, kind: str, message: str, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.status, self.wait_s = kind, status, wait_s


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(float(headers["retry-after"]), 0.0)
    except (KeyError, ValueError):
        return None


def _read(body: Mapping[str, Any], request: Mapping[str, Any]) -> Reply:
    """A Reply from the JSON of a chat completion; EndpointCallError of kind garbage when it is none."""
    try:
        message = body["choices"][0]["message"]
        text = message.get("content") or ""
        called = tuple(
            {"name": str(call["function"]["name"]), "arguments": str(call["function"]["arguments"])}
            for call in message.get("tool_calls") or ()
        )
        usage = body.get("usage") or {}
        prompt = int(usage.get("prompt_tokens") or len(json.dumps(request["messages"])) // 4)
        completion = int(usage.get("completion_tokens") or len(str(text)) // 4)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise EndpointCallError("garbage", f"no chat completion: {json.dumps(body)[:300]}") from error
    if not isinstance(text, str):
        raise EndpointCallError("garbage", f"the content is not text: {json.dumps(text)[:300]}")
    return Reply(text, called, prompt, completion)


def _recall(kept: Path) -> Reply | None:
    """A remembered reply; None when there is none or the file is damaged, so that the question is asked again."""
    try:
        stored = json.loads(kept.read_text(encoding="utf-8"))["reply"]
        return Reply(
            stored["text"],
            tuple(stored["tool_calls"]),
            stored["prompt_tokens"],
            stored["completion_tokens"],
            cached=True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(kept: Path, request: Mapping[str, Any], reply: Reply) -> None:
    """Write whole or not at all: another process may be reading."""
    stored = {
        "request": request,
        "reply": {
            "text": reply.text,
            "tool_calls": reply.tool_calls,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        },
    }
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=kept.parent, delete=False) as file:
            json.dump(stored, file, sort_keys=True)
        os.replace(file.name, kept)
    except OSError as error:
        raise EndpointError(f"cannot write the cache file {kept}: {error}") from error
