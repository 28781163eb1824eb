"""Servers that trickle, flood, lie and echo: every failure has a kind, a deadline and a limit, and names no key.

Where a limit did not hold these tests would not end: the servers send until the client leaves.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import gzip
import itertools
import json
import resource
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chat_server import ChatServer

from harness.endpoint import BudgetSpentError, Endpoint, EndpointCallError
from harness.endpoint.masking import Masker, shown_address
from harness.endpoint.transport import LARGEST_REPLY, retry_after

HELLO = [{"role": "user", "content": "hello"}]
KEY = 'sk-proj-Ab1/+"ü-0123456789'
Serve = Callable[..., ChatServer]


def endpoint(server: ChatServer, **options: Any) -> Endpoint:
    settings = {"base_url": server.url, "api_key": "k", "backoff_s": 0.0, "timeout_s": 20.0, **options}
    return Endpoint("m", **settings)


def failure(client: Endpoint, **params: Any) -> EndpointCallError:
    with pytest.raises(EndpointCallError) as caught:
        client.chat(HELLO, **params)
    client.close()
    return caught.value


def trickle() -> Iterator[bytes]:
    for _ in itertools.count():
        time.sleep(0.02)
        yield b" "


# ---------------------------------------------------------------- deadlines


@pytest.mark.parametrize("status", [200, 400, 500, 302])
def test_the_deadline_holds_for_a_body_that_trickles(chat_server: Serve, status: int) -> None:
    server = chat_server(lambda request, count: (status, trickle(), {"Location": "/v1/elsewhere"}))
    error = failure(endpoint(server, timeout_s=0.3, attempts=2))
    assert (error.kind, len(server.requests)) == ("timeout", 2)


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accepts connections and leaves everything else to `answer`; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def drip_headers(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def continue_for_ever(connection: socket.socket) -> None:
    connection.recv(65536)
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.01)


def read_nothing(connection: socket.socket) -> None:
    time.sleep(1.0)


@pytest.mark.parametrize("answer", [drip_headers, continue_for_ever, read_nothing])
def test_the_deadline_holds_before_there_is_a_body(answer: Callable[[socket.socket], None]) -> None:
    with raw_server(answer) as address:
        client = Endpoint("m", base_url=address, api_key="k", timeout_s=0.3, attempts=2, backoff_s=0.0)
        with pytest.raises(EndpointCallError) as caught:
            client.chat([{"role": "user", "content": "x" * 10_000_000}])
        client.close()
    assert caught.value.kind == "timeout"


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_without_end_is_garbage(chat_server: Serve, status: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    server = chat_server(lambda request, count: (status, itertools.repeat(b"x" * 65536)))
    error = failure(endpoint(server))
    assert (error.kind, len(server.requests)) == ("garbage", 1)
    assert str(LARGEST_REPLY) in str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 10 * LARGEST_REPLY  # the reply, its copies, and the server's own buffers


@pytest.mark.parametrize("status", [200, 400])
def test_a_small_body_that_inflates_without_end_is_garbage(chat_server: Serve, status: int) -> None:
    bomb = gzip.compress(b" " * (4 * LARGEST_REPLY), 9)
    server = chat_server(lambda request, count: (status, [bomb], {"Content-Encoding": "gzip"}))
    error = failure(endpoint(server))
    assert (error.kind, str(LARGEST_REPLY) in str(error)) == ("garbage", True)


def test_compressed_replies_are_read(chat_server: Serve) -> None:
    body = gzip.compress(ChatServer.says("small")[1].encode())
    server = chat_server(lambda request, count: (200, [body], {"Content-Encoding": "gzip"}))
    client = endpoint(server)
    assert client.chat(HELLO).text == "small"
    client.close()
    broken = chat_server(lambda request, count: (200, [b"no gzip"], {"Content-Encoding": "gzip"}))
    assert failure(endpoint(broken)).kind == "garbage"


# ---------------------------------------------------------------- odd numbers and shapes


@pytest.mark.parametrize("count", ["1e999", "-1e999", "NaN", "-5", "10.5", "true", "1e17", "9" * 400, '"11"', "[1]"])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_counts_that_are_none_are_garbage_and_give_no_budget_back(chat_server: Serve, name: str, count: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": "hi"}}}}], "usage": {{"{name}": {count}}}}}'
    server = chat_server(lambda request, count: (200, body) if count == 2 else server.says("hi"))
    client = endpoint(server, max_tokens_total=18)
    client.chat(HELLO)
    assert client.tokens == 18
    with pytest.raises(BudgetSpentError):
        client.chat(HELLO)
    error = failure(endpoint(server))
    assert (error.kind, name in str(error)) == ("garbage", True)


def test_whole_numbers_written_as_fractions_are_counts(chat_server: Serve) -> None:
    body = '{"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 11.0, "completion_tokens": 7}}'
    client = endpoint(chat_server(lambda request, count: (200, body)))
    assert (client.chat(HELLO).prompt_tokens, client.tokens) == (11, 18)


SHAPES: dict[str, str] = {
    "deep": '{"choices": [{"message": {"content": ' + "[" * 5_000 + "]" * 5_000 + "}}]}",
    "deep arguments": '{"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '
    + "[" * 900 + "]" * 900 + '}}, {"function": 3}]}}]}',
    "a number of 10,000 digits": '{"choices": [{"message": {"content": ' + "9" * 10_000 + "}}]}",
    "a finish reason": '{"choices": [{"finish_reason": 5, "message": {"content": "x"}}]}',
    "a refusal": '{"choices": [{"message": {"content": null, "refusal": ["no"]}}]}',
    "parts": '{"choices": [{"message": {"content": [{"type": "text", "text": "x"}]}}]}',
    "a stream": "data: {}\n\n",
    "half a surrogate pair": '{"choices": "\\ud800"}',
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("status", [200, 422])
def test_odd_shapes_have_a_kind(chat_server: Serve, shape: str, status: int) -> None:
    error = failure(endpoint(chat_server(lambda request, count: (status, SHAPES[shape]))))
    assert error.kind == {200: "garbage", 422: "status"}[status]
    assert len(str(error)) < 500
    str(error).encode()


@pytest.mark.parametrize("params", [{"seed": float("nan")}, {"stop": "\ud800"}, {"tools": [object()]}, {"no_such": 1}])
def test_a_request_that_cannot_be_sent_has_a_kind(chat_server: Serve, params: dict[str, Any]) -> None:
    server = chat_server(lambda request, count: server.says("hi"))
    assert failure(endpoint(server), **params).kind == "request"
    assert server.requests == []


# ---------------------------------------------------------------- Retry-After


@pytest.mark.parametrize(
    "given", ["nan", "-3", "soon", "", "Wed, 99 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 1000000 07:28"]
)
def test_a_wait_that_is_none_is_no_wait(chat_server: Serve, given: str) -> None:
    server = chat_server(
        lambda request, count: (503, "{}", {"Retry-After": given}) if count == 1 else server.says("ok")
    )
    client = endpoint(server)
    assert client.chat(HELLO).text == "ok"
    client.close()


def test_waits_are_seconds_or_a_date() -> None:
    now = time.time()
    later = retry_after({"retry-after": email.utils.formatdate(now + 100, usegmt=True)})
    assert later is not None
    assert 0 < later <= 100
    assert retry_after({"retry-after": email.utils.formatdate(now - 100, usegmt=True)}) == 0
    assert [retry_after({"retry-after": given}) for given in ("2.5", "-1", "nan", "1e999", "x")] == [
        2.5, 0.0, None, float("inf"), None,
    ]  # fmt: skip
    assert retry_after({}) is None


def test_a_date_is_waited_for(chat_server: Serve) -> None:
    until = float(int(time.time()) + 2)
    date = email.utils.formatdate(until, usegmt=True)
    server = chat_server(lambda request, count: (429, "{}", {"Retry-After": date}) if count == 1 else server.says("ok"))
    client = endpoint(server)
    assert client.chat(HELLO).text == "ok"
    assert time.time() >= until
    client.close()


# ---------------------------------------------------------------- what a completion says of itself


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls", None])
def test_why_a_completion_ended_is_on_the_reply(chat_server: Serve, reason: str | None) -> None:
    client = endpoint(chat_server(lambda request, count: ChatServer.says("half a", finish_reason=reason)))
    reply = client.chat(HELLO)
    assert (reply.text, reply.finish_reason, reply.refusal) == ("half a", reason or "", None)


def test_a_refusal_and_text_beside_a_call_are_on_the_reply(chat_server: Serve) -> None:
    refused = {"message": {"content": None, "refusal": "I will not."}}
    server = chat_server(
        lambda request, count: (
            ChatServer.says(None, **refused) if count == 1 else ChatServer.says("Let me see.", [("f", "{}")])
        )
    )
    client = endpoint(server)
    first, second = client.chat(HELLO), client.chat(HELLO)
    assert (first.text, first.refusal) == ("", "I will not.")
    assert (second.text, second.tool_calls) == ("Let me see.", ({"name": "f", "arguments": "{}"},))


# ---------------------------------------------------------------- keys


def shown(error: BaseException) -> str:
    return str(error) + "".join(traceback.format_exception(error))


ECHOES: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "JSON": lambda key: json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}}),
    "JSON, unescaped": lambda key: json.dumps({"error": {"message": key}}, ensure_ascii=False),
    "every letter escaped": lambda key: '{"error": {"message": "' + "".join(f"\\u{ord(c):04x}" for c in key) + '"}',
    "far in": lambda key: "x" * 290 + key + "x" * 50,
    "again and again": lambda key: key * 200,
    "capitals": lambda key: key.upper(),
    "a header": lambda key: f"<html>Authorization: Bearer {key}</html>",
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_is_echoed_is_masked(chat_server: Serve, echo: str, status: int) -> None:
    key = "sk-proj-Ab1/+~0123456789"
    server = chat_server(lambda request, count: (status, ECHOES[echo](key)))
    said = shown(failure(endpoint(server, api_key=key, attempts=2))).lower()
    assert "***" in said
    for piece in (key[:12], key[-10:], key[4:14]):
        assert piece.lower() not in said


@pytest.mark.parametrize("listening", [True, False])
def test_a_key_in_the_address_is_masked(chat_server: Serve, listening: bool) -> None:
    server = chat_server(lambda request, count: (401, json.dumps(server.headers[-1]), {}))
    place = server.url.removeprefix("http://").removesuffix("/v1")
    if not listening:
        server.stop()
    for address in (f"http://somebody:geheim77@{place}/v1", f"http://geheim77@{place}/v1",
                    f"http://{place}/v1?key=geheim77", f"http://{place}/sk-geheim77-0123456789abcdef/v1"):  # fmt: skip
        said = shown(failure(endpoint(server, base_url=address, attempts=2)))
        assert "geheim77" not in said
        assert base64.b64encode(b"somebody:geheim77").decode() not in said
        assert listening or place in said  # the rest of the address helps


def test_addresses_and_keys_that_cannot_be_used_are_masked(chat_server: Serve) -> None:
    server = chat_server(lambda request, count: server.says("hi"))
    for address, key in (("http://me:geheim77@[bad/v1", "k"), ("http://me:p@ge:heim77/v1", "k"),
                         (server.url, "geheim77\n"), (server.url, "geheim77ü"),
                         ("gopher://geheim77@x/v1", "k")):  # fmt: skip
        error = failure(endpoint(server, base_url=address, api_key=key, attempts=1))
        assert error.kind in ("connection", "request")
        assert "geheim77" not in shown(error)
        assert "heim77" not in shown(error)


def test_the_key_from_the_environment_is_masked(chat_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = chat_server(lambda request, count: (401, server.headers[-1]["authorization"]))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-outside")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert "sk-from" not in shown(failure(Endpoint("m")))


def test_masks_by_hand() -> None:
    mask = Masker(KEY, "none", None, "")
    assert mask(f"a {KEY} b none c nonetheless") == "a *** b *** c nonetheless"
    assert mask(json.dumps(KEY)) == '"***"'
    assert mask(repr({"key": KEY})) == "{'key': '***'}"
    assert Masker("")("nothing to mask") == "nothing to mask"
    assert shown_address("https://u:p@[::1]:80/a/b?c=d#e") == "https://[::1]:80/a/b"
    assert shown_address("http://h/sk-0123456789abcdefghij/v1") == "http://h/***/v1"
    assert shown_address("http://[") == "an address that is no URL"
