"""Chat completions in OpenAI's format: a request's JSON to prompt tokens, and sampled tokens to a reply's JSON. No model and no network here."""

from __future__ import annotations

import bisect
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.errors import nearest
from harness.core.seeds import SeedTree
from harness.protocols.backend import Completion, Prompt, SamplingParams
from harness.rollout.rendering import Renderer

COLDEST = 1e-3
"""Temperatures below it, 0 among them, mean the likeliest token."""
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "return_token_ids",
    "safety_identifier",
    "prompt_cache_key",
)
"""What clients send that changes nothing here."""
TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
"""How models of the Hermes and Qwen families write a call."""
PROBE = {
    "type": "function",
    "function": {"name": "probe_of_template", "description": "", "parameters": {"type": "object", "properties": {}}},
}


class RequestError(Exception):
    """A request that cannot be served; becomes OpenAI's error object."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["text"]
    text: str


class _Function(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    name: str
    arguments: str = "{}"


class _Call(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str = ""
    function: _Function


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        return "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""


class _Format(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["text"]


class ChatRequest(BaseModel):
    """What a client may ask. A field that is null counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str
    messages: list[_Message] = Field(min_length=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=128)
    seed: int | None = None
    stop: str | list[str] = []
    logprobs: bool = False
    top_logprobs: Literal[0] = 0
    stream: Literal[False] = False
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["auto", "none"] = "auto"
    response_format: _Format | None = None
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))

    @property
    def limit(self) -> int | None:
        """Most tokens of a completion."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools the model may call."""
        return self.tools if self.tool_choice == "auto" else []

    def params(self, most: int) -> SamplingParams:
        """How to sample; log-probabilities are those of the distribution that is sampled from, before top-p."""
        if self.temperature < COLDEST:
            return SamplingParams(most, greedy=True)
        return SamplingParams(most, self.temperature, self.top_p)


def read_request(body: bytes, served: str) -> ChatRequest:
    """A request from its bytes. RequestError says what was given, what is allowed and the nearest right name."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise RequestError(f"the body must be a JSON object, got {type(given).__name__}")
    given = {key: value for key, value in given.items() if value is not None and key not in IGNORED}
    for key in given:
        if key not in ChatRequest.model_fields:
            near = nearest(key, ChatRequest.model_fields)
            raise RequestError(
                f"unknown parameter {key!r}"
                + (f"; did you mean {near!r}?" if near else " (or it is not supported here)"),
                key,
            )
    try:
        request = ChatRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        value = json.dumps(first["input"], default=str)[:200]
        raise RequestError(f"{place}: {first['msg']}; got {value}", place) from None
    if request.model != served:
        raise RequestError(
            f"the model {request.model!r} does not exist here; this server has {served!r}",
            "model",
            "model_not_found",
            404,
        )
    return request


class ChatTemplate:
    """A model's own chat template, asked once what it can show."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        asked = {"role": "user", "content": "?"}
        called = {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call00000", "type": "function", "function": {"name": "probe_of_template", "arguments": {}}}
            ],
        }
        self.shows_tools = self._shows([asked], [PROBE])
        self.shows_calls = self._shows(
            [asked, called, {"role": "tool", "content": "?", "tool_call_id": "call00000", "name": "probe_of_template"}],
            None,
        )

    def tokens(self, request: ChatRequest) -> tuple[int, ...]:
        """The prompt, up to where the model speaks. Tools are passed on where the template shows them; a past tool call of a model whose
        template does not show calls reads as the JSON text it came from."""
        messages = [self._plain(message) for message in request.messages]
        try:
            text = self._render(messages, request.offered if self.shows_tools else None)
        except Exception as error:  # templates raise what they like, e.g. for roles that do not alternate
            raise RequestError(
                f"the model's chat template does not take these messages: {error}", "messages"
            ) from error
        return self.renderer.encode(text)

    def _plain(self, message: _Message) -> dict[str, Any]:
        role = "system" if message.role == "developer" else message.role
        plain: dict[str, Any] = {"role": role, "content": message.text()}
        calls = [{"name": call.function.name, "arguments": _arguments(call)} for call in message.tool_calls or ()]
        if calls and self.shows_calls:
            pairs = zip(message.tool_calls or (), calls, strict=True)
            plain["tool_calls"] = [
                {"id": call.id, "type": "function", "function": function} for call, function in pairs
            ]
        elif calls:
            plain["content"] = "\n".join(
                filter(None, [plain["content"], *(json.dumps(call, ensure_ascii=False) for call in calls)])
            )
        if message.tool_call_id is not None and self.shows_calls:
            plain["tool_call_id"] = message.tool_call_id
        return plain

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        return str(
            self.renderer.tokenizer.apply_chat_template(
                messages, tools=tools or None, add_generation_prompt=True, tokenize=False
            )
        )

    def _shows(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> bool:
        try:
            return "probe_of_template" in self._render(messages, tools)
        except Exception:
            return False


def _arguments(call: _Call) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise RequestError(
            f"tool_calls: arguments must be the text of a JSON object, got {call.function.arguments[:200]!r}",
            "messages",
        )
    return arguments


def prompts_of(request: ChatRequest, tokens: tuple[int, ...], window: int) -> list[Prompt]:
    """One prompt per choice. The first choice's stream of chance is the request's seed itself; without one it is drawn.

    Completions end at the window's end. RequestError (code context_length_exceeded) when the prompt leaves no room.
    """
    if len(tokens) >= window:
        raise RequestError(
            f"this model's context length is {window} tokens, and the messages have {len(tokens)}",
            "messages",
            "context_length_exceeded",
        )
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    room = window - len(tokens)
    limit = min(request.limit or room, room)
    return [
        Prompt(tokens, seed if choice == 0 else SeedTree(seed)["choice", choice].integer(), limit)
        for choice in range(request.n)
    ]


def reply(
    request: ChatRequest, prompt: Sequence[int], completions: Sequence[Completion], renderer: Renderer
) -> dict[str, Any]:
    """A chat completion. Beyond OpenAI's fields: `prompt_token_ids`, and `token_ids` of every choice (its own end of turn among them)."""
    choices = [_choice(number, request, done, renderer) for number, done in enumerate(completions)]
    spoken = sum(len(choice["token_ids"]) for choice in choices)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": {"prompt_tokens": len(prompt), "completion_tokens": spoken, "total_tokens": len(prompt) + spoken},
        "prompt_token_ids": list(prompt),
    }


def _choice(number: int, request: ChatRequest, done: Completion, renderer: Renderer) -> dict[str, Any]:
    tokens, logprobs = done.tokens.tolist(), done.logprobs.tolist()
    text, finish = renderer.decode(tokens), "stop" if done.stopped else "length"
    cuts = [at for at in map(text.find, request.stops) if at >= 0]
    if cuts:
        # Kept are the tokens whose text ends before the stop begins.
        kept = (
            bisect.bisect_right(range(len(tokens) + 1), min(cuts), key=lambda n: len(renderer.decode(tokens[:n]))) - 1
        )
        text, tokens, finish = text[: min(cuts)], tokens[:kept], "stop"
    words, calls = read_calls(text) if request.offered else (text, [])
    message: dict[str, Any] = {"role": "assistant", "content": words or None if calls else words}
    if calls:
        message["tool_calls"] = [
            {"id": f"call{place:05d}", "type": "function", "function": call} for place, call in enumerate(calls)
        ]
        finish = "tool_calls"
    said = [
        {"token": str(renderer.tokenizer.decode([token])), "logprob": logprob, "bytes": None, "top_logprobs": []}
        for token, logprob in zip(tokens, logprobs, strict=False)
    ]
    return {
        "index": number,
        "message": message,
        "finish_reason": finish,
        "logprobs": {"content": said, "refusal": None} if request.logprobs else None,
        "token_ids": tokens,
    }


def read_calls(text: str) -> tuple[str, list[dict[str, str]]]:
    """The words and the tool calls in what a model said: `<tool_call>` blocks, or nothing but one JSON object with name and arguments.

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
