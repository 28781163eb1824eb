"""Tau3AirlineMini-v0: procedural tasks in a compact grammar, small enough for a model of a million parameters.

    user   NO6JO3 cancel health      agent  flights      user   available available      agent  res
    user   economy insured 2p 3d     agent  cancel       (the user leaves; reward 1)

The same engine, database and grading: each command becomes real tool calls of an inner `Tau3AirlineEnv`. Identifiers
come from the request, so an agent never spells one. A Mini number is never set beside a τ³-airline number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from environments.tau3_airline import oracle
from environments.tau3_airline.data import VERSION, AirlineData, load
from environments.tau3_airline.env import PLEASE_HOLD, Tau3AirlineEnv
from environments.tau3_airline.grader import DENIAL
from environments.tau3_airline.procedural import SPLITS, procedural_tasks
from environments.tau3_airline.tasks import Call, Task
from environments.tau3_airline.tools import TRANSFER
from environments.text import BadAction, Reply, TextEnv, over

DOES = {"cancel": "cancel", "cabin": "cabin", "complaint": "pay"}
"""Template to the command that does what is asked; these are the templates the compact rendering has."""
COMMANDS = ("flights", "res", "user", *DOES.values(), "refuse", "transfer")
TURNS = 6


class Tau3AirlineMini(TextEnv):
    """Requests to cancel, to change the cabin, and for compensation; each outcome equally often within a request.

    Look up: `flights` (status of each leg), `res` (cabin, insurance, passengers, age of the booking), `user`
    (membership). End: `cancel`, `cabin`, `pay 200` (a certificate in dollars), `refuse`, `transfer` (to a human). The
    habitual mistake is to do what is asked without looking anything up. Splits are by user, as in the procedural tasks.
    """

    mini = True
    protocol = "airline Mini: compact rendering of procedural tasks (not τ³-airline)"

    def __init__(self, max_turns: int = TURNS) -> None:
        by_split = _mini_tasks(load())
        self._by_id = {task_id: task for tasks in by_split.values() for task_id, task in tasks.items()}
        # one command may take a call per leg of a trip, so the inner limit must never be the one that is met
        self._inner = Tau3AirlineEnv("oneshot", source="procedural", max_turns=20 * max_turns)
        super().__init__(
            {split: list(tasks) for split, tasks in by_split.items()},
            max_turns=max_turns,
            version=f"1 {VERSION} mini max_turns={max_turns}",
        )

    def open(self, task_id: str) -> Reply:
        """The request in three words."""
        self._inner.reset(options={"task_id": task_id})
        self._lookups = 0
        template, reservation, variant = task_id.split("/")
        return Reply(" ".join((reservation, template, *([variant] if template != "complaint" else []))))

    def respond(self, action: str) -> Reply:
        """One command as the tool calls it stands for."""
        command, *words = action.split() or [""]
        allowed = [name for name in COMMANDS if name not in DOES.values() or name == DOES[_template(self.task_id)]]
        if command not in allowed:
            raise BadAction(f"commands: {' '.join(allowed)}")
        if bool(words) != (command == "pay"):
            raise BadAction("say: pay DOLLARS" if command == "pay" else f"{command} takes nothing more")
        if command in ("flights", "res", "user"):
            self._lookups += 1
            return Reply(self._look_up(command))
        return self._conclude(command, words)

    def _look_up(self, command: str) -> str:
        """The compact text of what the real tools answer."""
        calls = [call for call in self._by_id[self.task_id].gold if call.name == LOOK_UPS[command]]
        answers = [self._call(call) for call in calls]
        if command == "flights":
            return " ".join(answers)
        record = json.loads(answers[0])
        return str(record["membership"]) if command == "user" else _reservation_text(record)

    def _conclude(self, command: str, words: list[str]) -> Reply:
        task = self._by_id[self.task_id]
        if command == "refuse":
            return self._say(f"{DENIAL}.")
        if command == "transfer":
            self._call(Call(TRANSFER, {"summary": self.task_id}))
            return self._say(PLEASE_HOLD)
        (request,) = task.request
        if command == "pay":
            if not (words[1:] == [] and words[0].isascii() and words[0].isdigit() and len(words[0]) < 6):
                raise BadAction("say: pay DOLLARS")
            request = Call(request.name, {**request.arguments, "amount": int(words[0])})
        self._call(request)
        return self._say("That is done.")

    def _call(self, call: Call) -> str:
        messages, *_ = self._inner.step(call.action())
        return messages[0]["content"]

    def _say(self, message: str) -> Reply:
        _, reward, _, _, info = self._inner.step(message)
        parts = {name: info["metrics"][name] for name in ("db", "outcome", "tool_calls", "write_calls", "transfers")}
        return over(info["success"], reward=reward, metrics=parts | {"lookups": float(self._lookups)})

    def gold(self, task_id: str) -> list[str]:
        """The oracle: look up no more than decides, decide, act."""
        self.split_of(task_id)
        return list(_gold(load(), task_id))

    def habit(self, task_id: str) -> list[str]:
        """Doing what is asked at once; a certificate is given for one passenger."""
        self.split_of(task_id)
        command = DOES[_template(task_id)]
        return ["pay 100" if command == "pay" else command]


LOOK_UPS = {"flights": "get_flight_status", "res": "get_reservation_details", "user": "get_user_details"}


def _template(task_id: str) -> str:
    return task_id.partition("/")[0]


def _reservation_text(record: Mapping[str, Any]) -> str:
    """E.g. `basic_economy insured 2p 3d`: cabin, insurance, passengers, and the booking's age (hours within a day)."""
    hours = oracle.hours_since(record["created_at"])
    age = f"{int(hours)}h" if hours <= 24 else f"{int(hours / 24)}d"
    insured = "insured" if record["insurance"] == "yes" else "uninsured"
    return f"{record['cabin']} {insured} {len(record['passengers'])}p {age}"


def _gold(data: AirlineData, task_id: str) -> Iterator[str]:
    template, reservation_id, variant = task_id.split("/")
    reservation = data.db.reservations[reservation_id]
    user = data.db.users[reservation.user_id]
    flown, cancelled = oracle.flown(data.db, reservation), oracle.airline_cancelled(data.db, reservation)
    yield "flights"
    if template == "cabin":
        yield "refuse" if flown else "cabin"
    elif template == "cancel":
        if not flown and not cancelled:
            yield "res"
        outcome = oracle.cancellation(data.db, reservation, variant)
        yield {"done": "cancel", "denied": "refuse", "transferred": "transfer"}[outcome]
    elif not cancelled:
        yield "refuse"
    else:
        yield "res"
        if reservation.insurance == "no" and reservation.cabin != "business":
            yield "user"
        amount = oracle.compensation(data.db, user, reservation)
        yield "refuse" if amount is None else f"pay {amount}"


@cache
def _mini_tasks(data: AirlineData) -> dict[str, dict[str, Task]]:
    """The procedural tasks of three templates, thinned until every outcome is equally frequent within its template."""
    chosen: dict[str, dict[str, Task]] = {}
    for split in SPLITS:
        groups: dict[str, dict[str, list[str]]] = {template: {} for template in DOES}
        tasks = procedural_tasks()[split]
        for task_id, task in tasks.items():
            if _template(task_id) in DOES:
                groups[_template(task_id)].setdefault(str(task.outcome), []).append(task_id)
        kept = {
            task_id
            for outcomes in groups.values()
            for ids in outcomes.values()
            for task_id in ids[: min(len(other) for other in outcomes.values())]
        }
        chosen[split] = {task_id: task for task_id, task in tasks.items() if task_id in kept}
    return chosen
