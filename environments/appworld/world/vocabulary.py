"""The short language of AppWorldMini: its commands, their words, and the Python that makes each a line to run.

Read on both sides: by what builds the Mini tasks, in AppWorld's interpreter, and by the environment that plays them. It
imports nothing.
"""

from __future__ import annotations

NAMES = ("yusuf", "greta", "dara", "felix", "ines", "rowan")
"""People a command can name, by their first names."""
ITEMS = ("mop", "bins", "tax", "cook", "mail", "shop", "call", "wash")
"""Things on the to-do list."""
THINGS = ("gas", "food", "rent", "door", "wifi", "safe")
"""Other words a note has a number for."""
DAYS = ("mon", "tue", "wed", "thu", "fri")
THEME = "club"
"""Title of the note and the project, and description of the payments, that Mini tasks are about."""

WORDS = {"NAME": NAMES, "ITEM": ITEMS, "DAY": DAYS, "WORD": (*NAMES, *THINGS)}
"""The words of each kind that a command can take; a NUMBER is written in digits."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "note": ("WORD",),
    "sent": ("NAME",),
    "got": ("NAME",),
    "asked": ("NAME",),
    "todo": ("DAY",),
    "pay": ("NAME", "NUMBER"),
    "ask": ("NAME", "NUMBER"),
    "accept": ("NUMBER",),
    "tick": ("ITEM",),
    "text": ("NAME", "NUMBER"),
    "done": (),
    "answer": ("NUMBER",),
}
"""Command to the kinds of its words. The first five look something up, the others act and end the task."""
LOOK_UPS = ("note", "sent", "got", "asked", "todo")

_TOOLS = """
addresses = {mail}
phones = {number}
accounts = {accounts}
{words} = {quoted}
tokens = {{}}

def token(app):
    if app not in tokens:
        username, password = accounts[app]
        tokens[app] = getattr(apis, app).login(username=username, password=password)["access_token"]
    return tokens[app]

def told(found):
    print(found[0] if found else "none")

def payment(direction, side, name):
    rows = apis.venmo.show_transactions(
        access_token=token("venmo"), direction=direction, query="{theme}", min_created_at="2024-05-10", page_limit=20
    )
    told([int(row["amount"]) for row in rows if row["description"] == "{theme}" \
and row[side]["email"] == addresses[name]])

def note(word):
    rows = apis.simple_note.search_notes(access_token=token("simple_note"), query="{theme}")
    ids = [row["note_id"] for row in rows if row["title"] == "{theme}"]
    said = apis.simple_note.show_note(note_id=ids[0], access_token=token("simple_note"))["content"] if ids else ""
    told([entry.split()[1] for entry in said.split(", ") if entry.split()[:1] == [word]])

def sent(name):
    payment("sent", "receiver", name)

def got(name):
    payment("received", "sender", name)

def asked(name):
    rows = apis.venmo.show_received_payment_requests(access_token=token("venmo"), status="pending", page_limit=20)
    told([
        row["payment_request_id"]
        for row in rows
        if row["description"] == "{theme}" and row["sender"]["email"] == addresses[name]
    ])

def tasks():
    projects = apis.todoist.show_projects(access_token=token("todoist"), query="{theme}")
    ids = [row["project_id"] for row in projects if row["name"] == "{theme}"]
    return apis.todoist.show_tasks(project_id=ids[0], access_token=token("todoist"))["no_section_tasks"] if ids else []

def todo(day):
    told([row["title"] for row in tasks() if DateTime.fromisoformat(row["due_date"]).strftime("%a").lower() == day])

def pay(name, amount):
    apis.venmo.create_transaction(receiver_email=addresses[name], amount=amount, description="{theme}", \
access_token=token("venmo"))
    apis.supervisor.complete_task()

def ask(name, amount):
    apis.venmo.create_payment_request(user_email=addresses[name], amount=amount, description="{theme}", \
access_token=token("venmo"))
    apis.supervisor.complete_task()

def accept(request):
    apis.venmo.approve_payment_request(payment_request_id=request, access_token=token("venmo"))
    apis.supervisor.complete_task()

def tick(item):
    for row in tasks():
        if row["title"] == item:
            apis.todoist.update_task(task_id=row["task_id"], is_completed=True, access_token=token("todoist"))
    apis.supervisor.complete_task()

def text(name, code):
    apis.phone.send_text_message(phone_number=phones[name], message=str(code), access_token=token("phone"))
    apis.supervisor.complete_task()

def done():
    apis.supervisor.complete_task()

def answer(given):
    apis.supervisor.complete_task(answer=given)
"""


def tools(mail: dict[str, str], number: dict[str, str], accounts: dict[str, tuple[str, str]]) -> str:
    """The block that defines the commands.

    mail, number: addresses and phone numbers by first name; accounts: the agent's user name and password by app.
    """
    words = (*NAMES, *ITEMS, *THINGS, *DAYS)
    return _TOOLS.format(
        mail=mail,
        number=number,
        accounts=accounts,
        words=", ".join(words),
        quoted=", ".join(map(repr, words)),
        theme=THEME,
    ).strip()
