"""The trainers that stand behind the backend contract, one folder each (`harness.protocols.backend` says what is asked of them)."""

from harness.protocols.backend import Backend, Completion, Prompt, SamplingParams

__all__ = ["Backend", "Completion", "Prompt", "SamplingParams"]
