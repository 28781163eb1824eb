"""What a task is: the user's side of the story, the reference calls, and what the agent must have written or done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from environments.tau3_airline.data import AirlineData, load
from environments.tau3_airline.tools import TRANSFER, WRITES

Outcome = Literal["done", "denied", "transferred"]
Kind = Literal["write", "read-only", "hand-over", "none"]
KINDS: tuple[Kind, ...] = ("write", "read-only", "hand-over", "none")


@dataclass(frozen=True)
class Call:
    """One tool call."""

    name: str
    arguments: Mapping[str, Any]

    def action(self) -> str:
        """The call as the agent's action text."""
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class Task:
    """One task. `gold` leads to the reference database; its read calls tell what a careful agent looks up first."""

    task_id: str
    reason: str
    """Why the user calls, in their words."""
    known: str
    """What the user knows: names, ids, facts."""
    instructions: str = ""
    """How the user behaves later in the dialogue; only a language model can follow it."""
    unknown: str = ""
    gold: tuple[Call, ...] = ()
    request: tuple[Call, ...] = ()
    """The writes the user asks for, allowed or not; empty on official tasks."""
    communicate: tuple[str, ...] = ()
    """Texts the agent must say."""
    outcome: Outcome | None = None
    """What the agent must explicitly have done; None on official tasks, whose rules do not ask."""
    slots: Mapping[str, str] = field(default_factory=dict)
    """What a scripted user answers, by the thing asked for; empty on official tasks."""

    @property
    def kind(self) -> Kind:
        """What the reference does: writes, hands over, only reads, or nothing at all."""
        names = {call.name for call in self.gold}
        return "write" if names & WRITES else "hand-over" if TRANSFER in names else "read-only" if names else "none"


def official_task(record: Mapping[str, Any]) -> Task:
    """A task from its upstream record. ValueError for a reward rule other than DB and COMMUNICATE."""
    criteria, script = record["evaluation_criteria"], record["user_scenario"]["instructions"]
    if set(criteria["reward_basis"]) != {"DB", "COMMUNICATE"} or record["initial_state"]:
        raise ValueError(
            f"task {record['id']!r} is graded by {criteria['reward_basis']}, only DB and COMMUNICATE are known"
        )
    return Task(
        task_id=record["id"],
        reason=script["reason_for_call"].strip(),
        known=(script["known_info"] or "").strip(),
        instructions=(script["task_instructions"] or "").strip(),
        unknown=(script["unknown_info"] or "").strip(),
        gold=tuple(Call(action["name"], action["arguments"]) for action in criteria["actions"] or ()),
        communicate=tuple(criteria["communicate_info"] or ()),
    )


@cache
def _official(data: AirlineData) -> dict[str, Task]:
    return {task_id: official_task(record) for task_id, record in data.tasks.items()}


def official_tasks() -> dict[str, Task]:
    """The fifty official tasks by id, in the file's order."""
    return _official(load())
