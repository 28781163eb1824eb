"""Scenarios about text messages, voice messages, e-mails and alarms."""

from __future__ import annotations

from environments.appworld.world.people import BY_KEY, PEOPLE, related, relationship
from environments.appworld.world.records import World, ago
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _sent(world: World, people: list[str], message: str) -> Rows:
    rows = [{"sender_id": world.user("me"), "receiver_id": world.user(person), "message": message} for person in people]
    return Rows("phone.GlobalTextMessage", "the text is sent once to each of the right people", added=rows)


def _text(world: World, values: Values) -> Truth:
    person = world.person(values["to"])
    values |= {"first": person.first_name, "role": relationship(world.me, person)}
    return Truth([_sent(world, [person.key], values["words"])], echoes=["phone.UserTextMessage"])


TEXT = Scenario(
    name="textone",
    split="train",
    difficulty=1,
    instruction='Text my {role} {first}: "{words}"',
    variants=(
        {"me": "nadia", "to": "lenaq", "words": "The spare key is under the fern."},
        {"me": "tobias", "to": "marcob", "words": "Tickets are booked, row F."},
        {"me": "oskar", "to": "lenaq", "words": "Your parcel is with me."},
    ),
    prepare=_text,
    gold="""
@login phone
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship=<<role>>)
contact = next(row for row in contacts if row["first_name"] == <<first>>)
print(contact)
---
apis.phone.send_text_message(phone_number=contact["phone_number"], message=<<words>>, access_token=phone)
apis.supervisor.complete_task()
""",
    wrong="""
@login phone
@page contacts = apis.phone.search_contacts(access_token=phone, query=<<first>>)
contact = next(row for row in contacts if row["first_name"] == <<first>>)
apis.phone.send_text_message(phone_number=contact["phone_number"], message=<<words>>, access_token=phone)
apis.supervisor.complete_task()
""",
)


def _code(world: World, values: Values) -> Truth:
    source, target = world.person(values["from"]), world.person(values["to"])
    values |= {"source": source.name, "target": target.name}
    world.text(source, world.me, f"The {values['door']} code is {values['old']}", days=9)
    world.text(source, world.me, f"They changed it again. The {values['door']} code is {values['code']}", days=3)
    for number in range(6):
        world.text(source, world.me, f"Leaves swept, day {number + 1}", days=2.5 - number / 3)
    world.text("yusuf" if source.key != "yusuf" else "dara", world.me, f"The {values['door']} code is 0000", days=0.1)
    return Truth([_sent(world, [target.key], values["code"])], echoes=["phone.UserTextMessage"])


CODE = Scenario(
    name="forwardcode",
    split="train",
    difficulty=2,
    instruction="{source} has texted me the current {door} code. Text just the code, nothing else, to {target}.",
    variants=(
        {"from": "rowan", "to": "ines", "door": "cellar", "old": "4410", "code": "7152"},
        {"from": "greta", "to": "felix", "door": "garage", "old": "9031", "code": "2268"},
        {"from": "marco", "to": "dara", "door": "attic", "old": "5577", "code": "8340"},
    ),
    prepare=_code,
    gold="""
@login phone
@pages contacts = apis.phone.search_contacts(access_token=phone)
number = {row["first_name"] + " " + row["last_name"]: row["phone_number"] for row in contacts}
@pages messages = apis.phone.show_text_message_window(phone_number=number[<<source>>], access_token=phone)
told = [row for row in messages if <<door>> + " code is " in row["message"] \
and row["sender"]["phone_number"] == number[<<source>>]]
latest = max(told, key=lambda row: row["sent_at"])
print(latest["message"])
---
code = latest["message"].split("code is ")[1]
apis.phone.send_text_message(phone_number=number[<<target>>], message=code, access_token=phone)
apis.supervisor.complete_task()
""",
    wrong="""
@login phone
@page messages = apis.phone.search_text_messages(access_token=phone, query=<<door>> + " code", sort_by="-created_at")
code = messages[0]["message"].split("is ")[-1]
@pages contacts = apis.phone.search_contacts(access_token=phone)
number = {row["first_name"] + " " + row["last_name"]: row["phone_number"] for row in contacts}
apis.phone.send_text_message(phone_number=number[<<target>>], message=code, access_token=phone)
apis.supervisor.complete_task()
""",
)


def _birthdays(world: World, values: Values) -> Truth:
    people = [
        person
        for person in PEOPLE
        if person is not world.me
        and relationship(world.me, person) == values["role"]
        and person.birthday[5:7] in values["months"]
    ]
    if not people:
        raise ValueError(f"no {values['role']} of {world.me.name} has a birthday in months {values['months']}")
    values |= {"span": " or ".join(values["names"])}
    return Truth([_sent(world, [person.key for person in people], values["words"])], echoes=["phone.UserTextMessage"])


BIRTHDAYS = Scenario(
    name="birthdays",
    split="test_normal",
    difficulty=2,
    instruction='Text "{words}" to every {role} among my contacts whose birthday is in {span}.',
    variants=(
        {
            "me": "priya",
            "role": "friend",
            "months": ["10", "11"],
            "names": ["October", "November"],
            "words": "Cake soon?",
        },
        {
            "me": "tobias",
            "role": "coworker",
            "months": ["03", "04"],
            "names": ["March", "April"],
            "words": "Save the date!",
        },
        {
            "me": "nadia",
            "role": "friend",
            "months": ["01", "02", "06"],
            "names": ["January", "February", "June"],
            "words": "Guess what I found",
        },
    ),
    prepare=_birthdays,
    gold="""
@login phone
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship=<<role>>)
chosen = [row for row in contacts if row["birthday"][5:7] in <<months>>]
print([(row["first_name"], row["birthday"]) for row in chosen])
---
for row in chosen:
    print(apis.phone.send_text_message(phone_number=row["phone_number"], message=<<words>>, access_token=phone))
apis.supervisor.complete_task()
""",
    wrong="""
@login phone
@page contacts = apis.phone.search_contacts(access_token=phone)
for row in contacts:
    if row["birthday"][5:7] in <<months>>:
        apis.phone.send_text_message(phone_number=row["phone_number"], message=<<words>>, access_token=phone)
apis.supervisor.complete_task()
""",
)


def _alarms(world: World, values: Values) -> Truth:
    weekend = {"saturday", "sunday"}
    for number, (label, days) in enumerate(values["alarms"]):
        world.alarm(f"{6 + number:02d}:20", label, days=days, enabled=number != 1)
    rows = world.models.phone.Alarm.find_all(user_id=world.user("me"), enabled=True)
    wanted = {row.id: {"enabled": False} for row in rows if weekend & set(row.repeat_days)}
    return Truth([Rows("phone.Alarm", "the alarms that ring on a weekend are off", updated=wanted)])


ALARMS = Scenario(
    name="alarmsoff",
    split="train",
    difficulty=1,
    instruction="Switch off every alarm on my phone that rings on a Saturday or a Sunday. Keep the others as they are.",
    variants=(
        {
            "alarms": [
                ["Run", ["saturday"]],
                ["Pills", ["sunday"]],
                ["Work", ["monday", "tuesday"]],
                ["Tea", ["friday", "saturday"]],
                ["Cat", []],
            ]
        },
        {
            "alarms": [
                ["Bakery", ["sunday"]],
                ["Row", ["saturday"]],
                ["Bus", ["monday"]],
                ["Call", ["wednesday"]],
                ["Market", ["saturday"]],
            ]
        },
        {
            "alarms": [
                ["Choir", ["thursday"]],
                ["Dog", ["saturday", "sunday"]],
                ["Gym", ["monday"]],
                ["Pool", ["sunday"]],
                ["Nap", ["sunday"]],
            ]
        },
    ),
    prepare=_alarms,
    gold="""
@login phone
@pages alarms = apis.phone.show_alarms(access_token=phone)
print([(row["label"], row["repeat_days"], row["enabled"]) for row in alarms])
---
for row in alarms:
    if row["enabled"] and {"saturday", "sunday"} & set(row["repeat_days"]):
        print(apis.phone.update_alarm(alarm_id=row["alarm_id"], enabled=False, access_token=phone))
apis.supervisor.complete_task()
""",
    wrong="""
@login phone
@page alarms = apis.phone.show_alarms(access_token=phone)
for row in alarms:
    if {"saturday", "sunday"} & set(row["repeat_days"]):
        apis.phone.update_alarm(alarm_id=row["alarm_id"], enabled=False, access_token=phone)
apis.supervisor.complete_task()
""",
)


def _voice(world: World, values: Values) -> Truth:
    callers = [*related(world.me, "manager"), *related(world.me, "sibling"), *related(world.me, "coworker")]
    mentioned = [(person, 0.05 * (number + 1)) for number, person in enumerate(callers)]
    mentioned += [(callers[0], 0.12), (BY_KEY[values["late"]], 1.2), (callers[1], 2.0)]
    for person, days in mentioned:
        _voice_message(world, person.key, f"Call me about {values['about']}.", days)
    today = [person.key for person in callers]
    wanted = [
        {"sender_id": world.user("me"), "receiver_id": world.user(key), "message": values["words"]} for key in today
    ]
    what = "everybody who left a voice message today gets one answer"
    return Truth([Rows("phone.GlobalVoiceMessage", what, added=wanted)], echoes=["phone.UserVoiceMessage"])


def _voice_message(world: World, sender: str, message: str, days: float) -> None:
    people, when = (world.user(sender), world.user("me")), ago(days)
    row = world.save(
        "phone.GlobalVoiceMessage", sender_id=people[0], receiver_id=people[1], message=message, created_at=when
    )
    for owner in people:
        world.save("phone.UserVoiceMessage", global_voice_message_id=row, user_id=owner, created_at=when)


VOICE = Scenario(
    name="voiceback",
    split="test_challenge",
    difficulty=2,
    instruction='Send the voice message "{words}" once to everybody who has left me a voice message today.',
    variants=(
        {"about": "the roof", "words": "I will ring you tonight.", "late": "marcob", "me": "nadia"},
        {"about": "the fair", "words": "Yes to all of it.", "late": "dara", "me": "tobias"},
        {"about": "the goats", "words": "Please, no more goats.", "late": "felix", "me": "priya"},
    ),
    prepare=_voice,
    gold="""
@login phone
@pages messages = apis.phone.search_voice_messages(access_token=phone)
mine = profile["phone_number"]
today = [row for row in messages if row["sent_at"].startswith("2024-05-17") and row["sender"]["phone_number"] != mine]
callers = sorted({row["sender"]["phone_number"] for row in today})
print(callers)
---
for number in callers:
    print(apis.phone.send_voice_message(phone_number=number, message=<<words>>, access_token=phone))
apis.supervisor.complete_task()
""",
    wrong="""
@login phone
@page messages = apis.phone.search_voice_messages(access_token=phone)
for row in messages:
    apis.phone.send_voice_message(phone_number=row["sender"]["phone_number"], message=<<words>>, access_token=phone)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (TEXT, CODE, ALARMS, BIRTHDAYS, VOICE)
