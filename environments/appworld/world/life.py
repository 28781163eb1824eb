"""Everyday contents of the supervisors' apps: what is in the way of every task, and belongs to none."""

from __future__ import annotations

from environments.appworld.world.engine import Engine
from environments.appworld.world.people import SUPERVISORS, others, related
from environments.appworld.world.records import World, ago

_NOTES = (
    ("Bread that works", "500 g flour, 350 g water, 10 g salt. Fold four times, bake at 240.", "kitchen"),
    ("Books to read", "The Salt Cartographer\nSmall Engines\nA Year of Ferries", "reading"),
    ("Holiday ideas", "Brine Bay in autumn, or the lakes by train.", "travel"),
    ("Plants", "Water the fern on Mondays, the cactus never.", "home"),
    ("Quotes", "Measure twice, complain once.", "reading"),
    ("Bike", "Tyres 32 mm, chain replaced in February.", "home"),
    ("Meeting notes", "Nothing decided. Meet again.", "work"),
)
_MESSAGES = (
    "Are we still on for Thursday?",
    "Running ten minutes late, sorry!",
    "Thanks for yesterday, that was fun.",
    "Did you see the heron on the roof?",
    "Can you bring the blue umbrella?",
    "All good here, talk soon.",
)
_MAILS = (
    ("Minutes of Monday", "Attached in spirit: we talked, we agreed, we forgot."),
    ("Lost scarf", "Somebody left a green scarf at my place."),
    ("Choir practice", "Practice moves to the small hall."),
    ("Photos", "The photos of the lake turned out well."),
    ("Newsletter", "Six things about kettles you did not ask for."),
)
_SPENDINGS = ("Coffee", "Cinema tickets", "Groceries", "Taxi", "Concert", "Birthday present", "Lunch")
_FILES = (
    ("documents/cv.txt", "Name, work, schools."),
    ("documents/letters/landlord.txt", "Dear landlord, the tap again."),
    ("photos/lake.jpg", "binary: lake"),
    ("downloads/manual_kettle.pdf", "binary: manual"),
)


def fill(engine: Engine) -> None:
    """Write every supervisor's everyday contents."""
    for turn, supervisor in enumerate(SUPERVISORS):
        world = World(engine, supervisor)
        _words(world, turn)
        _money(world, turn)
        _plans(world)
        for path, content in _FILES:
            world.file(path, content, days=120)


def _words(world: World, turn: int) -> None:
    people = others(world.me)
    for number, (title, content, tag) in enumerate(_NOTES):
        world.note(title, content, tags=[tag], days=30 + 9 * number + turn)
    for number in range(12):
        person = people[(3 * number + turn) % len(people)]
        message = _MESSAGES[(number + turn) % len(_MESSAGES)]
        pair = (person, world.me) if number % 2 else (world.me, person)
        world.text(*pair, message, days=6 + 2 * number)
    for number, (subject, body) in enumerate(_MAILS):
        world.mail(
            people[(2 * number + turn) % len(people)], world.me, subject, body, days=12 + 5 * number, read=number > 1
        )
    world.alarm("06:45", "Swim", days=["tuesday", "thursday"], enabled=turn % 2 == 0)
    world.alarm("22:15", "Bins out", days=["sunday"])


def _money(world: World, turn: int) -> None:
    people = others(world.me)
    for number in range(14):
        person = people[(number + 2 * turn) % len(people)]
        pair = (person, world.me) if number % 3 == 0 else (world.me, person)
        amount = 6.5 + (number * 17 + turn * 5) % 60
        world.payment(*pair, amount, _SPENDINGS[number % len(_SPENDINGS)], days=3 + 6 * number, private=number % 4 == 0)
    for person in people[turn : turn + 3]:
        world.save("venmo.Friendship", user_id=world.user("me"), friend_id=world.user(person), created_at=ago(100))
    mates = related(world.me, "roommate")
    group = world.group("Household", [world.me, *mates])
    world.expense(mates[0], [world.me, *mates], 36.0, "Cleaning things", group=group, days=25)


def _plans(world: World) -> None:
    home = world.project("Home")
    world.todo(home, "Descale the kettle", 0, due="2024-06-02")
    world.todo(home, "Call the landlord", 1, done=True, due="2024-05-03")
    work = world.project("Work", shared_with=related(world.me, "coworker")[:1])
    world.todo(work, "Send the quarterly figures", 0, due="2024-05-30", priority="high")
