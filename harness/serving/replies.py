"""Sampled tokens to replies in OpenAI's formats, tool calls and log-probabilities among them."""

from __future__ import annotations

import bisect
import itertools
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness.protocols.backend import Completion, ConversationRenderer
from harness.serving.requests import ChatRequest, CompletionRequest
from harness.serving.token_bytes import TokenBytes

TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
"""How models of the Hermes and Qwen families write a call."""


def reply(
    request: ChatRequest,
    prompt: Sequence[int],
    completions: Sequence[Completion],
    renderer: ConversationRenderer,
    token_bytes: TokenBytes,
) -> dict[str, Any]:
    """A chat completion. Beyond OpenAI's fields: `prompt_token_ids`, and of every choice `token_ids`, its own end of
    turn among them, and `weight_version`; the log-probabilities are those of `token_ids`."""
    choices = [_choice(number, request, done, renderer, token_bytes) for number, done in enumerate(completions)]
    sampled = sum(len(choice["token_ids"]) for choice in choices)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": _usage(len(prompt), sampled),
        "prompt_token_ids": list(prompt),
    }


def completion_reply(
    request: CompletionRequest, completions: Sequence[Completion], renderer: ConversationRenderer
) -> dict[str, Any]:
    """A completion of token ids. Beyond OpenAI's fields: `prompt_token_ids`, and of every choice `token_ids` and
    `token_logprobs`, which keep the token that ended it, and `stop_reason`, its id where it was no stop text."""
    choices = [_completion_choice(number, request, done, renderer) for number, done in enumerate(completions)]
    sampled = sum(len(choice["token_ids"]) for choice in choices)
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": _usage(len(request.prompt), sampled),
        "prompt_token_ids": list(request.prompt),
    }


def _usage(prompt: int, sampled: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def _completion_choice(
    number: int, request: CompletionRequest, done: Completion, renderer: ConversationRenderer
) -> dict[str, Any]:
    tokens, finish, reason = done.tokens.tolist(), "stop" if done.stopped else "length", None
    stops = [place for place, token in enumerate(tokens) if token in request.stop_token_ids]
    if stops:
        tokens, finish = tokens[: stops[0] + 1], "stop"
    spoken = tokens[:-1] if finish == "stop" else tokens
    if finish == "stop":
        reason = tokens[-1]
    text = renderer.decode(spoken)
    cuts = [at for at in map(text.find, request.stops) if at >= 0]
    if cuts:
        kept = _before(tokens, min(cuts), renderer)
        text, tokens, finish, reason = text[: min(cuts)], tokens[:kept], "stop", None
    logprobs = done.logprobs.tolist()[: len(tokens)]
    return {
        "index": number,
        "text": text,
        "finish_reason": finish,
        "stop_reason": reason,
        "logprobs": _legacy_logprobs(tokens, logprobs, renderer) if request.logprobs is not None else None,
        "token_ids": tokens,
        "token_logprobs": logprobs,
        "weight_version": done.version,
    }


def _legacy_logprobs(
    tokens: Sequence[int], logprobs: Sequence[float], renderer: ConversationRenderer
) -> dict[str, Any]:
    """OpenAI's object for completions; what each token adds to the text is decoded alone."""
    words = [str(renderer.tokenizer.decode([token])) for token in tokens]
    offsets = list(itertools.accumulate(map(len, words), initial=0))[:-1]
    return {"tokens": words, "token_logprobs": list(logprobs), "top_logprobs": None, "text_offset": offsets}


def _before(tokens: Sequence[int], place: int, renderer: ConversationRenderer) -> int:
    """How many tokens' text ends before a place in the text."""
    return bisect.bisect_right(range(len(tokens) + 1), place, key=lambda n: len(renderer.decode(tokens[:n]))) - 1


def _choice(
    number: int, request: ChatRequest, done: Completion, renderer: ConversationRenderer, token_bytes: TokenBytes
) -> dict[str, Any]:
    tokens, logprobs = done.tokens.tolist(), done.logprobs.tolist()
    text, finish = renderer.decode(tokens), "stop" if done.stopped else "length"
    cuts = [at for at in map(text.find, request.stops) if at >= 0]
    if cuts:
        kept = _before(tokens, min(cuts), renderer)
        text, tokens, finish = text[: min(cuts)], tokens[:kept], "stop"
    words, calls = read_calls(text) if request.offered else (text, [])
    message: dict[str, Any] = {"role": "assistant", "content": words or None if calls else words}
    if calls:
        message["tool_calls"] = [
            {"id": f"call{place:05d}", "type": "function", "function": call} for place, call in enumerate(calls)
        ]
        finish = "tool_calls"
    return {
        "index": number,
        "message": message,
        "finish_reason": finish,
        "logprobs": _logprobs(tokens, logprobs, renderer, token_bytes) if request.logprobs else None,
        "token_ids": tokens,
        "weight_version": done.version,
    }


def _logprobs(
    tokens: Sequence[int], logprobs: Sequence[float], renderer: ConversationRenderer, token_bytes: TokenBytes
) -> dict[str, Any]:
    entries = [
        {
            "token": str(renderer.tokenizer.decode([token])),
            "logprob": logprob,
            "bytes": token_bytes(token),
            "top_logprobs": [],
        }
        for token, logprob in zip(tokens, logprobs, strict=False)  # a stop may have cut the tokens
    ]
    return {"content": entries, "refusal": None}


def read_calls(text: str) -> tuple[str, list[dict[str, str]]]:
    """The words and the tool calls in a completion's text: `<tool_call>` blocks, or nothing but one JSON object with
    name and arguments.

    Text in which a call cannot be read stays text.
    """
    blocks = TOOL_CALL.findall(text)
    calls = [call for call in map(_read_call, blocks or [text]) if call is not None]
    if not calls or len(calls) < len(blocks):
        return text, []
    return TOOL_CALL.sub("", text).strip() if blocks else "", calls


def _read_call(text: str) -> dict[str, str] | None:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, Mapping):
        return None
    name, arguments = given.get("name"), given.get("arguments", given.get("parameters"))
    if not (isinstance(name, str) and isinstance(arguments, dict)):
        return None
    return {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
