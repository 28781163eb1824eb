"""Scenarios about files and folders."""

from __future__ import annotations

from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _home(world: World) -> str:
    return f"/home/{world.me.first_name.lower()}/"


def _bills(world: World, values: Values) -> Truth:
    home = _home(world)
    world.folder("documents/bills")
    for number, name in enumerate(values["files"]):
        world.file(f"downloads/{name}", f"binary: {name} {number}", days=30 + number)
    world.file("downloads/old/bill_attic.pdf", "binary: attic", days=900)
    chosen = [name for name in values["files"] if name.startswith("bill_") and name.endswith(".pdf")]
    rows = {row.path: row for row in world.models.file_system.File.find_all(user_id=world.user("me"))}
    return Truth(
        [
            Rows(
                "file_system.File",
                "the bills are in the folder of bills, and only there",
                added=[
                    {"path": f"{home}documents/bills/{name}", "content": rows[f"{home}downloads/{name}"].content}
                    for name in chosen
                ],
                removed=[rows[f"{home}downloads/{name}"].id for name in chosen],
            )
        ],
        echoes=["file_system.Directory"],
    )


BILLS = Scenario(
    name="movebills",
    split="train",
    difficulty=2,
    instruction=(
        'Move the PDF files directly in ~/downloads whose name begins with "bill_" to ~/documents/bills, '
        "keeping their names."
        " Leave other files and the folders below ~/downloads alone."
    ),
    variants=(
        {"files": ["bill_water.pdf", "bill_water.txt", "bill_gas.pdf", "billy_goat.pdf", "song.mp3"]},
        {"files": ["bill_phone.pdf", "my_bill_x.pdf", "bill_rent.pdf", "bill_net.pdf", "bill_draft.docx"]},
        {"files": ["bill_vet.pdf", "invoice_bill_2.pdf", "bill_bike.png", "bill_dentist.pdf"]},
    ),
    prepare=_bills,
    gold="""
@login file_system
paths = apis.file_system.show_directory(directory_path="~/downloads", entry_type="files", recursive=False, \
access_token=file_system)
bills = [path for path in paths if path.split("/")[-1].startswith("bill_") and path.endswith(".pdf")]
print(bills)
---
for path in bills:
    print(apis.file_system.move_file(source_file_path=path, \
destination_file_path="~/documents/bills/" + path.split("/")[-1], access_token=file_system))
apis.supervisor.complete_task()
""",
    wrong="""
@login file_system
paths = apis.file_system.show_directory(directory_path="~/downloads", entry_type="files", substring="bill_", \
access_token=file_system)
for path in paths:
    apis.file_system.move_file(source_file_path=path, \
destination_file_path="~/documents/bills/" + path.split("/")[-1], access_token=file_system)
apis.supervisor.complete_task()
""",
)


def _receipts(world: World, values: Values) -> Truth:
    for number, amount in enumerate(values["amounts"]):
        text = f"Shop {number + 1}\nSubtotal: ${amount - 1:.2f}\nTotal: ${amount:.2f}\nThank you"
        world.file(f"receipts/{values['month']}/{number + 1}.txt", text, days=30 - number)
    world.file(f"receipts/{values['month']}/notes.md", "Total: $999.00, I wish", days=5)
    world.file("receipts/2023-11/1.txt", "Shop 9\nTotal: $77.00", days=180)
    return Truth(answer=round(sum(values["amounts"]), 2))


RECEIPTS = Scenario(
    name="sumreceipts",
    split="train",
    difficulty=2,
    instruction="What do the totals of the .txt receipts in ~/receipts/{month} add up to, in dollars?",
    variants=(
        {"month": "2024-03", "amounts": [12.4, 8.35, 40.0, 3.2]},
        {"month": "2024-04", "amounts": [5.5, 61.25, 19.99]},
        {"month": "2024-02", "amounts": [7.1, 7.1, 22.8, 15.0, 30.45]},
    ),
    prepare=_receipts,
    gold="""
@login file_system
paths = apis.file_system.show_directory(directory_path="~/receipts/" + <<month>>, entry_type="files", \
access_token=file_system)
print(paths)
---
total = 0.0
for path in paths:
    if path.endswith(".txt"):
        content = apis.file_system.show_file(file_path=path, access_token=file_system)["content"]
        total += float(next(line for line in content.splitlines() if line.startswith("Total: "))[8:])
print(total)
apis.supervisor.complete_task(answer=round(total, 2))
""",
    wrong="""
@login file_system
paths = apis.file_system.show_directory(directory_path="~/receipts/", substring=".txt", access_token=file_system)
total = 0.0
for path in paths:
    content = apis.file_system.show_file(file_path=path, access_token=file_system)["content"]
    total += float(content.lower().split("total: $")[1].split()[0])
apis.supervisor.complete_task(answer=round(total, 2))
""",
)


def _liked(world: World, values: Values) -> Truth:
    world.folder(values["folder"])
    models = world.models.spotify
    for number in range(16):
        song = (values["start"] + 5 * number) % 90 + 1
        if models.SongLike.find_one(user_id=world.user("me"), song_id=song) is None:
            world.save("spotify.SongLike", user_id=world.user("me"), song_id=song)
    likes = models.SongLike.find_all(user_id=world.user("me"))
    titles = sorted(models.Song.by_id(like.song_id).title for like in likes)
    path = f"{_home(world)}{values['folder']}/liked.txt"
    wanted = {"path": path, "content": "\n".join(titles)}
    return Truth(
        [Rows("file_system.File", "the file lists all liked songs in order", added=[wanted])],
        echoes=["file_system.Directory"],
    )


LIKED = Scenario(
    name="likedtofile",
    split="test_normal",
    difficulty=3,
    instruction=(
        "Write the titles of all songs I have liked on Spotify to ~/{folder}/liked.txt, in alphabetical "
        "order, one title a line."
    ),
    variants=({"folder": "music", "start": 3}, {"folder": "lists", "start": 20}, {"folder": "backup", "start": 57}),
    prepare=_liked,
    gold="""
@login spotify file_system
@pages liked = apis.spotify.show_liked_songs(access_token=spotify)
titles = sorted(row["title"] for row in liked)
print(len(titles))
---
print(apis.file_system.create_file(file_path="~/" + <<folder>> + "/liked.txt", content="\\n".join(titles), \
access_token=file_system))
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify file_system
@page liked = apis.spotify.show_liked_songs(access_token=spotify)
titles = [row["title"] for row in liked]
apis.file_system.create_file(file_path="~/" + <<folder>> + "/liked.txt", content="\\n".join(titles), \
access_token=file_system)
apis.supervisor.complete_task()
""",
)


def _zip(world: World, values: Values) -> Truth:
    home = _home(world)
    files = {
        folder: [world.file(f"trips/{folder}/{name}", f"binary: {folder} {name}", days=100) for name in names]
        for folder, names in values["trips"].items()
    }
    chosen = [folder for folder in files if folder.endswith(values["year"])]
    gone = [file for folder in chosen for file in files[folder]]
    added = [{"path": f"{home}trips/{folder}.zip", "user_id": world.user("me")} for folder in chosen]
    what = "each folder of that year is one archive, its files gone"
    return Truth([Rows("file_system.File", what, added=added, removed=gone)], echoes=["file_system.Directory"])


ZIP = Scenario(
    name="ziptrips",
    split="test_challenge",
    difficulty=2,
    instruction=(
        "Compress every folder in ~/trips whose name ends in {year} to a zip file of the same name in "
        "~/trips, and delete the folder itself."
    ),
    variants=(
        {
            "year": "2022",
            "trips": {"lakes_2022": ["a.jpg", "b.jpg"], "porto_2022": ["map.png"], "lakes_2023": ["a.jpg"]},
        },
        {"year": "2021", "trips": {"2021_plans": ["x.txt"], "ghent_2021": ["a.jpg", "c.jpg"], "alps_2021": ["q.jpg"]}},
        {"year": "2023", "trips": {"turku_2023": ["t.jpg"], "vienna_2022": ["v.jpg"], "home_2023": ["h.jpg", "i.jpg"]}},
    ),
    prepare=_zip,
    gold="""
@login file_system
paths = apis.file_system.show_directory(directory_path="~/trips", entry_type="directories", recursive=False, \
access_token=file_system)
chosen = [path for path in paths if path.rstrip("/").endswith(<<year>>)]
print(chosen)
---
for path in chosen:
    print(apis.file_system.compress_directory(directory_path=path, delete_directory=True, access_token=file_system))
apis.supervisor.complete_task()
""",
    wrong="""
@login file_system
paths = apis.file_system.show_directory(directory_path="~/trips", entry_type="directories", substring=<<year>>, \
access_token=file_system)
for path in paths:
    apis.file_system.compress_directory(directory_path=path, access_token=file_system)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (BILLS, RECEIPTS, LIKED, ZIP)
