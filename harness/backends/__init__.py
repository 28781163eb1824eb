"""The trainers that keep the backend contract, one folder each; `harness.protocols.backend` says what is asked of
them, and docs/backends.md what each can do."""

from harness.protocols.backend import Backend, BackendSettings, Completion, Prompt, SamplingParams, Start

__all__ = ["OURS", "Backend", "BackendSettings", "Completion", "Prompt", "SamplingParams", "Start"]

OURS = (
    "harness.backends.torch:TorchBackend",
    "harness.backends.trl:TrlBackend",
    "harness.backends.endpoint:EndpointBackend",
)
"""The backends that come with the harness, as a spec names them."""
