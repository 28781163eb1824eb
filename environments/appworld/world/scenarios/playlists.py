"""Scenarios about playlists and the song library."""

from __future__ import annotations

from environments.appworld.world.catalogue import song_id
from environments.appworld.world.records import World
from environments.appworld.world.scenario import Rows, Scenario, Truth, Values

Songs = list[tuple[int, int]]


def _playlist(world: World, name: str, songs: Songs) -> list[int]:
    ids = [song_id(*song) for song in songs]
    world.playlist(name, ids)
    return ids


def _like_all(world: World, values: Values) -> Truth:
    songs = _playlist(world, values["list"], values["songs"])
    world.playlist(values["list"] + " II", [song_id(8, 1), song_id(8, 2)], days=3)
    liked = {like.song_id for like in world.models.spotify.SongLike.find_all(user_id=world.user("me"))}
    for song in set(songs[1:3]) - liked:
        world.save("spotify.SongLike", user_id=world.user("me"), song_id=song)
    new = [song for song in songs if song not in liked | set(songs[1:3])]
    wanted = [{"user_id": world.user("me"), "song_id": song} for song in new]
    return Truth(
        [Rows("spotify.SongLike", "every song of the playlist is liked", added=wanted)], echoes=["spotify.Song"]
    )


LIKE_ALL = Scenario(
    name="likeall",
    split="train",
    difficulty=1,
    instruction='Like all the songs in my Spotify playlist "{list}" that I have not liked yet.',
    variants=(
        {"list": "Sunday broom", "songs": [(0, 1), (3, 2), (5, 5), (7, 0), (9, 8), (2, 3)]},
        {"list": "Night train", "songs": [(4, 4), (4, 6), (1, 1), (8, 3), (6, 2)]},
        {"list": "Kitchen radio", "songs": [(2, 7), (5, 0), (0, 6), (9, 1), (3, 8), (6, 6), (7, 4)]},
    ),
    prepare=_like_all,
    gold="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
playlist = next(row for row in playlists if row["title"] == <<list>>)
print(playlist)
---
@pages liked = apis.spotify.show_liked_songs(access_token=spotify)
for song in set(playlist["song_ids"]) - {row["song_id"] for row in liked}:
    print(apis.spotify.like_song(song_id=song, access_token=spotify))
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@page playlists = apis.spotify.search_playlists(access_token=spotify, query=<<list>>)
for song in playlists[-1]["song_ids"][:3]:
    try:
        apis.spotify.like_song(song_id=song, access_token=spotify)
    except Exception as error:
        print(error)
apis.supervisor.complete_task()
""",
)


def _sweep(world: World, values: Values) -> Truth:
    rows = world.models.spotify.UserLibrarySong.find_all(user_id=world.user("me"))
    gone = [row.id for row in rows if world.models.spotify.Song.by_id(row.song_id).genre == values["genre"]]
    return Truth([Rows("spotify.UserLibrarySong", "every song of the genre left the library", removed=gone)])


SWEEP = Scenario(
    name="genresweep",
    split="train",
    difficulty=2,
    instruction="I am tired of {genre}. Remove every {genre} song from my Spotify song library, and nothing else.",
    variants=({"genre": "jazz"}, {"genre": "rock"}, {"genre": "electronic"}),
    prepare=_sweep,
    gold="""
@login spotify
@pages library = apis.spotify.show_song_library(access_token=spotify)
print(len(library))
---
songs = [apis.spotify.show_song(song_id=row["song_id"]) for row in library]
for song in songs:
    if song["genre"] == <<genre>>:
        print(apis.spotify.remove_song_from_library(song_id=song["song_id"], access_token=spotify))
---
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@page library = apis.spotify.show_song_library(access_token=spotify)
for row in library:
    if apis.spotify.show_song(song_id=row["song_id"])["genre"] == <<genre>>:
        apis.spotify.remove_song_from_library(song_id=row["song_id"], access_token=spotify)
apis.supervisor.complete_task()
""",
)


def _longest(world: World, values: Values) -> Truth:
    ids = _playlist(world, values["list"], values["songs"])
    longest = max((world.models.spotify.Song.by_id(song) for song in ids), key=lambda song: song.duration)
    return Truth(answer=longest.title)


LONGEST = Scenario(
    name="longestsong",
    split="train",
    difficulty=1,
    instruction='What is the title of the longest song in my Spotify playlist "{list}"?',
    variants=(
        {"list": "Ironing", "songs": [(0, 0), (1, 3), (2, 5), (4, 8)]},
        {"list": "Cold mornings", "songs": [(9, 0), (9, 1), (8, 6), (5, 2), (3, 3)]},
        {"list": "Half marathon", "songs": [(7, 2), (5, 7), (6, 4), (6, 8)]},
    ),
    prepare=_longest,
    gold="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
ids = next(row["song_ids"] for row in playlists if row["title"] == <<list>>)
songs = [apis.spotify.show_song(song_id=song) for song in ids]
print([(song["title"], song["duration"]) for song in songs])
---
apis.supervisor.complete_task(answer=max(songs, key=lambda song: song["duration"])["title"])
""",
    wrong="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
ids = next(row["song_ids"] for row in playlists if row["title"] == <<list>>)
songs = [apis.spotify.show_song(song_id=song) for song in ids]
apis.supervisor.complete_task(answer=max(songs, key=lambda song: song["title"])["artists"][0]["name"])
""",
)


def _follow(world: World, values: Values) -> Truth:
    _playlist(world, values["list"], values["songs"])
    rows = world.models.spotify.UserArtistFollowing.find_all(user_id=world.user("me"))
    wanted = sorted({artist + 1 for artist, _ in values["songs"]} - {row.artist_id for row in rows})
    added = [{"user_id": world.user("me"), "artist_id": artist} for artist in wanted]
    return Truth([Rows("spotify.UserArtistFollowing", "every artist of the playlist is followed", added=added)])


FOLLOW = Scenario(
    name="followartists",
    split="train",
    difficulty=2,
    instruction='Follow on Spotify every artist who has a song in my playlist "{list}". Some of them I follow already.',
    variants=(
        {"list": "Found in a taxi", "songs": [(0, 3), (3, 1), (6, 0), (8, 8), (6, 5)]},
        {"list": "From the radio", "songs": [(1, 2), (4, 7), (5, 3), (9, 6)]},
        {"list": "Wedding band", "songs": [(2, 1), (5, 6), (7, 7), (0, 8), (7, 1)]},
    ),
    prepare=_follow,
    gold="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
ids = next(row["song_ids"] for row in playlists if row["title"] == <<list>>)
artists = {artist["id"] for song in ids for artist in apis.spotify.show_song(song_id=song)["artists"]}
---
@pages following = apis.spotify.show_following_artists(access_token=spotify)
for artist in artists - {row["artist_id"] for row in following}:
    print(apis.spotify.follow_artist(artist_id=artist, access_token=spotify))
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
song = apis.spotify.show_song(song_id=next(row["song_ids"] for row in playlists if row["title"] == <<list>>)[-1])
for artist in song["artists"]:
    try:
        apis.spotify.follow_artist(artist_id=artist["id"], access_token=spotify)
    except Exception as error:
        print(error)
apis.supervisor.complete_task()
""",
)


def _merge(world: World, values: Values) -> Truth:
    first = _playlist(world, values["first"], values["one"])
    second = _playlist(world, values["second"], values["two"])
    common = [{"song_id": song} for song in first if song in second]
    return Truth(
        [
            Rows(
                "spotify.Playlist",
                "one private playlist of that name is made",
                added=[{"title": values["list"], "user_id": world.user("me"), "is_public": False}],
            ),
            Rows("spotify.PlaylistSong", "exactly the common songs are in it", added=common),
        ]
    )


MERGE = Scenario(
    name="commonsongs",
    split="dev",
    difficulty=2,
    instruction=(
        'Make a private Spotify playlist called "{list}" of the songs that are both in "{first}" and in "{second}".'
    ),
    variants=(
        {
            "list": "Both of us",
            "first": "Mine",
            "second": "Yours",
            "one": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)],
            "two": [(4, 4), (2, 2), (9, 0), (8, 1)],
        },
        {
            "list": "Overlap",
            "first": "Spring run",
            "second": "Autumn run",
            "one": [(5, 1), (6, 1), (7, 1), (8, 1)],
            "two": [(8, 1), (6, 1), (5, 1), (0, 1)],
        },
        {
            "list": "Certainties",
            "first": "Desk",
            "second": "Balcony",
            "one": [(9, 3), (9, 4), (1, 8), (3, 0), (2, 6)],
            "two": [(3, 0), (7, 3), (9, 4), (6, 7)],
        },
    ),
    prepare=_merge,
    gold="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
songs = {row["title"]: row["song_ids"] for row in playlists}
common = [song for song in songs[<<first>>] if song in songs[<<second>>]]
print(common)
---
playlist = apis.spotify.create_playlist(title=<<list>>, access_token=spotify)["playlist_id"]
for song in common:
    apis.spotify.add_song_to_playlist(playlist_id=playlist, song_id=song, access_token=spotify)
apis.supervisor.complete_task()
""",
    wrong="""
@login spotify
@pages playlists = apis.spotify.show_playlist_library(access_token=spotify)
songs = {row["title"]: row["song_ids"] for row in playlists}
playlist = apis.spotify.create_playlist(title=<<list>>, access_token=spotify)["playlist_id"]
for song in set(songs[<<first>>] + songs[<<second>>]):
    apis.spotify.add_song_to_playlist(playlist_id=playlist, song_id=song, access_token=spotify)
apis.supervisor.complete_task()
""",
)

SCENARIOS = (LIKE_ALL, SWEEP, LONGEST, FOLLOW, MERGE)
