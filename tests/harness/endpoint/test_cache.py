"""Replies on disk: remembered by content, mended where an entry is damaged, named where the database is."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer

from harness.core.errors import EndpointError
from harness.endpoint import Endpoint, Reply
from harness.endpoint.cache import DATABASE, ReplyCache

HELLO = [{"role": "user", "content": "hello"}]


def endpoint(server: ChatServer, cache: Path) -> Endpoint:
    return Endpoint("m", base_url=server.url, api_key="k", backoff_s=0.01, timeout_s=20.0, cache=cache)


def change(folder: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(folder / DATABASE)
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_the_cache_remembers_by_content(chat_server: Callable[..., ChatServer], tmp_path: Path) -> None:
    server = chat_server(lambda request, count: server.says(f"reply {count}"))
    client = endpoint(server, tmp_path)
    first = client.chat(HELLO, temperature=0.0)
    again = endpoint(server, tmp_path).chat(HELLO, temperature=0.0)
    assert (first.text, again.text, again.cached) == ("reply 1", "reply 1", True)
    assert client.chat(HELLO, temperature=1.0).text == "reply 2"
    assert client.chat([{"role": "user", "content": "hello!"}], temperature=0.0).text == "reply 3"
    assert len(server.requests) == client.calls == 3
    change(tmp_path, "UPDATE Cache SET value = substr(value, 1, 20)")  # torn: asked again, and mended
    assert client.chat(HELLO, temperature=0.0).text == "reply 4"
    assert client.chat(HELLO, temperature=0.0).cached


@pytest.mark.parametrize("text", ["", "Grüße \ud83d 💙", "long " * 20_000])
def test_every_field_comes_back(tmp_path: Path, text: str) -> None:
    reply = Reply(text, ({"name": "f", "arguments": "{"},), 3, 4, finish_reason="length", refusal="no")
    cache = ReplyCache(tmp_path)
    assert cache.recall("k") is None
    cache.remember("k", {"model": "m", "messages": []}, reply)
    assert ReplyCache(tmp_path).recall("k") == Reply(**vars(reply) | {"cached": True})


class Harmful:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


DAMAGE: dict[str, tuple[str, Any]] = {
    "no JSON": ("UPDATE Cache SET value = ?", b"\xff"),
    "another shape": ("UPDATE Cache SET value = ?", b'{"reply": {"words": 1}}'),
    "deep": ("UPDATE Cache SET value = ?", b"[" * 100_000),
    "text": ("UPDATE Cache SET value = ?", "5"),
    "null": ("UPDATE Cache SET value = ?", None),
    "a missing file": ("UPDATE Cache SET mode = 2, filename = ?", "gone.val"),
    "a pickle": ("UPDATE Cache SET mode = 4, value = ?", pickle.dumps(Harmful())),
    "an unknown mode": ("UPDATE Cache SET mode = ?", 9),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_asked_again(
    chat_server: Callable[..., ChatServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    server = chat_server(lambda request, count: server.says(f"reply {count}"))
    client = endpoint(server, tmp_path / "cache")
    client.chat(HELLO)
    change(tmp_path / "cache", *DAMAGE[damage])
    assert [client.chat(HELLO).text for _ in range(2)] == ["reply 2"] * 2
    assert os.listdir(tmp_path) == ["cache"]


@pytest.mark.parametrize("damage", ["garbage", "a folder", "no table"])
def test_a_damaged_database_is_named(chat_server: Callable[..., ChatServer], tmp_path: Path, damage: str) -> None:
    server = chat_server(lambda request, count: server.says("hi"))
    client = endpoint(server, tmp_path)
    if damage == "garbage":
        (tmp_path / DATABASE).write_bytes(b"not a database" * 1000)
    elif damage == "a folder":
        (tmp_path / DATABASE).mkdir()
    else:
        client.chat(HELLO)
        change(tmp_path, "DROP TABLE Cache")
    with pytest.raises(EndpointError) as caught:
        client.chat(HELLO)
    assert f"remove the folder {tmp_path} " in str(caught.value)
    assert len(server.requests) == (damage == "no table")


def test_failures_are_not_remembered(chat_server: Callable[..., ChatServer], tmp_path: Path) -> None:
    server = chat_server(lambda request, count: (200, "junk") if count == 1 else server.says("fine"))
    client = endpoint(server, tmp_path)
    with pytest.raises(EndpointError):
        client.chat(HELLO)
    assert client.chat(HELLO).text == "fine"


def test_a_cache_that_cannot_be_written_is_named(chat_server: Callable[..., ChatServer], tmp_path: Path) -> None:
    server = chat_server(lambda request, count: server.says("hi"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EndpointError, match="cannot write the cache file"):
        endpoint(server, tmp_path / "file").chat(HELLO)
    assert server.requests == []  # known before anything was paid for


ASK_TEN = """
import sys
from pathlib import Path
from harness.endpoint import Endpoint
client = Endpoint("m", base_url=sys.argv[1], api_key="k", cache=Path(sys.argv[2]))
print([client.chat([{"role": "user", "content": str(n)}]).text for n in range(10)])
"""


def test_threads_and_processes_share_a_folder(chat_server: Callable[..., ChatServer], tmp_path: Path) -> None:
    server = chat_server(lambda request, count: server.says("about " + request["messages"][0]["content"]))
    expected = [f"about {n}" for n in range(10)]
    command = [sys.executable, "-c", ASK_TEN, server.url, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    client = endpoint(server, tmp_path)
    with ThreadPoolExecutor(8) as threads:
        asked = [{"role": "user", "content": str(n % 10)} for n in range(80)]
        assert [reply.text for reply in threads.map(lambda one: client.chat([one]), asked)] == expected * 8
    for process in processes:
        said, _ = process.communicate()
        assert (process.returncode, said.strip()) == (0, str(expected))
    sent = len(server.requests)
    assert all(client.chat([one]).cached for one in asked)
    assert len(server.requests) == sent


def test_a_forked_copy_asks_and_remembers_on_its_own(chat_server: Callable[..., ChatServer], tmp_path: Path) -> None:
    server = chat_server(lambda request, count: server.says("hi"))
    client = endpoint(server, tmp_path)
    client.chat(HELLO)
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()

    def child() -> None:
        there.send([client.chat(HELLO).cached, client.chat(HELLO, seed=1).cached])

    with client._lock:  # as if another thread of ours held it at that moment
        process = fork.Process(target=child)
        process.start()
    assert here.poll(60)
    assert here.recv() == [True, False]
    process.join()
    assert (process.exitcode, client.chat(HELLO, seed=1).cached) == (0, True)
    assert [request.get("seed") for request in server.requests] == [None, 1]
