"""The official verdict, DB x COMMUNICATE, from an episode's changed rows; and the outcome procedural tasks ask for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

from environments.tau3_airline.data import AirlineData, load
from environments.tau3_airline.journal import Changes, SharedDatabase, changes
from environments.tau3_airline.tasks import Outcome, Task
from environments.tau3_airline.tools import TRANSFER, Toolbox

DENIAL = "REQUEST DENIED"
"""The words that make a refusal explicit on procedural tasks."""


@dataclass(frozen=True)
class Verdict:
    """The parts of a reward; each is 0 or 1, and the reward is their product."""

    db: bool
    communicate: bool
    outcome: bool

    @property
    def success(self) -> bool:
        """Whether every part holds."""
        return self.db and self.communicate and self.outcome


class Engine:
    """The database shared by all episodes of a process, and the reference end state of each task, computed once."""

    def __init__(self, data: AirlineData) -> None:
        self.data = data
        self.shared = SharedDatabase(data.db)
        self._gold: dict[Task, Changes] = {}

    def gold_changes(self, task: Task) -> Changes:
        """The rows that the reference calls change. A reference call that fails is passed over, as upstream does."""
        if task not in self._gold:
            view = self.shared.view()
            toolbox = Toolbox(view)
            for call in task.gold:
                toolbox.call(call.name, call.arguments)
            self._gold[task] = changes(view)
        return self._gold[task]

    def verdict(self, task: Task, changed: Changes, sent: Sequence[str], called: Collection[str]) -> Verdict:
        """Grade an episode that the user ended. `sent`: the agent's messages; `called`: the tools it called."""
        return Verdict(
            db=changed == self.gold_changes(task),
            communicate=communicated(task.communicate, sent),
            outcome=task.outcome is None or outcomes(sent, called) == {task.outcome},
        )

    def floor(self, task: Task) -> bool:
        """Whether an agent that only says hello succeeds."""
        return self.verdict(task, {}, ("Hello.",), ()).success


def communicated(required: Sequence[str], sent: Sequence[str]) -> bool:
    """Upstream's COMMUNICATE: each text, case aside, is part of some message whose commas were taken out."""
    messages = [message.lower().replace(",", "") for message in sent]
    return all(any(text.lower() in message for message in messages) for text in required)


def outcomes(sent: Sequence[str], called: Collection[str]) -> set[Outcome]:
    """What the agent explicitly did. Denying and handing over together are two outcomes, and match no task."""
    denied = any(DENIAL.lower() in message.lower() for message in sent)
    found: set[Outcome] = set()
    if denied:
        found.add("denied")
    if TRANSFER in called:
        found.add("transferred")
    return found or {"done"}


@cache
def _engine(data: AirlineData) -> Engine:
    return Engine(data)


def engine() -> Engine:
    """The engine of this process."""
    return _engine(load())
