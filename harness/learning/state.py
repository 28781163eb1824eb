"""What a run has spent so far, and where it stands: the part of a run that changes, and is saved with every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Spent:
    """What a run has spent so far, and where it stands in its list of tasks."""

    step: int = 0
    cursor: int = 0
    rollouts: int = 0
    generated_tokens: int = 0
    teacher_tokens: int = 0
    external_calls: int = 0
    optimiser_steps: int = 0
    candidates: int = 0
    dropped_groups: int = 0
    failed_episodes: int = 0

    def budget(self) -> dict[str, int]:
        """What a table's budget says of the run."""
        return {key: value for key, value in asdict(self).items() if key not in ("step", "cursor")}
