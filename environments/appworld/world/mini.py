"""The Mini tasks: eight kinds of small errands in many variants, for a policy of a million parameters.

    pay back yusuf                  note(yusuf)  ->  25      pay(yusuf, 25)
    pay back dara unless sent       sent(dara)   ->  none    note(dara)  ->  35    pay(dara, 35)

In AppWorld's own format like every other task of the world. Everything they turn on carries one theme, so that the rest
of the world, which is there too, is in nobody's way. The careless programme of each kind skips the look-up that
decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta

from environments.appworld.world.engine import NOW
from environments.appworld.world.people import BY_KEY, SUPERVISORS
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values
from environments.appworld.world.vocabulary import DAYS, ITEMS, NAMES, THEME, THINGS, tools

SIZES = {"mini_train": 24, "mini_dev": 3, "mini_test": 7}
"""Scenarios of each kind in each split; a scenario has three variants."""
GUESS = 20
"""The amount a careless programme makes up; it is never right."""
AMOUNTS = (10, 15, 25, 30, 35, 40, 45, 50, 55, 60)
ME = SUPERVISORS[0]
"""Whose errands they all are: with one person's accounts, one text of tools serves every task."""
TOOLS = tools(
    {name: BY_KEY[name].email for name in NAMES},
    {name: BY_KEY[name].phone_number for name in NAMES},
    {
        app: (ME.phone_number if app == "phone" else ME.email, ME.password(app))
        for app in ("venmo", "simple_note", "todoist", "phone")
    },
)


class Line(str):
    """A line of a programme: its literal is itself."""

    def __repr__(self) -> str:
        return str(self)


def _note(world: World, entries: dict[str, int]) -> None:
    world.note(THEME, ", ".join(f"{word} {amount}" for word, amount in entries.items()), days=1)


def _paid(world: World, name: str, amount: int) -> Rows:
    me, other = world.user("me"), world.user(name)
    wanted = {"sender_id": me, "receiver_id": other, "amount": amount}
    return Rows("venmo.Transaction", "the right person is paid the right amount once", added=[wanted])


PAYING = ("venmo.User", "venmo.Notification")


def _owe(world: World, v: Values) -> Truth:
    _note(world, v["entries"])
    return Truth([_paid(world, v["name"], v["amount"])], echoes=PAYING)


def _bill(world: World, v: Values) -> Truth:
    _note(world, v["entries"])
    wanted = {"sender_id": world.user("me"), "receiver_id": world.user(v["name"]), "amount": v["amount"]}
    return Truth(
        [Rows("venmo.PaymentRequest", "the right person is asked for the right amount once", added=[wanted])],
        echoes=["venmo.Notification"],
    )


def _accept(world: World, v: Values) -> Truth:
    ids = {name: world.request(name, "me", amount, THEME) for name, amount in v["entries"].items()}
    other = next(name for name in ids if name != v["name"])
    v["gold"] = Line(f"asked({v['name']})\n---\naccept({ids[v['name']]})")
    v["wrong"] = Line(f"asked({other})\n---\naccept({ids[other]})")
    request = Rows(
        "venmo.PaymentRequest",
        "the right request is approved",
        updated={ids[v["name"]]: {}},
        free=("updated_at", "approved_at"),
    )
    return Truth([_paid(world, v["name"], v["amount"]), request], echoes=PAYING)


def _tick(world: World, v: Values) -> Truth:
    project = world.project(THEME)
    ids = {}
    for order, (item, day) in enumerate(v["entries"].items(), start=1):
        due = NOW.date() + timedelta(days=3 + DAYS.index(day))  # the world's present is a Friday
        ids[item] = world.todo(project, item, order, due=due.isoformat())
    changed = {ids[v["name"]]: {"is_completed": True}}
    return Truth(
        [Rows("todoist.Task", "what is due is ticked off", updated=changed, free=("updated_at", "completed_at"))],
        echoes=["todoist.Notification"],
    )


def _text(world: World, v: Values) -> Truth:
    _note(world, v["entries"])
    wanted = {"sender_id": world.user("me"), "receiver_id": world.user(v["name"]), "message": str(v["amount"])}
    return Truth(
        [Rows("phone.GlobalTextMessage", "the right code is texted once", added=[wanted])],
        echoes=["phone.UserTextMessage"],
    )


def _got(world: World, v: Values) -> Truth:
    for hours, (name, amount) in enumerate(v["entries"].items(), start=1):
        world.payment(name, "me", amount, THEME, days=hours / 24)
    return Truth(answer=v["amount"])


def _unless(world: World, v: Values) -> Truth:
    """Owes a stated amount unless it was sent."""
    for hours, (name, amount) in enumerate(v["sent"].items(), start=1):
        world.payment("me", name, amount, THEME, days=hours / 24)
    if v["name"] in v["sent"]:
        return Truth()
    return Truth([_paid(world, v["name"], v["amount"])], echoes=PAYING)


def _owe_unless(world: World, v: Values) -> Truth:
    _note(world, v["entries"])
    return _unless(world, v)


# ---------------------------------------------------------------- drawing variants

Draw = Callable[[random.Random, int], Values]


def _entries(rng: random.Random, words: tuple[str, ...], count: int) -> dict[str, int]:
    amounts = rng.sample(AMOUNTS, count)
    return dict(zip(rng.sample(words, count), amounts, strict=True))


def _draw_owe(rng: random.Random, number: int) -> Values:
    entries = _entries(rng, NAMES, rng.choice((2, 3)))
    name, amount = rng.choice(list(entries.items()))
    return {
        "entries": entries, "name": name, "amount": amount, "asked": f"pay back {name}",
        "gold": Line(f"note({name})\n---\npay({name}, {amount})"), "wrong": Line(f"pay({name}, {GUESS})"),
    }  # fmt: skip


def _draw_of_thing(asked: str, command: str) -> Draw:
    def draw(rng: random.Random, number: int) -> Values:
        entries = _entries(rng, THINGS, rng.choice((2, 3)))
        thing, amount = rng.choice(list(entries.items()))
        name = rng.choice(NAMES)
        return {
            "entries": entries, "name": name, "amount": amount, "asked": asked.format(name=name, thing=thing),
            "gold": Line(f"note({thing})\n---\n{command}({name}, {amount})"),
            "wrong": Line(f"{command}({name}, {GUESS})"),
        }  # fmt: skip

    return draw


def _draw_accept(rng: random.Random, number: int) -> Values:
    entries = _entries(rng, NAMES, 3)
    name, amount = list(entries.items())[number]
    return {"entries": entries, "name": name, "amount": amount, "asked": f"accept {name}"}


def _draw_tick(rng: random.Random, number: int) -> Values:
    entries = dict(zip(rng.sample(ITEMS, 3), rng.sample(DAYS, 3), strict=True))
    item, day = list(entries.items())[number]
    other = next(there for there in entries if there != item)
    return {
        "entries": entries, "name": item, "asked": f"tick {day}",
        "gold": Line(f"todo({day})\n---\ntick({item})"), "wrong": Line(f"tick({other})"),
    }  # fmt: skip


def _draw_got(rng: random.Random, number: int) -> Values:
    entries = _entries(rng, NAMES, rng.choice((2, 3)))
    name, amount = rng.choice(list(entries.items()))
    return {
        "entries": entries, "amount": amount, "asked": f"how much from {name}",
        "gold": Line(f"got({name})\n---\nanswer({amount})"), "wrong": Line(f"answer({GUESS})"),
    }  # fmt: skip


def _draw_unless(rng: random.Random, number: int) -> Values:
    """One variant is paid already, one is not, the third is either: neither way of not looking solves a scenario."""
    sent = _entries(rng, NAMES, 2)
    paid = number == 0 or (number == 2 and rng.random() < 0.5)
    name = rng.choice(list(sent)) if paid else rng.choice([name for name in NAMES if name not in sent])
    amount = sent[name] if paid else rng.choice(AMOUNTS)
    act = "done()" if paid else f"pay({name}, {amount})"
    return {
        "sent": sent, "name": name, "amount": amount, "asked": f"pay {name} {amount} unless sent",
        "gold": Line(f"sent({name})\n---\n{act}"), "wrong": Line(f"pay({name}, {amount})"),
    }  # fmt: skip


def _draw_owe_unless(rng: random.Random, number: int) -> Values:
    v = _draw_unless(rng, number)
    other = rng.choice([name for name in NAMES if name != v["name"]])
    entries = [(v["name"], v["amount"]), (other, rng.choice([a for a in AMOUNTS if a != v["amount"]]))]
    rng.shuffle(entries)
    paid = v["name"] in v["sent"]
    act = "done()" if paid else f"pay({v['name']}, {v['amount']})"
    look = f"sent({v['name']})\n---\n" + ("" if paid else f"note({v['name']})\n---\n")
    return v | {
        "entries": dict(entries), "asked": f"pay back {v['name']} unless sent",
        "gold": Line(f"{look}{act}"), "wrong": Line(f"note({v['name']})\n---\npay({v['name']}, {v['amount']})"),
    }  # fmt: skip


KINDS: tuple[tuple[str, int, Callable[[World, Values], Truth], Draw], ...] = (
    ("owe", 1, _owe, _draw_owe),
    ("bill", 1, _bill, _draw_of_thing("ask {name} for {thing}", "ask")),
    ("accept", 1, _accept, _draw_accept),
    ("tick", 1, _tick, _draw_tick),
    ("text", 1, _text, _draw_of_thing("text {name} {thing}", "text")),
    ("got", 1, _got, _draw_got),
    ("unless", 2, _unless, _draw_unless),
    ("oweunless", 3, _owe_unless, _draw_owe_unless),
)
"""Name, difficulty (1: one look-up gives the words of the act; 2: it decides between acts; 3: two look-ups),
preparation, drawing."""


def scenarios() -> Iterator[Scenario]:
    """All Mini scenarios; the same every time."""
    for split, size in SIZES.items():
        for name, difficulty, prepare, draw in KINDS:
            for place in range(size):
                rng = random.Random(f"{split} {name} {place}")
                yield Scenario(
                    name=f"{split.replace('_', '')}{name}{place}",
                    split=split,
                    difficulty=difficulty,
                    instruction="{asked}",
                    variants=tuple({"me": ME.key} | draw(rng, number) for number in range(3)),
                    prepare=prepare,
                    gold=f"{TOOLS}\n---\n<<gold>>",
                    wrong=f"{TOOLS}\n---\n<<wrong>>",
                )
