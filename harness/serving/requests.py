"""What a client may ask: a chat completion, a completion of token ids, or other weights, read from a request's bytes;
and the prompts it means. No model and no network here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.core.errors import nearest
from harness.core.seeds import SeedTree
from harness.protocols.backend import Prompt, SamplingParams

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
SMALLEST_TOP_P = 1e-6
"""Stands for every smaller top_p, which single precision would round to 0: the likeliest of fewer than a million
tokens has more mass than this, so either keeps that one token."""


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


class ToolCall(BaseModel):
    """A call that the model made earlier; `arguments` is the text of a JSON object."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str = ""
    function: _Function


class Message(BaseModel):
    """One message of the conversation so far."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """The content, its parts joined."""
        return "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""


class _Format(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["text"]


class _Sampling(BaseModel):
    """What every request for completions may say. A field that is null counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    model: str
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=128)
    seed: int | None = None
    stop: str | list[str] = []
    stream: Literal[False] = False
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which a completion is cut."""
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))

    @property
    def limit(self) -> int | None:
        """Most tokens of a completion."""
        return self.max_tokens

    def params(self, most: int) -> SamplingParams:
        """How to sample; log-probabilities are those of the distribution that is sampled from, before top-p."""
        if self.temperature < COLDEST:
            return SamplingParams(most, greedy=True)
        return SamplingParams(most, self.temperature, max(self.top_p, SMALLEST_TOP_P))


class ChatRequest(_Sampling):
    """A chat completion."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: Literal[0] = 0
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["auto", "none"] = "auto"
    response_format: _Format | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens of a completion."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools the model may call."""
        return self.tools if self.tool_choice == "auto" else []


Id = Annotated[int, Field(ge=0, strict=True)]
"""A token's id."""


class CompletionRequest(_Sampling):
    """What follows a prompt of token ids."""

    prompt: list[Id] = Field(min_length=1)
    stop_token_ids: list[Id] = []
    """Tokens that end a completion besides the model's own."""
    logprobs: Literal[0, 1] | None = None
    """Whether OpenAI's object of log-probabilities is wanted; those of the sampled tokens are the ones there are."""
    echo: Literal[False] = False
    best_of: Literal[1] = 1


class WeightsRequest(BaseModel):
    """Other weights for the served model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str = Field(min_length=1)
    """A folder on this machine, as a backend's `save` leaves it."""
    weight_version: str | None = Field(default=None, min_length=1, max_length=200)
    """What replies call them from now on; the next number where it is left out."""


Asking = TypeVar("Asking", bound=_Sampling)
Given = TypeVar("Given", bound=BaseModel)


def read_request(body: bytes, served: str) -> ChatRequest:
    """A chat completion request from its bytes; see `read_for`."""
    return read_for(ChatRequest, body, served)


def read_for(kind: type[Asking], body: bytes, served: str) -> Asking:
    """A request for completions of the model called `served`. RequestError says what was given, what is allowed and
    the nearest right name."""
    request = read_as(kind, body)
    if request.model != served:
        raise RequestError(
            f"the model {request.model!r} does not exist here; this server has {served!r}",
            "model",
            "model_not_found",
            404,
        )
    return request


def read_as(kind: type[Given], body: bytes) -> Given:
    """A request from its bytes; RequestError as `read_for`."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise RequestError(f"the body must be a JSON object, got {type(given).__name__}")
    given = {key: value for key, value in given.items() if value is not None and key not in IGNORED}
    for key in given:
        if key not in kind.model_fields:
            near = nearest(key, kind.model_fields)
            raise RequestError(
                f"unknown parameter {key!r}"
                + (f"; did you mean {near!r}?" if near else " (or it is not supported here)"),
                key,
            )
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{place}: {first['msg']}; got {_shown(first['input'])}", place) from None


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, default=str)[:200]
    except RecursionError:
        return "a value nested too deeply"


def prompts_of(request: _Sampling, tokens: Sequence[int], window: int, part: str = "messages") -> list[Prompt]:
    """One prompt per choice. The first choice's random stream has the request's seed itself; without one it is drawn.

    Completions end at the window's end. RequestError (code context_length_exceeded) when the prompt leaves no room.
    """
    if len(tokens) >= window:
        raise RequestError(
            f"this model's context length is {window} tokens, and the {part} have {len(tokens)}",
            part.replace("prompt's tokens", "prompt"),
            "context_length_exceeded",
        )
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    room = window - len(tokens)
    limit = min(request.limit or room, room)
    return [
        Prompt(tokens, seed if choice == 0 else SeedTree(seed)["choice", choice].integer(), limit)
        for choice in range(request.n)
    ]
