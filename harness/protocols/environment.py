"""TEMPORARY until merged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TextEnvironment(Protocol):
    splits: tuple[str, ...]
    default_split: str
    version: str
    terse: bool = False
    mini: bool = False
    protocol: str | None = None
    idle_action: str = ""
    idle_reward: float | None = 0.0
    success_metrics: tuple[str, ...] = ()

    @abstractmethod
    def tasks(self, split: str) -> list[str]: ...
    @abstractmethod
    def trainable(self, split: str) -> bool: ...
    @abstractmethod
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any: ...
    @abstractmethod
    def step(self, action: str) -> Any: ...
    def gold(self, task_id: str) -> list[str] | None:
        return None

    def habit(self, task_id: str) -> list[str] | None:
        return None

    def answer(self, task_id: str) -> str | None:
        return None

    def scenario_of(self, task_id: str) -> str:
        scenario, underscore, _ = task_id.rpartition("_")
        return scenario if underscore else task_id

    def floor(self, task_id: str) -> float | None:
        return self.idle_reward

    def summary(self, episodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...
