"""Scenarios about shared expenses: who owes whom, and setting it right."""

from __future__ import annotations

from environments.appworld.world.people import related
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _ask_back(world: World, values: Values) -> Truth:
    people = [*related(world.me, "coworker"), *related(world.me, "friend")][:5]
    shares = [round(values["share"] + 2.5 * number, 2) for number in range(5)]
    lines = [f"- {person.name}: ${share:.2f}" for person, share in zip(people, shares, strict=True)]
    world.note(f"Who owes me for {values['what']}", "\n".join(lines), days=12, tags=["money"])
    world.payment(people[1], world.me, shares[1], values["what"], days=4)
    world.payment(people[3], world.me, shares[3], values["what"], days=1, private=True)
    world.payment(people[0], world.me, shares[0], "Something else", days=2)
    world.payment(people[4], world.me, shares[4], values["what"], days=400)
    wanted = [
        {
            "sender_id": world.user("me"),
            "receiver_id": world.user(people[number]),
            "amount": shares[number],
            "description": values["what"],
        }
        for number in (0, 2, 4)
    ]
    what = "everybody who has not paid is asked for the right amount"
    return Truth([Rows("venmo.PaymentRequest", what, added=wanted)], echoes=["venmo.Notification"])


ASK_BACK = Scenario(
    name="askback",
    split="test_normal",
    difficulty=3,
    instruction=(
        'A note of mine says who owes me how much for "{what}". Whoever has paid sent me that amount on Venmo '
        "this month, described as"
        ' "{what}". Send everybody else on the list a Venmo payment request for their amount with the '
        'description "{what}".'
    ),
    variants=(
        {"what": "The boat trip", "share": 14.5},
        {"what": "Concert in the park", "share": 31.0},
        {"what": "Birthday cake", "share": 6.25},
    ),
    prepare=_ask_back,
    gold="""
@login simple_note phone venmo
@pages notes = apis.simple_note.search_notes(access_token=simple_note, query=<<what>>)
note = next(row for row in notes if row["title"] == "Who owes me for " + <<what>>)
content = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note)["content"]
owed = {line[2:].split(": $")[0]: float(line.split(": $")[1]) for line in content.splitlines()}
print(owed)
---
@pages contacts = apis.phone.search_contacts(access_token=phone)
email = {row["first_name"] + " " + row["last_name"]: row["email"] for row in contacts}
@pages received = apis.venmo.show_transactions(access_token=venmo, direction="received", min_created_at="2024-05-01")
paid = {(row["sender"]["email"], row["amount"]) for row in received if row["description"] == <<what>>}
print(paid)
---
for name, amount in owed.items():
    if (email[name], amount) not in paid:
        print(apis.venmo.create_payment_request(user_email=email[name], amount=amount, description=<<what>>, \
access_token=venmo))
apis.supervisor.complete_task()
""",
    wrong="""
@login simple_note phone venmo
@page notes = apis.simple_note.search_notes(access_token=simple_note, query=<<what>>)
content = apis.simple_note.show_note(note_id=notes[0]["note_id"], access_token=simple_note)["content"]
@pages contacts = apis.phone.search_contacts(access_token=phone)
email = {row["first_name"] + " " + row["last_name"]: row["email"] for row in contacts}
@pages received = apis.venmo.show_transactions(access_token=venmo, direction="received")
paid = {row["sender"]["email"] for row in received}
for line in content.splitlines():
    if ": $" in line:
        name, amount = line[2:].split(": $")
        if email[name] not in paid:
            apis.venmo.create_payment_request(user_email=email[name], amount=float(amount), description=<<what>>, \
access_token=venmo)
apis.supervisor.complete_task()
""",
)


def _groceries(world: World, values: Values) -> Truth:
    mates = related(world.me, "roommate")
    other = related(world.me, "friend")[0]
    amounts = (values["first"], values["second"])
    world.text(mates[0], world.me, f"I spent ${amounts[0] + 9} on groceries, will check", days=0.3)
    world.text(mates[0], world.me, f"Checked: it was ${amounts[0]} for groceries", days=0.2)
    world.text(mates[1], world.me, f"It was ${amounts[1]} for groceries", days=0.25)
    world.text(mates[1], world.me, "It was $99 for groceries", days=8)
    world.text(other, world.me, "It was $12 for groceries", days=0.1)
    for number in range(6):
        world.text(mates[0], world.me, f"Shelf {number + 1} is clean now", days=0.15 - number / 100)
    wanted = [
        {
            "sender_id": world.user("me"),
            "receiver_id": world.user(mate),
            "amount": amount / 2,
            "description": "Groceries",
        }
        for mate, amount in zip(mates, amounts, strict=True)
    ]
    rows = Rows("venmo.Transaction", "each roommate gets half of what they paid", added=wanted)
    return Truth([rows], echoes=["venmo.User", "venmo.Notification"])


GROCERIES = Scenario(
    name="groceriesback",
    split="train",
    difficulty=3,
    instruction=(
        "Each of my roommates has texted me in the last 24 hours what they paid for groceries; where there "
        "were two messages about it,"
        ' the later one counts. Send each of them half of their amount on Venmo, with the description "Groceries".'
    ),
    variants=({"first": 41, "second": 26}, {"first": 58, "second": 33}, {"first": 19, "second": 75}),
    prepare=_groceries,
    gold="""
@login phone venmo
@pages mates = apis.phone.search_contacts(access_token=phone, relationship="roommate")
print([row["first_name"] for row in mates])
---
amounts = {}
for mate in mates:
    number = mate["phone_number"]
    @pages messages = apis.phone.show_text_message_window(phone_number=number, access_token=phone, \
min_datetime="2024-05-16|11:30:00")
    mine = [row for row in messages if row["sender"]["phone_number"] == number and "groceries" in row["message"]]
    latest = max(mine, key=lambda row: row["sent_at"])
    print(latest["message"])
    amounts[mate["email"]] = float(latest["message"].split("$")[1].split()[0]) / 2
---
for email, amount in amounts.items():
    print(apis.venmo.create_transaction(receiver_email=email, amount=amount, description="Groceries", \
access_token=venmo))
apis.supervisor.complete_task()
""",
    wrong="""
@login phone venmo
@page messages = apis.phone.search_text_messages(access_token=phone, query="groceries")
@pages contacts = apis.phone.search_contacts(access_token=phone)
email = {row["phone_number"]: row["email"] for row in contacts}
for row in messages[:2]:
    if "groceries" in row["message"] and row["sender"]["phone_number"] in email:
        amount = float(row["message"].split("$")[1].split()[0]) / 2
        apis.venmo.create_transaction(receiver_email=email[row["sender"]["phone_number"]], amount=amount, \
description="Groceries", access_token=venmo)
apis.supervisor.complete_task()
""",
)


def _meal(world: World, values: Values) -> Truth:
    mates = [*related(world.me, "coworker"), *related(world.me, "sibling")]
    group = world.group(values["group"], [world.me, *mates])
    world.group(values["group"] + " (old)", [world.me, *mates[:2]])
    away = mates[1]
    values |= {"away": away.first_name}
    guests = [world.user(person) for person in (world.me, *mates) if person is not away]
    share = round(values["amount"] / len(guests), 2)
    expense = {
        "group_id": group,
        "payer_id": world.user("me"),
        "amount": values["amount"],
        "description": values["what"],
    }
    shares = [{"debtor_id": guest, "share_amount": share} for guest in guests]
    return Truth(
        [
            Rows("splitwise.Expense", "the expense is recorded once in the right group", added=[expense]),
            Rows("splitwise.ExpenseShare", "everybody who was there owes an equal share", added=shares),
        ],
        echoes=["splitwise.Notification"],
    )


MEAL = Scenario(
    name="splitmeal",
    split="test_challenge",
    difficulty=2,
    instruction=(
        'I paid ${amount} for "{what}". Record it in my Splitwise group "{group}", split equally between all '
        "of us, me included;"
        " only {away} was not there."
    ),
    variants=(
        {"group": "Lunch club", "what": "Noodles", "amount": 64.0},
        {"group": "Climbing", "what": "Hut dinner", "amount": 98.0},
        {"group": "Quiz team", "what": "Pizza night", "amount": 51.0},
    ),
    prepare=_meal,
    gold="""
@login splitwise
@pages groups = apis.splitwise.show_groups(access_token=splitwise)
group = next(row for row in groups if row["name"] == <<group>>)
print(group["members"])
---
guests = [row["email"] for row in group["members"] if row["name"].split()[0] != <<away>>]
expense = apis.splitwise.record_expense(
    description=<<what>>, paid_amount=<<amount>>, payer_email=profile["email"], debtor_emails=guests,
    group_id=group["group_id"], access_token=splitwise,
)
print(expense)
apis.supervisor.complete_task()
""",
    wrong="""
@login splitwise
@pages groups = apis.splitwise.show_groups(access_token=splitwise)
group = next(row for row in groups if row["name"] == <<group>>)
guests = [row["email"] for row in group["members"] if row["email"] != profile["email"]]
apis.splitwise.record_expense(
    description=<<what>>, paid_amount=<<amount>>, payer_email=profile["email"], debtor_emails=guests,
    group_id=group["group_id"], access_token=splitwise,
)
apis.supervisor.complete_task()
""",
)


def _settle(world: World, values: Values) -> Truth:
    mates = [*related(world.me, "coworker"), *related(world.me, "manager")]
    group = world.group(values["group"], [world.me, *mates])
    world.expense(mates[0], [world.me, mates[0]], values["big"], "Train", group=group)
    world.expense(mates[0], [world.me, mates[0]], 12.0, "Coffee", group=group)
    world.expense(mates[3], [world.me, mates[3]], 30.0, "Boat", group=group)
    world.expense(world.me, [world.me, mates[1]], 44.0, "Tickets", group=group)
    owed = {mates[0]: (values["big"] + 12.0) / 2, mates[3]: 15.0}
    paid = [
        {
            "sender_id": world.user("me"),
            "receiver_id": world.user(mate),
            "amount": amount,
            "description": values["group"],
        }
        for mate, amount in owed.items()
    ]
    settled = [
        {"group_id": group, "payer_id": world.user("me"), "receiver_id": world.user(mate), "amount": amount}
        for mate, amount in owed.items()
    ]
    return Truth(
        [
            Rows("venmo.Transaction", "everybody I owe in the group is paid on Venmo", added=paid),
            Rows("splitwise.Payment", "the same payments are settled in the group", added=settled),
        ],
        echoes=["venmo.User", "venmo.Notification", "splitwise.Notification"],
    )


SETTLE = Scenario(
    name="settleup",
    split="test_challenge",
    difficulty=3,
    instruction=(
        'Look up what I owe in my Splitwise group "{group}". Pay everybody I owe the amount on Venmo with the '
        'description "{group}",'
        " and settle up with them in that group. Leave those who owe me alone."
    ),
    variants=(
        {"group": "Team outing", "big": 36.0},
        {"group": "Fair stand", "big": 58.0},
        {"group": "Spring trip", "big": 71.0},
    ),
    prepare=_settle,
    gold="""
@login splitwise venmo
@pages groups = apis.splitwise.show_groups(access_token=splitwise)
group = next(row["group_id"] for row in groups if row["name"] == <<group>>)
balance = apis.splitwise.show_group_balance(group_id=group, email=profile["email"], access_token=splitwise)
owed = balance[0]["source_owes_to_targets"]["breakdown"]
print(owed)
---
for row in owed:
    apis.venmo.create_transaction(receiver_email=row["email"], amount=row["amount"], description=<<group>>, \
access_token=venmo)
    print(apis.splitwise.settle_up(email=row["email"], group_id=group, access_token=splitwise))
apis.supervisor.complete_task()
""",
    wrong="""
@login splitwise venmo
@pages groups = apis.splitwise.show_groups(access_token=splitwise)
group = next(row["group_id"] for row in groups if row["name"] == <<group>>)
@page expenses = apis.splitwise.show_group_expenses(group_id=group, access_token=splitwise)
for row in expenses:
    if row["payer"]["email"] != profile["email"]:
        apis.venmo.create_transaction(receiver_email=row["payer"]["email"], amount=row["paid_amount"], \
description=<<group>>, access_token=venmo)
        try:
            apis.splitwise.settle_up(email=row["payer"]["email"], group_id=group, access_token=splitwise)
        except Exception as error:
            print(error)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (GROCERIES, ASK_BACK, MEAL, SETTLE)
