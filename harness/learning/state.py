"""What a run has spent so far, and where it stands: the part of a run that changes, and is saved with every
checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.budget import Budget, budget_fields


@dataclass
class Spent(Budget):
    """What a run has spent so far, and where it stands in its list of tasks."""

    step: int = 0
    cursor: int = 0

    def budget(self) -> dict[str, int]:
        """The declared budget fields alone."""
        return {field.name: getattr(self, field.name) for field in budget_fields()}
