"""What every source of questions offers: splits and items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from environments.reasoning.pool import Verdict

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Item:
    """One question."""

    question: str
    answer: str | None
    """The reference, or None where only a verifier knows what is right."""
    working: str | None = None
    """How the answer is reached, where that is known."""
    entry: dict[str, Any] | None = None
    """What the generator's verifier reads."""
    attempt: int = 0
    """Which draw of its generator the item is."""


class Source(Protocol):
    """Questions by task id, and the verdict on an answer."""

    tasks: dict[str, list[str]]
    version: str
    terse: bool
    """Whether only final answers are known, no working."""

    def item(self, task_id: str) -> Item:
        """The question of a task."""
        ...

    def score(self, task_id: str, answer: str) -> Verdict:
        """The verdict on an answer."""
        ...
