"""What a run spends: every field of the budget, declared once.

A field carries its title, and whether a table shows its mean per seed or its total over the seeds. A run's records, the
trainer's counters, the columns of the tables and the header of the CSV file all follow from the declaration:

    for field in budget_fields():
        print(field.name, field.heading)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def spent(title: str, meaning: str, total: bool = False, rare: bool = False) -> Any:
    """Declare a field of `Budget`: a count that starts at 0.

    title: its column in tables for people. meaning: what is counted. total: tables show the sum over the seeds instead
    of their mean. rare: a table in which nobody spent any has no column of it.
    """
    return dataclasses.field(default=0, metadata={"title": title, "meaning": meaning, "total": total, "rare": rare})


@dataclass
class Budget:
    """What one run spent on training."""

    rollouts: int = spent("Rollouts", "Episodes played, failed ones included.")
    generated_tokens: int = spent("Generated tokens", "Tokens the policy sampled.")
    teacher_tokens: int = spent("Teacher tokens", "Tokens a teacher read, its context included.")
    re_rolls: int = spent("Re-rolls", "Episodes played on from a prefix to learn its value.", rare=True)
    re_rolled_tokens: int = spent("Re-rolled tokens", "Tokens the policy sampled in re-rolls.", rare=True)
    external_calls: int = spent("External calls", "Calls to a language model other than the policy.")
    optimiser_steps: int = spent("Optimiser steps", "Updates of the weights.")
    candidates: int = spent(
        "Candidate tasks", "Tasks tried; more than were used where mixed-group sampling throws groups away."
    )
    dropped_groups: int = spent("Dropped groups", "Groups dropped because the infrastructure failed twice.", total=True)
    failed_episodes: int = spent("Failed episodes", "Episodes lost to the infrastructure.", total=True)


@dataclass(frozen=True)
class BudgetField:
    """A declared field of the budget."""

    name: str
    title: str
    meaning: str
    total: bool
    """Summed over the seeds instead of averaged."""
    rare: bool
    """Without a column where nobody spent any."""

    @property
    def heading(self) -> str:
        """The title of its column, which says where the numbers are sums."""
        return f"{self.title}, total" if self.total else self.title


def budget_fields() -> tuple[BudgetField, ...]:
    """The declared fields, in the order of their columns."""
    return tuple(BudgetField(field.name, **field.metadata) for field in dataclasses.fields(Budget))


def budget_columns(rows: Iterable[Mapping[str, float]]) -> tuple[BudgetField, ...]:
    """The fields that a table of these budgets shows: all but the rare ones that nobody spent any of."""
    used = {name for row in rows for name, amount in row.items() if amount}
    return tuple(field for field in budget_fields() if not field.rare or field.name in used)
