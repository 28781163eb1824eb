"""What can go wrong with a call: every failure is one of these, and none of them is the agent's fault."""

from __future__ import annotations

from harness.core.errors import EndpointError

RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that may pass."""


class EndpointCallError(EndpointError):
    """A call that failed for good.

    `kind` is one word:
        timeout      no complete reply within the deadline
        connection   nobody listens, or the connection broke
        status       the server answered with an HTTP error; `status` is its number
        garbage      the reply is too large or is no chat completion
        request      the request cannot be sent: it is not JSON, or names a parameter that the protocol does not have
        length       the limit of tokens was reached before the model wrote anything
        filter       a filter of the provider's withheld the reply, or the rest of it
    """

    def __init__(self, kind: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.status = kind, status


class ContextFullError(EndpointCallError):
    """The conversation and its next message do not fit the model's window: nothing is broken, and no retry can help."""


class BudgetSpentError(EndpointError):
    """The budget of calls or tokens is spent; no request was sent."""


class RetryableError(Exception):
    """An attempt that may succeed if repeated. `wait_s`: the pause in seconds that the server asks for, if it does."""

    def __init__(self, kind: str, message: str, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.kind, self.status, self.wait_s = kind, status, wait_s
