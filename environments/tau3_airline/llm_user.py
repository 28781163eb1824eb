"""A language model at an OpenAI-compatible endpoint plays the user: the only protocol that may be called τ³-airline.

Roles and stop tokens are upstream's: the model sees a system message with guidelines and the scenario, the agent's
messages as its `user` and its own as `assistant`. The guidelines are worded anew, so results name them as this
project's.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from environments.tau3_airline.tasks import Task
from environments.tau3_airline.users import GREETING, HAND_OVER, OUT_OF_SCOPE, STOP, UserFailedError
from environments.text import unknown_name
from harness.endpoint import Endpoint, without_thinking

GUIDELINES = f"""\
You play a customer who has called an airline's service desk. The other speaker is the desk's agent.

- Be the person in the scenario below, and stay that person. Speak as callers do: one short message at a time.
- Say what you want first; give names, numbers and other facts only when they are asked for or needed at that point.
- Use only what the scenario tells. Asked for something it does not tell, say that you do not know or do not have it.
- Use your own words for the scenario's text, except for ids, names, dates and amounts.
- Follow the scenario's conditions ("if the agent says ...") exactly, and do not give in earlier than it lets you.
- When everything you wanted has been settled, granted or not, answer with {STOP} and nothing else.
- When you are told that you are being transferred to someone else, answer with {HAND_OVER} and nothing else.
- When the scenario does not tell how to go on, answer with {OUT_OF_SCOPE} and nothing else."""
PARAMS: Mapping[str, Any] = {"temperature": 0.0}
"""Upstream's default for the user's model."""
LONGEST_MESSAGE = 16_384
"""Characters of an agent's message that reach the model: an endless message must not turn into a failure of the
endpoint."""


@dataclass(frozen=True)
class UserModel:
    """Which model plays the user, and how it is reached.

    Address and key default to the environment variables OPENAI_BASE_URL and OPENAI_API_KEY.
    """

    model: str
    endpoint: Mapping[str, Any] = field(default_factory=dict)
    """Options of `harness.endpoint.Endpoint`: base_url, timeout_s, attempts, concurrency, cache, max_calls, ..."""
    params: Mapping[str, Any] = field(default_factory=lambda: PARAMS)
    """Sampling parameters of each request; the seed is added."""

    def __post_init__(self) -> None:
        known = [name for name in inspect.signature(Endpoint).parameters if name != "model"]
        for name in self.endpoint:
            if name not in known:
                raise unknown_name("option of the user's endpoint", name, known)

    def name(self) -> str:
        """The model and its sampling parameters, as a version and a table name them."""
        return f"{self.model} {json.dumps(dict(self.params), sort_keys=True)}"

    def connect(self) -> Endpoint:
        """The endpoint, one per process and settings, so that its limits hold over all environments."""
        return _endpoint(self.model, tuple(sorted(self.endpoint.items())))


@cache
def _endpoint(model: str, options: tuple[tuple[str, Any], ...]) -> Endpoint:
    settings = dict(options)
    if settings.get("cache") is not None:
        settings["cache"] = Path(settings["cache"])
    return Endpoint(model, **settings)


def scenario(task: Task) -> str:
    """What the model knows of the person it plays."""
    parts = {
        "Why you call": task.reason,
        "What you know": task.known,
        "What you do not know": task.unknown,
        "How you behave": task.instructions,
    }
    return "\n\n".join(f"{title}:\n{text}" for title, text in parts.items() if text)


class LLMUser:
    """One dialogue's user. Raises UserFailedError when the endpoint fails, sends no text, or sends what is no
    customer's message: what a filter left of one, or the model's refusal to play."""

    def __init__(self, task: Task, model: UserModel, seed: int) -> None:
        self._endpoint, self._params = model.connect(), {**model.params, "seed": seed}
        self.usage = {"user_prompt_tokens": 0, "user_completion_tokens": 0}
        """What this dialogue asked of the model, replies from the cache included."""
        self._messages = [
            {"role": "system", "content": f"{GUIDELINES}\n\n<scenario>\n{scenario(task)}\n</scenario>"},
        ]

    def open(self) -> str:
        """The answer to the greeting."""
        return self.reply(GREETING)

    def reply(self, message: str) -> str:
        """The model's answer to a message of the agent's."""
        sendable = message[:LONGEST_MESSAGE].encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
        asked = [*self._messages, {"role": "user", "content": sendable}]
        try:
            reply = self._endpoint.chat(asked, **self._params)
        except Exception as error:  # whatever goes wrong on the way to the model is not the agent's fault
            kind = getattr(error, "kind", type(error).__name__)
            raise UserFailedError(str(kind), f"the user's model {self._endpoint.model!r} failed: {error}") from error
        self.usage["user_prompt_tokens"] += reply.prompt_tokens
        self.usage["user_completion_tokens"] += reply.completion_tokens
        text = without_thinking(reply.text)
        if {"filtered", "refused"} & set(reply.troubles):
            kind, what = ("filter", "was cut by a filter") if "filtered" in reply.troubles else ("refusal", "refuses")
            raise UserFailedError(kind, f"the reply of the user's model {self._endpoint.model!r} {what}")
        if not text.strip():
            raise UserFailedError("garbage", f"the user's model {self._endpoint.model!r} sent no text")
        if "truncated" in reply.troubles:
            self.usage["user_truncated"] = self.usage.get("user_truncated", 0) + 1
        self._messages = [*asked, {"role": "assistant", "content": text}]
        return text
