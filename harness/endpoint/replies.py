"""A chat completion read from the bytes of a server's reply; nothing that a server claims is taken on trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.core.troubles import TROUBLES, Trouble
from harness.endpoint.errors import EndpointCallError
from harness.endpoint.masking import Masker

MOST_TOKENS = 100_000_000
"""Tokens of one reply above which a server's count is nonsense."""
CHARACTERS_PER_TOKEN = 4
"""Of English text, about; for servers that count no tokens."""
LONGEST_TOKEN = 128
"""Characters of a token at most, about (a run of blanks): a count that would need longer ones is nonsense, and is not
what is taken off a budget."""


@dataclass(frozen=True)
class Reply:
    """What the model wrote. Token counts are the server's own; where it reports none, four characters count as one."""

    text: str
    """Text beside a tool call is kept here, too."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Entries {"name": str, "arguments": str}."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    """Answered from disk: nothing was sent or spent."""
    finish_reason: str = ""
    """Why the completion ended, in the server's word: stop, length (cut by a limit of tokens), content_filter (cut by
    the provider), tool_calls; empty where the server gives none."""
    refusal: str | None = None
    """The model's words where it refuses to answer and says so in a field of their own."""

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What keeps this reply from being all that the model wanted to say; of most replies nothing."""
        found = {
            "truncated": self.finish_reason == "length",
            "filtered": self.finish_reason == "content_filter",
            "refused": self.refusal is not None,
        }
        return tuple(trouble for trouble in TROUBLES if found[trouble])


def read_reply(received: bytes, request: Mapping[str, Any], mask: Masker) -> Reply:
    """A Reply from the bytes of a chat completion; EndpointCallError of kind garbage when they are none.

    A count of tokens must be a whole number from 0 to MOST_TOKENS, and a completion counts at least a token per
    LONGEST_TOKEN characters, so that no server can give budget back.
    """
    body = read_object(received, mask)
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal") or None
        finish = choice.get("finish_reason") or ""
        calls = tuple(_call(call["function"]) for call in message.get("tool_calls") or ())
        usage = body.get("usage") or {}
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
        raise _garbage("no chat completion", received, mask) from None
    for name, value in (("content", text), ("refusal", refusal or ""), ("finish_reason", finish)):
        if not isinstance(value, str):
            raise _garbage(f"the {name} is not text", received, mask)
    return Reply(
        _own(text, mask),
        tuple({name: _own(value, mask) for name, value in call.items()} for call in calls),
        _tokens("prompt_tokens", prompt, len(json.dumps(request["messages"]))),
        max(_tokens("completion_tokens", completion, len(text)), len(text) // LONGEST_TOKEN),
        finish_reason=_own(finish, mask),
        refusal=None if refusal is None else _own(refusal, mask),
    )


def read_object(received: bytes, mask: Masker) -> dict[str, Any]:
    """The JSON object of a reply; EndpointCallError of kind garbage where it is none."""
    try:
        body = json.loads(received)
    except (ValueError, RecursionError):
        raise _garbage("not JSON", received, mask) from None
    if not isinstance(body, dict):
        raise _garbage("not a JSON object", received, mask)
    return body


def _own(text: str, mask: Masker) -> str:
    """The model's words: without the endpoint's secrets, and without halves of surrogate pairs, which no tokenizer and
    no further request can carry."""
    return mask.words(text.encode("utf-8", "replace").decode())


def _call(function: Mapping[str, Any]) -> dict[str, str]:
    """One tool call. Some servers send its arguments as an object in place of the object's text."""
    name, arguments = function["name"], function["arguments"]
    return {"name": str(name), "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}


def _tokens(name: str, count: Any, characters: int) -> int:
    """A server's count of tokens, or an estimate from the characters where it gives none."""
    if count is None or count == 0:
        return characters // CHARACTERS_PER_TOKEN
    number = type(count) is int or (type(count) is float and count.is_integer())
    if not (number and 0 <= count <= MOST_TOKENS):
        raise EndpointCallError(
            "garbage", f"usage: {name} must be a whole number from 0 to {MOST_TOKENS}, got {str(count)[:40]!r}"
        )
    return int(count)


def _garbage(what: str, received: bytes, mask: Masker) -> EndpointCallError:
    return EndpointCallError("garbage", f"{what}: {mask.excerpt(received.decode('utf-8', 'replace'))!r}")
