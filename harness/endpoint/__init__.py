"""The client of every OpenAI-compatible model: user simulators, summarisers, policies."""

from harness.endpoint.client import Endpoint
from harness.endpoint.errors import RETRYABLE, BudgetSpentError, ContextFullError, EndpointCallError
from harness.endpoint.replies import Reply

__all__ = ["RETRYABLE", "BudgetSpentError", "ContextFullError", "Endpoint", "EndpointCallError", "Reply"]
