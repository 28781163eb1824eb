"""Chat completions of one model: from a request's bytes to a reply's JSON, the computing left to a batcher."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from harness.protocols.backend import Backend, Completion, Prompt
from harness.serving.batcher import Batcher
from harness.serving.replies import reply
from harness.serving.requests import ChatRequest, RequestError, prompts_of, read_request
from harness.serving.template import ChatTemplate
from harness.serving.token_bytes import TokenBytes


@dataclass(frozen=True)
class Asked:
    """A request that can be served."""

    request: ChatRequest
    tokens: tuple[int, ...]
    prompts: list[Prompt]


class ChatService:
    """Answers requests for the model that is called `name`. Safe to share between threads."""

    def __init__(self, backend: Backend, name: str, batch: int) -> None:
        self.backend, self.name = backend, name
        self.template = ChatTemplate(backend.renderer)
        self.batcher = Batcher(backend, batch)
        self._token_bytes = TokenBytes(backend.renderer.tokenizer)

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
        """The chat completion of a request whose completions have been computed."""
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
        """The list of models: this one."""
        card = {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "local",
            "max_model_len": self.backend.window,
        }
        return {"object": "list", "data": [card]}


def model_failed(error: Exception) -> RequestError:
    """What a client reads when the model raised."""
    return RequestError(f"the model failed: {type(error).__name__}: {error}", status=500)
