"""Scenarios about paying, being paid and settling up."""

from __future__ import annotations

from environments.appworld.world.engine import NOW, TODAY
from environments.appworld.world.people import PEOPLE, related, relationship
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _rent(world: World, values: Values) -> Truth:
    mate = related(world.me, "roommate")[values["which"]]
    values |= {"mate": mate.first_name, "mate_email": mate.email}
    world.note(
        "Flat 4B: rent",
        f"Old rent, until March: ${values['old']}\nFrom April on the share is ${values['rent']}.",
        days=20,
    )
    world.note("Rent ideas", f"If we moved, the share would be ${values['old'] + 70}.", days=2)
    return Truth(
        rows=[
            Rows(
                "venmo.Transaction",
                "the rent is paid once to the right person",
                added=[
                    {
                        "sender_id": world.user("me"),
                        "receiver_id": world.user(mate),
                        "amount": values["rent"],
                        "description": values["words"],
                    }
                ],
            )
        ],
        echoes=["venmo.User", "venmo.Notification"],
    )


PAY_RENT = Scenario(
    name="payrent",
    split="train",
    difficulty=2,
    instruction=(
        "My current share of the rent is in a note of mine. Send it to my roommate {mate} on Venmo with the "
        'description "{words}".'
    ),
    variants=(
        {"which": 0, "old": 410, "rent": 455, "words": "May rent"},
        {"which": 1, "old": 380, "rent": 402, "words": "Rent for May"},
        {"which": 0, "old": 520, "rent": 545, "words": "Rent 4B"},
    ),
    prepare=_rent,
    gold="""
@login simple_note phone venmo
notes = apis.simple_note.search_notes(access_token=simple_note, query="Flat 4B: rent")
note = apis.simple_note.show_note(note_id=next(row["note_id"] for row in notes if row["title"] == "Flat 4B: rent"), \
access_token=simple_note)
print(note["content"])
---
amount = float(note["content"].split("the share is $")[1].rstrip("."))
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship="roommate")
email = next(row["email"] for row in contacts if row["first_name"] == <<mate>>)
print(email, amount)
---
print(apis.venmo.create_transaction(receiver_email=email, amount=amount, description=<<words>>, access_token=venmo))
apis.supervisor.complete_task()
""",
    wrong="""
@login simple_note phone venmo
notes = apis.simple_note.search_notes(access_token=simple_note, query="Flat 4B: rent")
note = apis.simple_note.show_note(note_id=next(row["note_id"] for row in notes if row["title"] == "Flat 4B: rent"), \
access_token=simple_note)
amount = float(note["content"].split("$")[1].split()[0])
@page contacts = apis.phone.search_contacts(access_token=phone, relationship="roommate")
email = next(row["email"] for row in contacts if row["first_name"] == <<mate>>)
apis.venmo.create_transaction(receiver_email=email, amount=amount, description=<<words>>, access_token=venmo)
apis.supervisor.complete_task()
""",
)


def _spent(world: World, values: Values) -> Truth:
    person = world.person(values["with"])
    values |= {"first": person.first_name, "role": relationship(world.me, person)}
    twin = next(other for other in PEOPLE if other.first_name == person.first_name and other is not person)
    for number in range(9):
        world.payment(world.me, person, values["base"] + 1.25 * number, "Lunch", days=1.2 + number)
    world.payment(world.me, person, 80.0, "Lunch in April", days=18)
    world.payment(world.me, twin, 33.0, "Lunch", days=2.1)
    world.payment(person, world.me, 21.0, "Your half", days=2.2)
    rows = world.models.venmo.Transaction.find_all(sender_id=world.user("me"), receiver_id=world.user(person))
    return Truth(answer=round(sum(row.amount for row in rows if row.created_at.month == NOW.month), 2))


SPENT = Scenario(
    name="spentwith",
    split="train",
    difficulty=1,
    instruction=(
        "How many dollars have I sent on Venmo to {first}, my {role}, since the first of May 2024? Answer "
        "with the total."
    ),
    variants=(
        {"me": "nadia", "with": "marco", "base": 7.5},
        {"me": "tobias", "with": "lenaq", "base": 9.0},
        {"me": "oskar", "with": "marcob", "base": 12.25},
    ),
    prepare=_spent,
    gold="""
@login phone venmo
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship=<<role>>)
email = next(row["email"] for row in contacts if row["first_name"] == <<first>>)
---
@pages payments = apis.venmo.show_transactions(access_token=venmo, user_email=email, direction="sent", \
min_created_at="2024-05-01")
print(len(payments))
apis.supervisor.complete_task(answer=round(sum(row["amount"] for row in payments), 2))
""",
    wrong="""
@login venmo
@page payments = apis.venmo.show_transactions(access_token=venmo, query=<<first>>, direction="sent")
apis.supervisor.complete_task(answer=round(sum(row["amount"] for row in payments), 2))
""",
)


def _approve(world: World, values: Values) -> Truth:
    mates = related(world.me, "roommate")
    strangers = [*related(world.me, "friend"), *related(world.me, "coworker")]
    asked = [(mate, 12.0 + 3 * number + values["extra"]) for number, mate in enumerate(mates * 2)]
    ids = [
        world.request(mate, world.me, amount, "Household", days=9 - number)
        for number, (mate, amount) in enumerate(asked)
    ]
    for number, person in enumerate(strangers[:5]):
        world.request(person, world.me, 15.0 + number, "Household", days=1 + number / 10)
    added = [
        {"sender_id": world.user("me"), "receiver_id": world.user(mate), "amount": amount} for mate, amount in asked
    ]
    return Truth(
        [
            Rows(
                "venmo.PaymentRequest",
                "the roommates' requests are approved",
                updated={row: {"approved_at": TODAY, "denied_at": None} for row in ids},
            ),
            Rows("venmo.Transaction", "each roommate got the money", added=added),
        ],
        echoes=["venmo.User", "venmo.Notification"],
    )


APPROVE = Scenario(
    name="approvemates",
    split="train",
    difficulty=2,
    instruction="Approve all pending Venmo payment requests from my roommates, and leave everybody else's alone.",
    variants=({"extra": 0.5}, {"extra": 4.0}, {"extra": 7.25}),
    prepare=_approve,
    gold="""
@login phone venmo
@pages mates = apis.phone.search_contacts(access_token=phone, relationship="roommate")
emails = [row["email"] for row in mates if "roommate" in row["relationships"]]
@pages requests = apis.venmo.show_received_payment_requests(access_token=venmo, status="pending")
print(emails, len(requests))
---
for row in requests:
    if row["sender"]["email"] in emails:
        print(apis.venmo.approve_payment_request(payment_request_id=row["payment_request_id"], access_token=venmo))
apis.supervisor.complete_task()
""",
    wrong="""
@login venmo
@page requests = apis.venmo.show_received_payment_requests(access_token=venmo, status="pending")
for row in requests:
    if row["description"] == "Household":
        apis.venmo.approve_payment_request(payment_request_id=row["payment_request_id"], access_token=venmo)
apis.supervisor.complete_task()
""",
)


def _deny(world: World, values: Values) -> Truth:
    people = [person for person in PEOPLE if person is not world.me]
    amounts = [values["limit"] + offset for offset in (14, -8, 0, 25.5, -1.25, 3, -15, 40)]
    ids = [
        world.request(people[number], world.me, amount, "For last week", days=1 + number)
        for number, amount in enumerate(amounts)
    ]
    denied = [row for row, amount in zip(ids, amounts, strict=True) if amount > values["limit"]]
    when = {"denied_at": TODAY, "approved_at": None}
    rows = Rows("venmo.PaymentRequest", "the requests above the limit are denied", updated=dict.fromkeys(denied, when))
    return Truth([rows], echoes=["venmo.Notification"])


DENY = Scenario(
    name="denybig",
    split="train",
    difficulty=1,
    instruction="Deny every pending Venmo payment request I have received for more than ${limit}.",
    variants=({"limit": 30}, {"limit": 45}, {"limit": 60}),
    prepare=_deny,
    gold="""
@login venmo
@pages requests = apis.venmo.show_received_payment_requests(access_token=venmo, status="pending")
print([(row["payment_request_id"], row["amount"]) for row in requests])
---
for row in requests:
    if row["amount"] > <<limit>>:
        print(apis.venmo.deny_payment_request(payment_request_id=row["payment_request_id"], access_token=venmo))
apis.supervisor.complete_task()
""",
    wrong="""
@login venmo
@page requests = apis.venmo.show_received_payment_requests(access_token=venmo, status="pending")
for row in requests:
    if row["amount"] >= <<limit>>:
        apis.venmo.deny_payment_request(payment_request_id=row["payment_request_id"], access_token=venmo)
apis.supervisor.complete_task()
""",
)


def _comment(world: World, values: Values) -> Truth:
    person = world.person(values["to"])
    values |= {"first": person.first_name, "role": relationship(world.me, person)}
    twin = next(other for other in PEOPLE if other.first_name == person.first_name and other is not person)
    for number in range(4):
        world.payment(world.me, person, 5.0 + number, f"Tea {number + 1}", days=2.5 - number / 4)
    latest = world.payment(world.me, person, 11.0, "Tea at last", days=0.8)
    world.payment(person, world.me, 11.0, "Back at you", days=0.5)
    world.payment(world.me, twin, 11.0, "Tea at last", days=0.2)
    wanted = {"transaction_id": latest, "user_id": world.user("me"), "comment": values["words"]}
    return Truth([Rows("venmo.TransactionComment", "the latest payment carries the comment", added=[wanted])])


COMMENT = Scenario(
    name="commentlatest",
    split="dev",
    difficulty=1,
    instruction='Comment "{words}" on the most recent Venmo payment that I sent to {first}, my {role}.',
    variants=(
        {"me": "priya", "to": "marco", "words": "Same time next week?"},
        {"me": "nadia", "to": "lena", "words": "Worth every cent"},
        {"me": "tobias", "to": "marcob", "words": "You owe me a cup"},
    ),
    prepare=_comment,
    gold="""
@login phone venmo
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship=<<role>>)
email = next(row["email"] for row in contacts if row["first_name"] == <<first>>)
@pages payments = apis.venmo.show_transactions(access_token=venmo, user_email=email, direction="sent")
latest = max(payments, key=lambda row: row["created_at"])
print(latest)
---
apis.venmo.create_transaction_comment(transaction_id=latest["transaction_id"], comment=<<words>>, access_token=venmo)
apis.supervisor.complete_task()
""",
    wrong="""
@login venmo
@page payments = apis.venmo.show_transactions(access_token=venmo, query=<<first>>, sort_by="-created_at")
apis.venmo.create_transaction_comment(transaction_id=payments[0]["transaction_id"], comment=<<words>>, \
access_token=venmo)
apis.supervisor.complete_task()
""",
)


def _thank(world: World, values: Values) -> Truth:
    people = [*related(world.me, values["role"]), *related(world.me, "sibling"), *related(world.me, "manager")]
    ids = [
        world.payment(person, world.me, 8.0 + number, values["for"], days=1.5 + number)
        for number, person in enumerate(people * 2)
    ]
    world.save("venmo.TransactionLike", transaction_id=ids[0], user_id=world.user("me"))
    world.payment(world.me, people[0], 9.0, values["for"], days=1.1)
    senders = {world.user(person) for person in related(world.me, values["role"])}
    models = world.models.venmo
    rows = [
        row.id
        for row in models.Transaction.find_all(receiver_id=world.user("me"))
        if row.sender_id in senders and row.created_at.month == NOW.month and row.id != ids[0]
    ]
    wanted = [{"transaction_id": row, "user_id": world.user("me")} for row in rows]
    what = "this month's payments from those people are liked"
    return Truth([Rows("venmo.TransactionLike", what, added=wanted)], echoes=["venmo.Transaction"])


THANK = Scenario(
    name="likepayments",
    split="test_normal",
    difficulty=2,
    instruction=(
        "Like every Venmo payment that I have received from my {role}s since the first of May 2024 and have "
        "not liked yet."
    ),
    variants=(
        {"role": "coworker", "for": "Lunch round"},
        {"role": "friend", "for": "Board game"},
        {"role": "roommate", "for": "Light bulbs"},
    ),
    prepare=_thank,
    gold="""
@login phone venmo
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship=<<role>>)
emails = [row["email"] for row in contacts]
@pages payments = apis.venmo.show_transactions(access_token=venmo, direction="received", min_created_at="2024-05-01")
print(len(contacts), len(payments))
---
for row in payments:
    if row["sender"]["email"] in emails:
        try:
            print(apis.venmo.like_transaction(transaction_id=row["transaction_id"], access_token=venmo))
        except Exception as error:
            print(error)
apis.supervisor.complete_task()
""",
    wrong="""
@login venmo
@page payments = apis.venmo.show_transactions(access_token=venmo, direction="received", min_created_at="2024-05-01")
for row in payments:
    try:
        apis.venmo.like_transaction(transaction_id=row["transaction_id"], access_token=venmo)
    except Exception as error:
        print(error)
apis.supervisor.complete_task()
""",
)


def _befriend(world: World, values: Values) -> Truth:
    friends = {row.friend_id for row in world.models.venmo.Friendship.find_all(user_id=world.user("me"))}
    people = [other for other in PEOPLE if other is not world.me and relationship(world.me, other) == values["role"]]
    wanted = [
        {"user_id": world.user("me"), "friend_id": world.user(person)}
        for person in people
        if world.user(person) not in friends
    ]
    return Truth([Rows("venmo.Friendship", "all of them are friends on Venmo", added=wanted)])


BEFRIEND = Scenario(
    name="befriend",
    split="test_challenge",
    difficulty=1,
    instruction="Add all of my {role}s as friends on Venmo. Some may be friends there already.",
    variants=(
        {"me": "nadia", "role": "friend"},
        {"me": "tobias", "role": "coworker"},
        {"me": "oskar", "role": "friend"},
    ),
    prepare=_befriend,
    gold="""
@login phone venmo
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship=<<role>>)
@pages friends = apis.venmo.search_friends(access_token=venmo)
known = {row["email"] for row in friends}
---
for row in contacts:
    if row["email"] not in known:
        print(apis.venmo.add_friend(user_email=row["email"], access_token=venmo))
apis.supervisor.complete_task()
""",
    wrong="""
@login phone venmo
@page contacts = apis.phone.search_contacts(access_token=phone, query=<<role>>)
for row in contacts:
    try:
        apis.venmo.add_friend(user_email=row["email"], access_token=venmo)
    except Exception as error:
        print(error)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (PAY_RENT, SPENT, APPROVE, DENY, COMMENT, THANK, BEFRIEND)
