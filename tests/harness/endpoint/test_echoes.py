"""What a server puts into a well-formed reply goes into records and caches: no key of ours may be among it, and what
is wrong with the reply is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from hypothesis import given
from hypothesis import strategies as st

from harness.endpoint import Endpoint, EndpointCallError, Reply
from harness.endpoint.masking import LOOKED_AT, Masker
from harness.endpoint.replies import LONGEST_TOKEN

Serve = Callable[..., ChatServer]
HELLO = [{"role": "user", "content": "hello"}]
KEY = "sk-proj-Ab1/+~0123456789"


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


ECHOES: dict[str, Any] = {
    "text": ChatServer.says(f"Your key is {KEY}, is it not?"),
    "capitals": ChatServer.says(KEY.upper()),
    "a call": ChatServer.says(None, [("f", json.dumps({"key": KEY}))]),
    "a call, escaped": ChatServer.says(None, [("f", f'{{"key": "{escaped(KEY)}"}}')]),
    "a call's name": ChatServer.says(None, [(KEY, "{}")]),
    "a refusal": ChatServer.says(None, message={"content": None, "refusal": f"Not for {KEY}."}),
    "a reason": ChatServer.says("x", finish_reason=KEY),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_in_a_reply_reaches_neither_the_caller_nor_the_cache(
    chat_server: Serve, tmp_path: Path, echo: str
) -> None:
    server = chat_server(lambda request, count: ECHOES[echo])
    client = Endpoint("m", base_url=server.url, api_key=KEY, cache=tmp_path)
    replies = [client.chat(HELLO), client.chat(HELLO)]
    client.close()
    assert [reply.cached for reply in replies] == [False, True]
    for said in (repr(replies), everything(tmp_path).decode("latin-1")):
        assert "***" in said
        assert KEY.lower() not in said.lower()
        assert escaped(KEY) not in said


@pytest.mark.parametrize("place", ["extra_headers", "extra_query"])
def test_keys_beside_a_request_are_sent_and_written_nowhere(chat_server: Serve, tmp_path: Path, place: str) -> None:
    asked = {place: {"X-Api-Key": "Bearer geheim77-0123", "X-Version": "2024-06-01"}}
    server = chat_server(
        lambda request, count: server.says("on 2024-06-01: geheim77-0123") if count == 1 else (401, "geheim77-0123")
    )
    client = Endpoint("m", base_url=server.url, api_key=KEY, cache=tmp_path)
    assert client.chat(HELLO, **asked).text == "on 2024-06-01: ***"
    with pytest.raises(EndpointCallError) as caught:
        client.chat([*HELLO, *HELLO], **asked)
    client.close()
    assert "***" in str(caught.value)
    assert "geheim77" not in str(caught.value)
    assert b"geheim77" not in everything(tmp_path)
    if place == "extra_headers":
        assert server.headers[0]["x-api-key"] == "Bearer geheim77-0123"


def test_words_of_a_model_are_left_alone() -> None:
    mask = Masker("none", "EMPTY", address="http://somebody:geheim77@host/v1?api-version=2024-06-01&key=geheim99")
    text = 'somebody said "none" \\u0041 on 2024-06-01, which is EMPTY'
    assert mask.words(text) == text
    assert mask.words("geheim77 and geheim99") == "*** and ***"
    assert mask("somebody 2024-06-01 none") == "*** *** ***"


@given(st.text(max_size=50), st.text(max_size=50))
def test_of_any_words_only_the_key_is_taken_out(before: str, after: str) -> None:
    assert Masker(KEY).words(before + after) == before + after  # fifty characters hold no key by chance
    assert Masker(KEY).words(before + KEY + after) == before + "***" + after


@pytest.mark.parametrize("unit", [KEY, escaped(KEY), "x" * 301 + KEY, "\\u0041", "\\/"])
def test_an_excerpt_of_a_long_text_shows_no_half_key(unit: str) -> None:
    for shift in range(0, len(unit), 7):
        shown = Masker(KEY).excerpt("y" * shift + unit * (LOOKED_AT // len(unit) + 3))
        assert len(shown) <= 300
        assert KEY[:6] not in shown


# ---------------------------------------------------------------- what is wrong with a reply


@pytest.mark.parametrize(
    ("said", "troubles"),
    [
        (ChatServer.says("whole", finish_reason="stop"), ()),
        (ChatServer.says("half a", finish_reason="length"), ("truncated",)),
        (ChatServer.says("half a", finish_reason="content_filter"), ("filtered",)),
        (ChatServer.says(None, message={"content": None, "refusal": "No."}), ("refused",)),
        (ChatServer.says(None, message={"content": "", "refusal": ""}), ()),
        (ChatServer.says(None, finish_reason="length", message={"refusal": "I can"}), ("truncated", "refused")),
        (ChatServer.says(None, [("f", '{"a": ')], finish_reason="length"), ("truncated",)),
    ],
)
def test_troubles_are_typed_and_counted(
    chat_server: Serve, tmp_path: Path, said: Any, troubles: tuple[str, ...]
) -> None:
    client = Endpoint("m", base_url=chat_server(lambda *_: said).url, api_key="k", cache=tmp_path)
    assert client.chat(HELLO).troubles == client.chat(HELLO).troubles == troubles
    client.close()
    # the second came from the cache: what was wrong with it is said again and counted once
    assert client.troubles == {name: int(name in troubles) for name in ("truncated", "filtered", "refused")}


@pytest.mark.parametrize("half", ["\ud83d", "a\ud800b"])
def test_half_a_character_can_be_sent_back(chat_server: Serve, half: str) -> None:
    server = chat_server(lambda request, count: server.says(half, [(half, half)]))
    client = Endpoint("m", base_url=server.url, api_key="k")
    reply = client.chat(HELLO)
    client.chat([{"role": "assistant", "content": reply.text}, *HELLO])
    client.close()
    expected = half.encode("utf-8", "replace").decode()
    assert reply == Reply(expected, ({"name": expected, "arguments": expected},), 11, 7)
    assert server.requests[1]["messages"][0]["content"] == expected


def test_a_count_too_small_for_the_text_gives_no_budget_back(chat_server: Serve) -> None:
    # 100 tokens of the longest kind, claimed to be one; the prompt, 39 characters as JSON, may be one.
    text = "x" * (100 * LONGEST_TOKEN)
    body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    client = Endpoint("m", base_url=chat_server(lambda *_: (200, json.dumps(body))).url, api_key="k")
    reply = client.chat(HELLO)
    client.close()
    assert (reply.prompt_tokens, reply.completion_tokens, client.tokens) == (1, 100, 101)
