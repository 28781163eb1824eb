"""What stands behind `apis` in tests of the guard: a collection made like the engine's, with its requester in every
closure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SECRET = "sesame-7351"


class Requester:
    """Holds what no block may see."""

    def __init__(self) -> None:
        self.secret = SECRET
        self.asked: list[tuple[str, dict[str, Any]]] = []


class Refusal(Exception):
    """An error of the engine's own kind, which carries the requester."""

    def __init__(self, message: str, requester: Requester) -> None:
        super().__init__(message)
        self.requester = requester


class Names(dict[str, Any]):
    """A dict whose entries are attributes too."""

    error_message = "No name '{key}' there."

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise Exception(self.error_message.format(key=name)) from None


def collection() -> Names:
    """An app `spotify` whose APIs answer, echo, leak and fail."""
    requester = Requester()

    def api(name: str, answer: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
        def ask(**parameters: Any) -> Any:
            requester.asked.append((name, parameters))
            client = parameters.get("client")
            return client.get(name) if client else answer(parameters)

        return ask

    def fail(_: dict[str, Any]) -> Any:
        raise Refusal("Response status code is 401", requester)

    def echo(parameters: dict[str, Any]) -> Any:
        return {name: dict(value.items()) if isinstance(value, dict) else value for name, value in parameters.items()}

    apis = Names(
        spotify=Names(
            login=api("login", lambda _: {"access_token": "token"}),
            search=api("search", lambda asked: [{"title": asked.get("query", ""), "liked": False}] * 3),
            echo=api("echo", echo),
            leak=api("leak", lambda _: requester),
            fail=api("fail", fail),
        )
    )
    apis["_requester"] = requester
    return apis
