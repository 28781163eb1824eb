"""Scenarios about the catalogue: artists, albums, reviews and the queue."""

from __future__ import annotations

from environments.appworld.world.catalogue import ARTISTS, song_id, title
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values


def _hide(world: World, values: Values) -> Truth:
    for number, name in enumerate(values["lists"]):
        world.playlist(name, [song_id(number, 2)], public=number % 3 != 1, days=20 - number)
    world.playlist(values["lists"][0], [song_id(3, 3)], public=True, owner="greta", days=8)
    rows = world.models.spotify.Playlist.find_all(user_id=world.user("me"), is_public=True)
    return Truth(
        [
            Rows(
                "spotify.Playlist",
                "all own playlists are private",
                updated={row.id: {"is_public": False} for row in rows},
            )
        ]
    )


HIDE = Scenario(
    name="hidelists",
    split="test_normal",
    difficulty=1,
    instruction="Make all of my Spotify playlists private.",
    variants=(
        {"lists": ["Attic", "Cellar", "Hallway", "Porch", "Roof"]},
        {"lists": ["Soup", "Salad", "Roast", "Cake", "Cheese", "Mint"]},
        {"lists": ["Vienna", "Porto", "Ghent", "Turku"]},
    ),
    prepare=_hide,
    gold="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
for row in playlists:
    if row["is_public"]:
        print(apis.spotify.update_playlist(playlist_id=row["playlist_id"], is_public=False, access_token=spotify))
---
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@page playlists = apis.spotify.show_playlist_library(access_token=spotify)
for row in playlists:
    if row["is_public"]:
        apis.spotify.update_playlist(playlist_id=row["playlist_id"], is_public=False, access_token=spotify)
apis.supervisor.complete_task()
""",
)


def _most_played(world: World, values: Values) -> Truth:
    artist = [name for name, _ in ARTISTS].index(values["artist"])
    songs = [world.models.spotify.Song.by_id(song_id(artist, number)) for number in range(9)]
    old = [song for song in songs if song.release_date.year < values["year"]]
    return Truth(answer=max(old, key=lambda song: song.play_count).title)


MOST_PLAYED = Scenario(
    name="mostplayed",
    split="test_normal",
    difficulty=2,
    instruction=(
        "Of the songs that {artist} released on Spotify before {year}, which has been played most often? "
        "Answer with its title."
    ),
    variants=(
        {"artist": "Night Orchard", "year": 2021},
        {"artist": "Kettle Republic", "year": 2020},
        {"artist": "Mirela Stade", "year": 2022},
    ),
    prepare=_most_played,
    gold="""
@pages artists = apis.spotify.search_artists(query=<<artist>>)
artist = next(row["artist_id"] for row in artists if row["name"] == <<artist>>)
@pages songs = apis.spotify.search_songs(artist_id=artist)
print(len(songs))
---
old = [song for song in songs if int(song["release_date"][:4]) < <<year>>]
apis.supervisor.complete_task(answer=max(old, key=lambda song: song["play_count"])["title"])
""",
    wrong="""
@page songs = apis.spotify.search_songs(query=<<artist>>)
apis.supervisor.complete_task(answer=min(songs, key=lambda song: song["play_count"])["title"])
""",
)


def _queue(world: World, values: Values) -> Truth:
    album = world.models.spotify.Album.find_one(title=values["album"])
    songs = sorted(album.songs, key=lambda song: song.duration, reverse=values["order"] == "longest")
    player = world.models.spotify.MusicPlayer.find_one(user_id=world.user("me"))
    wanted = {"queue_song_ids": [song.id for song in songs], "cursor_position": 0, "is_playing": True}
    rows = Rows("spotify.MusicPlayer", "the queue is the album in that order", updated={player.id: wanted})
    return Truth([rows])


QUEUE = Scenario(
    name="queuealbum",
    split="test_challenge",
    difficulty=2,
    instruction=(
        'Clear my Spotify queue, then queue up the songs of the album "{album}", the {order} first, and '
        "start the music."
    ),
    variants=(
        {"album": "Letters from Fenwick", "order": "shortest"},
        {"album": "Letters from Corvina", "order": "longest"},
        {"album": "Letters from Isenport", "order": "shortest"},
    ),
    prepare=_queue,
    gold="""
@login spotify
@pages albums = apis.spotify.search_albums(query=<<album>>)
album = apis.spotify.show_album(album_id=next(row["album_id"] for row in albums if row["title"] == <<album>>))
songs = [apis.spotify.show_song(song_id=song["id"]) for song in album["songs"]]
print([(song["song_id"], song["duration"]) for song in songs])
---
apis.spotify.clear_song_queue(access_token=spotify)
for song in sorted(songs, key=lambda song: song["duration"], reverse=<<order>> == "longest"):
    apis.spotify.add_to_queue(song_id=song["song_id"], access_token=spotify)
print(apis.spotify.play_music(queue_position=0, access_token=spotify))
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@pages albums = apis.spotify.search_albums(query=<<album>>)
apis.spotify.clear_song_queue(access_token=spotify)
album = next(row["album_id"] for row in albums if row["title"] == <<album>>)
apis.spotify.add_to_queue(album_id=album, access_token=spotify)
apis.spotify.play_music(access_token=spotify)
apis.supervisor.complete_task()
""",
)


def _review(world: World, values: Values) -> Truth:
    models, me = world.models.spotify, world.user("me")
    albums = [row.album_id for row in models.UserLibraryAlbum.find_all(user_id=me)]
    for album in albums[1:5]:
        world.save("spotify.AlbumLike", user_id=me, album_id=album)
    other = next(album.id for album in models.Album.all() if album.id not in albums)
    world.save("spotify.AlbumLike", user_id=me, album_id=other)
    world.save("spotify.AlbumReview", user_id=me, album_id=albums[2], rating=2, title="Once", text="")
    wanted = [
        {"user_id": me, "album_id": album, "rating": values["high"] if album in albums[1:5] else values["low"]}
        for album in albums
        if album != albums[2]
    ]
    rows = Rows("spotify.AlbumReview", "every unreviewed album of the library is reviewed as asked", added=wanted)
    return Truth([rows], echoes=["spotify.Album"])


REVIEW = Scenario(
    name="reviewalbums",
    split="test_challenge",
    difficulty=3,
    instruction=(
        "Review every album in my Spotify album library that I have not reviewed yet: {high} stars for those "
        "I have liked,"
        " {low} for the others. Leave my older reviews alone."
    ),
    variants=({"high": 5, "low": 3}, {"high": 4, "low": 2}, {"high": 5, "low": 1}),
    prepare=_review,
    gold="""
@login spotify
@pages library = apis.spotify.show_album_library(access_token=spotify)
@pages liked = apis.spotify.show_liked_albums(access_token=spotify)
liked_ids = {row["album_id"] for row in liked}
print(len(library), len(liked_ids))
---
for row in library:
    mine = apis.spotify.show_album_reviews(album_id=row["album_id"], user_email=profile["email"])
    if not mine:
        rating = <<high>> if row["album_id"] in liked_ids else <<low>>
        print(apis.spotify.review_album(album_id=row["album_id"], rating=rating, access_token=spotify))
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@page library = apis.spotify.show_album_library(access_token=spotify)
@page liked = apis.spotify.show_liked_albums(access_token=spotify)
liked_ids = {row["album_id"] for row in liked}
for row in library:
    rating = <<high>> if row["album_id"] in liked_ids else <<low>>
    try:
        apis.spotify.review_album(album_id=row["album_id"], rating=rating, access_token=spotify)
    except Exception as error:
        print(error)
apis.supervisor.complete_task()
""",
)


def _from_texts(world: World, values: Values) -> Truth:
    sender = world.person(values["sender"])
    values |= {"name": sender.name}
    wanted = [title(*song) for song in values["songs"]]
    world.text(world.me, sender, f"Which songs do you want for {values['event']}?", days=1.5)
    world.text(sender, world.me, f"For {values['event']}: " + "; ".join(wanted[:-1]), days=1.4)
    for number in range(5):
        world.text(sender, world.me, f"And {number + 2} more chairs, please.", days=1.3 - number / 10)
    world.text(sender, world.me, f"Oh, and add {wanted[-1]}! But leave out {wanted[0]}, she hates it.", days=0.2)
    world.text(values["other"], world.me, f"For {values['event']}: {title(9, 8)}; {title(0, 0)}", days=0.1)
    return Truth(
        [
            Rows(
                "spotify.Playlist",
                "one playlist of that name is made",
                added=[{"title": values["event"], "user_id": world.user("me")}],
            ),
            Rows(
                "spotify.PlaylistSong",
                "it holds the songs that were asked for at last",
                added=[{"song_id": song_id(*song)} for song in values["songs"][1:]],
            ),
        ]
    )


FROM_TEXTS = Scenario(
    name="songsbytext",
    split="train",
    difficulty=3,
    instruction=(
        '{name} texted me which songs to play at "{event}", and had second thoughts later.'
        ' Make a Spotify playlist called "{event}" of the songs that are still wanted.'
    ),
    variants=(
        {"sender": "lena", "other": "lenaq", "event": "The garden party", "songs": [(2, 4), (5, 1), (0, 5), (7, 8)]},
        {
            "sender": "marcob",
            "other": "marco",
            "event": "Grandma's eightieth",
            "songs": [(1, 0), (8, 4), (3, 7), (6, 2), (9, 5)],
        },
        {"sender": "dara", "other": "rowan", "event": "Office picnic", "songs": [(4, 1), (6, 6), (2, 0), (5, 8)]},
    ),
    prepare=_from_texts,
    gold="""
@login phone spotify
@pages contacts = apis.phone.search_contacts(access_token=phone)
number = next(row["phone_number"] for row in contacts if row["first_name"] + " " + row["last_name"] == <<name>>)
@pages messages = apis.phone.show_text_message_window(phone_number=number, access_token=phone)
texts = [row["message"] for row in sorted(messages, key=lambda row: row["sent_at"]) \
if row["sender"]["phone_number"] == number]
print(texts)
---
first = next(text for text in texts if text.startswith("For " + <<event>>))
titles = first.split(": ", 1)[1].split("; ")
last = texts[-1]
titles.append(last.split("add ")[1].split("!")[0])
titles.remove(last.split("leave out ")[1].split(",")[0])
print(titles)
---
ids = []
for title in titles:
    @pages songs = apis.spotify.search_songs(query=title)
    ids.append(next(song["song_id"] for song in songs if song["title"] == title))
playlist = apis.spotify.create_playlist(title=<<event>>, access_token=spotify)["playlist_id"]
for song in ids:
    print(apis.spotify.add_song_to_playlist(playlist_id=playlist, song_id=song, access_token=spotify))
---
apis.supervisor.complete_task()
""",
    wrong="""
@login phone spotify
@page messages = apis.phone.search_text_messages(access_token=phone, query="For " + <<event>>)
titles = [row["message"] for row in messages if row["message"].startswith("For " + <<event>>)][0].split(": ", \
1)[1].split("; ")
playlist = apis.spotify.create_playlist(title=<<event>>, access_token=spotify)["playlist_id"]
for title in titles:
    @page songs = apis.spotify.search_songs(query=title)
    apis.spotify.add_song_to_playlist(playlist_id=playlist, song_id=songs[0]["song_id"], access_token=spotify)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (FROM_TEXTS, HIDE, MOST_PLAYED, QUEUE, REVIEW)
