"""The trainers that keep the backend contract, one folder each; `harness.protocols.backend` says what is asked of
them."""

from harness.protocols.backend import Backend, BackendSettings, Completion, Prompt, SamplingParams, Start

__all__ = ["Backend", "BackendSettings", "Completion", "Prompt", "SamplingParams", "Start"]
