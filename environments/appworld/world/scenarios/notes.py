"""Scenarios about notes."""

from __future__ import annotations

from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _append(world: World, values: Values) -> Truth:
    world.note(values["title"] + " (old)", "eggs\nflour", days=1)
    note = world.note(values["title"], "rice\nlemons", days=15)
    world.note("About " + values["title"], "Buy less of everything.", days=0.5, pinned=True)
    wanted = {note: {"content": f"rice\nlemons\n{values['item']}"}}
    return Truth([Rows("simple_note.Note", "the line is at the end of the right note", updated=wanted)])


APPEND = Scenario(
    name="addtonote",
    split="train",
    difficulty=1,
    instruction='Add "{item}" as a new last line to my note titled exactly "{title}".',
    variants=(
        {"title": "Groceries", "item": "two bunches of dill"},
        {"title": "Market list", "item": "smoked paprika"},
        {"title": "Hut supplies", "item": "matches"},
    ),
    prepare=_append,
    gold="""
@login simple_note
@pages notes = apis.simple_note.search_notes(access_token=simple_note, query=<<title>>)
note = next(row for row in notes if row["title"] == <<title>>)
print(note)
---
apis.simple_note.add_content_to_note(note_id=note["note_id"], append_or_prepend="append", added_content=<<item>>, \
access_token=simple_note)
apis.supervisor.complete_task()
""",
    wrong="""
@login simple_note
@page notes = apis.simple_note.search_notes(access_token=simple_note, query=<<title>>)
note = notes[0]
apis.simple_note.add_content_to_note(note_id=note["note_id"], append_or_prepend="append", added_content=<<item>>, \
access_token=simple_note)
apis.supervisor.complete_task()
""",
)


def _count(world: World, values: Values) -> Truth:
    for number in range(values["many"]):
        tags = [values["tag"]] if number % 3 else [values["tag"], "old"]
        world.note(f"{values['tag'].title()} {number + 1}", f"Entry number {number + 1}.", tags=tags, days=40 + number)
    world.note(f"{values['tag'].title()} plans", "Not tagged at all.", days=2)
    return Truth(answer=values["many"])


COUNT = Scenario(
    name="countnotes",
    split="train",
    difficulty=1,
    instruction='How many of my notes carry the tag "{tag}"?',
    variants=({"tag": "diary", "many": 23}, {"tag": "recipe", "many": 9}, {"tag": "sightings", "many": 27}),
    prepare=_count,
    gold="""
@login simple_note
@pages notes = apis.simple_note.search_notes(access_token=simple_note, tags=[<<tag>>])
print(len(notes))
apis.supervisor.complete_task(answer=len(notes))
""",
    wrong="""
@login simple_note
@page notes = apis.simple_note.search_notes(access_token=simple_note, tags=[<<tag>>])
apis.supervisor.complete_task(answer=len(notes))
""",
)


def _tag(world: World, values: Values) -> Truth:
    wanted = {}
    for number in range(8):
        days = 20 + 25 * number
        note = world.note(f"{values['tag']} log {number + 1}", "Went well.", tags=[values["tag"], "log"], days=days)
        if days > values["days"]:
            wanted[note] = {"tags": [values["tag"], "log", "archive"]}
    world.note("Log of logs", "Went badly.", tags=["log"], days=300)
    return Truth([Rows("simple_note.Note", "the old notes of that tag carry the new tag too", updated=wanted)])


TAG = Scenario(
    name="tagold",
    split="test_normal",
    difficulty=2,
    instruction=(
        'Add the tag "archive", after the tags they have, to all my notes tagged "{tag}" that were last '
        "updated more than {days} days ago."
    ),
    variants=({"tag": "ferry", "days": 60}, {"tag": "garden", "days": 100}, {"tag": "piano", "days": 30}),
    prepare=_tag,
    gold="""
from datetime import datetime, timedelta
@login simple_note
@pages notes = apis.simple_note.search_notes(access_token=simple_note, tags=[<<tag>>])
limit = (datetime(2024, 5, 17, 11, 30) - timedelta(days=<<days>>)).isoformat()
print([(row["title"], row["updated_at"]) for row in notes])
---
for row in notes:
    if row["updated_at"] < limit:
        print(apis.simple_note.update_note(note_id=row["note_id"], tags=[*row["tags"], "archive"], \
access_token=simple_note))
apis.supervisor.complete_task()
""",
    wrong="""
@login simple_note
@page notes = apis.simple_note.search_notes(access_token=simple_note, tags=[<<tag>>])
for row in notes:
    apis.simple_note.update_note(note_id=row["note_id"], tags=["archive"], access_token=simple_note)
apis.supervisor.complete_task()
""",
)


def _drafts(world: World, values: Values) -> Truth:
    gone = []
    for number, name in enumerate(values["names"]):
        draft = world.note(f"Draft: {name}", "First try.", days=30 + number)
        if number % 2 == 0:
            world.note(name, "The finished text.", days=10 + number)
            gone.append(draft)
    world.note(f"Draft beer near {values['names'][0]}", "Two places.", days=5)
    return Truth([Rows("simple_note.Note", "the drafts of finished notes are gone", removed=gone)])


DRAFTS = Scenario(
    name="dropdrafts",
    split="dev",
    difficulty=2,
    instruction=(
        'Some of my notes are titled "Draft: X". Delete those drafts for which there is also a finished note '
        'titled just "X".'
    ),
    variants=(
        {"names": ["Toast", "Speech", "Obituary of a kettle", "Letter to the mayor", "Ode", "Riddle", "Limerick"]},
        {"names": ["Chapter one", "Chapter two", "Chapter three", "Epilogue", "Preface", "Index"]},
        {"names": ["Complaint", "Apology", "Invitation", "Recipe card", "Sonnet"]},
    ),
    prepare=_drafts,
    gold="""
@login simple_note
@pages notes = apis.simple_note.search_notes(access_token=simple_note)
titles = {row["title"] for row in notes}
drafts = [row for row in notes if row["title"].startswith("Draft: ")]
print(len(titles), len(drafts))
---
for row in drafts:
    if row["title"].removeprefix("Draft: ") in titles:
        print(apis.simple_note.delete_note(note_id=row["note_id"], access_token=simple_note))
apis.supervisor.complete_task()
""",
    wrong="""
@login simple_note
@page notes = apis.simple_note.search_notes(access_token=simple_note, query="Draft")
for row in notes:
    if row["title"].startswith("Draft"):
        apis.simple_note.delete_note(note_id=row["note_id"], access_token=simple_note)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (APPEND, COUNT, TAG, DRAFTS)
