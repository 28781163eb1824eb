"""The client of every OpenAI-compatible model: user simulators, summarisers, policies."""

from harness.endpoint.client import Endpoint
from harness.endpoint.errors import RETRYABLE, BudgetSpentError, ContextFullError, EndpointCallError
from harness.endpoint.masking import ASIDE
from harness.endpoint.replies import Reply
from harness.endpoint.thinking import without_thinking

__all__ = [
    "ASIDE",
    "RETRYABLE",
    "BudgetSpentError",
    "ContextFullError",
    "Endpoint",
    "EndpointCallError",
    "Reply",
    "without_thinking",
]
