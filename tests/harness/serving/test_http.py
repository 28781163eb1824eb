"""What a client can do to the server over real HTTP: hang up, flood, send odd values, pose as a web page."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.backends import Completion, Prompt, SamplingParams
from harness.backends.torch import TorchBackend
from harness.core.errors import UserError
from harness.serving.app import LARGEST_BODY
from harness.serving.server import ModelServer

ASK = [{"role": "user", "content": "3 + 5"}]
BODY = {"model": "tiny", "messages": ASK, "max_tokens": 4, "seed": 5}


class Watched(TorchBackend):
    """Takes a while over each batch, and longer where `held` says so."""

    held: threading.Event | None = None

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        time.sleep(0.05)
        if self.held is not None:
            assert self.held.wait(30)
        return super().sample(prompts, params)


@pytest.fixture
def server(tiny_directory: Path) -> Iterator[ModelServer]:
    with ModelServer(Watched(tiny_directory, dtype="float64", device="cpu"), "tiny", batch=8) as started:
        yield started


def place(server: ModelServer) -> tuple[str, int]:
    host, port = server.url[len("http://") : -len("/v1")].split(":")
    return host, int(port)


def post(server: ModelServer, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*place(server), timeout=60)
    try:
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request("POST", "/v1/chat/completions", raw, headers or {}, encode_chunked=not hasattr(raw, "find"))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def start_and_leave(server: ModelServer, body: dict[str, Any], batches: int) -> None:
    """Ask, wait until that many batches have begun, and hang up."""
    raw = json.dumps(body).encode()
    with socket.create_connection(place(server)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
        client.sendall(head.encode() + raw)
        while len(server.batcher.batches) < batches:
            time.sleep(0.01)


# ---------------------------------------------------------------- hanging up


def test_a_client_that_hangs_up_stops_its_work(server: ModelServer) -> None:
    start_and_leave(server, BODY | {"n": 128}, batches=1)
    status, _ = post(server, BODY)  # first come first served: answered when the other is done or dropped
    assert status == 200
    assert sum(server.batcher.batches) < 128


def test_a_client_that_hangs_up_takes_its_waiting_work_along(server: ModelServer) -> None:
    assert isinstance(server.backend, Watched)
    server.backend.held = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(post, server, BODY)
        while not server.batcher.batches:
            time.sleep(0.01)
        start_and_leave(server, BODY | {"n": 7}, batches=1)
        time.sleep(0.5)  # for the hanging up to arrive
        server.backend.held.set()
        assert first.result()[0] == 200
    assert post(server, BODY)[0] == 200
    assert server.batcher.batches == [1, 1]


def test_many_choices_are_computed_in_batches_and_equal_those_of_one(server: ModelServer, tiny_directory: Path) -> None:
    status, body = post(server, BODY | {"n": 20})
    assert (status, server.batcher.batches) == (200, [8, 8, 4])
    with ModelServer(TorchBackend(tiny_directory, dtype="float64", device="cpu"), "tiny", batch=64) as large:
        assert post(large, BODY | {"n": 20})[1]["choices"] == body["choices"]
        assert large.batcher.batches == [20]


def test_closing_ends_what_is_under_way_and_refuses_the_rest(tiny_directory: Path) -> None:
    server = ModelServer(Watched(tiny_directory, device="cpu"), "tiny", batch=8)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(post, server, BODY)
        while not server.batcher.batches:
            time.sleep(0.01)
        server.close()
        assert asked.result()[0] == 200
    with pytest.raises(ConnectionRefusedError):
        post(server, BODY)
    with pytest.raises(RuntimeError, match="closing"):
        server.batcher.ask([Prompt((1, 2))], SamplingParams(1))
    server.close()


# ---------------------------------------------------------------- bodies


def chunks(count: int, size: int = 1 << 20) -> Iterator[bytes]:
    yield json.dumps(BODY).encode()
    for _ in range(count):
        yield b" " * size


def test_bodies_in_chunks_are_read_up_to_the_limit(server: ModelServer) -> None:
    assert post(server, chunks(3))[1]["choices"] == post(server, BODY)[1]["choices"]
    status, body = post(server, chunks(LARGEST_BODY >> 20))
    assert (status, body["error"]["type"]) == (413, "invalid_request_error")


@pytest.mark.parametrize("size", [LARGEST_BODY + 1, 5 * LARGEST_BODY])
def test_a_body_over_the_limit_has_its_answer_though_it_is_sent_to_the_end(server: ModelServer, size: int) -> None:
    assert post(server, b" " * size)[0] == 413
    assert post(server, BODY)[0] == 200


def test_what_is_no_http_has_the_error_object_too(server: ModelServer) -> None:
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for sent, status in ((b"hello\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 400),
                         (chunked + b"x\r\n", 400),
                         (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 411)):  # fmt: skip
        with socket.create_connection(place(server)) as client:
            client.sendall(sent)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert (answer.status, set(json.loads(answer.read())["error"])) == (
                status,
                {"message", "type", "param", "code"},
            )
    assert post(server, BODY)[0] == 200


CALL = {"id": "c", "function": {"name": "look", "arguments": '{"n": "\\ud800"}'}}
HALVES: dict[str, dict[str, Any]] = {
    "content": {"messages": [{"role": "user", "content": "half \ud83d"}]},
    "a part": {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udc99"}]}]},
    "arguments": {"messages": [*ASK, {"role": "assistant", "tool_calls": [CALL]}]},
}


@pytest.mark.parametrize("case", HALVES)
def test_half_a_surrogate_pair_is_the_clients_mistake(server: ModelServer, case: str) -> None:
    status, body = post(server, BODY | HALVES[case])
    assert (status, body["error"]["param"]) == (400, "messages")
    assert "surrogate" in body["error"]["message"]
    assert post(server, BODY)[0] == 200


def test_names_with_half_a_surrogate_pair_can_be_quoted(server: ModelServer) -> None:
    assert post(server, BODY | {"model": "\ud83d"})[0] == 404
    assert post(server, BODY | {"\ud83d": 1})[0] == 400


@pytest.mark.parametrize("top_p", [1e-50, 5e-324, 1e-7])
def test_the_smallest_nucleus_is_the_likeliest_token(server: ModelServer, top_p: float) -> None:
    likeliest = post(server, BODY | {"temperature": 0})[1]["choices"][0]["token_ids"]
    assert post(server, BODY | {"top_p": top_p})[1]["choices"][0]["token_ids"] == likeliest


@pytest.mark.parametrize("odd", ['"temperature": NaN', '"top_p": Infinity', '"seed": 1e999', '"max_tokens": 1e30',
                                 '"messages": ' + "[" * 900 + "]" * 900, '"n": ' + "9" * 5000])  # fmt: skip
def test_odd_numbers_and_shapes_are_the_clients_mistake(server: ModelServer, odd: str) -> None:
    name = odd.split('"')[1]
    rest = json.dumps({key: value for key, value in BODY.items() if key != name})
    status, _ = post(server, f"{rest[:-1]}, {odd}}}".encode())
    assert status == 400


# ---------------------------------------------------------------- web pages


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.nip.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://192.168.0.1"}, 403),
    ],
)
def test_on_the_loopback_only_this_machine_is_served(server: ModelServer, headers: dict[str, str], status: int) -> None:
    found, body = post(server, BODY, headers)
    assert found == status
    assert status == 200 or "loopback" in body["error"]["message"]


def test_an_address_that_others_can_reach_serves_any_name(tiny_directory: Path) -> None:
    with ModelServer(TorchBackend(tiny_directory, device="cpu"), "tiny", host="0.0.0.0") as server:
        assert post(server, BODY, {"Host": "machine.example"})[0] == 200


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 99_999), ("a" * 300, 0)])
def test_addresses_that_cannot_be_bound(tiny_directory: Path, host: str, port: int) -> None:
    with pytest.raises(UserError, match=r"cannot listen on .*--port"):
        ModelServer(TorchBackend(tiny_directory, device="cpu"), "tiny", host=host, port=port)


# ---------------------------------------------------------------- importing


def test_help_does_not_load_the_server() -> None:
    code = (
        "import sys; sys.argv = ['harness', '--help']\n"
        "from harness.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "loaded = {'starlette', 'uvicorn', 'tenacity', 'diskcache', 'openai'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
