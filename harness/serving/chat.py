"""One model behind requests: from a request's bytes to a reply's JSON, the computing left to a batcher."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.vocabulary import vocabulary_hash, vocabulary_in
from harness.protocols.backend import Backend, Completion, Prompt
from harness.serving.batcher import Batcher
from harness.serving.replies import completion_reply, reply
from harness.serving.requests import (
    ChatRequest,
    CompletionRequest,
    RequestError,
    WeightsRequest,
    prompts_of,
    read_as,
    read_for,
    read_request,
)
from harness.serving.template import ChatTemplate
from harness.serving.token_bytes import TokenBytes


@dataclass(frozen=True)
class Asked:
    """A request that can be served."""

    request: ChatRequest | CompletionRequest
    tokens: tuple[int, ...]
    prompts: list[Prompt]


class ChatService:
    """Answers requests for the model that is called `name`. Safe to share between threads."""

    def __init__(self, backend: Backend, name: str, batch: int, loaded: Path | None = None) -> None:
        """loaded: the folder the backend's weights came from."""
        self.backend, self.name = backend, name
        self.template = ChatTemplate(backend.renderer)
        self.batcher = Batcher(backend, batch, loaded)
        self._token_bytes = TokenBytes(backend.renderer.tokenizer)
        self._vocabulary = vocabulary_hash(backend.renderer.tokenizer.get_vocab())

    def read_ids(self, body: bytes) -> Asked:
        """A request for a completion of token ids. RequestError where it cannot be served."""
        request = read_for(CompletionRequest, body, self.name)
        highest, most = max(*request.prompt, *request.stop_token_ids, 0), self.backend.vocabulary
        if highest >= most:
            raise RequestError(f"token ids go from 0 to {most - 1}, got {highest}", "prompt")
        prompts = prompts_of(request, request.prompt, self.backend.window, "prompt's tokens")
        return Asked(request, tuple(request.prompt), prompts)

    def load(self, body: bytes) -> Future[str]:
        """Begin to load other weights; their version to come. RequestError where it is seen that they do not fit."""
        asked = read_as(WeightsRequest, body)
        folder = Path(asked.path)
        if not (folder / "config.json").is_file():
            raise RequestError(f"{asked.path[:200]!r} is no model directory on this machine", "path")
        tokens = vocabulary_in(folder)
        if tokens is not None and vocabulary_hash(tokens) != self._vocabulary:
            raise RequestError(f"the tokenizer in {asked.path[:200]!r} is another than the served model's", "path")
        try:
            return self.batcher.load(folder, asked.weight_version)
        except RuntimeError as error:
            raise RequestError(str(error), status=503) from None

    def read(self, body: bytes) -> Asked:
        """A request from its bytes. RequestError where it cannot be served."""
        request = read_request(body, self.name)
        tokens = self.template.tokens(request)
        return Asked(request, tokens, prompts_of(request, tokens, self.backend.window))

    def start(self, asked: Asked) -> Future[list[Completion]]:
        """Hand the prompts to the batcher; RequestError (503) when it is closed. Cancel the future to drop the work."""
        try:
            return self.batcher.submit(asked.prompts, asked.request.params(0))
        except RuntimeError as error:
            raise RequestError(str(error), status=503) from None

    def reply(self, asked: Asked, completions: Sequence[Completion]) -> dict[str, Any]:
        """The reply to a request whose completions have been computed."""
        if isinstance(asked.request, CompletionRequest):
            return completion_reply(asked.request, completions, self.backend.renderer)
        return reply(asked.request, asked.tokens, completions, self.backend.renderer, self._token_bytes)

    def answer(self, body: bytes) -> dict[str, Any]:
        """`read`, `start`, wait and `reply` in one."""
        asked = self.read(body)
        try:
            completions = self.start(asked).result()
        except RequestError:
            raise
        except Exception as error:
            raise model_failed(error) from error
        return self.reply(asked, completions)

    def models(self) -> dict[str, Any]:
        """The list of models: this one. Beyond OpenAI's fields: what a trainer must know of a sampler."""
        card = {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "local",
            "max_model_len": self.backend.window,
            "weight_version": self.batcher.version,
            "vocabulary_hash": self._vocabulary,
            "stop_token_ids": list(self.backend.renderer.stop_ids),
        }
        return {"object": "list", "data": [card]}


def model_failed(error: Exception) -> RequestError:
    """What a client reads when the model raised."""
    return RequestError(f"the model failed: {type(error).__name__}: {error}", status=500)
