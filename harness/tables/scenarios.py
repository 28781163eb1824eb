"""Scenarios: tasks that are variants of one another, as their ids say."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import UserError


def scenario_of(task_id: str) -> str:
    """The scenario a task is a variant of: its id up to the last "_"; a task without one is its own."""
    scenario, underscore, _ = task_id.rpartition("_")
    return scenario if underscore else task_id


def scenarios(task_ids: Sequence[str], variants: int = 3) -> dict[str, list[int]]:
    """Places of the tasks of every scenario, whose id is the task's up to the last "_".

    Raises UserError where a variant is missing.
    """
    places: dict[str, list[int]] = {}
    for place, task_id in enumerate(task_ids):
        places.setdefault(scenario_of(task_id), []).append(place)
    uneven = {scenario: len(found) for scenario, found in places.items() if len(found) != variants}
    if uneven:
        scenario, count = next(iter(uneven.items()))
        raise UserError(
            f"SGC needs {variants} variants of every scenario; {scenario!r} has {count} ({len(uneven)} such scenarios)"
        )
    return places
