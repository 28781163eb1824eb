"""A model at an OpenAI-compatible endpoint as a policy, with native tool calls.

To the environment, observations and actions stay text.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from harness.endpoint import ASIDE, ContextFullError, Endpoint, EndpointCallError, Reply
from harness.types import Message

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What the protocol allows as a tool's name; a call of anything else, which servers refuse to read, is sent back as
the text it was."""


class EndpointPolicy:
    """Asks a model for every action. Safe to share between threads.

    A tool call of the model's becomes the action text `{"name": ..., "arguments": ...}`, the arguments exactly as the
    model wrote them: what is wrong with them is for the environment to report. Of several calls in one reply the
    first is the action (one is asked for). Text beside a call is no part of the action, and stays in what the model
    reads of the conversation later. Replies that the limit of tokens cut, that a filter cut or that refuse are counted
    (`truncated`, `filtered`, `refused`). Raises EndpointError when the endpoint fails, which is never the agent's
    fault.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        temperature: float | int = 1.0,
        max_tokens: int = 1024,
        params: Mapping[str, Any] | None = None,
        prices: Sequence[float | int] | None = None,
        concurrency: int = 8,
        timeout_s: float | int = 120.0,
        attempts: int = 4,
        cache: str | Path | None = None,
        max_calls: int | None = None,
        max_tokens_total: int | None = None,
    ) -> None:
        """The address defaults to OPENAI_BASE_URL; the key comes from OPENAI_API_KEY, and an address without one is
        asked without one.

        max_tokens: per action. params: further entries of every request; one that is None takes an entry out, e.g.
        {"max_tokens": None, "max_completion_tokens": 512}. prices: US dollars per million prompt and per million
        completion tokens. concurrency: requests under way at once. The rest: see `harness.endpoint.Endpoint`.

        Raises ValueError for prices that are not two numbers, and when neither an address nor a key says where the
        model is.
        """
        if prices is not None and (len(prices) != 2 or min(prices) < 0):
            raise ValueError(
                f"prices are two numbers, dollars per million prompt and completion tokens; got {prices!r}"
            )
        address, key = base_url or os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
        if not (address or key):
            raise ValueError(
                f"where is the model {model!r}? Set OPENAI_BASE_URL (e.g. http://127.0.0.1:8000/v1, what "
                "`harness serve` prints), OPENAI_API_KEY, or both"
            )
        self.name, self.concurrency = f"endpoint:{model}", concurrency
        self._fixed = {"temperature": temperature, "max_tokens": max_tokens}
        self._params, self._prices = dict(params or {}), tuple(prices or ())
        asked = self._fixed | {name: value for name, value in self._params.items() if name not in ASIDE}
        self.version = json.dumps({"model": model, **asked}, sort_keys=True)
        """What changes the answers; where they come from and what they cost does not, and keys are not told."""
        self._endpoint = Endpoint(
            model,
            base_url=base_url,
            api_key=key or "none",
            timeout_s=timeout_s,
            attempts=attempts,
            concurrency=concurrency,
            cache=None if cache is None else Path(cache),
            max_calls=max_calls,
            max_tokens_total=max_tokens_total,
        )
        self._beside: WeakKeyDictionary[Any, dict[int, tuple[str, str]]] = WeakKeyDictionary()
        self._spent: dict[str, float] = {}
        self._lock = threading.Lock()

    def act(self, environment: Any, task_id: str, messages: Sequence[Message], info: dict[str, Any]) -> str:
        """The next action; see `action_of` for replies that hold none. `info["usage"]` is added to."""
        request = {**self._fixed, "seed": info["seed"] % 2**31}
        if info.get("greedy"):
            request["temperature"] = 0.0
        if info.get("tools"):
            request |= {"tools": info["tools"], "parallel_tool_calls": False}
        request = {key: value for key, value in (request | self._params).items() if value is not None}
        beside = self._texts_beside(environment, begins=info.get("turn", 0) == 0)
        reply = self._endpoint.chat(as_chat(messages, beside), **request)
        self._count(reply, info["usage"])
        action = action_of(reply)
        beside[len(messages)] = (action, reply.text if reply.tool_calls else "")
        return action

    def spent(self) -> dict[str, float]:
        """Calls answered, tokens and dollars so far, of lost episodes too; what came from the cache cost nothing and
        is left out."""
        with self._lock:
            return dict(self._spent)

    def _texts_beside(self, environment: Any, begins: bool) -> dict[int, tuple[str, str]]:
        """By its place among the messages: an action of the episode under way, and the text that stood beside its
        call."""
        with self._lock:
            try:
                if begins:
                    self._beside.pop(environment, None)
                return self._beside.setdefault(environment, {})
            except TypeError:  # an environment that cannot be hashed or referred to weakly
                return {}

    def _count(self, reply: Reply, usage: dict[str, float]) -> None:
        fresh = not reply.cached
        counts = {
            "model_calls": 1.0,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        if self._prices:
            tokens = (reply.prompt_tokens, reply.completion_tokens)
            counts["cost_usd"] = fresh * sum(n * price for n, price in zip(tokens, self._prices, strict=True)) / 1e6
        counts |= dict.fromkeys(reply.troubles, 1.0)
        with self._lock:
            for name, count in counts.items():
                usage[name] = usage.get(name, 0.0) + count
                self._spent[name] = self._spent.get(name, 0.0) + fresh * count


def action_of(reply: Reply) -> str:
    """The action a reply means: its first tool call, its text, or the words of its refusal.

    A reply without any of them is an empty action, unless the limit of tokens was reached before there was a word:
    ContextFullError. What is left of a reply that the provider's filter has cut is not what the model wanted to do:
    EndpointCallError of kind filter.
    """
    if not reply.tool_calls:
        words = reply.text or reply.refusal or ""
        if "filtered" in reply.troubles:
            raise EndpointCallError("filter", "the provider's filter withheld the reply, or the rest of it")
        if not words and "truncated" in reply.troubles:
            raise ContextFullError("length", "the limit of tokens was reached before the model wrote an action")
        return words
    call = reply.tool_calls[0]
    return f'{{"name": {json.dumps(call["name"])}, "arguments": {call["arguments"].strip() or "{}"}}}'


def as_chat(messages: Sequence[Message], beside: Mapping[int, tuple[str, str]] | None = None) -> list[dict[str, Any]]:
    """The conversation in the form the protocol wants: an action that was a tool call, and was answered by a tool, is
    one again, with the text that stood `beside` it (by place: the action and that text).

    An answer to an action that could not be read as a call has no call to belong to: it goes to the model as the
    user's.
    """
    chat: list[dict[str, Any]] = []
    called = None
    for place, message in enumerate(messages):
        role, content = message["role"], _sendable(message["content"])
        answered = place + 1 < len(messages) and messages[place + 1]["role"] == "tool"
        call = _call(content) if role == "assistant" and answered else None
        if call is not None:
            called = f"call{place:05d}"
            action, text = (beside or {}).get(place, ("", ""))
            chat.append(
                {
                    "role": "assistant",
                    "content": _sendable(text) if text and action == message["content"] else None,
                    "tool_calls": [{"id": called, "type": "function", "function": call}],
                }
            )
        elif role == "tool" and called is not None:
            chat.append({"role": "tool", "tool_call_id": called, "content": content})
            called = None
        else:
            chat.append({"role": "user" if role == "tool" else role, "content": content})
    return chat


def _call(action: str) -> dict[str, str] | None:
    try:
        given = json.loads(action)
        name, arguments = given["name"], given["arguments"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    if not (isinstance(name, str) and TOOL_NAME.fullmatch(name) and isinstance(arguments, dict)):
        return None
    return {"name": name, "arguments": _sendable(json.dumps(arguments, ensure_ascii=False))}


def _sendable(text: str) -> str:
    """Half a surrogate pair, which a model's JSON can carry, cannot be sent back."""
    return text.encode("utf-8", "replace").decode()
