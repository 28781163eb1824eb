"""The music catalogue: ten invented artists, ninety songs, twenty albums, and who likes and keeps which."""

from __future__ import annotations

from datetime import datetime, timedelta

from environments.appworld.world.engine import Engine
from environments.appworld.world.people import PEOPLE, SUPERVISORS
from environments.appworld.world.records import World, ago

ARTISTS = (
    ("The Copper Herons", "folk"),
    ("Velvet Causeway", "jazz"),
    ("Mirela Stade", "pop"),
    ("Low Tide Choir", "folk"),
    ("Night Orchard", "electronic"),
    ("Basil & the Bricks", "rock"),
    ("Juniper Falls", "pop"),
    ("Kettle Republic", "rock"),
    ("Sora Lindell", "jazz"),
    ("Glass Meridian", "electronic"),
)
SONGS_PER_ARTIST = 9
_FIRST = ("Paper", "Silver", "Quiet", "Borrowed", "Northern", "Hollow", "Golden", "Restless", "Winter", "Distant")
_SECOND = ("Harbour", "Lantern", "Parade", "Orchard", "Signal", "Staircase", "Weather", "Postcard", "Tram")
_ALBUMS = ("Letters from {}", "{} After Dark")
_PLACES = (
    "Aldmoor",
    "Brine Bay",
    "Corvina",
    "Dunhollow",
    "Elmsward",
    "Fenwick",
    "Galt",
    "Hillmere",
    "Isenport",
    "Jarrow",
)


def song_id(artist: int, number: int) -> int:
    """The id of an artist's song; both count from 0, and the songs of one artist follow each other."""
    return artist * SONGS_PER_ARTIST + number + 1


def title(artist: int, number: int) -> str:
    """The title of an artist's song."""
    return f"{_FIRST[(artist + number) % len(_FIRST)]} {_SECOND[number]}"


def fill(engine: Engine) -> None:
    """Write the catalogue and everybody's likes, libraries, playlists and followed artists."""
    _songs(engine)
    models = engine.models.spotify
    likes = []
    for person in range(len(PEOPLE)):
        for number in range(4 + person % 3):
            song = (person * 13 + number * 17) % 90 + 1
            likes.append(
                models.SongLike.create(user_id=person + 1, song_id=song, liked_at=engine.moment(ago(50 + number)))
            )
    models.SongLike.save_all(likes)
    for turn, supervisor in enumerate(SUPERVISORS):
        _library(World(engine, supervisor), turn)


def _songs(engine: Engine) -> None:
    models = engine.models.spotify
    birth = engine.moment(ago(3000))
    models.Artist.save_all([models.Artist.create(name=name, genre=genre, created_at=birth) for name, genre in ARTISTS])
    albums, songs = [], []
    for artist, (_, genre) in enumerate(ARTISTS):
        for album, pattern in enumerate(_ALBUMS):
            released = engine.moment(datetime(2016 + (artist + 3 * album) % 8, 1 + (artist + album) % 12, 10))
            fields = {"title": pattern.format(_PLACES[artist]), "artist_ids": [artist + 1], "genre": genre}
            albums.append(models.Album.create(release_date=released, **fields))
        for number in range(SONGS_PER_ARTIST):
            # The first four songs are the first album, the next three the second, the last two are singles.
            album_id = None if number > 6 else 2 * artist + 1 + (number > 3)
            released = datetime(2015, 3, 1) + timedelta(days=(artist * 577 + number * 211) % 3200)
            songs.append(
                models.Song.create(
                    title=title(artist, number),
                    artist_ids=[artist + 1],
                    album_id=album_id,
                    duration=125 + (artist * 41 + number * 67) % 233,
                    release_date=engine.moment(released),
                    genre=genre,
                    play_count=100 + (artist * 7919 + number * 4729) % 8999,
                )
            )
    models.Album.save_all(albums)
    models.Song.save_all(songs)


def _library(world: World, turn: int) -> None:
    user = world.user("me")
    for number in range(26):
        song = (turn * 23 + number * 7) % 90 + 1
        world.save("spotify.UserLibrarySong", user_id=user, song_id=song, created_at=ago(400 - number))
    for number in range(7):
        album = (turn * 5 + number * 3) % 20 + 1
        world.save("spotify.UserLibraryAlbum", user_id=user, album_id=album, created_at=ago(300 - number))
    for artist in (turn + 1, turn + 4):
        world.save("spotify.UserArtistFollowing", user_id=user, artist_id=artist, created_at=ago(200))
    for number, name in enumerate(("Morning coffee", "Long drives", "Rainy days")):
        songs = [(turn * 11 + number * 29 + step * 8) % 90 + 1 for step in range(5)]
        world.playlist(name, songs, public=number == 1, days=150 - number)
    world.save("spotify.MusicPlayer", user_id=user, queue_song_ids=[turn + 1, turn + 30], cursor_position=0)
