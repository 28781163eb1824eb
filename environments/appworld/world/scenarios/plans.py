"""Scenarios about to-do projects and their tasks."""

from __future__ import annotations

from environments.appworld.world.engine import TODAY
from environments.appworld.world.people import related
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _overdue(world: World, values: Values) -> Truth:
    project = world.project(values["project"])
    wanted = {}
    for number, day in enumerate(values["days"]):
        due = f"2024-{day}"
        task = world.todo(project, f"Job {number + 1}", number, due=due, done=number == 1)
        if due < TODAY and number != 1:
            wanted[task] = {"is_completed": True}
    world.todo(world.project(values["project"] + " next year"), "Job 1", 0, due="2024-05-01")
    return Truth([Rows("todoist.Task", "the overdue tasks of the project are completed", updated=wanted)])


OVERDUE = Scenario(
    name="overduedone",
    split="train",
    difficulty=2,
    instruction=(
        'I have done everything in my Todoist project "{project}" that was due before today. Mark those '
        "tasks as completed."
    ),
    variants=(
        {"project": "Balcony", "days": ["05-02", "04-11", "05-16", "05-17", "06-01"]},
        {"project": "Taxes", "days": ["05-18", "03-30", "05-01", "04-15"]},
        {"project": "Boat", "days": ["01-12", "02-13", "05-17", "05-10", "07-01", "04-30"]},
    ),
    prepare=_overdue,
    gold="""
@login todoist
@pages projects = apis.todoist.show_projects(access_token=todoist)
project = next(row["project_id"] for row in projects if row["name"] == <<project>>)
tasks = apis.todoist.show_tasks(project_id=project, access_token=todoist, is_completed=False)["no_section_tasks"]
print([(row["title"], row["due_date"]) for row in tasks])
---
for row in tasks:
    if row["due_date"][:10] < "2024-05-17":
        print(apis.todoist.update_task(task_id=row["task_id"], is_completed=True, access_token=todoist))
apis.supervisor.complete_task()
""",
    wrong="""
@login todoist
@page projects = apis.todoist.show_projects(access_token=todoist, query=<<project>>)
for project in projects:
    if project["name"].startswith(<<project>>):
        tasks = apis.todoist.show_tasks(project_id=project["project_id"], access_token=todoist)["no_section_tasks"]
        for row in tasks:
            if row["due_date"] and row["due_date"][:10] <= "2024-05-17":
                apis.todoist.update_task(task_id=row["task_id"], is_completed=True, access_token=todoist)
apis.supervisor.complete_task()
""",
)


def _from_note(world: World, values: Values) -> Truth:
    project = world.project(values["project"])
    world.todo(project, values["steps"][0][0], 0)
    lines = [
        f"{'x' if number in values['done'] else '-'} {step} (by 2024-06-{day})"
        for number, (step, day) in enumerate(values["steps"])
    ]
    world.note(f"{values['project']} steps", "Crossed out with an x is done.\n" + "\n".join(lines), days=5)
    world.note(f"{values['project']} dreams", "- A tower (by 2031-01-01)", days=1)
    wanted = [
        {"project_id": project, "title": step, "due_date": f"2024-06-{day}"}
        for number, (step, day) in enumerate(values["steps"])
        if number and number not in values["done"]
    ]
    rows = Rows(
        "todoist.Task", "every open step that was missing is a task with its date", added=wanted, free=("order_index",)
    )
    return Truth([rows])


FROM_NOTE = Scenario(
    name="planfromnote",
    split="train",
    difficulty=3,
    instruction=(
        'My note "{project} steps" lists steps with their dates. Put every step that is not done into my '
        'Todoist project "{project}"'
        " as a task of that title with that due date, unless the project has a task of that title."
    ),
    variants=(
        {
            "project": "Shed",
            "steps": [
                ["Clear the ground", "03"],
                ["Order planks", "05"],
                ["Paint the door", "20"],
                ["Roof felt", "12"],
            ],
            "done": [1],
        },
        {
            "project": "Exhibition",
            "steps": [
                ["Choose frames", "02"],
                ["Print labels", "09"],
                ["Hang the lot", "14"],
                ["Invite the mayor", "10"],
                ["Buy wine", "15"],
            ],
            "done": [2, 4],
        },
        {
            "project": "Moving house",
            "steps": [["Boxes", "01"], ["Cancel the gas", "04"], ["New address cards", "08"], ["Return keys", "28"]],
            "done": [3],
        },
    ),
    prepare=_from_note,
    gold="""
@login simple_note todoist
@pages notes = apis.simple_note.search_notes(access_token=simple_note, query=<<project>>)
note = next(row["note_id"] for row in notes if row["title"] == <<project>> + " steps")
content = apis.simple_note.show_note(note_id=note, access_token=simple_note)["content"]
print(content)
---
steps = [line[2:].rstrip(")").split(" (by ") for line in content.splitlines() if line.startswith("- ")]
@pages projects = apis.todoist.show_projects(access_token=todoist)
project = next(row["project_id"] for row in projects if row["name"] == <<project>>)
present = [row["title"] for row in apis.todoist.show_tasks(project_id=project, \
access_token=todoist)["no_section_tasks"]]
print(steps, present)
---
for title, due in steps:
    if title not in present:
        print(apis.todoist.create_task(project_id=project, title=title, due_date=due, access_token=todoist))
apis.supervisor.complete_task()
""",
    wrong="""
@login simple_note todoist
@page notes = apis.simple_note.search_notes(access_token=simple_note, query=<<project>> + " steps")
content = apis.simple_note.show_note(note_id=notes[0]["note_id"], access_token=simple_note)["content"]
@page projects = apis.todoist.show_projects(access_token=todoist, query=<<project>>)
for line in content.splitlines():
    if " (by " in line:
        title, due = line[2:].rstrip(")").split(" (by ")
        apis.todoist.create_task(project_id=projects[0]["project_id"], title=title, due_date=due, access_token=todoist)
apis.supervisor.complete_task()
""",
)


def _from_mail(world: World, values: Values) -> Truth:
    boss = related(world.me, "manager")[0]
    project = world.project(values["project"], shared_with=[boss])
    world.project(values["project"] + " ideas")
    lines = "\n".join(f"{number + 1}. {task}" for number, task in enumerate(values["tasks"]))
    world.mail(boss, world.me, f"{values['project']}: to do", f"Please:\n{lines}", days=4)
    dropped = values["tasks"][values["dropped"]]
    world.mail(boss, world.me, f"{values['project']}: correction", f'Forget "{dropped}". The rest is urgent.', days=1)
    world.mail(related(world.me, "friend")[0], world.me, f"{values['project']}: to do", "Please:\n1. Relax", days=0.5)
    wanted = [{"project_id": project, "title": task, "priority": "high"} for task in values["tasks"] if task != dropped]
    rows = Rows(
        "todoist.Task",
        "the manager's remaining tasks are there with high priority",
        added=wanted,
        free=("order_index",),
    )
    return Truth([rows], echoes=["todoist.Notification"])


FROM_MAIL = Scenario(
    name="tasksfrommail",
    split="dev",
    difficulty=3,
    instruction=(
        'My manager has e-mailed me a numbered list of tasks for "{project}", and a correction after it. Put '
        "the tasks that are still wanted"
        ' into my Todoist project "{project}" with high priority.'
    ),
    variants=(
        {"project": "Trade fair", "tasks": ["Book the stand", "Order mugs", "Write the leaflet"], "dropped": 1},
        {
            "project": "Archive room",
            "tasks": ["Label boxes", "Scan the ledgers", "Buy a ladder", "Air the room"],
            "dropped": 2,
        },
        {"project": "New till", "tasks": ["Compare offers", "Train the team", "Sell the old one"], "dropped": 0},
    ),
    prepare=_from_mail,
    gold="""
@login phone gmail todoist
@pages contacts = apis.phone.search_contacts(access_token=phone, relationship="manager")
boss = next(row["email"] for row in contacts if "manager" in row["relationships"])
@pages threads = apis.gmail.show_inbox_threads(access_token=gmail, from_email=boss)
bodies = {row["subject"]: apis.gmail.show_thread(email_thread_id=row["email_thread_id"], \
access_token=gmail)["emails"][0]["body"] for row in threads}
print(bodies[<<project>> + ": to do"])
print(bodies[<<project>> + ": correction"])
---
tasks = [line.split(". ", 1)[1] for line in bodies[<<project>> + ": to do"].splitlines() if ". " in line]
dropped = bodies[<<project>> + ": correction"].split('"')[1]
@pages projects = apis.todoist.show_projects(access_token=todoist)
project = next(row["project_id"] for row in projects if row["name"] == <<project>>)
for task in tasks:
    if task != dropped:
        print(apis.todoist.create_task(project_id=project, title=task, priority="high", access_token=todoist))
apis.supervisor.complete_task()
""",
    wrong="""
@login gmail todoist
@page threads = apis.gmail.show_inbox_threads(access_token=gmail, query=<<project>> + ": to do")
thread = apis.gmail.show_thread(email_thread_id=threads[0]["email_thread_id"], access_token=gmail)
@pages projects = apis.todoist.show_projects(access_token=todoist)
project = next(row["project_id"] for row in projects if row["name"] == <<project>>)
for line in thread["emails"][0]["body"].splitlines():
    if ". " in line:
        apis.todoist.create_task(project_id=project, title=line.split(". ", 1)[1], priority="high", \
access_token=todoist)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (OVERDUE, FROM_NOTE, FROM_MAIL)
