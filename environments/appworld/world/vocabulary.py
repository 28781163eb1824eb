"""The short language of AppWorldMini: its commands, the words they take, and the Python that makes each one a line the engine runs.

Read on both sides: by what builds the Mini tasks, in AppWorld's interpreter, and by the environment that plays them. It imports nothing.
"""

from __future__ import annotations

NAMES = ("yusuf", "greta", "dara", "felix", "ines", "rowan")
"""People a command can name, by their first names."""
ITEMS = ("mop", "bins", "tax", "cook", "mail", "shop", "call", "wash")
"""Things on the to-do list."""
THEME = "club"
"""Title of the note and the project, and description of the payments, that Mini tasks are about."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "note": (),
    "sent": (),
    "got": (),
    "asked": (),
    "todo": (),
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
{words} = {quoted}
profile = apis.supervisor.show_profile()
passwords = {{row["account_name"]: row["password"] for row in apis.supervisor.show_account_passwords()}}
tokens = {{}}

def token(app):
    if app not in tokens:
        account = profile["phone_number" if app == "phone" else "email"]
        login = getattr(apis, app).login(username=account, password=passwords[app])
        tokens[app] = login["access_token"]
    return tokens[app]

def told(rows):
    print(", ".join(rows) if rows else "none")

def payments(direction, side):
    rows = apis.venmo.show_transactions(
        access_token=token("venmo"), direction=direction, query="{theme}", min_created_at="2024-05-10", page_limit=20
    )
    told([row[side]["name"].split()[0].lower() + " " + str(int(row["amount"])) for row in rows if row["description"] == "{theme}"])

def note():
    rows = apis.simple_note.search_notes(access_token=token("simple_note"), query="{theme}")
    ids = [row["note_id"] for row in rows if row["title"] == "{theme}"]
    told([apis.simple_note.show_note(note_id=ids[0], access_token=token("simple_note"))["content"]] if ids else [])

def sent():
    payments("sent", "receiver")

def got():
    payments("received", "sender")

def asked():
    rows = apis.venmo.show_received_payment_requests(access_token=token("venmo"), status="pending", page_limit=20)
    rows = [row for row in rows if row["description"] == "{theme}"]
    told([str(row["payment_request_id"]) + " " + row["sender"]["name"].split()[0].lower() for row in rows])

def tasks():
    projects = apis.todoist.show_projects(access_token=token("todoist"), query="{theme}")
    ids = [row["project_id"] for row in projects if row["name"] == "{theme}"]
    return apis.todoist.show_tasks(project_id=ids[0], access_token=token("todoist"))["no_section_tasks"] if ids else []

def todo():
    told([row["title"] + " " + DateTime.fromisoformat(row["due_date"]).strftime("%a").lower() for row in tasks()])

def pay(name, amount):
    apis.venmo.create_transaction(receiver_email=addresses[name], amount=amount, description="{theme}", access_token=token("venmo"))
    apis.supervisor.complete_task()

def ask(name, amount):
    apis.venmo.create_payment_request(user_email=addresses[name], amount=amount, description="{theme}", access_token=token("venmo"))
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


def tools(mail: dict[str, str], number: dict[str, str]) -> str:
    """The block that defines the commands, for people with these e-mail addresses and phone numbers by first name."""
    words = (*NAMES, *ITEMS)
    return _TOOLS.format(
        mail=mail, number=number, words=", ".join(words), quoted=", ".join(map(repr, words)), theme=THEME
    ).strip()
