"""The client of every OpenAI-compatible model: user simulators, summarisers, policies."""

from harness.endpoint.client import BudgetSpentError, ContextFullError, Endpoint, EndpointCallError, Reply

__all__ = ["BudgetSpentError", "ContextFullError", "Endpoint", "EndpointCallError", "Reply"]
