"""Scenarios about e-mail."""

from __future__ import annotations

from environments.appworld.world.people import related
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _star(world: World, values: Values) -> Truth:
    boss = related(world.me, "manager")[0]
    wanted = {}
    for number in range(7):
        read = number in values["read"]
        thread, _ = world.mail(
            boss, world.me, f"{values['about']} {number + 1}", "See below.", days=1 + number, read=read
        )
        if not read:
            wanted[thread] = {"starred": True}
    world.mail(related(world.me, "coworker")[0], world.me, f"{values['about']} 1", "Fw: see below.", days=0.3)
    rows = world.models.gmail.UserEmailThread.find_all(user_id=world.user("me"), read=False)
    wanted |= {row.id: {"starred": True} for row in rows if boss.email in row.sender_email_addresses}
    return Truth([Rows("gmail.UserEmailThread", "every unread thread from the manager is starred", updated=wanted)])


STAR = Scenario(
    name="starmail",
    split="train",
    difficulty=2,
    instruction="Star every unread e-mail thread in my inbox that has an e-mail from my manager.",
    variants=(
        {"about": "Figures", "read": [1, 2, 5]},
        {"about": "Audit", "read": [0]},
        {"about": "Office move", "read": [3, 4]},
    ),
    prepare=_star,
    gold="""
@login phone gmail
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship="manager")
boss = next(row["email"] for row in contacts if "manager" in row["relationships"])
@pages threads = apis.gmail.show_inbox_threads(access_token=gmail, from_email=boss, read=False)
print(boss, [row["subject"] for row in threads])
---
for row in threads:
    if not row["starred"]:
        print(apis.gmail.mark_thread_starred(email_thread_id=row["email_thread_id"], access_token=gmail))
apis.supervisor.complete_task()
""",
    wrong="""
@login gmail
@page threads = apis.gmail.show_inbox_threads(access_token=gmail, query=<<about>>)
for row in threads:
    if not row["starred"]:
        apis.gmail.mark_thread_starred(email_thread_id=row["email_thread_id"], access_token=gmail)
apis.supervisor.complete_task()
""",
)


def _reply(world: World, values: Values) -> Truth:
    person = world.person(values["from"])
    values |= {"name": person.name}
    world.mail(person, world.me, values["subject"], "Could you tell me by Friday?", days=9, read=True)
    _, email = world.mail(person, world.me, values["subject"], "Asking again: could you tell me?", days=1)
    world.mail(values["other"], world.me, values["subject"], "I would like to know too.", days=0.4)
    wanted = {
        "sender_id": world.user("me"),
        "recipient_ids": [world.user(person)],
        "response_to_email_id": email,
        "body": values["words"],
    }
    return Truth(
        [Rows("gmail.Email", "the latest of the two e-mails is answered", added=[wanted])],
        echoes=["gmail.UserEmailThread", "gmail.GlobalEmailThread"],
    )


REPLY = Scenario(
    name="replymail",
    split="test_normal",
    difficulty=1,
    instruction='Reply to the latest e-mail from {name} about "{subject}" with the text "{words}".',
    variants=(
        {"from": "ines", "other": "greta", "subject": "Shoe size", "words": "Forty-one, and a half on bad days."},
        {"from": "yusuf", "other": "rowan", "subject": "Arrival", "words": "Platform three at noon."},
        {"from": "lena", "other": "lenaq", "subject": "Allergies", "words": "Only to surprises."},
    ),
    prepare=_reply,
    gold="""
@login gmail phone
@pages contacts = apis.phone.search_contacts(access_token=phone)
email = next(row["email"] for row in contacts if row["first_name"] + " " + row["last_name"] == <<name>>)
@pages threads = apis.gmail.show_inbox_threads(access_token=gmail, from_email=email)
thread = max((row for row in threads if row["subject"] == <<subject>>), key=lambda row: row["created_at"])
print(thread)
---
print(apis.gmail.reply_to_email(email_thread_id=thread["email_thread_id"], email_id=thread["email_ids"][-1], \
body=<<words>>, access_token=gmail))
apis.supervisor.complete_task()
""",
    wrong="""
@login gmail
@page threads = apis.gmail.show_inbox_threads(access_token=gmail, query=<<subject>>, sort_by="-created_at")
thread = threads[0]
apis.gmail.reply_to_email(email_thread_id=thread["email_thread_id"], email_id=thread["email_ids"][-1], \
body=<<words>>, access_token=gmail)
apis.supervisor.complete_task()
""",
)


def _archive(world: World, values: Values) -> Truth:
    people = related(world.me, "friend")
    wanted = {}
    for number in range(8):
        subject, read = f"{values['list']} digest {number + 1}", number % 3 != 0
        body = "Much news, little of it good."
        thread, _ = world.mail(people[number % 3], world.me, subject, body, days=3 * number + 1, read=read)
        if read:
            wanted[thread] = {"archived": True}
    world.mail(people[0], world.me, f"About the {values['list']} digest", "Shall we stop it?", days=2, read=True)
    return Truth([Rows("gmail.UserEmailThread", "the digests that were read are archived", updated=wanted)])


ARCHIVE = Scenario(
    name="archiveread",
    split="dev",
    difficulty=2,
    instruction=(
        'Archive all the read threads in my inbox whose subject is "{list} digest" and a number. Leave the unread ones.'
    ),
    variants=({"list": "Harbour"}, {"list": "Beekeepers"}, {"list": "Chess club"}),
    prepare=_archive,
    gold="""
@login gmail
@pages threads = apis.gmail.show_inbox_threads(access_token=gmail, read=True)
chosen = [row for row in threads if row["subject"].startswith(<<list>> + " digest ")]
print([row["subject"] for row in chosen])
---
for row in chosen:
    print(apis.gmail.mark_thread_archived(email_thread_id=row["email_thread_id"], access_token=gmail))
apis.supervisor.complete_task()
""",
    wrong="""
@login gmail
@page threads = apis.gmail.show_inbox_threads(access_token=gmail, query=<<list>> + " digest")
for row in threads:
    apis.gmail.mark_thread_archived(email_thread_id=row["email_thread_id"], access_token=gmail)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (STAR, REPLY, ARCHIVE)
